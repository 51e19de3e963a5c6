"""Any node takes any call, and topics change while they are used."""

from __future__ import annotations

import asyncio
import time

import pytest

from raftlog import AtTime, Client, ConsumedRecord, TopicPartition
from raftlog.errors import OffsetOutOfRangeError
from raftlog.pb.raftlog.v1 import cluster_service_pb2 as cluster_pb
from raftlog.pb.raftlog.v1 import log_service_pb2 as log_pb
from raftlog.pb.raftlog.v1 import topic_service_pb2 as topic_pb
from raftlog.pb.raftlog.v1.records_pb2 import Edge, NewRecord, Position
from raftlog.records.batch import decode
from raftlog.testing import SyncLocalCluster
from tests.integration.support import Stubs, leader_of, loaded, stubs_of, until


@pytest.fixture(scope="module")
def topics(cluster: SyncLocalCluster) -> tuple[str, ...]:
    """A topic on all nodes, and one on a single node."""

    async def create() -> None:
        async with Client(cluster.brokers) as client:
            await client.admin.create_topic("on-all", partitions=1, replication_factor=3)
            await client.admin.create_topic("on-one", partitions=1, replication_factor=1)

    asyncio.run(create())
    return "on-all", "on-one"


def position(topic: str, start: Position) -> log_pb.SubscribeRequest:
    """A subscription of partition 0."""
    wish = log_pb.SubscribeRequest(partitions=[log_pb.SubscribePartition(topic=topic)])
    getattr(wish.partitions[0], "from").CopyFrom(start)
    return wish


async def publish(stubs: Stubs, topic: str, value: bytes) -> int:
    """The offset of a record that this node was given."""
    answer = await stubs.log.Publish(log_pb.PublishRequest(records=[NewRecord(topic=topic, partition=0, value=value)]))
    return int(answer.results[0].offset)


async def led(stubs: Stubs, topic: str) -> bool:
    """Whether this node knows a leader of each partition."""
    described = await stubs.topics.DescribeTopic(topic_pb.DescribeTopicRequest(name=topic))
    return all(partition.leader for partition in described.topic.partitions)


@pytest.mark.parametrize("node_id", [1, 2, 3])
async def test_each_node_takes_each_call(cluster: SyncLocalCluster, topics: tuple[str, ...], node_id: int) -> None:
    """Leader, follower, or without a replica: the answers are the same."""
    async with stubs_of(cluster.nodes[node_id]) as stubs:
        for topic in topics:
            value = b"through %d" % node_id
            offset = await publish(stubs, topic, value)
            wish = log_pb.FetchRequest(partitions=[log_pb.FetchPartition(topic=topic, offset=offset)], max_wait_ms=5_000)
            fetched = (await stubs.log.Fetch(wish)).partitions[0]
            assert [record.value for record in decode(fetched.record_batches)] == [value]
            at = log_pb.ListOffsetsPartition(topic=topic, at=Position(edge=Edge.EDGE_END))
            listed = (await stubs.log.ListOffsets(log_pb.ListOffsetsRequest(partitions=[at]))).offsets[0]
            assert (listed.offset, listed.error.code) == (offset + 1, 0)
            described = await stubs.topics.DescribeTopic(topic_pb.DescribeTopicRequest(name=topic, offsets=True))
            assert described.offsets[0].high_watermark == offset + 1
            subscription = stubs.log.Subscribe(position(topic, Position(offset=offset)))
            response = await subscription.read()
            assert isinstance(response, log_pb.SubscribeResponse)
            assert [record.value for record in decode(response.record_batches)] == [value]
            subscription.cancel()
        name = f"made-by-{node_id}"
        await stubs.topics.CreateTopic(topic_pb.CreateTopicRequest(name=name, partitions=2))
        await until(lambda: led(stubs, name), "the new topic had leaders")  # a busy machine may take longer than the call waits
        assert await publish(stubs, name, b"first") == 0
        assert name in {topic.name for topic in (await stubs.topics.ListTopics(topic_pb.ListTopicsRequest())).topics}
        await stubs.topics.DeleteTopic(topic_pb.DeleteTopicRequest(name=name))
        assert (await stubs.cluster.DescribeCluster(cluster_pb.DescribeClusterRequest())).node_id == node_id
        ids = {(await stubs.log.InitProducer(log_pb.InitProducerRequest())).producer_id for _ in range(3)}
        assert len(ids) == 3


