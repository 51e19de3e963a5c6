"""Gives an encoded batch another producer id, epoch and sequence; its records stay as they are, its CRC is computed anew."""

from __future__ import annotations

import struct
from typing import Final

from crc32c import crc32c

_CRC_AT: Final = 17
_CHECKED_FROM: Final = 21
_PRODUCER_AT: Final = 43
_CRC: Final = struct.Struct(">I")
_PRODUCER: Final = struct.Struct(">qhi")
"""Producer id, producer epoch, base sequence (see the layout in ``raftlog.records.batch``)."""


def stamp(data: bytes, *, producer_id: int, producer_epoch: int, base_sequence: int) -> bytes:
    """A copy of the batch ``data`` under this identity."""
    stamped = bytearray(data)
    _PRODUCER.pack_into(stamped, _PRODUCER_AT, producer_id, producer_epoch, base_sequence)
    _CRC.pack_into(stamped, _CRC_AT, crc32c(memoryview(stamped)[_CHECKED_FROM:]))
    return bytes(stamped)
