"""Sends one node what it leads: waiting batches of all its partitions, packed into messages on one publish stream.

Rules:

1. A message takes one batch of each partition in turn, then a second of each, until it holds ``MESSAGE_BYTES`` or
   ``MESSAGE_BATCHES``, or nothing is ready. gRPC in Python costs about 0.3 ms a message, whatever is in it; but client, leader
   and followers work at the same time only while there is more than one message, so one must not take all that waits.
2. At most ``max_in_flight`` messages have no answer; what waits meanwhile makes the next message bigger.
3. The work happens in callbacks of the loop: no task for a record, a batch or a message, but two for the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from raftlog.client.accumulator import Batch, PartitionQueue
from raftlog.client.publish_stream import Outcome, PublishStream
from raftlog.errors import IndeterminateError, RaftlogError

MESSAGE_BYTES: Final = 512_000
"""A message is full from here on; a batch bigger than that goes alone. At 100 MB/s, 5 ms of work for a leader."""
MESSAGE_BATCHES: Final = 128
"""So is one with so many batches, however small: 40 µs of work each make 5 ms, beside which the message's own cost is little."""


class Answers(Protocol):
    """Who decides what an answer means: the producer's delivery."""

    def answered(self, queue: PartitionQueue, batch: Batch, attempt: int, outcome: Outcome, address: str) -> None:
        """``batch`` was answered by ``address``, or its stream broke."""
        ...


@dataclass(slots=True)
class _Message:
    items: list[tuple[PartitionQueue, Batch, int]]
    sent_at: float


class NodeSender:
    """The sending side towards one address.

    Args:
        address: the node's.
        open_stream: opens a publish stream to it.
        answers: is told every outcome.
        linger_s: how long an open batch waits for company while the node is busy.
        max_in_flight: messages without an answer.
    """

    def __init__(
        self,
        address: str,
        *,
        open_stream: Callable[[], PublishStream],
        answers: Answers,
        linger_s: float,
        max_in_flight: int,
    ) -> None:
        self.address = address
        self._open_stream = open_stream
        self._answers = answers
        self._linger_s = linger_s
        self._max_in_flight = max_in_flight
        self._loop = asyncio.get_running_loop()
        self._stream: PublishStream | None = None
        self._queues: dict[PartitionQueue, None] = {}
        """Those with something to send, the least recently served first."""
        self._in_flight: dict[asyncio.Future[list[Outcome]], _Message] = {}
        self._drain_soon = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def oldest_sent_at(self) -> float | None:
        """When the oldest message without an answer left."""
        for message in self._in_flight.values():
            return message.sent_at
        return None

    @property
    def unanswered_queues(self) -> set[PartitionQueue]:
        """The partitions of messages without an answer."""
        return {queue for message in self._in_flight.values() for queue, _, _ in message.items}

    def holds(self, queue: PartitionQueue) -> bool:
        """Whether a batch of ``queue`` that is under way was sent here."""
        items = (item for message in self._in_flight.values() for item in message.items)
        return any(one is queue and batch.in_flight and batch.attempt == attempt for one, batch, attempt in items)

    def poke(self, queue: PartitionQueue) -> None:
        """``queue`` has something to send, or may send again."""
        self._queues[queue] = None
        self._soon()

    def forget(self, queue: PartitionQueue) -> None:
        """Another node leads ``queue`` now."""
        self._queues.pop(queue, None)

    def reset(self, error: RaftlogError) -> None:
        """Give the stream up; what has no answer on it has an unknown outcome."""
        if self._stream is not None:
            self._stream.fail(error)

    async def close(self) -> None:
        """Send nothing more and end the stream."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._stream is not None:
            await self._stream.close()

    def _soon(self) -> None:
        if not self._drain_soon and not self._closed:
            self._drain_soon = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._drain_soon = False
        if self._closed:
            return
        now = self._loop.time()
        wake_at = float("inf")
        while len(self._in_flight) < self._max_in_flight:
            items, wake_at = self._pack(now)
            if not items:
                break
            self._send(items, now)
        self._arm(wake_at)

    def _pack(self, now: float) -> tuple[list[tuple[PartitionQueue, Batch]], float]:
        """The next message's batches, and when to look again where there are none."""
        idle = not self._in_flight
        items: list[tuple[PartitionQueue, Batch]] = []
        size, wake_at = 0, float("inf")
        candidates = list(self._queues)
        while candidates:
            again = []
            for queue in candidates:
                batch, ask_at = queue.next_to_send(now, linger_s=self._linger_s, idle=idle)
                if batch is None:
                    wake_at = min(wake_at, ask_at)
                    if not queue.has_work:
                        del self._queues[queue]
                    continue
                data = queue.encode(batch)
                if items and size + len(data) > MESSAGE_BYTES:
                    return items, now
                queue.sent(batch)
                size += len(data)
                items.append((queue, batch))
                again.append(queue)
                self._queues[queue] = self._queues.pop(queue)
                if size >= MESSAGE_BYTES or len(items) >= MESSAGE_BATCHES:
                    return items, now
            candidates = again
        return items, wake_at

    def _send(self, items: list[tuple[PartitionQueue, Batch]], now: float) -> None:
        message = _Message([(queue, batch, batch.attempt) for queue, batch in items], now)
        try:
            stream = self._stream
            if stream is None or stream.error is not None:
                stream = self._stream = self._open_stream()
            future = stream.send((queue.tp, batch.data) for queue, batch in items)
        except RaftlogError as error:
            self._settle(message, [error])
            return
        self._in_flight[future] = message
        future.add_done_callback(self._done)

    def _done(self, future: asyncio.Future[list[Outcome]]) -> None:
        message = self._in_flight.pop(future)
        if future.cancelled():
            self._settle(message, [IndeterminateError(f"the stream to {self.address} was cancelled")])
            return
        error = future.exception()
        if error is None:
            self._settle(message, list(future.result()))
        else:
            self._settle(message, [error if isinstance(error, RaftlogError) else IndeterminateError(str(error))])

    def _settle(self, message: _Message, outcomes: list[Outcome]) -> None:
        if len(outcomes) != len(message.items):
            first = outcomes[0] if outcomes else None
            unfit = IndeterminateError(f"{self.address} gave an answer that fits no request")
            outcomes = [first if isinstance(first, RaftlogError) else unfit] * len(message.items)
        for (queue, batch, attempt), outcome in zip(message.items, outcomes, strict=True):
            self._answers.answered(queue, batch, attempt, outcome, self.address)
        self._soon()

    def _arm(self, wake_at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wake_at != float("inf") and len(self._in_flight) < self._max_in_flight:
            self._timer = self._loop.call_at(wake_at, self._soon)
