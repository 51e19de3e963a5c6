"""Named places where a test ends the process as a crash would: ``RAFTLOG_CRASH_AT=storage-before-commit:40,turn-after-send``.

A name alone crashes at its first hit, ``name:n`` at the n-th. The process ends by ``os._exit``: nothing is flushed, closed or
said, but for one line on stderr. Without the variable a place is a call of an empty function.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from raftlog.errors import ConfigError

VARIABLE = "RAFTLOG_CRASH_AT"
EXIT_CODE = 86
"""Of a process that ended at a point: none that Python, a shell or a signal gives."""

POINTS = {
    "storage-before-commit": "the transaction is filled, nothing of it is synced",
    "storage-after-commit": "the transaction is durable, nobody has been told",
    "identity-before-replace": "the new identity is written beside the old one",
    "identity-after-replace": "the new identity is durable, its change is not in memory",
    "turn-before-send": "entries are appended in memory, nothing has left for the peers or the disk",
    "turn-after-send": "entries have left for the peers, nothing for the disk",
    "turn-before-release": "a turn is durable; its votes and acknowledgements have not left",
}
"""Every place of a node, and the state in which the process ends there."""
COMMAND_POINTS = {
    "compact-copying": "a part of the data is copied to the new file",
    "compact-before-swap": "the new file is whole and durable beside the old one",
    "compact-after-swap": "the new file has the old one's name, which is not yet durable",
}
"""Every place of a command that works on a stopped node's data."""


def point(name: str, environ: Mapping[str, str] = os.environ) -> Callable[[], None]:
    """What to call at the place ``name``. Read once, when the module that holds the place is imported.

    Raises:
        ConfigError: the variable names a place that is not there, or a count that is none.
    """
    assert name in POINTS or name in COMMAND_POINTS, name
    hit = armed(environ.get(VARIABLE, "")).get(name)
    return _nothing if hit is None else _Crash(name, hit)


def armed(text: str) -> dict[str, int]:
    """The variable's value: place → at which hit.

    Raises:
        ConfigError: see ``point``.
    """
    found = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, count = item.partition(":")
        if name not in POINTS and name not in COMMAND_POINTS:
            raise ConfigError(f"{VARIABLE} names {name!r}; there are {', '.join((*POINTS, *COMMAND_POINTS))}")
        if count and not (count.isascii() and count.isdecimal() and int(count)):
            raise ConfigError(f"{VARIABLE} has {item!r}; behind the colon belongs a number from 1")
        found[name] = int(count or 1)
    return found


def _nothing() -> None:
    pass


class _Crash:
    """Counts down, then ends the process."""

    def __init__(self, name: str, hit: int) -> None:
        self._name, self._left = name, hit

    def __call__(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.write(2, f"crash point {self._name} reached\n".encode())
            os._exit(EXIT_CODE)
