"""The bridge to kafka-python, of 2.0 and of 3.0: where they differ, what this release has is used."""

from __future__ import annotations

import re
import sys
from typing import Any

import kafka
import kafka.errors
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions, NewTopic
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.structs import OffsetAndMetadata

from tests.interop.bridges.consuming import ConsumingThread
from tests.interop.bridges.face import ANSWER_TIMEOUT_S, Absent, Client, Refused, Wire, as_wire, headers_of, unpacked
from tests.interop.bridges.serving import serve

MODERN = int(kafka.__version__.split(".")[0]) >= 3
POLL_MS = 100
TRIES_TIMEOUT_S = 60.0
_STRATEGIES = {
    "range": "kafka.coordinator.assignors.range:RangePartitionAssignor",
    "roundrobin": "kafka.coordinator.assignors.roundrobin:RoundRobinPartitionAssignor",
    "sticky": "kafka.coordinator.assignors.sticky.sticky_assignor:StickyPartitionAssignor",
    "cooperative-sticky": "kafka.coordinator.assignors.cooperative_sticky:CooperativeStickyAssignor",
}


class KafkaPython(Client):
    """kafka-python."""

    null_headers = False
    # A member of 3.0 that is elected leader before it has its topics' metadata stalls until its session ends, at any broker.
    joins_at_once = not MODERN

    def __init__(self, address: str) -> None:
        self._address = address
        self._opened_admin: Any = None
        self._producers: dict[str, Any] = {}
        self._consumers: dict[str, ConsumingThread] = {}

    @property
    def _admin(self) -> Any:
        if self._opened_admin is None:
            self._opened_admin = KafkaAdminClient(bootstrap_servers=self._address)
        return self._opened_admin

    def producer_open(self, name: str, **options: Any) -> None:
        acks, codec = options.get("acks", "all"), options.get("codec", "none")
        if acks == "0" and not MODERN:
            raise Absent("acks=0 leaves what it sends in its own buffer, at any broker")
        wanted: dict[str, Any] = {
            "bootstrap_servers": self._address,
            "acks": acks if acks == "all" else int(acks),
            "compression_type": None if codec == "none" else codec,
            "linger_ms": 5,
            "retries": 100 if options.get("patient") else 3,
        }
        if options.get("patient"):
            wanted["max_in_flight_requests_per_connection"] = 1
        if options.get("idempotent"):
            if not MODERN:
                raise Absent("no idempotent producer")
            wanted["enable_idempotence"] = True
            wanted.pop("retries")
        elif MODERN:
            wanted["enable_idempotence"] = False
        if size := options.get("request_bytes_max"):
            wanted["max_request_size"] = size
        self._producers[name] = KafkaProducer(**wanted)

    def producer_send(self, name: str, topic: str, records: list[Wire]) -> list[list[int]]:
        producer = self._producers[name]
        futures = [
            producer.send(
                topic, value=unpacked(one["v"]), key=unpacked(one["k"]), headers=headers_of(one),
                partition=one.get("p"), timestamp_ms=one.get("t"),
            )
            for one in records
        ]  # fmt: skip
        producer.flush(TRIES_TIMEOUT_S)
        found = [future.get(ANSWER_TIMEOUT_S) for future in futures]
        return [[one.partition, -1 if one.offset is None else one.offset] for one in found]

    def producer_close(self, name: str) -> None:
        self._producers.pop(name).close()

    def consumer_open(self, name: str, **options: Any) -> None:
        wanted: dict[str, Any] = {
            "bootstrap_servers": self._address,
            "group_id": options.get("group"),
            "enable_auto_commit": bool(options.get("auto_commit")),
            "auto_offset_reset": "earliest",
            "session_timeout_ms": 10_000,
            "heartbeat_interval_ms": 500,
            "max_partition_fetch_bytes": 4_000_000,
        }
        if strategy := options.get("strategy"):
            wanted["partition_assignment_strategy"] = [_assignor(strategy)]
        if instance := options.get("instance"):
            if "group_instance_id" not in KafkaConsumer.DEFAULT_CONFIG:
                raise Absent("no static membership")
            wanted["group_instance_id"] = instance

        def opened(thread: ConsumingThread) -> Any:
            consumer = KafkaConsumer(**wanted)
            if topics := options.get("topics"):
                consumer.subscribe(topics, listener=_Listener(thread))
            else:
                places = [TopicPartition(*place) for place in options["assign"]]
                consumer.assign(places)
                _start(consumer, places, options.get("start") or ["earliest"])
            return consumer

        self._consumers[name] = ConsumingThread(opened, _poll, lambda consumer: consumer.close())

    def consumer_assigned(self, name: str) -> list[list[Any]]:
        return self._consumers[name].ask(lambda consumer: [list(place) for place in consumer.assignment()])  # type: ignore[no-any-return]

    def consumer_assignments(self, name: str) -> int:
        return self._consumers[name].assignments

    def consumer_take(self, name: str) -> list[Wire]:
        return self._consumers[name].take()

    def consumer_commit(self, name: str, offsets: list[list[Any]]) -> None:
        wanted = {TopicPartition(topic, partition): _position(offset, metadata) for topic, partition, offset, metadata in offsets}
        self._consumers[name].ask(lambda consumer: consumer.commit(wanted))

    def consumer_committed(self, name: str, partitions: list[list[Any]]) -> list[list[Any]]:
        places = [TopicPartition(*place) for place in partitions]
        found = self._consumers[name].ask(lambda consumer: [consumer.committed(place, metadata=True) for place in places])
        return [
            [*place, one.offset if one else None, one.metadata if one else None] for place, one in zip(places, found, strict=True)
        ]

    def consumer_seek(self, name: str, topic: str, partition: int, offset: int) -> None:
        self._consumers[name].ask(lambda consumer: consumer.seek(TopicPartition(topic, partition), offset))

    def consumer_close(self, name: str) -> list[Wire]:
        return self._consumers.pop(name).close()

    def topic_create(self, topic: str, partitions: int, replicas: int, configs: dict[str, str]) -> None:
        self._admin.create_topics([NewTopic(topic, partitions, replicas, topic_configs=configs)])

    def topic_delete(self, topic: str) -> None:
        self._admin.delete_topics([topic])

    def topic_list(self) -> list[str]:
        return list(self._admin.list_topics())

    def topic_describe(self, topic: str) -> list[Wire]:
        [found] = self._admin.describe_topics([topic])
        if found["error_code"]:
            raise Refused(found["error_code"], f"describe_topics: {found}")
        rows = [
            {
                "partition": one.get("partition", one.get("partition_index")),
                "leader": one.get("leader", one.get("leader_id")),
                "replicas": one.get("replicas", one.get("replica_nodes")),
                "isr": one.get("isr", one.get("isr_nodes")),
            }
            for one in found["partitions"]
        ]
        return sorted(rows, key=lambda row: row["partition"])

    def topic_grow(self, topic: str, partitions: int) -> None:
        self._admin.create_partitions({topic: NewPartitions(partitions)})

    def config_describe(self, topic: str) -> dict[str, str | None]:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        if MODERN:
            found = self._admin.describe_configs([resource], config_filter="all")["topic"][topic]
            return {name: one["value"] if isinstance(one, dict) else one for name, one in found.items()}
        [answer] = self._admin.describe_configs([resource])
        [(code, text, _kind, _name, entries)] = answer.resources
        if code:
            raise Refused(code, text)
        return {entry[0]: entry[1] for entry in entries}

    def config_alter(self, topic: str, configs: dict[str, str]) -> None:
        answer = self._admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=configs)])
        if isinstance(answer, dict):
            _check(answer["topic"])
        for code, text, *_ in getattr(answer, "resources", ()):
            if code:
                raise Refused(code, text)

    def records_delete(self, topic: str, partition: int, offset: int) -> None:
        if not hasattr(self._admin, "delete_records"):
            raise Absent("records cannot be deleted")
        self._admin.delete_records({TopicPartition(topic, partition): offset})

    def offsets(self, topic: str, partition: int) -> list[int]:
        place = TopicPartition(topic, partition)
        with _closing(KafkaConsumer(bootstrap_servers=self._address)) as consumer:
            return [consumer.beginning_offsets([place])[place], consumer.end_offsets([place])[place]]

    def offset_at(self, topic: str, partition: int, timestamp_ms: int) -> int | None:
        place = TopicPartition(topic, partition)
        with _closing(KafkaConsumer(bootstrap_servers=self._address)) as consumer:
            found = consumer.offsets_for_times({place: timestamp_ms})[place]
        return found.offset if found else None

    def group_list(self) -> list[str]:
        if MODERN:
            return [group["group_id"] for group in self._admin.list_groups()]
        return [group for group, _ in self._admin.list_consumer_groups()]

    def group_describe(self, group: str) -> Wire:
        if MODERN:
            found = self._admin.describe_groups([group])[group]
            return {
                "state": found["group_state"],
                "strategy": found["protocol_data"],
                "members": len(found["members"]),
            }
        [old] = self._admin.describe_consumer_groups([group])
        return {"state": old.state, "strategy": old.protocol, "members": len(old.members)}

    def group_offsets(self, group: str) -> list[list[Any]]:
        found = self._admin.list_group_offsets([group])[group] if MODERN else self._admin.list_consumer_group_offsets(group)
        return [[place.topic, place.partition, one.offset, one.metadata] for place, one in found.items()]

    def group_set_offsets(self, group: str, offsets: list[list[Any]]) -> None:
        if not MODERN:
            raise Absent("a group's offsets cannot be set")
        wanted = {TopicPartition(topic, partition): _position(offset, "") for topic, partition, offset in offsets}
        _check(self._admin.alter_group_offsets(group, wanted))

    def group_delete_offsets(self, group: str, topic: str, partition: int) -> None:
        if not MODERN:
            raise Absent("a group's offsets cannot be deleted")
        _check(self._admin.delete_group_offsets(group, [TopicPartition(topic, partition)]))

    def group_delete(self, group: str) -> None:
        delete = self._admin.delete_groups if MODERN else self._admin.delete_consumer_groups
        _check(dict(delete([group])))

    def cluster_describe(self) -> Wire:
        found = self._admin.describe_cluster()
        brokers = [one.get("node_id", one.get("broker_id")) for one in found["brokers"]]
        return {"brokers": brokers, "controller": found.get("controller_id"), "cluster": found.get("cluster_id")}

    def log_dirs(self) -> dict[str, dict[str, int]]:
        if not MODERN:
            raise Absent("its request asks one node alone and gives raw tuples")
        answer: dict[str, dict[str, int]] = {}
        for broker in self._admin.describe_log_dirs():
            sizes = answer.setdefault(str(broker.get("broker", broker.get("broker_id"))), {})
            for one in broker.get("log_dirs", broker.get("results")):
                for topic in one["topics"]:
                    name = topic.get("topic", topic.get("name"))
                    for partition in topic["partitions"]:
                        size = partition.get("size", partition.get("partition_size"))
                        sizes[f"{name}-{partition['partition_index']}"] = size
        return answer

    def close(self) -> None:
        for name in list(self._consumers):
            self.consumer_close(name)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, thread: ConsumingThread) -> None:
        self._thread = thread

    def on_partitions_revoked(self, revoked: Any) -> None:
        print("revoked", revoked, file=sys.stderr)

    def on_partitions_assigned(self, assigned: Any) -> None:
        self._thread.assignments += 1
        print("assigned", assigned, file=sys.stderr)


