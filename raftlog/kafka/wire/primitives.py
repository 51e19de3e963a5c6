"""The protocol's primitive types, read from memoryviews and written into buffers.

Source: kafka.apache.org/protocol, "Protocol Primitive Types"; KIP-482 for the compact forms and tagged fields.

Rules:

1. A reader never goes beyond its view, and what it returns is never longer than what is there: counts of arrays are checked
   against the bytes left before anything is made for them.
2. Reading costs time in proportion to the bytes read: a varint ends after five bytes, tags are skipped where they lie.
   Items of arrays and tags, which may come in a byte or two, are counted together, those of the header among them.
3. Whatever is wrong raises ``MalformedRequestError``.
"""

from __future__ import annotations

import struct
from typing import Final

from raftlog.errors import InvalidRequestError

Buffer = bytes | memoryview
_INT8: Final = struct.Struct(">b")
_INT16: Final = struct.Struct(">h")
_UINT16: Final = struct.Struct(">H")
_INT32: Final = struct.Struct(">i")
_INT64: Final = struct.Struct(">q")
_FLOAT64: Final = struct.Struct(">d")
UVARINT_BYTES_MAX: Final = 5
"""A 32-bit number, seven bits a byte."""
STRING_BYTES_MAX: Final = 32_767
"""The longest string: what the older form can say."""

ITEMS_MAX: Final = 20_000
"""Items of all arrays of one request, and its tags: each item becomes an object of some 300 bytes, whatever the few bytes that it
came in, and all are read before anybody else has a turn: together they take a tenth of a second, a quarter of what an election
waits."""
HOT_ITEMS_MAX: Final = 5_000
"""The same of Produce and Fetch, whose partitions are not only read but worked on in one go, 30 µs each."""


class MalformedRequestError(InvalidRequestError):
    """Bytes that are no request; the connection they came on is of no more use."""


class Reader:
    """Reads one message from front to back. ``at`` is the next byte."""

    __slots__ = ("_items_left", "_items_max", "at", "view")

    def __init__(self, view: memoryview, at: int = 0) -> None:
        self.view = view
        self.at = at
        self._items_left = self._items_max = ITEMS_MAX

    def bound_items(self, items_max: int) -> None:
        """From here on at most so many items of arrays and tags."""
        self._items_left = self._items_max = items_max

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return len(self.view) - self.at

    def _count_items(self, count: int) -> None:
        self._items_left -= count
        if self._items_left < 0:
            raise MalformedRequestError(f"more than {self._items_max} items in one request; ask in several")

    def _number(self, form: struct.Struct) -> int:
        try:
            (value,) = form.unpack_from(self.view, self.at)
        except struct.error:
            raise MalformedRequestError(f"a number of {form.size} bytes is cut off after {self.left}") from None
        self.at += form.size
        number: int = value
        return number

    def int8(self) -> int:
        """One byte with a sign."""
        return self._number(_INT8)

    def boolean(self) -> bool:
        """One byte; any but 0 is true."""
        return self._number(_INT8) != 0

    def int16(self) -> int:
        """Two bytes with a sign."""
        return self._number(_INT16)

    def uint16(self) -> int:
        """Two bytes without a sign."""
        return self._number(_UINT16)

    def int32(self) -> int:
        """Four bytes with a sign."""
        return self._number(_INT32)

    def int64(self) -> int:
        """Eight bytes with a sign."""
        return self._number(_INT64)

    def float64(self) -> float:
        """Eight bytes, a double."""
        return self._number(_FLOAT64)

    def uvarint(self) -> int:
        """An unsigned varint of at most 32 bits."""
        view, at = self.view, self.at
        value = shift = 0
        try:
            while True:
                byte = view[at]
                at += 1
                value |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
                shift += 7
                if shift > 28:
                    raise MalformedRequestError(f"a varint is longer than {UVARINT_BYTES_MAX} bytes")
        except IndexError:
            raise MalformedRequestError("a varint is cut off") from None
        self.at = at
        return value

    def raw(self, size_bytes: int) -> memoryview:
        """The next bytes, not copied."""
        begin = self.at
        end = begin + size_bytes
        if size_bytes < 0 or end > len(self.view):
            raise MalformedRequestError(f"a field of {size_bytes} bytes, with {self.left} left")
        self.at = end
        return self.view[begin:end]

    def nullable_string(self, compact: bool) -> str | None:
        """A string, or None."""
        size = self.uvarint() - 1 if compact else self.int16()
        if size < 0:
            if size != -1:
                raise MalformedRequestError(f"a string of {size} bytes")
            return None
        if size > STRING_BYTES_MAX:
            raise MalformedRequestError(f"a string of {size} bytes; at most {STRING_BYTES_MAX} are allowed")
        try:
            return str(self.raw(size), "utf-8")
        except UnicodeDecodeError:
            raise MalformedRequestError("a string is not UTF-8") from None

    def string(self, compact: bool) -> str:
        """A string that must be there."""
        text = self.nullable_string(compact)
        if text is None:
            raise MalformedRequestError("a string that must not be null is")
        return text

    def nullable_bytes(self, compact: bool) -> memoryview | None:
        """Bytes, not copied, or None."""
        size = self.uvarint() - 1 if compact else self.int32()
        return None if size == -1 else self.raw(size)

    def nullable_count(self, compact: bool, item_bytes_min: int = 1) -> int:
        """The count of an array whose items take at least so many bytes each; −1 for no array."""
        count = self.uvarint() - 1 if compact else self.int32()
        if count < -1 or count * item_bytes_min > self.left:
            raise MalformedRequestError(f"an array of {count} items, with {self.left} bytes left")
        self._count_items(count)
        return count

    def count(self, compact: bool, item_bytes_min: int = 1) -> int:
        """The count of an array that must be there."""
        count = self.nullable_count(compact, item_bytes_min)
        if count < 0:
            raise MalformedRequestError("an array that must not be null is")
        return count

    def skip_tags(self) -> None:
        """Pass over tagged fields: none of those that the served versions could have mean anything here."""
        count = self.uvarint()
        self._count_items(count)
        for _ in range(count):
            self.uvarint()
            self.raw(self.uvarint())

    def skip_tags_if(self, flexible: bool) -> None:
        """``skip_tags`` in a version that has them."""
        if flexible:
            self.skip_tags()


