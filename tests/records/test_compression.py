"""The codecs: what goes in comes out, what others write is read, and memory stays bounded."""

from __future__ import annotations

import contextlib
import gzip
import tracemalloc

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.errors import CorruptMessageError
from raftlog.records.compression import Codec, compress, decompress

COMPRESSING = [codec for codec in Codec if codec is not Codec.NONE]
TEXT = b"GET /index.html HTTP/1.1\n" * 20_000


@given(st.binary(max_size=500), st.integers(1, 400), st.sampled_from(list(Codec)))
def test_every_codec_gives_back_what_it_got(part: bytes, times: int, codec: Codec) -> None:
    """Round trip of short, long, random and repetitive data; the exact size is a sufficient limit."""
    data = part * times
    assert bytes(decompress(bytes(compress(data, codec)), codec, bytes_max=len(data))) == data


@pytest.mark.parametrize("codec", list(Codec))
def test_output_over_the_limit_is_refused(codec: Codec) -> None:
    """One byte over the limit is too much."""
    data = bytes(compress(TEXT, codec))
    with pytest.raises(CorruptMessageError):
        decompress(data, codec, bytes_max=len(TEXT) - 1)


@pytest.mark.parametrize("codec", COMPRESSING)
def test_a_bomb_takes_no_more_memory_than_its_limit(codec: Codec) -> None:
    """64 MiB of zeros behind a limit of 1 MiB: Python's allocations stay near the limit."""
    bomb = bytes(compress(bytes(64 << 20), codec))
    tracemalloc.start()
    try:
        with pytest.raises(CorruptMessageError):
            decompress(bomb, codec, bytes_max=1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", COMPRESSING)
def test_truncated_input_is_corrupt(codec: Codec) -> None:
    """Input that ends early does not pass for shorter output."""
    data = bytes(compress(TEXT, codec))
    for size in (0, 1, len(data) // 2, len(data) - 1):
        with pytest.raises(CorruptMessageError):
            decompress(data[:size], codec, bytes_max=1 << 20)


@given(st.binary(max_size=200), st.sampled_from(COMPRESSING))
def test_arbitrary_bytes_decompress_or_are_corrupt(data: bytes, codec: Codec) -> None:
    """No other error escapes."""
    with contextlib.suppress(CorruptMessageError):
        assert len(decompress(data, codec, bytes_max=1 << 16)) <= 1 << 16


@given(st.binary(max_size=60))
def test_arbitrary_bytes_in_snappy_javas_framing_are_corrupt_or_read(data: bytes) -> None:
    """Chunk lengths of any value raise nothing else."""
    with contextlib.suppress(CorruptMessageError):
        decompress(b"\x82SNAPPY\x00" + data, Codec.SNAPPY, bytes_max=1 << 16)


def test_the_framing_of_snappy_java_is_read() -> None:
    """What Java producers write: a header, then chunks with their lengths."""
    chunks = [TEXT[at : at + 32_768] for at in range(0, len(TEXT), 32_768)]
    blocks = [bytes(cramjam.snappy.compress_raw(chunk)) for chunk in chunks]
    versions = b"\x00\x00\x00\x01" * 2
    framed = b"\x82SNAPPY\x00" + versions + b"".join(len(block).to_bytes(4, "big") + block for block in blocks)
    assert bytes(decompress(framed, Codec.SNAPPY, bytes_max=len(TEXT))) == TEXT
    with pytest.raises(CorruptMessageError):
        decompress(framed, Codec.SNAPPY, bytes_max=len(TEXT) - 1)
    with pytest.raises(CorruptMessageError):
        decompress(framed[:-1], Codec.SNAPPY)


@pytest.mark.parametrize(("codec", "module"), [(Codec.GZIP, cramjam.gzip), (Codec.LZ4, cramjam.lz4), (Codec.ZSTD, cramjam.zstd)])
def test_several_frames_and_frames_of_unknown_size_are_read(codec: Codec, module: object) -> None:
    """Streams that do not say their size, and frames one behind another, give all their output."""
    compressor = module.Compressor()  # type: ignore[attr-defined]
    parts = []
    for _ in range(3):
        compressor.compress(TEXT)
        parts.append(bytes(compressor.flush()))
    data = b"".join(parts) + bytes(compressor.finish())
    assert bytes(decompress(data, codec)) == TEXT * 3
    assert bytes(decompress(bytes(compress(TEXT, codec)) * 2, codec)) == TEXT * 2


def test_gzip_with_a_lying_size_is_still_read() -> None:
    """The size in the input is a hint: where it is too small, the output grows."""
    data = gzip.compress(TEXT) + gzip.compress(b"end")
    assert bytes(decompress(data, Codec.GZIP)) == TEXT + b"end"


def test_lz4_frames_are_of_independent_blocks() -> None:
    """Java's reader refuses linked blocks: bit 5 of the frame's flags is set, and the version is 1."""
    frame = bytes(compress(TEXT, Codec.LZ4))
    assert frame[:4] == b"\x04\x22\x4d\x18"
    assert frame[4] & 0xE0 == 0x60
