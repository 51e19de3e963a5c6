"""One connection to a peer, from the first byte to the last: an asyncio protocol around the frame decoder and the handshake.

Rules:

1. States only go forward: handshake → up → down. ``link_up`` and ``link_down`` are told to the owner once each, the second
   only after the first, and nothing is handed up after ``link_down``.
2. What a stranger can hold is bounded: one buffer of ``HANDSHAKE_FRAME_BYTES_MAX`` for ``HANDSHAKE_TIMEOUT_S``.
3. The write buffer is full at ``LINK_BUFFER_BYTES_MAX``; the frame that fills it may pass over by its own size.
4. Whatever fails here fails this connection only, and says why in one line.
5. A guest's frames stay as small as a stranger's, and nothing but calls of it is looked at.

The transport is used by ``write``, ``close``, ``abort``, ``get_write_buffer_size``, ``set_write_buffer_limits`` and
``get_extra_info``, and calls ``pause_writing`` and ``resume_writing``: that is all a simulated network must offer.
Payloads must not change until they are sent; some transports keep references.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from typing import Final, Protocol, cast

from raftlog.core.tasks import TaskScope
from raftlog.errors import CorruptMessageError, RaftlogError
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.peers.calls import CallHandler, Calls
from raftlog.peers.frame import Buffer, Frame, FrameDecoder, PeerProtocolError, encode_frame
from raftlog.peers.handshake import Admit, Close, Effect, Handshake, Refused, Send
from raftlog.peers.port import Gate, Payloads, PeerHandler

LINK_BUFFER_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes queued to one peer: two turns. More would only delay what is newer; sockets buffer long lines by themselves."""
HANDSHAKE_TIMEOUT_S: Final = 5.0
"""From the connection to the acceptance; the gate's fsync on a slow disk is in it."""
PING_S: Final = 0.5
"""A link that sent nothing for so long sends an empty turn."""
LINK_SILENCE_S: Final = 3.0
"""A link that heard nothing for so long is dead. Several election timeouts: a slow node is deposed, not disconnected."""
CLOSE_FLUSH_S: Final = 1.0
"""For what is queued to leave when a link is closed in peace; a peer that reads takes milliseconds."""
JOIN_BYTES_MAX: Final = 64 * 1024
"""Buffers up to this size are joined before they are written: below it a copy is cheaper than a write of its own."""

_SILENT_CHECKS_MAX: Final = round(LINK_SILENCE_S / PING_S)

_log = logging.getLogger(__name__)


class _GuestDesk:
    """Where a guest's calls go."""

    def __init__(self, handler: PeerHandler) -> None:
        self._handler = handler

    async def on_call(self, node_id: int, method: str, body: bytes, _: list[bytes]) -> tuple[bytes, Payloads]:
        """See ``CallHandler``."""
        return await self._handler.on_guest_call(node_id, method, body), ()


class LinkOwner(Protocol):
    """What a link needs of the mesh."""

    gate: Gate
    handler: PeerHandler
    scope: TaskScope

    def link_made(self, link: Link) -> None:
        """The transport has made the connection (behind TLS, where there is any); the handshake begins."""

    def link_up(self, link: Link) -> None:
        """Both sides have accepted."""

    def link_down(self, link: Link) -> None:
        """A link that was up is down."""

    def link_closed(self, link: Link, why: str) -> None:
        """The connection is over, up or not; ``why`` is empty where nothing is wrong."""

    def handler_failed(self, error: Exception) -> None:
        """The handler let an exception out."""


