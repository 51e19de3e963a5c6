"""A member as the leader of the coordinator's group sees it: its record, and what it is doing just now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from raftlog.core.groups.records import MemberRecord

NEW_MEMBER_JOIN_TIMEOUT_MS: Final = 300_000
"""How long a member that never heard of its id is kept waiting in a rebalance: it may be gone and come again as another one
(Kafka's NewMemberJoinTimeoutMs)."""


@dataclass(slots=True, eq=False)
class Member:
    """One member. Tickets are numbers of calls that wait; the call may have been given up, the member is what it is."""

    record: MemberRecord
    deadline_ms: int
    """When its session ends, unless it waits."""
    is_new: bool = False
    """It has not heard its member id yet."""
    awaiting_join: bool = False
    """It takes part in the rebalance under way."""
    join_ticket: int | None = None
    sync_ticket: int | None = None
    synced: bool = True
    """It has asked for the assignment of this generation; only who joined in the generation's rebalance must."""

    @property
    def member_id(self) -> str:
        """Its id."""
        return self.record.member_id

    def heard(self, now_ms: int) -> None:
        """It gave a sign of life. A new member that waits, and asks again, cannot give another one until it is answered."""
        waits = self.is_new and self.awaiting_join
        self.deadline_ms = now_ms + (NEW_MEMBER_JOIN_TIMEOUT_MS if waits else self.record.session_timeout_ms)

    def stays(self, *, preparing: bool) -> bool:
        """Whether a place in the next generation is its. While that is being prepared, who has not joined yet may be dead, and
        started again as another one: there is room for those who come."""
        return not preparing or self.awaiting_join or self.record.instance_id is not None

    @property
    def may_expire(self) -> bool:
        """Whether silence counts: who waits for an answer cannot speak. A new one may only wait so long."""
        return self.is_new or not (self.awaiting_join or self.sync_ticket is not None)
