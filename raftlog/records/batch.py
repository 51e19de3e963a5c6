"""The Kafka record batch v2: one format from the producer's memory to the disk to the consumer (KIP-98).

Layout, big endian::

    base offset i64 · length i32 · partition leader epoch i32 · magic i8 · crc u32 · attributes i16 · last offset delta i32 ·
    base timestamp i64 · max timestamp i64 · producer id i64 · producer epoch i16 · base sequence i32 · record count i32 · records

Attributes: bits 0–2 codec, 3 timestamp type (1 = log append time), 4 transactional, 5 control. A record, every integer in it
but its attributes a zigzag varint::

    length · attributes i8 · timestamp delta · offset delta · key length · key · value length · value ·
    header count · (key length · key · value length · value)*

Rules:

1. The CRC32C covers byte 21 to the end, so base offset and leader epoch are set without touching the rest: ``assign``.
2. A node reads headers only; records are taken apart by clients: ``decode``.
3. Whatever bytes come in, what is wrong with them leaves as an error of ``raftlog.errors``, and memory stays bounded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from crc32c import crc32c

from raftlog.errors import CorruptMessageError, InvalidRecordError, InvalidTimestampError, MessageTooLargeError
from raftlog.model import NO_PRODUCER
from raftlog.records import varint
from raftlog.records.compression import CODECS, DECOMPRESSED_BYTES_MAX, Codec, compress, decompress

MAGIC: Final = 2
_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_FRONT: Final = struct.Struct(">qii")
_MIDDLE: Final = struct.Struct(">bI")
_CHECKED: Final = struct.Struct(">hiqqqhii")
HEADER_SIZE: Final = _HEADER.size
_LENGTH_STARTS: Final = 12
"""``length`` counts the bytes from here."""
_CRC_STARTS: Final = 21

_CODEC_MASK: Final = 0x07
_LOG_APPEND_TIME: Final = 0x08
_TRANSACTIONAL: Final = 0x10
_CONTROL: Final = 0x20

SEQUENCE_MODULUS: Final = 1 << 31
"""Sequences run from 0 to 2**31 − 1 and then from 0 again."""

_RECORD_SIZE_MIN: Final = 7
"""An empty record: seven one-byte fields."""
_RECORD_OVERHEAD_MAX: Final = 5 + 1 + 10 + 5 + 5 + 5 + 5
"""The seven fields at their longest."""

_TIMESTAMP_MAX: Final = (1 << 63) - 1

Headers = tuple[tuple[str, bytes | None], ...]


class BatchHeader(NamedTuple):
    """The decoded header, a field for each of the layout. Times are milliseconds since the epoch."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole batch."""
        return self.length + _LENGTH_STARTS

    @property
    def next_offset(self) -> int:
        """The offset after the batch's last record."""
        return self.base_offset + self.last_offset_delta + 1

    @property
    def last_sequence(self) -> int:
        """The last record's sequence, −1 where there is none."""
        return -1 if self.base_sequence < 0 else (self.base_sequence + self.last_offset_delta) % SEQUENCE_MODULUS

    @property
    def codec(self) -> Codec:
        """How the records are compressed.

        Raises:
            CorruptMessageError: a number that no codec has.
        """
        codec = CODECS.get(self.attributes & _CODEC_MASK)
        if codec is None:
            raise CorruptMessageError(f"batch names codec {self.attributes & _CODEC_MASK}; there are 0 to {max(CODECS)}")
        return codec

    @property
    def is_log_append_time(self) -> bool:
        """Whether every record has the batch's max timestamp for its own."""
        return bool(self.attributes & _LOG_APPEND_TIME)

    @property
    def is_transactional(self) -> bool:
        """Whether the batch belongs to a transaction."""
        return bool(self.attributes & _TRANSACTIONAL)

    @property
    def is_control(self) -> bool:
        """Whether the batch holds a transaction's marker, which no consumer sees."""
        return bool(self.attributes & _CONTROL)


