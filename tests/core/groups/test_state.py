"""What a coordinator replicates: commands, their refusals, and the rows that rebuild it."""

from __future__ import annotations

import pytest

from raftlog.core.groups.hashing import java_hash, partition_of
from raftlog.core.groups.rows import KEY_TEXT_BYTES_MAX, TABLE_OFFSETS, offset_key, text_key
from raftlog.core.groups.state import GroupsState
from raftlog.errors import (
    FencedInstanceError,
    GroupIdNotFoundError,
    GroupNotEmptyError,
    IllegalGenerationError,
    InvalidRequestError,
    NewerFormatError,
    RaftlogError,
    RebalanceInProgressError,
    UnknownMemberError,
)
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.internal.v1 import groups_pb2 as pb
from raftlog.storage.port import ROW_KEY_BYTES_MAX

G = "g"
A, B = pb.MemberRow(member_id="a", instance_id="i"), pb.MemberRow(member_id="b")


class Log:
    """A state, and the log that it is made of."""

    def __init__(self) -> None:
        self.state = GroupsState()
        self.rows: dict[tuple[int, bytes], bytes] = {}
        self.index = 0

    def apply(self, **command: object) -> RaftlogError | None:
        """Apply one command; the rows are as the state says, also when loaded."""
        self.index += 1
        applied = self.state.apply(self.index, pb.GroupCommand(**command))  # type: ignore[arg-type]
        assert not (applied.error and applied.rows)
        for table, key, value in applied.rows:
            if value is None:
                del self.rows[table, key]
            else:
                self.rows[table, key] = value
        assert self.rows == {(table, key): value for table, key, value in self.state.rows()}
        loaded = GroupsState()
        loaded.load((table, key, value) for (table, key), value in self.rows.items())
        assert loaded == self.state
        return applied.error

    def generation(self, number: int, *members: pb.MemberRow) -> RaftlogError | None:
        """A new generation."""
        new = pb.NewGeneration(
            group_id=G, generation=number, protocol_type="consumer", protocol="range", leader="a", members=members, time_ms=77
        )
        return self.apply(new_generation=new)

    def assign(self, number: int, **assignments: bytes) -> RaftlogError | None:
        """An assignment."""
        brought = [pb.MemberAssignment(member_id=key, assignment=value) for key, value in assignments.items()]
        return self.apply(assign=pb.Assign(group_id=G, generation=number, assignments=brought))

    def commit(self, number: int, member_id: str = "", *offsets: int, instance_id: str | None = None) -> RaftlogError | None:
        """A commit of offsets of partitions 0, 1, …"""
        rows = [pb.OffsetRow(topic="t", partition=at, offset=offset, raft_group=7) for at, offset in enumerate(offsets)]
        commit = pb.CommitOffsets(group_id=G, generation=number, member_id=member_id, instance_id=instance_id, offsets=rows)
        return self.apply(commit_offsets=commit)


def test_generations_rise_by_one() -> None:
    """A second rebalance that believes to make the same generation is refused."""
    log = Log()
    assert isinstance(log.generation(2, A), IllegalGenerationError)
    assert log.generation(1, A) is None
    assert isinstance(log.generation(1, B), IllegalGenerationError)
    assert isinstance(log.generation(3, B), IllegalGenerationError)
    assert log.generation(2) is None
    record = log.state.groups[G]
    assert (record.generation, record.members, record.empty_since_ms) == (2, {}, 77)


def test_a_generation_has_one_assignment() -> None:
    """The first in the log; members that it does not name have none."""
    log = Log()
    assert isinstance(log.assign(1, a=b"x"), IllegalGenerationError)
    log.generation(1, A, B)
    assert isinstance(log.assign(2, a=b"x"), IllegalGenerationError)
    assert log.assign(1, a=b"x", c=b"z") is None
    assert isinstance(log.assign(1, a=b"y"), RebalanceInProgressError)
    assert {key: member.assignment for key, member in log.state.groups[G].members.items()} == {"a": b"x", "b": b""}
    log.generation(2)
    assert isinstance(log.assign(2), IllegalGenerationError)


def test_commits_stand_by_their_place_in_the_log() -> None:
    """Of members of the newest generation, assigned; from outside only while there are no members."""
    log = Log()
    assert isinstance(log.commit(1, "a", 1), IllegalGenerationError)
    assert log.commit(-1, "", 1, 2) is None
    log.generation(1, A, B)
    assert isinstance(log.commit(1, "a", 3), RebalanceInProgressError)
    log.assign(1)
    assert log.commit(1, "a", 3) is None
    assert log.commit(1, "a", 4, instance_id="i") is None
    assert isinstance(log.commit(1, "a", 5, instance_id="j"), FencedInstanceError)
    assert isinstance(log.commit(1, "c", 5), UnknownMemberError)
    assert isinstance(log.commit(-1, "", 5), UnknownMemberError)
    log.generation(2, B)
    log.assign(2)
    assert isinstance(log.commit(1, "b", 5), IllegalGenerationError)
    assert isinstance(log.commit(1, "a", 5), UnknownMemberError)
    stored = log.state.offsets[G]
    assert {tp.partition: (s.offset, s.commit_index, s.raft_group) for tp, s in stored.items()} == {0: (4, 7, 7), 1: (2, 2, 7)}
    assert log.state.offset_count == 2


