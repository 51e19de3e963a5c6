"""One connection: frames in, answers out, in the order of their requests.

Theory of operation. What the transport brings is split into requests, which wait in a queue. A request is started when those
before it allow it, runs as a task, and leaves its answer in a slot; answers are written from the front as far as they are
there. No task and no timer belongs to a connection that is idle: the door sweeps over all of them now and then.

Rules:

1. Produce requests run beside each other, for their order is decided when they start; any other request waits for those
   before it, and those behind it wait for it: a connection behaves as if its requests were answered one after the other.
2. A connection reads no further while it holds ``REQUESTS_MAX`` requests or ``BYTES_MAX`` bytes of them, while its client
   does not take the answers, or while the node as a whole holds too much (``budget``).
3. Whatever is wrong with what a client sends closes its own connection and nothing else.
4. When the client goes, what it waits for is cancelled. A batch that was appended stays so.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, cast

from raftlog.core.clock import Clock
from raftlog.core.tasks import TaskScope
from raftlog.kafka.budget import AnswerBudget, ReceiveBudget
from raftlog.kafka.port import KafkaMetrics
from raftlog.kafka.wire import errors
from raftlog.kafka.wire.api import ApiKey
from raftlog.kafka.wire.frame import FrameSplitter, frame
from raftlog.kafka.wire.header import RequestHeader, read_header
from raftlog.kafka.wire.primitives import Buffer, MalformedRequestError, Reader

_log = logging.getLogger(__name__)

REQUEST_BYTES_MAX: Final = 64 * 1024 * 1024
"""Largest request: the largest batch of any topic (16 MB) for several partitions. (socket.request.max.bytes)"""
REQUESTS_MAX: Final = 128
"""Requests of one connection that were received and are not answered: clients pipeline a handful."""
BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of those requests; the one that exceeds it is still taken, so a single larger one passes."""
WRITE_BYTES_MAX: Final = 1024 * 1024
"""Bytes of answers that wait for the client before no more requests are started."""
FRAME_S_MAX: Final = 120.0
"""A request that began to come must be there by then."""
STALLED_S_MAX: Final = 120.0
"""A client that takes none of its answers for so long is given up."""


class Closed(Exception):  # noqa: N818 - no error: how a handler says that the connection is to be closed without an answer
    """Raised by a handler: there is no answer to give but the end of the connection. The text is the reason."""


class Dispatch(Protocol):
    """Answers requests."""

    async def __call__(self, connection: Connection, header: RequestHeader, body: Reader) -> list[Buffer] | None:
        """The answer without its size; None where the client expects none.

        Raises:
            MalformedRequestError, Closed: the connection is to be closed.
        """
        ...


class _Request:
    """A request that waits for its turn, runs, or has its answer."""

    __slots__ = ("answer", "body", "done", "header", "received_s", "size_bytes")

    def __init__(self, header: RequestHeader, body: Reader, size_bytes: int, received_s: float) -> None:
        self.header = header
        self.body: Reader | None = body
        self.size_bytes = size_bytes
        self.received_s = received_s
        self.answer: list[Buffer] | None = None
        self.done = False


