"""What a client knows of a topic's partitions, and how old that may be: others add partitions while it lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from raftlog.client.client import Client
from raftlog.errors import InvalidConfigError, LeaderNotAvailableError, UnknownTopicOrPartitionError
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1.topic_service_pb2 import DescribeTopicRequest, DescribeTopicResponse
from raftlog.records.batch import Record, encode
from raftlog.records.partitioner import partition_of

from .fake_cluster import FakeCluster, FakeNode
from .helpers import client_of, first_asked, start, until
from .test_consumer import fill

MOVED_KEY = next(key for key in (b"%d" % number for number in range(100)) if partition_of(key, 4) >= 2)
"""Its partition is another one once there are four instead of two."""


@asynccontextmanager
async def grown_topic() -> AsyncIterator[tuple[FakeCluster, Client]]:
    """A client that has used topic ``t`` when it had two partitions; somebody else has made them four meanwhile."""
    async with FakeCluster() as cluster, client_of(cluster) as client:
        cluster.topic("t", 2)
        async with client.producer() as producer:
            await producer.publish("t", b"0", key=MOVED_KEY)
        cluster.topic("t", 4)
        yield cluster, client


async def test_a_consumer_begins_with_the_partitions_that_there_are() -> None:
    """It asks, whatever its client knew before: without following it ends only when all of them have been read."""
    async with grown_topic() as (cluster, client):
        for number in (2, 3):
            fill(cluster.partitions[TopicPartition("t", number)], 5)
        async with client.consumer("t", follow=False) as consumer:
            records = [record async for record in consumer]
        assert [sum(record.partition == number for record in records) for number in (2, 3)] == [5, 5]


async def test_a_consumer_from_the_end_begins_at_the_end_of_every_partition() -> None:
    """A partition that was there when it began is not taken for one that was added later, and read from its beginning."""
    async with grown_topic() as (cluster, client):
        fill(cluster.partitions[TopicPartition("t", 3)], 5)
        async with client.consumer("t", from_="end") as consumer:
            assert consumer.assignment() == {TopicPartition("t", number) for number in range(4)}
            assert consumer.position(TopicPartition("t", 3)) == 5


async def test_a_consumer_of_single_partitions_asks_once_a_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among them one that was added; there may be thousands."""
    async with grown_topic() as (cluster, client):
        asked: list[str] = []
        describe = cluster.describe
        monkeypatch.setattr(cluster, "describe", lambda name: asked.append(name) or describe(name))  # type: ignore[func-returns-value]
        async with client.consumer(*(TopicPartition("t", number) for number in range(4))) as consumer:
            assert len(consumer.assignment()) == 4
        assert asked == ["t"]


async def test_a_consumer_does_not_begin_with_an_answer_from_before_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """One refresh runs at a time; where one was under way already, it may have been answered before the partitions were added."""
    describe, asked, go_on = FakeNode.DescribeTopic, [], asyncio.Event()

    async def slowly(node: FakeNode, request: DescribeTopicRequest, context: Any) -> DescribeTopicResponse:
        answer = await describe(node, request, context)
        asked.append(request.name)
        await go_on.wait()
        return answer

    monkeypatch.setattr(FakeNode, "DescribeTopic", slowly)
    async with FakeCluster() as cluster, client_of(cluster) as client:
        cluster.topic("t", 2)
        refreshing = start(client._routing.refresh("t"))
        await until(lambda: asked == ["t"])
        cluster.topic("t", 4)
        consumer = client.consumer("t")
        starting = start(consumer.start())
        await asyncio.sleep(0)
        go_on.set()
        await starting
        assert len(consumer.assignment()) == 4
        await refreshing


async def test_an_idle_producer_learns_of_new_partitions_by_itself() -> None:
    """Nothing fails and nobody sends, and yet the next key goes where a newly started producer sends it. When it is closed,
    nobody asks on."""
    async with FakeCluster() as cluster, client_of(cluster) as client:
        cluster.topic("t", 2)
        async with client.producer(metadata_max_age_s=0.02) as producer:
            await producer.publish("t", b"0", key=MOVED_KEY)
            cluster.topic("t", 4)
            await until(lambda: len(known.leaders) == 4 if (known := client._routing.topic("t")) else False)
            assert (await producer.publish("t", b"1", key=MOVED_KEY)).partition == partition_of(MOVED_KEY, 4)
        await until(lambda: len(client._tasks) == 0)


