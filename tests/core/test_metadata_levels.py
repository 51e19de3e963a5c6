"""The cluster's feature level in group 0's state: at a level all versions agree that support it; it is raised by all or none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raftlog.core.features import NEWEST, Level
from raftlog.core.metadata import MetadataState
from raftlog.core.metadata_rows import TABLE_NODES, TABLE_TOPICS, register_command
from raftlog.errors import FeatureLevelError, NewerFormatError
from raftlog.model import NodeInfo
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb

TOPIC_ID = b"t" * 16


def register(node_id: int, *, level_max: int = NEWEST, incarnation: int = 1) -> pb.MetadataCommand:
    """A node registers; one of the first version says nothing of levels."""
    node = NodeInfo(
        node_id=node_id, peer_address=f"h:{node_id}", grpc_address="g:1", level_max=level_max, incarnation=incarnation
    )
    command = register_command(node)
    if level_max == Level.FIRST:
        command.ClearField("level_min")
        command.ClearField("level_max")
    return pb.MetadataCommand(register_node=command)


def create(*replicas: int) -> pb.MetadataCommand:
    """A topic of one partition."""
    topic = pb.CreateTopic(
        name="t", topic_id=TOPIC_ID, replication_factor=len(replicas), partitions=[pb.Assignment(replicas=replicas)]
    )
    return pb.MetadataCommand(create_topic=topic)


def raising(*nodes: int, level: int = NEWEST, level_max: int = NEWEST, without: tuple[int, ...] = ()) -> pb.MetadataCommand:
    """All of these nodes have said that they support levels up to ``level_max``."""
    said = [pb.NodeLevels(node_id=node, incarnation=1, level_min=1, level_max=level_max) for node in nodes]
    return pb.MetadataCommand(raise_level=pb.RaiseLevel(level=level, nodes=said, without=without))


def first_version(*nodes: int) -> MetadataState:
    """A cluster of nodes of the first version."""
    state = MetadataState()
    for node_id in nodes:
        state.apply(node_id, register(node_id, level_max=1))
    return state


def reloaded(state: MetadataState) -> MetadataState:
    """The state from its rows."""
    again = MetadataState()
    again.load(state.rows())
    return again


def test_a_cluster_begins_at_the_level_of_its_first_command() -> None:
    """Before any node has registered, nobody needs to have said anything; then every node must support it."""
    state = MetadataState()
    assert state.pristine
    assert state.apply(2, raising()).level == NEWEST
    assert (state.level, state.raised_index, state.pristine) == (NEWEST, 2, False)
    assert state.apply(3, register(1)).nodes == (1,)
    refused = state.apply(4, register(2, level_max=1)).error
    assert isinstance(refused, FeatureLevelError)
    assert f"cluster is at feature level {NEWEST}, and the version of node 2 supports level 1" in str(refused)
    assert list(state.nodes) == [1]
    assert reloaded(state) == state


def test_a_cluster_of_the_first_version_stays_there_until_it_is_raised() -> None:
    """What came later is refused, and says how to get it."""
    state = first_version(1, 2, 3)
    for command in (
        pb.MetadataCommand(add_node=pb.AddNode(node=pb.RegisterNode(node_id=4), join_id=b"j" * 16)),
        pb.MetadataCommand(set_node_status=pb.SetNodeStatus(node_id=1, status=pb.NODE_STATUS_DRAINING)),
        pb.MetadataCommand(place_partitions=pb.PlacePartitions()),
        pb.MetadataCommand(remove_replicas=pb.RemoveReplicas()),
        pb.MetadataCommand(level=2, allocate_producer_ids=pb.AllocateProducerIds(count=1)),
    ):
        before = state.rows()
        error = state.apply(9, command).error
        assert isinstance(error, FeatureLevelError), command
        assert "needs feature level 2" in str(error)
        assert state.rows() == before


def test_the_level_is_raised_when_all_nodes_have_said_that_they_support_it() -> None:
    """Not by those that have not, nor by a disk of a node that it no longer has; the same again changes nothing."""
    state = first_version(1, 2, 3)
    for command, text in (
        (raising(1, 2), "nodes [3] became part of the cluster"),
        (raising(1, 2, 3, level_max=1), "node 1 supports level 1"),
    ):
        error = state.apply(9, command).error
        assert isinstance(error, FeatureLevelError)
        assert text in str(error)
        assert state.level == 1
    assert state.apply(10, raising(1, 2, 3)).nodes == (1, 2, 3)
    assert {node.level_max for node in state.nodes.values()} == {NEWEST}
    assert state.apply(11, raising(1, 2, 3)).rows == ()
    assert state.raised_index == 10
    assert isinstance(state.apply(12, raising(1, 2, 3, level=1)).error, FeatureLevelError)
    assert reloaded(state) == state
    stale = raising(1, 2)
    stale.raise_level.nodes.add(node_id=3, incarnation=2, level_min=1, level_max=NEWEST)
    assert isinstance(first_version(1, 2, 3).apply(9, stale).error, FeatureLevelError)


def test_nodes_that_do_not_count_are_named_by_the_operator() -> None:
    """Nothing is known of them until they register again."""
    state = first_version(1, 2, 3)
    assert state.apply(9, raising(1, 2, without=(3,))).error is None
    assert [node.level_max for node in state.nodes.values()] == [NEWEST, NEWEST, 1]
    assert isinstance(state.apply(10, register(3, level_max=1)).error, FeatureLevelError)
    assert state.apply(11, register(3)).error is None
    assert state.nodes[3].level_max == NEWEST


def test_what_nodes_say_at_the_first_level_does_not_count() -> None:
    """The first version drops it from its rows, so states differ in it; they agree from the raise on, and before it in all that
    decides anything."""
    newer, older = first_version(1, 2), first_version(1, 2)
    newer.apply(8, register(1))
    assert newer.nodes[1].level_max == NEWEST
    assert newer.nodes != older.nodes
    for state in (newer, older):
        assert state.apply(9, create(2, 1)).error is None
        assert state.apply(10, raising(1, 2)).error is None
    assert newer == older


def test_rows_of_the_first_level_are_those_of_the_first_version() -> None:
    """Field by field, but for what that version passes over: so a node may go back to it."""
    state = first_version(1, 2)
    (topic,) = state.apply(9, create(2, 1)).created
    rows = {(table, key): value for table, key, value in state.rows()}
    row = pb.TopicRow.FromString(rows[TABLE_TOPICS, TOPIC_ID])
    assert row == pb.TopicRow(
        name="t",
        topic_id=TOPIC_ID,
        replication_factor=2,
        partitions=[
            pb.PartitionRow(
                group_id=1,
                replicas=[pb.ReplicaRow(node_id=2, replica_id=1), pb.ReplicaRow(node_id=1, replica_id=2)],
                created_index=9,
            )
        ],
    )
    assert {table for table, _ in rows} == {1, 2, 3}
    node = pb.NodeRow.FromString(rows[TABLE_NODES, bytes([0, 0, 0, 1])])
    assert (node.node_id, node.peer_address, node.grpc_address, node.level) == (1, "h:1", "g:1", 0)
    assert topic.partitions[0].founders == ((2, 1), (1, 1))


def test_groups_of_the_first_level_have_members_of_replica_id_one_for_good() -> None:
    """So the first version calls them. Groups of a higher level have ids of their own, and later replicas of old groups too."""
    state = first_version(1, 2, 3)
    state.apply(9, create(2, 1))
    old = state.topics["t"].partitions[0]
    assert (old.replicas, old.founders, old.next_replica_id) == (((2, 1), (1, 1)), ((2, 1), (1, 1)), 3)
    assert reloaded(state).topics["t"] == state.topics["t"]
    state.apply(10, raising(1, 2, 3))
    assert reloaded(state) == state
    more = pb.AlterTopic(name="t", topic_id=TOPIC_ID, more_partitions=[pb.Assignment(replicas=[3, 1])])
    state.apply(11, pb.MetadataCommand(alter_topic=more))
    old, new = state.topics["t"].partitions
    assert (old.founders, new.founders) == (((2, 1), (1, 1)), ((3, 1), (1, 2)))
    placement = pb.Placement(topic_id=TOPIC_ID, replicas=[3, 1])
    placement.expected.extend([pb.ReplicaRow(node_id=2, replica_id=1), pb.ReplicaRow(node_id=1, replica_id=1)])
    assert state.apply(12, pb.MetadataCommand(place_partitions=pb.PlacePartitions(placements=[placement]))).error is None
    assert state.topics["t"].partitions[0].replicas == ((3, 3), (1, 1))
    assert reloaded(state) == state


def test_a_node_that_joins_must_support_the_clusters_level() -> None:
    """As one that registers."""
    state = MetadataState()
    state.apply(2, raising())
    join = pb.AddNode(node=register(4, level_max=1).register_node, join_id=b"j" * 16)
    assert isinstance(state.apply(3, pb.MetadataCommand(add_node=join)).error, FeatureLevelError)
    join = pb.AddNode(node=register(4).register_node, join_id=b"j" * 16)
    assert state.apply(4, pb.MetadataCommand(add_node=join)).error is None
    assert state.nodes[4].level_max == NEWEST


def test_a_level_that_this_version_does_not_know_is_not_applied() -> None:
    """It would have to go on at a level of which it does not know what it means."""
    state = first_version(1)
    newer = replace(state.nodes[1], level_max=NEWEST + 1)
    with pytest.raises(NewerFormatError):
        state.apply(9, raising(newer.node_id, level=NEWEST + 1, level_max=NEWEST + 1))
