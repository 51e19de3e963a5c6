from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.faults import FAULTS
from tests.chaos.plan import COMPANIONS, KINDS, OVERHEAD_S, plan

EVERYTHING = ("preload", "small_disk")


@given(seed=st.integers(0, 2**32), seconds=st.floats(1, 600))
def test_a_seed_gives_one_plan(seed: int, seconds: float) -> None:
    """What a run printed can be played again."""
    assert plan(seed, seconds, list(KINDS), EVERYTHING) == plan(seed, seconds, list(KINDS), EVERYTHING)


def test_seeds_differ() -> None:
    """Fresh runs try something else."""
    assert plan(1, 300, list(KINDS), EVERYTHING) != plan(2, 300, list(KINDS), EVERYTHING)


@given(seed=st.integers(0, 2**32))
def test_a_plan_keeps_to_its_time(seed: int) -> None:
    """Quiet, faults and the wait behind them fit in what was asked for."""
    episodes = plan(seed, 300, list(KINDS), EVERYTHING)
    assert sum(episode.quiet_s + episode.hold_s + OVERHEAD_S for episode in episodes) <= 300


def test_a_long_plan_has_every_kind() -> None:
    """Each is drawn once before any is drawn again."""
    episodes = plan(7, 900, list(KINDS), EVERYTHING)
    assert {episode.kind for episode in episodes} == set(KINDS)
    first = [episode.kind for episode in episodes[: len(KINDS)]]
    assert len(set(first)) == len(KINDS)


@given(seed=st.integers(0, 2**32))
def test_what_the_machine_cannot_do_is_left_out(seed: int) -> None:
    """Also as a companion."""
    for episode in plan(seed, 400, list(KINDS), ()):
        assert not KINDS[episode.kind].needs
        assert not episode.companion or not KINDS[episode.companion].needs


@given(seed=st.integers(0, 2**32))
def test_a_fault_of_more_than_a_minority_excuses_a_stall(seed: int) -> None:
    """So does a companion, which hits another node; nothing else does."""
    for episode in plan(seed, 400, list(KINDS), EVERYTHING):
        assert episode.spares_majority == (not KINDS[episode.kind].majority and not episode.companion)
        assert not (KINDS[episode.kind].alone and episode.companion)


def test_an_unknown_fault_is_refused() -> None:
    """A plan without it would say nothing of it."""
    with pytest.raises(ValueError, match="no fault nonsense"):
        plan(1, 60, ["kill", "nonsense"], EVERYTHING)
    with pytest.raises(ValueError, match="can be made"):
        plan(1, 60, ["disk-full"], ())


def test_every_kind_can_be_played() -> None:
    """The table of kinds and that of faults name the same."""
    assert set(FAULTS) == set(KINDS)
    assert set(COMPANIONS) <= set(KINDS)
