"""Raft's messages in their three forms: value, protobuf, PySyncObj's dict."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.consensus.messages import (
    Ack,
    Append,
    MalformedMessageError,
    Message,
    PreVote,
    RequestPreVote,
    RequestVote,
    StaleTerm,
    TimeoutNow,
    Vote,
    from_pysyncobj,
    from_wire,
    to_pysyncobj,
    to_wire,
)
from raftlog.core.configuration import member_id, node_of
from raftlog.core.entry import Entry, EntryHeader, EntryKind, encode
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb

GROUP = 7
u64 = st.integers(0, 2**64 - 1)
index = st.integers(1, 2**62)


def entry_at(at: int, *, group: int = GROUP, term: int = 3, payload: bytes = b"payload") -> Entry:
    """An entry with a payload."""
    return encode(EntryHeader(EntryKind.RECORDS, group, at, term, 0, 1), payload)


@st.composite
def appends(draw: st.DrawFn) -> Append:
    """An Append with a few entries in a row."""
    prev, term = draw(index), draw(st.integers(1, 2**62))
    payloads = draw(st.lists(st.binary(max_size=40), max_size=4))
    entries = [entry_at(prev + 1 + at, term=term, payload=payload) for at, payload in enumerate(payloads)]
    return Append(term, prev, draw(u64), draw(u64), entries, draw(u64), draw(u64))


SMALL = st.one_of(
    st.builds(Ack, u64, u64, st.booleans(), st.booleans(), u64, u64),
    st.builds(RequestVote, u64, u64, u64, st.booleans()),
    st.builds(Vote, u64),
    st.builds(RequestPreVote, u64, u64, u64),
    st.builds(PreVote, u64),
    st.builds(StaleTerm, u64),
    st.builds(TimeoutNow, u64),
)


def plain(message: Message) -> Any:
    """A message that can be compared: entries by their bytes."""
    if not isinstance(message, Append):
        return message
    fields = (message.term, message.prev_index, message.prev_term, message.commit_index, message.probe, message.round)
    return (*fields, [entry.data for entry in message.entries], [entry.header for entry in message.entries])


@given(st.one_of(SMALL, appends()))
def test_every_message_survives_the_wire(message: Message) -> None:
    """Sender, recipient and group stand beside it; entries travel as they are stored."""
    wire = pb.RaftMessage.FromString(to_wire(GROUP, member_id(1, 1), member_id(2, 9), message).SerializeToString())
    payloads = [entry.data for entry in message.entries] if isinstance(message, Append) else []
    assert (wire.group, node_of(wire.sender), node_of(wire.recipient)) == (GROUP, 1, 2)
    assert plain(from_wire(wire, payloads)) == plain(message)


@given(appends(), st.lists(st.binary(max_size=120), min_size=1, max_size=3))
def test_payloads_of_garbage_are_malformed(message: Append, payloads: list[bytes]) -> None:
    """Whatever stands where entries should: one error, and no entry gets through."""
    with pytest.raises(MalformedMessageError):
        from_wire(to_wire(GROUP, 1, 2, message), payloads)


def test_an_unknown_kind_is_malformed() -> None:
    """A newer peer's message is refused by name, not taken for something else."""
    with pytest.raises(MalformedMessageError, match="no kind"):
        from_wire(pb.RaftMessage(group=GROUP, sender=1, recipient=2), [])


GOOD = entry_at(11)


@pytest.mark.parametrize(
    "payloads",
    [
        [GOOD.data[:-1] + bytes((GOOD.data[-1] ^ 1,))],
        [GOOD.data[:30] + bytes((GOOD.data[30] ^ 1,)) + GOOD.data[31:]],
        [GOOD.data[:-1]],
        [GOOD.data[:20]],
        [b""],
        [entry_at(11, group=8).data],
        [entry_at(12).data],
        [GOOD.data, entry_at(13).data],
        [GOOD.data, GOOD.data],
    ],
    ids=["payload", "header", "short", "half a header", "empty", "group", "first of a gap", "gap", "twice"],
)
def test_entries_that_do_not_fit_are_malformed(payloads: list[bytes]) -> None:
    """Damaged on the way, of another group, or not in a row behind ``prev_index``: refused as a whole."""
    wire = to_wire(GROUP, 1, 2, Append(3, 10, 2, 5, [GOOD]))
    with pytest.raises(MalformedMessageError):
        from_wire(wire, payloads)


@pytest.mark.parametrize(
    "message",
    [Append(3, 10, 2, 5, [GOOD]), Append(3, 10, 2, 5), RequestVote(3, 9, 2), Vote(3), TimeoutNow(3), Ack(3, 9, True, False)],
    ids=lambda message: type(message).__name__,
)
def test_pysyncobj_understands_its_own_kinds(message: Message) -> None:
    """Value → dict → value is the same; the term of an acknowledgement is the sender's, which PySyncObj leaves out."""
    assert plain(from_pysyncobj(to_pysyncobj(message), 3)) == plain(message)


def test_pysyncobj_sees_index_and_term_beside_each_entry() -> None:
    """It adds an entry as (command, index, term); the command is the entry itself, never unpacked."""
    assert to_pysyncobj(Append(3, 10, 2, 5, [GOOD]))["entries"] == [(GOOD, 11, 3)]


@pytest.mark.parametrize(
    "message", [PreVote(1), RequestPreVote(1, 1, 1), StaleTerm(1)], ids=lambda message: type(message).__name__
)
def test_messages_of_our_own_are_never_shown_to_pysyncobj(message: Message) -> None:
    """It has no handler for them."""
    with pytest.raises(TypeError):
        to_pysyncobj(message)


@pytest.mark.parametrize(
    "message",
    [
        {"type": "append_entries", "term": 1, "commit_index": 1, "serialized": None},
        {
            "type": "append_entries",
            "term": 1,
            "commit_index": 1,
            "prevLogIdx": 1,
            "prevLogTerm": 1,
            "transmission": "start",
            "data": b"",
        },
        {"type": "append_entries", "term": 1, "commit_index": 1, "prevLogIdx": None, "prevLogTerm": None, "entries": []},
        {"type": "apply_command", "command": b"x"},
        {"type": "apply_command_response", "request_id": 1},
    ],
    ids=["snapshot", "chunk", "nowhere", "forwarded command", "its answer"],
)
def test_what_must_never_be_sent_has_no_form_on_the_wire(message: dict[str, Any]) -> None:
    """Pickled snapshots, pickled chunks and forwarded commands end in an error, not on a link."""
    with pytest.raises(TypeError, match="no place on the wire"):
        from_pysyncobj(message, 1)


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1))
def test_a_member_id_holds_its_node(node_id: int, replica_id: int) -> None:
    """And no two replicas of one node share an id."""
    assert node_of(member_id(node_id, replica_id)) == node_id
    assert member_id(node_id, replica_id) != member_id(node_id, (replica_id + 1) % 2**32)
