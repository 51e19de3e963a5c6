"""Damaged replicas are filled again without a person: whole brokers over doubles, and the pauses between two times."""

from __future__ import annotations

import asyncio

import pytest

from raftlog.broker.broker import NodeBroker
from raftlog.broker.renewals import (
    LOOK_S,
    REFUSED_PAUSE_S,
    RENEWED_PAUSE_MAX_S,
    RENEWED_PAUSE_S,
    REPLICAS_PER_CALL_MAX,
    Renewals,
)
from raftlog.core.configuration import node_of
from raftlog.errors import InvalidRequestError, UnavailableError
from raftlog.model import Acks, ReplicaStatus, TopicPartition
from raftlog.pb.raftlog.internal.v1 import moves_pb2 as pb
from tests.broker.cluster import Cluster, cluster, until
from tests.broker.doubles import HandClock, HandLog, records

T0 = TopicPartition("t", 0)


async def topic_of(some: Cluster, factor: int = 3) -> int:
    """The group of a topic with a record."""
    broker = some.brokers[1]
    await broker.create_topic("t", partitions=1, replication_factor=factor, configs={})
    await broker.publish([(T0, records(1))], acks=Acks.ALL, timeout_s=2.0)
    return broker.topic("t").partitions[0].group_id


def damage(some: Cluster, node: int, group: int) -> HandLog:
    """A replica that was found to be damaged."""
    log = some.network.nodes[node].logs[group]
    log.damaged = "entry 2 fails its check"
    return log


def follower_of(some: Cluster) -> int:
    """A node that does not lead the topic, nor the metadata."""
    leader = some.brokers[1].topic("t").partitions[0].leader
    return next(node for node in some.brokers if node not in (1, leader))


def status_of(broker: NodeBroker, group: int) -> ReplicaStatus:
    """What a node tells of its replica."""
    return next(one for one in broker.replicas() if one.group_id == group)


async def test_a_damaged_replica_is_deleted_and_filled_again_from_the_others() -> None:
    """The same node has another replica of the partition in the end, sound, a voter, and with the record."""
    async with cluster(3) as some:
        group = await topic_of(some)
        node = follower_of(some)
        old = damage(some, node, group)
        await until(lambda: some.network.nodes[node].logs[group].own != old.own)
        new = some.network.nodes[node].logs[group]
        leader = some.brokers[1].topic("t").partitions[0].leader
        assert leader is not None
        log = some.network.nodes[leader].logs[group]
        await until(lambda: new.own in log.configuration.voters and old.own not in log.configuration.members)
        await until(lambda: new.last_index == log.last_index)
        assert sorted(map(node_of, log.configuration.voters)) == [1, 2, 3]
        assert some.network.nodes[node].dropped == [group]
        await until(lambda: not some.brokers[1].moves.under_way())
        assert some.brokers[node].moves.renewed == 1
        assert not status_of(some.brokers[node], group).damaged


async def test_the_last_replicas_are_not_given_up() -> None:
    """With another voter down, the damaged one may be the last with the rest: it stays, and says what it waits for."""
    async with cluster(3) as some:
        group = await topic_of(some)
        node = follower_of(some)
        other = next(one for one in some.brokers if one != node and one != some.brokers[1].topic("t").partitions[0].leader)
        some.network.down.add(other)
        old = damage(some, node, group)
        broker = some.brokers[node]
        await until(lambda: status_of(broker, group).waits_for != "")
        assert "only 1 of the 3 voters hold what is committed" in status_of(broker, group).waits_for or other == 1
        assert some.network.nodes[node].logs[group] is old
        assert some.network.nodes[node].dropped == []
        assert broker.moves.renewed == 0


async def test_two_of_three_replicas_that_are_damaged_are_not_given_up() -> None:
    """What one of them cannot read the other one may; the leader does not count what does not answer."""
    async with cluster(3) as some:
        group = await topic_of(some)
        leader = some.brokers[1].topic("t").partitions[0].leader
        assert leader is not None
        nodes = [node for node in some.brokers if node != leader]
        log = some.network.nodes[leader].logs[group]
        log.matches = lambda its, member: 0  # neither answers
        olds = [damage(some, node, group) for node in nodes]
        await until(lambda: all(status_of(some.brokers[node], group).waits_for for node in nodes))
        assert [some.network.nodes[node].logs[group] for node in nodes] == olds


async def test_the_leader_of_the_metadata_takes_no_more_than_it_says() -> None:
    """A call that asks about too many is refused as a whole."""
    async with cluster(3) as some:
        call = pb.RenewCall(node_id=2, replicas=[pb.DamagedReplica(group=number) for number in range(REPLICAS_PER_CALL_MAX + 1)])
        with pytest.raises(InvalidRequestError, match="at most"):
            await some.brokers[1].moves.answer("renew", call.SerializeToString())