class Record(NamedTuple):
    """A record. ``timestamp_ms`` is milliseconds since the epoch; header names are unique only by custom. A tuple, because
    one is made for every record read."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


def read_header(data: bytes | memoryview) -> BatchHeader:
    """Read the header at the start of ``data``; only its presence is checked.

    Raises:
        CorruptMessageError: fewer than 61 bytes.
    """
    if len(data) < HEADER_SIZE:
        raise CorruptMessageError(f"a record batch has a header of {HEADER_SIZE} bytes; here are {len(data)}")
    return BatchHeader._make(_HEADER.unpack_from(data))


def check(data: bytes | memoryview, *, size_max: int) -> BatchHeader:
    """Check what a producer sent: one whole batch of at most ``size_max`` bytes that fits its own header.

    Raises:
        MessageTooLargeError: more than ``size_max`` bytes.
        CorruptMessageError: the length or the CRC is wrong.
        InvalidRecordError: not exactly one batch, or one whose header contradicts itself.
        InvalidTimestampError: the producer claims log append time.
    """
    header = read_header(data)
    if header.size_bytes > size_max:
        raise MessageTooLargeError(
            f"batch has {header.size_bytes} bytes, max.message.bytes allows {size_max}; send smaller batches, or raise it"
        )
    if header.magic != MAGIC:
        raise InvalidRecordError(f"batch has format {header.magic}; only record batches of format {MAGIC} are taken")
    _check_whole(header, data)
    if header.size_bytes != len(data):
        raise InvalidRecordError(f"{len(data) - header.size_bytes} bytes follow the batch; send one batch for a partition")
    _check_crc(header, data)
    _check_consistent(header)
    return header


def _check_whole(header: BatchHeader, data: bytes | memoryview) -> None:
    if not HEADER_SIZE <= header.size_bytes <= len(data):
        raise CorruptMessageError(f"batch declares {header.size_bytes} bytes; {len(data)} are here, a header has {HEADER_SIZE}")


def _check_crc(header: BatchHeader, data: bytes | memoryview) -> None:
    if crc32c(memoryview(data)[_CRC_STARTS : header.size_bytes]) != header.crc:
        raise CorruptMessageError("batch fails its CRC32C; it was changed on its way, send it again")


def _check_consistent(header: BatchHeader) -> None:
    count = header.record_count
    if count <= 0:
        raise InvalidRecordError(f"batch has a record count of {count}; it must hold a record at least")
    if header.last_offset_delta + 1 != count:
        raise InvalidRecordError(f"batch has {count} records but a last offset delta of {header.last_offset_delta}")
    if header.attributes & _CODEC_MASK not in CODECS:
        raise InvalidRecordError(f"batch names codec {header.attributes & _CODEC_MASK}; there are 0 to {max(CODECS)}")
    if not header.attributes & _CODEC_MASK and count * _RECORD_SIZE_MIN > header.size_bytes - HEADER_SIZE:
        raise InvalidRecordError(f"{count} records do not fit in the {header.size_bytes - HEADER_SIZE} bytes behind the header")
    if header.attributes & _CONTROL:
        raise InvalidRecordError("batch is marked as a control batch; only the cluster writes those")
    if header.attributes & _TRANSACTIONAL:
        raise InvalidRecordError("batch is part of a transaction; produce without a transactional id")
    if header.attributes & _LOG_APPEND_TIME:
        raise InvalidTimestampError("batch is marked with log append time, which only the leader may do")
    if header.max_timestamp < -1:
        raise InvalidRecordError(f"batch has a maximum timestamp of {header.max_timestamp}")
    if header.producer_id < NO_PRODUCER or (
        header.producer_id != NO_PRODUCER and (header.producer_epoch < 0 or header.base_sequence < 0)
    ):
        raise InvalidRecordError(
            f"batch of producer {header.producer_id} has epoch {header.producer_epoch} and sequence {header.base_sequence}"
        )


def assign(
    data: bytes | memoryview, *, base_offset: int, leader_epoch: int, log_append_time: int | None = None
) -> tuple[bytes, memoryview]:
    """The parts of a checked batch with its place in the log set; the body is not copied.

    Args:
        data: one whole batch.
        base_offset: offset of its first record.
        leader_epoch: the leader's term.
        log_append_time: where the topic wants it, the time in milliseconds that every record gets; the CRC is computed anew.
    """
    view = memoryview(data)
    header = read_header(data)
    front = _FRONT.pack(base_offset, header.length, leader_epoch)
    if log_append_time is None:
        return front, view[_FRONT.size :]
    attributes = header.attributes | _LOG_APPEND_TIME
    checked = _CHECKED.pack(attributes, *header[6:8], log_append_time, *header[9:])
    body = view[HEADER_SIZE:]
    return front + _MIDDLE.pack(header.magic, crc32c(body, crc32c(checked))) + checked, body


def split(data: bytes | memoryview) -> Iterator[tuple[BatchHeader, memoryview]]:
    """The batches that lie one behind another in ``data``, each with its header; CRCs are not checked.

    Raises:
        CorruptMessageError: what follows is not a whole batch of this format.
    """
    view = memoryview(data)
    while view:
        header = read_header(view)
        if header.magic != MAGIC:
            raise CorruptMessageError(f"batch has format {header.magic}; this version reads format {MAGIC}")
        _check_whole(header, view)
        yield header, view[: header.size_bytes]
        view = view[header.size_bytes :]


def decode(data: bytes | memoryview, *, decompressed_bytes_max: int = DECOMPRESSED_BYTES_MAX) -> list[Record]:
    """The records of all batches in ``data``, checked; those of control batches are left out.

    Args:
        data: whole batches, one behind another.
        decompressed_bytes_max: most bytes that one batch's records may decompress to.

    Raises:
        CorruptMessageError: anything is wrong with the bytes.
    """
    records: list[Record] = []
    for header, batch in split(data):
        _check_crc(header, batch)
        if header.is_control:
            continue
        body = decompress(batch[HEADER_SIZE:], header.codec, bytes_max=decompressed_bytes_max)
        try:
            _decode_records(header, bytes(body), records)
        except (IndexError, UnicodeDecodeError) as error:
            raise CorruptMessageError(f"a record of the batch at offset {header.base_offset} is broken: {error}") from error
    return records


def _decode_records(header: BatchHeader, data: bytes, into: list[Record]) -> None:
    """Take a batch's records apart. The common case, numbers of one and two bytes, is written out: it is most of the time."""
    base_offset, base_timestamp = header.base_offset, header.base_timestamp
    append_time = header.max_timestamp if header.is_log_append_time else None
    number, new, total = varint.decode, tuple.__new__, len(data)
    at, last_delta = 0, -1
    for _ in range(header.record_count):
        size, at = number(data, at)
        end = at + size
        if size < 0 or end > total:
            raise CorruptMessageError(f"a record of {size} bytes with {total - at} left in its batch")
        at += 1  # its attributes are unused
        byte = data[at]
        if byte < 0x80:
            timestamp = base_timestamp + ((byte >> 1) ^ -(byte & 1))
            at += 1
        else:
            delta, at = number(data, at)
            timestamp = base_timestamp + delta
        byte = data[at]
        if byte < 0x80:
            delta = (byte >> 1) ^ -(byte & 1)
            at += 1
        else:
            delta, at = number(data, at)
        if delta <= last_delta:
            raise CorruptMessageError(f"a record with offset delta {delta} follows one with {last_delta}")
        last_delta = delta
        key, at = _decode_bytes(data, at)
        value, at = _decode_bytes(data, at)
        if data[at]:
            headers, at = _decode_headers(data, at, end)
        else:
            headers, at = (), at + 1
        if at != end:
            raise CorruptMessageError(f"a record's fields take {at - end} bytes more than its length says")
        into.append(new(Record, (base_offset + delta, timestamp if append_time is None else append_time, key, value, headers)))
    if last_delta > header.last_offset_delta:
        raise CorruptMessageError(f"a record has offset delta {last_delta}, its batch ends at {header.last_offset_delta}")
    if at != total:
        raise CorruptMessageError(f"{total - at} bytes follow the last record of the batch at offset {base_offset}")