async def test_a_subscription_through_a_follower_outlives_a_leader(cluster: SyncLocalCluster, client: Client) -> None:
    """It was opened once, on a node that never led; nothing is missed, doubled or out of order."""
    await client.admin.create_topic("followed", partitions=1, replication_factor=3)
    leader = await leader_of(client, "followed")
    values: list[bytes | None] = []
    offsets: list[int] = []
    bystander = cluster.nodes[next(node_id for node_id in cluster.nodes if node_id != leader)]

    async def follow(stubs: Stubs) -> None:
        async for response in stubs.log.Subscribe(position("followed", Position(edge=Edge.EDGE_BEGINNING))):
            for record in decode(response.record_batches):
                offsets.append(record.offset)
                values.append(record.value)

    async with stubs_of(bystander) as stubs, asyncio.TaskGroup() as group:
        following = group.create_task(follow(stubs))
        async with loaded(client, "followed", 1) as load:
            await load.progress()
            await until(lambda: len(values) >= 50, "the follower's subscription read")
            await asyncio.to_thread(cluster.kill, leader)
            await load.progress()
            await asyncio.to_thread(cluster.start, leader)
        await until(lambda: len(values) >= load.sent, "the follower's subscription read everything")
        following.cancel()
    assert offsets == list(range(load.sent))
    assert values == [b"record %d" % number for number in range(load.sent)]


async def test_retention_by_size_moves_the_log_start(client: Client) -> None:
    """The newest records stay; what was removed is out of range, and a consumer from the beginning starts behind it."""
    await client.admin.create_topic("small", configs={"retention.bytes": "20000"})
    tp = TopicPartition("small", 0)
    async with client.producer(compression="none", batch_size=2_000) as producer:
        for number in range(100):
            await producer.publish("small", b"%d" % number + b" " * 1_500)

    async def trimmed() -> bool:
        found = (await client.admin.describe_topic("small", offsets=True)).offsets[0]
        return found.log_start_offset > 0 and found.size_bytes <= 25_000

    await until(trimmed, "old records were removed")
    start = (await client.admin.list_offsets({tp: "earliest"}))[tp].offset
    async with client.consumer("small", follow=False) as consumer:
        read = [record.offset async for record in consumer]
    assert read == list(range(start, 100))
    with pytest.raises(OffsetOutOfRangeError) as caught:
        async with client.consumer("small", from_=0, follow=False) as consumer:
            await anext(aiter(consumer))
    assert (caught.value.earliest, caught.value.latest) == (start, 100)


async def test_partitions_are_added_while_producing(client: Client) -> None:
    """Producer and consumer find them by themselves; every record is read once."""
    await client.admin.create_topic("growing", partitions=1)
    seen: list[ConsumedRecord] = []
    sent = 0

    async def follow() -> None:
        async with client.consumer("growing", metadata_max_age_s=0.2) as consumer:
            async for record in consumer:
                seen.append(record)

    async with asyncio.TaskGroup() as group:
        following = group.create_task(follow())
        async with client.producer() as producer:

            async def produce() -> bool:
                nonlocal sent
                await producer.publish("growing", b"%d" % sent, key=b"%d" % sent)
                sent += 1
                return len({record.partition for record in seen}) == 3

            for _ in range(20):
                await produce()
            await client.admin.alter_topic("growing", partitions=3)
            await until(produce, "records came from all three partitions")
        await until(lambda: len(seen) == sent, "all records were read")
        following.cancel()
    assert sorted(int(record.value or b"") for record in seen) == list(range(sent))


async def test_a_topic_can_stamp_records_on_arrival(client: Client) -> None:
    """LogAppendTime: acknowledged, stored and looked up by the node's time, whatever the producer said."""
    await client.admin.create_topic("stamped", configs={"message.timestamp.type": "LogAppendTime"})
    before = time.time_ns() // 1_000_000
    async with client.producer() as producer:
        acknowledged = await producer.publish("stamped", b"x", timestamp_ms=1_000)
    after = time.time_ns() // 1_000_000
    assert before <= acknowledged.timestamp_ms <= after
    async with client.consumer("stamped", follow=False) as consumer:
        assert [record.timestamp_ms async for record in consumer] == [acknowledged.timestamp_ms]


async def test_offsets_are_found_by_time(client: Client) -> None:
    """The first record at or after a time, within a batch too; none is that young: −1."""
    await client.admin.create_topic("timed")
    tp = TopicPartition("timed", 0)
    now = time.time_ns() // 1_000_000
    async with client.producer() as producer:
        sent = [await producer.send("timed", b"x", timestamp_ms=now + 10 * number) for number in range(100)]
        await producer.flush()
        assert [(await future).offset for future in sent] == list(range(100))

    async def offset_at(timestamp_ms: int) -> tuple[int, int]:
        found = (await client.admin.list_offsets({tp: AtTime(timestamp_ms)}))[tp]
        return found.offset, found.timestamp_ms

    assert await offset_at(0) == (0, now)
    assert await offset_at(now + 500) == (50, now + 500)
    assert await offset_at(now + 501) == (51, now + 510)
    assert await offset_at(now + 5_000) == (-1, -1)
    async with client.consumer("timed", from_=AtTime(now + 985), follow=False) as consumer:
        assert [record.offset async for record in consumer] == [99]
