"""The record batch: what a producer may send, where the leader writes, what a consumer gets back."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from raftlog.errors import (
    CorruptMessageError,
    InvalidRecordError,
    InvalidTimestampError,
    MessageTooLargeError,
    RaftlogError,
)
from raftlog.records import varint
from raftlog.records.batch import (
    HEADER_SIZE,
    BatchBuilder,
    Record,
    assign,
    check,
    decode,
    encode,
    read_header,
    record_size_max,
    split,
)
from raftlog.records.compression import Codec

SIZE_MAX = 1 << 20
NOW_MS = 1_700_000_000_000
ONE = Record(0, NOW_MS, b"key", b"value", (("name", b"header"), ("none", None)))


CODECS = st.sampled_from(list(Codec))
_BYTES = st.one_of(st.none(), st.binary(max_size=80), st.binary(min_size=60, max_size=70).map(lambda part: part * 140))
_HEADERS = st.lists(st.tuples(st.text(max_size=10), st.one_of(st.none(), st.binary(max_size=10))), max_size=3).map(tuple)
_TIMESTAMPS = st.one_of(st.integers(0, 200), st.integers(1_700_000_000_000, 1_700_000_100_000), st.sampled_from([-1, (1 << 62)]))

RECORDS = st.lists(st.builds(Record, st.just(0), _TIMESTAMPS, _BYTES, _BYTES, _HEADERS), min_size=1, max_size=12)
"""One to twelve records, all of offset 0."""


def numbered(records: list[Record], base_offset: int = 0) -> list[Record]:
    """The records with the offsets that they get from ``base_offset`` on."""
    return [record._replace(offset=base_offset + i) for i, record in enumerate(records)]


def resealed(data: bytes, change: Callable[[bytearray], None]) -> bytes:
    """The batch after ``change``, with its CRC made right again."""
    changed = bytearray(data)
    change(changed)
    struct.pack_into(">I", changed, 17, crc32c(bytes(changed[21:])))
    return bytes(changed)


def patched(data: bytes, form: str, at: int, value: int) -> bytes:
    """The batch with one field changed and its CRC made right again."""
    return resealed(data, lambda changed: struct.pack_into(form, changed, at, value))


def sealed(body: bytes, count: int = 1, attributes: int = 0) -> bytes:
    """A batch with any bytes for its records, and a CRC that fits."""
    checked = struct.pack(">hiqqqhii", attributes, count - 1, NOW_MS, NOW_MS, -1, -1, -1, count) + body
    return struct.pack(">qiibI", 0, 9 + len(checked), -1, 2, crc32c(checked)) + checked


@given(RECORDS, CODECS)
def test_records_come_back_as_they_were_encoded(records: list[Record], codec: Codec) -> None:
    """Every codec keeps keys, values, headers, timestamps and order; offsets count from 0."""
    assert decode(encode(records, codec=codec)) == numbered(records)


@given(RECORDS, CODECS, st.integers(0, 1 << 60), st.integers(0, (1 << 31) - 1))
def test_what_is_built_passes_the_check_and_takes_its_place(records: list[Record], codec: Codec, offset: int, epoch: int) -> None:
    """A built batch is acceptable, and after ``assign`` only its offset and epoch differ; the CRC still holds."""
    data = encode(records, codec=codec, producer_id=7, producer_epoch=2, base_sequence=5)
    sent = check(data, size_max=len(data))
    placed = b"".join(assign(data, base_offset=offset, leader_epoch=epoch))
    header = check(placed, size_max=len(data))
    assert header == sent._replace(base_offset=offset, leader_epoch=epoch)
    assert header.next_offset == offset + len(records)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (7, 2, 5)
    assert header.max_timestamp == max(record.timestamp_ms for record in records)
    assert decode(placed) == numbered(records, offset)


@given(RECORDS, CODECS)
def test_log_append_time_replaces_every_records_time(records: list[Record], codec: Codec) -> None:
    """With a log append time the attribute and maximum timestamp are set, the CRC is right, and all records have that time."""
    data = encode(records, codec=codec)
    placed = b"".join(assign(data, base_offset=3, leader_epoch=1, log_append_time=NOW_MS))
    header = read_header(placed)
    assert header.is_log_append_time
    assert header.max_timestamp == NOW_MS
    assert header.codec is codec
    assert decode(placed) == [record._replace(timestamp_ms=NOW_MS) for record in numbered(records, 3)]


def test_assign_does_not_copy_the_body() -> None:
    """All but the parts that change is a view of the caller's bytes."""
    data = encode([ONE])
    for time in (None, NOW_MS):
        assert assign(data, base_offset=1, leader_epoch=1, log_append_time=time)[-1].obj is data


