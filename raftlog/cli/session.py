"""The options that every command shares, given before the command or behind it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from raftlog.cli.errors import InterruptedBySignal, UsageError
from raftlog.cli.output import Format

if TYPE_CHECKING:
    from raftlog.client.client import Client

BROKERS_DEFAULT = "127.0.0.1:7101"
BROKERS_VARIABLE = "RAFTLOG_BROKERS"

ADMIN_TIMEOUT_S = 15.0
"""An election takes two seconds at worst; a person looks at a silent terminal for no longer than this."""
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, what ``kill``, ``timeout`` and service managers send, and a terminal that is closed (ignored under ``nohup``)."""
INSIST_S = 1.0
"""A second signal after this is meant: the first one is not getting anywhere."""

BrokersOption = Annotated[
    str | None,
    typer.Option(
        "--brokers",
        metavar="HOST:PORT,…",
        show_default=False,
        help=f"gRPC addresses of some of the nodes [{BROKERS_VARIABLE}, else {BROKERS_DEFAULT}]",
    ),
]
FormatOption = Annotated[
    Format | None, typer.Option("--format", show_default=False, help="what stdout gets: tables, or JSON lines [text]")
]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Where the cluster is, and how to print."""

    brokers: str | None = None
    form: Format = Format.TEXT
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None

    @property
    def addresses(self) -> list[str]:
        """The brokers, one by one."""
        text = self.brokers or os.environ.get(BROKERS_VARIABLE) or BROKERS_DEFAULT
        addresses = [piece.strip() for piece in text.split(",") if piece.strip()]
        for address in addresses:
            host, colon, port = address.rpartition(":")
            if not (host and colon and port.isdecimal() and 0 < int(port) < 65_536):
                raise UsageError(f"{address!r} in --brokers (or {BROKERS_VARIABLE}) is not HOST:PORT")
        if not addresses:
            raise UsageError(f"--brokers (or {BROKERS_VARIABLE}) names no node")
        return addresses

    def client(self, timeout_s: float = 30.0) -> Client:
        """A client of that cluster, to be used in ``async with``. ``timeout_s``: how long it tries to get an answer."""
        from raftlog.client.client import Client

        return Client(
            self.addresses,
            client_id="raftlog-cli",
            request_timeout_s=timeout_s,
            tls_ca_file=self.tls_ca,
            tls_cert_file=self.tls_cert,
            tls_key_file=self.tls_key,
        )


def session(ctx: typer.Context, brokers: str | None, form: Format | None) -> Session:
    """What was given before the command, overridden by what was given behind it."""
    shared: Session = ctx.obj if isinstance(ctx.obj, Session) else Session()
    return replace(shared, brokers=brokers or shared.brokers, form=form or shared.form)


def run(coro: Coroutine[Any, Any, _T]) -> _T:
    """Run a command's coroutine. Each of ``ENDING_SIGNALS`` cancels it, once and in order: a consumer commits and leaves its
    group. Sent again a second later, they end the process.

    Raises:
        InterruptedBySignal: it was cancelled by one of them.
    """
    interrupt = _Interrupt()
    taken = [number for number in ENDING_SIGNALS if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN]
    before = [(number, signal.signal(number, interrupt.on_signal)) for number in taken]
    try:
        return asyncio.run(interrupt.guard(coro))
    except asyncio.CancelledError:
        if interrupt.first is not None:
            raise InterruptedBySignal(interrupt.first) from None
        raise
    finally:
        if interrupt.first is None:  # else the process is ending: one that comes now must not become a traceback
            for number, handler in before:
                signal.signal(number, handler)


class _Interrupt:
    """Signals as one cancellation. asyncio's own way raises KeyboardInterrupt at the second one wherever the code may be, and
    some parents send two (to the process, and to its group). Not a handler of the loop's: that goes with the loop, and a
    signal between the end of the loop's pipe and the end of its handlers writes a traceback to stderr."""

    def __init__(self) -> None:
        self.first: int | None = None
        """Number of the signal that came first."""
        self._first_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None

    async def guard(self, coro: Coroutine[Any, Any, _T]) -> _T:
        """Run ``coro`` in this task, which a signal cancels."""
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        return await coro

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """The handler of all of them.

        Raises:
            InterruptedBySignal: there is nothing to cancel: the task has not begun, or its loop is closed.
        """
        loop, task = self._loop, self._task
        if loop is None or task is None or (self.first is None and loop.is_closed()):
            raise InterruptedBySignal(number)
        if self.first is None:
            self.first, self._first_at = number, loop.time()
            loop.call_soon_threadsafe(task.cancel)  # which wakes the loop too
        elif loop.time() - self._first_at > INSIST_S:
            os._exit(InterruptedBySignal(number).exit_code)


def key_values(pairs: list[str], option: str) -> dict[str, str]:
    """``["a=1", "b=2"]`` as a dict.

    Raises:
        UsageError: a pair has no ``=``, or a key comes twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise UsageError(f"{option} {pair!r} is not KEY=VALUE")
        if key in found:
            raise UsageError(f"{option} {key} is given twice")
        found[key] = value
    return found
