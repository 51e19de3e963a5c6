"""A fetch over many partitions: limits, waiting for any of them, followers, and readers in other racks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from raftlog.broker.config import BrokerConfig
from raftlog.broker.fetch_many import ManyFetch
from raftlog.broker.partition import Partition
from raftlog.broker.port import Fetched, FetchPart
from raftlog.consensus.port import FollowerProgress
from raftlog.core.configuration import member_id
from raftlog.errors import (
    FencedLeaderEpochError,
    InvalidRequestError,
    LeaderNotAvailableError,
    NotLeaderError,
    OffsetOutOfRangeError,
    OverloadedError,
    RaftlogError,
    TopicExistsError,
    UnknownLeaderEpochError,
    UnknownTopicOrPartitionError,
)
from raftlog.model import Acks, TopicPartition
from tests.broker.cluster import Cluster
from tests.broker.doubles import records

MANY = 1 << 20


@asynccontextmanager
async def running(cluster: Cluster) -> AsyncIterator[Cluster]:
    """Its brokers, started, and known to each other."""
    for broker in cluster.brokers.values():
        await broker.start()
    count = len(cluster.brokers)
    await until(lambda: all(len(broker.cluster().nodes) == count for broker in cluster.brokers.values()))
    yield cluster
    for broker in cluster.brokers.values():
        await broker.stop()


def part(partition: int = 0, offset: int = 0, *, bytes_max: int = MANY, topic: str = "t", epoch: int = -1) -> FetchPart:
    """A part."""
    return FetchPart(tp=TopicPartition(topic, partition), offset=offset, bytes_max=bytes_max, leader_epoch=epoch)


def counts(outcomes: list[Fetched | RaftlogError]) -> list[int | str]:
    """For each part the number of its batches, or its error's reason."""
    return [len(outcome.batches) if isinstance(outcome, Fetched) else outcome.reason for outcome in outcomes]


async def until(holds: Callable[[], bool]) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


async def topic(cluster: Cluster, partitions: int, *, replicas: int = 1) -> None:
    """Topic ``t``."""
    await cluster.brokers[1].create_topic("t", partitions=partitions, replication_factor=replicas, configs={})


async def publish(cluster: Cluster, partition: int, *, size: int = 10, node: int = 1) -> None:
    """One batch of one record."""
    tp = TopicPartition("t", partition)
    (outcome,) = await cluster.brokers[node].publish([(tp, records(size=size))], acks=Acks.ALL, timeout_s=1)
    assert not isinstance(outcome, RaftlogError), outcome


def replicas_of(cluster: Cluster, node: int) -> list[Partition]:
    """A node's open partitions."""
    return list(cluster.brokers[node]._replicas.values())


async def test_each_part_has_its_own_outcome_in_its_place() -> None:
    """Batches, nothing, and two kinds of errors."""
    async with running(Cluster(1)) as cluster:
        await topic(cluster, 3)
        await publish(cluster, 1)
        await publish(cluster, 1)
        parts = [part(0), part(1), part(7), part(2, offset=5), part(topic="nope")]
        outcomes = await cluster.brokers[1].fetch_many(parts, bytes_max=MANY, wait_s=60)
    assert counts(outcomes) == [0, 2, "UNKNOWN_TOPIC_OR_PARTITION", "OFFSET_OUT_OF_RANGE", "UNKNOWN_TOPIC_OR_PARTITION"]
    assert isinstance(outcomes[1], Fetched)
    assert (outcomes[1].next_offset, outcomes[1].high_watermark, outcomes[1].log_start_offset) == (2, 2, 0)


async def test_an_answer_is_full_by_bytes_and_goes_on_with_whoever_was_not_reached() -> None:
    """The first batch comes whole whatever its size; parts behind a full answer are empty and say where they were."""
    async with running(Cluster(1)) as cluster:
        await topic(cluster, 2)
        for partition in (0, 0, 1):
            await publish(cluster, partition, size=1_000)
        full = await cluster.brokers[1].fetch_many([part(0), part(1)], bytes_max=500)
        each = await cluster.brokers[1].fetch_many([part(0, bytes_max=500), part(1)], bytes_max=MANY)
    assert counts(full) == [1, 0]
    assert isinstance(full[1], Fetched)
    assert full[1].next_offset == 0
    assert counts(each) == [1, 1]


async def test_a_part_that_a_full_answer_did_not_reach_still_tells_the_ends_of_its_log() -> None:
    """Readers of a busy broker measure by them how far behind they are."""
    async with running(Cluster(1)) as cluster:
        await topic(cluster, 2)
        for partition in (0, 1, 1, 1):
            await publish(cluster, partition, size=1_000)
        await cluster.brokers[1].delete_records(TopicPartition("t", 1), 1, timeout_s=1)
        _, unreached = await cluster.brokers[1].fetch_many([part(0), part(1, 2)], bytes_max=500)
    assert isinstance(unreached, Fetched)
    assert (unreached.size_bytes, unreached.log_start_offset, unreached.high_watermark, unreached.next_offset) == (0, 1, 3, 2)


