"""What is told of the figures: a table for people, JSON for programs, and the picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from tests.bench.figures import Figure, Verdict
from tests.bench.picture import draw
from tests.bench.process_facts import machine

WIDTH = 150
_STYLES = {Verdict.REACHED: "green", Verdict.MISSED: "bold red", Verdict.INFORMATION: "dim"}


def write(figures: Sequence[Figure], directory: Path, *, seconds: float, quick: bool) -> None:
    """Print the table; write ``bench.json`` and ``bench.png`` into ``directory``."""
    facts = machine()
    _table(figures, facts, seconds)
    data = {"quick": quick, "seconds": round(seconds, 1), "machine": facts, "figures": [_entry(figure) for figure in figures]}
    (directory / "bench.json").write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    draw(figures, directory / "bench.png", subtitle=_where(facts))
    print(f"\n{directory / 'bench.json'}\n{directory / 'bench.png'}")


def _table(figures: Sequence[Figure], facts: dict[str, object], seconds: float) -> None:
    title = f"Three nodes, three replicas, acks=all, fsync on · {_where(facts)} · {seconds:.0f} s"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("figure")
    table.add_column("measured", justify="right")
    table.add_column("target", justify="right")
    table.add_column("verdict")
    table.add_column("median sides, or range")
    for figure in figures:
        sign = "" if figure.target is None else "≤" if figure.target.at_most else "≥"
        target = "" if figure.target is None else f"{sign} {figure.target.value:g} {figure.unit}"
        style = _STYLES[figure.verdict]
        table.add_row(figure.text, shown(figure), target, f"[{style}]{figure.verdict.value}[/]", _detail(figure))
    Console(width=WIDTH, highlight=False).print(table)


def shown(figure: Figure) -> str:
    """The value with its unit."""
    number = f"{figure.value:,.0f}" if figure.value >= 1_000 else f"{figure.value:.3g}"
    return f"{number} {figure.unit}"


def _detail(figure: Figure) -> str:
    if figure.unit == "×" and figure.samples:
        return f"{figure.detail}; rounds {min(figure.samples):.2f} to {max(figure.samples):.2f}"
    if not figure.detail and len(figure.samples) > 1:
        return f"{min(figure.samples):.3g} to {max(figure.samples):.3g} {figure.unit}"
    return figure.detail


def _where(facts: dict[str, object]) -> str:
    return f"{facts['cores']} cores, Python {facts['python']}"


def _entry(figure: Figure) -> dict[str, object]:
    return {
        "name": figure.name,
        "text": figure.text,
        "value": figure.value,
        "unit": figure.unit,
        "target": None if figure.target is None else figure.target.value,
        "target_is": None if figure.target is None else "at most" if figure.target.at_most else "at least",
        "verdict": None if figure.target is None else figure.verdict.value,
        "detail": figure.detail,
        "samples": list(figure.samples),
    }
