"""What is said to and by consumer groups: the values that doors, broker and the pure protocol share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

GROUPS_TOPIC = "__consumer_offsets"
"""The internal topic; each of its partitions coordinates the groups that hash to it."""
NO_GENERATION = -1
"""Generation of a commit from outside of any group membership ("simple consumers"); taken only where the group is empty."""


class GroupState(Enum):
    """A group's state; the values are the names that Kafka's tools show."""

    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinGroup:
    """A member's wish to join, or to join again."""

    group_id: str
    member_id: str = ""
    """Empty at first."""
    instance_id: str | None = None
    """Group instance id of a static member (KIP-345)."""
    client_id: str = ""
    client_host: str = ""
    protocol_type: str = "consumer"
    protocols: tuple[tuple[str, bytes], ...]
    """(assignor, the member's metadata for it), the preferred first."""
    session_timeout_ms: int = 45_000
    rebalance_timeout_ms: int = 300_000
    member_id_required: bool = False
    """Whether a new dynamic member must come again with the id that it is given (KIP-394)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedMember:
    """A member as the group's leader is told of it."""

    member_id: str
    instance_id: str | None
    metadata: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedGroup:
    """The answer to a join: the rebalance's outcome. ``members`` is empty for all but the leader."""

    generation: int
    protocol_type: str
    protocol: str
    leader: str
    member_id: str
    members: tuple[JoinedMember, ...] = ()
    skip_assignment: bool = False
    """The leader is a static member that came back to a stable group: nothing is to be assigned (KIP-814)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMember:
    """Who calls: a member of a generation."""

    group_id: str
    generation: int = NO_GENERATION
    member_id: str = ""
    instance_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncedGroup:
    """The answer to a sync: this member's assignment."""

    protocol_type: str
    protocol: str
    assignment: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaver:
    """A member that leaves, or that an administrator removes, by member id or by group instance id."""

    member_id: str = ""
    instance_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedOffset:
    """How far a group has come in a partition: the next offset to read, with the words that were committed beside it."""

    offset: int
    leader_epoch: int = -1
    metadata: str = ""
    commit_time_ms: int = -1
    """Set by the coordinator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedGroup:
    """A group in a list."""

    group_id: str
    protocol_type: str
    state: GroupState


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedMember:
    """A member in a description."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    metadata: bytes
    assignment: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedGroup:
    """A group in full. A group that does not exist is described as ``DEAD`` without members, as Kafka does."""

    group_id: str
    state: GroupState
    protocol_type: str = ""
    protocol: str = ""
    generation: int = NO_GENERATION
    members: tuple[DescribedMember, ...] = ()
