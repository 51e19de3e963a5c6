"""Frames of a connection, without I/O: bytes in, whole requests out.

A frame is its size (four bytes, big endian) and that many bytes. A request that came in one piece is a view of that piece;
one that came in several is gathered in a buffer that grows with what has come: a size alone allocates nothing.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Final

from raftlog.kafka.wire.primitives import Buffer, MalformedRequestError

_SIZE: Final = struct.Struct(">i")
SIZE_BYTES: Final = _SIZE.size
REQUEST_BYTES_MIN: Final = 8
"""Key, version and correlation id: less is no request."""


class FrameSplitter:
    """Splits what comes in.

    Args:
        bytes_max: the largest request. Whoever announces a larger one is refused before it is received.
    """

    __slots__ = ("_bytes_max", "_partial", "_requests", "_wanted")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._partial = bytearray()
        self._wanted = SIZE_BYTES
        """Bytes, with those of the size, after which the unfinished frame tells more: its size, or its end."""
        self._requests: deque[memoryview] = deque()

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the unfinished frame that have come."""
        return len(self._partial)

    def receive_data(self, data: bytes) -> None:
        """Take what has come.

        Raises:
            MalformedRequestError: a size that no request has; nothing is to be received any more.
        """
        view = memoryview(data)
        while view:
            if not self._partial:
                view = self._whole(view)
                if not view:
                    return
            taken = self._wanted - len(self._partial)
            self._partial += view[:taken]
            view = view[taken:]
            if len(self._partial) < self._wanted:
                return
            if self._wanted == SIZE_BYTES:
                self._wanted = SIZE_BYTES + self._size_of(self._partial)
            else:
                self._requests.append(memoryview(self._partial)[SIZE_BYTES:])
                self._partial = bytearray()
                self._wanted = SIZE_BYTES

    def next_request(self) -> memoryview | None:
        """The next whole request, without its size; None where there is none yet."""
        return self._requests.popleft() if self._requests else None

    def _whole(self, view: memoryview) -> memoryview:
        """Take the frames that are whole in one piece; what is left of it."""
        while len(view) >= SIZE_BYTES:
            end = SIZE_BYTES + self._size_of(view)
            if len(view) < end:
                break
            self._requests.append(view[SIZE_BYTES:end])
            view = view[end:]
        return view

    def _size_of(self, data: Buffer | bytearray) -> int:
        (size,) = _SIZE.unpack_from(data)
        if not REQUEST_BYTES_MIN <= size <= self._bytes_max:
            raise MalformedRequestError(f"a request announces {size} bytes; {REQUEST_BYTES_MIN} to {self._bytes_max} are allowed")
        checked: int = size
        return checked


def frame(buffers: list[Buffer]) -> list[Buffer]:
    """An answer's buffers with their size in front."""
    return [_SIZE.pack(sum(map(len, buffers))), *buffers]
