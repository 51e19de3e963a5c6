"""The two ends of a link agree on what sleeps over it, whatever is said, and notice where they do not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raftlog.core.sleepers import Telling, Told

PATIENCE_S = 0.75
HEARTBEAT_S = 0.1


def ends() -> tuple[Telling, Told]:
    """Both ends of a new link."""
    return Telling(HEARTBEAT_S, lambda: PATIENCE_S), Told(lambda: PATIENCE_S)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5), st.integers(1, 9)), max_size=40))
def test_both_ends_agree_after_everything_that_was_said(said: list[tuple[bool, int, int]]) -> None:
    """Groups told and withdrawn in any order, in any term: the heartbeat matches, and nothing has to wake."""
    telling, told = ends()
    now_s = 10.0
    for sleeps, group, term in said:
        now_s += 0.01
        if sleeps:
            telling.tell(group, term, now_s)
            assert told.tell(telling.epoch, group, term, now_s) == (True, [])
        else:
            assert telling.withdraw(group) == told.withdraw(group)
        beat = telling.beat(now_s)
        if beat is not None:
            assert told.beat(beat, now_s) == (False, [])
            assert told.matched_s == now_s
    assert sorted(telling.groups()) == sorted(told.groups())


@given(st.sets(st.tuples(st.integers(1, 2000), st.integers(1, 50)), min_size=1, max_size=30), st.data())
def test_a_loss_is_noticed(said: set[tuple[int, int]], data: st.DataObject) -> None:
    """One of what was said does not arrive: the epoch is refused once that has lasted, and what slept by it wakes."""
    telling, told = ends()
    lost = data.draw(st.sampled_from(sorted(said)))
    for group, term in dict(said).items():
        telling.tell(group, term, 10.0)
        if group != lost[0]:
            told.tell(telling.epoch, group, term, 10.0)
    kept = told.groups()
    now_s, refused = 10.0, False
    woken: list[int] = []
    while not refused:
        beat = telling.beat(now_s)
        assert beat is not None
        refused, woken = told.beat(beat, now_s)
        assert refused == (now_s - 10.0 >= PATIENCE_S)
        now_s += HEARTBEAT_S
    assert sorted(woken) == sorted(kept)
    assert told.tell(telling.epoch, 1, 1, now_s) == (False, []), "nothing more sleeps under the refused epoch"
    assert sorted(telling.begin_anew()) == sorted(dict(said))
    telling.tell(1, 7, now_s)
    assert told.tell(telling.epoch, 1, 7, now_s) == (True, [])
    beat = telling.beat(now_s)
    assert beat is not None
    assert told.beat(beat, now_s) == (False, [])


def test_a_heartbeat_leaves_at_once_and_then_at_its_interval() -> None:
    """None where nothing sleeps."""
    telling, _ = ends()
    assert telling.beat(10.0) is None
    assert telling.due_s == float("inf")
    telling.tell(1, 1, 10.0)
    assert telling.beat(10.0) is not None
    assert telling.beat(10.05) is None
    assert telling.due_s == 10.0 + HEARTBEAT_S
    assert telling.beat(10.0 + HEARTBEAT_S) is not None


def test_silence_is_noticed_by_followers_again_and_again_until_it_ends() -> None:
    """After the patience, and after as long again; a matching heartbeat ends it, and what was told still counts."""
    telling, told = ends()
    telling.tell(1, 1, 10.0)
    told.tell(telling.epoch, 1, 1, 10.0)
    assert not told.silent(10.0 + PATIENCE_S - 0.01)
    assert told.silent(10.0 + PATIENCE_S)
    assert told.missed
    assert not told.silent(10.0 + PATIENCE_S + 0.01)
    assert told.silent(10.0 + 2 * PATIENCE_S)
    beat = telling.beat(12.0)
    assert beat is not None
    assert told.beat(beat, 12.0) == (False, [])
    assert not told.missed
    assert told.groups() == [1]


def test_silence_is_noticed_by_leaders_until_an_answer_of_the_epoch_comes() -> None:
    """An answer to an epoch before counts for nothing."""
    telling, _ = ends()
    telling.tell(1, 1, 10.0)
    assert not telling.silent(10.5)
    assert telling.silent(10.0 + PATIENCE_S)
    assert not telling.silent(10.0 + PATIENCE_S + 0.01)
    assert not telling.heard(telling.epoch - 1, 11.0)
    assert telling.heard(telling.epoch, 11.0)
    assert not telling.heard(telling.epoch, 11.1)
    assert telling.heard_s == 11.1


def test_another_epoch_makes_what_was_told_before_stale() -> None:
    """The leader's node has begun anew: who slept under the old epoch wakes."""
    telling, told = ends()
    for group in (1, 2):
        telling.tell(group, 1, 10.0)
        told.tell(telling.epoch, group, 1, 10.0)
    telling.begin_anew()
    telling.tell(3, 1, 10.1)
    counts, stale = told.tell(telling.epoch, 3, 1, 10.1)
    assert counts
    assert sorted(stale) == [1, 2]
    assert told.groups() == [3]