class _closing:
    def __init__(self, thing: Any) -> None:
        self._thing = thing

    def __enter__(self) -> Any:
        return self._thing

    def __exit__(self, *_: object) -> None:
        self._thing.close()


def _assignor(strategy: str) -> Any:
    module, _, name = _STRATEGIES[strategy].partition(":")
    try:
        # A class of its own: the sticky one keeps its state in the class, which consumers of one process would share.
        return type("Own", (getattr(__import__(module, fromlist=[name]), name),), {})
    except ImportError:
        raise Absent(f"no {strategy} assignor") from None


def _start(consumer: Any, places: list[TopicPartition], start: list[Any]) -> None:
    match start:
        case ["earliest"]:
            consumer.seek_to_beginning(*places)
        case ["latest"]:
            consumer.seek_to_end(*places)
        case ["offset", number]:
            for place in places:
                consumer.seek(place, number)
        case ["time", timestamp_ms]:
            for place, found in consumer.offsets_for_times(dict.fromkeys(places, timestamp_ms)).items():
                consumer.seek(place, found.offset)


def _position(offset: int, metadata: str | None) -> Any:
    return (
        OffsetAndMetadata(offset, metadata or "", -1)
        if len(OffsetAndMetadata._fields) == 3
        else OffsetAndMetadata(offset, metadata or "")
    )


def _check(answer: dict[Any, Any]) -> None:
    for error in answer.values():
        # An error's class, its name, or "[Error CODE] NAME: …", according to the call.
        kind = getattr(kafka.errors, re.split(r"[(:]", error)[0], None) if isinstance(error, str) else error
        told = re.match(r"\[Error (\d+)\]", error) if isinstance(error, str) else None
        code = int(told[1]) if told else getattr(kind, "errno", 0)
        if code:
            raise Refused(code, str(error))


def _poll(consumer: Any) -> list[Wire]:
    return [
        as_wire(
            key=one.key, value=one.value, headers=one.headers, timestamp_ms=one.timestamp,
            topic=one.topic, partition=one.partition, offset=one.offset,
        )
        for batch in consumer.poll(POLL_MS).values()
        for one in batch
    ]  # fmt: skip


if __name__ == "__main__":
    serve(KafkaPython)
