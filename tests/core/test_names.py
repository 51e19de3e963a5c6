"""Topic names: Kafka's rules and no others."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.core.names import check_topic_name, colliding, is_internal
from raftlog.errors import InvalidTopicError

LEGAL = string.ascii_letters + string.digits + "._-"


@given(st.text(LEGAL, min_size=1, max_size=249).filter(lambda name: name not in (".", "..")))
def test_every_name_of_legal_characters_is_taken(name: str) -> None:
    """Length 1 to 249; the prefix ``__`` only for the cluster itself."""
    check_topic_name(name, internal=True)
    if not is_internal(name):
        check_topic_name(name)


@given(st.text(LEGAL, max_size=20), st.characters().filter(lambda char: char not in LEGAL), st.text(LEGAL, max_size=20))
def test_one_other_character_is_enough_to_refuse(before: str, char: str, after: str) -> None:
    """Wherever it stands, also at the end (a line feed too)."""
    with pytest.raises(InvalidTopicError):
        check_topic_name(before + char + after)


@pytest.mark.parametrize("name", ["", ".", "..", "a" * 250, "a/b", "../etc", "Ärger", "a b", "a\n", "__offsets"])
def test_these_names_are_refused(name: str) -> None:
    """Each rule has a name that breaks it alone."""
    with pytest.raises(InvalidTopicError):
        check_topic_name(name)


def test_names_that_metrics_cannot_tell_apart_are_found() -> None:
    """'.' and '_' fold into one; the name itself does not collide."""
    assert colliding("a.b", ["x", "a.b", "a_b"]) == "a_b"
    assert colliding("a.b", ["x", "a.b", "a-b"]) is None
