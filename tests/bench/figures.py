"""The figures: what each one is, what it has to reach, and what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from statistics import median


class Verdict(Enum):
    """How a figure compares with its target."""

    REACHED = "reached"
    MISSED = "missed"
    INFORMATION = "–"


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure must reach; ``at_most`` where less is better."""

    value: float
    at_most: bool = False

    def reached(self, value: float) -> bool:
        """Whether ``value`` is good enough."""
        return value <= self.value if self.at_most else value >= self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure.

    ``value`` is a ratio to the bare counterpart where ``unit`` is ``×``; ``detail`` says the two sides in their own units.
    """

    name: str
    text: str
    value: float
    unit: str
    target: Target | None = None
    detail: str = ""
    samples: Sequence[float] = field(default_factory=tuple)

    @property
    def verdict(self) -> Verdict:
        """How it compares with its target."""
        if self.target is None:
            return Verdict.INFORMATION
        return Verdict.REACHED if self.target.reached(self.value) else Verdict.MISSED


@dataclass(frozen=True, slots=True)
class Pair:
    """One round of one case: raftlog between two bare measurements."""

    bare_before: float
    raftlog: float
    bare_after: float

    @property
    def bare(self) -> float:
        """The bare side, at about the time of raftlog's."""
        return (self.bare_before + self.bare_after) / 2

    @property
    def ratio(self) -> float:
        """raftlog in multiples of bare."""
        return self.raftlog / self.bare


def compare(name: str, text: str, unit: str, target: Target | None, pairs: Sequence[Pair]) -> Figure:
    """The median ratio over all rounds."""
    detail = f"{median(pair.raftlog for pair in pairs):.4g} of {median(pair.bare for pair in pairs):.4g} {unit}"
    ratios = [pair.ratio for pair in pairs]
    return Figure(name=name, text=text, value=median(ratios), unit="×", target=target, detail=detail, samples=ratios)


def middle_round(name: str, text: str, unit: str, target: Target | None, sides: Sequence[tuple[float, float]]) -> Figure:
    """The round with the median ratio of few, and what its two sides were: a median of each side would be of different rounds."""
    ratios = [ours / base for ours, base in sides]
    middle = sorted(range(len(sides)), key=lambda at: ratios[at])[len(sides) // 2]
    one, other = sides[middle]
    detail = f"{one:.4g} of {other:.4g} {unit}"
    return Figure(name=name, text=text, value=ratios[middle], unit="×", target=target, detail=detail, samples=ratios)
