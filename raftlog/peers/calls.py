"""Calls over one link: those under way to the peer, and those served for it.

Rules:

1. A call ends exactly once: by its answer, by its time running out, by its caller's cancellation, or by the link's loss.
   After the request was sent only an answer says what happened; everything else is *indeterminate*.
2. Whoever stops waiting says so (CallCancel), and the peer stops working. The request also carries its time limit, so a
   peer never works longer than its caller waits.
3. Both sides are bounded: ``CALLS_IN_FLIGHT_MAX`` before sending, ``CALLS_SERVED_MAX`` when serving.
4. A peer's fatal error is no reason for this node to stop: it arrives as indeterminate.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

from raftlog.core.error_codec import from_parts, to_parts
from raftlog.core.tasks import TaskScope
from raftlog.errors import (
    FatalError,
    IndeterminateError,
    OverloadedError,
    RaftlogError,
    RequestTimedOutError,
    UnavailableError,
)
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.peers.frame import Frame, PeerProtocolError
from raftlog.peers.port import Payloads

CALLS_IN_FLIGHT_MAX: Final = 256
"""Calls to one peer at once: at 1 ms a call that is far more than one event loop serves."""
CALLS_SERVED_MAX: Final = 512
"""Calls served for one peer at once: twice what it may have in flight, since cancelled ones take a moment to end."""
_TIMEOUT_MS_MAX: Final = 2**32 - 1

_log = logging.getLogger(__name__)


class CallLink(Protocol):
    """What calls need of their link."""

    def send(self, envelope: pb.Envelope, payloads: Payloads = (), *, urgent: bool = False) -> bool:
        """Queue a frame; False where the link is down, or its buffer is full and the frame is not urgent."""
        ...

    async def drained(self) -> None:
        """Wait until the buffer is worth another try."""
        ...


class CallHandler(Protocol):
    """Who answers the peer's calls: part of ``PeerHandler``."""

    async def on_call(self, node_id: int, method: str, body: bytes, payloads: list[bytes]) -> tuple[bytes, Payloads]:
        """See ``PeerHandler``."""
        ...


