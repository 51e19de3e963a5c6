"""librdkafka, through confluent-kafka, against a real cluster: a few of everything; the large matrix is elsewhere."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
)

from raftlog.testing import SyncLocalCluster

TIMEOUT_S = 30
QUIET = {"log_level": 0}


def admin(cluster: SyncLocalCluster) -> AdminClient:
    """An administrator."""
    return AdminClient({"bootstrap.servers": cluster.kafka, **QUIET})


def create(cluster: SyncLocalCluster, topic: str, partitions: int = 1, **config: str) -> None:
    """A topic with three replicas."""
    wanted = NewTopic(topic, partitions, 3, config={key.replace("_", "."): value for key, value in config.items()})
    client = admin(cluster)
    client.create_topics([wanted])[topic].result(TIMEOUT_S)


def produce(cluster: SyncLocalCluster, topic: str, values: list[bytes], **config: Any) -> list[tuple[int, int] | str]:
    """Publish, and wait: each record's partition and offset, or the name of its error."""
    producer = Producer({"bootstrap.servers": cluster.kafka, **QUIET, **config})
    found: dict[bytes, tuple[int, int] | str] = {}

    def told(error: Any, message: Any) -> None:
        found[message.value()] = error.name() if error is not None else (message.partition(), message.offset())

    for value in values:
        producer.produce(topic, value, key=value, headers={"h": b"x"}, on_delivery=told)
    assert producer.flush(TIMEOUT_S) == 0
    return [found[value] for value in values]


def consume(cluster: SyncLocalCluster, topic: str, count: int, **config: Any) -> list[bytes]:
    """The first ``count`` values of a topic, by assignment and without a group."""
    consumer = Consumer(
        {"bootstrap.servers": cluster.kafka, "group.id": "unused", "enable.auto.commit": False, **QUIET, **config}
    )
    try:
        partitions = consumer.list_topics(topic, TIMEOUT_S).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        values: list[bytes] = []
        while len(values) < count:
            messages = consumer.consume(count - len(values), TIMEOUT_S)
            assert messages, f"{len(values)} of {count} came"
            assert all(message.error() is None for message in messages)
            values += [message.value() for message in messages]
        return values
    finally:
        consumer.close()


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_records_come_back_as_they_were_sent_in_every_codec(raftlog_cluster: SyncLocalCluster, codec: str) -> None:
    """From the idempotent producer with acks=all; the batch stays compressed all the way."""
    topic = f"cf-codec-{codec}"
    create(raftlog_cluster, topic, 3)
    values = [f"{codec} {number} ".encode() * 20 for number in range(500)]
    placed = produce(raftlog_cluster, topic, values, **{"compression.type": codec, "enable.idempotence": True})
    assert len(set(placed)) == 500
    assert sorted(consume(raftlog_cluster, topic, 500)) == sorted(values)


@pytest.mark.parametrize("acks", ["0", "1", "all"])
def test_every_kind_of_acknowledgement_is_answered(raftlog_cluster: SyncLocalCluster, acks: str) -> None:
    """With none there is no offset."""
    topic = f"cf-acks-{acks}"
    create(raftlog_cluster, topic)
    values = [f"{number}".encode() for number in range(20)]
    placed = produce(raftlog_cluster, topic, values, acks=acks)
    assert all(isinstance(one, tuple) for one in placed)
    assert consume(raftlog_cluster, topic, 20) == values


def test_a_topic_is_made_by_whoever_produces_to_it(raftlog_cluster: SyncLocalCluster) -> None:
    """As Kafka does by default."""
    assert produce(raftlog_cluster, "cf-made", [b"a"]) == [(0, 0)]


def test_a_batch_that_is_too_large_is_refused(raftlog_cluster: SyncLocalCluster) -> None:
    """max.message.bytes of the topic counts."""
    create(raftlog_cluster, "cf-small", max_message_bytes="1000")
    assert produce(raftlog_cluster, "cf-small", [b"x" * 2_000]) == ["MSG_SIZE_TOO_LARGE"]
    assert produce(raftlog_cluster, "cf-small", [b"y"]) == [(0, 0)]


