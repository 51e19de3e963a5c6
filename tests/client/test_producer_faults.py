"""The producer while leaders move, nodes die and answers get lost: nothing lost, nothing twice, order kept."""

from __future__ import annotations

import asyncio
import random

import pytest

from raftlog.client.values import RecordMetadata
from raftlog.errors import (
    DataLossError,
    IndeterminateError,
    InvalidRecordError,
    LeaderNotAvailableError,
    NotLeaderError,
    OutOfOrderSequenceError,
    RaftlogError,
    RequestTimedOutError,
    StorageFullError,
    UnknownProducerIdError,
    UnknownTopicOrPartitionError,
)

from .fake_cluster import FakeCluster, FakeNode, FakePartition
from .helpers import Script, client_of, first_asked, numbered, until, values


def assert_stored_once_in_order(partitions: list[FakePartition], acknowledged: list[RecordMetadata], count: int) -> None:
    """Each record is at its acknowledged place, and each partition holds its records in the order of ``send``."""
    for number, where in enumerate(acknowledged):
        assert partitions[where.partition].records()[where.offset].value == b"%d" % number
    assert sum(len(values(partition)) for partition in partitions) == count
    for partition in partitions:
        stored = [int(value) for value in values(partition) if value is not None]
        assert stored == sorted(stored)


async def test_a_hint_moves_the_partition_at_once() -> None:
    """NOT_LEADER with a hint is followed without asking for metadata again."""
    async with FakeCluster() as cluster, client_of(cluster) as client, client.producer() as producer:
        (partition,) = cluster.topic("t")
        await producer.publish("t", b"0")
        cluster.elect(partition, 3)
        await producer.publish("t", b"1")
        assert producer._routing.leader_address(partition.tp) == cluster.nodes[3].address
        assert values(partition) == numbered(2)


async def test_an_election_is_waited_out() -> None:
    """While nobody leads, batches wait and go out with the order and sequences they had."""
    async with FakeCluster() as cluster, client_of(cluster) as client, client.producer(linger_ms=0) as producer:
        (partition,) = cluster.topic("t")
        cluster.hints = False
        futures = [await producer.send("t", b"0")]
        cluster.elect(partition, 0)
        for value in numbered(30)[1:]:
            futures.append(await producer.send("t", value))
            await asyncio.sleep(0.002)
        cluster.elect(partition, 2)
        assert_stored_once_in_order([partition], list(await asyncio.gather(*futures)), 30)


async def test_a_lost_answer_is_asked_for_again_with_the_same_sequence() -> None:
    """INDETERMINATE is retried unchanged, and the node answers with the first one's offset."""
    async with FakeCluster() as cluster, client_of(cluster) as client, client.producer() as producer:
        (partition,) = cluster.topic("t")
        script = cluster.fault = Script(IndeterminateError("who knows"), after=True)
        assert (await producer.publish("t", b"0")).offset == 0
        assert (await producer.publish("t", b"1")).offset == 1
        assert script.sequences == [0, 0, 1]
        assert partition.duplicates == 1
        assert values(partition) == numbered(2)