async def test_one_future_waits_for_all_partitions_and_the_first_to_grow_ends_it() -> None:
    """However many there are, no task is made for them, and nothing is left behind on any."""
    async with running(Cluster(1)) as cluster:
        await topic(cluster, 100)
        async with asyncio.TaskGroup() as group:
            parts = [part(number) for number in range(100)]
            fetch = group.create_task(cluster.brokers[1].fetch_many(parts, bytes_max=MANY, wait_s=60))
            await until(lambda: all(len(one._watchers) == 1 for one in replicas_of(cluster, 1)))
            futures = {future for one in replicas_of(cluster, 1) for future in one._watchers}
            assert len(futures) == 1
            await publish(cluster, 42)
        assert counts(fetch.result()) == [1 if number == 42 else 0 for number in range(100)]
        assert not any(one._watchers for one in replicas_of(cluster, 1))


async def test_it_waits_for_min_bytes_and_keeps_what_came_before() -> None:
    """What is there counts; what comes is added behind it."""
    async with running(Cluster(1)) as cluster:
        await topic(cluster, 2)
        await publish(cluster, 0, size=100)
        async with asyncio.TaskGroup() as group:
            fetch = group.create_task(cluster.brokers[1].fetch_many([part(0), part(1)], bytes_max=MANY, bytes_min=400, wait_s=60))
            await until(lambda: any(one._watchers for one in replicas_of(cluster, 1)))
            await publish(cluster, 1, size=10)
            await publish(cluster, 0, size=200)
    assert counts(fetch.result()) == [2, 1]


async def test_its_wait_ends_by_time_and_by_cancellation_without_a_trace() -> None:
    """An empty answer; or none, where the reader is gone."""
    async with running(Cluster(1)) as cluster:
        await topic(cluster, 1)
        assert counts(await cluster.brokers[1].fetch_many([part()], bytes_max=MANY, wait_s=0.01)) == [0]
        async with asyncio.TaskGroup() as group:
            fetch = group.create_task(cluster.brokers[1].fetch_many([part()], bytes_max=MANY, wait_s=60))
            await until(lambda: any(one._watchers for one in replicas_of(cluster, 1)))
            fetch.cancel()
        assert not any(one._watchers for one in replicas_of(cluster, 1))
        assert cluster.brokers[1]._fetches_waiting == 0


async def test_the_loss_of_a_partitions_leadership_ends_the_wait_and_is_told() -> None:
    """Its reader must look for the new leader now, not when its time is up."""
    async with running(Cluster(3)) as cluster:
        await topic(cluster, 1, replicas=3)
        leader = cluster.brokers[1].topic("t").partitions[0].leader
        assert leader is not None
        async with asyncio.TaskGroup() as group:
            fetch = group.create_task(cluster.brokers[leader].fetch_many([part()], bytes_max=MANY, wait_s=60, direct=True))
            await until(lambda: any(one._watchers for one in replicas_of(cluster, leader)))
            cluster.network.elect(1, leader % 3 + 1)
        assert counts(fetch.result()) == ["NOT_LEADER"]


async def test_what_another_node_leads_is_read_there_unless_the_caller_asks_for_itself() -> None:
    """Parts here and parts elsewhere in one answer; both kinds end the wait."""
    async with running(Cluster(2)) as cluster:
        await topic(cluster, 2)
        led = {info.partition: info.leader for info in cluster.brokers[1].topic("t").partitions}
        assert sorted(str(leader) for leader in led.values()) == ["1", "2"]
        there = next(partition for partition, leader in led.items() if leader == 2)
        async with asyncio.TaskGroup() as group:
            fetch = group.create_task(cluster.brokers[1].fetch_many([part(0), part(1)], bytes_max=MANY, wait_s=60))
            await until(lambda: any(one._watchers for one in replicas_of(cluster, 2)))
            await publish(cluster, there)
        assert counts(fetch.result()) == [int(number == there) for number in (0, 1)]
        direct = await cluster.brokers[1].fetch_many([part(there)], bytes_max=MANY, direct=True)
    assert counts(direct) == ["NOT_LEADER"]


async def test_a_follower_serves_what_is_committed_here_and_waits_above_it() -> None:
    """Only where the reader allows it, and never beyond its own high watermark."""
    async with running(Cluster(3)) as cluster:
        await topic(cluster, 1, replicas=3)
        await publish(cluster, 0)
        leader = cluster.brokers[1].topic("t").partitions[0].leader
        follower = cluster.brokers[next(node for node in (1, 2, 3) if node != leader)]
        await until(lambda: follower.replicas()[1].high_watermark == 1)
        assert counts(await follower.fetch_many([part()], bytes_max=MANY, direct=True, follower=True)) == [1]
        assert counts(await follower.fetch_many([part()], bytes_max=MANY, direct=True)) == ["NOT_LEADER"]
        above = await follower.fetch_many([part(offset=9)], bytes_max=MANY, direct=True, follower=True, wait_s=0.01)
    assert counts(above) == [0]


