"""Elections take turns."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raftlog.consensus.elections import PLACE_S, Elections


def test_no_more_than_so_many_seek_at_a_time_and_the_others_follow_in_their_order() -> None:
    """A place that is given back goes to who waits longest."""
    elections = Elections(2)
    assert [elections.admit(group, 1.0) for group in (1, 2, 3, 4)] == [True, True, False, False]
    assert elections.next(1.0) == []
    elections.done(1)
    assert elections.next(1.0) == [3]
    assert elections.admit(3, 1.0)
    assert not elections.admit(4, 1.0)


def test_a_place_is_not_held_for_ever() -> None:
    """A group that finds no leader keeps the others waiting only so long, and they are looked for when that is over."""
    elections = Elections(1)
    assert elections.admit(1, 1.0)
    assert elections.due_s() == float("inf")
    assert not elections.admit(2, 1.1)
    assert elections.due_s() == 1.0 + PLACE_S
    assert elections.admit(1, 1.2), "it may ask again within its time"
    assert elections.next(1.0 + PLACE_S) == [2]


@given(st.lists(st.tuples(st.sampled_from(("admit", "done", "next")), st.integers(0, 9), st.floats(0, 0.3)), max_size=60))
def test_nobody_who_waits_is_forgotten(steps: list[tuple[str, int, float]]) -> None:
    """Whatever comes and goes: in the end each that waits is named, and there are never too many at once."""
    elections, waiting, now_s = Elections(3), set[int](), 0.0
    for act, group, pause_s in steps:
        now_s += pause_s
        if act == "admit":
            waiting.discard(group) if elections.admit(group, now_s) else waiting.add(group)
        elif act == "done":
            elections.done(group)
            waiting.discard(group)
        else:
            waiting -= set(elections.next(now_s))
        assert len(elections._seeking) <= 3
        assert waiting == set(elections._waiting)
    while waiting:
        now_s += PLACE_S
        named = elections.next(now_s)
        assert named
        waiting -= set(named)
