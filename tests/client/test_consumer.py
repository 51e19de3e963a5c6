"""The consumer: positions, order, resumption, ends."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from raftlog.client.consumer import Consumer
from raftlog.client.values import AtTime, ConsumedRecord
from raftlog.errors import (
    CorruptMessageError,
    InvalidConfigError,
    InvalidPartitionsError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
)
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1.log_service_pb2 import ListedOffset, ListOffsetsPartition, SubscribeResponse
from raftlog.records.batch import Record, encode

from .fake_cluster import FakeCluster, FakeNode, FakePartition
from .helpers import client_of, start, until


def fill(partition: FakePartition, count: int, *, per_batch: int = 10) -> None:
    """Append records whose value is their offset and whose time is 1,000 plus it."""
    while count:
        size = min(per_batch, count)
        first = partition.next_offset
        partition.append(encode([Record(0, 1_000 + n, b"k", b"%d" % n) for n in range(first, first + size)]))
        count -= size


async def next_of(consumer: Consumer) -> ConsumedRecord:
    """The next record."""
    return await anext(consumer)


async def take(consumer: Consumer, count: int) -> list[ConsumedRecord]:
    """The next ``count`` records."""
    return [await anext(consumer) for _ in range(count)]


def offsets(records: list[ConsumedRecord], partition: int = 0) -> list[int]:
    return [record.offset for record in records if record.partition == partition]


async def test_without_following_the_consumer_ends_where_the_log_ended() -> None:
    """Every record up to the high watermark at the start, none that came later, in order."""
    async with FakeCluster() as cluster, client_of(cluster) as client:
        partitions = cluster.topic("t", 3)
        for partition in partitions:
            fill(partition, 100)
        async with client.consumer("t", follow=False) as consumer:
            fill(partitions[0], 5)
            records = [record async for record in consumer]
        assert len(records) == 300
        for number in range(3):
            assert offsets(records, number) == list(range(100))
        assert records[0][3:] == (1_000, b"k", b"0", ())


async def test_an_empty_topic_ends_at_once() -> None:
    """There is nothing to wait for."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        cluster.topic("t", 2)
        async with client.consumer("t", follow=False) as consumer:
            assert [record async for record in consumer] == []


@pytest.mark.parametrize(
    ("where", "first"),
    [("beginning", 0), ("end", 50), (17, 17), (AtTime(1_033), 33), (datetime.fromtimestamp(1.042, UTC), 42), (AtTime(9_999), 50)],
)
async def test_the_first_record_is_the_one_asked_for(where: Any, first: int) -> None:
    """Beginning, end, an offset in mid-batch, a time; a time past the last record is the end."""
    async with FakeCluster() as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        fill(partition, 50)
        async with client.consumer("t", from_=where) as consumer:
            assert consumer.position(partition.tp) == first
            fill(partition, 5)
            assert (await anext(consumer)).offset == first
            assert consumer.position(partition.tp) == first + 1


async def test_a_record_that_comes_while_its_time_is_looked_up_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting from a time takes more than one question; whatever of that time arrives between two of them is not passed over."""
    answer = FakeNode._list_offset

    def and_one_comes(node: FakeNode, asked: ListOffsetsPartition) -> ListedOffset:
        listed = answer(node, asked)
        fill(node.cluster.partitions[TopicPartition(asked.topic, asked.partition)], 1)
        return listed

    monkeypatch.setattr(FakeNode, "_list_offset", and_one_comes)
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        fill(partition, 50)
        async with client.consumer("t", from_=AtTime(1_050)) as consumer:
            fill(partition, 1)
            assert (await anext(consumer)).offset == 50


async def test_each_partition_may_begin_elsewhere() -> None:
    """A mapping names starts; partitions it leaves out begin at the beginning."""
    async with FakeCluster() as cluster, client_of(cluster) as client:
        partitions = cluster.topic("t", 2)
        for partition in partitions:
            fill(partition, 20)
        async with client.consumer("t", from_={TopicPartition("t", 1): 15}, follow=False) as consumer:
            records = [record async for record in consumer]
        assert offsets(records, 0) == list(range(20))
        assert offsets(records, 1) == list(range(15, 20))


async def test_following_goes_on_with_what_is_published() -> None:
    """At the end the consumer waits, and wakes with the next record."""
    async with FakeCluster() as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        async with client.consumer("t", from_="end") as consumer:
            waiting = start(next_of(consumer))
            await until(lambda: bool(cluster.subscriptions))
            fill(partition, 1)
            assert (await waiting).offset == 0


async def test_leaders_move_and_every_record_comes_once() -> None:
    """Streams break and move in the middle of batches, over and over: no gap, no repetition, order kept."""
    async with FakeCluster() as cluster, client_of(cluster) as client:
        partitions = cluster.topic("t", 2)
        async with client.consumer("t", max_bytes=300) as consumer:
            records: list[ConsumedRecord] = []
            for turn in range(12):
                for partition in partitions:
                    fill(partition, 30, per_batch=7)
                records += await take(consumer, 41)
                cluster.elect(partitions[turn % 2], 0 if turn % 3 == 2 else turn % 3 + 1)
                if partitions[turn % 2].leader == 0:
                    asyncio.get_running_loop().call_later(0.02, cluster.elect, partitions[turn % 2], 1)
            records += await take(consumer, 2 * 12 * 30 - len(records))
        for number in range(2):
            assert offsets(records, number) == list(range(360))


async def test_a_node_dies_and_reading_goes_on_at_the_next_offset() -> None:
    """A broken connection is resumed from the offset behind what was received."""
    async with FakeCluster() as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        fill(partition, 25)
        async with client.consumer("t") as consumer:
            records = await take(consumer, 13)
            await cluster.nodes[1].stop()
            cluster.elect(partition, 2)
            fill(partition, 10)
            records += await take(consumer, 22)
        assert offsets(records) == list(range(35))
        assert getattr(cluster.subscriptions[-1].partitions[0], "from").offset == 25


async def test_batches_give_the_same_records() -> None:
    """Lists of one partition, with where to go on; a batch begun record by record is finished first."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        fill(partition, 40)
        async with client.consumer("t", follow=False, max_bytes=200) as consumer:
            got = offsets(await take(consumer, 3))
            async for batch in consumer.batches():
                got += [record.offset for record in batch.records]
                assert batch.next_offset == got[-1] + 1 == consumer.position(partition.tp)
        assert got == list(range(40))


