"""What a coordinator replicates: groups with their generations, and committed offsets. A pure state machine over commands.

Theory of operation. The state is a function of the log of the coordinator's Raft group: ``apply`` takes one committed command
and answers with the rows to write; the rows alone rebuild the state (``load``). What happens between two generations (who has
joined so far, who waits for whom, whose session runs out) is not in here: it lives on the leader alone (``live``), and a new
leader begins it anew from this state.

Rules:

1. ``check`` decides; the proposer asks it for an early answer, and ``apply`` asks it again: that answer counts. So safety
   rests on the order of the log alone, whatever a leader believed when it proposed.
2. A group's generation rises by exactly one, by ``NewGeneration``. A generation has one assignment, by its first ``Assign``.
3. A commit is of a member of the newest generation, with its own instance id, once that generation is assigned; or from
   outside of any membership while the group has no members. All others are refused, so what a fenced member sent before it
   was fenced counts only where it stands before the new generation in the log.
4. Offsets remember the Raft group of their partition, which is never reused: so those of a deleted topic can be told from
   those of a new one of the same name.
5. Whatever depends on a clock or a setting is decided by the leader and stands in the command. What was decided upon
   something that may have changed since names it (``commit_index``, ``generation``), and does nothing where it has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from raftlog.core.features import check_form
from raftlog.core.groups.records import GroupRecord, StoredOffset
from raftlog.core.groups.rows import (
    TABLE_GROUPS,
    TABLE_OFFSETS,
    Row,
    RowWrite,
    group_of,
    group_row,
    member_of,
    offset_key,
    offset_of,
    offset_row,
    text_key,
)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What one command did. With an ``error`` nothing changed and there are no rows."""

    error: RaftlogError | None = None
    rows: tuple[RowWrite, ...] = ()


