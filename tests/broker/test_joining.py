"""A member lets nodes in: what it asks group 0, whom it does not let in, and how group 0 grows."""

from __future__ import annotations

import random
from typing import Any

import pytest

from raftlog.broker.joining import JOIN_METHOD, PROBE_METHOD
from raftlog.broker.metadata_machine import MetadataMachine
from raftlog.broker.metadata_members import LAG_ENTRIES_MAX, MetadataMembers
from raftlog.consensus.port import StateMachine
from raftlog.core.configuration import Configuration, member_id
from raftlog.core.features import NEWEST
from raftlog.core.metadata import JOIN_ID_BYTES
from raftlog.errors import InvalidRequestError, JoinRefusedError, NodeIdTakenError, NodeRemovedError
from raftlog.pb.raftlog.internal.v1 import join_pb2, metadata_pb2
from tests.broker.cluster import Cluster, until
from tests.broker.cluster import cluster as _cluster
from tests.broker.doubles import HandConsensus, HandLog

JOIN_ID = b"j" * JOIN_ID_BYTES


def join_call(node_id: int, *, address: str = "peer:4", join_id: bytes = JOIN_ID, as_founder: bool = False) -> bytes:
    node = metadata_pb2.RegisterNode(node_id=node_id, peer_address=address, rack="r", level_max=NEWEST)
    return join_pb2.JoinCall(node=node, join_id=join_id, as_founder=as_founder).SerializeToString()


async def join(cluster: Cluster, at: int, node_id: int, body: bytes | None = None) -> join_pb2.JoinAnswer:
    """Ask node ``at`` as a guest."""
    answer = await cluster.brokers[at].on_guest_call(node_id, JOIN_METHOD, body or join_call(node_id))
    return join_pb2.JoinAnswer.FromString(answer)


@pytest.mark.parametrize("asked", [1, 2])
async def test_a_guest_becomes_a_node_whichever_member_it_asks(asked: int) -> None:
    """It gets its incarnation and all addresses; asking again by the same join changes nothing, by another it does."""
    async with _cluster(2) as cluster:
        answer = await join(cluster, asked, 4)
        assert (answer.cluster_id, answer.incarnation) == ("cluster", 2)
        assert {peer.node_id: peer.peer_address for peer in answer.peers} == {1: "peer:1", 2: "peer:2"}
        assert await join(cluster, asked, 4) == answer
        again = await join(cluster, asked, 4, join_call(4, join_id=b"k" * JOIN_ID_BYTES))
        assert again.incarnation == 3
        known = {node.node_id: node.incarnation for node in cluster.brokers[asked].cluster().nodes}
        assert known == {1: 1, 2: 1, 4: 3}


async def test_a_guest_may_ask_whether_there_is_a_cluster() -> None:
    """Nothing changes by it."""
    async with _cluster(1) as cluster:
        answer = await cluster.brokers[1].on_guest_call(4, PROBE_METHOD, b"")
        assert join_pb2.JoinAnswer.FromString(answer).cluster_id == "cluster"
        assert len(cluster.brokers[1].cluster().nodes) == 1


async def test_a_node_that_was_removed_hears_so_where_it_asks() -> None:
    """By its disk of then; nobody dials it any more, so it may not hear it otherwise. A later disk of it may join."""
    async with _cluster(3) as cluster:
        await cluster.brokers[1].moves.drain_node(3)
        cluster.network.down.add(3)
        await cluster.brokers[1].moves.remove_node(3)
        with pytest.raises(NodeRemovedError, match="node 3 was removed from the cluster"):
            await cluster.brokers[1].on_guest_call(3, PROBE_METHOD, join_call(3))
        assert (await join(cluster, 1, 3)).incarnation == 2
        await cluster.brokers[1].on_guest_call(3, PROBE_METHOD, join_call(3))


async def test_a_guest_may_ask_for_nothing_else() -> None:
    """Neither another call, nor on behalf of another node."""
    async with _cluster(1) as cluster:
        for method, body in (
            ("publish", b""),
            (JOIN_METHOD, join_call(5)),
            (JOIN_METHOD, b"\xff"),
            (JOIN_METHOD, join_call(4, address="x")),
        ):
            with pytest.raises(InvalidRequestError):
                await cluster.brokers[1].on_guest_call(4, method, body)


@pytest.mark.parametrize("asked", [1, 2])
async def test_the_id_of_a_node_that_is_up_is_taken(asked: int) -> None:
    """As the asked member or the leader sees it; when it is down, its place may be taken by its next disk."""
    async with _cluster(3) as cluster:
        with pytest.raises(NodeIdTakenError, match="node 3 is up: the id is taken"):
            await join(cluster, asked, 3)
        cluster.network.down.add(3)
        assert (await join(cluster, asked, 3)).incarnation == 2