def test_a_transactional_producer_gives_up_at_once(raftlog_cluster: SyncLocalCluster) -> None:
    """There are no transactions; it must not hang."""
    producer = Producer({"bootstrap.servers": raftlog_cluster.kafka, "transactional.id": "x", **QUIET})
    with pytest.raises(KafkaException) as caught:
        producer.init_transactions(TIMEOUT_S)
    assert caught.value.args[0].fatal()


def outcome(call: Callable[[], Any]) -> str:
    """The name of the error that a call meets, or nothing."""
    try:
        call()
    except KafkaException as error:
        return str(error.args[0].name())
    return ""


def test_topics_are_administered(raftlog_cluster: SyncLocalCluster) -> None:
    """Created, refused, tried, widened, described, deleted."""
    client = admin(raftlog_cluster)
    wanted = [NewTopic("cf-a", 2, 3), NewTopic("cf-a b", 1), NewTopic("cf-c", 1, 9), NewTopic("cf-d", 1, config={"no.key": "1"})]
    errors = {name: outcome(lambda one=one: one.result(TIMEOUT_S)) for name, one in client.create_topics(wanted).items()}  # type: ignore[misc]
    assert errors == {
        "cf-a": "", "cf-a b": "TOPIC_EXCEPTION", "cf-c": "INVALID_REPLICATION_FACTOR", "cf-d": "INVALID_CONFIG",
    }  # fmt: skip
    client.create_topics([NewTopic("cf-tried", 1)], validate_only=True)["cf-tried"].result(TIMEOUT_S)
    client.create_partitions([NewPartitions("cf-a", 4)])["cf-a"].result(TIMEOUT_S)
    topics = client.list_topics(timeout=TIMEOUT_S).topics
    assert len(topics["cf-a"].partitions) == 4
    assert "cf-tried" not in topics
    assert sorted(topics["cf-a"].partitions[0].isrs) == [1, 2, 3]
    client.delete_topics(["cf-a"])["cf-a"].result(TIMEOUT_S)
    assert outcome(lambda: client.delete_topics(["cf-a"])["cf-a"].result(TIMEOUT_S)) == "UNKNOWN_TOPIC_OR_PART"


def test_configs_are_described_and_changed(raftlog_cluster: SyncLocalCluster) -> None:
    """Of topics; those of nodes are shown."""
    create(raftlog_cluster, "cf-configs", retention_ms="5000000")
    client = admin(raftlog_cluster)
    resource = ConfigResource(ConfigResource.Type.TOPIC, "cf-configs")
    resource.add_incremental_config(ConfigEntry("segment.ms", "77", incremental_operation=AlterConfigOpType.SET))
    resource.add_incremental_config(ConfigEntry("retention.ms", None, incremental_operation=AlterConfigOpType.DELETE))
    client.incremental_alter_configs([resource])[resource].result(TIMEOUT_S)
    shown = client.describe_configs([resource])[resource].result(TIMEOUT_S)
    values = [shown[name].value for name in ("segment.ms", "retention.ms", "cleanup.policy")]
    assert values == ["77", "604800000", "delete"]
    node = ConfigResource(ConfigResource.Type.BROKER, "2")
    assert client.describe_configs([node])[node].result(TIMEOUT_S)["node.id"].value == "2"


def test_offsets_are_looked_up_and_records_deleted(raftlog_cluster: SyncLocalCluster) -> None:
    """By edge, time, and the highest timestamp."""
    create(raftlog_cluster, "cf-offsets")
    producer = Producer({"bootstrap.servers": raftlog_cluster.kafka, **QUIET})
    base = 1_700_000_000_000
    for at in (0, 10, 50, 20, 30):
        producer.produce("cf-offsets", b"x", timestamp=base + at)
        assert producer.flush(TIMEOUT_S) == 0
    client = admin(raftlog_cluster)
    tp = TopicPartition("cf-offsets", 0)

    def listed(spec: OffsetSpec) -> int:
        return int(client.list_offsets({tp: spec})[tp].result(TIMEOUT_S).offset)

    assert [listed(spec) for spec in (OffsetSpec.earliest(), OffsetSpec.latest(), OffsetSpec.max_timestamp())] == [0, 5, 2]
    assert [listed(OffsetSpec.for_timestamp(base + at)) for at in (1, 50, 60)] == [1, 2, -1]
    assert client.delete_records([TopicPartition("cf-offsets", 0, 3)])[tp].result(TIMEOUT_S).low_watermark == 3
    assert listed(OffsetSpec.earliest()) == 3


