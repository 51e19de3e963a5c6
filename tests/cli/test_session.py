"""How a command is run: Ctrl-C and its like at any moment."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from raftlog.cli.errors import InterruptedBySignal
from raftlog.cli.session import ENDING_SIGNALS, run


def interrupt() -> None:
    """As Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def _same_handler_after() -> Iterator[None]:
    """The next test begins as this one did."""
    before = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def interrupted() -> None:
    """A command that waits, and meets Ctrl-C."""
    asyncio.get_running_loop().call_soon(interrupt)
    await asyncio.Event().wait()


def test_a_second_interrupt_while_the_loop_closes_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the end of the loop's pipe and the end of its handlers, a handler of the loop's would write a traceback."""
    closed: list[bool] = []
    unraisable: list[object] = []
    close_pipe = asyncio.SelectorEventLoop._close_self_pipe  # type: ignore[attr-defined]  # asyncio's own

    def close_and_interrupt(self: asyncio.SelectorEventLoop) -> None:
        close_pipe(self)
        interrupt()
        closed.append(True)

    monkeypatch.setattr(asyncio.SelectorEventLoop, "_close_self_pipe", close_and_interrupt)
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    with pytest.raises(InterruptedBySignal):
        run(interrupted())
    assert closed == [True]
    assert not unraisable


def test_a_second_interrupt_after_the_loop_is_quiet() -> None:
    """The process is on its way out with 130: it is not stopped again."""
    with pytest.raises(InterruptedBySignal):
        run(interrupted())
    interrupt()


def test_a_command_without_interrupt_leaves_the_handler_as_it_was() -> None:
    """So that what comes after it can be interrupted."""

    async def quiet() -> int:
        await asyncio.sleep(0)
        return 5

    before = signal.getsignal(signal.SIGINT)
    assert run(quiet()) == 5
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_that_the_caller_ignores_stays_ignored() -> None:
    """As under ``nohup``: the command goes on when its terminal is closed."""

    async def hung_up() -> int:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0)
        return 5

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run(hung_up()) == 5
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interrupt_before_the_command_begins_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing yet to cancel: it does not begin."""
    begun: list[bool] = []
    really_run = asyncio.run

    def early(guard: Coroutine[Any, Any, None]) -> None:
        interrupt()
        really_run(guard)

    async def command() -> None:
        begun.append(True)

    monkeypatch.setattr(asyncio, "run", early)
    with pytest.raises(InterruptedBySignal):
        run(command())
    assert not begun


def test_what_does_not_end_in_order_after_a_sigterm_is_ended() -> None:
    """Whoever sends it may send nothing more, and wait."""
    program = """
import asyncio, os, signal
from raftlog.cli import session

async def stuck() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.Event().wait()

session.ENDING_S = 0.01
session.run(stuck())
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 143