class Connection(asyncio.Protocol):
    """See the module. ``listener`` is the name of the one it came in by.

    Args:
        listener: that name.
        dispatch: answers requests.
        scope: owns the tasks.
        budget: the node's bytes of requests.
        answers: the node's bytes of answers.
        metrics: counts.
        clock: for how long requests take.
        accept: called when it is made: whether it may stay.
        gone: called when it is closed.
    """

    def __init__(
        self, listener: str, *, dispatch: Dispatch, scope: TaskScope, budget: ReceiveBudget, answers: AnswerBudget,
        metrics: KafkaMetrics, clock: Clock,
        accept: Callable[[Connection], bool], gone: Callable[[Connection], None],
    ) -> None:  # fmt: skip
        self.listener = listener
        self.client_host = ""
        self._dispatch = dispatch
        self._scope = scope
        self._budget = budget
        self._answers = answers
        self._metrics = metrics
        self._clock = clock
        self._accept = accept
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._splitter = FrameSplitter(REQUEST_BYTES_MAX)
        self._waiting: deque[_Request] = deque()
        self._running: dict[asyncio.Task[None], _Request] = {}
        self._begun: deque[_Request] = deque()
        """Requests whose answers are not written, in order."""
        self._held_bytes = 0
        """Bytes of requests waiting and running, and of the unfinished one."""
        self._partial_bytes = 0
        self._answer_bytes = 0
        """Bytes of answers that are made and not written, or written and more than the client has to take at once."""
        self._active_s = self._frame_begun_s = self._loop.time()
        self._written_s = self._active_s
        self._unwritten_bytes = 0
        self._may_write = True
        self._reads = True
        self._draining = False

    @property
    def is_receiving(self) -> bool:
        """See ``budget.Reading``."""
        return self._partial_bytes > 0

    # ---- what the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = stream = cast(asyncio.Transport, transport)
        peer = stream.get_extra_info("peername")
        self.client_host = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        stream.set_write_buffer_limits(high=WRITE_BYTES_MAX)
        if not self._accept(self):
            stream.abort()

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        if self._draining or self._transport is None:
            return
        now_s = self._active_s = self._loop.time()
        received_s = self._clock.monotonic_s()
        try:
            self._splitter.receive_data(data)
            ended = False
            while (view := self._splitter.next_request()) is not None:
                ended = True
                body = Reader(view)
                self._waiting.append(_Request(read_header(body), body, len(view), received_s))
                self._hold(len(view))
        except MalformedRequestError as error:
            self._refuse(str(error))
            return
        self._count_partial(now_s, another=ended)
        self._pump()
        self.regulate()

    def eof_received(self) -> None:
        """See ``asyncio.Protocol``: the client has gone."""

    def connection_lost(self, _error: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = None
        self._waiting.clear()
        self._begun.clear()
        for task in self._running:
            task.cancel()
        self._budget.finished(self)
        self._hold(-self._held_bytes)
        self._count_answers()
        self._gone(self)

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self._may_write = False
        self._written_s = self._loop.time()
        self._unwritten_bytes = self._transport.get_write_buffer_size() if self._transport is not None else 0
        self._count_answers()
        self.regulate()

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self._may_write = True
        self._count_answers()
        self._pump()
        self.regulate()

    # ---- what the door says

    def sweep(self, now_s: float, idle_s_max: float) -> None:
        """Close the connection where its time is up."""
        if self._transport is None:
            return
        if self._transport.is_closing():
            if now_s - self._active_s > STALLED_S_MAX:
                self._transport.abort()  # what was to be said first is not taken
        elif not self._may_write:
            unwritten = self._transport.get_write_buffer_size()
            if unwritten < self._unwritten_bytes:
                self._written_s = now_s
            self._unwritten_bytes = unwritten
            self._count_answers()
            if now_s - self._written_s > STALLED_S_MAX:
                self._transport.abort()
        elif self._partial_bytes:
            if now_s - self._frame_begun_s > FRAME_S_MAX:
                self._transport.abort()
        elif not self._running and not self._waiting and now_s - self._active_s > idle_s_max:
            self._transport.close()

    def drain(self) -> None:
        """Take no more requests; end those that wait for something, and close when the others are answered."""
        self._draining = True
        self._waiting.clear()
        for task, request in self._running.items():
            if request.header.api is not None and request.header.api.waits:
                task.cancel()
        self._close_if_drained()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def regulate(self) -> None:
        """Read, or do not (rule 2)."""
        if self._transport is None:
            return
        full = len(self._waiting) + len(self._running) >= REQUESTS_MAX or self._held_bytes - self._partial_bytes >= BYTES_MAX
        reads = self._may_write and not full and not self._draining and self._budget.may_read(self)
        if reads == self._reads:
            return
        self._reads = reads
        if reads:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # ---- inside

    def _hold(self, bytes_more: int) -> None:
        self._held_bytes += bytes_more
        self._budget.change(bytes_more)

    def _count_partial(self, now_s: float, *, another: bool) -> None:
        """Count what has come of the unfinished request, which is ``another`` one than before where one has ended since."""
        partial = self._splitter.waiting_bytes
        if another or not self._partial_bytes:
            self._frame_begun_s = now_s
        if another and self._partial_bytes:
            self._budget.finished(self)
        self._hold(partial - self._partial_bytes)
        self._partial_bytes = partial

    def _pump(self) -> None:
        """Start what may be started (rule 1)."""
        waiting, running = self._waiting, self._running
        while waiting and self._may_write and not self._draining:
            beside = waiting[0].header.key == ApiKey.PRODUCE
            if running and not (beside and all(request.header.key == ApiKey.PRODUCE for request in running.values())):
                return
            self._start(waiting.popleft())

    def _start(self, request: _Request) -> None:
        self._begun.append(request)
        task = self._scope.start(self._answer(request), name="kafka-request")
        self._running[task] = request
        task.add_done_callback(self._ended)

    async def _answer(self, request: _Request) -> None:
        body, request.body = request.body, None
        assert body is not None, "a request is answered once"
        try:
            request.answer = await self._dispatch(self, request.header, body)
            self._count_answers()
        except (MalformedRequestError, Closed) as error:
            self._refuse(str(error))
        except Exception as error:
            errors.code_of(error)
            self._refuse(f"request {request.header.key} v{request.header.version} failed")
        api = request.header.api
        self._metrics.request(api.name if api is not None else "unknown", self._clock.monotonic_s() - request.received_s)

    def _ended(self, task: asyncio.Task[None]) -> None:
        request = self._running.pop(task)
        if self._transport is None:
            return
        self._active_s = self._loop.time()
        request.done = True
        self._hold(-request.size_bytes)
        self._flush()
        self._pump()
        self.regulate()
        self._close_if_drained()

    def _flush(self) -> None:
        """Write the answers that are there, from the front."""
        assert self._transport is not None
        while self._begun and self._begun[0].done:
            answer = self._begun.popleft().answer
            if answer is not None:
                self._transport.writelines(frame(answer))
        self._count_answers()

    def _count_answers(self) -> None:
        """Tell the node what this connection holds of answers now: nothing where it is closed."""
        held = 0
        if self._transport is not None:
            unwritten = self._transport.get_write_buffer_size()
            held = sum(sum(map(len, request.answer)) for request in self._begun if request.answer is not None)
            held += unwritten if unwritten > WRITE_BYTES_MAX else 0
        self._answers.change(held - self._answer_bytes)
        self._answer_bytes = held

    def _refuse(self, reason: str) -> None:
        """Close the connection for what its client sent."""
        if self._transport is not None:
            _log.info("kafka connection from %s closed: %s", self.client_host, reason)
            self._waiting.clear()
            self._transport.close()

    def _close_if_drained(self) -> None:
        if self._draining and not self._running and self._transport is not None:
            self._transport.close()
