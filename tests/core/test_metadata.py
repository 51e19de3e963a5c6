"""The metadata state machine: commands, refusals, and rows that hold the whole state."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from raftlog.core.features import NEWEST
from raftlog.core.metadata import MetadataState
from raftlog.core.metadata_rows import register_command
from raftlog.errors import (
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    InvalidRequestError,
    TopicExistsError,
    UnknownTopicOrPartitionError,
)
from raftlog.model import NodeInfo
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb

ID_A, ID_B = b"a" * 16, b"b" * 16


def _register(node_id: int, grpc: str = "h:1") -> pb.MetadataCommand:
    node = NodeInfo(node_id=node_id, peer_address=f"h:{node_id}", grpc_address=grpc, level_max=NEWEST)
    return pb.MetadataCommand(register_node=register_command(node))


def _raise(*nodes: int) -> pb.MetadataCommand:
    """The cluster at the newest level, which these nodes support; without nodes, what a cluster begins with."""
    said = [pb.NodeLevels(node_id=node, incarnation=1, level_min=1, level_max=NEWEST) for node in nodes]
    return pb.MetadataCommand(raise_level=pb.RaiseLevel(level=NEWEST, nodes=said))


def _create(name: str = "t", topic_id: bytes = ID_A, replicas: tuple[tuple[int, ...], ...] = ((1, 2),)) -> pb.MetadataCommand:
    return pb.MetadataCommand(
        create_topic=pb.CreateTopic(
            name=name,
            topic_id=topic_id,
            replication_factor=len(replicas[0]) if replicas else 1,
            partitions=[pb.Assignment(replicas=nodes) for nodes in replicas],
            configs={"retention.ms": "5"},
            created_at_ms=7,
        )
    )


def _delete(name: str = "t", topic_id: bytes = ID_A) -> pb.MetadataCommand:
    return pb.MetadataCommand(delete_topic=pb.DeleteTopic(name=name, topic_id=topic_id))


def _cluster(nodes: int = 3) -> MetadataState:
    state = MetadataState()
    assert state.apply(1, _raise()).level == NEWEST
    for node_id in range(1, nodes + 1):
        assert state.apply(node_id, _register(node_id)).nodes == (node_id,)
    return state


def test_a_created_topic_has_group_ids_from_one_and_the_index_that_created_it() -> None:
    """Group ids are handed out in order; replica ids count from 1; the preferred leader stays first."""
    state = _cluster()
    effects = state.apply(9, _create(replicas=((2, 1), (3, 2))))
    (topic,) = effects.created
    assert [p.group_id for p in topic.partitions] == [1, 2]
    assert topic.partitions[0].replicas == ((2, 1), (1, 2))
    assert topic.partitions[0].nodes == (2, 1)
    assert {p.created_index for p in topic.partitions} == {9}
    assert state.topics["t"] == topic


def test_a_second_topic_of_the_same_name_is_refused() -> None:
    """The name is taken; nothing changes."""
    state = _cluster()
    state.apply(9, _create())
    effects = state.apply(10, _create(topic_id=ID_B))
    assert isinstance(effects.error, TopicExistsError)
    assert effects.rows == ()
    assert state.next_group_id == 2


def test_creating_again_under_the_same_id_changes_nothing() -> None:
    """A creator who lost the answer may repeat itself."""
    state = _cluster()
    state.apply(9, _create())
    effects = state.apply(10, _create())
    assert effects.error is None
    assert effects.created == ()
    assert state.next_group_id == 2


def test_group_ids_are_not_reused_after_a_delete() -> None:
    """A topic created anew gets new groups, so old data is never taken for its own."""
    state = _cluster()
    state.apply(9, _create())
    assert state.apply(10, _delete()).deleted[0].topic_id == ID_A
    (topic,) = state.apply(11, _create(topic_id=ID_B)).created
    assert topic.partitions[0].group_id == 2


def test_a_command_for_an_older_topic_of_the_name_is_refused() -> None:
    """Commands name the UUID: a delete that was meant for the topic before does not hit the new one."""
    state = _cluster()
    state.apply(9, _create(topic_id=ID_B))
    assert isinstance(state.apply(10, _delete(topic_id=ID_A)).error, UnknownTopicOrPartitionError)
    assert isinstance(state.apply(11, _delete(name="other")).error, UnknownTopicOrPartitionError)
    assert "t" in state.topics


def test_altering_sets_and_unsets_configs_and_adds_partitions() -> None:
    """Partitions that are there stay as they are."""
    state = _cluster()
    (before,) = state.apply(9, _create()).created
    alter = pb.AlterTopic(
        name="t", topic_id=ID_A, set_configs={"retention.bytes": "9"}, unset_configs=["retention.ms"],
        more_partitions=[pb.Assignment(replicas=[3, 1])],
    )  # fmt: skip
    (after,) = state.apply(10, pb.MetadataCommand(alter_topic=alter)).altered
    assert after.configs == {"retention.bytes": "9"}
    assert after.partitions[0] == before.partitions[0]
    assert after.partitions[1].nodes == (3, 1)
    assert after.partitions[1].created_index == 10
    assert before.configs == {"retention.ms": "5"}, "what was handed out does not change afterwards"


def test_bad_placements_are_refused() -> None:
    """No partitions, doubled replicas, unknown nodes and a wrong number of replicas each have an error."""
    state = _cluster()
    assert isinstance(state.apply(9, _create(replicas=())).error, InvalidPartitionsError)
    assert isinstance(state.apply(9, _create(replicas=((1, 1),))).error, InvalidReplicationFactorError)
    assert isinstance(state.apply(9, _create(replicas=((1, 9),))).error, InvalidReplicationFactorError)
    assert isinstance(state.apply(9, _create(replicas=((1, 2), (1,)))).error, InvalidReplicationFactorError)
    assert state.topics == {}


def test_unknown_and_senseless_commands_are_refused() -> None:
    """Node 0 and a count of 0 change nothing; nor does an empty command, which is refused before it is in the log."""
    state = MetadataState()
    assert isinstance(state.check(pb.MetadataCommand()), InvalidRequestError)
    for command in (
        pb.MetadataCommand(register_node=pb.RegisterNode()),
        pb.MetadataCommand(allocate_producer_ids=pb.AllocateProducerIds(node_id=1)),
    ):
        assert isinstance(state.apply(1, command).error, InvalidRequestError)
    assert state == MetadataState()


def test_producer_id_blocks_do_not_overlap() -> None:
    """Each block starts where the last ended, also after a reload."""
    state = MetadataState()
    command = pb.MetadataCommand(allocate_producer_ids=pb.AllocateProducerIds(node_id=1, count=1000))
    assert state.apply(1, command).first_producer_id == 0
    again = MetadataState()
    again.load(state.rows())
    assert again.apply(2, command).first_producer_id == 1000


def test_registering_the_same_node_again_writes_nothing() -> None:
    """Only a change is a change."""
    state = _cluster(1)
    assert state.apply(5, _register(1)).rows == ()
    assert state.apply(6, _register(1, grpc="h:2")).nodes == (1,)
    assert state.nodes[1].grpc_address == "h:2"


_names = st.sampled_from(["a", "b", "c"])
_ids = st.sampled_from([bytes([n]) * 16 for n in range(4)])
_nodes = st.lists(st.integers(1, 4), min_size=1, max_size=3)
_assignments = st.lists(_nodes.map(lambda nodes: pb.Assignment(replicas=nodes)), max_size=3)
_configs = st.dictionaries(st.sampled_from(["k", "l"]), st.sampled_from(["1", "2"]), max_size=2)
_commands = st.one_of(
    st.integers(0, 4).map(_register),
    st.builds(
        lambda n, i, f, p, c: pb.MetadataCommand(
            create_topic=pb.CreateTopic(name=n, topic_id=i, replication_factor=f, partitions=p, configs=c)
        ),
        _names, _ids, st.integers(0, 3), _assignments, _configs,
    ),
    st.builds(
        lambda n, i, c, u, p: pb.MetadataCommand(
            alter_topic=pb.AlterTopic(name=n, topic_id=i, set_configs=c, unset_configs=u, more_partitions=p)
        ),
        _names, _ids, _configs, st.lists(st.sampled_from(["k", "l"]), max_size=2), _assignments,
    ),
    st.builds(_delete, _names, _ids),
    st.integers(0, 9).map(
        lambda count: pb.MetadataCommand(allocate_producer_ids=pb.AllocateProducerIds(node_id=1, count=count))
    ),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(_commands, max_size=30))
def test_the_state_from_rows_is_the_state_from_the_log(commands: list[pb.MetadataCommand]) -> None:
    """Whatever is applied, the rows written on the way rebuild the same state (I8), also where the cluster's feature level was
    raised on the way; and group ids never repeat."""
    state = MetadataState()
    rows: dict[tuple[int, bytes], bytes] = {}
    groups: list[int] = []
    commands = [_register(1), _register(2), *commands[:10], _raise(1, 2, 3, 4), *commands[10:]]
    for index, command in enumerate(commands, start=1):
        effects = state.apply(index, pb.MetadataCommand.FromString(command.SerializeToString()))
        assert effects.error is None or not effects.rows
        for table, key, value in effects.rows:
            if value is None:
                del rows[table, key]
            else:
                rows[table, key] = value
        for topic in effects.created + effects.altered:
            groups += [p.group_id for p in topic.partitions if p.created_index == index]
    rebuilt = MetadataState()
    rebuilt.load((table, key, value) for (table, key), value in rows.items())
    assert rebuilt == state
    assert len(groups) == len(set(groups))


def test_ids_that_a_lost_command_may_have_given_out_are_given_to_nobody() -> None:
    """Group, producer and replica ids and incarnations leap, also after a restart; of an old group that no topic has, nobody
    knows any more whether it was deleted."""
    state = _cluster()
    state.apply(9, _create(replicas=((1, 2), (1, 2))))
    state.apply(10, _create("old", ID_B))
    state.apply(11, _delete("old", ID_B))
    assert state.deleted(3)
    before = state.topics["t"].partitions[0].next_replica_id
    skip = pb.SkipIds(groups=100, producers=1_000, replicas=50, incarnations=30)
    effects = state.apply(12, pb.MetadataCommand(skip_ids=skip))
    assert effects.error is None
    again = MetadataState()
    again.load(state.rows())
    assert again == state
    assert not any(again.deleted(group) for group in (1, 2, 3, 4, 103, 104))
    assert (again.next_group_id, again.next_producer_id) == (104, 1_000)
    assert again.topics["t"].partitions[0].next_replica_id == before + 50
    (topic,) = again.apply(13, _create("u", ID_B)).created
    assert topic.partitions[0].group_id == 104
    assert again.apply(14, _delete("u", ID_B)).deleted
    assert again.deleted(104)
    join = pb.AddNode(node=_register(3).register_node, join_id=b"j" * 16)
    assert again.apply(15, pb.MetadataCommand(add_node=join)).incarnation == 31


def test_more_ids_than_there_ever_were_are_not_skipped() -> None:
    """A wrong count must not burn the space."""
    state = _cluster()
    for skip in (pb.SkipIds(groups=1 << 41), pb.SkipIds(producers=1 << 41), pb.SkipIds(replicas=1 << 21)):
        assert isinstance(state.apply(9, pb.MetadataCommand(skip_ids=skip)).error, InvalidRequestError)
    assert state.next_group_id == 1