async def test_a_follower_that_knows_no_leader_serves_nothing() -> None:
    """Cut off, it would look like an idle partition for ever."""
    async with running(Cluster(3)) as cluster:
        await topic(cluster, 1, replicas=3)
        leader = cluster.brokers[1].topic("t").partitions[0].leader
        follower = next(node for node in (1, 2, 3) if node != leader)
        cluster.network.nodes[follower].logs[1].follow(9, None)
        (outcome,) = await cluster.brokers[follower].fetch_many([part()], bytes_max=MANY, direct=True, follower=True)
    assert isinstance(outcome, (LeaderNotAvailableError, NotLeaderError))


async def test_a_reader_in_another_rack_is_told_the_replica_there() -> None:
    """The leader gives no batches then, and at once; a reader in its own rack, or in none, gets them (KIP-392)."""
    async with running(in_racks()) as cluster:
        leader, other = await racks(cluster)
        await publish(cluster, 0)

        async def ask(rack: str) -> tuple[int, int]:
            (outcome,) = await cluster.brokers[leader].fetch_many(
                [part()], bytes_max=MANY, direct=True, follower=True, rack=rack, wait_s=60
            )
            assert isinstance(outcome, Fetched)
            return len(outcome.batches), outcome.preferred_replica

        assert await ask(f"r{other}") == (0, other)
        assert await ask(f"r{leader}") == (1, -1)
        assert await ask("nowhere") == (1, -1)
        assert await ask("") == (1, -1)


async def test_a_follower_that_is_dropped_while_a_fetch_waits_ends_it_at_once() -> None:
    """The topic is deleted: the reader is told, and the loop does not turn around it until its time is up."""
    async with running(Cluster(3)) as cluster:
        await topic(cluster, 1, replicas=3)
        await until(lambda: all(broker._replicas for broker in cluster.brokers.values()))
        leader = cluster.brokers[1].topic("t").partitions[0].leader
        assert leader is not None
        follower = cluster.brokers[leader % 3 + 1]
        (replica,) = follower._replicas.values()
        looks = 0
        read = ManyFetch._read

        def counted(self: ManyFetch, *arguments: Any) -> None:
            nonlocal looks
            looks += 1
            read(self, *arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ManyFetch, "_read", counted)
            waiting = asyncio.get_running_loop().create_task(
                follower.fetch_many([part()], bytes_max=MANY, wait_s=5.0, direct=True, follower=True)
            )
            await until(lambda: bool(replica._watchers))
            await cluster.brokers[leader].delete_topic("t")
            (outcome,) = await waiting
        assert isinstance(outcome, (UnknownTopicOrPartitionError, NotLeaderError, LeaderNotAvailableError))
        assert looks <= 3


async def racks(cluster: Cluster) -> tuple[int, int]:
    """Topic ``t`` on three nodes, each in a rack of its own; the leader and another node."""
    await topic(cluster, 1, replicas=3)
    await until(lambda: all(broker._replicas for broker in cluster.brokers.values()))
    leader = cluster.brokers[1].topic("t").partitions[0].leader
    assert leader is not None
    return leader, leader % 3 + 1


def in_racks() -> Cluster:
    """Three nodes, node n in rack rn."""
    cluster = Cluster(3)
    for node_id, broker in cluster.brokers.items():
        broker._node_info = replace(broker._node_info, rack=f"r{node_id}")
    return cluster


@pytest.mark.parametrize("offset", [0, 99])
async def test_a_reader_out_of_range_is_told_so_and_sent_nowhere(offset: int) -> None:
    """A replica that is nearer could say no more, and the leader would send the reader there again."""
    async with running(in_racks()) as cluster:
        leader, other = await racks(cluster)
        for _ in range(3):
            await publish(cluster, 0, node=leader)
        await cluster.brokers[leader].delete_records(TopicPartition("t", 0), 2, timeout_s=5)
        (outcome,) = await cluster.brokers[leader].fetch_many(
            [part(offset=offset)], bytes_max=MANY, direct=True, follower=True, rack=f"r{other}"
        )
        assert isinstance(outcome, OffsetOutOfRangeError)