class Link(asyncio.BufferedProtocol):
    """One connection. ``dialled`` is the node id expected at the other end, None where the other end dialled.

    ``closed`` is done when the link is down; its result says whether it was up. ``lost`` is done when the transport has let
    go of the connection.
    """

    def __init__(self, owner: LinkOwner, *, dialled: int | None) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._decoder = FrameDecoder()
        self._handshake = Handshake(owner.gate.hello(), dialled=dialled)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._admission: asyncio.Task[None] | None = None
        self._drain: asyncio.Future[None] | None = None
        self._paused = False
        self._up = False
        self._down = False
        self._sent = False
        self._heard = False
        self._silent_checks = 0
        self._calls: Calls | None = None
        self.dialled = dialled
        self.closed: asyncio.Future[bool] = self._loop.create_future()
        self.lost: asyncio.Future[None] = self._loop.create_future()

    @property
    def node_id(self) -> int:
        """The node at the other end as it calls itself (or as dialled), 0 while unknown."""
        return self._handshake.peer.node_id if self._handshake.peer is not None else self.dialled or 0

    @property
    def guest(self) -> bool:
        """One end is a guest (``peers.port``, rule 4)."""
        return self._handshake.guest

    @property
    def remote(self) -> str:
        """The other end's address, for the log."""
        name = self._transport.get_extra_info("peername") if self._transport is not None else None
        return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "unknown address"

    @property
    def calls(self) -> Calls:
        """The calls of a link that was up."""
        assert self._calls is not None
        return self._calls

    # What the mesh asks.

    def writable(self) -> bool:
        """Whether the link is up and its buffer below half of its bound."""
        return self._up and not self._down and self._queued() < LINK_BUFFER_BYTES_MAX // 2

    def send(self, envelope: pb.Envelope, payloads: Payloads = (), *, urgent: bool = False) -> bool:
        """Queue a frame; False where the link is down, or its buffer is full and the frame is not ``urgent`` (for frames
        of a few bytes whose number is bounded).

        Raises:
            MessageTooLargeError: the frame is over its bounds.
        """
        if not self._up or self._down or (not urgent and self._queued() >= LINK_BUFFER_BYTES_MAX):
            return False
        self._write(*encode_frame(envelope, payloads))
        return True

    async def drained(self) -> None:
        """Wait until the buffer is below a quarter of its bound, or the link is down."""
        if self._down or not self._paused:
            await asyncio.sleep(0)
            return
        if self._drain is None:
            self._drain = self._loop.create_future()
        await asyncio.shield(self._drain)

    def close(self, why: str = "", *, flush: bool = False) -> None:
        """Bring the link down at once; ``flush`` lets the transport send what is queued first, for ``CLOSE_FLUSH_S``."""
        if self._down:
            return
        self._down = True
        if self._timer is not None:
            self._timer.cancel()
        if self._admission is not None:
            self._admission.cancel()
        self.resume_writing()
        if self._transport is not None:
            if flush:
                self._transport.close()
                self._timer = self._loop.call_later(CLOSE_FLUSH_S, self._transport.abort)
            else:
                self._transport.abort()
        self._owner.link_closed(self, why)
        if not self.closed.done():
            self.closed.set_result(self._up)
        if self._calls is not None:
            self._calls.close()
            self._owner.link_down(self)

    def forsake(self) -> None:
        """Connecting has failed or was given up: whether the transport tells of the end is not certain (uvloop's does not, where
        it had told of the connection already)."""
        self.close()
        if not self.lost.done():
            self.lost.set_result(None)

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio``: say Hello."""
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        if self._down:
            transport.abort()
            return
        self._owner.link_made(self)
        line = transport.get_extra_info("socket")
        if line is not None and line.family in (socket.AF_INET, socket.AF_INET6):
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(high=LINK_BUFFER_BYTES_MAX // 2, low=LINK_BUFFER_BYTES_MAX // 4)
        late = f"no handshake within {HANDSHAKE_TIMEOUT_S:g} s; is a raftlog peer at the other end?"
        self._timer = self._loop.call_later(HANDSHAKE_TIMEOUT_S, self.close, late)
        self._perform(self._handshake.begin())

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the decoder knows better
        """See ``asyncio``."""
        return self._decoder.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """See ``asyncio``: hand up every whole frame."""
        if self._down:
            return
        self._heard = True
        self._decoder.received(nbytes)
        try:
            for frame in self._frames():
                if self._up:
                    self._deliver(frame)
                else:
                    self._perform(self._handshake.received(frame.envelope))
        except CorruptMessageError as error:  # found here or by the handler: the peer's fault
            self.close(str(error))
        except Exception as error:
            self._handler_failed(error)

    def eof_received(self) -> bool:
        """See ``asyncio``: half a connection is none."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio``."""
        self.close("" if self._up else f"the connection ended during the handshake{f': {exc}' if exc else ''}")
        if self._timer is not None:
            self._timer.cancel()
        if not self.lost.done():
            self.lost.set_result(None)

    def pause_writing(self) -> None:
        """See ``asyncio``."""
        self._paused = True

    def resume_writing(self) -> None:
        """See ``asyncio``: wake those who wait for room."""
        self._paused = False
        if self._drain is not None:
            self._drain.set_result(None)
            self._drain = None

    # Inside.

    def _frames(self) -> Iterator[Frame]:
        while not self._down and (frame := self._decoder.next_frame()) is not None:
            yield frame

    def _deliver(self, frame: Frame) -> None:
        envelope = frame.envelope
        body = envelope.WhichOneof("body")
        if body == "turn":
            turn = envelope.turn
            if not self.guest and turn.ListFields():  # an empty one only says that the link lives
                self._owner.handler.on_turn(self.node_id, turn, frame.payloads)
        elif body == "call_request":
            self.calls.received_request(frame)
        elif body == "call_response":
            self.calls.received_response(frame)
        elif body == "call_cancel":
            self.calls.received_cancel(envelope.call_cancel.call_id)
        else:
            raise PeerProtocolError(f"{body or 'an empty envelope'} came after the handshake")

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._write(*encode_frame(effect.envelope))
            elif isinstance(effect, Admit):
                name = f"peer-admit-{effect.hello.node_id}"
                self._admission = self._owner.scope.start(self._admit(effect.hello), name=name)
            elif isinstance(effect, Refused):
                assert self._handshake.peer is not None
                self._owner.gate.refused(self._handshake.peer.node_id, effect.reason, effect.message)
            elif isinstance(effect, Close):
                self.close(effect.why, flush=True)
            else:
                self._accepted()

    async def _admit(self, hello: pb.Hello) -> None:
        refusal: RaftlogError | None = None
        try:
            await self._owner.gate.admit(hello)
        except RaftlogError as error:
            refusal = error
        except Exception:
            self._admission = None
            self.close("the gate failed over its Hello")
            raise
        self._admission = None
        if not self._down:
            self._perform(self._handshake.decided(refusal))

    def _accepted(self) -> None:
        owner = self._owner
        if not self._receives_guest:
            self._decoder.accept()
        handler: CallHandler = _GuestDesk(owner.handler) if self._receives_guest else owner.handler
        self._calls = Calls(self, node_id=self.node_id, handler=handler, scope=owner.scope)
        self._up = True
        assert self._timer is not None
        self._timer.cancel()
        self._timer = self._loop.call_later(PING_S, self._check)
        try:
            owner.link_up(self)
        except Exception as error:
            self._handler_failed(error)

    @property
    def _receives_guest(self) -> bool:
        return self._handshake.peer is not None and self._handshake.peer.join

    def _handler_failed(self, error: Exception) -> None:
        _log.error("the handler failed over node %d: %r", self.node_id, error, exc_info=error)
        self.close("the handler failed over it")
        self._owner.handler_failed(error)

    def _check(self) -> None:
        """Every ``PING_S``. Silence is counted in checks, not read off a clock: a process that was stopped for a while reads
        what has arrived meanwhile before its one overdue check."""
        if self._heard:
            self._silent_checks = 0
        else:
            self._silent_checks += 1
            if self._silent_checks >= _SILENT_CHECKS_MAX:
                self.close(f"nothing heard for {LINK_SILENCE_S:g} s")
                return
        if not self._sent and not self._queued():
            self._write(*encode_frame(pb.Envelope(turn=pb.Turn())))
        self._heard = self._sent = False
        self._timer = self._loop.call_later(PING_S, self._check)

    def _queued(self) -> int:
        assert self._transport is not None
        return self._transport.get_write_buffer_size()

    def _write(self, buffers: list[Buffer], size: int) -> None:
        assert self._transport is not None
        self._sent = True
        if len(buffers) == 1 or size <= JOIN_BYTES_MAX:
            self._transport.write(buffers[0] if len(buffers) == 1 else b"".join(buffers))
            return
        small: list[Buffer] = []
        for buffer in buffers:
            if len(buffer) <= JOIN_BYTES_MAX:
                small.append(buffer)
                continue
            if small:
                self._transport.write(b"".join(small))
                small = []
            self._transport.write(buffer)
        if small:
            self._transport.write(b"".join(small))
