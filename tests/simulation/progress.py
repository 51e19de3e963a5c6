"""How far a long run is: a bar on a terminal, and a line now and then in a log."""

from __future__ import annotations

import sys
import time

BAR_CELLS = 30
LINE_EVERY_S = 30.0
"""Where nobody watches."""


class Progress:
    """Counts steps up to ``total``."""

    def __init__(self, total: int, what: str) -> None:
        self._total, self._what = total, what
        self._done = 0
        self._begun_s = self._told_s = time.perf_counter()
        self._bar = sys.stdout.isatty()

    def step(self, note: str) -> None:
        """One more is done."""
        self._done += 1
        now = time.perf_counter()
        left_s = (now - self._begun_s) / self._done * (self._total - self._done)
        text = f"{self._done}/{self._total} {self._what}, {note}, {left_s:.0f} s left"
        if self._bar:
            full = BAR_CELLS * self._done // self._total
            print(f"\r\x1b[K{'█' * full}{'░' * (BAR_CELLS - full)} {text}", end="", flush=True)
        elif now - self._told_s >= LINE_EVERY_S:
            self._told_s = now
            print(text, flush=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        print(f"\r\x1b[K{text}" if self._bar else text, flush=True)

    def end(self) -> None:
        """Take the bar away."""
        if self._bar:
            print("\r\x1b[K", end="", flush=True)
