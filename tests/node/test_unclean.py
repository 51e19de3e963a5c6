"""Going on without a lost majority, over the data of a stopped node: what is planned, what is refused, what is written."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from raftlog.consensus.journal import CONFIG_ROW, GIVEN_UP_ROW, HARD_ROW, PROGRESS_ROW, RAFT_TABLE, progress
from raftlog.core import configuration as codec
from raftlog.core.configuration import Configuration, member_id
from raftlog.core.entry import EntryHeader, EntryKind, decode, encode
from raftlog.core.features import NEWEST, Level
from raftlog.core.metadata import MetadataState
from raftlog.errors import InvalidRequestError
from raftlog.model import TopicPartition
from raftlog.node.stopped import describe, load_metadata
from raftlog.node.unclean import SKIPPED_GROUPS, carry_out, forget_all, plan
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb
from raftlog.storage import identity
from raftlog.storage.data_directory import IDENTITY_FILE
from raftlog.storage.identity import LOST_BOOT_LEAP, LOST_NONCE, Identity
from raftlog.storage.port import WriteBatch
from tests.storage.helpers import commit, open_store

NOW_MS = 1_700_000_000_000
ADDRESSES = {node: f"h:{node}" for node in (1, 2, 3)}


def at(*nodes: int) -> tuple[int, ...]:
    """Group 0's members on these nodes."""
    return tuple(member_id(node, 1) for node in nodes)


def rows_of(group: int) -> dict[tuple[int, int, bytes], bytes]:
    """Consensus' own of such a log, of which nothing is known to be committed."""
    return {
        (group, RAFT_TABLE, HARD_ROW): (3).to_bytes(8) + (-1).to_bytes(8, signed=True),
        (group, RAFT_TABLE, PROGRESS_ROW): progress(1, 1, 0),
    }


def log_of(group: int, count: int) -> dict[tuple[int, int], bytes]:
    """Entries 1 to ``count`` of one record each, the last one appended at ``NOW_MS - 1``."""
    return {
        (group, index): encode(
            EntryHeader(EntryKind.RECORDS, group, index, 3, index, 1, append_time=NOW_MS - 1 if index == count else 0), b"x"
        ).data
        for index in range(1, count + 1)
    }


def configured(*voters: int, learners: tuple[int, ...] = (), replica: int = 1) -> bytes:
    """The row of one configuration, of node 1's replica."""
    return codec.encode_row(replica, [(1, Configuration.of(voters, learners))])


async def filled(directory: Path, level: int = NEWEST) -> Path:
    """Node 1 of three: the metadata, topic ``t`` with partitions in groups 1 (nodes 1, 2, 3) and 2 (nodes 2, 1)."""
    known = Identity(node_id=1, cluster_id="c", sealed=True, voters=ADDRESSES, peers_seen={2: (1, 7, "x")}, level=level)
    identity.store(directory / IDENTITY_FILE, known)
    state = MetadataState()
    state.apply(1, pb.MetadataCommand(raise_level=pb.RaiseLevel(level=level)))
    for node in ADDRESSES:
        state.apply(1, pb.MetadataCommand(register_node=pb.RegisterNode(node_id=node, level_max=level)))
    for name, nodes in (("t", (1, 2, 3)), ("u", (2, 1))):
        create = pb.CreateTopic(
            name=name, topic_id=name.encode() * 16, replication_factor=len(nodes), partitions=[pb.Assignment(replicas=nodes)]
        )
        assert state.apply(2, pb.MetadataCommand(create_topic=create)).error is None
    batch = WriteBatch(rows={(0, table, key): value for table, key, value in state.rows()})
    batch.entries = log_of(0, 4) | log_of(1, 9) | log_of(2, 5)
    batch.rows |= rows_of(0) | rows_of(1) | rows_of(2)
    store = open_store(directory)
    await commit(store, batch)
    store.close()
    return directory


async def put(directory: Path, rows: dict[tuple[int, int, bytes], bytes | None]) -> None:
    """Write rows."""
    store = open_store(directory)
    await commit(store, WriteBatch(rows=rows))
    store.close()