def test_the_bytes_are_those_of_kafka() -> None:
    """A batch is, byte for byte, what the protocol's layout says (written out here by hand)."""
    records = [Record(0, NOW_MS, b"k", b"vw", (("h", b"x"),)), Record(1, NOW_MS + 3, None, None)]
    data = encode(records, producer_id=9, producer_epoch=1, base_sequence=4)
    assert data[HEADER_SIZE:] == b"\x1a\x00\x00\x00\x02k\x04vw\x02\x02h\x02x" + b"\x0c\x00\x06\x02\x01\x01\x00"
    assert data[:8] == bytes(8)
    assert data[12:17] == b"\xff\xff\xff\xff\x02"
    assert struct.unpack(">hiqqqhii", data[21:61]) == (0, 1, NOW_MS, NOW_MS + 3, 9, 1, 4, 2)
    assert struct.unpack(">i", data[8:12]) == (len(data) - 12,)
    assert struct.unpack(">I", data[17:21]) == (crc32c(data[21:]),)


def test_batches_one_behind_another_are_all_read() -> None:
    """A buffer of several batches splits into them and decodes to all their records."""
    first = b"".join(assign(encode([ONE, ONE]), base_offset=10, leader_epoch=1))
    second = b"".join(assign(encode([ONE], codec=Codec.ZSTD), base_offset=12, leader_epoch=2))
    assert [(header.base_offset, bytes(batch)) for header, batch in split(first + second)] == [(10, first), (12, second)]
    assert [record.offset for record in decode(memoryview(first + second))] == [10, 11, 12]
    assert decode(b"") == []


def test_a_truncated_batch_is_refused_wherever_it_is_cut() -> None:
    """Every proper prefix of a batch is corrupt, to the checker and to the reader."""
    data = encode([ONE, ONE])
    for size in range(len(data)):
        with pytest.raises(CorruptMessageError):
            check(data[:size], size_max=SIZE_MAX)
        if size:
            with pytest.raises(CorruptMessageError):
                decode(data[:size])


def test_any_flipped_bit_behind_the_crc_is_noticed() -> None:
    """A batch with one wrong bit in what the CRC covers, or in the CRC, is corrupt."""
    data = encode([ONE])
    for bit in range(17 * 8, len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptMessageError):
            check(bytes(flipped), size_max=SIZE_MAX)