async def test_what_is_no_replica_any_more_is_refused_by_its_group() -> None:
    """Groups that no topic has, and replicas that another one has taken the place of."""
    async with cluster(3) as some:
        group = await topic_of(some)
        call = pb.RenewCall(
            node_id=2, replicas=[pb.DamagedReplica(group=99, replica_id=1), pb.DamagedReplica(group=group, replica_id=9)]
        )
        body, _ = await some.brokers[1].moves.answer("renew", call.SerializeToString())
        why = {one.group: one.why for one in pb.RenewAnswer.FromString(body).refused}
        assert why == {99: "no topic has its group any more", group: "it is not wanted any more"}


class Node:
    """A node with one damaged replica of group 5, whose id rises when it is renewed, and the answers that it gets."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.replica_id = 2
        self.sound = False
        self.why: str | None = None
        self.error: Exception | None = None
        self.asked: list[int] = []
        self.renewals = Renewals(2, replicas=self, ask=self.ask, clock=self.clock)

    def damaged(self) -> dict[int, int]:
        """See ``DamagedReplicas``."""
        return {} if self.sound else {5: self.replica_id}

    async def ask(self, call: pb.RenewCall) -> pb.RenewAnswer:
        """Group 0's leader."""
        [one] = call.replicas
        self.asked.append(one.replica_id)
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        if self.why is not None:
            return pb.RenewAnswer(refused=[pb.NotRenewed(group=5, why=self.why)])
        self.replica_id += 1
        return pb.RenewAnswer()

    async def after(self, seconds: float) -> int:
        """How often it has asked when so much more time has passed."""
        self.clock.now_ms += int(seconds * 1_000)
        await self.renewals.look()
        return len(self.asked)


async def test_a_refused_renewal_is_asked_for_again_after_a_pause() -> None:
    """Whether the answer said no, or none came."""
    node = Node()
    node.why = "not now"
    assert await node.after(0) == 1
    assert await node.after(REFUSED_PAUSE_S - 1) == 1
    node.error = UnavailableError("nobody leads")
    assert await node.after(1) == 2
    node.error = node.why = None
    assert await node.after(REFUSED_PAUSE_S) == 3
    assert node.renewals.renewed == 1


async def test_a_disk_that_damages_all_that_it_is_given_is_filled_ever_more_seldom() -> None:
    """Its peers have better things to do."""
    node = Node()
    assert await node.after(0) == 1
    pause_s = RENEWED_PAUSE_S
    for times in range(1, 20):
        assert await node.after(pause_s - 1) == times
        assert await node.after(1) == times + 1
        pause_s = min(2 * pause_s, RENEWED_PAUSE_MAX_S)
    assert pause_s == RENEWED_PAUSE_MAX_S
    assert node.asked == list(range(2, 22))


async def test_a_replica_that_stayed_sound_for_long_is_renewed_soon_when_it_is_damaged_again() -> None:
    """What happened to it before is forgotten."""
    node = Node()
    for times in range(1, 6):
        assert await node.after(RENEWED_PAUSE_MAX_S) == times
    node.sound = True
    assert await node.after(2 * RENEWED_PAUSE_MAX_S) == 5
    node.sound = False
    assert await node.after(0) == 6
    assert await node.after(RENEWED_PAUSE_S) == 7


class Many:
    """A node with many damaged replicas, of which only that of the group ``helped`` can be given up."""

    def __init__(self, count: int, helped: int) -> None:
        self.clock = HandClock()
        self.helped = helped
        self.left = dict.fromkeys(range(1, count + 1), 1)
        self.asked: list[int] = []
        self.renewals = Renewals(2, replicas=self, ask=self.ask, clock=self.clock)

    def damaged(self) -> dict[int, int]:
        """See ``DamagedReplicas``."""
        return dict(self.left)

    async def ask(self, call: pb.RenewCall) -> pb.RenewAnswer:
        """Group 0's leader."""
        await asyncio.sleep(0)
        groups = [one.group for one in call.replicas]
        self.asked += groups
        if self.helped in groups:
            del self.left[self.helped]
        return pb.RenewAnswer(
            refused=[pb.NotRenewed(group=group, why="the last one") for group in groups if group != self.helped]
        )


async def test_however_many_replicas_are_damaged_each_is_asked_about() -> None:
    """Those that nobody can give up are due again before all others had their turn; they must not keep them from it for ever."""
    count = 5 * REPLICAS_PER_CALL_MAX
    node = Many(count, helped=count)
    for _ in range(5):
        node.clock.now_ms += int(LOOK_S * 1_000)
        await node.renewals.look()
    assert sorted(node.asked) == list(range(1, count + 1))
    assert count not in node.left
    for _ in range(5):
        node.clock.now_ms += int(LOOK_S * 1_000)
        await node.renewals.look()
    assert set(node.asked[count:]) == set(range(1, count))
