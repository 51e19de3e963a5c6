"""A history survives the file."""

from __future__ import annotations

import pytest

from tests.history.build import Story
from tests.history.codec import decode, decode_lines, encode


def story() -> Story:
    """One of everything."""
    made = Story()
    made.publish("a", "ü", at=0, producer=4, session="p/1")
    made.publish("b", outcome="fail")
    made.poll(0, "a", "ü", times=(5, 6), session="s", replica=2, final=True)
    made.lookup(5, 0, 5)
    made.look(1, 1, 2)
    made.delete()
    return made


def test_every_event_comes_back_as_it_was() -> None:
    """Encoding and decoding changes nothing."""
    for event in story().events:
        line = encode(event)
        assert "\n" not in line
        assert decode(line) == event


def test_a_last_line_that_was_cut_short_is_passed_over() -> None:
    """Whoever writes a history may be killed while writing."""
    events = story().events
    lines = [encode(event) + "\n" for event in events]
    assert list(decode_lines([*lines[:-1], lines[-1][:20]])) == events[:-1]
    assert list(decode_lines(lines)) == events


def test_a_broken_line_is_refused() -> None:
    """Only the last line may be incomplete."""
    lines = [encode(event) + "\n" for event in story().events]
    with pytest.raises(ValueError, match=r"history|Expecting|Unterminated"):
        list(decode_lines(["{}\n", *lines]))
    with pytest.raises(ValueError, match=r"history|Expecting|Unterminated"):
        list(decode_lines([*lines, "{\n"]))
