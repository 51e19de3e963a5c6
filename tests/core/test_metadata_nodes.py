"""The metadata state machine: nodes that join, drain and go, and replicas that are placed anew."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from raftlog.core.features import NEWEST
from raftlog.core.metadata import MetadataState
from raftlog.core.metadata_rows import TABLE_NODES, TABLE_TOPICS, register_command, replica_rows
from raftlog.core.metadata_values import Effects, PartitionMeta
from raftlog.errors import (
    InvalidReplicaAssignmentError,
    InvalidRequestError,
    NodeInUseError,
    NodeRemovedError,
    RaftlogError,
    StalePlacementError,
    UnavailableError,
    UnknownNodeError,
    UnknownTopicOrPartitionError,
)
from raftlog.model import NodeInfo, NodeStatus
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb

TOPIC = b"a" * 16


def _node(node_id: int, *, incarnation: int = 1, grpc: str = "h:1") -> pb.RegisterNode:
    info = NodeInfo(node_id=node_id, peer_address=f"h:{node_id}", grpc_address=grpc, incarnation=incarnation, level_max=NEWEST)
    return register_command(info)


def _register(node_id: int, *, incarnation: int = 1) -> pb.MetadataCommand:
    return pb.MetadataCommand(register_node=_node(node_id, incarnation=incarnation))


def _add(node_id: int, join: int) -> pb.MetadataCommand:
    return pb.MetadataCommand(add_node=pb.AddNode(node=_node(node_id), join_id=bytes([join]) * 16, joined_at_ms=7))


def _status(node_id: int, status: pb.NodeStatus.ValueType) -> pb.MetadataCommand:
    return pb.MetadataCommand(set_node_status=pb.SetNodeStatus(node_id=node_id, status=status))


def _place(state: MetadataState, *nodes: int, partition: int = 0, reason: str = "why") -> pb.MetadataCommand:
    expected = state.topics["t"].partitions[partition].replicas
    return _placements(pb.Placement(
        topic_id=TOPIC, partition=partition, expected=replica_rows(expected), replicas=nodes, reason=reason, placed_at_ms=9
    ))  # fmt: skip


def _placements(*placements: pb.Placement) -> pb.MetadataCommand:
    return pb.MetadataCommand(place_partitions=pb.PlacePartitions(placements=placements))


def _remove(node: int, replica: int, *, placed_index: int, partition: int = 0) -> pb.MetadataCommand:
    row = pb.ReplicaRow(node_id=node, replica_id=replica)
    one = pb.RemovedReplica(topic_id=TOPIC, partition=partition, replica=row, placed_index=placed_index)
    return pb.MetadataCommand(remove_replicas=pb.RemoveReplicas(replicas=[one]))


def _cluster(*, nodes: int = 4, replicas: tuple[tuple[int, ...], ...] = ((1, 2, 3),)) -> MetadataState:
    state = MetadataState()
    state.apply(1, pb.MetadataCommand(raise_level=pb.RaiseLevel(level=NEWEST)))
    for node_id in range(1, nodes + 1):
        assert state.apply(node_id, _register(node_id)).error is None
    create = pb.CreateTopic(
        name="t",
        topic_id=TOPIC,
        replication_factor=len(replicas[0]),
        partitions=[pb.Assignment(replicas=one) for one in replicas],
    )
    assert state.apply(9, pb.MetadataCommand(create_topic=create)).error is None
    return state


def _first(state: MetadataState) -> PartitionMeta:
    return state.topics["t"].partitions[0]


def _done(effects: Effects) -> Effects:
    assert effects.error is None
    return effects


def _refused(effects: Effects, error: type[RaftlogError]) -> None:
    assert isinstance(effects.error, error), effects
    assert not effects.rows


def test_a_new_partitions_replicas_are_its_founders() -> None:
    """Their ids count from 1, and the next replica gets the next one."""
    first = _first(_cluster())
    assert first.founders == first.replicas == ((1, 1), (2, 2), (3, 3))
    assert (first.next_replica_id, first.placed_index) == (4, 9)


def test_a_placement_wants_new_replicas_and_lets_old_ones_leave() -> None:
    """Who stays keeps its id; who leaves is remembered until it was seen to have left, and may come back as itself till then."""
    state = _cluster()
    (topic,) = _done(state.apply(10, _place(state, 4, 2, 3))).altered
    first = topic.partitions[0]
    assert first.replicas == ((4, 4), (2, 2), (3, 3))
    assert (first.leaving, first.before, first.reason, first.placed_at_ms) == (((1, 1),), (1, 2, 3), "why", 9)
    assert first.founders == ((1, 1), (2, 2), (3, 3))
    assert [first.replica_on(node) for node in (1, 2, 4)] == [1, 2, 4], "node 1 keeps its replica open"
    _done(state.apply(11, _place(state, 1, 2, 3)))
    assert _first(state).replicas == ((1, 1), (2, 2), (3, 3))
    assert _first(state).leaving == ((4, 4),)
    _done(state.apply(12, _remove(4, 4, placed_index=11)))
    assert _first(state).leaving == ()
    _done(state.apply(13, _place(state, 1, 2, 4)))
    assert _first(state).replicas == ((1, 1), (2, 2), (4, 5)), "an id that was given out is never given out again"


def test_a_placement_over_another_one_is_refused() -> None:
    """Two who decide at once: the second has not seen what the first wants."""
    state = _cluster()
    first, second = _place(state, 4, 2, 3), _place(state, 1, 4, 3)
    _done(state.apply(10, first))
    _refused(state.apply(11, second), StalePlacementError)


def test_placements_pass_all_or_none() -> None:
    """So that a plan is never carried out by half."""
    state = _cluster(replicas=((1, 2, 3), (1, 2, 3)))
    good, bad = _place(state, 4, 2, 3), _place(state, 1, 2, 9, partition=1)
    both = _placements(*good.place_partitions.placements, *bad.place_partitions.placements)
    _refused(state.apply(10, both), InvalidReplicaAssignmentError)
    assert _first(state).nodes == (1, 2, 3)


def test_senseless_placements_are_refused() -> None:
    """No node, one twice, an unknown one, a draining one, a partition that is not there, one twice, or nothing at all."""
    state = _cluster()
    for nodes in ((), (1, 1), (1, 9)):
        _refused(state.apply(10, _place(state, *nodes)), InvalidReplicaAssignmentError)
    _done(state.apply(10, _status(4, pb.NODE_STATUS_DRAINING)))
    _refused(state.apply(11, _place(state, 1, 2, 4)), InvalidReplicaAssignmentError)
    _refused(state.apply(11, _placements(pb.Placement(topic_id=TOPIC, partition=1))), UnknownTopicOrPartitionError)
    _refused(state.apply(11, _placements(pb.Placement(topic_id=b"b" * 16))), UnknownTopicOrPartitionError)
    one = _place(state, 2, 1, 3).place_partitions.placements[0]
    _refused(state.apply(11, _placements(one, one)), InvalidReplicaAssignmentError)
    _refused(state.apply(11, _placements()), InvalidRequestError)


def test_a_topic_has_as_many_replicas_as_its_widest_partition() -> None:
    """What partitions that are added later get."""
    state = _cluster(replicas=((1, 2), (2, 3)))
    _done(state.apply(10, _place(state, 1, 2, 3)))
    assert state.topics["t"].replication_factor == 3


def test_a_removal_counts_only_under_the_placement_that_it_was_seen_under() -> None:
    """A replica that was wanted again meanwhile may have come back: it is passed over, without an error."""
    state = _cluster()
    _done(state.apply(10, _place(state, 4, 2, 3)))
    for command in (_remove(1, 1, placed_index=9), _remove(2, 2, placed_index=10), _remove(1, 1, placed_index=10, partition=7)):
        assert _done(state.apply(11, command)).rows == ()
    assert _first(state).leaving == ((1, 1),)
    (topic,) = _done(state.apply(12, _remove(1, 1, placed_index=10))).altered
    assert topic.partitions[0].leaving == ()
    assert topic.partitions[0].replica_on(1) is None


def test_a_node_joins_once_for_each_empty_directory() -> None:
    """The same join sent again changes nothing; another one is another disk, and the next incarnation."""
    state = _cluster()
    effects = _done(state.apply(10, _add(5, join=1)))
    assert (effects.incarnation, effects.nodes) == (2, (5,))
    assert _done(state.apply(11, _add(5, join=1))).rows == ()
    assert state.apply(12, _add(5, join=1)).incarnation == 2
    assert _done(state.apply(13, _add(5, join=2))).incarnation == 3
    assert state.nodes[5].incarnation == 3
    _refused(state.apply(14, pb.MetadataCommand(add_node=pb.AddNode(node=_node(5)))), InvalidRequestError)


def test_a_node_that_lost_its_disk_gets_new_replicas_in_place_of_the_lost_ones() -> None:
    """They never come back under their old ids, not even where they were leaving; founders stay who they were."""
    state = _cluster(replicas=((1, 2, 3), (2, 3, 4), (1, 2, 4)))
    _done(state.apply(10, _place(state, 1, 2, 4)))
    effects = _done(state.apply(11, _add(3, join=1)))
    assert effects.incarnation == 2
    first, second, third = state.topics["t"].partitions
    assert (first.replicas, first.leaving, first.lost) == (((1, 1), (2, 2), (4, 4)), (), ((3, 3),))
    assert (second.replicas, second.lost) == (((2, 1), (3, 4), (4, 3)), ((3, 2),))
    assert second.founders == ((2, 1), (3, 2), (4, 3))
    assert third.placed_index == 9, "it had nothing there"
    assert [one.replica_on(3) for one in (first, second, third)] == [None, 4, None]
    assert second.reason == "node 3 came back with an empty disk"
    _done(state.apply(12, _place(state, 1, 2, 3)))
    assert _first(state).replicas == ((1, 1), (2, 2), (3, 5))


def test_an_old_disk_is_not_registered_any_more() -> None:
    """The node has come back with another one since."""
    state = _cluster()
    _done(state.apply(10, _add(3, join=1)))
    _refused(state.apply(11, _register(3)), NodeRemovedError)
    _done(state.apply(12, _register(3, incarnation=2)))
    _refused(state.apply(13, _register(3, incarnation=3)), InvalidRequestError)


def test_registering_anew_does_not_end_a_drain() -> None:
    """Addresses are the node's, its status is the cluster's."""
    state = _cluster()
    _done(state.apply(10, _status(3, pb.NODE_STATUS_DRAINING)))
    _done(state.apply(11, pb.MetadataCommand(register_node=_node(3, grpc="h:9"))))
    assert (state.nodes[3].grpc_address, state.nodes[3].status) == ("h:9", NodeStatus.DRAINING)
    _done(state.apply(12, _add(3, join=1)))
    assert state.nodes[3].status is NodeStatus.DRAINING


def test_a_node_is_removed_when_it_holds_nothing_and_comes_back_only_as_another() -> None:
    """Neither wanted replicas nor such as are leaving or lost; then it is known as one that was, and its incarnations go on."""
    state = _cluster()
    _refused(state.apply(10, _status(1, pb.NODE_STATUS_REMOVED)), NodeInUseError)
    _done(state.apply(11, _place(state, 4, 2, 3)))
    _refused(state.apply(12, _status(1, pb.NODE_STATUS_REMOVED)), NodeInUseError)
    _done(state.apply(13, _remove(1, 1, placed_index=11)))
    assert _done(state.apply(14, _status(1, pb.NODE_STATUS_REMOVED))).nodes == (1,)
    assert 1 not in state.nodes
    assert state.removed[1].status is NodeStatus.REMOVED
    _refused(state.apply(15, _register(1)), NodeRemovedError)
    _refused(state.apply(15, _status(1, pb.NODE_STATUS_ACTIVE)), NodeRemovedError)
    assert _done(state.apply(15, _status(1, pb.NODE_STATUS_REMOVED))).rows == ()
    _refused(state.apply(15, _place(state, 1, 2, 3)), InvalidReplicaAssignmentError)
    assert _done(state.apply(16, _add(1, join=3))).incarnation == 2
    assert state.nodes[1].status is NodeStatus.ACTIVE
    assert 1 not in state.removed


def test_a_join_does_not_outlive_the_removal_of_its_node() -> None:
    """A directory that was removed joins no more; an empty one does."""
    state = _cluster()
    _done(state.apply(10, _add(5, join=1)))
    _done(state.apply(11, _status(5, pb.NODE_STATUS_REMOVED)))
    _refused(state.apply(12, _add(5, join=1)), NodeRemovedError)
    assert _done(state.apply(13, _add(5, join=2))).incarnation == 3


def test_a_status_of_an_unknown_node_or_an_unknown_status_is_refused() -> None:
    """Both may come from a typing mistake."""
    state = _cluster()
    _refused(state.apply(10, _status(9, pb.NODE_STATUS_DRAINING)), UnknownNodeError)
    _refused(state.apply(10, _status(1, pb.NODE_STATUS_UNSPECIFIED)), InvalidRequestError)


def test_rows_of_older_versions_are_read() -> None:
    """They name neither founders nor a next replica id, nor a node's status: each has a meaning when it is missing."""
    topic = pb.TopicRow(
        name="t", topic_id=TOPIC, replication_factor=2, created_at_ms=1,
        partitions=[pb.PartitionRow(group_id=1, created_index=5, replicas=replica_rows(((2, 1), (1, 2))))],
    )  # fmt: skip
    state = MetadataState()
    state.load(
        [
            (TABLE_TOPICS, TOPIC, topic.SerializeToString()),
            (TABLE_NODES, b"\x00\x00\x00\x01", pb.RegisterNode(node_id=1, grpc_address="h:1").SerializeToString()),
        ]
    )
    first = _first(state)
    assert (
        first.replicas == first.founders == ((2, 1), (1, 1))
    )  # all members of its groups had replica id 1, whatever stands there
    assert (first.next_replica_id, first.placed_index, first.leaving) == (3, 5, ())
    assert (state.nodes[1].status, state.nodes[1].incarnation) == (NodeStatus.ACTIVE, 1)


