"""The figures as a picture: each as a bar against its target, so that all share one axis, whatever their units."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from tests.bench.figures import Figure, Target, Verdict

REACHED, MISSED, INK, FAINT = "#2a9d6f", "#d1495b", "#22303c", "#c9d3db"
BAR_MAX = 3.0
"""A bar ends here, however far a figure is beyond its target; its label says how far."""


def goodness(value: float, target: Target) -> float:
    """1 at the target, above where it is better than asked, also where less is better."""
    return target.value / value if target.at_most else value / target.value


def draw(figures: Sequence[Figure], path: Path, *, subtitle: str) -> None:
    """Write the picture of all figures that have a target, and name the others below it."""
    aimed = [figure for figure in figures if figure.target is not None]
    others = [figure for figure in figures if figure.target is None]
    height = 1.6 + 0.52 * len(aimed) + 0.22 * len(others)
    canvas, axes = pyplot.subplots(figsize=(11, height), layout="constrained")
    for row, figure in enumerate(aimed):
        _bar(axes, row, figure)
    axes.axvline(1.0, color=INK, linewidth=1.4)
    axes.set_yticks(range(len(aimed)), [figure.text for figure in aimed])
    axes.set_ylim(len(aimed) - 0.4, -0.9)
    axes.set_xlim(0, BAR_MAX * 1.02)
    axes.text(1.0, -0.62, "target", ha="center", va="bottom", color=INK, fontsize=9)
    axes.set_xticks([0, 0.5, 1, 1.5, 2, 2.5, 3], ["0", "½", "1", "1½", "2", "2½", "3 ×"])
    axes.set_xlabel("how many times as good as the target (right of the line: reached)", color=INK)
    axes.tick_params(length=0, colors=INK)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    canvas.suptitle(f"raftlog against its targets\n{subtitle}; × is in multiples of the bare counterpart", fontsize=12, color=INK)
    if others:
        canvas.supxlabel("   ·   ".join(_told(figure) for figure in others), fontsize=8.5, color=INK, wrap=True)
    canvas.savefig(path, dpi=130, facecolor="white")
    pyplot.close(canvas)


def _bar(axes: Axes, row: int, figure: Figure) -> None:
    assert figure.target is not None
    length = goodness(figure.value, figure.target)
    shown = min(length, BAR_MAX)
    axes.barh(row, shown, height=0.62, color=REACHED if figure.verdict is Verdict.REACHED else MISSED)
    if len(figure.samples) > 1:
        spread = sorted(min(goodness(one, figure.target), BAR_MAX) for one in figure.samples)
        axes.plot([spread[0], spread[-1]], [row + 0.24] * 2, color=INK, linewidth=1.0, marker="|", markersize=5)
    sign = "≤" if figure.target.at_most else "≥"
    label = f"{figure.value:.3g} {figure.unit}  ({sign} {figure.target.value:g})"
    axes.text(0.03, row, label, va="center", color="white", fontsize=9, fontweight="bold")


def _told(figure: Figure) -> str:
    number = f"{figure.value:,.0f}" if figure.value >= 1_000 else f"{figure.value:.3g}"
    return f"{figure.text}: {number} {figure.unit}"