async def test_the_plan_says_what_the_replicas_hold_and_changes_nothing(tmp_path: Path) -> None:
    """Where two of three voters are lost, and where one of two is: half is no majority."""
    await filled(tmp_path)
    decided = plan(tmp_path, {2, 3}, None)
    assert decided.left == {}
    metadata, first, second = decided.forced
    assert (metadata.group, metadata.name, metadata.voters, metadata.member) == (0, None, at(1, 2, 3), member_id(1, 1))
    assert (first.name, first.voters) == (TopicPartition("t", 0), (member_id(1, 1), member_id(2, 2), member_id(3, 3)))
    assert (first.lost, first.survivors) == ((member_id(2, 2), member_id(3, 3)), ())
    assert (first.last_index, first.last_term, first.end_offset, first.written_at_ms) == (9, 3, 10, NOW_MS - 1)
    assert (second.member, second.lost) == (member_id(1, 2), (member_id(2, 1),))
    assert plan(tmp_path, {2, 3}, None) == decided


async def test_a_group_that_has_a_majority_is_left_alone(tmp_path: Path) -> None:
    """It goes on by itself; the two that have only half go on from here."""
    await filled(tmp_path)
    decided = plan(tmp_path, {2}, None)
    assert [each.group for each in decided.forced] == [2]
    assert "its majority is not lost: 2 of 3 voters are left" in decided.left[0]
    assert decided.left.keys() == {0, 1}
    assert plan(tmp_path, {3}, [2]).left == {2: "its majority is not lost: 2 of 2 voters are left, and go on by themselves"}


async def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    """This node among the lost; a group that is not here."""
    await filled(tmp_path)
    with pytest.raises(InvalidRequestError, match="the data of node 1, which is said to be lost"):
        plan(tmp_path, {1, 2}, None)
    with pytest.raises(InvalidRequestError, match="no replica of group 5 here"):
        plan(tmp_path, {2, 3}, [1, 5])


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ({(1, RAFT_TABLE, CONFIG_ROW): configured(member_id(1, 1))}, "its only voter already"),
        ({(1, RAFT_TABLE, CONFIG_ROW): configured(member_id(2, 2), member_id(3, 3))}, "its replica 1/1 is no member of it"),
        ({(1, RAFT_TABLE, CONFIG_ROW): configured(*at(1, 2, 3), replica=9)}, "or what is here is another one's"),
        ({(1, RAFT_TABLE, CONFIG_ROW): b"\xff"}, "its replica cannot be read"),
        ({(1, RAFT_TABLE, PROGRESS_ROW): b"".join(n.to_bytes(8) for n in (5, 8, 0))}, "was being filled from another one"),
        ({(9, RAFT_TABLE, CONFIG_ROW): configured(*at(1, 2, 3))}, "node 1 is to have no replica of it"),
    ],
    ids=["alone", "no member", "another replica", "damaged", "filling", "not placed"],
)
async def test_what_cannot_go_on_is_left_alone_with_the_reason(
    tmp_path: Path, rows: dict[tuple[int, int, bytes], bytes | None], why: str
) -> None:
    """The others go on all the same."""
    await filled(tmp_path)
    await put(tmp_path, rows)
    decided = plan(tmp_path, {2, 3}, None)
    [(_, said)] = decided.left.items()
    assert why in said
    assert {each.group for each in decided.forced} >= {0, 2}


async def given_up(directory: Path) -> None:
    """Node 1 whose replica of group 1 was given up for a new one, and is in its group yet."""
    await filled(directory)
    store = open_store(directory)
    state = load_metadata(store)
    [partition] = state.topics["t"].partitions
    renewed = pb.RenewedReplica(
        topic_id=b"t" * 16, partition=0, placed_index=partition.placed_index, replica=pb.ReplicaRow(node_id=1, replica_id=1)
    )
    effects = state.apply(3, pb.MetadataCommand(renew_replicas=pb.RenewReplicas(replicas=[renewed])))
    assert effects.error is None
    await commit(store, WriteBatch(rows={(0, table, key): value for table, key, value in effects.rows}))
    store.close()
    assert state.topics["t"].partitions[0].lost == ((1, 1),)
    await put(directory, {(1, RAFT_TABLE, CONFIG_ROW): configured(member_id(1, 1), member_id(2, 2), member_id(3, 3))})


async def marks(directory: Path) -> set[int]:
    """The groups whose data says that they were given up."""
    store = open_store(directory)
    found = {group for group in store.groups() if store.row(group, RAFT_TABLE, GIVEN_UP_ROW) is not None}
    store.close()
    return found


