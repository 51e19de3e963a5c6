"""Topic patterns: they agree with ``re`` where that is quick, and are quick where it is not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.core.topic_pattern import PATTERN_CHARS_MAX, TopicPattern
from raftlog.errors import InvalidRequestError

atoms = st.sampled_from(["a", "b", "-", ".", r"\.", "[ab]", "[^a]", "[a-c_]", r"\d", r"\w", "(?:)", "[]a]"])
patterns = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from("*+?")).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    ),
    max_leaves=8,
)


@given(patterns, st.text("abc-._1", max_size=6))
def test_it_agrees_with_the_standard_library(pattern: str, name: str) -> None:
    """Wherever both understand a pattern."""
    if len(pattern) <= PATTERN_CHARS_MAX:
        assert TopicPattern(pattern).matches(name) == (re.fullmatch(pattern, name, re.DOTALL) is not None)


@pytest.mark.parametrize("pattern", ["visits-.*", "^visits-.*$", "(visits|clicks)-eu", r"visits-\w+", "visits-[a-z]+"])
def test_what_users_write_matches_what_they_mean(pattern: str) -> None:
    """Anchors may be there or not; a part of a name is not enough."""
    compiled = TopicPattern(pattern)
    assert compiled.matches("visits-eu")
    assert not compiled.matches("old-visits-eu")
    assert not compiled.matches("visits")


def test_a_pattern_that_makes_backtracking_explode_is_matched_at_once() -> None:
    """The name is as long as names may be; ``re`` would take longer than there is time."""
    assert not TopicPattern("(a*)*(a|aa)+(a|a?)+b").matches("a" * 249)


@pytest.mark.parametrize(
    "pattern", ["", "a" * 251, "(", ")", "a)", "[", "[a", "*", "a|*", "a{2}", "a^", "$a", "\\", r"\q", "(" * 99]
)
def test_what_is_not_understood_is_refused(pattern: str) -> None:
    """Rather than matched in some other way."""
    with pytest.raises(InvalidRequestError):
        TopicPattern(pattern)


@given(st.text("ab()[]|*+?.\\^$-", max_size=12), st.text("ab", max_size=4))
def test_no_pattern_raises_anything_else(pattern: str, name: str) -> None:
    """Patterns come from the wire."""
    try:
        TopicPattern(pattern).matches(name)
    except InvalidRequestError:
        return
