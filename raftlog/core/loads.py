"""What partitions take and how fast they grow, out of what nodes tell now and then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Held = tuple[int, int, int]
"""(bytes, first index, last index) of a replica."""


WINDOW_S_MIN = 60.0
"""Growth is measured over no less, but for the first time: two looks may follow each other within seconds."""
SMOOTHED_OVER_S = 1_800.0
"""A rate is a mean of about so long: leaders that followed each short burst would be on the move for ever."""


@dataclass(slots=True)
class Loads:
    """The last look at all groups, and how fast they have grown lately."""

    _held: dict[int, Held] = field(default_factory=dict)
    _rates: dict[int, float] = field(default_factory=dict)
    _begin: dict[int, Held] = field(default_factory=dict)
    """What was held when the present window began."""
    _begun_s: float = 0.0

    def look(self, now_s: float, nodes: Iterable[Mapping[int, Held]]) -> None:
        """Take in what nodes hold, by group. Of several replicas the one that is furthest counts."""
        held: dict[int, Held] = {}
        for node in nodes:
            for group, one in node.items():
                if group not in held or one[2] > held[group][2]:
                    held[group] = one
        self._held = held
        spent_s = now_s - self._begun_s
        whole = not self._begin or spent_s >= WINDOW_S_MIN
        if self._begin and spent_s > 0:
            self._rates = {group: self._rate_now(group, spent_s, whole=whole) for group in held if group in self._begin}
        if whole:
            self._begin, self._begun_s = held, now_s

    def _rate_now(self, group: int, spent_s: float, *, whole: bool) -> float:
        before = self._rates.get(group)
        if before is not None and not whole:
            return before
        rate = _growth(self._begin[group], self._held[group]) / spent_s
        return rate if before is None else before + (rate - before) * min(1.0, spent_s / SMOOTHED_OVER_S)

    def size_bytes(self, group: int) -> int:
        """Bytes of a replica of the group; 0 while it is not known."""
        return self._held.get(group, (0, 0, 0))[0]

    def rate(self, group: int) -> float:
        """Bytes that were written each second lately; 0 while it is not known."""
        return self._rates.get(group, 0.0)


def _growth(before: Held, after: Held) -> float:
    """Bytes written: entries that came, at the mean size of those held, for a log is cut at its other end meanwhile."""
    size_bytes, first, last = after
    entries = last - first + 1
    return max(last - before[2], 0) * size_bytes / entries if entries > 0 else 0.0