@dataclass(slots=True)
class GroupsState:
    """All groups of one coordinator. Change it by ``load`` and ``apply`` only."""

    groups: dict[str, GroupRecord] = field(default_factory=dict)
    offsets: dict[str, dict[TopicPartition, StoredOffset]] = field(default_factory=dict)
    """By group; each of these groups is in ``groups``, and none of the inner ones is empty."""
    offset_count: int = 0
    """All offsets of all groups."""

    def load(self, rows: Iterable[Row]) -> None:
        """Rebuild from rows (table, key, value), in any order.

        Raises:
            NewerFormatError: a newer version wrote one of them.
        """
        self.groups, self.offsets, self.offset_count = {}, {}, 0
        for table, _, value in rows:
            if table == TABLE_GROUPS:
                found = pb.GroupRow.FromString(value)
                check_form(found.level, f"the row of group {found.group_id!r}")
                self.groups[found.group_id] = group_of(found)
            elif table == TABLE_OFFSETS:
                row = pb.OffsetRow.FromString(value)
                check_form(row.level, f"the row of an offset of group {row.group_id!r}")
                self._put(row.group_id, TopicPartition(row.topic, row.partition), offset_of(row))

    def rows(self) -> list[Row]:
        """All rows that hold this state: what ``load`` takes."""
        rows = [group_row(record) for record in self.groups.values()]
        for group_id, offsets in self.offsets.items():
            rows += [offset_row(group_id, tp, stored) for tp, stored in offsets.items()]
        return rows

    def check(self, command: pb.GroupCommand) -> RaftlogError | None:
        """Whether the command may pass as things stand: None, or the error that its proposer gets."""
        try:
            self._check(command)
        except RaftlogError as error:
            return error
        return None

    def apply(self, index: int, command: pb.GroupCommand) -> Applied:
        """Apply the committed command at ``index``; the outcome depends on nothing but the state and the two arguments.

        Raises:
            NewerFormatError: a newer version proposed it. To pass it over would be to lose what the others know.
        """
        check_form(command.level, f"the group command at index {index}")
        kind = command.WhichOneof("command")
        if kind is None:
            raise NewerFormatError(f"the group command at index {index} is of a kind that this version of raftlog does not know")
        error = self.check(command)
        if error is not None:
            return Applied(error=error)
        if kind == "new_generation":
            return self._new_generation(command.new_generation)
        if kind == "assign":
            return self._assign(command.assign)
        if kind == "replace_member":
            return self._replace(command.replace_member)
        if kind == "commit_offsets":
            return self._commit(index, command.commit_offsets)
        return self._delete(command.delete_group) if kind == "delete_group" else self._delete_offsets(command.delete_offsets)

    def _check(self, command: pb.GroupCommand) -> None:
        kind = command.WhichOneof("command")
        if kind == "new_generation":
            self._check_new_generation(command.new_generation)
        elif kind == "assign":
            self._check_assign(command.assign)
        elif kind == "replace_member":
            self._check_replace(command.replace_member)
        elif kind == "commit_offsets":
            self._check_commit(command.commit_offsets)
        elif kind == "delete_group":
            self._check_delete(command.delete_group)
        elif kind != "delete_offsets":
            raise InvalidRequestError("a group command of an unknown kind; the node that sent it may be newer than this one")

    def _check_commit(self, commit: pb.CommitOffsets) -> None:
        """Rule 3."""
        group_id, generation, member_id = commit.group_id, commit.generation, commit.member_id
        record = self.groups.get(group_id, GroupRecord(group_id=group_id))
        if generation < 0:
            if record.members:
                raise UnknownMemberError(f"group {group_id!r} has members, only they may commit: join it, or stop them first")
            return
        member = record.members.get(member_id)
        if not record.generation:
            raise IllegalGenerationError(f"group {group_id!r} has no generation {generation}; join again")
        if member is None:
            raise UnknownMemberError(f"group {group_id!r} has no member {member_id!r}; join again")
        if commit.HasField("instance_id") and member.instance_id != commit.instance_id:
            raise FencedInstanceError(f"member {member_id!r} of group {group_id!r} is not instance {commit.instance_id!r}")
        if generation != record.generation:
            raise IllegalGenerationError(
                f"group {group_id!r} is at generation {record.generation}, the commit at {generation}; join again"
            )
        if not record.assigned:
            raise RebalanceInProgressError(f"generation {generation} of group {group_id!r} is not assigned yet; sync first")

    def _check_new_generation(self, new: pb.NewGeneration) -> None:
        record = self.groups.get(new.group_id, GroupRecord(group_id=new.group_id))
        if new.generation == record.generation + 1:
            return
        raise IllegalGenerationError(f"group {new.group_id!r} is at generation {record.generation}; {new.generation} is not next")

    def _check_assign(self, assign: pb.Assign) -> None:
        record = self.groups.get(assign.group_id)
        if record is None or record.generation != assign.generation or not record.members:
            raise IllegalGenerationError(f"group {assign.group_id!r} is not at generation {assign.generation}; join again")
        if record.assigned:
            raise RebalanceInProgressError(f"generation {assign.generation} of group {assign.group_id!r} is assigned already")

    def _check_replace(self, replacing: pb.ReplaceMember) -> None:
        record = self.groups.get(replacing.group_id)
        if record is None or record.generation != replacing.generation or not record.assigned:
            raise IllegalGenerationError(f"group {replacing.group_id!r} is not at generation {replacing.generation}; join again")
        old = record.members.get(replacing.old_member_id)
        if old is None or old.instance_id is None or old.instance_id != replacing.member.instance_id:
            raise UnknownMemberError(f"group {replacing.group_id!r} has no member {replacing.old_member_id!r} to be replaced")

    def _check_delete(self, delete: pb.DeleteGroup) -> None:
        record = self.groups.get(delete.group_id)
        if record is None:
            raise GroupIdNotFoundError(f"there is no group {delete.group_id!r}")
        if record.members or record.generation != delete.generation:
            raise GroupNotEmptyError(f"group {delete.group_id!r} has members; stop them first")
        if delete.only_unused and delete.group_id in self.offsets:
            raise GroupNotEmptyError(f"group {delete.group_id!r} has offsets")

    def _new_generation(self, new: pb.NewGeneration) -> Applied:
        record = GroupRecord(
            group_id=new.group_id,
            generation=new.generation,
            protocol_type=new.protocol_type,
            protocol=new.protocol,
            leader=new.leader,
            members={member.member_id: member_of(member) for member in new.members},
            empty_since_ms=0 if new.members else new.time_ms,
        )
        return self._set(record)

    def _assign(self, assign: pb.Assign) -> Applied:
        record = self.groups[assign.group_id]
        brought = {assignment.member_id: assignment.assignment for assignment in assign.assignments}
        members = {key: replace(member, assignment=brought.get(key, b"")) for key, member in record.members.items()}
        return self._set(replace(record, members=members, assigned=True))

    def _replace(self, replacing: pb.ReplaceMember) -> Applied:
        record = self.groups[replacing.group_id]
        old_id, new = replacing.old_member_id, member_of(replacing.member)
        new = replace(new, assignment=record.members[old_id].assignment)
        members = dict((new.member_id, new) if key == old_id else (key, member) for key, member in record.members.items())
        leader = new.member_id if record.leader == old_id else record.leader
        return self._set(replace(record, members=members, leader=leader))

    def _commit(self, index: int, commit: pb.CommitOffsets) -> Applied:
        rows: list[RowWrite] = []
        if commit.group_id not in self.groups:
            rows += self._set(GroupRecord(group_id=commit.group_id)).rows
        for row in commit.offsets:
            tp = TopicPartition(row.topic, row.partition)
            stored = offset_of(row)._replace(commit_index=index)
            self._put(commit.group_id, tp, stored)
            rows.append(offset_row(commit.group_id, tp, stored))
        return Applied(rows=tuple(rows))

    def _delete(self, delete: pb.DeleteGroup) -> Applied:
        group_id = delete.group_id
        del self.groups[group_id]
        gone = self.offsets.pop(group_id, {})
        self.offset_count -= len(gone)
        rows: list[RowWrite] = [(TABLE_OFFSETS, offset_key(group_id, tp), None) for tp in gone]
        return Applied(rows=(*rows, (TABLE_GROUPS, text_key(group_id), None)))

    def _delete_offsets(self, delete: pb.DeleteOffsets) -> Applied:
        rows: list[RowWrite] = []
        for ref in delete.offsets:
            tp = TopicPartition(ref.topic, ref.partition)
            offsets = self.offsets.get(ref.group_id, {})
            stored = offsets.get(tp)
            if stored is None or ref.commit_index not in (0, stored.commit_index):
                continue
            del offsets[tp]
            self.offset_count -= 1
            if not offsets:
                del self.offsets[ref.group_id]
            rows.append((TABLE_OFFSETS, offset_key(ref.group_id, tp), None))
        return Applied(rows=tuple(rows))

    def _set(self, record: GroupRecord) -> Applied:
        self.groups[record.group_id] = record
        return Applied(rows=(group_row(record),))

    def _put(self, group_id: str, tp: TopicPartition, stored: StoredOffset) -> None:
        offsets = self.offsets.setdefault(group_id, {})
        self.offset_count += tp not in offsets
        offsets[tp] = stored