@pytest.mark.parametrize(
    "progress",
    [
        FollowerProgress(match_index=1, heard_s=0.0),
        FollowerProgress(match_index=99, heard_s=60.0),
        FollowerProgress(match_index=99, heard_s=0.0, damaged=True),
    ],
)
async def test_readers_are_sent_to_no_replica_that_lags_is_silent_or_damaged(
    progress: FollowerProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is catching up would have nothing for them, one that is damaged serves nobody: the leader goes on itself."""
    async with running(in_racks()) as cluster:
        leader, other = await racks(cluster)
        await publish(cluster, 0, node=leader)
        (replica,) = replicas_of(cluster, leader)
        monkeypatch.setattr(replica.log, "followers", lambda: {member_id(other, 1): progress})
        (outcome,) = await cluster.brokers[leader].fetch_many(
            [part()], bytes_max=MANY, direct=True, follower=True, rack=f"r{other}"
        )
        assert isinstance(outcome, Fetched)
        assert (len(outcome.batches), outcome.preferred_replica) == (1, -1)


async def test_what_may_be_read_is_asked_after_the_wait() -> None:
    """Many wait at the same place: each is given what the others have left, not what there was when it came."""
    async with running(Cluster(1)) as cluster:
        await topic(cluster, 1)
        room = [MANY]
        waiting = asyncio.get_running_loop().create_task(
            cluster.brokers[1].fetch_many([part()], bytes_max=MANY, wait_s=5.0, share=lambda wanted: min(wanted, room[0]))
        )
        (replica,) = replicas_of(cluster, 1)
        await until(lambda: bool(replica._watchers))
        room[0] = 1
        tp = TopicPartition("t", 0)
        await cluster.brokers[1].publish([(tp, records(size=100)), (tp, records(size=100))], acks=Acks.ALL, timeout_s=1)
        assert counts(await waiting) == [1]


@pytest.mark.parametrize(("epoch", "kind"), [(0, FencedLeaderEpochError), (9, UnknownLeaderEpochError)])
async def test_a_wrong_leader_epoch_is_told(epoch: int, kind: type[RaftlogError]) -> None:
    """Older: look up the leader again. Newer: this node has to catch up (KIP-320)."""
    async with running(Cluster(1)) as cluster:
        await topic(cluster, 1)
        term = cluster.brokers[1].topic("t").partitions[0].leader_epoch
        assert term == 1
        wrong, right = await cluster.brokers[1].fetch_many([part(epoch=epoch), part(epoch=term)], bytes_max=MANY, wait_s=60)
        with pytest.raises(kind):
            await cluster.brokers[1].list_offset(TopicPartition("t", 0), -1, leader_epoch=epoch)
    assert isinstance(wrong, kind)
    assert isinstance(right, Fetched)


async def test_fetches_that_wait_are_bounded() -> None:
    """One more is refused, and told to come again."""
    async with running(Cluster(1, BrokerConfig(fetches_waiting_max=0))) as cluster:
        with pytest.raises(OverloadedError):
            await cluster.brokers[1].fetch_many([part()], bytes_max=MANY)


async def test_records_are_deleted_and_epochs_looked_up_through_any_node() -> None:
    """The call is passed on to the leader, once; who asks for this node alone is told who leads."""
    async with running(Cluster(2)) as cluster:
        await topic(cluster, 2)
        there = next(info.partition for info in cluster.brokers[1].topic("t").partitions if info.leader == 2)
        tp = TopicPartition("t", there)
        for _ in range(3):
            await publish(cluster, there)
        end = await cluster.brokers[1].epoch_end(tp, 1)
        assert (end.leader_epoch, end.end_offset) == (1, 3)
        assert await cluster.brokers[1].delete_records(tp, 2, timeout_s=5) == 2
        assert (await cluster.brokers[1].partition_status(tp)).log_start_offset == 2
        with pytest.raises(NotLeaderError):
            await cluster.brokers[1].delete_records(tp, 3, timeout_s=5, direct=True)
        with pytest.raises(NotLeaderError):
            await cluster.brokers[1].epoch_end(tp, 1, direct=True)


async def test_a_new_topic_can_be_tried_without_being_made() -> None:
    """The same refusals, and the numbers that it would have."""
    async with running(Cluster(3)) as cluster:
        broker = cluster.brokers[2]
        seen = broker.check_new_topic("n", partitions=0, replication_factor=0, configs={"retention.ms": "5"})
        assert (len(seen.partitions), seen.replication_factor, seen.configs) == (1, 3, {"retention.ms": "5"})
        assert broker.topics() == []
        await topic(cluster, 1)
        with pytest.raises(TopicExistsError):
            cluster.brokers[1].check_new_topic("t", partitions=1, replication_factor=1, configs={})
        for wrong in (
            {"partitions": 1, "replication_factor": 4, "configs": {}},
            {"partitions": 9_999, "replication_factor": 1, "configs": {}},
            {"partitions": 1, "replication_factor": 1, "configs": {"no.such.key": "1"}},
        ):
            with pytest.raises(InvalidRequestError):
                broker.check_new_topic("n", **wrong)  # type: ignore[arg-type]
