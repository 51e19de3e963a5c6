"""The one door for background tasks: every task has an owner that keeps it, hears its failure, and ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class TaskScope:
    """A long-lived owner of background tasks.

    Where a ``TaskGroup`` lives as long as one block of code, a scope lives as long as an object: whoever makes it closes it.
    The loop keeps only weak references to tasks, so the scope keeps strong ones until they end.

    A task is expected to return or to be cancelled. Any exception that leaves it is logged and handed to ``on_error``
    (called on the loop, in the task's done callback; it must not block); other tasks go on.

    Not bounded by itself: who starts tasks on a stranger's demand looks at ``len(scope)`` first.
    """

    __slots__ = ("_closed", "_on_error", "_tasks")

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._on_error = on_error
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __len__(self) -> int:
        """How many tasks have not ended."""
        return len(self._tasks)

    @property
    def closed(self) -> bool:
        """Whether nothing can be started any more."""
        return self._closed

    def start(self, coro: Coroutine[Any, Any, _T], *, name: str) -> asyncio.Task[_T]:
        """Run ``coro`` as a task called ``name``; the task may be cancelled by its holder at any time.

        Raises:
            RuntimeError: the scope is closed; ``coro`` is closed unrun.
        """
        if self._closed:
            coro.close()
            raise RuntimeError(f"task {name!r} was started in a closed scope; start tasks before close()")
        task = asyncio.create_task(coro, name=name)  # noqa: TID251 - the one door
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        """Cancel all tasks and wait until they have ended; nothing can be started from now on.

        May be called more than once. A task of the scope that calls it is not cancelled and not waited for. Where ``close``
        itself is cancelled, the tasks stay cancelled and kept, and a second call waits for the rest.
        """
        self._closed = True
        others = self._tasks - {asyncio.current_task()}
        for task in others:
            task.cancel()
        while others:
            # One cancel a task: a second would break into its clean-up.
            _, others = await asyncio.wait(others)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            _log.error("background task %s failed: %r", task.get_name(), error, exc_info=error)
            self._on_error(error)
