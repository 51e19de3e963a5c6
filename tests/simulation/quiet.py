"""Logs of simulated nodes: lines of the trace where one is wanted, and never silent about an error."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

import structlog

from tests.simulation.loop import PROCESS

if TYPE_CHECKING:
    from tests.simulation.world import World

EXPECTED = ("cannot be opened", "seed refused", "replica is damaged", "cannot be read here")
"""Errors that a damaged or foreign disk may cause."""


class _Handler(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__(logging.INFO if world.tracing else logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        process = PROCESS.get()
        if process is not None and process.dead:
            return
        self._world.note(f"{process.name if process else 'outside'}: {record.levelname.lower()}: {text}")
        if record.levelno >= logging.ERROR and not any(known in text for known in EXPECTED):
            self._world.violated(f"logged: {text}")


@contextlib.contextmanager
def heard(world: World) -> Iterator[None]:
    """Take all logs while a simulation runs."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    config = structlog.get_config()
    root.handlers[:] = [_Handler(world)]
    root.setLevel(logging.INFO if world.tracing else logging.ERROR)
    structlog.configure(
        processors=[_plain],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(root.level),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.configure(**config)


def _plain(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    text = event.pop("event")
    return f"{text} {event}" if event else str(text)
