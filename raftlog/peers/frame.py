"""Frames between nodes, without I/O: bytes in, envelopes and payloads out.

A frame, integers big endian::

    total u32 · envelope size u32 · Envelope (protobuf) · payloads, one behind the other

``total`` counts what follows it. The payloads' sizes are ``Envelope.payload_sizes`` and must fill the frame exactly.

Rules:

1. Sizes are checked before anything is allocated for them, and the buffer grows only in proportion to the bytes that came
   (``LARGE_STEP_BYTES``, then fourfold): a length alone costs a liar nothing and us nothing.
2. Before the handshake is accepted a frame is at most ``HANDSHAKE_FRAME_BYTES_MAX``; the decoder learns of the acceptance
   by ``accept``, which may happen between two frames of one read: the peer's first turn may come right behind its Welcome.
3. Whatever is wrong raises ``PeerProtocolError``; the decoder is of no use afterwards.

Theory of operation: the transport reads into ``get_buffer()``. A frame is taken apart piece by piece (prefix and envelope, then
each payload), so the buffer need only hold the largest piece, and the same memory serves one frame after the other: fresh
megabytes cost ten times more in page faults than the copy out of them. A payload is copied once, into its own ``bytes``, so
no buffer is held by whoever keeps a payload. A piece larger than ``SHARED_BYTES`` is read to its end and no further, so that
little has to be moved to the front afterwards.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from raftlog.errors import CorruptMessageError, MessageTooLargeError
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb

FRAME_BYTES_MAX: Final = 32 * 1024 * 1024
"""Largest frame: a turn closes at 8 MB of payload, and one message may be larger by its topic's ``max.message.bytes``."""
HANDSHAKE_FRAME_BYTES_MAX: Final = 4 * 1024
"""Largest frame of a stranger: a Hello with some dozens of voters fits ten times."""
ENVELOPE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Largest envelope: messages for thousands of groups, or a call's body."""
PAYLOADS_MAX: Final = 65_536
"""Payloads in a frame: a turn of 8 MB in entries of 128 bytes. Bounds the objects made of a frame of empty payloads."""
SHARED_BYTES: Final = 256 * 1024
"""Buffer of an accepted link: one read takes what a socket's buffer usually holds."""
LARGE_STEP_BYTES: Final = 2 * 1024 * 1024
"""The buffer once a piece is larger than ``SHARED_BYTES``, and the most that is kept: a batch of 1 MiB fits."""

_PREFIX = struct.Struct(">II")
_TOTAL = struct.Struct(">I")

Buffer = bytes | memoryview


class PeerProtocolError(CorruptMessageError):
    """A peer, or whoever it is, sent what no peer of this version sends; the connection is of no more use."""


class Frame(NamedTuple):
    """A received frame."""

    envelope: pb.Envelope
    payloads: list[bytes]


def encode_frame(envelope: pb.Envelope, payloads: Sequence[Buffer] = ()) -> tuple[list[Buffer], int]:
    """The buffers of a frame in order, and their size in bytes. Payloads are not copied; ``payload_sizes`` is filled in.

    Raises:
        MessageTooLargeError: the frame, its envelope or the number of payloads is over its bound.
    """
    if payloads:
        envelope.payload_sizes[:] = [len(payload) for payload in payloads]
    body = envelope.SerializeToString()
    total = _TOTAL.size + len(body)
    if payloads:
        total += sum(envelope.payload_sizes)
    if total + _TOTAL.size > FRAME_BYTES_MAX or len(body) > ENVELOPE_BYTES_MAX or len(payloads) > PAYLOADS_MAX:
        raise MessageTooLargeError(
            f"a frame of {total} bytes (envelope {len(body)}) with {len(payloads)} payloads is over the bounds of"
            f" {FRAME_BYTES_MAX}, {ENVELOPE_BYTES_MAX} and {PAYLOADS_MAX}; send it in parts"
        )
    return [_PREFIX.pack(total, len(body)) + body, *payloads], total + _TOTAL.size


