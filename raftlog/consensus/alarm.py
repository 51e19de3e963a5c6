"""When the turn loop is to wake by itself: the groups' due times, and one timer for the next of them."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator, Mapping

from raftlog.consensus.group import Group
from raftlog.core.clock import Clock

TIMER_RESOLUTION_S = 0.001
"""No timer is set for less: clocks round, and a timer that rings too early would ring again at once."""


class Alarm:
    """See the module. ``ring`` is called when the time has come; it looks what is due, and sets the alarm again."""

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock, self._ring = clock, ring
        self._due: list[tuple[float, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = float("inf")

    def tick_at(self, group: Group, due_s: float) -> None:
        """Let a group be due at a time, if it is not due before."""
        if due_s < group.armed_s:
            group.armed_s = due_s
            heapq.heappush(self._due, (due_s, group.group))

    def take_due(self, groups: Mapping[int, Group], now_s: float) -> Iterator[Group]:
        """The groups that are due, each once; what a group has been due for and is no longer is passed over."""
        while self._due and self._due[0][0] <= now_s:
            due_s, number = heapq.heappop(self._due)
            group = groups.get(number)
            if group is not None and group.armed_s == due_s:
                group.armed_s = float("inf")
                yield group

    def set(self, *moments_s: float) -> None:
        """Ring at the first of these moments, or when a group is due, or when it was to ring before."""
        moment_s = min(self._due[0][0] if self._due else float("inf"), *moments_s)
        if moment_s < self._timer_at_s:
            self.stop()
            self._timer_at_s = moment_s
            delay_s = max(TIMER_RESOLUTION_S, moment_s - self._clock.monotonic_s())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._rings)

    def _rings(self) -> None:
        self._timer, self._timer_at_s = None, float("inf")
        self._ring()

    def stop(self) -> None:
        """Do not ring."""
        if self._timer is not None:
            self._timer.cancel()
