"""The commands that a live group proposes. Times are filled in by whoever appends them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from raftlog.core.groups.records import GroupRecord, MemberRecord
from raftlog.core.groups.rows import member_row
from raftlog.pb.raftlog.internal.v1 import groups_pb2 as pb


def generation_command(
    record: GroupRecord, members: Iterable[MemberRecord], *, protocol_type: str, protocol: str, leader: str
) -> pb.GroupCommand:
    """The generation after ``record``'s: these members, not assigned anything yet."""
    new = pb.NewGeneration(
        group_id=record.group_id,
        generation=record.generation + 1,
        protocol_type=protocol_type,
        protocol=protocol,
        leader=leader,
        members=[member_row(replace(member, assignment=b"")) for member in members],
    )
    return pb.GroupCommand(new_generation=new)


def assign_command(record: GroupRecord, assignments: Mapping[str, bytes]) -> pb.GroupCommand:
    """The assignment of ``record``'s generation; what is brought for others than its members does not count."""
    brought = [
        pb.MemberAssignment(member_id=member_id, assignment=assignment)
        for member_id, assignment in assignments.items()
        if member_id in record.members
    ]
    return pb.GroupCommand(assign=pb.Assign(group_id=record.group_id, generation=record.generation, assignments=brought))


def replace_command(record: GroupRecord, old_member_id: str, member: MemberRecord) -> pb.GroupCommand:
    """A static member of ``record``'s generation goes on under another id."""
    replacing = pb.ReplaceMember(
        group_id=record.group_id, generation=record.generation, old_member_id=old_member_id, member=member_row(member)
    )
    return pb.GroupCommand(replace_member=replacing)
