"""The producer against nodes that behave: batching, partitions, limits, closing."""

from __future__ import annotations

import asyncio

import pytest

from raftlog.errors import (
    CorruptMessageError,
    InvalidConfigError,
    InvalidRequestError,
    MessageTooLargeError,
    OverloadedError,
    UnknownTopicOrPartitionError,
)
from raftlog.model import TopicPartition
from raftlog.records.batch import Record, encode, read_header
from raftlog.records.partitioner import partition_of

from .fake_cluster import FakeCluster
from .helpers import Script, client_of, numbered, start, until, values


async def test_a_published_record_comes_back_with_its_place() -> None:
    """The acknowledgement names topic, partition, offset and time; key, value and headers are stored as given."""
    async with FakeCluster() as cluster, client_of(cluster) as client, client.producer() as producer:
        (partition,) = cluster.topic("t")
        first = await producer.publish("t", b"a", key=b"k", headers=[("h", b"1"), ("n", None)], timestamp_ms=7)
        second = await producer.publish("t", None, key=b"k", timestamp_ms=8)
        assert (first, second) == (("t", 0, 0, 7), ("t", 0, 1, 8))
        assert partition.records() == [
            Record(0, 7, b"k", b"a", (("h", b"1"), ("n", None))),
            Record(1, 8, b"k", None),
        ]


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_every_compression_reads_back(compression: str) -> None:
    """Batches of each codec hold what was sent."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        async with client.producer(compression=compression) as producer:  # type: ignore[arg-type]
            futures = [await producer.send("t", value) for value in numbered(100)]
        assert [(await future).offset for future in futures] == list(range(100))
        assert values(partition) == numbered(100)


async def test_keys_go_where_every_kafka_client_sends_them() -> None:
    """The partition of a key is murmur2's; records without a key fill one batch before they move on."""
    async with FakeCluster() as cluster, client_of(cluster) as client, client.producer() as producer:
        cluster.topic("t", 7)
        for key in (b"a", b"b", b"something longer"):
            assert (await producer.publish("t", b"v", key=key)).partition == partition_of(key, 7)
        placed = await asyncio.gather(*[await producer.send("t", b"v") for _ in range(50)])
        assert len({where.partition for where in placed}) == 1


async def test_records_without_a_key_move_on_when_a_batch_is_full() -> None:
    """Full batches go to another partition each."""
    async with FakeCluster() as cluster, client_of(cluster) as client:
        partitions = cluster.topic("t", 3)
        async with client.producer(batch_size=1_000, compression="none") as producer:
            for _ in range(100):
                await producer.send("t", bytes(100))
        assert sum(len(values(partition)) for partition in partitions) == 100
        assert sum(bool(partition.batches) for partition in partitions) > 1


async def test_batches_keep_their_size() -> None:
    """No batch is larger than ``batch_size``, but for a record that is larger alone."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        async with client.producer(batch_size=2_000, compression="none") as producer:
            for number in range(50):
                await producer.send("t", bytes(5_000 if number == 20 else 150))
        sizes = [len(batch) for batch in partition.batches]
        assert sorted(sizes)[-2] <= 2_000 < 5_000 < max(sizes)
        assert len(partition.records()) == 50


async def test_batches_of_many_partitions_share_a_message() -> None:
    """What waits for one node goes together, up to about a megabyte."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        cluster.topic("t", 10)
        async with client.producer(compression="none") as producer:
            for number in range(10):
                await producer.send("t", bytes(1_000), partition=number)
        assert [len(message) for message in cluster.messages] == [10]
        cluster.messages.clear()
        async with client.producer(compression="none", max_in_flight=1) as producer:
            for number in range(60):
                await producer.send("t", bytes(100_000), partition=number % 10)
        assert max(sum(len(data) for _, data in message) for message in cluster.messages) <= 1_000_000
        assert max(len(message) for message in cluster.messages) > 1


async def test_while_the_node_is_busy_records_wait_for_company() -> None:
    """With a message in flight an open batch lingers; the answer sends it on at once."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        node = cluster.nodes[1]
        async with client.producer(linger_ms=60_000) as producer:
            await producer.publish("t", b"warm")
            node.hold = asyncio.Event()
            await producer.send("t", b"0")
            await until(lambda: len(cluster.messages) == 2)
            futures = [await producer.send("t", value) for value in numbered(20)]
            await asyncio.sleep(0)
            assert len(cluster.messages) == 2
            node.hold.set()
            await asyncio.gather(*futures)
        assert len(partition.batches) == 3


async def test_linger_ends_the_wait_for_company() -> None:
    """After ``linger_ms`` a batch leaves, though the node has not answered what came before."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        cluster.topic("t")
        cluster.nodes[1].hold = asyncio.Event()
        async with client.producer(linger_ms=1) as producer:
            await producer.send("t", b"0")
            await until(lambda: len(cluster.messages) == 1)
            cluster.nodes[1].hold.set()
            await producer.send("t", b"1")
            await producer.flush()


