"""Options of a group consumer, checked before anything is asked of the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from raftlog.client.group_values import Assignor, GroupSettings, OnPartitions
from raftlog.errors import InvalidConfigError
from raftlog.pb.raftlog.v1 import group_service_pb2 as pb

_ASSIGNORS: Final[dict[str, pb.Assignor.ValueType]] = {
    "range": pb.ASSIGNOR_RANGE,
    "roundrobin": pb.ASSIGNOR_ROUNDROBIN,
    "sticky": pb.ASSIGNOR_STICKY,
    "cooperative-sticky": pb.ASSIGNOR_COOPERATIVE_STICKY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOptions:
    """Checked ``GroupSettings``; see there."""

    group: str
    instance_id: str | None = None
    topic_pattern: str | None = None
    assignors: Sequence[Assignor] = ("cooperative-sticky", "range")
    session_timeout_s: float = 45.0
    max_poll_interval_s: float = 300.0
    auto_commit: bool = True
    auto_commit_interval_s: float = 5.0
    on_assigned: OnPartitions | None = None
    on_revoked: OnPartitions | None = None
    on_lost: OnPartitions | None = None

    def __post_init__(self) -> None:
        if not self.group:
            raise InvalidConfigError("group is empty; name the group")
        if unknown := [name for name in self.assignors if name not in _ASSIGNORS]:
            raise InvalidConfigError(f"assignor {unknown[0]!r} is unknown; there are {', '.join(_ASSIGNORS)}")
        for name in ("session_timeout_s", "max_poll_interval_s", "auto_commit_interval_s"):
            if getattr(self, name) <= 0:
                raise InvalidConfigError(f"{name} must be positive, not {getattr(self, name)}")

    @classmethod
    def of(cls, group: str, settings: GroupSettings) -> GroupOptions:
        """Check settings.

        Raises:
            InvalidConfigError: one is unknown or out of range.
        """
        try:
            return cls(group=group, **settings)
        except TypeError as error:
            raise InvalidConfigError(f"an option of the group is unknown: {error}") from error

    def joining(self, topics: Sequence[str], client_id: str) -> pb.JoinSession:
        """The wish to join."""
        return pb.JoinSession(
            group_id=self.group,
            instance_id=self.instance_id,
            topics=topics,
            topic_pattern=self.topic_pattern,
            assignors=[_ASSIGNORS[name] for name in self.assignors],
            session_timeout_ms=round(self.session_timeout_s * 1_000),
            rebalance_timeout_ms=round(self.max_poll_interval_s * 1_000),
            client_id=client_id,
        )
