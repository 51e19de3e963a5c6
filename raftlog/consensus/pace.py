"""How fast replicas may catch up: a bucket of bytes for all learners of the groups that this node leads.

Voters are never held back: what is committed waits for them.
"""

from __future__ import annotations

BURST_S = 0.25
"""So much of the rate may be spent at once: a leader looks at its followers every heartbeat, and more often while they answer."""


class Pace:
    """Fills at ``bytes_per_s``; 0 is no limit. What is sent may exceed what is there once, and is made up for."""

    __slots__ = ("_at_s", "_left", "_rate")

    def __init__(self, bytes_per_s: int) -> None:
        self._rate = bytes_per_s
        self._left = bytes_per_s * BURST_S
        self._at_s = float("-inf")

    def allows(self, now_s: float) -> bool:
        """Whether something may be sent now, on the monotonic clock."""
        if not self._rate:
            return True
        if now_s > self._at_s:
            self._left = min(self._left + (now_s - self._at_s) * self._rate, self._rate * BURST_S)
            self._at_s = now_s
        return self._left > 0

    def sent(self, size_bytes: int) -> None:
        """So much was sent."""
        self._left -= size_bytes
