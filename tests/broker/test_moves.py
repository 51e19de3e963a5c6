"""Moving replicas, whole brokers over doubles: wishes are carried out to the end, through any node, and say how far they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from raftlog.broker.broker import NodeBroker
from raftlog.broker.move_port import Placing
from raftlog.core.configuration import node_of
from raftlog.errors import (
    InvalidReplicaAssignmentError,
    InvalidReplicationFactorError,
    LeaderNotAvailableError,
    NodeInUseError,
    NoMoveInProgressError,
    UnknownNodeError,
    UnknownTopicOrPartitionError,
)
from raftlog.model import Acks, Move, NodeStatus, TopicPartition
from tests.broker.cluster import FAST, Cluster, cluster, until
from tests.broker.doubles import records

T0 = TopicPartition("t", 0)


async def _topic(some: Cluster, *, partitions: int = 1, factor: int = 3) -> NodeBroker:
    """A topic with a record in each partition; any broker."""
    broker = some.brokers[2]
    await broker.create_topic("t", partitions=partitions, replication_factor=factor, configs={})
    batches = [(TopicPartition("t", number), records(1)) for number in range(partitions)]
    await broker.publish(batches, acks=Acks.ALL, timeout_s=2.0)
    return broker


def _voters(some: Cluster, tp: TopicPartition = T0) -> list[int]:
    """Nodes of the partition's voters, as its leader has them."""
    info = some.brokers[1].topic(tp.topic).partitions[tp.partition]
    assert info.leader is not None
    log = some.network.nodes[info.leader].logs[info.group_id]
    return [node_of(member) for member in log.configuration.voters] if not log.configuration.learners else []


def _outside(some: Cluster, tp: TopicPartition = T0) -> int:
    """A node without a replica."""
    held = some.brokers[1].topic(tp.topic).partitions[tp.partition].replicas
    return next(node for node in some.brokers if node not in held)


async def _settled(some: Cluster, broker: NodeBroker) -> None:
    """Wait until nothing is on the move."""
    await _moves_are(broker, lambda moves: not moves)


async def _moves_are(broker: NodeBroker, true: Callable[[list[Move]], bool]) -> list[Move]:
    """What is on the move, once something is true of it."""
    async with asyncio.timeout(5):
        while not true(moves := await broker.moves.moves()):
            await asyncio.sleep(0.01)
    return moves


async def test_a_replica_moves_with_its_records_and_leaves_nothing_behind() -> None:
    """The new node has the log, the old one has dropped it; the leader that had to go has handed over first."""
    async with cluster(4) as some:
        broker = await _topic(some)
        info = broker.topic("t").partitions[0]
        target, leaving = _outside(some), info.leader
        assert leaving is not None
        wanted = tuple(target if node == leaving else node for node in info.replicas)
        await broker.moves.place([Placing(tp=T0, replicas=wanted)], reason="test")
        await _settled(some, broker)
        assert sorted(_voters(some)) == sorted(wanted)
        assert some.network.nodes[leaving].dropped == [info.group_id]
        assert info.group_id not in some.network.nodes[leaving].logs
        assert broker.topic("t").partitions[0].replicas == wanted
        fetched = await some.leader_of(T0).fetch(T0, 0, bytes_max=1 << 20)
        assert fetched.next_offset == 1


async def test_a_move_tells_its_reason_and_who_comes_and_goes() -> None:
    """Asked of any node, while it waits for a node that is down."""
    async with cluster(4) as some:
        broker = await _topic(some)
        info = broker.topic("t").partitions[0]
        target, leaving = _outside(some), next(node for node in info.replicas if node != 1)
        some.network.down.add(target)
        wanted = tuple(target if node == leaving else node for node in info.replicas)
        await broker.moves.place([Placing(tp=T0, replicas=wanted)], reason="because")
        [move] = await _moves_are(broker, lambda moves: "is down" in moves[0].state)
        assert (move.tp, move.replicas, move.adding, move.removing) == (T0, wanted, (target,), (leaving,))
        assert (move.reason, move.state) == ("because", f"node {target} is down")
        some.network.down.clear()
        await _settled(some, broker)


async def test_a_move_is_taken_back() -> None:
    """The replicas that were to go stay, and the one that came goes again; without a move there is nothing to take back."""
    async with cluster(4) as some:
        broker = await _topic(some)
        before = broker.topic("t").partitions[0].replicas
        with pytest.raises(NoMoveInProgressError):
            await broker.moves.place([Placing(tp=T0, replicas=None)], reason="")
        target = _outside(some)
        some.network.down.add(target)
        await broker.moves.place([Placing(tp=T0, replicas=(target, *before[1:]))], reason="")
        await broker.moves.place([Placing(tp=T0, replicas=None)], reason="")
        some.network.down.clear()
        await _settled(some, broker)
        assert broker.topic("t").partitions[0].replicas == before
        assert sorted(_voters(some)) == sorted(before)


