from __future__ import annotations

import struct
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raftlog.errors import MessageTooLargeError
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.peers.frame import (
    FRAME_BYTES_MAX,
    HANDSHAKE_FRAME_BYTES_MAX,
    LARGE_STEP_BYTES,
    PAYLOADS_MAX,
    SHARED_BYTES,
    Frame,
    FrameDecoder,
    PeerProtocolError,
    encode_frame,
)

turns = st.builds(
    lambda groups: pb.Turn(raft=[pb.RaftMessage(group=group, stale_term=pb.StaleTerm(term=1)) for group in groups]),
    st.lists(st.integers(0, 2**40), max_size=5),
)
payload_lists = st.lists(st.binary(max_size=40) | st.integers(0, 3 * SHARED_BYTES).map(bytes), max_size=6)
frame_lists = st.lists(st.tuples(turns, payload_lists), min_size=1, max_size=5)


def _bytes(turn: pb.Turn, payloads: list[bytes]) -> bytes:
    return b"".join(encode_frame(pb.Envelope(turn=turn), payloads)[0])


def _accepted() -> FrameDecoder:
    decoder = FrameDecoder()
    decoder.accept()
    return decoder


def _feed(decoder: FrameDecoder, data: bytes, chunks: Iterable[int]) -> list[Frame]:
    """Feed ``data`` in reads of at most the sizes of ``chunks``, then in reads as large as the decoder takes."""
    frames, at, sizes = [], 0, iter(chunks)
    while at < len(data):
        buffer = decoder.get_buffer()
        size = min(len(buffer), len(data) - at, next(sizes, len(data)))
        assert size > 0
        buffer[:size] = data[at : at + size]
        decoder.received(size)
        at += size
        while (frame := decoder.next_frame()) is not None:
            frames.append(frame)
    return frames


@given(frames=frame_lists, chunks=st.lists(st.integers(1, 2 * SHARED_BYTES), max_size=200))
@example(frames=[(pb.Turn(), [bytes(9), b"", bytes(11)])] * 3, chunks=[1] * 200)
@example(frames=[(pb.Turn(), [bytes(SHARED_BYTES - 20)]), (pb.Turn(), [b"x"])] * 2, chunks=[])
@example(frames=[(pb.Turn(), [bytes(5 * LARGE_STEP_BYTES)]), (pb.Turn(), [b"y"])], chunks=[])
def test_any_chunking_gives_the_same_frames(frames: list[tuple[pb.Turn, list[bytes]]], chunks: list[int]) -> None:
    """However the stream is cut into reads, what was encoded comes out, in order, and nothing else."""
    data = b"".join(_bytes(turn, payloads) for turn, payloads in frames)
    received = _feed(_accepted(), data, chunks)
    assert [(frame.envelope.turn, frame.payloads) for frame in received] == frames


@given(
    frames=frame_lists,
    edits=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 2**20),
)
def test_mutated_bytes_raise_nothing_but_the_typed_error(
    frames: list[tuple[pb.Turn, list[bytes]]], edits: list[tuple[int, int]], cut: int
) -> None:
    """A flipped byte gives other frames or a ``PeerProtocolError``, never another exception."""
    data = bytearray(b"".join(_bytes(turn, payloads[:2]) for turn, payloads in frames))
    for at, value in edits:
        data[at % min(len(data), 200)] = value
    try:
        _feed(_accepted(), bytes(data[: max(1, cut % (len(data) + 1))]), [])
    except PeerProtocolError:
        return


