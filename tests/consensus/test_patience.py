"""Times give way to slowness, and come back."""

from __future__ import annotations

from raftlog.consensus.door import RaftTimes
from raftlog.consensus.patience import SLACK_MAX_S, WINDOW_S, Patience


def test_a_fast_node_keeps_the_times_that_were_asked_for() -> None:
    """Turns shorter than a heartbeat change nothing."""
    times, patience = RaftTimes(), Patience(RaftTimes())
    for number in range(100):
        patience.turned(times.heartbeat_s * 0.9, number * 0.1)
    assert (patience.election_min_s, patience.election_max_s, patience.fallback_s) == (
        times.election_min_s, times.election_max_s, times.fallback_s,
    )  # fmt: skip


def test_a_slow_node_gives_the_others_more_time_up_to_a_bound() -> None:
    """Twice what the slowest turn took beyond a heartbeat."""
    times, patience = RaftTimes(), Patience(RaftTimes())
    patience.turned(times.heartbeat_s + 0.3, 1.0)
    assert round(patience.election_min_s - times.election_min_s, 6) == 0.6
    assert round(patience.fallback_s - times.fallback_s, 6) == 0.6
    patience.turned(60.0, 1.1)
    assert patience.slack_s == SLACK_MAX_S


def test_a_slow_turn_is_forgotten() -> None:
    """After two windows at the latest, or at once where nothing was turned for so long."""
    patience = Patience(RaftTimes())
    patience.turned(1.0, 1.0)
    patience.turned(0.0, 1.0 + WINDOW_S)
    assert patience.slack_s > 0
    patience.turned(0.0, 1.0 + 2 * WINDOW_S)
    assert patience.slack_s == 0
    patience.turned(1.0, 10.0)
    patience.turned(0.0, 20.0)
    assert patience.slack_s == 0
