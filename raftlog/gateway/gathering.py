"""Requests of one publish stream that go to the broker together.

Theory of operation. An entry of the log costs every replica nearly the same whether it holds 16 KB or 256 KB, and the broker
makes one entry of the batches that come in one call. A client that sends one small batch a message, and many without waiting,
would pay for an entry each. So while a call for a partition is under way, what follows for it is gathered, and leaves in one call
as soon as one is answered. A request that has nothing ahead of it never waits.

Rules:

1. Requests for a partition leave in the order in which they came, whichever of them share a call.
2. Only requests for one and the same partition, on the same terms, share a call: a call is answered when all of its batches are,
   and a partition without a majority must not hold up another one. What is refused at once is told with the rest of its call.
3. Nothing waits for longer than ``GATHERED_S``, and no more than ``GATHERED_BYTES`` and ``GATHERED_ITEMS`` for one partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from raftlog.gateway.publish import Prepared
from raftlog.model import TopicPartition

GATHERED_BYTES: Final = 256 * 1024
"""So much leaves at once: more would not make an entry much cheaper for each of its bytes, and the disks would idle meanwhile. A
producer that has but half a megabyte under way has two calls all the same."""
GATHERED_ITEMS: Final = 1_000
"""Batches and records of several requests in one call: the broker takes them in one step, at some 40 µs each."""
GATHERED_S: Final = 0.005
"""A call takes milliseconds, unless disks or network are slow, or there is no leader or majority. Then several are on their way,
as many as there is time for, and what is behind has its own time limit, which the broker keeps."""


@dataclass(slots=True)
class Request:
    """One message of a stream. ``size_bytes`` is what it has on the wire."""

    correlation_id: int
    prepared: Prepared
    size_bytes: int


class _Line:
    """What waits for one partition, and how many calls are under way."""

    __slots__ = ("calls", "items", "requests", "size_bytes", "timer")

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.size_bytes = self.items = 0
        self.calls = 0
        self.timer: asyncio.TimerHandle | None = None


class Gathering:
    """The requests of one stream on their way to the broker.

    Args:
        publish: starts a call with these requests; ``answered`` is to be called with the same partition when it is over. The
            partition is None for a request that shares no call.
    """

    def __init__(self, publish: Callable[[TopicPartition | None, list[Request]], None]) -> None:
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._lines: dict[TopicPartition, _Line] = {}
        """By partition, for as long as a call for it is under way."""

    def take(self, request: Request) -> None:
        """Publish a request now or soon."""
        tp = request.prepared.only_partition
        if tp is None:
            for other, line in self._lines.items():
                self._leave(other, line)  # rule 1: it may be for any of them
            self._publish(None, [request])
            return
        line = self._lines.get(tp) or self._lines.setdefault(tp, _Line())
        items = len(request.prepared.outcomes)
        if line.requests and (line.items + items > GATHERED_ITEMS or line.requests[0].prepared.terms != request.prepared.terms):
            self._leave(tp, line)
        line.requests.append(request)
        line.size_bytes += request.size_bytes
        line.items += items
        if not line.calls or line.size_bytes >= GATHERED_BYTES:
            self._leave(tp, line)
        elif line.timer is None:
            line.timer = self._loop.call_later(GATHERED_S, self._leave, tp, line)

    def answered(self, tp: TopicPartition | None) -> None:
        """A call is over."""
        if tp is None:
            return
        line = self._lines[tp]
        line.calls -= 1
        self._leave(tp, line)
        if not line.calls:
            del self._lines[tp]

    def close(self) -> None:
        """Publish nothing more: the stream is over. Nothing that it brought is kept, for ``publish`` and this know each other,
        and stay until the garbage collector comes, which is seldom."""
        for line in self._lines.values():
            if line.timer is not None:
                line.timer.cancel()
        self._lines.clear()

    def _leave(self, tp: TopicPartition, line: _Line) -> None:
        if line.timer is not None:
            line.timer.cancel()
            line.timer = None
        if line.requests:
            requests, line.requests, line.size_bytes, line.items = line.requests, [], 0, 0
            line.calls += 1
            self._publish(tp, requests)