def _decode_bytes(data: bytes, at: int) -> tuple[bytes | None, int]:
    """A length and that many bytes; −1 is None. The caller checks that the end lies within its record."""
    byte = data[at]
    if byte == 1:
        return None, at + 1
    if byte < 0x80:
        size, at = byte >> 1, at + 1
        if byte & 1:
            raise CorruptMessageError(f"a field in a record has a length of {-size - 1}")
    else:
        size, at = varint.decode(data, at)
        if size < 0:
            raise CorruptMessageError(f"a field in a record has a length of {size}")
    end = at + size
    return data[at:end], end


def _decode_headers(data: bytes, at: int, end: int) -> tuple[Headers, int]:
    count, at = varint.decode(data, at)
    if not 0 <= count <= end - at:
        raise CorruptMessageError(f"a record has {count} headers in {end - at} bytes")
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        name, at = _decode_bytes(data, at)
        if name is None:
            raise CorruptMessageError("a record's header has no name")
        value, at = _decode_bytes(data, at)
        headers.append((name.decode(), value))
    return tuple(headers), at


class BatchBuilder:
    """Collects records and makes one batch of them; what is appended is encoded at once.

    Args:
        size_bytes_max: bytes that the batch may have before compression; a record that is bigger alone still fits alone.
    """

    __slots__ = ("_base_timestamp", "_max_timestamp", "_parts", "count", "size_bytes", "size_bytes_max")

    def __init__(self, *, size_bytes_max: int) -> None:
        self.size_bytes_max = size_bytes_max
        self.size_bytes = HEADER_SIZE
        """Bytes of the batch so far, before compression."""
        self.count = 0
        """Records so far."""
        self._parts: list[bytes] = []
        self._base_timestamp = -1
        self._max_timestamp = -1

    def append(self, key: bytes | None, value: bytes | None, headers: Headers = (), *, timestamp_ms: int) -> bool:
        """Add a record; False, and nothing is added, when it does not fit beside those that are there.

        Raises:
            InvalidTimestampError: the timestamp is below −1 (none) or beyond 64 bits.
        """
        small, number, count = varint.SMALL, varint.encode, self.count
        if not -1 <= timestamp_ms <= _TIMESTAMP_MAX:
            raise InvalidTimestampError(f"a record's timestamp is milliseconds since 1970, not {timestamp_ms}")
        if count == 0:
            self._base_timestamp = self._max_timestamp = timestamp_ms
        delta = timestamp_ms - self._base_timestamp
        front = b"\0" + (small[delta] if 0 <= delta < 8192 else number(delta)) + (small[count] if count < 8192 else number(count))
        if key is None:
            front, key = front + varint.NULL, b""
        else:
            front += number(len(key))
        if value is None:
            middle, value = varint.NULL, b""
        else:
            middle = number(len(value))
        tail = _encode_headers(headers) if headers else b"\0"
        size = len(front) + len(key) + len(middle) + len(value) + len(tail)
        length = number(size)
        total = self.size_bytes + len(length) + size
        if total > self.size_bytes_max and count:
            return False
        self._parts += (length, front, key, middle, value, tail)
        self.size_bytes = total
        self.count = count + 1
        if timestamp_ms > self._max_timestamp:  # noqa: PLR1730 — a call to max() is slower, and this runs for every record
            self._max_timestamp = timestamp_ms
        return True

    def build(
        self,
        *,
        codec: Codec = Codec.NONE,
        producer_id: int = NO_PRODUCER,
        producer_epoch: int = -1,
        base_sequence: int = -1,
    ) -> bytes:
        """Make the batch, with base offset 0 and no leader epoch. May be called again, for instance under another producer id.

        Raises:
            InvalidRecordError: there is no record in it.
        """
        if not self.count:
            raise InvalidRecordError("a batch must hold a record at least")
        body: bytes | memoryview = b"".join(self._parts)
        if codec:
            body = compress(body, codec)
        times = (self._base_timestamp, self._max_timestamp)
        checked = _CHECKED.pack(codec, self.count - 1, *times, producer_id, producer_epoch, base_sequence, self.count)
        crc = crc32c(body, crc32c(checked))
        front = _FRONT.pack(0, HEADER_SIZE - _LENGTH_STARTS + len(body), -1)
        return b"".join((front, _MIDDLE.pack(MAGIC, crc), checked, body))


