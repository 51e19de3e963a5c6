"""aiokafka against a real cluster: a few of everything."""

from __future__ import annotations

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from raftlog.testing import SyncLocalCluster

TIMEOUT_MS = 30_000


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
async def test_records_come_back_as_they_were_sent(raftlog_cluster: SyncLocalCluster, codec: str | None) -> None:
    """From an idempotent producer, by assignment and without a group."""
    topic = f"aio-{codec}"
    async with AIOKafkaProducer(
        bootstrap_servers=raftlog_cluster.kafka, enable_idempotence=True, compression_type=codec
    ) as producer:
        sent = [await producer.send(topic, b"v%d" % number, partition=0) for number in range(100)]
        assert [(await one).offset for one in sent] == list(range(100))
    consumer = AIOKafkaConsumer(bootstrap_servers=raftlog_cluster.kafka, auto_offset_reset="earliest", group_id=None)
    consumer.assign([TopicPartition(topic, 0)])
    async with consumer:
        values: list[bytes | None] = []
        while len(values) < 100:
            records = await consumer.getmany(timeout_ms=TIMEOUT_MS)
            assert records, f"{len(values)} came"
            values += [record.value for batch in records.values() for record in batch]
        assert await consumer.end_offsets([TopicPartition(topic, 0)]) == {TopicPartition(topic, 0): 100}
    assert values == [b"v%d" % number for number in range(100)]


async def test_topics_are_administered(raftlog_cluster: SyncLocalCluster) -> None:
    """Created, listed, deleted."""
    client = AIOKafkaAdminClient(bootstrap_servers=raftlog_cluster.kafka)
    await client.start()
    try:
        await client.create_topics([NewTopic("aio-admin", 2, 3)])
        assert "aio-admin" in await client.list_topics()
        await client.delete_topics(["aio-admin"])
    finally:
        await client.close()


async def test_two_members_share_a_topic_and_one_takes_over(raftlog_cluster: SyncLocalCluster) -> None:
    """Two partitions each; what the one that leaves has committed, the other does not read again."""
    address = raftlog_cluster.kafka
    client = AIOKafkaAdminClient(bootstrap_servers=address)
    await client.start()
    await client.create_topics([NewTopic("aio-group", 4, 3)])
    await client.close()

    async def member() -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            "aio-group", bootstrap_servers=address, group_id="aio-group", auto_offset_reset="earliest",
            enable_auto_commit=False, heartbeat_interval_ms=100,
        )  # fmt: skip
        await consumer.start()
        return consumer

    async def read(consumer: AIOKafkaConsumer) -> list[tuple[int, int]]:
        records = [one for batch in (await consumer.getmany(timeout_ms=50)).values() for one in batch]
        if records:
            await consumer.commit()
        return [(one.partition, one.offset) for one in records]

    async def to_each_partition(count: int) -> None:
        async with AIOKafkaProducer(bootstrap_servers=address) as producer:
            for number in range(4 * count):
                await producer.send_and_wait("aio-group", b"x", partition=number % 4)

    goes, stays = await member(), await member()
    try:
        while [len(one.assignment()) for one in (goes, stays)] != [2, 2]:
            assert await read(goes) + await read(stays) == []
        await to_each_partition(5)
        seen: list[tuple[int, int]] = []
        while len(seen) < 20:
            seen += await read(goes) + await read(stays)
        await goes.stop()
        while len(stays.assignment()) != 4:
            assert await read(stays) == []
        await to_each_partition(1)
        while len(seen) < 24:
            seen += await read(stays)
        assert sorted(seen) == [(partition, offset) for partition in range(4) for offset in range(6)]
    finally:
        await stays.stop()
