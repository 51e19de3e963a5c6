"""The timeline as a picture: what clients did, how long it took, who led, and which faults there were, over the same seconds."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from tests.chaos.timeline import Band, GroupLine, Timeline, quantiles_ms

INK, FAINT = "#22303c", "#dfe5ea"
OUTCOMES = {"ok": "#2a9d6f", "unknown": "#e9a23b", "fail": "#d1495b"}
NODES = ["#b8c1c9", "#3d6fb6", "#d98f2b", "#6a9a3b", "#8a5fae", "#c0504d"]
"""By node id; 0 is nobody."""
KAFKA_LINE = "#7a3b9a"
MISHAPS = {"kill": ("x", "#d1495b"), "leave": (".", "#3d6fb6"), "stall": ("s", "#9aa5ae")}
FAULT, HEALING, BEYOND, ASLEEP = "#d1495b", "#f0b7bd", "#7d1128", "#9aa5ae"
WIDTH_MIN_INCHES, WIDTH_MAX_INCHES, INCHES_PER_S = 13.0, 60.0, 0.06
"""Ten minutes are 36 inches wide: wide enough to tell two episodes apart."""
LABEL_S = 9
"""A band's name is written beside it where this much is free behind its begin."""


def draw(made: Timeline, path: Path, *, nodes: int, title: str) -> None:
    """Write the picture."""
    width = min(max(WIDTH_MIN_INCHES, made.seconds * INCHES_PER_S), WIDTH_MAX_INCHES)
    partitions = sorted({reign.partition for reign in made.reigns} | made.acknowledged_s.keys())
    heights = [2.2, 1.3, 2.0, *[1.1] * len(made.groups), 0.4 + 0.32 * max(1, len(partitions)), 0.9 + 0.42 * (nodes + 1)]
    canvas, rows = pyplot.subplots(
        len(heights), 1, figsize=(width, sum(heights) + 1), sharex=True, height_ratios=heights, layout="constrained"
    )
    operations, reading, latency, *groups, leaders, faults = rows
    _operations(operations, made)
    _reading(reading, made)
    _latency(latency, made)
    for axes, (name, line) in zip(groups, sorted(made.groups.items()), strict=True):
        _group(axes, made, name, line)
    _leaders(leaders, made, partitions)
    _faults(faults, made, nodes)
    for axes in rows:
        _tidy(axes, made)
    faults.set_xlabel("seconds since the run began", color=INK)
    canvas.suptitle(title, fontsize=12, color=INK, x=0.01, ha="left")
    canvas.savefig(path, dpi=100, facecolor="white")
    pyplot.close(canvas)


def _operations(axes: Axes, made: Timeline) -> None:
    below = [0] * made.seconds
    for outcome, color in OUTCOMES.items():
        counts = made.published[outcome]
        axes.bar(range(made.seconds), counts, bottom=below, width=1.0, align="edge", color=color, label=outcome)
        below = [one + other for one, other in zip(below, counts, strict=True)]
    if any(made.kafka_published):
        axes.step(range(made.seconds), made.kafka_published, where="post", linewidth=1.0, color=KAFKA_LINE, label="of it, Kafka")
    axes.set_ylabel("publishes / s", color=INK)
    _legend(axes)


def _reading(axes: Axes, made: Timeline) -> None:
    axes.fill_between(range(made.seconds), made.read, step="post", color="#3d6fb6", alpha=0.55, linewidth=0, label="read")
    if any(made.kafka_read):
        axes.step(range(made.seconds), made.kafka_read, where="post", linewidth=1.0, color=KAFKA_LINE, label="of it, Kafka")
    axes.set_ylabel("records read / s", color=INK)
    axes.set_ylim(bottom=0)
    _legend(axes)


def _group(axes: Axes, made: Timeline, name: str, line: GroupLine) -> None:
    """Commits a second, records given as a line, and above them rebalances and what befell members."""
    axes.bar(range(made.seconds), line.commits, width=1.0, align="edge", color=OUTCOMES["ok"], label="commits / s")
    axes.bar(
        range(made.seconds), line.refused, bottom=line.commits, width=1.0, align="edge", color=OUTCOMES["unknown"],
        label="refused, unknown",
    )  # fmt: skip
    top = max([*(one + other for one, other in zip(line.commits, line.refused, strict=True)), 1])
    axes.plot(line.rebalances_s, [top * 1.25] * len(line.rebalances_s), "|", color=INK, markersize=7, label="generation")
    for kind, (mark, color) in MISHAPS.items():
        at = [at_s for at_s, what in line.mishaps if what == kind]
        axes.plot(at, [top * 1.55] * len(at), mark, color=color, markersize=6, label=f"member: {kind}")
    axes.set_ylim(0, top * 1.75)
    axes.set_ylabel(f"group\n{name}", color=INK)
    _legend(axes)


