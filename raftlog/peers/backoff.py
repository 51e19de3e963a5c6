"""How long to wait before dialling again."""

from __future__ import annotations

from random import Random
from typing import Final

BACKOFF_FIRST_S: Final = 0.02
"""After the first failure: a restarted peer is found at once."""
BACKOFF_MAX_S: Final = 1.0
"""At most: a peer that comes back is found within a second, and a dead one costs one attempt a second."""


class Backoff:
    """Doubling waits with jitter: each is between half of its nominal length and all of it, so that nodes that lost the same
    peer do not dial in step."""

    __slots__ = ("_next_s", "_random")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._next_s = BACKOFF_FIRST_S

    def reset(self) -> None:
        """It worked: begin with the shortest wait again."""
        self._next_s = BACKOFF_FIRST_S

    def next_s(self) -> float:
        """Seconds to wait now; the next wait is twice as long, up to ``BACKOFF_MAX_S``."""
        wait_s = self._next_s
        self._next_s = min(BACKOFF_MAX_S, wait_s * 2)
        return wait_s * self._random.uniform(0.5, 1.0)
