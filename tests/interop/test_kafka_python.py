"""kafka-python against a real cluster: a few of everything."""

from __future__ import annotations

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

from raftlog.testing import SyncLocalCluster

TIMEOUT_S = 30


@pytest.mark.parametrize("codec", [None, "gzip"])
def test_records_come_back_as_they_were_sent(raftlog_cluster: SyncLocalCluster, codec: str | None) -> None:
    """With keys and headers, by assignment and without a group."""
    topic = f"kp-{codec}"
    producer = KafkaProducer(bootstrap_servers=raftlog_cluster.kafka.split(","), compression_type=codec)
    futures = [
        producer.send(topic, value=b"v%d" % number, key=b"k%d" % number, headers=[("h", b"x")], partition=0)
        for number in range(100)
    ]
    assert [future.get(TIMEOUT_S).offset for future in futures] == list(range(100))
    producer.close()
    consumer = KafkaConsumer(
        bootstrap_servers=raftlog_cluster.kafka.split(","), auto_offset_reset="earliest", enable_auto_commit=False
    )
    consumer.assign([TopicPartition(topic, 0)])
    values: list[bytes] = []
    while len(values) < 100:
        records = consumer.poll(TIMEOUT_S * 1_000)
        assert records, f"{len(values)} came"
        values += [record.value for batch in records.values() for record in batch]
    consumer.close()
    assert values == [b"v%d" % number for number in range(100)]


def test_the_cluster_is_administered(raftlog_cluster: SyncLocalCluster) -> None:
    """Topics, configs, log directories, the nodes."""
    client = KafkaAdminClient(bootstrap_servers=raftlog_cluster.kafka.split(","))
    try:
        client.create_topics([NewTopic("kp-admin", 2, 3)])
        assert "kp-admin" in client.list_topics()
        assert [node["broker_id"] for node in client.describe_cluster()["brokers"]] == [1, 2, 3]
        directories = client.describe_log_dirs()
        topics = [topic["name"] for node in directories for path in node["log_dirs"] for topic in path["topics"]]
        assert topics.count("kp-admin") == 3
        client.delete_topics(["kp-admin"])
    finally:
        client.close()


def test_two_members_share_a_topic_and_one_takes_over(raftlog_cluster: SyncLocalCluster) -> None:
    """Two partitions each; what the one that leaves has committed, the other does not read again."""
    address = raftlog_cluster.kafka
    client = KafkaAdminClient(bootstrap_servers=address)
    client.create_topics([NewTopic("python-group", 4, 3)])
    client.close()

    def member() -> KafkaConsumer:
        return KafkaConsumer(
            "python-group", bootstrap_servers=address, group_id="python-group", auto_offset_reset="earliest",
            enable_auto_commit=False, heartbeat_interval_ms=100,
        )  # fmt: skip

    def read(consumer: KafkaConsumer) -> list[tuple[int, int]]:
        records = [one for batch in consumer.poll(50).values() for one in batch]
        if records:
            consumer.commit()
        return [(one.partition, one.offset) for one in records]

    def to_each_partition(count: int) -> None:
        producer = KafkaProducer(bootstrap_servers=address)
        for number in range(4 * count):
            producer.send("python-group", b"x", partition=number % 4)
        producer.flush()
        producer.close()

    goes = member()
    while len(goes.assignment()) != 4:  # alone first: two at once may make this client's leader stall, at any broker
        assert read(goes) == []
    stays = member()
    try:
        while [len(one.assignment()) for one in (goes, stays)] != [2, 2]:
            assert read(goes) + read(stays) == []
        to_each_partition(5)
        seen: list[tuple[int, int]] = []
        while len(seen) < 20:
            seen += read(goes) + read(stays)
        goes.close()
        while len(stays.assignment()) != 4:
            assert read(stays) == []
        to_each_partition(1)
        while len(seen) < 24:
            seen += read(stays)
        assert sorted(seen) == [(partition, offset) for partition in range(4) for offset in range(6)]
    finally:
        stays.close()
