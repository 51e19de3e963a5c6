"""The bridge to confluent-kafka (librdkafka)."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Producer,
    TopicPartition,
)  # fmt: skip
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)  # fmt: skip

from tests.interop.bridges.consuming import ConsumingThread
from tests.interop.bridges.face import ANSWER_TIMEOUT_S, Absent, Client, Refused, Wire, as_wire, headers_of, unpacked
from tests.interop.bridges.serving import serve

STRATEGIES = ("range", "roundrobin", "cooperative-sticky")
POLL_S = 0.1
CHUNK = 500
TRIES_TIMEOUT_S = 60.0


class Confluent(Client):
    """confluent-kafka."""

    def __init__(self, address: str) -> None:
        self._common = {"bootstrap.servers": address, "socket.timeout.ms": 20_000}
        self._admin = AdminClient(self._common)
        self._producers: dict[str, Producer] = {}
        self._consumers: dict[str, ConsumingThread] = {}

    def producer_open(self, name: str, **options: Any) -> None:
        wanted = {
            **self._common,
            "acks": options.get("acks", "all"),
            "compression.type": options.get("codec", "none"),
            "enable.idempotence": bool(options.get("idempotent")),
            "message.timeout.ms": 60_000 if options.get("patient") else 20_000,
            "linger.ms": 5,
        }
        if size := options.get("request_bytes_max"):
            wanted["message.max.bytes"] = size
        self._producers[name] = Producer(wanted)

    def producer_send(self, name: str, topic: str, records: list[Wire]) -> list[list[int]]:
        producer = self._producers[name]
        placed: list[list[int]] = [[-1, -1]] * len(records)
        failures: list[Any] = []

        def told(number: int, error: Any, message: Any) -> None:
            if error is not None:
                failures.append(error)
            else:
                offset = message.offset()
                placed[number] = [message.partition(), -1 if offset is None else offset]

        for number, record in enumerate(records):
            more: dict[str, Any] = {}
            if record.get("p") is not None:
                more["partition"] = record["p"]
            if record.get("t") is not None:
                more["timestamp"] = record["t"]
            producer.produce(
                topic,
                unpacked(record["v"]),
                unpacked(record["k"]),
                headers=headers_of(record) or None,
                on_delivery=lambda error, message, number=number: told(number, error, message),
                **more,
            )
        if left := producer.flush(TRIES_TIMEOUT_S):
            raise Refused(None, f"{left} records were not delivered")
        if failures:
            raise Refused(failures[0].code(), failures[0].str())
        return placed

    def producer_close(self, name: str) -> None:
        self._producers.pop(name).flush(ANSWER_TIMEOUT_S)

    def consumer_open(self, name: str, **options: Any) -> None:
        wanted = {
            **self._common,
            "group.id": options.get("group") or f"unused-{name}",
            "enable.auto.commit": bool(options.get("auto_commit")),
            "auto.offset.reset": "earliest",
            "session.timeout.ms": 10_000,
            "heartbeat.interval.ms": 500,
            "fetch.message.max.bytes": 4_000_000,
        }
        if strategy := options.get("strategy"):
            if strategy not in STRATEGIES:
                raise Absent(f"no {strategy} assignor")
            wanted["partition.assignment.strategy"] = strategy
        if instance := options.get("instance"):
            wanted["group.instance.id"] = instance

        def opened(thread: ConsumingThread) -> Consumer:
            consumer = Consumer(wanted)

            def assigned(_consumer: Any, _partitions: Any) -> None:
                thread.assignments += 1

            if topics := options.get("topics"):
                consumer.subscribe(topics, on_assign=assigned)
            else:
                start = options.get("start") or ["earliest"]
                consumer.assign([self._placed(consumer, topic, partition, start) for topic, partition in options["assign"]])
            return consumer

        self._consumers[name] = ConsumingThread(opened, _poll, lambda consumer: consumer.close())

    def _placed(self, consumer: Consumer, topic: str, partition: int, start: list[Any]) -> TopicPartition:
        match start:
            case ["earliest"]:
                offset = OFFSET_BEGINNING
            case ["latest"]:
                offset = OFFSET_END
            case ["offset", number]:
                offset = number
            case ["time", timestamp_ms]:
                [found] = consumer.offsets_for_times([TopicPartition(topic, partition, timestamp_ms)], timeout=ANSWER_TIMEOUT_S)
                offset = found.offset
        return TopicPartition(topic, partition, offset)

    def consumer_assigned(self, name: str) -> list[list[Any]]:
        return self._consumers[name].ask(lambda consumer: [[one.topic, one.partition] for one in consumer.assignment()])  # type: ignore[no-any-return]

    def consumer_assignments(self, name: str) -> int:
        return self._consumers[name].assignments

    def consumer_take(self, name: str) -> list[Wire]:
        return self._consumers[name].take()

    def consumer_commit(self, name: str, offsets: list[list[Any]]) -> None:
        wanted = [TopicPartition(topic, partition, offset, metadata or "") for topic, partition, offset, metadata in offsets]
        for one in self._consumers[name].ask(lambda consumer: consumer.commit(offsets=wanted, asynchronous=False)):
            if one.error is not None:
                raise KafkaException(one.error)

    def consumer_committed(self, name: str, partitions: list[list[Any]]) -> list[list[Any]]:
        wanted = [TopicPartition(topic, partition) for topic, partition in partitions]
        found = self._consumers[name].ask(lambda consumer: consumer.committed(wanted, timeout=ANSWER_TIMEOUT_S))
        return [[one.topic, one.partition, one.offset if one.offset >= 0 else None, one.metadata] for one in found]

    def consumer_seek(self, name: str, topic: str, partition: int, offset: int) -> None:
        self._consumers[name].ask(lambda consumer: consumer.seek(TopicPartition(topic, partition, offset)))

    def consumer_close(self, name: str) -> list[Wire]:
        return self._consumers.pop(name).close()

    def topic_create(self, topic: str, partitions: int, replicas: int, configs: dict[str, str]) -> None:
        _all(self._admin.create_topics([NewTopic(topic, num_partitions=partitions, replication_factor=replicas, config=configs)]))

    def topic_delete(self, topic: str) -> None:
        _all(self._admin.delete_topics([topic]))

    def topic_list(self) -> list[str]:
        return list(self._admin.list_topics(timeout=ANSWER_TIMEOUT_S).topics)

    def topic_describe(self, topic: str) -> list[Wire]:
        found = self._admin.list_topics(topic, timeout=ANSWER_TIMEOUT_S).topics[topic]
        if found.error is not None:
            raise KafkaException(found.error)
        return [
            {"partition": number, "leader": one.leader, "replicas": one.replicas, "isr": one.isrs}
            for number, one in sorted(found.partitions.items())
        ]

    def topic_grow(self, topic: str, partitions: int) -> None:
        _all(self._admin.create_partitions([NewPartitions(topic, partitions)]))

    def config_describe(self, topic: str) -> dict[str, str | None]:
        found = _all(self._admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]))
        return {name: entry.value for name, entry in found[0].items()}

    def config_alter(self, topic: str, configs: dict[str, str]) -> None:
        entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in configs.items()]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        _all(self._admin.incremental_alter_configs([resource]))

    def records_delete(self, topic: str, partition: int, offset: int) -> None:
        _all(self._admin.delete_records([TopicPartition(topic, partition, offset)]))

    def offsets(self, topic: str, partition: int) -> list[int]:
        return [self._offset(topic, partition, spec) for spec in (OffsetSpec.earliest(), OffsetSpec.latest())]

    def offset_at(self, topic: str, partition: int, timestamp_ms: int) -> int | None:
        offset = self._offset(topic, partition, OffsetSpec.for_timestamp(timestamp_ms))
        return None if offset < 0 else offset

    def _offset(self, topic: str, partition: int, spec: Any) -> int:
        [found] = _all(self._admin.list_offsets({TopicPartition(topic, partition): spec}))
        return int(found.offset)

    def group_list(self) -> list[str]:
        found = self._admin.list_consumer_groups().result(ANSWER_TIMEOUT_S)
        if found.errors:
            raise found.errors[0]
        return [group.group_id for group in found.valid]

    def group_describe(self, group: str) -> Wire:
        [found] = _all(self._admin.describe_consumer_groups([group]))
        return {"state": found.state.name, "strategy": found.partition_assignor, "members": len(found.members)}

    def group_offsets(self, group: str) -> list[list[Any]]:
        [found] = _all(self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]))
        return [[one.topic, one.partition, one.offset, one.metadata] for one in found.topic_partitions]

    def group_set_offsets(self, group: str, offsets: list[list[Any]]) -> None:
        wanted = [TopicPartition(topic, partition, offset) for topic, partition, offset in offsets]
        [found] = _all(self._admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, wanted)]))
        for one in found.topic_partitions:
            if one.error is not None:
                raise KafkaException(one.error)

    def group_delete(self, group: str) -> None:
        _all(self._admin.delete_consumer_groups([group]))

    def cluster_describe(self) -> Wire:
        found = self._admin.describe_cluster().result(ANSWER_TIMEOUT_S)
        return {
            "brokers": [node.id for node in found.nodes],
            "controller": found.controller.id if found.controller else None,
            "cluster": found.cluster_id,
        }

    def close(self) -> None:
        for name in list(self._consumers):
            self.consumer_close(name)


def _poll(consumer: Consumer) -> list[Wire]:
    records = []
    for message in consumer.consume(CHUNK, POLL_S):
        if message.error() is not None:
            if message.error().retriable():
                continue
            raise KafkaException(message.error())
        kind, timestamp_ms = message.timestamp()
        records.append(
            as_wire(
                key=message.key(), value=message.value(), headers=message.headers(), timestamp_ms=timestamp_ms if kind else None,
                topic=message.topic(), partition=message.partition(), offset=message.offset(),
            )
        )  # fmt: skip
    return records


def _all(futures: dict[Any, Future[Any]]) -> list[Any]:
    """All results, or the first error as the cluster gave it."""
    try:
        return [future.result(ANSWER_TIMEOUT_S) for future in futures.values()]
    except KafkaException as error:
        raise Refused(error.args[0].code(), error.args[0].str()) from error


if __name__ == "__main__":
    serve(Confluent)