async def test_seek_moves_one_partition() -> None:
    """What was read ahead of the seek is forgotten; other partitions go on where they were."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        first, second = cluster.topic("t", 2)
        fill(first, 30)
        fill(second, 30)
        async with client.consumer("t", follow=False, max_bytes=200) as consumer:
            await take(consumer, 5)
            moved = first.tp
            before = consumer.position(second.tp)
            consumer.seek(moved, 20)
            rest = [record async for record in consumer]
        assert offsets(rest, 0) == list(range(20, 30))
        assert offsets(rest, 1) == list(range(before, 30))


async def test_an_answer_to_an_older_position_is_dropped() -> None:
    """A response that was under way when its partition was sought elsewhere does not enter the buffer."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        async with client.consumer("t") as consumer:
            subscription, state = consumer._subscription, consumer._states[partition.tp]
            assert subscription is not None
            old = state.generation
            consumer.seek(partition.tp, 0)
            response = SubscribeResponse(topic="t", partition=0, record_batches=b"x", next_offset=10)
            subscription._take(state, old, response)
            assert (state.fetched, subscription._buffered_bytes) == (0, 0)
            subscription._take(state, state.generation, response)
            assert (state.fetched, subscription._buffered_bytes) == (10, 1)


async def test_the_buffer_ahead_of_the_user_is_bounded() -> None:
    """An idle user holds at most ``prefetch_bytes`` and one response; a busy one gets everything."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        for _ in range(100):
            partition.append(encode([Record(0, 0, None, bytes(5_000))]))
        async with client.consumer("t", follow=False, max_bytes=5_000, prefetch_bytes=20_000) as consumer:
            subscription = consumer._subscription
            assert subscription is not None
            await until(lambda: subscription._buffered_bytes >= 20_000)
            assert subscription._buffered_bytes < 20_000 + 2 * 5_100
            assert len([record async for record in consumer]) == 100


async def test_out_of_range_is_told_with_the_range() -> None:
    """By default an offset that retention removed raises; a seek mends it."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        partition, other = cluster.topic("t", 2)
        fill(partition, 50)
        fill(other, 1)
        partition.log_start = 20
        async with client.consumer("t", from_={partition.tp: 5}, follow=False) as consumer:
            with pytest.raises(OffsetOutOfRangeError) as caught:
                [record async for record in consumer]
            assert (caught.value.earliest, caught.value.latest) == (20, 50)
            consumer.seek(partition.tp, 20)
            rest = [record async for record in consumer]
        assert offsets(rest) == list(range(20, 50))


@pytest.mark.parametrize(("reset", "first"), [("earliest", 20), ("latest", 50)])
async def test_out_of_range_goes_on_where_it_was_told_to(reset: Any, first: int) -> None:
    """``auto_offset_reset`` names the place."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        fill(partition, 50)
        partition.log_start = 20
        async with client.consumer("t", from_=5, auto_offset_reset=reset) as consumer:
            waiting = start(next_of(consumer))
            await until(lambda: consumer.position(partition.tp) == first or waiting.done())
            fill(partition, 1)
            assert (await waiting).offset == first


async def test_a_gap_behind_what_waits_in_the_buffer_is_told() -> None:
    """Retention that overtakes a reader from the beginning, who has not seen a record yet, may move the beginning; not once the
    first of them have been fetched for him."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        fill(partition, 5)
        async with client.consumer("t") as consumer:
            subscription = consumer._subscription
            assert subscription is not None
            await until(lambda: subscription._buffered_bytes > 0)
            state = subscription._states[partition.tp]
            partition.log_start = 12
            fill(partition, 10)
            await until(lambda: subscription._error is not None or state.fetched != 5)
            assert offsets(await take(consumer, 5)) == [0, 1, 2, 3, 4]
            with pytest.raises(OffsetOutOfRangeError):
                await anext(consumer)


