from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.core.error_codec import from_parts, to_parts
from raftlog.errors import (
    BY_REASON,
    LeaderHint,
    MemberIdRequiredError,
    NotCoordinatorError,
    NotLeaderError,
    OffsetOutOfRangeError,
    OverloadedError,
    RaftlogError,
    StorageFullError,
    UnavailableError,
)

HINT = LeaderHint(node_id=2, address="10.0.0.2:7101", term=9)


def _sample(kind: type[RaftlogError]) -> RaftlogError:
    if issubclass(kind, OffsetOutOfRangeError):
        return kind("beyond", earliest=3, latest=70)
    return kind("a message")


@pytest.mark.parametrize("kind", BY_REASON.values(), ids=BY_REASON)
def test_every_error_comes_back_as_its_own_class(kind: type[RaftlogError]) -> None:
    """Class, facts and (but for the root, which names its reason) message survive the journey."""
    error = _sample(kind)
    back = from_parts(*to_parts(error))
    assert type(back) is kind
    assert to_parts(back)[2] == to_parts(error)[2]
    if kind is not RaftlogError:
        assert str(back) == str(error)


@pytest.mark.parametrize("kind", [NotLeaderError, NotCoordinatorError])
def test_a_leader_hint_comes_back(kind: type[NotLeaderError | NotCoordinatorError]) -> None:
    """Node id, address and term of the hint survive."""
    back = from_parts(*to_parts(kind("ask node 2", hint=HINT)))
    assert isinstance(back, kind)
    assert back.hint == HINT


def test_the_member_id_to_join_with_comes_back() -> None:
    """A group's new member hears its id also through another node."""
    back = from_parts(*to_parts(MemberIdRequiredError("join again", member_id="m-1")))
    assert isinstance(back, MemberIdRequiredError)
    assert back.member_id == "m-1"


def test_the_bounds_of_an_offset_out_of_range_come_back() -> None:
    """Earliest and latest survive."""
    back = from_parts(*to_parts(OffsetOutOfRangeError("beyond", earliest=3, latest=70)))
    assert isinstance(back, OffsetOutOfRangeError)
    assert (back.earliest, back.latest) == (3, 70)


@pytest.mark.parametrize("kind", [UnavailableError, OverloadedError, StorageFullError])
def test_the_time_to_wait_comes_back(kind: type[UnavailableError | OverloadedError | StorageFullError]) -> None:
    """``retry_after_ms`` travels in the metadata."""
    back = from_parts(*to_parts(kind("later", retry_after_ms=1_234)))
    assert isinstance(back, kind)
    assert back.retry_after_ms == 1_234


def test_an_unknown_reason_becomes_a_plain_error_that_names_it() -> None:
    """A newer peer's reason is not lost, and not mistaken for another."""
    back = from_parts("FROM_THE_FUTURE", "text", {})
    assert type(back) is RaftlogError
    assert str(back) == "text (reason FROM_THE_FUTURE)"


def test_missing_facts_never_make_up_a_hint_or_an_offset() -> None:
    """Without its facts a NotLeaderError has no hint, and an OffsetOutOfRangeError is not built at all."""
    no_hint = from_parts("NOT_LEADER", "m", {"leader_id": "2", "leader_term": "x", "leader_address": "a"})
    assert isinstance(no_hint, NotLeaderError)
    assert no_hint.hint is None
    assert type(from_parts("OFFSET_OUT_OF_RANGE", "m", {"earliest": "1"})) is RaftlogError


@given(
    reason=st.sampled_from(sorted(BY_REASON)) | st.text(),
    message=st.text(),
    metadata=st.dictionaries(
        st.sampled_from(["leader_id", "leader_address", "leader_term", "earliest", "latest", "retry_after_ms"]) | st.text(),
        st.text() | st.integers().map(str),
    ),
)
def test_any_parts_give_an_error_and_raise_none(reason: str, message: str, metadata: dict[str, str]) -> None:
    """The parts come from a wire; the codec takes whatever they are."""
    assert isinstance(from_parts(reason, message, metadata), RaftlogError)
