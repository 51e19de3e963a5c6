"""The matrix client × feature: its cells, the table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 190


class Outcome(Enum):
    """How a cell ended."""

    OK = "ok"
    FAIL = "fail"
    ABSENT = "absent"
    """The client has no such thing."""
    SKIPPED = "skipped"
    """It could not be run here."""


_SHOWN = {
    Outcome.OK: "[green]ok[/]",
    Outcome.FAIL: "[bold red]FAIL[/]",
    Outcome.ABSENT: "[dim]–[/]",
    Outcome.SKIPPED: "[yellow]skipped[/]",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One client and one feature."""

    client: str
    feature: str
    outcome: Outcome
    words: str = ""
    """Why it is not ok."""
    log: str = ""
    seconds: float = 0.0


def write(cells: Sequence[Cell], features: dict[str, str], path: Path) -> None:
    """``path`` gets the cells as JSON."""
    rows = [{**asdict(cell), "outcome": cell.outcome.value, "seconds": round(cell.seconds, 2)} for cell in cells]
    path.write_text(json.dumps({"features": features, "cells": rows}, indent=1, ensure_ascii=False) + "\n")


def markdown(cells: Sequence[Cell], features: dict[str, str]) -> str:
    """The matrix as the documents hold it."""
    clients = list(dict.fromkeys(cell.client for cell in cells))
    outcomes = {(cell.client, cell.feature): cell.outcome for cell in cells}
    words = {Outcome.OK: "ok", Outcome.FAIL: "**fail**", Outcome.ABSENT: "–", Outcome.SKIPPED: "skipped", None: ""}
    lines = ["| | " + " | ".join(clients) + " |", "|---|" + ":-:|" * len(clients)]
    for feature, text in features.items():
        row = [words[outcomes.get((client, feature))] for client in clients]
        if any(row):
            lines.append(f"| {text} | " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def show(cells: Sequence[Cell], features: dict[str, str]) -> None:
    """Print the table, and below it each failure with the place of its log."""
    clients = list(dict.fromkeys(cell.client for cell in cells))
    by_place = {(cell.client, cell.feature): cell for cell in cells}
    table = Table(box=box.SIMPLE_HEAD, title="Clients of Kafka at raftlog's door", title_justify="left")
    table.add_column("feature")
    for client in clients:
        name, _, release = client.rpartition(" ")
        table.add_column(f"{name}\n{release}", justify="center")
    for feature, text in features.items():
        row = [by_place.get((client, feature)) for client in clients]
        if any(row):
            table.add_row(text, *(_SHOWN[cell.outcome] if cell else "" for cell in row))
    console = Console(width=WIDTH, highlight=False)
    console.print(table)
    console.print("ok · FAIL · – not in this client · skipped: could not be run here", style="dim")
    for reason in dict.fromkeys(f"{cell.client}: {cell.words}" for cell in cells if cell.outcome is Outcome.SKIPPED):
        console.print(f"skipped: {reason}", style="yellow", markup=False)
    for cell in cells:
        if cell.outcome is Outcome.FAIL:
            console.print(f"\nFAIL {cell.client}, {cell.feature}: {cell.words}\n  {cell.log}", markup=False)
    counts = {outcome: sum(cell.outcome is outcome for cell in cells) for outcome in Outcome}
    console.print("\n" + ", ".join(f"{count} {outcome.value}" for outcome, count in counts.items()))
