"""Groups as administrators see them."""

from __future__ import annotations

from raftlog.core.groups.live import LiveGroup
from raftlog.core.groups.records import GroupRecord, MemberRecord
from raftlog.core.groups.values import NO_GENERATION, DescribedGroup, DescribedMember, GroupState, ListedGroup


def described(group_id: str, record: GroupRecord | None, live: LiveGroup | None) -> DescribedGroup:
    """A group in full; what members said and were assigned only while it is stable, as in Kafka."""
    listed_group = listed(group_id, record, live)
    stable = listed_group.state is GroupState.STABLE
    protocol = record.protocol if record is not None and stable else ""
    members = () if live is None else live.members.records()
    return DescribedGroup(
        group_id=group_id,
        state=listed_group.state,
        protocol_type=listed_group.protocol_type,
        protocol=protocol,
        generation=NO_GENERATION if record is None else record.generation,
        members=tuple(_member(member, protocol if stable else None) for member in members),
    )


def listed(group_id: str, record: GroupRecord | None, live: LiveGroup | None) -> ListedGroup:
    """A group in a list; ``DEAD`` where there is neither a record nor a live group."""
    if live is not None:
        return ListedGroup(group_id=group_id, protocol_type=live.protocol_type, state=live.state)
    if record is not None:
        return ListedGroup(group_id=group_id, protocol_type=record.protocol_type, state=GroupState.EMPTY)
    return ListedGroup(group_id=group_id, protocol_type="", state=GroupState.DEAD)


def _member(member: MemberRecord, protocol: str | None) -> DescribedMember:
    return DescribedMember(
        member_id=member.member_id,
        instance_id=member.instance_id,
        client_id=member.client_id,
        client_host=member.client_host,
        metadata=b"" if protocol is None else member.metadata(protocol),
        assignment=b"" if protocol is None else member.assignment,
    )
