"""When the turn loop is to wake by itself: the groups' due times, and one timer for the next of them.

Theory of operation. What is due moves: each heartbeat puts off an election, each commit takes along what was to be flushed. The
timer is not set anew every time. It rings at the moment it was set for; if nothing is due then, it is set for the moment that
holds now, and no turn is made.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator, Mapping

from raftlog.consensus.group import Group
from raftlog.core.clock import Clock

TIMER_RESOLUTION_S = 0.001
"""No timer is set for less: clocks round, and a timer that rings too early would ring again at once."""
NEVER_S = float("inf")


class Alarm:
    """See the module.

    Args:
        groups: the open groups by id.
        ring: called when the time has come; it looks what is due, and sets the alarm again.
        others_s: when something besides the groups is due.
    """

    def __init__(
        self, clock: Clock, groups: Mapping[int, Group], ring: Callable[[], None], *, others_s: Callable[[], float]
    ) -> None:
        self._clock, self._groups, self._ring, self._others_s = clock, groups, ring, others_s
        self._due: list[tuple[float, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = NEVER_S

    def tick_at(self, group: Group, due_s: float) -> None:
        """Let a group be due at a time, if it is not due before."""
        if due_s < group.armed_s:
            group.armed_s = due_s
            heapq.heappush(self._due, (due_s, group.group))

    def take_due(self, now_s: float) -> Iterator[Group]:
        """The groups that are due, each once; what a group has been due for and is no longer is passed over."""
        while self._first_s(now_s) <= now_s:
            group = self._groups[heapq.heappop(self._due)[1]]
            group.armed_s = NEVER_S
            yield group

    def _first_s(self, now_s: float) -> float:
        """When the first group is due; up to now this is looked at closely. A sleeper is due when it was said to be."""
        due = self._due
        while due:
            due_s, number = due[0]
            group = self._groups.get(number)
            if group is None or group.armed_s != due_s:
                heapq.heappop(due)
            elif due_s <= now_s and not group.member.asleep and group.member.due_s() > now_s:
                heapq.heappop(due)
                group.armed_s = NEVER_S
                self.tick_at(group, group.member.due_s())
            else:
                return due_s
        return NEVER_S

    def set(self) -> None:
        """Ring when something is due, or when it was to ring before."""
        now_s = self._clock.monotonic_s()
        moment_s = min(self._first_s(now_s), self._others_s())
        if moment_s < self._timer_at_s:
            self.stop()
            self._timer_at_s = moment_s
            delay_s = max(TIMER_RESOLUTION_S, moment_s - now_s)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._rings)

    def _rings(self) -> None:
        self._timer, self._timer_at_s = None, NEVER_S
        now_s = self._clock.monotonic_s()
        if min(self._first_s(now_s), self._others_s()) <= now_s:
            self._ring()
        else:
            self.set()

    def stop(self) -> None:
        """Do not ring."""
        if self._timer is not None:
            self._timer.cancel()
