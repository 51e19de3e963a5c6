"""What members of consumer groups did and saw. ``group`` is the group's id; the client of an event is the member's process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinGroup:
    """A process wants to be a member; ``instance`` is its group instance id, empty where it has none."""

    group: str
    member_id: str
    instance: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedGroup:
    """It is one of this generation."""

    generation: int
    member_id: str
    leader: str
    members: tuple[str, ...] = ()
    """Member ids, as the leader alone is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncGroup:
    """It asks for its part."""

    group: str
    generation: int
    member_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncedGroup:
    """Its part: (topic, partition) each."""

    partitions: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitOffset:
    """It has processed everything below ``offset``. Of the generation −1 where somebody else says so.

    ``while_owned``: the member may be of a newer generation than it knows; what it has is its own as long as no other member was
    given it in a newer one.
    """

    group: str
    generation: int
    member_id: str
    topic: str
    partition: int
    offset: int
    while_owned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedOffset:
    """The commit is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchCommitted:
    """It asks where to go on."""

    group: str
    topic: str
    partition: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedCommitted:
    """Where; −1 where nothing was committed."""

    offset: int


GroupValue = (
    JoinGroup | JoinedGroup | SyncGroup | SyncedGroup | CommitOffset | CommittedOffset | FetchCommitted | FetchedCommitted
)
GROUP_KINDS: Final[tuple[type[GroupValue], ...]] = (
    JoinGroup, JoinedGroup, SyncGroup, SyncedGroup, CommitOffset, CommittedOffset, FetchCommitted, FetchedCommitted,
)  # fmt: skip
