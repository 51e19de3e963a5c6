"""Clients in processes of their own: they can be killed, paused and started again, and end with the run.

A library that keeps threads of its own (librdkafka) is then no matter of this process's event loop, and a member of a group that
is killed is really gone. What a client says on stdout (a JSON line each) reaches its owner at once; its operations are in its
history, and what goes wrong is in its log.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raftlog.core.clock import SystemClock
from raftlog.testing.child import die_with_parent
from tests.chaos.recorder import History, Recorder

ROOT = Path(__file__).resolve().parents[2]
STOP_TIMEOUT_S = 15.0
"""For a client to leave its group or flush its records, also while the cluster is hurt."""
LOG_TAIL_BYTES = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What every client in a process of its own is told."""

    directory: Path
    """Of the run."""
    begun_s: float
    topic: str
    partitions: int


class Child:
    """One process of a client.

    Args:
        module: that it runs, below ``tests.chaos``.
        name: of the process, no other's.
        number: the same.
        words: its own arguments.
        told: gets each of its lines.
    """

    def __init__(
        self,
        module: str,
        name: str,
        number: int,
        place: Place,
        words: Sequence[str],
        told: Callable[[Any], None] = lambda _: None,
    ) -> None:
        self.name = name
        self._log = place.directory / "clients" / f"{name}.log"
        self._words = [
            sys.executable, "-m", f"tests.chaos.{module}", str(os.getpid()), str(place.directory), name, str(number),
            repr(place.begun_s), place.topic, str(place.partitions), *words,
        ]  # fmt: skip
        self._told = told
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it; ``ended`` is to follow."""
        self._log.parent.mkdir(exist_ok=True)
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log, cwd=ROOT,
                start_new_session=True,
            )  # fmt: skip

    async def ended(self) -> int:
        """Hear it out, to its end; the exit code. Cancelled, it is killed."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                self._told(json.loads(line))
            return await process.wait()
        finally:
            self.signal(signal.SIGKILL)
            await process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def stop(self, ended: asyncio.Future[int]) -> None:
        """Ask it to end in order; in vain, end it. ``ended`` is the task that hears it out."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        await asyncio.wait((ended,), timeout=STOP_TIMEOUT_S)
        self.signal(signal.SIGKILL)
        await asyncio.wait((ended,))

    def last_words(self) -> str:
        """The end of its log, for a finding."""
        return self._log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()


@asynccontextmanager
async def running(child: Child, recorder: Recorder, stop_timeout_s: float = STOP_TIMEOUT_S) -> AsyncIterator[None]:
    """A client that is to run as long as the body; an end of its own is a finding."""
    await child.start()
    ended = asyncio.get_running_loop().create_task(child.ended())
    try:
        yield
    finally:
        if ended.done():
            recorder.found(f"client {child.name} ended by itself with {ended.result()}: {child.last_words()}")
        else:
            child.signal(signal.SIGTERM)
            await asyncio.wait((ended,), timeout=stop_timeout_s)
            ended.cancel()
            await asyncio.wait((ended,))


def begin(argv: Sequence[str]) -> tuple[History, str, str, int, list[str]]:
    """What such a process does first: its history, its name, the topic and its partitions, and its own words."""
    parent, directory, name, number, begun_s, topic, partitions, *words = argv[1:]
    die_with_parent(int(parent))
    history = History(Path(directory), name, SystemClock(), float(begun_s), int(number))
    return history, name, topic, int(partitions), words


def say(**facts: Any) -> None:
    """A line for the owner."""
    print(json.dumps(facts), flush=True)
