"""How fast learners are sent what they lack."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raftlog.consensus.pace import BURST_S, Pace

RATE = 1_000


@given(st.lists(st.tuples(st.floats(0.0, 0.5), st.integers(1, 400)), min_size=1, max_size=60))
def test_no_more_is_sent_than_the_rate_the_burst_and_one_message(looks: list[tuple[float, int]]) -> None:
    """Over any time; and what is asked for below the rate is not held up for ever."""
    pace, now_s, sent, largest = Pace(RATE), 100.0, 0, 0
    for pause_s, size in looks:
        now_s += pause_s
        if pace.allows(now_s):
            pace.sent(size)
            sent, largest = sent + size, max(largest, size)
    assert sent <= RATE * (now_s - 100.0) + RATE * BURST_S + largest + 1e-6
    assert pace.allows(now_s + 1.0)


def test_a_rate_of_zero_is_no_limit() -> None:
    """Whatever was sent."""
    pace = Pace(0)
    pace.sent(1 << 40)
    assert pace.allows(0.0)


def test_time_that_stands_still_gives_nothing() -> None:
    """What is spent comes back only with time."""
    pace = Pace(RATE)
    assert pace.allows(5.0)
    pace.sent(RATE)
    assert not pace.allows(5.0)
    assert pace.allows(6.0)
