"""Consumers that must be used from one thread: a thread that polls, and carries out what others ask between two polls."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, Queue
from typing import Any

from tests.interop.bridges.face import ANSWER_TIMEOUT_S, Wire

QUEUE_MAX = 16
"""A bridge asks one thing at a time; more than a few waiting is a bridge gone wrong."""


class ConsumingThread:
    """Polls a consumer until it is closed, and keeps what it read.

    Args:
        opened: makes the consumer, in the thread.
        poll: reads for a short while.
        closed: closes it, in the thread.
    """

    def __init__(
        self, opened: Callable[[ConsumingThread], Any], poll: Callable[[Any], list[Wire]], closed: Callable[[Any], None]
    ) -> None:
        self.assignments = 0
        self._opened, self._poll, self._closed = opened, poll, closed
        self._asked: Queue[tuple[Callable[[Any], Any] | None, Future[Any]]] = Queue(QUEUE_MAX)
        self._read: list[Wire] = []
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ask(self, what: Callable[[Any], Any]) -> Any:
        """Run ``what(consumer)`` in the thread."""
        self._raise_failure()
        future: Future[Any] = Future()
        self._asked.put((what, future), timeout=ANSWER_TIMEOUT_S)
        return future.result(ANSWER_TIMEOUT_S)

    def take(self) -> list[Wire]:
        """What was read since the last call."""
        self._raise_failure()
        with self._lock:
            taken, self._read = self._read, []
        return taken

    def close(self) -> list[Wire]:
        """Close the consumer and end the thread; gives what was read since the last ``take``."""
        if self._thread.is_alive():
            future: Future[Any] = Future()
            self._asked.put((None, future), timeout=ANSWER_TIMEOUT_S)
            self._thread.join(ANSWER_TIMEOUT_S)
        return self.take()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            consumer = self._opened(self)
            try:
                while self._carry_out(consumer):
                    records = self._poll(consumer)
                    with self._lock:
                        self._read += records
            finally:
                self._closed(consumer)
        except BaseException as error:
            traceback.print_exc()
            self._failure = error
            self._fail_waiting(error)

    def _carry_out(self, consumer: Any) -> bool:
        while True:
            try:
                what, future = self._asked.get_nowait()
            except Empty:
                return True
            if what is None:
                return False
            try:
                future.set_result(what(consumer))
            except BaseException as error:
                future.set_exception(error)

    def _fail_waiting(self, error: BaseException) -> None:
        while True:
            try:
                _, future = self._asked.get_nowait()
            except Empty:
                return
            future.set_exception(error)