class Writer:
    """Writes one message; what is given as buffers is kept as such, in place."""

    __slots__ = ("_buffers", "_head", "_size")

    def __init__(self) -> None:
        self._head = bytearray()
        self._buffers: list[Buffer] = []
        self._size = 0

    def int8(self, value: int) -> None:
        """One byte with a sign."""
        self._head += _INT8.pack(value)

    def boolean(self, value: bool) -> None:
        """One byte, 0 or 1."""
        self._head.append(1 if value else 0)

    def int16(self, value: int) -> None:
        """Two bytes with a sign."""
        self._head += _INT16.pack(value)

    def uint16(self, value: int) -> None:
        """Two bytes without a sign."""
        self._head += _UINT16.pack(value)

    def int32(self, value: int) -> None:
        """Four bytes with a sign."""
        self._head += _INT32.pack(value)

    def int64(self, value: int) -> None:
        """Eight bytes with a sign."""
        self._head += _INT64.pack(value)

    def float64(self, value: float) -> None:
        """Eight bytes, a double."""
        self._head += _FLOAT64.pack(value)

    def uvarint(self, value: int) -> None:
        """An unsigned varint of at most 32 bits."""
        head = self._head
        while value >= 0x80:
            head.append(value & 0x7F | 0x80)
            value >>= 7
        head.append(value)

    def string(self, text: str | None, compact: bool) -> None:
        """A string, or None. One that is too long for the protocol is cut."""
        if text is None:
            self._length(-1, compact, _INT16)
            return
        data = text.encode()
        if len(data) > STRING_BYTES_MAX:
            data = data[:STRING_BYTES_MAX].decode(errors="ignore").encode()
        self._length(len(data), compact, _INT16)
        self._head += data

    def data(self, data: Buffer | None, compact: bool) -> None:
        """Bytes, copied, or None."""
        self.count(None if data is None else len(data), compact)
        if data is not None:
            self._head += data

    def count(self, count: int | None, compact: bool) -> None:
        """The count of an array; None for no array."""
        self._length(-1 if count is None else count, compact, _INT32)

    def raw(self, data: Buffer) -> None:
        """Bytes as they are, copied."""
        self._head += data

    def batches(self, batches: list[Buffer] | tuple[Buffer, ...], size_bytes: int, compact: bool) -> None:
        """Record batches, not copied, ``size_bytes`` of them."""
        self.count(size_bytes, compact)
        if batches:
            self._flush()
            self._buffers += batches
            self._size += size_bytes

    def tags(self) -> None:
        """No tagged fields."""
        self._head.append(0)

    def tags_if(self, flexible: bool) -> None:
        """No tagged fields, in a version that has them."""
        if flexible:
            self._head.append(0)

    def finish(self) -> list[Buffer]:
        """The buffers of the message, in order."""
        self._flush()
        return self._buffers

    def _length(self, length: int, compact: bool, form: struct.Struct) -> None:
        if compact:
            self.uvarint(length + 1)
        else:
            self._head += form.pack(length)

    def _flush(self) -> None:
        if self._head:
            self._size += len(self._head)
            self._buffers.append(bytes(self._head))
            self._head = bytearray()
