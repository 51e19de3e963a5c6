"""An asyncio event loop on virtual time: it never waits, it moves its clock to the next timer. No sockets, no threads.

Theory of operation. Everything of a simulation runs on one loop. What belongs to a simulated process (a node between its start
and its death) runs in that process's context, which asyncio hands on to every callback, timer and task made in it. So the loop
knows whose each callback is: a dead process's are dropped, a paused one's are held until it goes on, and each process has a
clock of its own rate.

Rules:

1. Ready callbacks run in the order in which they became ready, as asyncio promises. Timers that are due at the same moment ring
   in an order drawn from the seed.
2. Nothing depends on addresses of objects: tasks hash by serial number, since asyncio keeps them in sets.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tests.simulation.network import Network

T = TypeVar("T")


class Deadlock(AssertionError):
    """Nothing is scheduled, and somebody still waits."""


class Handle:
    """A callback to be: what ``asyncio`` uses of its own handles, in half the time. A cancelled one has no callback."""

    __slots__ = ("args", "callback", "context", "when_s")

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context | None, when_s: float = 0.0
    ) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args, self.when_s = args, when_s
        self.context = contextvars.copy_context() if context is None else context

    def cancel(self) -> None:
        """See ``asyncio.Handle``."""
        self.callback, self.args = None, ()

    def cancelled(self) -> bool:
        """See ``asyncio.Handle``."""
        return self.callback is None

    def when(self) -> float:
        """See ``asyncio.TimerHandle``."""
        return self.when_s


class Process:
    """Whose a callback is. ``rate`` is how fast its monotonic clock runs."""

    def __init__(self, name: str, *, rate: float = 1.0) -> None:
        self.name = name
        self.dead = False
        self.paused = False
        self.rate = rate
        self.held: deque[Handle] = deque()
        """What became ready while it was paused."""
        self.context = contextvars.Context()
        self.context.run(PROCESS.set, self)


PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


_OUTSIDE = contextvars.Context()
"""Belongs to no process."""


class SerialTask(asyncio.Task[Any]):
    """A task that hashes by its number, and knows its process."""

    serial: int
    process: Process | None

    def __hash__(self) -> int:
        return self.serial


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module. ``now_s`` is its time, in seconds, from 1,000 on.

    Args:
        rng: for the order of timers that are due together; without it they ring in the order in which they were set.
    """

    def __init__(self, rng: Random | None = None) -> None:
        super().__init__()
        self.now_s = 1_000.0
        self.network: Network | None = None
        """What ``create_server`` and ``create_connection`` reach."""
        self.tasks_made = 0
        self._timers: list[tuple[float, float, int, Handle]] = []
        self._timers_made = 0
        self._ready: deque[Handle] = deque()
        self._tie: Callable[[], float] = (lambda: 0.0) if rng is None else rng.random

    def time(self) -> float:
        """Virtual seconds, on the clock of whoever asks."""
        process = PROCESS.get()
        return self.now_s if process is None else self.now_s * process.rate

    # ---- scheduling

    def call_soon(  # type: ignore[override]  # the types of the arguments are not followed
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        """See ``asyncio``."""
        handle = Handle(callback, args, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        """See ``asyncio``."""
        process = PROCESS.get()
        rate = 1.0 if process is None else process.rate
        return self._push(self.now_s + delay / rate, Handle(callback, args, context, self.now_s * rate + delay))

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        """See ``asyncio``. ``when`` is on the clock of whoever asks."""
        process = PROCESS.get()
        return self._push(when if process is None else when / process.rate, Handle(callback, args, context, when))

    def schedule(self, moment_s: float, callback: Callable[..., object], *args: Any) -> Handle:
        """Set a timer of the world's own: on its clock, and nobody's to die with."""
        return self._push(moment_s, Handle(callback, args, _OUTSIDE, moment_s))

    def _push(self, moment_s: float, timer: Handle) -> Handle:
        self._timers_made += 1
        heapq.heappush(self._timers, (moment_s, self._tie(), self._timers_made, timer))
        return timer

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Any = None
    ) -> asyncio.Task[T]:
        """See ``asyncio``."""
        self.tasks_made += 1
        task = SerialTask.__new__(SerialTask)
        task.serial = self.tasks_made
        task.process = PROCESS.get() if context is None else context.get(PROCESS)
        task.__init__(coro, loop=self, name=name, context=context)  # type: ignore[misc]  # hashed while it is made
        return task

    def resume(self, process: Process) -> None:
        """Let a paused process go on."""
        process.paused = False
        self._ready.extend(process.held)
        process.held.clear()

    def _run_once(self) -> None:
        ready = self._ready
        if not ready:
            ready.append(self._next_timer())
        for _ in range(len(ready)):
            handle = ready.popleft()
            callback = handle.callback
            if callback is None:
                continue
            process = handle.context.get(PROCESS)
            if process is not None:
                if process.dead:
                    continue
                if process.paused:
                    process.held.append(handle)
                    continue
            try:
                handle.context.run(callback, *handle.args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.call_exception_handler({"message": f"exception in callback {callback!r}", "exception": error})

    def _next_timer(self) -> Handle:
        timers = self._timers
        while timers:
            moment, _, _, timer = heapq.heappop(timers)
            if timer.callback is not None:
                self.now_s = max(self.now_s, moment)
                return timer
        raise Deadlock("every task waits and no timer is set")

    def _timer_handle_cancelled(self, handle: object) -> None:
        """It is dropped when its time comes."""

    def _write_to_self(self) -> None:
        """Only other threads need waking, and there are none."""

    def run_in_executor(self, executor: object, func: Callable[..., object], *args: object) -> Any:
        """See ``asyncio``; refused, for a thread runs when it likes."""
        raise AssertionError(f"{func!r} was to run in a thread")

    # ---- network

    async def create_server(self, *args: Any, **kwargs: Any) -> Any:
        """See ``asyncio``; answered by ``network``."""
        assert self.network is not None
        return self.network.listen(*args, **kwargs)

    async def create_connection(self, *args: Any, **kwargs: Any) -> Any:
        """See ``asyncio``; answered by ``network``."""
        assert self.network is not None
        return await self.network.connect(*args, **kwargs)


class VirtualClock:
    """``raftlog.core.clock.Clock`` over a virtual loop; ``skew_s`` moves one node's wall clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.skew_s = 0.0

    def monotonic_s(self) -> float:
        """See ``Clock``."""
        return self._loop.time()

    def wall_ms(self) -> int:
        """See ``Clock``; the simulated day begins in 2026."""
        return int((1_767_225_600 + self._loop.now_s + self.skew_s) * 1_000)


def run(main: Coroutine[Any, Any, T], loop: VirtualLoop) -> T:
    """Run a coroutine to its end on virtual time, and close the loop."""
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        asyncio.set_event_loop(None)
        loop.close()