async def test_a_wish_that_makes_no_sense_is_refused() -> None:
    """And nothing changes."""
    async with cluster(3) as some:
        broker = await _topic(some)
        before = broker.topic("t").partitions[0].replicas
        for wish, error in (
            (Placing(tp=T0, replicas=(1, 1, 2)), InvalidReplicaAssignmentError),
            (Placing(tp=T0, replicas=(1, 2, 9)), InvalidReplicaAssignmentError),
            (Placing(tp=TopicPartition("t", 9), replicas=(1,)), UnknownTopicOrPartitionError),
        ):
            with pytest.raises(error):
                await broker.moves.place([wish], reason="")
        assert broker.topic("t").partitions[0].replicas == before


async def test_a_drained_node_holds_nothing_gets_nothing_and_can_be_removed() -> None:
    """Before it is drained it cannot; afterwards the cluster has one node less."""
    async with cluster(4) as some:
        broker = await _topic(some, partitions=4)
        with pytest.raises(NodeInUseError):
            await broker.moves.remove_node(3)
        await broker.moves.drain_node(3)
        await until(lambda: all(3 not in one.replicas for one in broker.topic("t").partitions))
        await _settled(some, broker)
        assert await broker.moves.drain_node(3) == 0
        assert not [group for group in some.network.nodes[3].logs if group]
        await broker.create_topic("later", partitions=4, replication_factor=3, configs={})
        assert all(3 not in one.replicas for one in broker.topic("later").partitions)
        with pytest.raises(InvalidReplicationFactorError):
            await broker.create_topic("wide", partitions=1, replication_factor=4, configs={})
        await broker.moves.remove_node(3)
        assert [node.node_id for node in broker.cluster().nodes] == [1, 2, 4]
        with pytest.raises(UnknownNodeError):
            await broker.moves.drain_node(3)


async def test_a_node_is_not_drained_where_the_others_have_no_room() -> None:
    """Three replicas need three nodes; the answer says so at once, and the node goes on taking replicas."""
    async with cluster(3) as some:
        broker = await _topic(some)
        with pytest.raises(NodeInUseError, match="add a node first"):
            await broker.moves.drain_node(2)
        with pytest.raises(UnknownNodeError):
            await broker.moves.drain_node(9)
        assert all(node.status is NodeStatus.ACTIVE for node in broker.cluster().nodes)


async def test_nothing_is_placed_on_a_node_that_is_short_of_room() -> None:
    """A drained node's replicas go where there is room, and wait where there is none."""
    async with cluster(5) as some:
        broker = await _topic(some, partitions=4)
        some.stores[5].low = True
        before = [5 in one.replicas for one in broker.topic("t").partitions]
        await broker.moves.drain_node(3)
        await until(lambda: all(3 not in one.replicas for one in broker.topic("t").partitions))
        assert [5 in one.replicas for one in broker.topic("t").partitions] == before


async def test_a_drain_that_is_cancelled_stops() -> None:
    """What has moved stays where it is; the node takes replicas again."""
    async with cluster(4) as some:
        broker = await _topic(some)
        await broker.moves.drain_node(4)
        assert await broker.moves.drain_node(4, cancel=True) in (0, 1)
        assert all(node.status is NodeStatus.ACTIVE for node in broker.cluster().nodes)


async def test_a_dead_nodes_replicas_are_made_anew_elsewhere() -> None:
    """After the delay, and not before; when it comes back, it drops what it has."""
    async with cluster(4, replace(FAST, replica_replacement_delay_ms=60_000)) as some:
        broker = await _topic(some)
        info = broker.topic("t").partitions[0]
        dead = next(node for node in info.replicas if node not in (1, info.leader))
        some.network.down.add(dead)
        await some.brokers[1].moves.placer.look()
        assert broker.topic("t").partitions[0].replicas == info.replicas
        some.clocks[1].now_ms += 60_001
        await some.brokers[1].moves.placer.look()
        await until(lambda: dead not in broker.topic("t").partitions[0].replicas)
        await _settled(some, broker)
        assert dead not in _voters(some)
        [meta] = some.brokers[1]._machine.state.topics["t"].partitions
        assert meta.reason == f"node {dead} has been down for 60 s"