def test_a_damaged_replica_that_was_given_up_can_go_on_too(tmp_path: Path) -> None:
    """The others were lost before it had left its group: a new one is wanted in its place, but the data is here."""
    asyncio.run(given_up(tmp_path))
    decided = plan(tmp_path, {2, 3}, [1])
    [forced] = decided.forced
    assert forced.member == member_id(1, 1)
    carry_out(tmp_path, decided, NOW_MS)
    forget_all(tmp_path)
    marked = asyncio.run(marks(tmp_path))
    assert marked == {1}, "it would be left alone for an old copy at the next start"


async def test_a_surviving_learner_or_voter_stays_as_a_learner(tmp_path: Path) -> None:
    """Of five voters and a learner, three are lost."""
    await filled(tmp_path)
    await put(tmp_path, {(0, RAFT_TABLE, CONFIG_ROW): configured(*at(1, 2, 3, 4, 5), learners=at(6))})
    [metadata] = plan(tmp_path, {2, 3, 5}, [0]).forced
    assert metadata.survivors == at(4, 6)


def test_the_decision_is_written_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    """Configuration, term, marker; the lost are shut out; the metadata skips ids. Then there is nothing left to do."""
    asyncio.run(filled(tmp_path))
    before = {replica.group: replica for replica in describe(tmp_path).replicas}
    carry_out(tmp_path, plan(tmp_path, {2, 3}, None), NOW_MS)
    node = describe(tmp_path)
    assert node.identity is not None
    assert {seen[-1] for seen in node.identity.peers_seen.values()} == {LOST_NONCE}
    assert {peer: seen[:2] for peer, seen in node.identity.peers_seen.items()} == {
        2: (1, LOST_BOOT_LEAP + 7),
        3: (1, LOST_BOOT_LEAP),
    }
    for replica in node.replicas:
        was = before[replica.group]
        own = member_id(1, 2) if replica.group == 2 else member_id(1, 1)
        assert replica.configuration == Configuration((own,))
        assert replica.term == replica.last_term > was.term
        assert replica.last_index == was.last_index + (2 if replica.group == 0 else 1)
        assert replica.end_offset == was.end_offset
        assert replica.unclean_at_ms == NOW_MS
        assert replica.commit_index == was.commit_index
        assert replica.size_bytes > was.size_bytes
    again = plan(tmp_path, {2, 3}, None)
    assert again.forced == ()
    assert set(again.left.values()) == {"this replica is its only voter already"}
    assert forget_all(tmp_path) == [0, 1, 2]
    assert forget_all(tmp_path) == []
    assert {replica.unclean_at_ms for replica in describe(tmp_path).replicas} == {0}


async def test_a_cluster_of_the_first_level_is_raised_by_the_same_force(tmp_path: Path) -> None:
    """What is written is of the second, and nobody could be asked: the directory is marked, and the metadata's first command from
    then on raises the level, so that the ids are skipped."""
    await filled(tmp_path, level=Level.FIRST)
    decided = plan(tmp_path, {2, 3}, None)
    assert decided.forced[1].voters == (member_id(1, 1), member_id(2, 1), member_id(3, 1))
    await asyncio.to_thread(carry_out, tmp_path, decided, NOW_MS)
    node = describe(tmp_path)
    assert node.identity is not None
    assert node.identity.level == Level.MEMBERSHIP
    assert node.replicas[0].last_index == 7
    store = open_store(tmp_path)
    state = load_metadata(store)
    assert state.level == Level.FIRST
    for index, data in enumerate(store.entries(0, 6, 8, 1 << 20), start=6):
        assert state.apply(index, pb.MetadataCommand.FromString(bytes(decode(data).payload))).error is None
    store.close()
    assert (state.level, state.next_group_id > SKIPPED_GROUPS) == (Level.MEMBERSHIP, True)


async def test_only_the_groups_that_were_named_are_changed(tmp_path: Path) -> None:
    """And no more ids are skipped where the metadata itself has its majority."""
    await filled(tmp_path)
    decided = plan(tmp_path, {2, 3}, [2])
    await asyncio.to_thread(carry_out, tmp_path, decided, NOW_MS)
    node = describe(tmp_path)
    assert {replica.group: replica.unclean_at_ms for replica in node.replicas} == {0: 0, 1: 0, 2: NOW_MS}
    assert node.replicas[0].last_index == 4
    assert SKIPPED_GROUPS > 0
