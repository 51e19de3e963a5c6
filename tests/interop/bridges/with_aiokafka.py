"""The bridge to aiokafka: an event loop in a thread of its own, a task a consumer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.structs import OffsetAndMetadata

from tests.interop.bridges.face import Absent, Client, Refused, Wire, as_wire, headers_of, unpacked
from tests.interop.bridges.serving import serve

STRATEGIES = {"range": RangePartitionAssignor, "roundrobin": RoundRobinPartitionAssignor, "sticky": StickyPartitionAssignor}
POLL_MS = 100
ANSWER_TIMEOUT_S = 80.0


class _Reader:
    """A consumer, the task that polls it, and what was read."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self.consumer = consumer
        self.read: list[Wire] = []
        self.assignments = 0
        self.task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        while True:
            for batch in (await self.consumer.getmany(timeout_ms=POLL_MS)).values():
                self.read += [
                    as_wire(
                        key=one.key, value=one.value, headers=one.headers, timestamp_ms=one.timestamp,
                        topic=one.topic, partition=one.partition, offset=one.offset,
                    )
                    for one in batch
                ]  # fmt: skip


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, reader: _Reader) -> None:
        self._reader = reader

    def on_partitions_revoked(self, revoked: Any) -> None:
        """Nothing is kept."""

    def on_partitions_assigned(self, assigned: Any) -> None:
        self._reader.assignments += 1