def test_the_leaders_death_is_survived(raftlog_cluster_factory: Callable[..., SyncLocalCluster]) -> None:
    """Nothing that was acknowledged is lost or doubled: the idempotent producer and the consumer find the next leader."""
    with_three = raftlog_cluster_factory(nodes=3)
    create(with_three, "cf-dies")
    config = {"bootstrap.servers": with_three.kafka, "enable.idempotence": True, "linger.ms": 1, **QUIET}
    producer = Producer(config)
    errors: list[Any] = []
    client = admin(with_three)
    leader = client.list_topics(timeout=TIMEOUT_S).topics["cf-dies"].partitions[0].leader
    for number in range(2_000):
        producer.produce("cf-dies", f"{number}".encode(), on_delivery=lambda error, _: errors.append(error) if error else None)
        if number % 50 == 0:
            producer.poll(0.01)
        if number == 1_000:
            with_three.kill(leader)
    assert producer.flush(TIMEOUT_S) == 0
    assert errors == []
    assert consume(with_three, "cf-dies", 2_000) == [f"{number}".encode() for number in range(2_000)]


def fetched_bytes(cluster: SyncLocalCluster, node_id: int) -> float:
    """Bytes of batches that a node has sent to Kafka consumers."""
    with urllib.request.urlopen(f"http://{cluster.nodes[node_id].admin}/metrics", timeout=TIMEOUT_S) as page:
        lines = page.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("raftlog_kafka_fetch_bytes_total")))


def test_a_consumer_reads_from_the_follower_in_its_rack(raftlog_cluster_factory: Callable[..., SyncLocalCluster]) -> None:
    """The leader sends it there, and sends nothing itself (KIP-392)."""
    cluster = raftlog_cluster_factory(nodes=3)
    for node in cluster.nodes.values():
        node.flags += (f"--rack=r{node.node_id}",)
        cluster.restart(node.node_id)
    create(cluster, "cf-rack")
    client = admin(cluster)
    leader = client.list_topics(timeout=TIMEOUT_S).topics["cf-rack"].partitions[0].leader
    values = [b"x" * 1_000 + b"%d" % number for number in range(100)]
    produce(cluster, "cf-rack", values)
    follower = leader % 3 + 1
    assert consume(cluster, "cf-rack", 100, **{"client.rack": f"r{follower}"}) == values
    assert fetched_bytes(cluster, follower) > 100_000
    assert fetched_bytes(cluster, leader) == 0


def test_two_members_share_a_topic_and_one_takes_over(raftlog_cluster: SyncLocalCluster) -> None:
    """Two partitions each; what the one that leaves has committed, the other does not read again."""
    create(raftlog_cluster, "confluent-group", 4)

    def member() -> Consumer:
        wanted = {
            "bootstrap.servers": raftlog_cluster.kafka,
            "group.id": "confluent-group",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "heartbeat.interval.ms": 100,
        }
        consumer = Consumer({**wanted, **QUIET})
        consumer.subscribe(["confluent-group"])
        return consumer

    def read(consumer: Consumer) -> list[tuple[int, int]]:
        message = consumer.poll(0.05)
        if message is None or message.error() is not None:
            return []
        consumer.commit(message=message, asynchronous=False)
        return [(message.partition(), message.offset())]

    goes, stays = member(), member()
    try:
        while [len(one.assignment()) for one in (goes, stays)] != [2, 2]:
            assert read(goes) + read(stays) == []
        _to_each_partition(raftlog_cluster, "confluent-group", 5)
        seen: list[tuple[int, int]] = []
        while len(seen) < 20:
            seen += read(goes) + read(stays)
        goes.close()
        while len(stays.assignment()) != 4:
            assert read(stays) == []
        _to_each_partition(raftlog_cluster, "confluent-group", 1)
        while len(seen) < 24:
            seen += read(stays)
        assert sorted(seen) == [(partition, offset) for partition in range(4) for offset in range(6)]
    finally:
        stays.close()


def _to_each_partition(cluster: SyncLocalCluster, topic: str, count: int) -> None:
    producer = Producer({"bootstrap.servers": cluster.kafka, **QUIET})
    for number in range(4 * count):
        producer.produce(topic, b"x", partition=number % 4)
    assert producer.flush(TIMEOUT_S) == 0
