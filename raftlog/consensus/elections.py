"""How many of a node's groups seek an election at a time.

Theory of operation. An election is a dozen messages and three commits, and it has a deadline. Where thousands of groups want one
in the same moment, as when a large topic is made or a node that led many has died, all of them together miss it, begin anew in
another term, and miss that too. So they take turns: who finds no place waits in line, and a place is free again when its
group has a leader that serves, or when it was held for too long, as where nobody answers. The pace is then what the
machines can do, and not a guess.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

ELECTIONS_MAX = 32
"""Groups of a node that seek an election at a time: enough to fill each other's waits for answers and disks."""
PLACE_S = 0.5
"""A place is free again after so long, whatever became of it: a group that cannot have a leader does not keep others waiting."""


class Elections:
    """See the module. Pure: ``now_s`` is a parameter."""

    def __init__(self, at_once_max: int = ELECTIONS_MAX) -> None:
        self._max = at_once_max
        self._seeking: dict[int, float] = {}  # group → when its place is free again; in this order
        self._waiting: dict[int, None] = {}

    def admit(self, group: int, now_s: float) -> bool:
        """Whether a group may seek an election now; if not, it waits in line, and ``next`` will name it."""
        if group not in self._seeking and len(self._seeking) >= self._max:
            self._expire(now_s)
            if len(self._seeking) >= self._max:
                self._waiting[group] = None
                return False
        self._waiting.pop(group, None)
        self._seeking.setdefault(group, now_s + PLACE_S)
        return True

    def done(self, group: int) -> None:
        """A group has a leader, or is gone."""
        self._seeking.pop(group, None)
        self._waiting.pop(group, None)

    def look(self, group: int, has_leader: Callable[[], bool]) -> None:
        """A group was ticked: if it was here, it may be done."""
        if (group in self._seeking or group in self._waiting) and has_leader():
            self.done(group)

    def next(self, now_s: float) -> list[int]:
        """The groups whose turn it is."""
        if not self._waiting:
            return []
        self._expire(now_s)
        free = self._max - len(self._seeking)
        turn = list(islice(self._waiting, max(0, free)))
        for group in turn:
            del self._waiting[group]
        return turn

    def due_s(self) -> float:
        """When the next place is free at the latest, if somebody waits for one."""
        return next(iter(self._seeking.values()), float("-inf")) if self._waiting else float("inf")

    def _expire(self, now_s: float) -> None:
        while self._seeking:
            group, until_s = next(iter(self._seeking.items()))
            if until_s > now_s:
                return
            del self._seeking[group]