class AioKafka(Client):
    """aiokafka."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._producers: dict[str, AIOKafkaProducer] = {}
        self._readers: dict[str, _Reader] = {}
        self._opened_admin: AIOKafkaAdminClient | None = None

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(ANSWER_TIMEOUT_S)

    def _ask(self, call: str, *args: Any) -> Any:
        return self._run(self._administer(call, *args))

    async def _administer(self, call: str, *args: Any) -> Any:
        if self._opened_admin is None:
            self._opened_admin = AIOKafkaAdminClient(bootstrap_servers=self._address)
            await self._opened_admin.start()
        function = getattr(self._opened_admin, call, None)
        if function is None:
            raise Absent(f"no {call}")
        return await function(*args)

    def producer_open(self, name: str, **options: Any) -> None:
        async def opened() -> AIOKafkaProducer:
            acks, codec = options.get("acks", "all"), options.get("codec", "none")
            wanted: dict[str, Any] = {
                "acks": acks if acks == "all" else int(acks),
                "compression_type": None if codec == "none" else codec,
                "enable_idempotence": bool(options.get("idempotent")),
                "linger_ms": 5,
            }
            if size := options.get("request_bytes_max"):
                wanted["max_request_size"] = size
            producer = AIOKafkaProducer(bootstrap_servers=self._address, **wanted)
            await producer.start()
            return producer

        self._producers[name] = self._run(opened())

    def producer_send(self, name: str, topic: str, records: list[Wire]) -> list[list[int]]:
        async def send() -> list[list[int]]:
            futures = [
                await self._producers[name].send(
                    topic, value=unpacked(one["v"]), key=unpacked(one["k"]), headers=headers_of(one),
                    partition=one.get("p"), timestamp_ms=one.get("t"),
                )
                for one in records
            ]  # fmt: skip
            found = await asyncio.gather(*futures)
            return [[-1, -1] if one is None else [one.partition, one.offset] for one in found]

        return self._run(send())  # type: ignore[no-any-return]

    def producer_close(self, name: str) -> None:
        self._run(self._producers.pop(name).stop())

    def consumer_open(self, name: str, **options: Any) -> None:
        wanted: dict[str, Any] = {
            "group_id": options.get("group"),
            "enable_auto_commit": bool(options.get("auto_commit")),
            "auto_offset_reset": "earliest",
            "session_timeout_ms": 10_000,
            "heartbeat_interval_ms": 500,
            "max_partition_fetch_bytes": 4_000_000,
        }
        if strategy := options.get("strategy"):
            if strategy not in STRATEGIES:
                raise Absent(f"no {strategy} assignor")
            wanted["partition_assignment_strategy"] = [
                type("Own", (STRATEGIES[strategy],), {})
            ]  # the sticky one keeps state in its class
        if instance := options.get("instance"):
            wanted["group_instance_id"] = instance

        async def opened() -> _Reader:
            consumer = AIOKafkaConsumer(bootstrap_servers=self._address, **wanted)
            reader = _Reader(consumer)
            if topics := options.get("topics"):
                consumer.subscribe(topics, listener=_Listener(reader))
                await consumer.start()
            else:
                places = [TopicPartition(*place) for place in options["assign"]]
                consumer.assign(places)
                await consumer.start()
                await _start(consumer, places, options.get("start") or ["earliest"])
            reader.task = self._loop.create_task(reader.run())
            return reader

        self._readers[name] = self._run(opened())

    def consumer_assigned(self, name: str) -> list[list[Any]]:
        return [list(place) for place in self._readers[name].consumer.assignment()]

    def consumer_assignments(self, name: str) -> int:
        return self._readers[name].assignments

    def consumer_take(self, name: str) -> list[Wire]:
        async def take() -> list[Wire]:
            reader = self._readers[name]
            if reader.task is not None and reader.task.done():
                reader.task.result()
            taken, reader.read = reader.read, []
            return taken

        return self._run(take())  # type: ignore[no-any-return]

    def consumer_commit(self, name: str, offsets: list[list[Any]]) -> None:
        wanted = {
            TopicPartition(topic, partition): OffsetAndMetadata(offset, metadata or "")
            for topic, partition, offset, metadata in offsets
        }
        self._run(self._readers[name].consumer.commit(wanted))

    def consumer_committed(self, name: str, partitions: list[list[Any]]) -> list[list[Any]]:
        consumer = self._readers[name].consumer
        found = [self._run(consumer.committed(TopicPartition(*place))) for place in partitions]
        return [[*place, offset, None] for place, offset in zip(partitions, found, strict=True)]

    def consumer_seek(self, name: str, topic: str, partition: int, offset: int) -> None:
        async def seek() -> None:
            self._readers[name].consumer.seek(TopicPartition(topic, partition), offset)

        self._run(seek())

    def consumer_close(self, name: str) -> list[Wire]:
        async def close(reader: _Reader) -> list[Wire]:
            if reader.task is not None:
                reader.task.cancel()
            await reader.consumer.stop()
            return reader.read

        return self._run(close(self._readers.pop(name)))  # type: ignore[no-any-return]

    def topic_create(self, topic: str, partitions: int, replicas: int, configs: dict[str, str]) -> None:
        wanted = NewTopic(topic, partitions, replicas, topic_configs=configs)
        _check(self._ask("create_topics", [wanted]).topic_errors)

    def topic_delete(self, topic: str) -> None:
        _check(self._ask("delete_topics", [topic]).topic_error_codes)

    def topic_list(self) -> list[str]:
        return list(self._ask("list_topics"))

    def topic_describe(self, topic: str) -> list[Wire]:
        [found] = self._ask("describe_topics", [topic])
        if found["error_code"]:
            raise Refused(found["error_code"], f"describe_topics: {found}")
        names = ("partition", "leader", "replicas", "isr")
        return sorted(({name: one[name] for name in names} for one in found["partitions"]), key=lambda row: row["partition"])

    def topic_grow(self, topic: str, partitions: int) -> None:
        _check(self._ask("create_partitions", {topic: NewPartitions(partitions)}).topic_errors)

    def config_describe(self, topic: str) -> dict[str, str | None]:
        [answer] = self._ask("describe_configs", [ConfigResource(ConfigResourceType.TOPIC, topic)])
        [(code, text, _kind, _name, entries)] = answer.resources
        if code:
            raise Refused(code, text)
        return {entry[0]: entry[1] for entry in entries}

    def config_alter(self, topic: str, configs: dict[str, str]) -> None:
        for answer in self._ask("alter_configs", [ConfigResource(ConfigResourceType.TOPIC, topic, configs=configs)]):
            for code, text, *_ in answer.resources:
                if code:
                    raise Refused(code, text)

    def records_delete(self, topic: str, partition: int, offset: int) -> None:
        try:
            from aiokafka.admin import RecordsToDelete
        except ImportError:
            raise Absent("records cannot be deleted") from None
        self._ask("delete_records", {TopicPartition(topic, partition): RecordsToDelete(before_offset=offset)})

    def offsets(self, topic: str, partition: int) -> list[int]:
        place = TopicPartition(topic, partition)

        async def ask(consumer: AIOKafkaConsumer) -> list[int]:
            return [(await consumer.beginning_offsets([place]))[place], (await consumer.end_offsets([place]))[place]]

        return self._run(self._with_consumer(ask))  # type: ignore[no-any-return]

    def offset_at(self, topic: str, partition: int, timestamp_ms: int) -> int | None:
        place = TopicPartition(topic, partition)

        async def ask(consumer: AIOKafkaConsumer) -> int | None:
            found = (await consumer.offsets_for_times({place: timestamp_ms}))[place]
            return found.offset if found else None

        return self._run(self._with_consumer(ask))  # type: ignore[no-any-return]

    async def _with_consumer(self, ask: Any) -> Any:
        consumer = AIOKafkaConsumer(bootstrap_servers=self._address)
        await consumer.start()
        try:
            return await ask(consumer)
        finally:
            await consumer.stop()

    def group_list(self) -> list[str]:
        return [group[0] for group in self._ask("list_consumer_groups")]

    def group_describe(self, group: str) -> Wire:
        [answer] = self._ask("describe_consumer_groups", [group])
        [(code, _group, state, _kind, strategy, members, *_)] = answer.groups
        if code:
            raise Refused(code, f"describe_consumer_groups: {answer}")
        return {"state": state, "strategy": strategy, "members": len(members)}

    def group_offsets(self, group: str) -> list[list[Any]]:
        found = self._ask("list_consumer_group_offsets", group)
        return [[place.topic, place.partition, one.offset, one.metadata] for place, one in found.items()]

    def cluster_describe(self) -> Wire:
        found = self._ask("describe_cluster")
        brokers = [one["node_id"] for one in found["brokers"]]
        return {"brokers": brokers, "controller": found.get("controller_id"), "cluster": found.get("cluster_id")}

    def close(self) -> None:
        for name in list(self._readers):
            self.consumer_close(name)


async def _start(consumer: AIOKafkaConsumer, places: list[TopicPartition], start: list[Any]) -> None:
    match start:
        case ["earliest"]:
            await consumer.seek_to_beginning(*places)
        case ["latest"]:
            await consumer.seek_to_end(*places)
        case ["offset", number]:
            for place in places:
                consumer.seek(place, number)
        case ["time", timestamp_ms]:
            for place, found in (await consumer.offsets_for_times(dict.fromkeys(places, timestamp_ms))).items():
                consumer.seek(place, found.offset)


def _check(rows: Any) -> None:
    for _name, code, *text in rows:
        if code:
            raise Refused(code, f"error {code}: {text}")


if __name__ == "__main__":
    serve(AioKafka)
