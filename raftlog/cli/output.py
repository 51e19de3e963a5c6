"""What the commands print: data on stdout (tables, or JSON lines), talk and progress on stderr."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

PIPED_WIDTH_MAX = 1 << 20
"""Bounds a table that nobody looks at: wider than any, so that each row is one whole line for ``grep``."""
CELL_WIDTH_WHOLE = 30
"""A cell up to this wide stays on one line; wider ones are sentences, and may be broken between words."""


class Format(StrEnum):
    """How data is printed."""

    TEXT = "text"
    JSON = "json"


def talk(message: str) -> None:
    """Say something to the person at the terminal."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def print_json(value: Mapping[str, object]) -> None:
    """One JSON object on one line."""
    sys.stdout.write(to_json(value) + "\n")


def to_json(value: Mapping[str, object]) -> str:
    """Compact, and readable in any script: not only ASCII."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout; numbers stand right. On a terminal that is too narrow for it, a block of lines for each row."""
    listed = [list(row) for row in rows]
    cells = [[_cell(value) for value in row] for row in listed]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, column in enumerate(columns):
        right = bool(listed) and all(isinstance(row[number], int | float) for row in listed)
        width = max(cell_len(text) for text in (column, *(row[number] for row in cells)))
        table.add_column(
            column,
            justify="right" if right else "left",
            min_width=min(width, CELL_WIDTH_WHOLE),
            no_wrap=width <= CELL_WIDTH_WHOLE or not sys.stdout.isatty(),
            overflow="fold",  # never an ellipsis: half an address is none
        )
    for row in cells:
        table.add_row(*row)
    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    if not sys.stdout.isatty():
        console.width = PIPED_WIDTH_MAX
    elif cells and Measurement.get(console, console.options.update_width(PIPED_WIDTH_MAX), table).minimum > console.width:
        _print_blocks(columns, cells)
        return
    with console.capture() as captured:
        console.print(table)
    sys.stdout.write("\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n")


def _print_blocks(columns: Sequence[str], cells: Iterable[Sequence[str]]) -> None:
    """Each row as lines of name and value, below an empty line that sets it off from what is above."""
    width = max(map(cell_len, columns))
    for row in cells:
        lines = [f"{set_cell_size(column, width)}  {text}" for column, text in zip(columns, row, strict=True)]
        sys.stdout.write("\n" + "\n".join(lines) + "\n")


def print_records(columns: Sequence[str], records: Sequence[Mapping[str, object]], form: Format) -> None:
    """The same records as JSON lines, or as a table with these of their keys."""
    if form is Format.JSON:
        for record in records:
            print_json(record)
    else:
        print_table(columns, [[record[column] for column in columns] for record in records])


def _cell(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return "–" if value is None or value == "" else str(value)


def bytes_fields(name: str, value: bytes | None) -> dict[str, str | None]:
    """Bytes as JSON: ``{name: text}`` where they are UTF-8, else ``{name_base64: …}``, so that nothing is lost."""
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def utc(at_ms: int) -> str:
    """A time since the epoch: ``2026-01-31 23:59:59Z``."""
    return datetime.fromtimestamp(at_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def human_bytes(size: float) -> str:
    """``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def counted(count: int, one: str, several: str = "") -> str:
    """``1 partition``, ``2,000 partitions``; ``several`` where it is not ``one`` and an s."""
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"


def moving_bars() -> Progress:
    """Bars for replicas that are copied, on stderr, only on a terminal; each with a text of its own behind it."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


def progress(*, shown: bool = True) -> Progress:
    """Bars on stderr, only on a terminal; gone when the work is done."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not (shown and sys.stderr.isatty()),
    )
