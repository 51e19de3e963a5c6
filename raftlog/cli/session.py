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
from raftlog.core.clock import SystemClock

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
ENDING_S = 8.0
"""How long a command may take to end in order: less than what service managers and Docker wait before they kill."""

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


def ending_signals() -> list[signal.Signals]:
    """Those of ``ENDING_SIGNALS`` that end this process: what its caller has it ignore (``nohup``) stays ignored, but for Ctrl-C,
    which shells have every job in the background ignore."""
    return [number for number in ENDING_SIGNALS if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN]


def run(coro: Coroutine[Any, Any, _T]) -> _T:
    """Run a command's coroutine. Each of ``ENDING_SIGNALS`` cancels it, once and in order: a consumer commits and leaves its
    group, a producer waits for its acknowledgements. Sent again a second later, they end the process. Nobody may be there to send
    anything but Ctrl-C again, so the others end it after ``ENDING_S`` at the latest.

    Raises:
        InterruptedBySignal: it was cancelled by one of them.
    """
    interrupt = _Interrupt()
    before = [(number, signal.signal(number, interrupt.on_signal)) for number in ending_signals()]
    try:
        return asyncio.run(interrupt.guard(coro))
    except asyncio.CancelledError:
        if interrupt.first is not None:
            raise InterruptedBySignal(interrupt.first) from None
        raise
    finally:
        interrupt.disarm()
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
        """Run ``coro`` in this task, which a signal cancels; not at all where one has come before.

        Raises:
            CancelledError: a signal came.
        """
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        if self.first is not None:
            coro.close()
            raise asyncio.CancelledError
        return await coro

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """The handler of all of them. It raises nothing: that would end up wherever the code is, and be lost in a callback."""
        exit_code = InterruptedBySignal(number).exit_code
        if self.first is not None:
            if SystemClock().monotonic_s() - self._first_at > INSIST_S:
                os._exit(exit_code)
            return
        self.first, self._first_at = number, SystemClock().monotonic_s()
        if number != signal.SIGINT:
            # Not a timer of the loop's, which may stand: writing into a pipe that nobody reads.
            signal.signal(signal.SIGALRM, lambda *_: os._exit(exit_code))
            signal.setitimer(signal.ITIMER_REAL, ENDING_S)
        if self._loop is not None and self._task is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._task.cancel)  # which wakes the loop too

    def disarm(self) -> None:
        """The command is over; what is left of the process takes no time."""
        if self.first not in (None, signal.SIGINT):
            signal.setitimer(signal.ITIMER_REAL, 0.0)


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