async def test_a_producer_begins_with_knowledge_that_is_young_enough() -> None:
    """What its client learned long ago, for others, is asked for anew before the first key is placed by it."""
    async with grown_topic() as (_, client):
        loop, known = asyncio.get_running_loop(), client._routing.topic("t")
        assert known is not None
        await until(lambda: loop.time() - known.asked_at_s > 0.02)
        async with client.producer(metadata_max_age_s=0.02) as producer:
            assert (await producer.publish("t", b"1", key=MOVED_KEY)).partition == partition_of(MOVED_KEY, 4)


async def test_a_producer_asks_once_for_a_partition_that_it_does_not_know() -> None:
    """Named, a new partition is found at once, by ``send`` and by ``send_batch``; one that is not there is told as unknown."""
    async with grown_topic() as (cluster, client), client.producer() as producer:
        assert (await producer.publish("t", b"1", partition=3)).partition == 3
        cluster.topic("t", 5)
        batch = encode([Record(0, 5, None, b"x")])
        assert (await producer.publish_batch(TopicPartition("t", 4), batch)).partition == 4
        with pytest.raises(UnknownTopicOrPartitionError, match="0 to 4"):
            await producer.send("t", b"v", partition=5)
        with pytest.raises(UnknownTopicOrPartitionError, match="0 to 4"):
            await producer.send_batch(TopicPartition("t", 5), batch)
        assert producer.buffered_bytes == 0


async def test_knowledge_that_cannot_be_renewed_goes_on_being_used() -> None:
    """While no node answers, records are taken by what was known; when one does again, they are stored."""
    async with FakeCluster(1) as cluster, client_of(cluster, request_timeout_s=0.2) as client:
        (partition,) = cluster.topic("t")
        async with client.producer(metadata_max_age_s=0.02) as producer:
            await producer.publish("t", b"0")
            assert await client._routing.refresh("t") is None, "newer than what the producer has looked at, and old in a moment"
            await cluster.nodes[1].stop()
            assert await client._routing.refresh("t") is not None
            known, loop = client._routing.topic("t"), asyncio.get_running_loop()
            assert known is not None
            assert loop.time() - known.asked_at_s > 0.02
            batch = encode([Record(0, 5, None, b"2")])
            futures = [await producer.send("t", b"1"), await producer.send_batch(partition.tp, batch)]
            await cluster.nodes[1].start()
            assert [(await future).offset for future in futures] == [1, 2]


async def test_a_partition_without_a_leader_is_known() -> None:
    """Asking for a partition that nobody leads yet is no reason to call it unknown."""
    async with grown_topic() as (cluster, client), client.producer(delivery_timeout_s=0.2) as producer:
        cluster.elect(cluster.partitions[TopicPartition("t", 3)], 0)
        with pytest.raises(LeaderNotAvailableError):
            await producer.publish("t", b"1", partition=3)


async def test_an_age_must_be_positive() -> None:
    """Or the producer would do nothing but ask."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        with pytest.raises(InvalidConfigError, match="metadata_max_age_s"):
            client.producer(metadata_max_age_s=0)


async def test_a_node_that_is_behind_misleads_nobody_for_ever() -> None:
    """It answers, and what it says was so once: an answer without news lets another node be asked the next time."""
    async with FakeCluster() as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        first = first_asked(cluster, client)
        first.stale["t"] = cluster.describe("t")
        for _ in range(2):
            assert await client._routing.refresh("t") is None
        cluster.elect(partition, first.number % 3 + 1)
        assert await client._routing.refresh("t") is None
        assert client._routing.leader_address(partition.tp) == cluster.nodes[first.number % 3 + 1].address


async def test_a_node_that_does_not_answer_is_not_asked_in_turn() -> None:
    """Those that do answer are asked one after the other, and it is last whatever they say, until they fail as well."""
    async with FakeCluster() as cluster, client_of(cluster) as client:
        cluster.topic("t")
        routing, first = client._routing, first_asked(cluster, client)
        await first.stop()
        for _ in range(6):
            assert await routing.refresh("t") is None
            assert routing.addresses[-1] == first.address
        await first.start()
        for node in cluster.nodes.values():
            if node is not first:
                await node.stop()
        assert await routing.refresh("t", timeout_s=5.0) is None
        assert routing.addresses[0] == first.address
