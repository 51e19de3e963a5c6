"""How a command ends: 0 done, 1 failed, 2 wrong usage, 130 interrupted by Ctrl-C (143 by SIGTERM, 129 with its terminal), 141
nobody reads any more. Never with a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import typer

from raftlog.errors import (
    IndeterminateError,
    NotLeaderError,
    OffsetOutOfRangeError,
    OverloadedError,
    RaftlogError,
    UnavailableError,
)

FAILED, USAGE, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141


# Typer brings its own copy of click since 0.26; its errors are reached through the names that typer exports.
_PARSING_ERRORS = tuple(kind for kind in typer.BadParameter.__mro__ if hasattr(kind, "show"))


class CommandError(Exception):
    """A command failed for a reason of its own; the message says what to do."""


class InterruptedBySignal(BaseException):
    """A signal asked the command to end, by its ``number``. No KeyboardInterrupt: typer makes exit code 130 of that."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number
        """As a shell tells of a process that a signal has ended."""


class UsageError(Exception):
    """The command line makes no sense; the message says what does."""


def open_missing_streams() -> None:
    """Where the caller has closed a standard stream there is nothing in its place: read nothing, and write to nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - for as long as the process lives


def exit_code_of(run: Callable[[], object]) -> int:
    """Run a command to its end, say on stderr what went wrong, and return the process's exit code."""
    try:
        result = run()
        sys.stdout.flush()
    except BaseException as error:
        return _ending(error)
    return result if isinstance(result, int) else 0


def _ending(error: BaseException) -> int:
    error = _first_leaf(error)
    if isinstance(error, _PARSING_ERRORS):
        error.show()  # type: ignore[attr-defined]
        return USAGE
    if isinstance(error, UsageError):
        sys.stderr.write(f"error: {error}\n")
        return USAGE
    if isinstance(error, InterruptedBySignal | KeyboardInterrupt | typer.Abort):
        return error.exit_code if isinstance(error, InterruptedBySignal) else INTERRUPTED
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
        error = error.__context__  # typer's own answer to a closed pipe is exit code 1
    if isinstance(error, BrokenPipeError):
        # What is still in stdout's buffer has no reader; without this the interpreter complains on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, RaftlogError | CommandError | OSError | TimeoutError):
        sys.stderr.write(f"error: {one_line(error)}\n")
        return FAILED
    raise error


def _first_leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def one_line(error: BaseException) -> str:
    """The error and what may help, without line breaks where the error itself has none to show."""
    text = str(error) or type(error).__name__
    hint = _hint(error)
    return f"{text} ({hint})" if hint else text


def _hint(error: BaseException) -> str:
    if isinstance(error, OffsetOutOfRangeError):
        return f"there are offsets {error.earliest} to {error.latest}"
    if isinstance(error, NotLeaderError) and error.hint is not None:
        return f"node {error.hint.node_id} at {error.hint.address} leads"
    if isinstance(error, IndeterminateError):
        return "it may have happened nevertheless; look before trying again"
    if isinstance(error, UnavailableError | OverloadedError):
        return "nothing was done; try again"
    return ""
