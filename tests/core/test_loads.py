"""How fast partitions grow: what leaders are spread by."""

from __future__ import annotations

import pytest

from raftlog.core.loads import SMOOTHED_OVER_S, WINDOW_S_MIN, Held, Loads


def at(last: int) -> list[dict[int, Held]]:
    """Two replicas of group 1, entries of 10 bytes; one of them is behind."""
    return [{1: (last * 10, 1, last)}, {1: (last * 5, 1, last // 2)}]


def test_the_replica_that_is_furthest_tells_the_size() -> None:
    """And nothing is known of a group that nobody holds."""
    loads = Loads()
    loads.look(0.0, at(100))
    assert (loads.size_bytes(1), loads.size_bytes(2), loads.rate(1), loads.rate(2)) == (1_000, 0, 0.0, 0.0)


def test_the_first_rate_is_there_at_once() -> None:
    """By two looks, however close."""
    loads = Loads()
    loads.look(0.0, at(100))
    loads.look(10.0, at(200))
    assert loads.rate(1) == pytest.approx(100.0)


def test_a_burst_between_two_looks_is_not_the_rate() -> None:
    """Shorter than a window it counts with what is around it, and beyond that as a part of a longer time."""
    loads = Loads()
    loads.look(0.0, at(100))
    loads.look(WINDOW_S_MIN, at(700))
    assert loads.rate(1) == pytest.approx(100.0)
    loads.look(WINDOW_S_MIN + 1, at(10_000))
    assert loads.rate(1) == pytest.approx(100.0)
    loads.look(2 * WINDOW_S_MIN, at(10_000))
    assert loads.rate(1) == pytest.approx(100.0 + (9_300 * 10 / WINDOW_S_MIN - 100.0) * WINDOW_S_MIN / SMOOTHED_OVER_S)
    loads.look(2 * WINDOW_S_MIN + SMOOTHED_OVER_S, at(10_000))
    assert loads.rate(1) == pytest.approx(0.0)