async def test_later_batches_follow_a_retried_one_in_order() -> None:
    """While the first batch is refused, the node refuses those behind it; all go again in their order under one id."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        script = cluster.fault = Script(None, LeaderNotAvailableError("election"), None, None, LeaderNotAvailableError("again"))
        async with client.producer(batch_size=100, linger_ms=0, compression="none") as producer:
            futures = [await producer.send("t", value) for value in numbered(100)]
            assert_stored_once_in_order([partition], list(await asyncio.gather(*futures)), 100)
        assert len(set(script.producers)) == 1


async def test_leaders_move_under_load_and_nothing_is_lost_doubled_or_reordered() -> None:
    """Random elections, lost answers and refusals, over several partitions and two thousand records."""
    rng = random.Random(7)
    async with FakeCluster() as cluster, client_of(cluster) as client:
        partitions = cluster.topic("t", 4)

        async def chaos(node: FakeNode, partition: FakePartition, data: bytes) -> RaftlogError | None:
            dice = rng.random()
            if dice < 0.1:
                cluster.elect(partition, rng.choice([0, 1, 2, 3]))
                asyncio.get_running_loop().call_later(0.01, cluster.elect, partition, rng.choice([1, 2, 3]))
                return NotLeaderError("deposed")
            if dice < 0.15:
                return IndeterminateError("not stored, but who knows")
            if dice < 0.2:
                partition.append(data)
                return IndeterminateError("stored, but who knows")
            return None

        cluster.fault = chaos
        async with client.producer(batch_size=2_000, linger_ms=0, compression="none") as producer:
            futures = []
            for number, value in enumerate(numbered(2_000)):
                futures.append(await producer.send("t", value, partition=number % 4))
                if number % 50 == 0:
                    await asyncio.sleep(0.001)
            assert_stored_once_in_order(partitions, list(await asyncio.gather(*futures)), 2_000)


async def test_a_dead_node_is_left_for_the_new_leader() -> None:
    """When the leader's process ends, what it did not answer goes to the next one; its restart changes nothing."""
    async with FakeCluster() as cluster, client_of(cluster) as client, client.producer(linger_ms=0) as producer:
        (partition,) = cluster.topic("t")
        futures = [await producer.send("t", value) for value in numbered(10)]
        await producer.flush()
        cluster.nodes[1].hold = asyncio.Event()
        futures += [await producer.send("t", value) for value in numbered(20)[10:]]
        await until(lambda: len(cluster.messages) == 2)
        await cluster.nodes[1].stop()
        cluster.elect(partition, 2)
        assert_stored_once_in_order([partition], list(await asyncio.gather(*futures)), 20)


async def test_a_stopped_node_is_left_when_another_one_leads() -> None:
    """A node that neither answers nor breaks the connection does not hold a partition up once another node leads it."""
    async with FakeCluster() as cluster, client_of(cluster, request_timeout_s=30) as client, client.producer() as producer:
        (partition,) = cluster.topic("t")
        await producer.publish("t", b"0")
        cluster.nodes[1].hold = asyncio.Event()
        future = await producer.send("t", b"1")
        await until(lambda: len(cluster.messages) == 2)
        cluster.elect(partition, 2)
        assert (await future).offset == 1
        assert values(partition) == numbered(2)
        assert not cluster.nodes[1].hold.is_set()


async def test_a_connection_without_answers_is_given_up() -> None:
    """After ``request_timeout_s`` the stream is begun anew, and the batch sent again with its sequence."""
    async with FakeCluster(1) as cluster, client_of(cluster, request_timeout_s=0.2) as client, client.producer() as producer:
        (partition,) = cluster.topic("t")
        await producer.publish("t", b"0")
        node = cluster.nodes[1]
        node.hold = asyncio.Event()
        future = await producer.send("t", b"1")
        await until(lambda: len(cluster.messages) >= 2)
        node.hold = None
        assert (await future).offset == 1
        assert values(partition) == numbered(2)


async def test_an_unknown_outcome_past_the_deadline_is_told_as_unknown() -> None:
    """Sent and never answered: RequestTimedOutError. What follows gets a new producer id, from sequence 0."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client, client.producer(delivery_timeout_s=0.3) as producer:
        (partition,) = cluster.topic("t")
        await producer.publish("t", b"0")
        script = cluster.fault = Script()
        hold = cluster.nodes[1].hold = asyncio.Event()
        with pytest.raises(RequestTimedOutError):
            await producer.publish("t", b"lost?")
        hold.set()
        cluster.nodes[1].hold = None
        assert (await producer.publish("t", b"1")).partition == 0
        assert values(partition) in ([b"0", b"lost?", b"1"], [b"0", b"1"])
        assert script.sequences[-1] == 0
        assert script.producers[-1] == cluster.next_producer == 1_002


async def test_what_was_certainly_refused_until_the_deadline_says_why() -> None:
    """Only definite refusals: the last one is raised, not "unknown"; what was never sent says that."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client, client.producer(delivery_timeout_s=0.3) as producer:
        (partition,) = cluster.topic("t")
        cluster.fault = Script(*[StorageFullError("full", retry_after_ms=20)] * 1_000)
        with pytest.raises(StorageFullError):
            await producer.publish("t", b"x")
        cluster.fault = None
        await producer.publish("t", b"0")
        cluster.elect(partition, 0)
        with pytest.raises(LeaderNotAvailableError):
            await producer.publish("t", b"x")
        assert values(partition) == numbered(1)


