"""What a turn sends fits into frames, whatever it is and however much."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftlog.consensus import outgoing as outgoing_module
from raftlog.consensus.messages import (
    Ack,
    Append,
    Asleep,
    Message,
    PreVote,
    RequestPreVote,
    RequestVote,
    SnapshotOffer,
    StaleTerm,
    TimeoutNow,
    Vote,
    to_wire,
)
from raftlog.consensus.outgoing import FRAME_ITEMS_MAX, FRAME_PAYLOADS_MAX, Mail
from raftlog.consensus.sender import APPEND_BYTES_MAX
from raftlog.core.configuration import member_id
from raftlog.core.entry import HEADER_SIZE, Entry, EntryHeader, EntryKind, encode
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.peers.frame import ENVELOPE_BYTES_MAX, PAYLOADS_MAX, encode_frame

MOST = 2**64 - 1
MEMBER = member_id(2**32 - 1, 2**32 - 1)
NODE = 2**32 - 1
LARGEST: tuple[Message, ...] = (
    Append(MOST, MOST, MOST, MOST, [], MOST, MOST, MOST),
    Ack(MOST, MOST, True, True, MOST, MOST, damaged=True, agreed_term=MOST),
    RequestVote(MOST, MOST, MOST, True),
    Vote(MOST),
    RequestPreVote(MOST, MOST, MOST),
    PreVote(MOST),
    StaleTerm(MOST),
    TimeoutNow(MOST),
    SnapshotOffer(MOST),
    Asleep(MOST, MOST),
)
ITEM_BYTES_MAX = 120


class Frames:
    """Links that encode what they are to send (``peers.port.Peers``, as far as mail goes)."""

    def __init__(self) -> None:
        self.sent: list[pb.Turn] = []
        self.envelope_bytes_max = 0

    def send_turn(self, node_id: int, turn: pb.Turn, payloads: Sequence[bytes | memoryview]) -> bool:
        envelope = pb.Envelope(turn=turn)
        encode_frame(envelope, payloads)
        self.envelope_bytes_max = max(self.envelope_bytes_max, envelope.ByteSize())
        self.sent.append(turn)
        return True


def posted(mail: Mail) -> Frames:
    """What leaves."""
    frames = Frames()
    mail.flush(frames)  # type: ignore[arg-type]
    return frames


def test_no_item_of_a_frame_is_larger_than_it_is_counted_as() -> None:
    """Every kind of message with all of its numbers as large as they can be, in the place that it has in a frame."""
    sizes = [pb.Turn(raft=[to_wire(MOST, MEMBER, MEMBER, message)]).ByteSize() for message in LARGEST]
    counted = to_wire(MOST, MEMBER, MEMBER, LARGEST[0])
    counted.append_entries.entry_count = 2**32 - 1
    sizes.append(pb.Turn(raft=[counted]).ByteSize())
    sizes.append(pb.Turn(leaderships=[pb.Leadership(group=MOST, term=MOST, leader_node_id=NODE)]).ByteSize())
    sizes.append(pb.Turn(woken=[MOST]).ByteSize())
    assert max(sizes) <= ITEM_BYTES_MAX
    kinds = {field.name for field in pb.RaftMessage.DESCRIPTOR.oneofs_by_name["body"].fields}
    assert {to_wire(1, 1, 1, message).WhichOneof("body") for message in LARGEST} == kinds


def test_full_frames_are_within_the_bounds_of_links() -> None:
    """By arithmetic, for all at once: items, sizes of payloads, and an Append of the smallest entries on top of a full frame."""
    beside = pb.Turn()
    beside.sleepers.epoch, beside.sleepers.count, beside.sleepers.digest = MOST, 2**32 - 1, MOST
    beside.sleepers_heard.epoch, beside.sleepers_heard.refused = MOST, True
    largest = FRAME_ITEMS_MAX * ITEM_BYTES_MAX + 5 * FRAME_PAYLOADS_MAX + beside.ByteSize() + 32
    assert largest < ENVELOPE_BYTES_MAX
    assert APPEND_BYTES_MAX / HEADER_SIZE < FRAME_PAYLOADS_MAX < PAYLOADS_MAX


def test_acknowledgements_of_any_number_leave_in_frames_that_fit() -> None:
    """As many as a node had to give that had not heard anything for a long time: all of them, in order."""
    mail, count = Mail(), 120_000
    for number in range(count):
        mail.post(number, MEMBER, MEMBER, LARGEST[1])
    frames = posted(mail)
    assert [wire.group for turn in frames.sent for wire in turn.raft] == list(range(count))
    assert frames.envelope_bytes_max <= ENVELOPE_BYTES_MAX


def test_announcements_of_any_number_leave_in_frames_that_fit() -> None:
    """Of a node that leads more than it could say at once, and of as many groups that wake."""
    mail, count = Mail(), 230_000
    mail.announce(1, [pb.Leadership(group=MOST - number, term=MOST, leader_node_id=NODE) for number in range(count)])
    mail.woken(1, [MOST - number for number in range(count)])
    frames = posted(mail)
    assert sum(len(turn.leaderships) for turn in frames.sent) == sum(len(turn.woken) for turn in frames.sent) == count


def entry(size: int) -> Entry:
    """One with so large a payload."""
    return encode(EntryHeader(EntryKind.RECORDS, 1, 1, 1, 0, 1), bytes(size))


Step = tuple[str, int, int]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("message"), st.integers(0, len(LARGEST) - 1), st.integers(1, 40)),
        st.tuples(st.just("entries"), st.integers(1, 40), st.sampled_from([0, 100, 5_000])),
        st.tuples(st.just("leads"), st.integers(1, 40), st.just(0)),
        st.tuples(st.just("woken"), st.integers(1, 40), st.just(0)),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(steps)
def test_no_frame_passes_its_bounds_whatever_is_posted(script: list[Step]) -> None:
    """Whatever stands in it, in whatever order: items, payloads and bytes are counted together, and nothing is left out."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(outgoing_module, "FRAME_ITEMS_MAX", 16)
        patched.setattr(outgoing_module, "FRAME_PAYLOADS_MAX", 60)
        patched.setattr(outgoing_module, "FRAME_PAYLOAD_BYTES_MAX", 20_000)
        mail, expected = Mail(), [0, 0, 0, 0]
        for kind, one, two in script:
            if kind == "message":
                for number in range(two):
                    mail.post(number, MEMBER, MEMBER, LARGEST[one])
                expected[0] += two
            elif kind == "entries":
                mail.post(MOST, MEMBER, MEMBER, Append(MOST, MOST, MOST, MOST, [entry(two)] * one, MOST, MOST, MOST))
                expected[0] += 1
                expected[1] += one
            elif kind == "leads":
                mail.announce(NODE, [pb.Leadership(group=MOST, term=MOST, leader_node_id=NODE)] * one)
                expected[2] += one
            else:
                mail.woken(NODE, [MOST] * one)
                expected[3] += one
        found = [0, 0, 0, 0]

        class Checked(Frames):
            def send_turn(self, node_id: int, turn: pb.Turn, payloads: Sequence[bytes | memoryview]) -> bool:
                assert len(turn.raft) + len(turn.leaderships) + len(turn.woken) <= 16
                assert len(payloads) <= 60
                largest = max((wire.append_entries.entry_count for wire in turn.raft), default=0)
                assert sum(map(len, payloads)) <= max(20_000, largest * len(max(payloads, key=len, default=b"")))
                assert len(payloads) == sum(wire.append_entries.entry_count for wire in turn.raft)
                for at, count in enumerate((len(turn.raft), len(payloads), len(turn.leaderships), len(turn.woken))):
                    found[at] += count
                return super().send_turn(node_id, turn, payloads)

        mail.flush(Checked())  # type: ignore[arg-type]
        assert found == expected
