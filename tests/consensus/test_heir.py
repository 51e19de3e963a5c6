"""To whom a leader hands over: spread over settled nodes, else to the one whose node came back first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raftlog.consensus.heir import SETTLED_S, heir
from raftlog.core.configuration import member_id, node_of

A, B, C = (member_id(node, 1) for node in (1, 2, 3))
NOW_S = 1_000.0


def test_nobody_takes_over_where_nobody_is_ready() -> None:
    """The leader goes on until somebody is."""
    assert heir((), {1: 0.0}, NOW_S, 7) is None


def test_a_node_that_stops_does_not_leave_all_it_led_to_one() -> None:
    """Groups take turns among the settled nodes."""
    linked = {1: 0.0, 2: NOW_S - SETTLED_S, 3: NOW_S - SETTLED_S}
    assert {heir((C, B), linked, NOW_S, group) for group in range(4)} == {B, C}
    assert {heir((C, B), {**linked, 3: NOW_S - 1}, NOW_S, group) for group in range(4)} == {B}


def test_in_a_fast_rolling_restart_the_node_that_came_back_first_takes_over() -> None:
    """Clients may still be looking for the other one."""
    assert heir((A, B, C), {1: NOW_S - 1, 2: NOW_S - 4, 3: NOW_S - 3}, NOW_S, 5) == B


@given(st.sets(st.integers(1, 9), min_size=1), st.dictionaries(st.integers(1, 9), st.floats(0, NOW_S)), st.integers(0, 99))
def test_somebody_who_is_ready_always_takes_over(nodes: set[int], linked: dict[int, float], group: int) -> None:
    """Whatever the links; the settled first."""
    ready = [member_id(node, 1) for node in nodes]
    taker = heir(ready, linked, NOW_S, group)
    assert taker in ready
    settled = {node for node in nodes if NOW_S - linked.get(node, NOW_S) >= SETTLED_S}
    assert not settled or node_of(taker or 0) in settled