async def test_in_flight_messages_are_bounded() -> None:
    """A node never has more than ``max_in_flight`` messages to answer."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        cluster.topic("t", 8)
        hold = cluster.nodes[1].hold = asyncio.Event()
        async with client.producer(linger_ms=0, max_in_flight=2) as producer:
            futures = []
            for number in range(8):
                futures.append(await producer.send("t", b"v", partition=number))
                await asyncio.sleep(0.005)
            sender = producer._delivery._senders[cluster.nodes[1].address]
            assert len(sender._in_flight) == 2
            hold.set()
            await asyncio.gather(*futures)


async def test_a_full_buffer_makes_send_wait_its_turn() -> None:
    """``send`` waits while ``buffer_memory`` is full; waiting sends go on in their order."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        hold = cluster.nodes[1].hold = asyncio.Event()
        async with client.producer(buffer_memory=3_000) as producer:
            sends = [start(producer.send("t", b"%03d" % number + bytes(797))) for number in range(10)]
            await until(lambda: len(cluster.messages) == 1)
            assert sum(send.done() for send in sends) == 3
            assert producer.buffered_bytes == 3_000
            hold.set()
            await asyncio.gather(*[await send for send in sends])
        assert [value[:3] for value in values(partition) if value] == [b"%03d" % number for number in range(10)]
        assert producer.buffered_bytes == 0


async def test_a_small_record_does_not_overtake_a_waiting_large_one() -> None:
    """Who waits for buffer space is served in order, though what comes later would fit."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        hold = cluster.nodes[1].hold = asyncio.Event()
        async with client.producer(buffer_memory=2_000) as producer:
            await producer.send("t", b"0" + bytes(799))
            large = start(producer.send("t", b"1" + bytes(1_699)))
            await until(lambda: len(producer._space_waiters) == 1)
            small = start(producer.send("t", b"2"))
            await until(lambda: len(producer._space_waiters) == 2)
            hold.set()
            await asyncio.gather(await large, await small)
        assert [value[:1] for value in values(partition) if value] == [b"0", b"1", b"2"]


async def test_send_gives_up_on_a_buffer_that_stays_full() -> None:
    """After ``max_block_s`` the record is refused, and nothing of it is left behind."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        hold = cluster.nodes[1].hold = asyncio.Event()
        async with client.producer(buffer_memory=1_000, max_block_s=0.05) as producer:
            await producer.send("t", bytes(800))
            with pytest.raises(OverloadedError):
                await producer.send("t", bytes(800))
            hold.set()
            await producer.flush()
            await producer.publish("t", bytes(800))
        assert len(partition.records()) == 2


async def test_a_cancelled_send_leaves_no_hole() -> None:
    """A ``send`` cancelled while it waits was not taken; those behind it go on, in order."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        hold = cluster.nodes[1].hold = asyncio.Event()
        async with client.producer(buffer_memory=1_000) as producer:
            sends = [start(producer.send("t", b"%d" % number + bytes(799))) for number in range(4)]
            await until(lambda: len(cluster.messages) == 1)
            sends[1].cancel()
            hold.set()
            await asyncio.gather(*(await asyncio.gather(*sends[2:])))
        assert [value[:1] for value in values(partition) if value] == [b"0", b"2", b"3"]


async def test_a_cancelled_acknowledgement_harms_nobody() -> None:
    """Whoever stops waiting does not call the record back, and others of its batch are acknowledged."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        async with client.producer() as producer:
            first, second = await producer.send("t", b"0"), await producer.send("t", b"1")
            first.cancel()
            assert (await second).offset == 1
        assert values(partition) == numbered(2)


async def test_closing_flushes() -> None:
    """Leaving the context sends and awaits what was taken; afterwards nothing is taken."""
    async with FakeCluster() as cluster, client_of(cluster) as client:
        partitions = cluster.topic("t", 3)
        async with client.producer(linger_ms=60_000) as producer:
            futures = [await producer.send("t", value, partition=index % 3) for index, value in enumerate(numbered(99))]
        assert all(future.done() and future.exception() is None for future in futures)
        assert sum(len(values(partition)) for partition in partitions) == 99
        with pytest.raises(InvalidRequestError):
            await producer.send("t", b"late")


async def test_closing_the_client_closes_its_producers() -> None:
    """A producer that was left open is flushed by its client."""
    async with FakeCluster(1) as cluster:
        (partition,) = cluster.topic("t")
        async with client_of(cluster) as client:
            producer = client.producer()
            await producer.send("t", b"0")
        assert values(partition) == numbered(1)


