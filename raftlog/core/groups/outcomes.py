"""What members are told, and what their joins say of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from raftlog.core.groups.records import GroupRecord, MemberRecord
from raftlog.core.groups.values import JoinedGroup, JoinedMember, JoinGroup, SyncedGroup

REBALANCE_TIMEOUT_MS_MIN: Final = 100
"""No member joins faster than this through a coordinator; a group that waits for less would be looked at all the time."""
TIMEOUT_MS_MAX: Final = (1 << 31) - 1
"""As long as a timeout of the Kafka protocol may be."""


def record_of(wish: JoinGroup, member_id: str) -> MemberRecord:
    """The member that a join makes."""
    return MemberRecord(
        member_id=member_id,
        instance_id=wish.instance_id,
        client_id=wish.client_id,
        client_host=wish.client_host,
        session_timeout_ms=wish.session_timeout_ms,
        rebalance_timeout_ms=min(max(wish.rebalance_timeout_ms, REBALANCE_TIMEOUT_MS_MIN), TIMEOUT_MS_MAX),
        protocols=wish.protocols,
    )


def joined(record: GroupRecord, member_id: str, *, back: bool = False) -> JoinedGroup:
    """A member's place in ``record``'s generation; ``back``: a static member came back to it, nothing is to be assigned."""
    leads = member_id == record.leader
    told: Iterable[MemberRecord] = record.members.values() if leads else ()
    return JoinedGroup(
        generation=record.generation,
        protocol_type=record.protocol_type,
        protocol=record.protocol,
        leader=record.leader,
        member_id=member_id,
        members=tuple(
            JoinedMember(member_id=m.member_id, instance_id=m.instance_id, metadata=m.metadata(record.protocol)) for m in told
        ),
        skip_assignment=back and leads,
    )


def synced(record: GroupRecord, assignment: bytes) -> SyncedGroup:
    """A member's assignment in ``record``'s generation."""
    return SyncedGroup(protocol_type=record.protocol_type, protocol=record.protocol, assignment=assignment)