class FrameDecoder:
    """Cuts frames out of a stream: ``get_buffer``, fill it, ``received``, then ``next_frame`` until it returns None."""

    __slots__ = ("_buffer", "_end", "_envelope", "_frame_bytes_max", "_kept", "_payloads", "_start", "_want")

    def __init__(self) -> None:
        self._frame_bytes_max = HANDSHAKE_FRAME_BYTES_MAX
        self._kept = memoryview(bytearray(HANDSHAKE_FRAME_BYTES_MAX))
        """The buffer to go back to after a piece that needed a larger one."""
        self._buffer = self._kept
        self._start = 0
        self._end = 0
        """Unread bytes are ``_buffer[_start:_end]``."""
        self._want = _PREFIX.size
        """Size of the piece that ``_start`` begins, as far as known; more than the unread bytes after ``next_frame`` was None."""
        self._envelope: pb.Envelope | None = None
        """Of the frame whose payloads are being read; its sizes are checked."""
        self._payloads: list[bytes] = []

    def accept(self) -> None:
        """The handshake is done: take frames up to ``FRAME_BYTES_MAX``. What was received and not yet read is kept."""
        self._frame_bytes_max = FRAME_BYTES_MAX
        self._move(SHARED_BYTES)

    def get_buffer(self) -> memoryview:
        """Where the next bytes go; never empty. Call ``next_frame`` until None before."""
        size = len(self._buffer)
        if self._start and (self._start + self._want > size or size - self._end < size // 2):
            have = self._end - self._start
            self._buffer[:have] = self._buffer[self._start : self._end]
            self._start, self._end = 0, have
        if self._end == size:
            self._move(max(LARGE_STEP_BYTES, min(self._want, 4 * size)))
        if self._want > SHARED_BYTES:
            return self._buffer[self._end : self._start + self._want]
        return self._buffer[self._end :]

    def received(self, size: int) -> None:
        """``size`` bytes were written to the start of the buffer that ``get_buffer`` returned."""
        self._end += size

    def next_frame(self) -> Frame | None:
        """The next whole frame, or None until more has been received.

        Raises:
            PeerProtocolError: these bytes are no frame, or one over its bounds.
        """
        envelope = self._envelope or self._next_envelope()
        if envelope is None:
            return None
        sizes = envelope.payload_sizes
        payloads = self._payloads if sizes else []
        if sizes:
            buffer, start, end = self._buffer, self._start, self._end
            for number in range(len(payloads), len(sizes)):
                stop = start + sizes[number]
                if stop > end:
                    self._envelope, self._start, self._want = envelope, start, stop - start
                    return None
                payloads.append(bytes(buffer[start:stop]))
                start = stop
            self._start, self._envelope, self._payloads = start, None, []
        if self._start == self._end:
            self._start = self._end = 0
            self._buffer = self._kept
        return Frame(envelope, payloads)

    def _next_envelope(self) -> pb.Envelope | None:
        start, have = self._start, self._end - self._start
        if have < _PREFIX.size:
            self._want = _PREFIX.size
            return None
        total, envelope_size = _PREFIX.unpack_from(self._buffer, start)
        payloads_size = total - _TOTAL.size - envelope_size
        if total + _TOTAL.size > self._frame_bytes_max or envelope_size > ENVELOPE_BYTES_MAX or payloads_size < 0:
            raise PeerProtocolError(f"these bytes begin no frame: total {total}, envelope {envelope_size}")
        size = _PREFIX.size + envelope_size
        if have < size:
            self._want = size
            return None
        envelope = _parse(self._buffer[start + _PREFIX.size : start + size], payloads_size)
        self._start = start + size
        return envelope

    def _move(self, size: int) -> None:
        """Go on in a fresh buffer of ``size`` bytes."""
        have = self._end - self._start
        fresh = memoryview(bytearray(size))
        fresh[:have] = self._buffer[self._start : self._end]
        self._buffer, self._start, self._end = fresh, 0, have
        if size <= LARGE_STEP_BYTES:
            self._kept = fresh


def _parse(data: memoryview, payloads_size: int) -> pb.Envelope:
    try:
        envelope = pb.Envelope.FromString(bytes(data))
    except DecodeError as error:
        raise PeerProtocolError(f"the envelope of a frame does not parse: {error}") from error
    sizes = envelope.payload_sizes
    if len(sizes) > PAYLOADS_MAX:
        raise PeerProtocolError(f"a frame of {len(sizes)} payloads, over the bound of {PAYLOADS_MAX}")
    if sum(sizes) != payloads_size:
        raise PeerProtocolError(f"payloads of {sum(sizes)} bytes in a frame with room for {payloads_size}")
    return envelope
