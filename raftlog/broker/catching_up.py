"""What a node that starts still lacks: until it has caught up, stopping another node may leave a partition without a majority.

Rules:

1. What was there at the start counts, once: a replica that has caught up, and then lags under load, is as good as any.
2. A replica whose group has no leader counts for ``LEADERLESS_S`` at most: if nobody can lead it, this node is not why.
3. One that takes the place of a lost one, for the node came back without its data, or that is damaged and will be renewed,
   counts until it votes: until then, one is missing. Where the cluster's level renews nothing, no wait would mend it, and a
   rolling upgrade to the level that does would stop here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from raftlog.consensus.port import ReplicatedLog
from raftlog.core.clock import Clock

LEADERLESS_S = 30.0
"""An election takes a second at worst, and whatever keeps a group without a leader for longer is not over soon."""


class Held(Protocol):
    """This node's replicas, but for the metadata's."""

    def logs(self) -> list[ReplicatedLog]:
        """Those that are open."""
        ...

    def damaged(self) -> Collection[int]:
        """The groups of those that are damaged."""
        ...

    @property
    def renews(self) -> bool:
        """Damaged replicas are renewed, at the cluster's feature level."""
        ...

    def unfilled(self) -> Collection[int]:
        """The groups that lack the vote of a replica here, for it is to take the place of a lost one."""
        ...


class CatchingUp:
    """See the module.

    Args:
        metadata: the metadata's replica.
        held: the others.
        leader_of: (node id of a group's leader as far as known, its term), by announcements: a replica that is being filled
            knows of none itself.
        clock: for rule 2.
    """

    def __init__(
        self, metadata: Callable[[], ReplicatedLog], held: Held, leader_of: Callable[[int], tuple[int | None, int]], clock: Clock
    ) -> None:
        self._metadata = metadata
        self._held = held
        self._leader_of = leader_of
        self._clock = clock
        self._waiting: set[int] | None = None
        self._leaderless_until_s = 0.0

    def begin(self) -> None:
        """The replicas that are there now are those to wait for, and those that fill a gap, though they may not be open yet."""
        self._waiting = {*self._logs(), *self._held.damaged(), *self._held.unfilled()}
        self._leaderless_until_s = self._clock.monotonic_s() + LEADERLESS_S

    def lacking(self) -> str | None:
        """What is waited for, in words; None when this node has caught up, for good."""
        if self._waiting is None:
            return "its replicas are not open yet"
        if not self._waiting:
            return None
        logs, missing = self._logs(), {*self._held.unfilled(), *(self._held.damaged() if self._held.renews else ())}
        leaderless_count = self._clock.monotonic_s() < self._leaderless_until_s
        for group in list(self._waiting):
            log = logs.get(group)
            there = group not in missing and (log is None or log.caught_up)
            if there or (self._leader_of(group)[0] is None and not leaderless_count):
                self._waiting.remove(group)
        if not self._waiting:
            return None
        return f"{len(self._waiting)} of its replicas have to catch up, that of group {min(self._waiting)} first"

    def _logs(self) -> dict[int, ReplicatedLog]:
        return {log.group: log for log in (self._metadata(), *self._held.logs())}
