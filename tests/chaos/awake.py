"""Watches over the run's own event loop: while that stands still, nobody can say that the cluster did."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from pathlib import Path
from typing import TextIO

from tests.chaos.recorder import Recorder

TICK_S = 0.1
ASLEEP_S = 0.75
"""A loop that was late by so much was not watching; no scheduler of a machine that is merely busy is so late."""
STACKS_FILE = "asleep.txt"


class Watchman:
    """A thread that writes down what all threads do when nobody has called ``beat`` for too long; use in a ``with``.

    ``faulthandler`` would do it without the interpreter's lock, from frames that change under it: that has ended a run.
    """

    def __init__(self, stacks: TextIO, patience_s: float) -> None:
        self._stacks, self._patience_s = stacks, patience_s
        self._beaten, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchman", daemon=True)

    def __enter__(self) -> Watchman:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._beaten.set()
        self._thread.join()

    def beat(self) -> None:
        """All is well."""
        self._beaten.set()

    def _watch(self) -> None:
        while not self._ending.is_set():
            if not self._beaten.wait(self._patience_s):
                self._write()
                self._beaten.wait()
            self._beaten.clear()

    def _write(self) -> None:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            if ident != threading.get_ident():
                self._stacks.write(f"{names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}\n")
        self._stacks.flush()


async def stay_awake(recorder: Recorder, directory: Path) -> None:
    """Until cancelled: note every time the loop stood still, and write down what all threads did meanwhile."""
    loop = asyncio.get_running_loop()
    with (directory / STACKS_FILE).open("w") as stacks, Watchman(stacks, TICK_S + ASLEEP_S) as watchman:
        while True:
            watchman.beat()
            begun, begun_us = loop.time(), recorder.now_us()
            await asyncio.sleep(TICK_S)
            late_s = loop.time() - begun - TICK_S
            if late_s > ASLEEP_S:
                recorder.note("asleep", begin=begun_us, seconds=round(late_s, 2))