@pytest.mark.parametrize(
    ("form", "at", "value", "error"),
    [
        (">i", 8, -1, CorruptMessageError),
        (">i", 8, 48, CorruptMessageError),
        (">i", 8, (1 << 31) - 1, MessageTooLargeError),
        (">b", 16, 1, InvalidRecordError),
        (">h", 21, 0x05, InvalidRecordError),
        (">h", 21, 0x20, InvalidRecordError),
        (">h", 21, 0x10, InvalidRecordError),
        (">h", 21, 0x08, InvalidTimestampError),
        (">i", 23, 1, InvalidRecordError),
        (">i", 57, 0, InvalidRecordError),
        (">i", 57, -1, InvalidRecordError),
        (">q", 35, -2, InvalidRecordError),
        (">q", 43, -2, InvalidRecordError),
        (">q", 43, 5, InvalidRecordError),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(form: str, at: int, value: int, error: type[RaftlogError]) -> None:
    """Each field out of its range has its own error, even with a CRC that fits."""
    with pytest.raises(error):
        check(patched(encode([ONE]), form, at, value), size_max=SIZE_MAX)


def test_more_records_than_bytes_are_refused() -> None:
    """An uncompressed batch cannot claim more records than its bytes could hold, so offsets are not burnt."""
    with pytest.raises(InvalidRecordError, match="do not fit"):
        check(sealed(b"\x0c" + bytes(6), count=2), size_max=SIZE_MAX)


def test_two_batches_are_not_taken_for_one() -> None:
    """A produce request carries one batch for a partition."""
    with pytest.raises(InvalidRecordError, match="follow the batch"):
        check(encode([ONE]) * 2, size_max=SIZE_MAX)


def test_a_batch_over_the_limit_is_too_large() -> None:
    """The limit is inclusive."""
    data = encode([ONE])
    assert check(data, size_max=len(data)).size_bytes == len(data)
    with pytest.raises(MessageTooLargeError, match=r"max\.message\.bytes"):
        check(data, size_max=len(data) - 1)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_crash_a_reader(data: bytes) -> None:
    """Bytes from anywhere are refused with a typed error."""
    with pytest.raises((CorruptMessageError, InvalidRecordError, MessageTooLargeError)):
        check(data, size_max=SIZE_MAX)
    if data:
        with pytest.raises(CorruptMessageError):
            decode(data)


@given(st.binary(max_size=60), st.integers(-1, 5), CODECS)
def test_arbitrary_records_behind_a_good_header_never_crash_a_reader(body: bytes, count: int, codec: Codec) -> None:
    """A batch whose CRC fits but whose records are rubbish decodes to something or is corrupt; nothing else escapes."""
    with contextlib.suppress(CorruptMessageError):
        decode(sealed(body, count, int(codec)), decompressed_bytes_max=1 << 16)


@given(RECORDS, CODECS, st.data())
def test_a_mutated_batch_never_crashes_a_reader(records: list[Record], codec: Codec, data: st.DataObject) -> None:
    """Changing bytes of a good batch and repairing its CRC yields records or a corrupt message; nothing else escapes."""
    good = encode(records, codec=codec)

    def mutate(batch: bytearray) -> None:
        for _ in range(data.draw(st.integers(1, 4))):
            batch[data.draw(st.integers(21, len(batch) - 1))] = data.draw(st.integers(0, 255))

    with contextlib.suppress(CorruptMessageError):
        decode(resealed(good, mutate), decompressed_bytes_max=1 << 18)


@pytest.mark.parametrize(
    "body",
    [
        b"\x0d" + bytes(6),  # a negative length
        b"\x7e" + bytes(6),  # a length beyond the end
        b"\x0c\x00\x00\x00\x03\x01\x00",  # a key of length −2
        b"\x0c\x00\x00\x00\x01\x03\x00",  # a value of length −2
        b"\x0c\x00\x00\x00\x7e\x01\x00",  # a key beyond the record
        b"\x0c\x00\x00\x01\x01\x01\x00",  # a negative offset delta
        b"\x0c\x00\x00\x02\x01\x01\x00",  # an offset delta beyond the batch
        b"\x0c\x00\x00\x00\x01\x01\x01",  # −1 headers
        b"\x0e\x00\x00\x00\x01\x01\x02\x01",  # a header without a name
        b"\x12\x00\x00\x00\x01\x01\x02\x02\xff\x00",  # a header's name that is not UTF-8
        b"\x0c\x00\x00\x00\x01\x01\x00\x00",  # bytes behind the last record
        b"\x0e\x00\x00\x00\x01\x01\x00\x00",  # bytes behind the last field
        b"\xff" * 12,  # a varint without an end
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a varint over 64 bits
    ],
)
def test_a_broken_record_is_corrupt(body: bytes) -> None:
    """Every way in which a record can disagree with its lengths is noticed."""
    with pytest.raises(CorruptMessageError):
        decode(sealed(body))


def test_a_control_batch_shows_no_records() -> None:
    """Transaction markers are not for consumers."""
    assert decode(sealed(b"\x0c" + bytes(3) + b"\x01\x01\x00", attributes=0x20)) == []


def test_a_bomb_does_not_go_off() -> None:
    """A batch that decompresses to more than the reader allows is corrupt to it."""
    data = encode([Record(0, NOW_MS, None, bytes(1 << 20))], codec=Codec.ZSTD)
    assert len(data) < 1_000
    with pytest.raises(CorruptMessageError):
        decode(data, decompressed_bytes_max=1 << 16)
    assert len(decode(data)) == 1


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_a_varint_comes_back_as_it_was(number: int) -> None:
    """All 64-bit integers survive, in at most ten bytes."""
    data = varint.encode(number)
    assert len(data) <= 10
    assert varint.decode(data + b"\x80", 0) == (number, len(data))


def test_varints_have_the_protocols_bytes() -> None:
    """Known pairs of number and bytes (Protocol Buffers, sint64)."""
    known = {0: b"\0", -1: b"\1", 1: b"\2", 63: b"\x7e", -64: b"\x7f", 64: b"\x80\1", 8191: b"\xfe\x7f", 8192: b"\x80\x80\1"}
    assert {number: varint.encode(number) for number in known} == known


def test_a_builder_stops_at_its_size_and_takes_one_record_of_any_size() -> None:
    """``append`` says False, and changes nothing, for what does not fit; the first record always fits."""
    builder = BatchBuilder(size_bytes_max=300)
    while builder.append(b"key", b"v" * 50, timestamp_ms=NOW_MS):
        pass
    data = builder.build()
    assert builder.count == 3
    assert len(data) == builder.size_bytes <= 300
    assert len(decode(data)) == 3
    alone = BatchBuilder(size_bytes_max=300)
    assert alone.append(None, bytes(1_000), timestamp_ms=NOW_MS)
    assert not alone.append(None, b"", timestamp_ms=NOW_MS)
    assert [len(record.value or b"") for record in decode(alone.build())] == [1_000]


def test_a_builder_builds_again_under_another_producer() -> None:
    """A batch that has to be sent anew under a new producer id has the same records."""
    builder = BatchBuilder(size_bytes_max=1_000)
    builder.append(b"k", b"v", timestamp_ms=NOW_MS)
    first, second = (builder.build(producer_id=i, producer_epoch=0, base_sequence=i) for i in (1, 2))
    assert (read_header(first).producer_id, read_header(second).producer_id) == (1, 2)
    assert decode(first) == decode(second)


def test_a_builder_without_records_builds_nothing() -> None:
    """An empty batch does not exist."""
    with pytest.raises(InvalidRecordError):
        BatchBuilder(size_bytes_max=100).build()


@pytest.mark.parametrize("timestamp_ms", [-2, 1 << 63])
def test_a_timestamp_beyond_64_bits_is_refused(timestamp_ms: int) -> None:
    """A time that the format cannot hold is refused where the record is added."""
    with pytest.raises(InvalidTimestampError):
        BatchBuilder(size_bytes_max=100).append(None, b"", timestamp_ms=timestamp_ms)


@given(RECORDS)
def test_a_records_size_is_never_underestimated(records: list[Record]) -> None:
    """The bound on a record's size holds for the batch that is made of it."""
    for record in records:
        assert len(encode([record])) <= HEADER_SIZE + record_size_max(record.key, record.value, record.headers)


def test_sequences_wrap_to_zero() -> None:
    """After the last 31-bit sequence comes 0."""
    data = encode([ONE, ONE, ONE], producer_id=1, producer_epoch=0, base_sequence=(1 << 31) - 2)
    assert read_header(data).last_sequence == 0
    assert read_header(encode([ONE])).last_sequence == -1
