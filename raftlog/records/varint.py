"""Zigzag varints, the integers inside a record (protocol buffers' ``sint64``): small numbers of either sign take few bytes."""

from __future__ import annotations

from typing import Final

from raftlog.errors import CorruptMessageError

_BYTES_MAX: Final = 10
"""A 64-bit number in groups of 7 bits."""


def _encode(number: int) -> bytes:
    rest = (number << 1) ^ (number >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


_SMALL_STOP: Final = 1 << 13
SMALL: Final = tuple(_encode(number) for number in range(_SMALL_STOP))
"""The numbers that fit in two bytes, by number: lengths, deltas and counts nearly always do."""

NULL: Final = _encode(-1)
"""The length of what is not there."""


def encode(number: int) -> bytes:
    """Encode a signed 64-bit integer."""
    return SMALL[number] if 0 <= number < _SMALL_STOP else _encode(number)


def decode(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """Decode the number that starts at ``at``; returns it and the place after it.

    Raises:
        CorruptMessageError: it takes more than 64 bits.
        IndexError: the data ends within it.
    """
    byte = data[at]
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), at + 1
    rest, shift, stop = byte & 0x7F, 7, at + _BYTES_MAX
    while True:
        at += 1
        if at >= stop:
            raise CorruptMessageError("a number in a record is longer than 64 bits")
        byte = data[at]
        rest |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    if rest >> 64:
        raise CorruptMessageError("a number in a record is longer than 64 bits")
    return (rest >> 1) ^ -(rest & 1), at + 1