def _encode_headers(headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    parts = [varint.encode(len(headers))]
    for name, value in headers:
        text = name.encode()
        parts += (varint.encode(len(text)), text)
        parts += (varint.NULL,) if value is None else (varint.encode(len(value)), value)
    return b"".join(parts)


def record_size_max(key: bytes | None, value: bytes | None, headers: Headers = ()) -> int:
    """Most bytes that a record can take in a batch before compression."""
    size = _RECORD_OVERHEAD_MAX + len(key or b"") + len(value or b"")
    return size + (len(_encode_headers(headers)) if headers else 0)


def encode(
    records: Iterable[Record],
    *,
    codec: Codec = Codec.NONE,
    producer_id: int = NO_PRODUCER,
    producer_epoch: int = -1,
    base_sequence: int = -1,
) -> bytes:
    """Make one batch of ``records``, whose offsets are not looked at: it gets base offset 0 and they follow without a gap.

    Raises:
        InvalidRecordError: there is no record.
    """
    builder = BatchBuilder(size_bytes_max=SEQUENCE_MODULUS - 1)
    for record in records:
        if not builder.append(record.key, record.value, record.headers, timestamp_ms=record.timestamp_ms):
            raise MessageTooLargeError(f"the records take more than {SEQUENCE_MODULUS - 1} bytes; make several batches")
    return builder.build(codec=codec, producer_id=producer_id, producer_epoch=producer_epoch, base_sequence=base_sequence)