async def test_a_record_beyond_the_limit_is_refused_before_it_is_sent() -> None:
    """``max_request_size`` refuses one record and leaves the producer as it was."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client, client.producer() as producer:
        (partition,) = cluster.topic("t")
        with pytest.raises(MessageTooLargeError):
            await producer.send("t", bytes(2_000_000))
        assert producer.buffered_bytes == 0
        await producer.publish("t", b"0")
        assert values(partition) == numbered(1)


async def test_a_batch_beyond_the_topics_limit_is_split() -> None:
    """MESSAGE_TOO_LARGE halves a batch until it fits; order and offsets stay whole, under one producer id."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        partition.size_max = 1_000
        script = cluster.fault = Script()
        async with client.producer(compression="none") as producer:
            futures = [await producer.send("t", b"%03d" % number + bytes(97)) for number in range(60)]
            assert [(await future).offset for future in futures] == list(range(60))
            with pytest.raises(MessageTooLargeError):
                await producer.publish("t", bytes(1_500))
            await producer.publish("t", b"060")
        assert [value[:3] for value in values(partition) if value] == [b"%03d" % number for number in range(61)]
        assert len(set(script.producers[:-2])) == 1


async def test_ready_made_batches_are_numbered_like_the_producers_own() -> None:
    """``publish_batch`` gives a batch without an id the producer's, and keeps order with ``send``."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client, client.producer() as producer:
        (partition,) = cluster.topic("t")
        first = await producer.send("t", b"0")
        batch = encode([Record(0, 5, None, b"1"), Record(0, 6, None, b"2")])
        second = await producer.send_batch(TopicPartition("t", 0), batch)
        third = await producer.send("t", b"3")
        assert [(await future).offset for future in (first, second, third)] == [0, 1, 3]
        assert values(partition) == numbered(4)
        headers = [read_header(stored) for stored in partition.batches]
        assert {header.producer_id for header in headers} == {cluster.next_producer}
        assert [header.base_sequence for header in headers] == [0, 1, 3]


async def test_a_ready_made_batch_leaves_records_without_a_key_where_they_are() -> None:
    """Batches for another partition are sent in between, and records without a key go on filling the batch that is open."""
    async with FakeCluster() as cluster, client_of(cluster) as client, client.producer() as producer:
        cluster.topic("t", 7)
        elsewhere = (await producer.publish("t", b"v")).partition  # the next batch goes to another one
        batch = encode([Record(0, 5, None, b"x")])
        futures = []
        for _ in range(20):
            futures.append(await producer.send("t", b"v"))
            await producer.send_batch(TopicPartition("t", elsewhere), batch)
        assert len({(await future).partition for future in futures}) == 1


async def test_a_ready_made_batch_with_a_bad_crc_is_refused() -> None:
    """Bytes that arrive damaged time after time are the sender's fault, and told; what follows is stored."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client, client.producer(idempotence=False) as producer:
        (partition,) = cluster.topic("t")
        bad = bytearray(encode([Record(0, 5, None, b"x")]))
        bad[-1] ^= 1
        with pytest.raises(CorruptMessageError):
            await producer.publish_batch(TopicPartition("t", 0), bytes(bad))
        await producer.publish("t", b"0")
        assert values(partition) == numbered(1)


async def test_what_does_not_exist_is_refused() -> None:
    """Unknown topics and partitions raise from ``send``; options out of range from ``producer``."""
    async with FakeCluster(1) as cluster, client_of(cluster, request_timeout_s=0.2) as client, client.producer() as producer:
        cluster.topic("t", 2)
        with pytest.raises(UnknownTopicOrPartitionError):
            await producer.send("missing", b"v")
        with pytest.raises(UnknownTopicOrPartitionError):
            await producer.send("t", b"v", partition=2)
        with pytest.raises(UnknownTopicOrPartitionError):
            await producer.send("t", b"v", partition=-1)
        assert producer.buffered_bytes == 0
        with pytest.raises(InvalidConfigError):
            client.producer(acks=1, idempotence=True)
        with pytest.raises(InvalidConfigError):
            client.producer(compression="brotli")  # type: ignore[arg-type]


async def test_an_open_stream_answers_message_by_message() -> None:
    """The low-level stream gives an outcome for each batch, errors as values."""
    async with FakeCluster() as cluster, client_of(cluster) as client:
        cluster.topic("t", 4)
        tp, elsewhere = TopicPartition("t", 0), TopicPartition("t", 1)
        batch = encode([Record(0, 5, None, b"x")])
        async with await client.publish_stream(tp) as stream:
            first, second = stream.send([(tp, batch)]), stream.send([(tp, batch), (elsewhere, batch)])
            assert (await first)[0] == ("t", 0, 0, -1)
            stored, refused = await second
            assert stored == ("t", 0, 1, -1)
            assert getattr(refused, "reason", None) == "NOT_LEADER"