async def test_a_node_whose_disk_is_full_is_not_asked_again_who_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the one that has not heard that another leads instead of it, and says for ever that it does."""
    async with FakeCluster(3) as cluster, client_of(cluster) as client, client.producer() as producer:
        (partition,) = cluster.topic("t")
        first = first_asked(cluster, client)
        cluster.elect(partition, first.number)
        await producer.publish("t", b"0")
        first.stale["t"] = cluster.describe("t")

        def full(topic: str, number: int, *, direct: bool = True) -> FakePartition:
            raise StorageFullError("full", retry_after_ms=20)

        monkeypatch.setattr(first, "_led", full)
        cluster.elect(partition, first.number % 3 + 1)
        assert (await producer.publish("t", b"1")).offset == 1
        assert values(partition) == numbered(2)


async def test_a_producer_tells_what_it_waits_for() -> None:
    """The partition of its oldest batch, the last refusal or that nobody leads it, and how long it goes on trying."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client, client.producer(delivery_timeout_s=60.0) as producer:
        (partition,) = cluster.topic("t")
        await producer.publish("t", b"0")
        assert producer.waiting is None
        cluster.fault = Script(*[StorageFullError("full", retry_after_ms=20)] * 1_000)
        future = await producer.send("t", b"1")
        await until(lambda: producer.waiting is not None and "full" in producer.waiting.why)
        assert producer.waiting is not None
        assert producer.waiting.tp == partition.tp
        assert 0 < producer.waiting.left_s <= 60
        cluster.fault = None
        await future
        cluster.hints = False
        cluster.elect(partition, 0)
        await producer._routing.refresh("t")
        future = await producer.send("t", b"2")
        assert producer.waiting.why == "no leader of it is known"
        cluster.elect(partition, 1)
        await future
        assert producer.waiting is None


async def test_a_refused_batch_fails_alone() -> None:
    """A batch that can never be stored fails; those in flight behind it are stored in order under a new producer id."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        script = cluster.fault = Script(None, InvalidRecordError("no"))
        async with client.producer(batch_size=100, linger_ms=0, compression="none") as producer:
            futures = [await producer.send("t", b"%02d" % number + bytes(30)) for number in range(20)]
            outcomes = await asyncio.gather(*futures, return_exceptions=True)
        failed = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, BaseException)]
        assert failed
        assert all(isinstance(outcomes[number], InvalidRecordError) for number in failed)
        stored = [int(value[:2]) for value in values(partition) if value]
        assert stored == [number for number in range(20) if number not in failed]
        assert set(script.producers) == {1_001, 1_002}


async def test_a_lost_acknowledged_record_is_never_mended_in_silence() -> None:
    """OUT_OF_ORDER with nothing that explains it reaches the user; the producer then goes on under a new id."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client, client.producer() as producer:
        (partition,) = cluster.topic("t")
        await producer.publish("t", b"0")
        partition.producers.clear()
        with pytest.raises(OutOfOrderSequenceError):
            await producer.publish("t", b"x")
        await producer.publish("t", b"1")
        assert values(partition) == numbered(2)


async def test_a_forgotten_producer_id_is_replaced() -> None:
    """A node that no longer knows the producer gets the same batch under a new id."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client, client.producer() as producer:
        (partition,) = cluster.topic("t")
        await producer.publish("t", b"0")
        script = cluster.fault = Script(UnknownProducerIdError("who?"))
        await producer.publish("t", b"1")
        assert script.sequences == [1, 0]
        assert values(partition) == numbered(2)


async def test_behind_a_hole_an_unknown_batch_fails_as_unknown() -> None:
    """A batch that may be stored is never numbered anew: it fails as unknown, and what was surely refused goes on."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        script = Script(InvalidRecordError("no"), IndeterminateError("hm"))
        async with client.producer(batch_size=100, linger_ms=0, compression="none") as producer:
            await producer.publish("t", b"warm")
            cluster.fault = script
            futures = [await producer.send("t", b"%d" % number + bytes(60)) for number in range(3)]
            outcomes = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(outcomes[0], InvalidRecordError)
        assert isinstance(outcomes[1], IndeterminateError)
        assert isinstance(outcomes[2], RecordMetadata)
        assert [value[:1] for value in values(partition) if value] == [b"w", b"2"]