_NODES = st.integers(1, 5)
_STEPS = st.one_of(
    st.tuples(st.just("register"), _NODES, st.integers(0, 3)),
    st.tuples(st.just("add"), _NODES, st.integers(1, 3)),
    st.tuples(st.just("status"), _NODES, st.integers(0, 3)),
    st.tuples(st.just("place"), st.lists(_NODES, max_size=3), st.integers(0, 1)),
    st.tuples(st.just("remove"), st.integers(0, 9), st.integers(0, 1)),
)


def _command(state: MetadataState, step: tuple[str, object, int]) -> pb.MetadataCommand:
    kind, what, number = step
    if kind == "place":
        assert isinstance(what, list)
        return _place(state, *what, partition=number)
    assert isinstance(what, int)
    if kind == "register":
        return _register(what, incarnation=number)
    if kind == "add":
        return _add(what, join=number)
    if kind == "status":
        return _status(what, pb.NodeStatus.ValueType(number))
    partition = state.topics["t"].partitions[number]
    going = partition.leaving + partition.lost + partition.replicas
    node, replica = going[what % len(going)]
    return _remove(node, replica, placed_index=partition.placed_index, partition=number)


@settings(max_examples=300, deadline=None)
@given(st.lists(_STEPS, max_size=40))
def test_replica_ids_never_repeat_and_the_rows_hold_the_state(steps: list[tuple[str, object, int]]) -> None:
    """Whatever is applied: each replica is in one list, a node has one that lives, ids only rise, and rows rebuild it all."""
    state = _cluster(replicas=((1, 2, 3), (2, 3, 4)))
    rows = {(table, key): value for table, key, value in state.rows()}
    known: dict[int, dict[int, int]] = {1: {}, 2: {}}
    for index, step in enumerate(steps, start=10):
        effects = state.apply(index, pb.MetadataCommand.FromString(_command(state, step).SerializeToString()))
        for table, key, value in effects.rows:
            assert value is not None
            rows[table, key] = value
        for one in state.topics["t"].partitions:
            there = one.replicas + one.leaving + one.lost
            assert len(set(there)) == len(there)
            living = [node for node, _ in one.replicas + one.leaving]
            assert len(set(living)) == len(living)
            for node, replica in there:
                assert known[one.group_id].setdefault(replica, node) == node, "a replica id moved to another node"
                assert replica < one.next_replica_id
            assert not any(node in state.removed for node, _ in there)
    rebuilt = MetadataState()
    rebuilt.load((table, key, value) for (table, key), value in rows.items())
    assert rebuilt == state


def test_a_join_that_was_asked_for_before_another_one_is_refused() -> None:
    """Its process may be dead, and it would make an old disk of the one that has joined. It may ask again."""
    state = _cluster()
    late, early = _add(5, join=1), _add(5, join=2)
    for command in (late, early):
        command.add_node.known_incarnation = 0
    first = _done(state.apply(11, early)).incarnation
    _refused(state.apply(12, late), UnavailableError)
    assert _done(state.apply(13, early)).incarnation == first
    late.add_node.known_incarnation = first
    assert _done(state.apply(14, late)).incarnation == first + 1