def test_a_static_member_is_replaced_where_it_stood() -> None:
    """Its place, its assignment and its leadership go over; the old id is unknown from then on."""
    log = Log()
    log.generation(1, A, B)
    new = pb.MemberRow(member_id="a2", instance_id="i")

    def replaced(number: int, old: str) -> RaftlogError | None:
        replacing = pb.ReplaceMember(group_id=G, generation=number, old_member_id=old, member=new)
        return log.apply(replace_member=replacing)

    assert isinstance(replaced(1, "a"), IllegalGenerationError)
    log.assign(1, a=b"x")
    assert isinstance(replaced(2, "a"), IllegalGenerationError)
    assert isinstance(replaced(1, "b"), UnknownMemberError)
    assert replaced(1, "a") is None
    record = log.state.groups[G]
    assert (list(record.members), record.leader, record.members["a2"].assignment) == (["a2", "b"], "a2", b"x")
    assert isinstance(log.commit(1, "a", 1), UnknownMemberError)
    assert log.commit(1, "a2", 1) is None


def test_deleting_takes_the_offsets_along_and_spares_what_has_changed_since() -> None:
    """A group that got members, an offset that was committed again: the decision was about another one."""
    log = Log()

    def delete(number: int, *, only_unused: bool = False) -> RaftlogError | None:
        return log.apply(delete_group=pb.DeleteGroup(group_id=G, generation=number, only_unused=only_unused))

    def forget(at: int, commit_index: int) -> RaftlogError | None:
        ref = pb.OffsetRef(group_id=G, topic="t", partition=at, commit_index=commit_index)
        return log.apply(delete_offsets=pb.DeleteOffsets(offsets=[ref]))

    assert isinstance(delete(0), GroupIdNotFoundError)
    log.commit(-1, "", 1, 2)
    first = log.index
    log.commit(-1, "", 3)
    assert forget(0, first) is None
    assert forget(1, first) is None
    assert forget(9, 0) is None
    assert list(log.state.offsets[G]) == [TopicPartition("t", 0)]
    log.generation(1, A)
    assert isinstance(delete(0), GroupNotEmptyError)
    log.generation(2)
    assert isinstance(delete(1), GroupNotEmptyError)
    assert isinstance(delete(2, only_unused=True), GroupNotEmptyError)
    assert delete(2) is None
    assert log.rows == {}
    assert log.state == GroupsState()
    log.commit(-1, "", 1)
    assert forget(0, 0) is None
    assert log.state.offsets == {}
    assert delete(0, only_unused=True) is None


def test_a_command_of_a_newer_version_is_not_passed_over() -> None:
    """It is refused before it is in the log; where it is there, this version must not go on."""
    assert isinstance(Log().state.check(pb.GroupCommand()), InvalidRequestError)
    with pytest.raises(NewerFormatError, match="does not know"):
        Log().apply()


def test_keys_of_rows_fit_however_long_the_names_are() -> None:
    """Long texts are keyed by their hash; no key is the beginning of another's part."""
    long = "ü" * 20_000
    key = offset_key(long, TopicPartition("t" * 249, 1))
    assert len(key) <= ROW_KEY_BYTES_MAX
    assert len(offset_key("g" * KEY_TEXT_BYTES_MAX, TopicPartition("t" * KEY_TEXT_BYTES_MAX, 1))) <= ROW_KEY_BYTES_MAX
    assert offset_key("a", TopicPartition("bc", 0)) != offset_key("ab", TopicPartition("c", 0))
    assert text_key(long) != text_key(long + "x")
    log = Log()
    row = pb.OffsetRow(topic="t" * 249, offset=1)
    assert log.apply(commit_offsets=pb.CommitOffsets(group_id=long, generation=-1, offsets=[row])) is None
    assert {table for table, _ in log.rows} == {1, TABLE_OFFSETS}


@pytest.mark.parametrize(
    ("text", "code"),
    [("", 0), ("a", 97), ("hello", 99162322), ("Hello World", -862545276), ("polygenelubricants", -(1 << 31)), ("😀", 1772899)],
)
def test_groups_are_hashed_as_java_does(text: str, code: int) -> None:
    """``String.hashCode`` over UTF-16 code units; its smallest value counts as 0."""
    assert java_hash(text) == code
    assert partition_of(text, 50) == (0 if code == -(1 << 31) else abs(code) % 50)