async def test_a_founder_comes_back_by_itself_only_as_the_node_that_it_was() -> None:
    """At its own address; a stranger with mistyped voters takes nobody's place."""
    async with _cluster(3) as cluster:
        cluster.network.down.add(3)
        with pytest.raises(JoinRefusedError, match=r"is at peer:3, and an empty node at elsewhere:1 says that it is that node"):
            await join(cluster, 1, 3, join_call(3, address="elsewhere:1", as_founder=True))
        with pytest.raises(JoinRefusedError, match="has begun without node 4"):
            await join(cluster, 1, 4, join_call(4, as_founder=True))
        assert (await join(cluster, 1, 3, join_call(3, address="peer:3", as_founder=True))).incarnation == 2


async def test_a_node_that_came_back_opens_no_replica_of_its_disk_before() -> None:
    """The history that it is told names the replicas that it had; under their names it would vote with empty logs."""
    async with _cluster(2) as cluster:
        await cluster.brokers[1].create_topic("t", partitions=3, replication_factor=2, configs={})
        created = {group: log.own for group, log in cluster.network.nodes[2].logs.items() if group}
        await cluster.leave(2, cluster.brokers[2])
        cluster.network.down.add(2)
        assert (await join(cluster, 1, 2)).incarnation == 2
        back = HandConsensus(2, cluster.network)
        opened: list[tuple[int, int]] = []
        open_one = back.open

        def note_and_open(group: int, machine: StateMachine, *, replica: int, **others: Any) -> HandLog:
            opened.append((group, member_id(2, replica)))
            return open_one(group, machine, replica=replica, **others)

        back.open = note_and_open  # type: ignore[method-assign]
        broker = cluster.make(2, (), incarnation=2)
        await broker.start()
        cluster.network.down.discard(2)
        await cluster.brokers[1].alter_topic("t", set_configs={"retention.ms": "1000"}, unset_configs=())
        await until(lambda: len(opened) == 4)
        assert not set(opened) & set(created.items())
        assert {group for group, _ in opened} == {0, *created}
        await broker.stop()
        again = cluster.make(2, (), incarnation=2)  # from its rows
        await again.start()
        assert opened[4:] == opened[:4]


class Group0:
    """Group 0 of nodes 1 to 3 on node 1, which leads, and the keeper of its members."""

    def __init__(self) -> None:
        self.machine = MetadataMachine(lambda _: None)
        self.log = HandLog(0, tuple(member_id(node, 1) for node in (1, 2, 3)), self.machine)
        self.machine.bind(self.log)
        self.down: set[int] = set()
        self.members = MetadataMembers(member_id(1, 1), self.machine, lambda node: node not in self.down, random.Random(1))
        self.index = 0
        self._apply(metadata_pb2.MetadataCommand(raise_level=metadata_pb2.RaiseLevel(level=NEWEST)))

    def add(self, node_id: int) -> None:
        add = metadata_pb2.AddNode(node=metadata_pb2.RegisterNode(node_id=node_id, level_max=NEWEST), join_id=JOIN_ID)
        self._apply(metadata_pb2.MetadataCommand(add_node=add))

    def register(self, *node_ids: int) -> None:
        for node_id in node_ids:
            register = metadata_pb2.RegisterNode(node_id=node_id, incarnation=1, level_max=NEWEST)
            self._apply(metadata_pb2.MetadataCommand(register_node=register))

    async def settle(self) -> Configuration:
        while await self.members.step():
            self.log.commit()
        return self.log.configuration

    def _apply(self, command: metadata_pb2.MetadataCommand) -> None:
        self.index += 1
        assert self.machine.state.apply(self.index, command).error is None


@pytest.fixture
def group0() -> Group0:
    made = Group0()
    made.log.lead(1)
    made.log.commit()
    made.register(1, 2, 3)
    return made


async def test_the_leader_alone_changes_group_0(group0: Group0) -> None:
    """A new node becomes its learner."""
    before = await group0.settle()
    group0.add(4)
    group0.log.follow(2, 2)
    assert await group0.settle() == before
    group0.log.lead(3)
    group0.log.commit()
    assert await group0.settle() == before.with_learner(member_id(4, 2))


async def test_a_lost_disk_is_replaced_when_the_next_one_has_the_log(group0: Group0) -> None:
    """Until then two vote."""
    group0.add(3)
    group0.log.matched = 0
    for _ in range(LAG_ENTRIES_MAX * 2):
        group0.log.receive_noop(group0.log.term)
    group0.log.commit()
    two = Configuration.of([member_id(1, 1), member_id(2, 1)], [member_id(3, 2)])
    assert await group0.settle() == two
    group0.log.matched = group0.log.last_index
    assert await group0.settle() == two.with_voter(member_id(3, 2))


async def test_a_node_that_is_down_is_not_counted_on(group0: Group0) -> None:
    """With node 2 down the lost voter cannot be spared."""
    group0.add(3)
    group0.down = {2}
    assert (await group0.settle()).voters == (member_id(1, 1), member_id(2, 1), member_id(3, 1))
    group0.down = set()
    assert (await group0.settle()).voters == (member_id(1, 1), member_id(2, 1), member_id(3, 2))
