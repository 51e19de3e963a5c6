"""How fast replicas catch up, and how long they still take: rates out of a few looks. Lost with the process, and no harm done."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from raftlog.core.metadata_values import Replica
from raftlog.core.reconcile import GroupReport

WINDOW_S = 20.0
"""Over how long a rate is taken: long enough to even out, short enough to follow."""
LOOKS_MAX = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Copying:
    """What one learner has of a group's log. ``rate`` is in bytes a second, 0 while unknown."""

    bytes_total: int
    bytes_done: int
    rate: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """At this rate; None while it is not known."""
        left = self.bytes_total - self.bytes_done
        if left <= 0:
            return 0.0
        return left / self.rate if self.rate > 0 else None


def copying(report: GroupReport, learner: Replica) -> Copying:
    """How far a learner is, by the share of the entries that it holds, or of the snapshot that comes first."""
    seen = report.followers.get(learner)
    if seen is None:
        return Copying(bytes_total=report.size_bytes, bytes_done=0)
    if seen.snapshot_bytes:
        total = report.size_bytes + seen.snapshot_bytes
        return Copying(bytes_total=total, bytes_done=min(seen.snapshot_sent_bytes, total))
    entries = report.last_index - report.first_index + 1
    held = max(seen.match_index - report.first_index + 1, 0)
    return Copying(bytes_total=report.size_bytes, bytes_done=report.size_bytes * held // entries if entries > 0 else 0)


@dataclass(slots=True)
class Rates:
    """Looks at what learners hold, by (group, replica)."""

    _looks: dict[tuple[int, Replica], deque[tuple[float, int]]] = field(default_factory=dict)

    def look(self, now_s: float, reports: dict[int, GroupReport]) -> None:
        """Take a look at every learner of these reports; those that are none any more are forgotten."""
        there = {(group, learner) for group, report in reports.items() for learner in report.learners}
        self._looks = {key: looks for key, looks in self._looks.items() if key in there}
        for group, learner in there:
            looks = self._looks.setdefault((group, learner), deque(maxlen=LOOKS_MAX))
            done = copying(reports[group], learner).bytes_done
            if looks and done < looks[-1][1]:
                looks.clear()  # it began anew, or a snapshot is done and entries follow
            if not looks or now_s - looks[-1][0] >= WINDOW_S / LOOKS_MAX:
                looks.append((now_s, done))
            while looks and now_s - looks[0][0] > WINDOW_S:
                looks.popleft()

    def rate(self, group: int, learner: Replica) -> float:
        """Bytes a second over the window, 0 while there are fewer than two looks."""
        looks = self._looks.get((group, learner))
        if not looks or len(looks) < 2:
            return 0.0
        (begun_s, begun), (end_s, end) = looks[0], looks[-1]
        return (end - begun) / (end_s - begun_s)
