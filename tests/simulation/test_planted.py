"""The checkers are checked: each planted bug is caught by the simulation that caught it first."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from raftlog.consensus.guard import Guards
from tests.simulation.planted import PLANTS, PROVED, PROVOKED
from tests.simulation.recorded import RECORDED
from tests.simulation.run import ALL_PLANTS, TOO_SMALL, report, run_seed

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ALL_PLANTS)
def test_a_planted_bug_is_caught(name: str) -> None:
    """By its recorded seed."""
    mode, seed = RECORDED[name]
    with ALL_PLANTS[name]():
        outcome = run_seed(mode, seed)
    again = f"python -m tests.simulation --planted {name}"
    assert outcome.violations, f"{mode} seed {seed} no longer shows it: look for another with {again}, and record it"
    assert not outcome.violations[0].startswith(TOO_SMALL)


@pytest.mark.parametrize("guard", PROVOKED)
def test_with_its_guard_a_fault_that_no_healthy_cluster_has_does_no_harm(guard: str) -> None:
    """So it is the missing guard that is caught, and not the fault that is planted with it."""
    with PROVOKED[guard]():
        outcome = run_seed("safety", 1)
    assert not outcome.violations, report(outcome)


def test_every_guard_has_its_proof() -> None:
    """In a simulation, or in a test of its own that is there; and no seed is recorded for nothing."""
    names = {field.name for field in fields(Guards)}
    assert {f"no-guard-{name.replace('_', '-')}" for name in names - PROVED.keys()} <= PLANTS.keys()
    for test in PROVED.values():
        path, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / path).read_text()
    assert RECORDED.keys() == ALL_PLANTS.keys()
