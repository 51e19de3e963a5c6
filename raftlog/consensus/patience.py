"""Raft's times as a node can keep them: a node that is slow itself gives the others more time.

Theory of operation. Deadlines are meant for nodes that answer in milliseconds. Where the turns of a node take longer than a
heartbeat, for want of processor or disk, its leaders are heard late, its followers hear late, and elections that this brings cost
more of what is short already. So election timeouts, and a leader's doubt, are longer by twice what a turn with its commit took
at most within the last while, up to ``SLACK_MAX_S``. Safety does not depend on any of it; read barriers ask a majority.
"""

from __future__ import annotations

from raftlog.consensus.door import RaftTimes

SLACK_MAX_S = 2.0
"""So much longer at most: a node that is really gone is to be missed, also by slow ones."""
WINDOW_S = 1.0
"""The slowest turn counts for this long, and for as long again at most."""


class Patience:
    """``RaftTimes`` that give way; all in seconds. Pure: ``now_s`` is a parameter."""

    def __init__(self, times: RaftTimes) -> None:
        self._times = times
        self.heartbeat_s = times.heartbeat_s
        """See ``RaftTimes``."""
        self._slowest_s = self._before_s = 0.0
        self._window_ends_s = self._begun_s = 0.0
        self.slack_s = 0.0
        """What is added to the times now."""

    @property
    def election_min_s(self) -> float:
        """See ``RaftTimes``."""
        return self._times.election_min_s + self.slack_s

    @property
    def election_max_s(self) -> float:
        """See ``RaftTimes``."""
        return self._times.election_max_s + self.slack_s

    @property
    def fallback_s(self) -> float:
        """See ``RaftTimes``."""
        return self._times.fallback_s + self.slack_s

    def begin(self, now_s: float) -> None:
        """A turn begins."""
        self._begun_s = now_s

    def end(self, now_s: float) -> None:
        """It has ended, and its commit, if it had one."""
        self.turned(now_s - self._begun_s, now_s)

    def turned(self, took_s: float, now_s: float) -> None:
        """A turn with its commit took so long."""
        if now_s >= self._window_ends_s:
            stale = now_s >= self._window_ends_s + WINDOW_S
            self._before_s, self._slowest_s = (0.0 if stale else self._slowest_s), 0.0
            self._window_ends_s = now_s + WINDOW_S
        self._slowest_s = max(self._slowest_s, took_s)
        over_s = max(self._slowest_s, self._before_s) - self.heartbeat_s
        self.slack_s = min(SLACK_MAX_S, max(0.0, 2 * over_s))
