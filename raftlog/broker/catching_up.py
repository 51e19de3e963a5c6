"""What a node that starts still lacks: until it has caught up, stopping another node may leave a partition without a majority.

Rules:

1. What was open at the start counts, once: a replica that has caught up, and then lags under load, is as good as any.
2. A replica whose group has no leader counts for ``LEADERLESS_S`` at most: if nobody can lead it, this node is not why.
3. One that is empty, since the node came back without its data, counts until it has been filled and votes: until then, the one
   that it takes the place of is missing.
"""

from __future__ import annotations

from collections.abc import Callable

from raftlog.consensus.port import ReplicatedLog
from raftlog.core.clock import Clock

LEADERLESS_S = 30.0
"""An election takes a second at worst, and whatever keeps a group without a leader for longer is not over soon."""


class CatchingUp:
    """See the module.

    Args:
        logs: the replicas of this node, the metadata's among them.
        filled: whether one of them is a voter, or is not to be one.
        clock: for rule 2.
    """

    def __init__(
        self, logs: Callable[[], list[ReplicatedLog]], filled: Callable[[ReplicatedLog], bool], clock: Clock
    ) -> None:  # fmt: skip
        self._logs = logs
        self._filled = filled
        self._clock = clock
        self._waiting: set[int] | None = None
        self._leaderless_until_s = 0.0

    def begin(self) -> None:
        """The replicas that are open now are those to wait for."""
        self._waiting = {log.group for log in self._logs()}
        self._leaderless_until_s = self._clock.monotonic_s() + LEADERLESS_S

    def lacking(self) -> str | None:
        """What is waited for, in words; None when this node has caught up, for good."""
        if self._waiting is None:
            return "its replicas are not open yet"
        if not self._waiting:
            return None
        logs = {log.group: log for log in self._logs()}
        leaderless_count = self._clock.monotonic_s() < self._leaderless_until_s
        for group in list(self._waiting):
            log = logs.get(group)
            there = log is None or log.caught_up or (log.leader is None and not leaderless_count)
            if there and (log is None or self._filled(log)):
                self._waiting.remove(group)
        if not self._waiting:
            return None
        return f"{len(self._waiting)} of its replicas have to catch up, that of group {min(self._waiting)} first"