async def test_what_finds_no_other_node_is_said() -> None:
    """Three replicas need three nodes: it is listed among the moves, as held up, until the node is back."""
    async with cluster(3, replace(FAST, replica_replacement_delay_ms=300_000)) as some:
        broker = await _topic(some)
        placer = some.brokers[1].moves.placer
        some.network.down.add(3)
        await placer.look()
        some.clocks[1].now_ms += 300_000
        await placer.look()
        (move,) = await broker.moves.moves()
        assert move.state == "t-0 has to leave node 3 (node 3 has been down for 5 min), and no other node can take it"
        assert (move.held_up, move.adding, move.removing) == (True, (), ())
        some.network.down.clear()
        await placer.look()
        assert await broker.moves.moves() == []


async def test_nothing_is_replaced_while_most_nodes_are_missing() -> None:
    """Then it is this node that is cut off."""
    async with cluster(5, replace(FAST, replica_replacement_delay_ms=1)) as some:
        broker = await _topic(some, partitions=3)
        before = [one.replicas for one in broker.topic("t").partitions]
        some.network.down.update((3, 4, 5))
        for _ in range(3):
            await some.brokers[1].moves.placer.look()
            some.clocks[1].now_ms += 60_000
        assert [one.replicas for one in broker.topic("t").partitions] == before


async def test_balancing_fills_an_empty_node_and_says_why() -> None:
    """A dry run changes nothing, and says the same."""
    async with cluster(4) as some:
        broker = await _topic(some, partitions=4, factor=1)
        wishes = [Placing(tp=TopicPartition("t", number), replicas=(1 + number % 2,)) for number in range(4)]
        await broker.moves.place(wishes, reason="")
        await _settled(some, broker)
        planned = await broker.moves.balance(dry_run=True)
        assert [one.replicas for one in planned.replacements] == [(3,), (4,)]
        assert planned.replacements[0].reason == "node 1 held 2 replicas, node 3 0"
        assert sorted(one.replicas for one in broker.topic("t").partitions) == [(1,), (1,), (2,), (2,)]
        done = await broker.moves.balance(dry_run=False)
        assert done == planned
        await _settled(some, broker)
        assert sorted(one.replicas for one in broker.topic("t").partitions) == [(1,), (2,), (3,), (4,)]


async def test_the_preferred_replica_leads_when_it_is_asked_for() -> None:
    """One that cannot is told of, and does not hold up the others."""
    async with cluster(4) as some:
        broker = await _topic(some, partitions=2)
        wishes = [Placing(tp=T0, replicas=(2, 3, 4)), Placing(tp=TopicPartition("t", 1), replicas=(3, 2, 4))]
        await broker.moves.place(wishes, reason="")
        await _settled(some, broker)
        first, second = broker.topic("t").partitions
        some.network.elect(first.group_id, 4)
        some.network.elect(second.group_id, 4)
        some.network.down.add(3)
        good, bad, unknown = await broker.moves.elect_leaders([T0, TopicPartition("t", 1), TopicPartition("t", 9)])
        await until(lambda: broker.topic("t").partitions[0].leader == 2)
        assert good is None
        assert isinstance(bad, LeaderNotAvailableError)
        assert isinstance(unknown, UnknownTopicOrPartitionError)
        assert broker.topic("t").partitions[1].leader == 4


async def test_leaders_go_back_to_their_preferred_replicas_by_themselves() -> None:
    """At the next look whether all is even, and not before."""
    async with cluster(3, replace(FAST, leader_imbalance_check_interval_ms=60_000)) as some:
        broker = await _topic(some)
        info = broker.topic("t").partitions[0]
        some.network.elect(info.group_id, info.replicas[1])
        await some.brokers[1].moves.placer.look()
        assert broker.topic("t").partitions[0].leader == info.replicas[1]
        some.clocks[1].now_ms += 60_001
        await some.brokers[1].moves.placer.look()
        await until(lambda: broker.topic("t").partitions[0].leader == info.replicas[0])


async def test_a_node_that_joins_gets_its_share_by_itself() -> None:
    """A few replicas at a time, only while nothing moves, and with a reason."""
    async with cluster(4, replace(FAST, leader_imbalance_check_interval_ms=60_000, rebalance_moves_max=1)) as some:
        broker = await _topic(some, partitions=8, factor=1)
        wishes = [Placing(tp=TopicPartition("t", number), replicas=(1 + number % 3,)) for number in range(8)]
        await broker.moves.place(wishes, reason="")
        await _settled(some, broker)
        for held in (1, 2):
            some.clocks[1].now_ms += 60_001
            await some.brokers[1].moves.placer.look()
            await _settled(some, broker)
            assert sum(4 in one.replicas for one in broker.topic("t").partitions) == held
        some.clocks[1].now_ms += 60_001
        await some.brokers[1].moves.placer.look()
        assert await broker.moves.moves() == []
