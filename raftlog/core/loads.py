"""What partitions take and how fast they grow, out of what nodes tell now and then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Held = tuple[int, int, int]
"""(bytes, first index, last index) of a replica."""


@dataclass(slots=True)
class Loads:
    """The last look at all groups, and the growth since the one before."""

    _held: dict[int, Held] = field(default_factory=dict)
    _rates: dict[int, float] = field(default_factory=dict)
    _at_s: float = 0.0

    def look(self, now_s: float, nodes: Iterable[Mapping[int, Held]]) -> None:
        """Take in what nodes hold, by group. Of several replicas the one that is furthest counts."""
        held: dict[int, Held] = {}
        for node in nodes:
            for group, one in node.items():
                if group not in held or one[2] > held[group][2]:
                    held[group] = one
        spent_s = now_s - self._at_s
        if self._held and spent_s > 0:
            self._rates = {group: _growth(self._held[group], one) / spent_s for group, one in held.items() if group in self._held}
        self._held, self._at_s = held, now_s

    def size_bytes(self, group: int) -> int:
        """Bytes of a replica of the group; 0 while it is not known."""
        return self._held.get(group, (0, 0, 0))[0]

    def rate(self, group: int) -> float:
        """Bytes that were written each second between the last two looks; 0 while it is not known."""
        return self._rates.get(group, 0.0)


def _growth(before: Held, after: Held) -> float:
    """Bytes written: entries that came, at the mean size of those held, for a log is cut at its other end meanwhile."""
    size_bytes, first, last = after
    entries = last - first + 1
    return max(last - before[2], 0) * size_bytes / entries if entries > 0 else 0.0
