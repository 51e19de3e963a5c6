"""The simulator in every test run: fixed seeds, a fresh one, and the promise that a seed is one history."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.simulation.blackout import BLACKOUTS
from tests.simulation.planted import PLANTS
from tests.simulation.run import MODES, SCENARIOS, main, report, run_seed
from tests.simulation.world import World

ROOT = Path(__file__).parent.parent.parent
SAFETY_SEEDS = (1, 2, 3, 4, 1306)
LIVENESS_SEEDS = (1, 2)
GROUPS_SEEDS = (1, 2, 306, 1002)
MOVES_SEEDS = (1, 2, 16, 8925)
RETURNS_SEEDS = (1, 383, 533, 785, 809, 3353, 4661, 8135, 8783)


@pytest.mark.parametrize("seed", SAFETY_SEEDS)
def test_nothing_is_lost_whatever_goes_wrong(seed: int) -> None:
    """Random faults break no invariant, and the history of all clients is sound."""
    outcome = run_seed("safety", seed)
    assert not outcome.violations, report(outcome)


@pytest.mark.parametrize("seed", LIVENESS_SEEDS)
def test_publishing_goes_on_under_a_fault_that_never_ends(seed: int) -> None:
    """With a majority healthy and connected, every partition takes a batch within ten seconds, again and again."""
    outcome = run_seed("liveness", seed)
    assert not outcome.violations, report(outcome)


def test_nothing_is_lost_when_everything_loses_power_again_and_again() -> None:
    """Ten times under load, at times before there is a leader again; ``--mode blackout --seeds 50`` is 500 times."""
    outcome = run_seed("blackout", 1)
    assert not outcome.violations, report(outcome)
    assert outcome.coverage["blackouts"] == BLACKOUTS


@pytest.mark.parametrize("seed", GROUPS_SEEDS)
def test_groups_pass_over_nothing_whatever_goes_wrong(seed: int) -> None:
    """Random faults, and members that die, stall and leave: generations, commits and what is read stay sound."""
    outcome = run_seed("groups", seed)
    assert not outcome.violations, report(outcome)
    assert outcome.coverage["rebalances"] >= 1


@pytest.mark.parametrize("seed", MOVES_SEEDS)
def test_replicas_end_where_they_are_wanted_whatever_goes_wrong(seed: int) -> None:
    """They move, nodes are drained, and both is taken back, under random faults: nothing is lost, and nothing left behind."""
    outcome = run_seed("moves", seed)
    assert not outcome.violations, report(outcome)
    assert outcome.coverage["replicas removed"] >= 1


@pytest.mark.parametrize("seed", RETURNS_SEEDS)
def test_every_node_is_whole_again_whatever_goes_wrong(seed: int) -> None:
    """Nodes join, and come back on empty and on old disks, entries are damaged meanwhile: nobody has to look after it."""
    outcome = run_seed("returns", seed)
    assert not outcome.violations, report(outcome)
    assert outcome.coverage["damage beside a lost disk"] >= (seed == 785)


@pytest.mark.parametrize("mode", MODES)
def test_a_fresh_seed_is_as_good_as_the_fixed_ones(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every run looks where none has looked; the seed is printed in any case, and replays by one line where it fails."""
    seed = secrets.randbelow(1_000_000_000)
    with capsys.disabled():
        print(f"\nfresh seed {seed} ({mode})")
    outcome = run_seed(mode, seed)
    assert not outcome.violations, report(outcome)


def test_a_seed_that_is_too_small_fails() -> None:
    """Five hundred operations, ten faults: or it says nothing. (Its twenty seconds every seed has.)"""

    async def nap(world: World) -> None:
        await asyncio.sleep(21.0)

    with patch.dict(SCENARIOS, safety=nap):
        (violation,) = run_seed("safety", 1).violations
    assert violation == "too small: 21.0 simulated seconds, 0 operations, 0 faults"


def test_a_thread_is_refused() -> None:
    """It would run when it likes, and the seed would not be one history."""

    async def think(world: World) -> None:
        await asyncio.to_thread(len, ())

    with patch.dict(SCENARIOS, safety=think), pytest.raises(AssertionError, match="was to run in a thread"):
        run_seed("safety", 1)


def test_a_run_of_seeds_says_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    """How many, how fast, what was covered; and where a seed fails, the line that replays it, and exit code 1."""
    assert main(["--seeds", "1", "--mode", "liveness", "--jobs", "1"]) == 0
    said = capsys.readouterr().out
    assert "1 seeds, 1 simulations" in said
    assert "times faster than real time" in said
    assert "liveness: " in said
    with PLANTS["answer-before-the-commit"]():
        assert main(["--seeds", "1", "--mode", "safety", "--jobs", "1"]) == 1
    assert "python -m tests.simulation --trace 1 --mode safety" in capsys.readouterr().out


@pytest.mark.parametrize("mode", MODES)
def test_a_seed_gives_the_same_trace_in_any_process(mode: str) -> None:
    """Neither the order of hashes nor anything else of the process decides what happens."""
    command = (sys.executable, "-m", "tests.simulation", "--trace", "3", "--mode", mode)
    traces = [
        subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hashes}, capture_output=True, check=False).stdout
        for hashes in ("1", "2")
    ]
    assert len(traces[0].splitlines()) > 1_000
    assert traces[0] == traces[1]