async def test_halves_of_a_batch_that_may_be_stored_may_be_stored() -> None:
    """The topic's limit fell between a lost answer and its repetition: the batch is split, and no half of it is numbered anew."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")

        async def fault(_: FakeNode, partition: FakePartition, data: bytes) -> RaftlogError | None:
            if partition.size_max == 1_000_000:
                partition.append(data)
                partition.size_max = 1_000
                return IndeterminateError("who knows")
            return None

        cluster.fault = fault
        async with client.producer(compression="none", linger_ms=20) as producer:
            futures = [await producer.send("t", value) for value in (bytes(2_000), b"small")]
            outcomes = await asyncio.gather(*futures, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [IndeterminateError, IndeterminateError]
        assert values(partition) == [bytes(2_000), b"small"]


async def test_a_deleted_topic_fails_what_waits_for_it() -> None:
    """Once no node knows the topic, its batches fail with that, long before the delivery timeout."""
    async with FakeCluster(1) as cluster, client_of(cluster, request_timeout_s=0.3) as client, client.producer() as producer:
        (partition,) = cluster.topic("t")
        await producer.publish("t", b"0")
        cluster.partitions.clear()
        with pytest.raises(UnknownTopicOrPartitionError):
            await producer.publish("t", b"1")
        assert producer.buffered_bytes == 0
        assert values(partition) == numbered(1)


async def test_errors_without_a_cure_are_raised_at_once() -> None:
    """A failure that no retry mends reaches the future as its own type."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client, client.producer() as producer:
        cluster.topic("t")
        cluster.fault = Script(DataLossError("bits"))
        with pytest.raises(DataLossError):
            await producer.publish("t", b"x")


async def test_without_idempotence_batches_have_no_id() -> None:
    """acks 1 and 0 publish without a producer id, and nobody asks for one."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client, client.producer(acks=1) as producer:
        cluster.topic("t")
        script = cluster.fault = Script(LeaderNotAvailableError("election"))
        await producer.publish("t", b"0")
        assert script.producers == [-1, -1]
        assert cluster.next_producer == 1_000


async def test_closing_while_nothing_answers_fails_what_is_left() -> None:
    """A close that is cancelled ends everything: no future stays without an answer."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        cluster.topic("t")
        producer = client.producer()
        await producer.publish("t", b"0")
        cluster.nodes[1].hold = asyncio.Event()
        future = await producer.send("t", b"1")
        await until(lambda: len(cluster.messages) == 2)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await producer.close()
        with pytest.raises(IndeterminateError):
            await future


async def test_what_a_stopping_node_has_not_read_is_sent_again_without_doubt() -> None:
    """It says that it reads no more and has answered all that it read: so even a producer that could not tell a second copy sends
    the rest again, to whoever leads by then."""
    async with FakeCluster() as cluster, client_of(cluster) as client, client.producer(idempotence=False) as producer:
        (partition,) = cluster.topic("t")
        await producer.publish("t", b"0")
        cluster.nodes[1].closing = True
        future = await producer.send("t", b"1")
        await until(lambda: len(cluster.messages) > 1)
        cluster.elect(partition, 2)
        assert (await future).offset == 1
        assert values(partition) == numbered(2)


async def test_another_leader_is_not_made_to_wait_for_what_the_last_one_refused() -> None:
    """Waits grow while one node refuses; the next leader begins with the shortest."""
    async with FakeCluster() as cluster, client_of(cluster) as client, client.producer() as producer:
        (partition,) = cluster.topic("t")
        cluster.fault = Script(*[LeaderNotAvailableError("the leader is changing")] * 4)
        future = await producer.send("t", b"0")
        queue = producer._delivery.queue(partition.tp)
        await until(lambda: queue.failures >= 3)
        cluster.elect(partition, 3)
        await until(lambda: queue.route == cluster.nodes[3].address)
        assert queue.failures <= 1
        await future
