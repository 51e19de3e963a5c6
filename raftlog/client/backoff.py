"""Waits between attempts: they double up to a cap, and are spread so that many clients do not come back at once."""

from __future__ import annotations

import random
from typing import Final

BACKOFF_FIRST_S: Final = 0.02
"""The first wait: an election among healthy nodes takes a few hundred milliseconds."""
BACKOFF_MAX_S: Final = 0.25
"""The longest wait; it is also the most that a retry adds to the time without a leader."""


def backoff_s(attempt: int, rng: random.Random) -> float:
    """Seconds to wait after the ``attempt``-th failure in a row (from 1): between half and all of a capped exponential."""
    ceiling = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(attempt - 1, 16))
    return ceiling * (0.5 + 0.5 * rng.random())
