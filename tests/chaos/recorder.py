"""Writes down what happens, as it happens: the clients' operations, and beside them the faults and what was seen of the nodes.

Each process of a run has a history of its own below ``histories``: JSON lines of ``tests.history``, at monotonic microseconds
since the run began, which all processes of one machine count alike. ``merge`` makes one history of them, for the judges. So what
a client in another process did has its own time, and not that at which somebody heard of it. ``events.jsonl`` is for people and
for the timeline; each of its lines has the same microseconds (``t``) and the wall clock in milliseconds (``wall``).
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from raftlog.core.clock import Clock
from tests.history.codec import decode_lines, encode
from tests.history.events import Event, Outcome, Publish, Value

HISTORY_FILE = "history.jsonl"
HISTORIES = "histories"
EVENTS_FILE = "events.jsonl"
NUMBERS_EACH = 1_000_000_000
"""Operations of one process at most: each has numbers of its own."""


class History:
    """The history of one process; a context manager that closes it.

    Args:
        directory: of the run.
        name: of the process, no other's.
        clock: whose monotonic time all processes of this machine share.
        begun_s: that time, when the run began.
        process: a number of the process, no other's.
    """

    def __init__(self, directory: Path, name: str, clock: Clock, begun_s: float, process: int) -> None:
        (directory / HISTORIES).mkdir(exist_ok=True)
        self.begun_s = begun_s
        self._clock = clock
        # Line by line: what a process that is killed had begun must be told.
        self._file = (directory / HISTORIES / f"{name}.jsonl").open("w", buffering=1)
        self._open: dict[int, tuple[str, Value]] = {}
        self._last = process * NUMBERS_EACH
        self.acknowledged_us: dict[tuple[str, int], int] = {}
        """Topic and partition → when the last publish was acknowledged."""

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def now_us(self) -> int:
        """Microseconds since the run began."""
        return round((self._clock.monotonic_s() - self.begun_s) * 1_000_000)

    def begin(self, client: str, value: Value) -> int:
        """An operation begins; its number."""
        self._last += 1
        self._open[self._last] = client, value
        self._write(client, self._last, "invoke", value, "")
        return self._last

    def end(self, operation: int, outcome: Outcome, value: Value | None = None, error: str = "") -> None:
        """It ends."""
        client, begun = self._open.pop(operation)
        if outcome == "ok" and isinstance(begun, Publish):
            self.acknowledged_us[begun.topic, begun.partition] = self.now_us()
        self._write(client, operation, outcome, value, error)

    def _write(self, client: str, operation: int, outcome: Outcome, value: Value | None, error: str) -> None:
        event = Event(time_us=self.now_us(), client=client, operation=operation, outcome=outcome, value=value, error=error[:500])
        self._file.write(encode(event) + "\n")


class Recorder(History):
    """The history of the process that plays the faults, and the events."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        super().__init__(directory, "run", clock, clock.monotonic_s(), 0)
        self._events = (directory / EVENTS_FILE).open("w", buffering=1)
        self.findings: list[str] = []
        """What was seen during the run that must not be."""

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._events.close()

    def note(self, what: str, **facts: Any) -> None:
        """A line of ``events.jsonl``."""
        line = {"t": self.now_us(), "wall": self._clock.wall_ms(), "what": what, **facts}
        self._events.write(json.dumps(line, ensure_ascii=False) + "\n")

    def found(self, text: str) -> None:
        """Something that must not be."""
        self.findings.append(text)
        self.note("finding", text=text)


def merge(directory: Path) -> Path:
    """Make one history of those of all processes, in the order of time; gives its file."""
    path = directory / HISTORY_FILE
    with ExitStack() as stack, path.open("w") as merged:
        files = [stack.enter_context(one.open()) for one in sorted((directory / HISTORIES).glob("*.jsonl"))]
        for event in heapq.merge(*map(decode_lines, files), key=lambda event: event.time_us):
            merged.write(encode(event) + "\n")
    return path


def read_history(directory: Path) -> Iterator[Event]:
    """The merged history."""
    with (directory / HISTORY_FILE).open() as lines:
        yield from decode_lines(lines)