async def test_a_reset_to_the_end_is_the_end() -> None:
    """Without following, a partition whose records are all gone has been read; nobody waits for more."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        fill(partition, 50)
        partition.log_start = 50
        async with client.consumer("t", from_=5, follow=False, auto_offset_reset="earliest") as consumer:
            assert [record async for record in consumer] == []


@pytest.mark.parametrize(("seen", "goes_on_at"), [(5, 5), (30, 0)])
async def test_what_was_fetched_of_a_lost_end_is_void(seen: int, goes_on_at: int) -> None:
    """An unclean recovery may shorten a log. Who is ahead of its new end is reset, who is not goes on where it was; what is
    appended then is read in full either way, though records of the same offsets were in the buffer."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        fill(partition, 50)
        async with client.consumer("t", auto_offset_reset="earliest") as consumer:
            assert offsets(await take(consumer, seen)) == list(range(seen))
            assert consumer._subscription is not None
            state = consumer._subscription._states[partition.tp]
            await until(lambda: state.fetched == 50)
            del partition.batches[2:]
            partition.next_offset = 20
            cluster.nodes[1].changed()
            await until(lambda: state.fetched != 50)
            fill(partition, 40)
            assert offsets(await take(consumer, 60 - goes_on_at)) == list(range(goes_on_at, 60))


async def test_a_beginning_that_retention_moves_is_still_the_beginning() -> None:
    """Nothing was fetched yet, so nothing is missed that was not gone when the reader came."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        fill(partition, 20)
        real = cluster.nodes[1].Subscribe

        async def overtaken(request: Any, context: Any) -> Any:
            partition.log_start = 10
            async for response in real(request, context):
                yield response

        cluster.nodes[1].Subscribe = overtaken  # type: ignore[method-assign]
        await cluster.nodes[1].stop()
        await cluster.nodes[1].start()
        async with client.consumer("t", follow=False) as consumer:
            assert offsets([record async for record in consumer]) == list(range(10, 20))


async def test_new_partitions_are_found_and_read_from_their_beginning() -> None:
    """A topic that grows is followed; a partition that was named alone stays alone."""
    async with FakeCluster() as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        async with client.consumer("t", from_="end", metadata_max_age_s=0.05) as consumer:
            cluster.topic("t", 2)
            fill(cluster.partitions[TopicPartition("t", 1)], 3)
            assert offsets(await take(consumer, 3), 1) == [0, 1, 2]
            assert consumer.assignment() == {partition.tp, TopicPartition("t", 1)}


async def test_a_damaged_batch_is_not_passed_over() -> None:
    """Bytes that fail their check raise, at the position of the first record that is missing."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        fill(partition, 10)
        good = partition.batches[0]
        partition.batches[0] = good[:-1] + bytes([good[-1] ^ 1])
        async with client.consumer("t", follow=False) as consumer:
            with pytest.raises(CorruptMessageError):
                await anext(consumer)
            assert consumer.position(partition.tp) == 0
            partition.batches[0] = good
            assert [record.offset async for record in consumer] == list(range(10))


async def test_a_partition_nobody_leads_is_told_after_a_while() -> None:
    """After ``unavailable_timeout_s`` the error is raised; the consumer can go on when somebody leads again."""
    async with FakeCluster() as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        fill(partition, 5)
        async with client.consumer("t", unavailable_timeout_s=0.2) as consumer:
            await take(consumer, 5)
            for node in cluster.nodes.values():
                await node.stop()
            with pytest.raises(Exception, match=r"connection|broke"):
                await anext(consumer)
            for node in cluster.nodes.values():
                await node.start()
            fill(partition, 1)
            assert (await anext(consumer)).offset == 5


async def test_what_does_not_exist_is_refused() -> None:
    """Unknown topics and partitions, and senseless starts, raise when the context is entered."""
    async with FakeCluster(1) as cluster, client_of(cluster, request_timeout_s=0.2) as client:
        cluster.topic("t")
        with pytest.raises(UnknownTopicOrPartitionError):
            await client.consumer("missing").start()
        with pytest.raises(InvalidPartitionsError):
            await client.consumer(TopicPartition("t", 1)).start()
        with pytest.raises(InvalidConfigError):
            await client.consumer("t", from_="middle").start()
        with pytest.raises(InvalidConfigError):
            client.consumer()


async def test_closing_ends_an_iteration_under_way() -> None:
    """A task that waits for the next record gets the end."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        cluster.topic("t")
        consumer = client.consumer("t")
        await consumer.start()

        async def read() -> list[ConsumedRecord]:
            return [record async for record in consumer]

        waiting = start(read())
        await until(lambda: bool(cluster.subscriptions))
        await consumer.close()
        assert await waiting == []
