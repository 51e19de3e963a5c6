"""The Raft log's entry: a small header of fixed layout, checked on its own, and a payload behind it.

The stored form and the wire form between nodes are the same bytes, made once by the leader and never rewritten.

Header, big endian, ``HEADER_SIZE`` bytes::

    format u8 · kind u8 · reserved u16 · header crc u32 · group u64 · index u64 · term u64 · base offset i64 ·
    record count u32 · payload size u32 · payload crc u32 · producer id i64 · producer epoch i16 · base sequence i32 ·
    max timestamp i64 · running max timestamp i64 · append time i64

Rules:

1. The header carries its own key (group, index), so its CRC32C covers key and value.
2. ``base_offset`` is the offset of the entry's first record; an entry without records carries the next offset.
   So offsets never fall along the log, and the log is its own index.
3. ``running_max_timestamp`` never falls along the log: a lookup by time is a binary search.
4. The leader fixes every field in the call that gives the entry its index and term.
5. A newer format keeps the first 8 bytes and what their CRC covers, so that it is told from damage: it is refused by name.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from crc32c import crc32c

from raftlog.errors import DataLossError, NewerFormatError, RaftlogError
from raftlog.model import NO_PRODUCER

FORMAT = 1
_REST = struct.Struct(">QQQqIIIqhiqqq")
_FRONT = struct.Struct(">BBHI")
HEADER_SIZE = _FRONT.size + _REST.size
NO_TIMESTAMP = -1


class EntryKind(IntEnum):
    """What an entry is. 1 and 2 are PySyncObj's own numbers; ours begin at 4, which it passes through untouched."""

    NOOP = 1
    MEMBERSHIP = 2
    RECORDS = 4
    """Payload: record batches v2, one behind another: of one producer in its order, or all of none."""
    COMMAND = 5
    """Payload: a command of the group's state machine (protobuf)."""
    TRIM = 6
    """Payload: the new log start (protobuf), decided by the leader, applied by all alike."""
    CONFIGURATION = 7
    """Payload: the group's members from here on (``core.configuration``); in force as soon as it is in a log."""


_KINDS = {int(kind): kind for kind in EntryKind}


class EntryHeader(NamedTuple):
    """The decoded header; a tuple, for one is made for every entry read or written.

    Times are milliseconds since the epoch, −1 where there is none.
    """

    kind: EntryKind
    group: int
    index: int  # type: ignore[assignment]  # a header is no sequence to be searched
    term: int
    base_offset: int
    record_count: int = 0
    payload_size: int = 0
    payload_crc: int = 0
    producer_id: int = NO_PRODUCER
    producer_epoch: int = -1
    base_sequence: int = -1
    max_timestamp: int = NO_TIMESTAMP
    running_max_timestamp: int = NO_TIMESTAMP
    append_time: int = 0

    @property
    def next_offset(self) -> int:
        """The offset after this entry's last record."""
        return self.base_offset + self.record_count


class Entry:
    """An entry: its header, and ``data``, the encoded header and payload in one piece."""

    __slots__ = ("data", "header")

    def __init__(self, header: EntryHeader, data: bytes) -> None:
        self.header = header
        self.data = data

    @property
    def payload(self) -> memoryview:
        """The payload, without a copy."""
        return memoryview(self.data)[HEADER_SIZE:]

    def __repr__(self) -> str:
        h = self.header
        return f"Entry({h.kind.name} g{h.group} i{h.index} t{h.term} o{h.base_offset}+{h.record_count} {h.payload_size}B)"


def encode(header: EntryHeader, *parts: bytes | memoryview) -> Entry:
    """Make an entry of ``header`` and the payload's ``parts``; size and CRC fields are filled in. One copy of the parts."""
    size, crc = 0, 0
    for part in parts:
        size += len(part)
        crc = crc32c(part, crc)
    rest = _REST.pack(
        header.group, header.index, header.term, header.base_offset, header.record_count, size, crc,
        header.producer_id, header.producer_epoch, header.base_sequence,
        header.max_timestamp, header.running_max_timestamp, header.append_time,
    )  # fmt: skip
    front = _FRONT.pack(FORMAT, header.kind, 0, crc32c(rest, FORMAT << 8 | header.kind))
    data = b"".join((front, rest, *parts))
    return Entry(EntryHeader(*header[:6], size, crc, *header[8:]), data)


def decode_header(data: bytes | memoryview) -> EntryHeader:
    """Decode and check the header at the start of ``data``; the payload is not looked at.

    Raises:
        DataLossError: the bytes are too short, or fail their CRC.
        NewerFormatError: a newer version wrote them.
    """
    if len(data) < HEADER_SIZE:
        raise DataLossError(f"entry of {len(data)} bytes is shorter than its header of {HEADER_SIZE}")
    form, kind, _, crc = _FRONT.unpack_from(data, 0)
    if form != FORMAT or crc32c(memoryview(data)[_FRONT.size : HEADER_SIZE], FORMAT << 8 | kind) != crc:
        raise _refusal(data, form, kind, crc)
    try:
        return EntryHeader(_KINDS[kind], *_REST.unpack_from(data, _FRONT.size))
    except KeyError as error:
        raise NewerFormatError(f"entry has kind {kind}, unknown to this version; start the version that wrote it") from error


def _refusal(data: bytes | memoryview, form: int, kind: int, crc: int) -> RaftlogError:
    """Why the bytes are no header of this version."""
    if form > FORMAT and crc32c(memoryview(data)[_FRONT.size : HEADER_SIZE], form << 8 | kind) == crc:
        return NewerFormatError(f"entry has format {form}; this version reads format {FORMAT}. Start the version that wrote it")
    return DataLossError("entry header fails its CRC32C")


def decode(data: bytes) -> Entry:
    """Decode and check a whole entry.

    Raises:
        DataLossError: header or payload fails its check.
        NewerFormatError: a newer version wrote it.
    """
    header = decode_header(data)
    payload = memoryview(data)[HEADER_SIZE:]
    if len(payload) != header.payload_size:
        raise DataLossError(f"entry payload has {len(payload)} bytes, its header says {header.payload_size}")
    if crc32c(payload) != header.payload_crc:
        raise DataLossError(f"payload of entry {header.index} of group {header.group} fails its CRC32C")
    return Entry(header, data)
