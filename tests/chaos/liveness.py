"""Whether publishing went on wherever that is promised (I9): a pure function of acknowledgements and faults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

GAP_S = 10.0
"""With a majority healthy and connected, every partition takes records again within this time."""
AFTERMATH_S = 10.0
"""Behind a fault that hurt more than a minority: as long for the cluster to find together again."""


@dataclass(frozen=True, slots=True)
class Window:
    """Seconds from ``begin_s`` to ``end_s``."""

    begin_s: float
    end_s: float


def stalls(
    acknowledged_s: Mapping[int, Sequence[float]], run: Window, excused: Iterable[Window], asleep: Iterable[Window] = ()
) -> list[str]:
    """Every gap between acknowledgements of a partition that is too long, without the time in which nothing is promised.

    Args:
        acknowledged_s: partition → when it acknowledged, rising.
        run: when producers sent.
        excused: when more than a minority was hurt; ``AFTERMATH_S`` is added to each.
        asleep: when the run itself stood still, and saw nothing.
    """
    free = [*(Window(window.begin_s, window.end_s + AFTERMATH_S) for window in excused), *asleep]
    found = []
    for partition, times in sorted(acknowledged_s.items()):
        for before, after in pairwise([run.begin_s, *(t for t in times if run.begin_s <= t <= run.end_s), run.end_s]):
            promised_s = (after - before) - sum(overlap_s(before, after, window) for window in _joined(free))
            if promised_s > GAP_S:
                found.append(
                    f"partition {partition} acknowledged nothing for {after - before:.1f} s from {before:.1f} s on, "
                    f"{promised_s:.1f} s of it with a majority healthy and connected"
                )
    return found


def overlap_s(begin_s: float, end_s: float, window: Window) -> float:
    """How much of a span lies in a window."""
    return max(0.0, min(end_s, window.end_s) - max(begin_s, window.begin_s))


def _joined(windows: Sequence[Window]) -> list[Window]:
    """Without overlaps, so that no second counts twice."""
    joined: list[Window] = []
    for window in sorted(windows, key=lambda one: one.begin_s):
        if joined and window.begin_s <= joined[-1].end_s:
            joined[-1] = Window(joined[-1].begin_s, max(joined[-1].end_s, window.end_s))
        else:
            joined.append(window)
    return joined