def _latency(axes: Axes, made: Timeline) -> None:
    found = quantiles_ms(made.latencies_ms, made.seconds)
    at = [second + 0.5 for second in range(made.seconds)]
    axes.semilogy(at, found["slowest"], ".", markersize=4, color="#d98f2b", label="slowest of each second")
    axes.semilogy(at, found["median"], "-", linewidth=1.4, color=INK, label="median")
    axes.axhline(10_000, color=FAULT, linewidth=0.9, linestyle="--")
    axes.text(made.seconds * 0.001, 10_000, "10 s", color=FAULT, va="bottom", fontsize=8)
    axes.set_ylabel("acknowledged\nafter, ms", color=INK)
    axes.set_yticks([1, 10, 100, 1_000, 10_000], ["1", "10", "100", "1,000", "10,000"])
    _legend(axes)


def _leaders(axes: Axes, made: Timeline, partitions: list[int]) -> None:
    for reign in made.reigns:
        row = partitions.index(reign.partition)
        color = NODES[reign.node % len(NODES)] if reign.node else "white"
        axes.barh(row, reign.end_s - reign.begin_s, left=reign.begin_s, height=0.8, color=color, edgecolor="white", linewidth=0.4)
    axes.set_yticks(range(len(partitions)), [f"partition {partition}" for partition in partitions])
    axes.set_ylim(len(partitions) - 0.4, -0.6)
    known = sorted({reign.node for reign in made.reigns if reign.node})
    axes.set_ylabel("led by", color=INK)
    patches = [Patch(color=NODES[node % len(NODES)], label=f"node {node}") for node in known]
    axes.legend(handles=patches, loc="upper left", bbox_to_anchor=(1.0, 1.05), frameon=False, fontsize=8)


def _faults(axes: Axes, made: Timeline, nodes: int) -> None:
    """A row for each node, and one for what hits several."""
    for at, band in enumerate(made.bands):
        following = made.bands[at + 1].begin_s if at + 1 < len(made.bands) else made.seconds
        size = 8 if following - band.begin_s >= LABEL_S else 6
        for shaded in axes.figure.axes[:-1]:
            alpha = 0.08 if band.spares_majority else 0.16
            shaded.axvspan(band.begin_s, band.healed_s, color=FAULT, alpha=alpha, linewidth=0)
        row = band.node - 1 if band.spares_majority or band.companion else nodes
        _band(axes, band, row, band.kind, size)
        if band.companion:
            _band(axes, band, band.other - 1, band.companion, size)
    for begin_s, end_s in made.asleep:
        for hatched in axes.figure.axes:
            hatched.axvspan(begin_s, end_s, facecolor="none", edgecolor=ASLEEP, hatch="///", linewidth=0)
    for at_s, _ in made.findings:
        for row_axes in axes.figure.axes:
            row_axes.axvline(at_s, color=BEYOND, linewidth=1.6)
    axes.set_yticks(range(nodes + 1), [*(f"node {node}" for node in range(1, nodes + 1)), "more than one"])
    axes.set_ylim(nodes + 0.6, -0.6)
    axes.set_ylabel("faults", color=INK)
    patches = [
        Patch(color=FAULT, label="fault"),
        Patch(color=HEALING, label="healed, not yet well"),
        Patch(color=BEYOND, label="something that must not be"),
        *([Patch(facecolor="none", edgecolor=ASLEEP, hatch="///", label="the run itself stood still")] if made.asleep else []),
    ]
    axes.legend(handles=patches, loc="upper left", bbox_to_anchor=(1.0, 1.05), frameon=False, fontsize=8)


def _band(axes: Axes, band: Band, row: int, name: str, size: int) -> None:
    axes.barh(row, band.healed_s - band.begin_s, left=band.begin_s, height=0.5, color=FAULT)
    axes.barh(row, band.end_s - band.healed_s, left=band.healed_s, height=0.5, color=HEALING)
    axes.text(band.begin_s, row - 0.3, name, va="bottom", ha="left", fontsize=size, color=INK)


def _tidy(axes: Axes, made: Timeline) -> None:
    axes.set_xlim(0, made.seconds)
    axes.tick_params(length=0, colors=INK)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.05), frameon=False, fontsize=8)