class Calls:
    """The calls of one link, from its acceptance to its loss."""

    __slots__ = ("_down", "_handler", "_last_id", "_link", "_node_id", "_pending", "_scope", "_serving")

    def __init__(self, link: CallLink, *, node_id: int, handler: CallHandler, scope: TaskScope) -> None:
        self._link = link
        self._node_id = node_id
        self._handler = handler
        self._scope = scope
        self._last_id = 0
        self._pending: dict[int, asyncio.Future[Frame]] = {}
        self._serving: dict[int, asyncio.Task[None]] = {}
        self._down = False

    async def call(self, method: str, body: bytes, payloads: Payloads, timeout_s: float) -> tuple[bytes, list[bytes]]:
        """See ``Peers.call``.

        Raises:
            MessageTooLargeError: the request does not fit a frame; nothing was done.
        """
        if self._down or len(self._pending) >= CALLS_IN_FLIGHT_MAX:
            why = "the link is down" if self._down else f"{CALLS_IN_FLIGHT_MAX} calls to it are under way"
            raise UnavailableError(f"{method} was not sent to node {self._node_id}: {why}; try again")
        self._last_id = call_id = self._last_id + 1
        timeout_ms = min(_TIMEOUT_MS_MAX, max(1, round(timeout_s * 1_000)))
        request = pb.CallRequest(call_id=call_id, method=method, body=body, timeout_ms=timeout_ms)
        if not self._link.send(pb.Envelope(call_request=request), payloads):
            raise UnavailableError(f"{method} was not sent to node {self._node_id}: its buffer is full; try again")
        future: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._pending[call_id] = future
        try:
            async with asyncio.timeout(timeout_s):
                frame = await future
        except TimeoutError:
            self._cancel(call_id)
            raise RequestTimedOutError(
                f"node {self._node_id} did not answer {method} within {timeout_ms} ms; it may have happened"
            ) from None
        except asyncio.CancelledError:
            self._cancel(call_id)
            raise
        finally:
            del self._pending[call_id]
            if future.done() and not future.cancelled():
                future.exception()  # looked at, in case the caller was cancelled in the same turn
        return self._unpack(frame, method)

    def received_response(self, frame: Frame) -> None:
        """The peer answers; one that nobody waits for any more is dropped."""
        future = self._pending.get(frame.envelope.call_response.call_id)
        if future is not None and not future.done():
            future.set_result(frame)

    def received_request(self, frame: Frame) -> None:
        """The peer calls.

        Raises:
            PeerProtocolError: its call id is in use, or it calls on without reading its refusals.
        """
        request = frame.envelope.call_request
        if request.call_id in self._serving:
            raise PeerProtocolError(f"call id {request.call_id} was used twice")
        if len(self._serving) >= CALLS_SERVED_MAX:
            error = OverloadedError(f"{CALLS_SERVED_MAX} calls of one peer are under way here; try again later")
            if not self._link.send(_failed(request.call_id, error)):
                raise PeerProtocolError("calls over the bound, and nobody reads their refusals")
            return
        name = f"peer-call-{self._node_id}-{request.call_id}"
        task = self._scope.start(self._serve(request, frame.payloads), name=name)
        self._serving[request.call_id] = task
        # Not in the task's own clean-up: a task that is cancelled before its first step has none.
        task.add_done_callback(lambda _: self._serving.pop(request.call_id, None))

    def received_cancel(self, call_id: int) -> None:
        """The peer's caller waits no longer."""
        task = self._serving.get(call_id)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """The link is down: what was asked is indeterminate, what is served has nobody to answer."""
        self._down = True
        for future in self._pending.values():
            if not future.done():
                future.set_exception(
                    IndeterminateError(f"the link to node {self._node_id} broke before it answered; it may have happened")
                )
        for task in self._serving.values():
            task.cancel()

    def _cancel(self, call_id: int) -> None:
        if not self._down:
            self._link.send(pb.Envelope(call_cancel=pb.CallCancel(call_id=call_id)), urgent=True)

    def _unpack(self, frame: Frame, method: str) -> tuple[bytes, list[bytes]]:
        response = frame.envelope.call_response
        if not response.error_reason:
            return response.body, frame.payloads
        error = from_parts(response.error_reason, response.error_message, response.error_metadata)
        if isinstance(error, FatalError):
            raise IndeterminateError(f"node {self._node_id} failed while it served {method}: {error}")
        raise error

    async def _serve(self, request: pb.CallRequest, payloads: list[bytes]) -> None:
        envelope, answer = await self._answer(request, payloads)
        while not self._down and not self._send_answer(envelope, answer):
            await self._link.drained()

    def _send_answer(self, envelope: pb.Envelope, payloads: Payloads) -> bool:
        try:
            return self._link.send(envelope, payloads)
        except RaftlogError as error:
            return self._link.send(_failed(envelope.call_response.call_id, error))

    async def _answer(self, request: pb.CallRequest, payloads: list[bytes]) -> tuple[pb.Envelope, Payloads]:
        call_id = request.call_id
        try:
            async with asyncio.timeout(request.timeout_ms / 1_000):
                body, answer = await self._handler.on_call(self._node_id, request.method, request.body, payloads)
            return pb.Envelope(call_response=pb.CallResponse(call_id=call_id, body=body)), answer
        except TimeoutError:
            text = f"{request.method} timed out; its caller waits {request.timeout_ms} ms"
            return _failed(call_id, RequestTimedOutError(text)), ()
        except RaftlogError as error:
            return _failed(call_id, error), ()
        except Exception as error:
            _log.exception("serving %s for node %d failed", request.method, self._node_id)
            return _failed(call_id, IndeterminateError(f"{request.method} failed: {error!r}")), ()


def _failed(call_id: int, error: RaftlogError) -> pb.Envelope:
    reason, message, metadata = to_parts(error)
    return pb.Envelope(
        call_response=pb.CallResponse(call_id=call_id, error_reason=reason, error_message=message, error_metadata=metadata)
    )
