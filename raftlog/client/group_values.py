"""What is known of consumer groups: lists, descriptions, offsets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, TypedDict

from raftlog.errors import RaftlogError
from raftlog.model import TopicPartition

Assignor = Literal["range", "roundrobin", "sticky", "cooperative-sticky"]
OnPartitions = Callable[[frozenset[TopicPartition]], Awaitable[None] | None]
"""Is told of partitions; may be a coroutine function."""


class GroupSettings(TypedDict, total=False):
    """Options of ``Client.consumer`` that only matter with a ``group``; times are seconds.

    - ``instance_id``: makes it a static member, which keeps its partitions while it is away for less than its session timeout.
      Unique in the group.
    - ``topic_pattern``: also consume topics whose whole name matches this regular expression, also those that come later.
    - ``assignors``: in order of preference; all members must share one. ``("cooperative-sticky", "range")``: groups of raftlog's
      clients move only what must move, and Kafka's clients can join, for all of them know ``range``.
    - ``session_timeout_s``: how long the member keeps its place without a sign of life of its node. 45.
    - ``max_poll_interval_s``: how long one record (or batch) may take; a consumer that does not come back for the next one
      loses its place to the others, and joins anew when it does. A rebalance waits so long for it as well. 300.
    - ``auto_commit``: commit by itself what the iteration has moved past: every ``auto_commit_interval_s`` (5), before
      partitions go to another member, and when closing. True.
    - ``on_assigned``, ``on_revoked``, ``on_lost``: are called with partitions that were added, are about to be given up (they can
      still be committed), or have been lost already (``on_revoked`` where it is missing). They run between two records: while
      the user waits for the next one.
    """

    instance_id: str | None
    topic_pattern: str | None
    assignors: Sequence[Assignor]
    session_timeout_s: float
    max_poll_interval_s: float
    auto_commit: bool
    auto_commit_interval_s: float
    on_assigned: OnPartitions | None
    on_revoked: OnPartitions | None
    on_lost: OnPartitions | None


class GroupState(Enum):
    """A group's state; the values are the names that Kafka's tools show."""

    UNKNOWN = "Unknown"
    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group in a list. ``protocol_type`` is "consumer" for groups of consumers."""

    group_id: str
    protocol_type: str
    state: GroupState


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMember:
    """A member: what it subscribes to, and what it reads."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    topics: tuple[str, ...]
    assignment: tuple[TopicPartition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOffset:
    """How far a group has come in a partition. None for what is not known: nothing is committed (``committed``), the ends of the
    log were not asked for, or its leader did not answer (``error`` says why)."""

    committed: int | None
    metadata: str
    commit_time_ms: int
    log_start_offset: int | None
    high_watermark: int | None
    lag: int | None
    error: RaftlogError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDescription:
    """A group in full. One that does not exist is ``DEAD``. ``coordinator`` is a node id, None while there is none known."""

    group_id: str
    state: GroupState
    protocol_type: str
    assignor: str
    generation: int
    coordinator: int | None
    members: tuple[GroupMember, ...]
    offsets: dict[TopicPartition, GroupOffset]


@dataclass(frozen=True, slots=True, kw_only=True)
class SoughtOffset:
    """Where a group was moved in a partition, or would be; ``error`` says why it was not."""

    old_offset: int | None
    new_offset: int
    error: RaftlogError | None
