"""The one clock port: every reader of time gets one of these, so that a simulator can supply its own."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two times that are never mixed."""

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back; for timers."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since the epoch, as far as this machine knows; for timestamps only."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic_s(self) -> float:
        """See ``Clock``."""
        return time.monotonic()  # noqa: TID251 - the one door

    def wall_ms(self) -> int:
        """See ``Clock``."""
        return time.time_ns() // 1_000_000
