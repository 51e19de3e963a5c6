"""Feature levels: which forms may be written, given what every node of the cluster understands (KIP-584's finalized features).

Theory of operation. A version of raftlog understands a range of levels (``Supported``). The cluster has one level, which group 0
holds, and every node writes only the forms of that level and below. So nodes of several versions work side by side, and until
the level is raised each of them may go back to the version it came from. A cluster begins at the newest level that all its
founders understand; one whose nodes are replaced by newer ones stays where it is until somebody raises it.

Rules:

1. A form that came with a level is written only by a node that has applied the entry which raised the cluster to that level.
2. A node's data directory is marked with a level before it can hold a form of it: by the seed of a cluster that begins, by the
   answer to a join, or, before the level is raised, on every node that is part of the cluster. A version that does not know
   the level refuses the directory by name. So no node ever meets a form that it does not know.
3. The level never falls.
4. What a state machine does at a level is fixed for good: it asks the level of its own replicated state, never its version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

from raftlog.errors import ConfigError, FeatureLevelError, NewerFormatError

FEATURE_NAME: Final = "raftlog.version"
"""The level's name where Kafka's protocol asks for one (Kafka's own is ``metadata.version``)."""
LEVEL_MAX_VARIABLE: Final = "RAFTLOG_FEATURE_LEVEL_MAX"
"""For tests: a node that claims to understand no level above this."""


class Level(IntEnum):
    """All levels there are. What they are called is what they brought."""

    FIRST = 1
    """Partitions, consumer groups, and the metadata of a cluster of fixed nodes."""
    MEMBERSHIP = 2
    """Configurations in the logs, replica ids of their own, nodes that join, leave and lose their disks, replicas that move."""
    RENEWAL = 3
    """A damaged replica is given up for a new one on the same node, which is filled from the others."""


NEWEST: Final = max(Level)

DESCRIPTIONS: Final[Mapping[int, str]] = {
    Level.FIRST: "the first version: fixed nodes",
    Level.MEMBERSHIP: "nodes join, leave and lose their disks; replicas move",
    Level.RENEWAL: "damaged replicas are filled again by themselves",
}
"""What each level allows, in a few words for operators."""


class Supported(NamedTuple):
    """The levels that a node understands, both ends among them."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"level {self.low}" if self.low == self.high else f"levels {self.low} to {self.high}"

    def has(self, level: int) -> bool:
        """Whether a node that supports these can be part of a cluster at ``level``."""
        return self.low <= level <= self.high


THIS_VERSION: Final = Supported(Level.FIRST, NEWEST)
"""What this version understands."""
FIRST_VERSION: Final = Supported(Level.FIRST, Level.FIRST)
"""What a node understands that says nothing of levels: it is of the version before there were any."""


class FeatureLevel(Protocol):
    """The port: what code asks before it writes a form that came with a level."""

    @property
    def level(self) -> int:
        """The cluster's level, as far as this node has applied it. It only rises."""
        ...


class Features:
    """A node's view: what it supports itself, and the cluster's level (``FeatureLevel``)."""

    def __init__(self, supported: Supported = THIS_VERSION, *, level: int = Level.FIRST) -> None:
        self.supported = supported
        self._level = level

    @property
    def level(self) -> int:
        """See ``FeatureLevel``."""
        return self._level

    def raised(self, level: int) -> None:
        """Group 0 has been applied up to a state at ``level``.

        Raises:
            NewerFormatError: this node does not understand it, and must not go on.
        """
        if level > self.supported.high:
            raise NewerFormatError(
                f"the cluster is at feature level {level}, and this version supports {self.supported}; start the version before"
            )
        self._level = max(self._level, level)


def check_allowed(now: int, needed: int, what: str) -> None:
    """Pass where the cluster's level ``now`` allows what came with level ``needed``.

    Raises:
        FeatureLevelError: it does not; says how to raise it.
    """
    error = not_allowed(now, needed, what)
    if error is not None:
        raise error


def not_allowed(now: int, needed: int, what: str) -> FeatureLevelError | None:
    """The error of ``check_allowed``, None where it passes."""
    if now >= needed:
        return None
    return FeatureLevelError(
        f"{what} needs feature level {needed}, and the cluster is at {now}; when all nodes run a version that supports it, raise"
        " it by: raftlog cluster upgrade"
    )


def check_mark(mark: int, supported: Supported) -> None:
    """Pass where a directory that is marked with a level can be used by a version.

    Raises:
        NewerFormatError: it may hold what this version does not know.
        FeatureLevelError: its cluster is at a level that this version no longer knows how to write.
    """
    if mark > supported.high:
        raise NewerFormatError(
            f"it may hold forms of feature level {mark}; this version of raftlog supports {supported}. Start a version that"
            f" supports level {mark}"
        )
    if mark < supported.low:
        raise FeatureLevelError(
            f"its cluster may be at feature level {mark}; this version of raftlog supports {supported}: start a version that"
            f" supports level {mark}, raise the level by raftlog cluster upgrade, then start this one"
        )


def newest_common(supported: Iterable[Supported]) -> int:
    """The newest level that all understand: what a cluster of these nodes begins at."""
    return max(Level.FIRST, min(one.high for one in supported))


def check_form(level: int, what: str) -> None:
    """Pass where this version knows a stored or sent form; ``level`` is what stands in it (0: the first).

    Raises:
        NewerFormatError: it is a newer version's, and must not be read as if it were not.
    """
    if level > NEWEST:
        raise NewerFormatError(
            f"{what} has a form of feature level {level}; this version of raftlog supports {THIS_VERSION}. Start the version"
            " that wrote it."
        )


def held_back(level: int, nodes: Mapping[int, Supported]) -> str:
    """Which of the nodes do not support ``level``, in words; empty where all do."""
    found = [f"node {node_id} supports {one}" for node_id, one in sorted(nodes.items()) if not one.has(level)]
    return ", ".join(found)


def supported_here(limit: str | None) -> Supported:
    """What this node supports, given what ``LEVEL_MAX_VARIABLE`` says.

    Raises:
        ConfigError: it names no level of this version.
    """
    if not limit:
        return THIS_VERSION
    if not (limit.isascii() and limit.isdecimal() and THIS_VERSION.has(int(limit))):
        raise ConfigError(f"{LEVEL_MAX_VARIABLE} = {limit!r}: this version supports {THIS_VERSION}")
    return Supported(THIS_VERSION.low, int(limit))
