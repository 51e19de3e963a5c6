"""The codecs of a record batch: compress what is written, and read what any Kafka client writes, up to a limit.

Rules:

1. Output never exceeds the ``bytes_max`` of the call, nor is more memory than that taken for it: a few bytes can declare
   or expand to gigabytes.
2. Bytes that do not decompress raise ``CorruptMessageError``, whatever is wrong with them.
3. What is written is what the strictest readers take: LZ4 frames of independent blocks (Java refuses linked ones), Snappy
   as one raw block (Java and librdkafka read it beside the framing of snappy-java, which is read here too).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Final

import cramjam

from raftlog.errors import CorruptMessageError

DECOMPRESSED_BYTES_MAX: Final = 128 * 1024 * 1024
"""Default limit of one batch's records: a 1 MiB batch of repetitive text, as big as a topic takes unless told otherwise,
expands about a hundredfold."""

_FIRST_GUESS_MIN: Final = 64 * 1024
_FIRST_GUESS_RATIO: Final = 8
"""Output size tried first where the input does not tell: log lines compress less than this."""
_GROWTH: Final = 4

_XERIAL_MAGIC: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER_SIZE: Final = 16
_XERIAL_CHUNKS_MAX: Final = 1 << 16
"""snappy-java writes chunks of 32 KiB; this many of them are 2 GiB."""

_ZSTD_LEVEL: Final = 3
_GZIP_LEVEL: Final = 6
_LZ4_LEVEL: Final = 1


class Codec(IntEnum):
    """Bits 0–2 of a batch's attributes."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


CODECS: Final[dict[int, Codec]] = {int(codec): codec for codec in Codec}
"""Codec by number."""


def compress(data: bytes | bytearray | memoryview, codec: Codec) -> bytes | memoryview:
    """Compress ``data``; with ``Codec.NONE`` it is returned as bytes."""
    if codec is Codec.LZ4:
        compressor = cramjam.lz4.Compressor(level=_LZ4_LEVEL, content_checksum=False, block_linked=False)
        compressor.compress(data)
        return memoryview(compressor.finish())
    if codec is Codec.ZSTD:
        return memoryview(cramjam.zstd.compress(data, level=_ZSTD_LEVEL))
    if codec is Codec.SNAPPY:
        return memoryview(cramjam.snappy.compress_raw(data))
    if codec is Codec.GZIP:
        return memoryview(cramjam.gzip.compress(data, level=_GZIP_LEVEL))
    return bytes(data)


def decompress(
    data: bytes | memoryview, codec: Codec, *, bytes_max: int = DECOMPRESSED_BYTES_MAX
) -> bytes | bytearray | memoryview:
    """Decompress ``data`` to at most ``bytes_max`` bytes.

    Raises:
        CorruptMessageError: the bytes are not of this codec, end too early, or hold more than ``bytes_max``.
    """
    try:
        if codec is Codec.NONE:
            return _within(data, bytes_max)
        if codec is Codec.SNAPPY:
            return _snappy(data, bytes_max)
        return _grow(_INTO[codec], data, codec, bytes_max)
    except cramjam.DecompressionError as error:
        raise CorruptMessageError(f"records do not decompress with {codec.name.lower()}: {error}") from error


_INTO: Final[dict[Codec, Callable[[bytes | memoryview, bytearray], int]]] = {
    Codec.GZIP: cramjam.gzip.decompress_into,
    Codec.LZ4: cramjam.lz4.decompress_into,
    Codec.ZSTD: cramjam.zstd.decompress_into,
}


def _too_big(bytes_max: int) -> CorruptMessageError:
    return CorruptMessageError(
        f"records decompress to more than {bytes_max} bytes; send smaller batches, or raise the reader's decompressed_bytes_max"
    )


def _within(data: bytes | memoryview, bytes_max: int) -> bytes | memoryview:
    if len(data) > bytes_max:
        raise _too_big(bytes_max)
    return data


def _declared_size(data: bytes | memoryview, codec: Codec) -> int:
    """What the input says its output is, 0 where it does not; a hint only, for it may lie and frames may follow."""
    if codec is Codec.GZIP:  # RFC 1952: the last four bytes, modulo 2**32
        return int.from_bytes(data[-4:], "little")
    if codec is Codec.ZSTD and len(data) >= 6:  # RFC 8878, 3.1.1.1
        descriptor = data[4]
        flag = descriptor >> 6
        single = descriptor >> 5 & 1
        size = 1 << flag if flag or single else 0
        start = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
        return int.from_bytes(data[start : start + size], "little") + (256 if size == 2 else 0)
    return 0


def _full_text(codec: Codec) -> str:
    """What the codec says of an output buffer that is too small: its errors differ in nothing but their wording."""
    try:
        _INTO[codec](bytes(compress(b"two", codec)), bytearray(1))
    except cramjam.DecompressionError as error:
        return str(error)
    raise AssertionError(f"{codec.name} wrote three bytes into one")


_FULL: Final = {codec: _full_text(codec) for codec in _INTO}
"""Asked at import, so that no version's wording is relied on."""


def _grow(
    into: Callable[[bytes | memoryview, bytearray], int], data: bytes | memoryview, codec: Codec, bytes_max: int
) -> memoryview:
    """Decompress into ever larger buffers until one is enough or the limit is reached."""
    size = _declared_size(data, codec) or max(_FIRST_GUESS_MIN, len(data) * _FIRST_GUESS_RATIO)
    if size > bytes_max:
        size = min(bytes_max, _FIRST_GUESS_MIN)
    while True:
        output = bytearray(size)
        try:
            return memoryview(output)[: into(data, output)]
        except cramjam.DecompressionError as error:
            if str(error) != _FULL[codec]:
                raise
            if size >= bytes_max:
                raise _too_big(bytes_max) from error
            size = min(bytes_max, max(size * _GROWTH, _FIRST_GUESS_MIN))


def _snappy(data: bytes | memoryview, bytes_max: int) -> memoryview:
    """One raw block, or the framing of snappy-java (magic, version, compatible version; then length and raw block, repeated)."""
    blocks = _xerial_blocks(memoryview(data)) if data[:8] == _XERIAL_MAGIC else [data]
    sizes = [cramjam.snappy.decompress_raw_len(block) for block in blocks]
    total = sum(sizes)
    if total > bytes_max:
        raise _too_big(bytes_max)
    output = memoryview(bytearray(total))
    at = 0
    for block, size in zip(blocks, sizes, strict=True):
        if cramjam.snappy.decompress_raw_into(block, output[at : at + size]) != size:
            raise CorruptMessageError(f"a snappy block of {len(block)} bytes does not hold the {size} bytes it declares")
        at += size
    return output


def _xerial_blocks(data: memoryview) -> list[bytes | memoryview]:
    blocks: list[bytes | memoryview] = []
    at = _XERIAL_HEADER_SIZE
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big", signed=True)
        at += 4
        if size <= 0 or at + size > len(data) or len(blocks) >= _XERIAL_CHUNKS_MAX:
            raise CorruptMessageError(f"snappy framing is broken: a chunk of {size} bytes with {len(data) - at} left")
        blocks.append(data[at : at + size])
        at += size
    if at > len(data):
        raise CorruptMessageError(f"snappy framing of {len(data)} bytes is shorter than its header")
    return blocks
