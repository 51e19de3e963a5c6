"""A closed loop: so many requests in flight, each answer sends the next; what was answered in an interval is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

RAMP_S = 0.3
"""Answers are not counted before the window has filled and turned over."""
DRAIN_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Rate:
    """What one interval saw."""

    answers: int
    seconds: float
    latencies_s: list[float]

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds

    @property
    def p50_ms(self) -> float:
        """Median time from sending to answer."""
        return median(self.latencies_s) * 1e3

    def mb_per_s(self, size_bytes: int) -> float:
        """Megabytes (of 10⁶ bytes) a second, where each answer stands for ``size_bytes``."""
        return self.per_s * size_bytes / 1e6


class Window:
    """Keeps ``in_flight`` requests going.

    Args:
        send: starts request number n; the sender calls ``answered(n)`` later, never within ``send``.
    """

    def __init__(self, send: Callable[[int], None], in_flight: int) -> None:
        self._send = send
        self._in_flight_max = in_flight
        self._sent_at: dict[int, float] = {}
        self._next = 0
        self._counting_from = self._stop_at = 0.0
        self._latencies: list[float] = []
        self._last_at = 0.0
        self._drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, seconds: float) -> Rate:
        """Load for ``seconds`` behind the ramp, then wait for what is in flight.

        Raises:
            TimeoutError: answers stay away.
        """
        now = perf_counter()
        self._counting_from, self._stop_at = now + RAMP_S, now + RAMP_S + seconds
        for _ in range(self._in_flight_max):
            self._send_one()
        async with asyncio.timeout(RAMP_S + seconds + DRAIN_TIMEOUT_S):
            await self._drained
        if not self._latencies:
            raise TimeoutError("no answer came within the interval")
        return Rate(len(self._latencies), self._last_at - self._counting_from, self._latencies)

    def answered(self, number: int) -> None:
        """Request ``number`` was answered."""
        now = perf_counter()
        sent_at = self._sent_at.pop(number)
        if self._counting_from <= now < self._stop_at:
            self._latencies.append(now - sent_at)
            self._last_at = now
        if now < self._stop_at:
            self._send_one()
        elif not self._sent_at and not self._drained.done():
            self._drained.set_result(None)

    def failed(self, error: BaseException) -> None:
        """A request failed, and with it the measurement."""
        if not self._drained.done():
            self._drained.set_exception(error)

    def _send_one(self) -> None:
        number = self._next
        self._next += 1
        self._sent_at[number] = perf_counter()
        self._send(number)
