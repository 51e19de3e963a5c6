"""Frames: whole requests come out, however the bytes come in; nothing is allocated on anybody's word."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.kafka.wire.frame import REQUEST_BYTES_MIN, FrameSplitter, frame
from raftlog.kafka.wire.primitives import MalformedRequestError

BODIES = st.lists(st.binary(min_size=REQUEST_BYTES_MIN, max_size=60), max_size=6)


def framed(*bodies: bytes) -> bytes:
    """Frames, one behind another."""
    return b"".join(struct.pack(">i", len(body)) + body for body in bodies)


def taken(splitter: FrameSplitter) -> list[bytes]:
    """All requests that are whole."""
    found = []
    while (view := splitter.next_request()) is not None:
        found.append(bytes(view))
    return found


@given(BODIES, st.data())
def test_requests_come_out_whole_however_they_are_cut(bodies: list[bytes], data: st.DataObject) -> None:
    """In order, and as soon as their last byte is there."""
    stream = framed(*bodies)
    splitter = FrameSplitter(100)
    found: list[bytes] = []
    at = 0
    while at < len(stream):
        size = data.draw(st.integers(1, len(stream) - at))
        splitter.receive_data(stream[at : at + size])
        found += taken(splitter)
        at += size
    assert found == bodies
    assert splitter.waiting_bytes == 0


def test_requests_of_one_piece_are_views_of_it() -> None:
    """No copy is made."""
    stream = framed(b"first request", b"second one")
    splitter = FrameSplitter(100)
    splitter.receive_data(stream)
    view = splitter.next_request()
    assert view is not None
    assert view.obj is stream


@pytest.mark.parametrize("size", [-1, 0, REQUEST_BYTES_MIN - 1, 101, (1 << 31) - 1, -(1 << 31)])
@pytest.mark.parametrize("split", [False, True])
def test_a_size_that_no_request_has_is_refused_before_the_rest_comes(size: int, split: bool) -> None:
    """Whether it comes in one piece or byte by byte."""
    data = struct.pack(">i", size)
    splitter = FrameSplitter(100)
    if split:
        for at in range(3):
            splitter.receive_data(data[at : at + 1])
    with pytest.raises(MalformedRequestError, match="announces"):
        splitter.receive_data(data[3:] if split else data)


def test_announcing_much_and_sending_little_holds_little() -> None:
    """Memory follows what has come."""
    splitter = FrameSplitter(1 << 30)
    tracemalloc.start()
    splitter.receive_data(struct.pack(">i", 1 << 30) + b"x" * 1_000)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert splitter.waiting_bytes == 1_004
    assert held < 100_000


@given(st.lists(st.binary(max_size=30), max_size=20))
def test_any_bytes_are_requests_or_a_typed_error(pieces: list[bytes]) -> None:
    """Nothing else."""
    splitter = FrameSplitter(100)
    try:
        for piece in pieces:
            splitter.receive_data(piece)
            taken(splitter)
    except MalformedRequestError:
        pass


def test_an_answer_has_its_size_in_front() -> None:
    """Of all its buffers together."""
    assert b"".join(frame([b"abc", memoryview(b"de")])) == b"\x00\x00\x00\x05abcde"