@given(data=st.binary(min_size=1, max_size=500), accepted=st.booleans())
@example(data=b"\x80\x04\x95" + bytes(20), accepted=True)
@example(data=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", accepted=True)
@example(data=b"GET / HTTP/1.1\r\n\r\n", accepted=True)
@example(data=b"\xff" * 9, accepted=True)
@example(data=bytes(9), accepted=True)
def test_random_bytes_raise_nothing_but_the_typed_error(data: bytes, accepted: bool) -> None:
    """Pickles, TLS hellos, HTTP and noise end in a ``PeerProtocolError`` or in waiting for more."""
    decoder = _accepted() if accepted else FrameDecoder()
    try:
        _feed(decoder, data, [])
    except PeerProtocolError:
        return


@pytest.mark.parametrize("data", [b"\x80\x04\x95\x00\x00\x00\x00\x00", b"\x16\x03\x01\x02\x00\x01\x00\x01", b"GET / HT"])
def test_other_protocols_are_recognised_by_their_first_eight_bytes(data: bytes) -> None:
    """A pickle, a TLS hello and an HTTP request are refused at once, not waited for."""
    with pytest.raises(PeerProtocolError):
        _feed(_accepted(), data, [])


def test_a_stranger_may_send_no_more_than_a_small_frame() -> None:
    """Before the handshake is accepted the bound is ``HANDSHAKE_FRAME_BYTES_MAX``, prefix included, and so is the buffer."""
    decoder = FrameDecoder()
    assert len(decoder.get_buffer()) == HANDSHAKE_FRAME_BYTES_MAX
    envelope_size = len(encode_frame(pb.Envelope(turn=pb.Turn()), [bytes(4_000)])[0][0])
    fits = HANDSHAKE_FRAME_BYTES_MAX - envelope_size
    assert len(_feed(decoder, _bytes(pb.Turn(), [bytes(fits)]), [])) == 1
    with pytest.raises(PeerProtocolError):
        _feed(decoder, _bytes(pb.Turn(), [bytes(fits + 1)]), [])


def test_a_large_frame_may_come_right_behind_the_acceptance() -> None:
    """``accept`` between two frames of one read keeps what was read and raises the bound for it."""
    decoder = FrameDecoder()
    large = _bytes(pb.Turn(), [bytes(1_000_000)])
    data = _bytes(pb.Turn(), [b"welcome"]) + large
    buffer = decoder.get_buffer()
    buffer[:] = data[: len(buffer)]
    decoder.received(len(buffer))
    first = decoder.next_frame()
    assert first is not None
    assert first.payloads == [b"welcome"]
    decoder.accept()
    assert decoder.next_frame() is None
    assert [frame.payloads for frame in _feed(decoder, data[len(buffer) :], [])] == [[bytes(1_000_000)]]


def test_a_length_alone_allocates_little() -> None:
    """A declared payload of 31 MiB gets one step of buffer, and a larger one only as bytes arrive in proportion."""
    decoder = _accepted()
    declared = 31 * 1024 * 1024
    envelope = pb.Envelope(turn=pb.Turn(), payload_sizes=[declared]).SerializeToString()
    _feed(decoder, struct.pack(">II", 4 + len(envelope) + declared, len(envelope)) + envelope, [])
    received = 0
    while received < declared - 1:
        buffer = decoder.get_buffer()
        assert received + len(buffer) <= max(LARGE_STEP_BYTES, 4 * received)
        size = min(len(buffer), declared - 1 - received)
        decoder.received(size)
        received += size
        assert decoder.next_frame() is None
    decoder.get_buffer()[:] = b"!"
    decoder.received(1)
    frame = decoder.next_frame()
    assert frame is not None
    assert len(frame.payloads[0]) == declared
    assert frame.payloads[0].endswith(b"!")


def test_a_large_payload_is_read_to_its_end_and_no_further() -> None:
    """The buffer offered for a large payload ends with it; afterwards as much is read as comes."""
    decoder = _accepted()
    data = _bytes(pb.Turn(), [bytes(SHARED_BYTES + 100), b"small"])
    assert _feed(decoder, data[:-15], []) == []
    assert len(decoder.get_buffer()) == 10
    assert len(_feed(decoder, data[-15:], [])) == 1
    assert len(decoder.get_buffer()) == LARGE_STEP_BYTES


def test_only_a_buffer_of_one_step_is_kept() -> None:
    """A batch of 1 MiB is read into the same memory as the one before it; what a huge one needed is let go."""
    decoder = _accepted()
    _feed(decoder, _bytes(pb.Turn(), [bytes(LARGE_STEP_BYTES)]), [])
    kept = decoder.get_buffer().obj
    _feed(decoder, _bytes(pb.Turn(), [bytes(LARGE_STEP_BYTES)]), [])
    assert decoder.get_buffer().obj is kept
    _feed(decoder, _bytes(pb.Turn(), [bytes(4 * LARGE_STEP_BYTES)]), [])
    assert decoder.get_buffer().obj is kept


@pytest.mark.parametrize("sizes", [[5], [4, 4], [2**32 - 1], []])
def test_payload_sizes_must_fill_the_frame_exactly(sizes: list[int]) -> None:
    """More, less, or none at all than what follows the envelope is refused."""
    envelope = pb.Envelope(turn=pb.Turn(), payload_sizes=sizes).SerializeToString()
    data = struct.pack(">II", 4 + len(envelope) + 7, len(envelope)) + envelope + bytes(7)
    with pytest.raises(PeerProtocolError):
        _feed(_accepted(), data, [])


def test_too_many_payloads_are_refused_on_both_sides() -> None:
    """One more than ``PAYLOADS_MAX`` empty payloads is neither sent nor taken."""
    assert len(_feed(_accepted(), _bytes(pb.Turn(), [b""] * PAYLOADS_MAX), [])[0].payloads) == PAYLOADS_MAX
    with pytest.raises(MessageTooLargeError):
        encode_frame(pb.Envelope(turn=pb.Turn()), [b""] * (PAYLOADS_MAX + 1))
    envelope = pb.Envelope(turn=pb.Turn(), payload_sizes=[0] * (PAYLOADS_MAX + 1)).SerializeToString()
    with pytest.raises(PeerProtocolError):
        _feed(_accepted(), struct.pack(">II", 4 + len(envelope), len(envelope)) + envelope, [])


def test_a_frame_over_its_bound_is_not_sent() -> None:
    """The sender hears of it; the receiver would close the link."""
    with pytest.raises(MessageTooLargeError):
        encode_frame(pb.Envelope(turn=pb.Turn()), [bytes(FRAME_BYTES_MAX)])


def test_payloads_are_not_copied_when_encoding() -> None:
    """The buffers of a frame are the caller's own objects."""
    payload, view = b"x" * 100, memoryview(b"y" * 100)
    buffers, size = encode_frame(pb.Envelope(turn=pb.Turn()), [payload, view])
    assert buffers[1] is payload
    assert buffers[2] is view
    assert size == sum(len(buffer) for buffer in buffers)


def test_memory_for_a_payload_is_its_own() -> None:
    """A payload is ``bytes``, so keeping it does not keep a read buffer, and later reads do not change it."""
    decoder = _accepted()
    kept = _feed(decoder, _bytes(pb.Turn(), [b"a" * 50]), [])[0].payloads[0]
    _feed(decoder, _bytes(pb.Turn(), [b"b" * 50]), [])
    assert type(kept) is bytes
    assert kept == b"a" * 50
