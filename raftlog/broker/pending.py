"""Publishes that wait for their entry: what an acknowledgement waits for, and what it may say.

Rules:

1. An entry is identified by (index, term). A batch is acknowledged when its own entry is committed (acks all) or durable on
   this leader (acks leader), never because *some* entry at its index is.
2. "Not appended" is said only when another entry was committed at its index, or one of a later term before it (terms never
   fall along a log). A truncated entry may live on at another replica that wins a later election (Raft, section 5.4.2), so
   truncation alone proves nothing: its publish goes on waiting.
3. Waiting costs a dict entry a batch, and one future and one timer a call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from raftlog.broker.port import Published
from raftlog.core.entry import EntryHeader
from raftlog.errors import IndeterminateError, NotLeaderError, OverloadedError, RaftlogError

RETRY_AFTER_MS = 100
"""What an overloaded node asks its callers to wait: some turns."""


class Budget:
    """Bytes that wait on this node, over all partitions. ``used_bytes`` ≤ ``max_bytes`` + one batch."""

    __slots__ = ("max_bytes", "used_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Count a batch in.

        Raises:
            OverloadedError: the bound is reached; nothing is counted. A batch always passes when nothing waits.
        """
        if self.used_bytes and self.used_bytes + size_bytes > self.max_bytes:
            raise OverloadedError(
                f"{self.used_bytes} bytes of publishes wait on this node, its bound is {self.max_bytes}; slow down and try again",
                retry_after_ms=RETRY_AFTER_MS,
            )
        self.used_bytes += size_bytes


class PublishCall:
    """One call's outcomes: a slot for each batch, and one future for all."""

    __slots__ = ("_done", "left", "outcomes")

    def __init__(self, count: int) -> None:
        self.outcomes: list[Published | RaftlogError | None] = [None] * count
        self.left = count
        """Slots without an outcome."""
        self._done: asyncio.Future[None] | None = None

    def settle(self, position: int, outcome: Published | RaftlogError) -> None:
        """Give one batch its outcome; only the first counts.

        An error loses its traceback: the frames there hold this call and its batches, a cycle that would keep megabytes until
        the garbage collector comes, which is seldom.
        """
        if isinstance(outcome, RaftlogError):
            outcome.__traceback__ = None
        if self.outcomes[position] is None:
            self.outcomes[position] = outcome
            self.left -= 1
            if not self.left:
                self._wake()

    def close(self, error: RaftlogError) -> None:
        """Give ``error`` to the batches that have no outcome; what comes later is not heard."""
        for position in range(len(self.outcomes)):
            self.settle(position, error)

    def results(self) -> list[Published | RaftlogError]:
        """All outcomes, once there are all."""
        assert not self.left, "a call is answered when each of its batches has an outcome"
        return [outcome for outcome in self.outcomes if outcome is not None]

    async def wait(self, timeout_s: float) -> bool:
        """Wait until all slots have an outcome; False when the time ran out."""
        if self.left:
            loop = asyncio.get_running_loop()
            self._done = loop.create_future()
            timer = loop.call_later(timeout_s, self._wake)
            try:
                await self._done
            finally:
                timer.cancel()
        return not self.left

    def _wake(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


@dataclass(slots=True, eq=False)
class Waiter:
    """One batch that waits for its entry."""

    index: int
    term: int
    size_bytes: int
    published: Published
    call: PublishCall
    position: int
    also: Waiter | None = None
    """Another batch that waits for the same entry: a duplicate."""


class Outstanding:
    """A partition's waiting publishes."""

    __slots__ = ("_budget", "_durable", "_name", "_orphans", "_waiting")

    def __init__(self, name: str, budget: Budget) -> None:
        self._name = name
        self._budget = budget
        self._waiting: dict[int, Waiter] = {}
        """Index → who waits for its commit; the indices are in this node's log."""
        self._durable: deque[Waiter] = deque()
        """Who waits for durability here, by rising index."""
        self._orphans: list[Waiter] = []
        """Whose entry was truncated here, and what takes its place is not committed yet."""

    def __bool__(self) -> bool:
        return bool(self._waiting or self._durable or self._orphans)

    def wait_committed(self, waiter: Waiter) -> None:
        """Acknowledge once the entry is committed. The bytes must have been taken from the budget."""
        waiter.also = self._waiting.get(waiter.index)
        self._waiting[waiter.index] = waiter

    def wait_durable(self, waiter: Waiter) -> None:
        """Acknowledge once the entry is durable here. The bytes must have been taken from the budget."""
        self._durable.append(waiter)

    def committed(self, header: EntryHeader) -> None:
        """``header``'s entry is committed. Called for each, in order."""
        waiter = self._waiting.pop(header.index, None)
        while waiter is not None:
            self._resolve(waiter, header)
            waiter = waiter.also
        if self._orphans:
            orphans, self._orphans = self._orphans, []
            for orphan in orphans:
                if orphan.index <= header.index or orphan.term < header.term:
                    self._resolve(orphan, header)
                else:
                    self._orphans.append(orphan)

    def durable(self, index: int) -> None:
        """Entries up to ``index`` are durable here."""
        while self._durable and self._durable[0].index <= index:
            waiter = self._durable.popleft()
            self._settle(waiter, waiter.published)

    def truncated(self, index: int) -> None:
        """Entries from ``index`` on are gone from this node's log."""
        cut = [at for at in self._waiting if at >= index]
        for at in cut:
            waiter: Waiter | None = self._waiting.pop(at)
            while waiter is not None:
                self._orphans.append(waiter)
                waiter = waiter.also
        while self._durable and self._durable[-1].index >= index:
            self._orphans.append(self._durable.pop())

    def lost(self, term: int) -> None:
        """Leadership was lost and the wait is over: whoever was appended up to ``term`` learns that the outcome is unknown."""
        everyone = [*self._orphans, *self._durable]
        for first in self._waiting.values():
            waiter: Waiter | None = first
            while waiter is not None:
                everyone.append(waiter)
                waiter = waiter.also
        old = {id(waiter) for waiter in everyone if waiter.term <= term}
        self._orphans = [waiter for waiter in self._orphans if id(waiter) not in old]
        self._durable = deque(waiter for waiter in self._durable if id(waiter) not in old)
        self._waiting = {at: waiter for at, waiter in self._waiting.items() if id(waiter) not in old}
        error = IndeterminateError(
            f"{self._name}: leadership was lost before the batch was known to be committed; it may or may not be in the log. "
            "An idempotent producer may send it again"
        )
        for waiter in everyone:
            if id(waiter) in old:
                self._settle(waiter, error)

    def _resolve(self, waiter: Waiter, header: EntryHeader) -> None:
        if waiter.index == header.index and waiter.term == header.term:
            self._settle(waiter, waiter.published)
        else:
            error = NotLeaderError(f"{self._name}: another leader's entry took this batch's place; it was not appended")
            self._settle(waiter, error)

    def _settle(self, waiter: Waiter, outcome: Published | RaftlogError) -> None:
        self._budget.used_bytes -= waiter.size_bytes
        waiter.call.settle(waiter.position, outcome)
