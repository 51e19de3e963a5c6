"""Runs seeds on several cores, adds up what they covered, and says how to replay each that fails.

::

    python -m tests.simulation --seeds 100 [--start 1] [--jobs 2] [--mode mixed|all|safety|liveness|groups|moves|returns]
    python -m tests.simulation --trace SEED --mode safety
    python -m tests.simulation --mode blackout --seeds 50
    python -m tests.simulation --planted [BUG ...]
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tests.simulation.blackout import blackout
from tests.simulation.groups import groups
from tests.simulation.liveness import liveness
from tests.simulation.moves import moves
from tests.simulation.planted import PLANTS
from tests.simulation.planted_groups import GROUP_PLANTS
from tests.simulation.planted_moves import MOVE_PLANTS
from tests.simulation.planted_returns import RETURN_PLANTS
from tests.simulation.progress import Progress
from tests.simulation.returns import returns
from tests.simulation.safety import safety
from tests.simulation.world import FAULTS_MIN, OPERATIONS_MIN, SEED_S_MIN, Outcome, World

SCENARIOS: Final = {
    "safety": safety,
    "liveness": liveness,
    "groups": groups,
    "moves": moves,
    "returns": returns,
    "blackout": blackout,
}
MODES: Final = ("safety", "liveness", "groups", "moves", "returns")
"""What runs unless something else is asked for."""
ALL_PLANTS: Final = {**PLANTS, **GROUP_PLANTS, **MOVE_PLANTS, **RETURN_PLANTS}
MIXED: Final = ("groups", "safety", "liveness", "moves", "safety", "returns")
"""What the seeds are run for, in turn: safety has far more that may go wrong."""
TASKS_PER_CHILD: Final = 50
"""Seeds that one process runs: what dead nodes leave behind goes with it."""
COVERAGE_SEEDS_MIN: Final = 100
"""A run of fewer seeds need not have met everything."""
PLANTED_SEEDS: Final = 150
"""Within so many seeds a planted bug must be caught: some five minutes of one core."""

MUST_COVER: Final = {
    "safety": (
        "bootstraps", "starts", "elections", "truncations", "trims", "clean stops", "transfer", "duplicates absorbed",
        "old disk", "wiped disk", "disks refused", "damage", "partition", "one way", "bridge", "reset", "half open", "stall",
        "slow link", "slow disk", "full", "low", "sync fails", "fatal fsyncs", "crash point", "kill", "kill leader", "power",
        "all", "blackouts", "pause", "clock jump", "deaf", "topics deleted", "groups dropped", "partitions added",
        "retention changed", "readers overtaken by retention", "faults", "learners added", "promotions", "removals", "demotions",
        "replicas begun anew", "overlapping changes refused", "changes cut off",
        "snapshots", "snapshots given up", "deaths of a snapshot", "slept", "woken", "sent early",
        "counted early",
    ),
    "liveness": (
        "minority gone", "minority cut off", "one way link", "dead link", "slow disk", "paused node", "elections", "slept",
        "woken",
    ),
    "groups": (
        "rebalances", "fenced commits refused", "group failovers", "members died", "members stalled", "members left",
        "static members back", "topics deleted", "elections", "faults", "learners added", "promotions", "removals",
        "slept", "woken",
    ),
    "moves": (
        "moves wished", "moves taken back", "drains wished", "drains", "balances", "replicas removed", "elections", "truncations",
        "trims", "faults",
    ),
    "returns": (
        "joins", "rejoins", "older disk", "empty disk", "copy", "old disks recognised", "snapshots", "replicas removed",
        "damage", "damaged replicas given up",
        "elections", "truncations", "trims", "faults",
    ),
    "blackout": ("blackouts",),
}  # fmt: skip
"""What a run of each mode must have met at least once."""
FAULTS: Final = {
    "safety": FAULTS_MIN,
    "liveness": 1,
    "groups": FAULTS_MIN,
    "moves": FAULTS_MIN,
    "returns": FAULTS_MIN,
    "blackout": FAULTS_MIN,
}
"""What a seed has at least, by mode."""


TOO_SMALL: Final = "too small: "


def run_seed(mode: str, seed: int, *, tracing: bool = False) -> Outcome:
    """One simulation. One that is too small to say anything fails, too."""
    outcome = World(seed, mode=mode, tracing=tracing).run(SCENARIOS[mode])
    had = (outcome.simulated_s, outcome.operations, outcome.coverage["faults"])
    least = (SEED_S_MIN, OPERATIONS_MIN, FAULTS[mode])
    if not outcome.violations and any(have < want for have, want in zip(had, least, strict=True)):
        text = TOO_SMALL + "{:.1f} simulated seconds, {} operations, {} faults".format(*had)
        return replace(outcome, violations=(text,))
    return outcome


def _brief(job: tuple[str, int]) -> Outcome:
    """One simulation, without its long parts: it crosses a pipe."""
    mode, seed = job
    return replace(run_seed(mode, seed), trace=(), events=())


def jobs_of(mode: str, seeds: range) -> list[tuple[str, int]]:
    """What to simulate: mixed is each seed in one mode, all is each in all."""
    if mode == "mixed":
        return [(MIXED[seed % len(MIXED)], seed) for seed in seeds]
    return [(each, seed) for seed in seeds for each in (MODES if mode == "all" else (mode,))]


def outcomes(work: Sequence[tuple[str, int]], jobs: int) -> Iterator[Outcome]:
    """All simulations, as they end."""
    if jobs <= 1:
        yield from map(_brief, work)
        return
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=TASKS_PER_CHILD) as pool:
        yield from pool.imap_unordered(_brief, work)


def missing(modes: Sequence[str], coverage: dict[str, Counter[str]]) -> list[str]:
    """What should have been met, and was not."""
    return [f"{what} ({mode})" for mode in modes for what in MUST_COVER[mode] if not coverage[mode][what]]


def report(outcome: Outcome) -> str:
    """The line that replays a failed seed, and why it failed."""
    replay = f"python -m tests.simulation --trace {outcome.seed} --mode {outcome.mode}"
    return f"seed {outcome.seed} ({outcome.mode}) fails {outcome.violations[0]}\n  replay: {replay}"


def run_many(work: Sequence[tuple[str, int]], jobs: int) -> int:
    """Run, show progress, judge; the exit code."""
    modes, seeds = sorted({mode for mode, _ in work}), {seed for _, seed in work}
    coverage = {mode: Counter[str]() for mode in modes}
    begun_s, done, operations, simulated_s, cpu_s, failed = time.perf_counter(), 0, 0, 0.0, 0.0, 0
    progress = Progress(len(work), "simulations")
    for outcome in outcomes(work, jobs):
        done += 1
        coverage[outcome.mode].update(outcome.coverage)
        operations, simulated_s, cpu_s = operations + outcome.operations, simulated_s + outcome.simulated_s, cpu_s + outcome.cpu_s
        if outcome.violations:
            failed += 1
            progress.say(report(outcome))
        progress.step(f"{failed} failed")
    progress.end()
    spent_s = max(time.perf_counter() - begun_s, 1e-9)
    faults = sum(counts["faults"] for counts in coverage.values())
    print(f"{len(seeds)} seeds, {done} simulations in {spent_s:.0f} s, {failed} failed")
    print(f"{operations} operations in {simulated_s:.0f} simulated seconds, {faults} faults")
    print(f"{simulated_s / spent_s:.0f} times faster than real time, {simulated_s / max(cpu_s, 1e-9):.0f} times on each core")
    for mode in modes:
        print(f"{mode}: " + ", ".join(f"{what} {count}" for what, count in sorted(coverage[mode].items())))
    never = missing(modes, coverage) if len(seeds) >= COVERAGE_SEEDS_MIN else []
    if never:
        print(f"never met: {', '.join(never)}")
    return 1 if failed or never else 0


def trace_one(mode: str, seed: int) -> int:
    """Replay a seed and print what happened; the exit code."""
    outcome = run_seed(mode, seed, tracing=True)
    for line in outcome.trace:
        print(line)
    for violation in outcome.violations:
        print(f"violated {violation}")
    print(f"seed {seed} ({mode}): {len(outcome.violations)} violations in {outcome.simulated_s:.1f} simulated seconds")
    return 1 if outcome.violations else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hunt:
    """What became of a planted bug: ``caught`` is the outcome that shows it, None where none did."""

    name: str
    simulations: int
    spent_s: float
    caught: Outcome | None

    def __str__(self) -> str:
        """One line, for a person."""
        if self.caught is None:
            return f"{self.name}: NOT caught in {self.simulations} simulations, {self.spent_s:.0f} s"
        by = f"seed {self.caught.seed} ({self.caught.mode})"
        how = f"simulation {self.simulations}, {by}, in {self.spent_s:.0f} s"
        return f"{self.name}: caught by {how}, {self.caught.violations[0]}"


def hunt(job: tuple[str, range]) -> Hunt:
    """Plant a bug, and run seeds until one fails."""
    name, seeds = job
    begun_s, tried, caught = time.perf_counter(), 0, None
    own = {"groups": GROUP_PLANTS, "moves": MOVE_PLANTS, "returns": RETURN_PLANTS}
    modes = tuple(mode for mode, plants in own.items() if name in plants) or ("safety", "liveness")
    with ALL_PLANTS[name]():
        for work in ((mode, seed) for seed in seeds for mode in modes):
            tried += 1
            outcome = _brief(work)
            if outcome.violations and not outcome.violations[0].startswith(TOO_SMALL):
                caught = outcome
                break
    return Hunt(name=name, simulations=tried, spent_s=time.perf_counter() - begun_s, caught=caught)


def run_planted(names: Sequence[str], seeds: range, jobs: int) -> int:
    """Hunt for each bug; the exit code says whether all were caught."""
    escaped = 0
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        for found in pool.imap_unordered(hunt, [(name, seeds) for name in names]):
            escaped += found.caught is None
            print(found, flush=True)
    return 1 if escaped else 0


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate whole clusters on virtual time.")
    parser.add_argument("--seeds", type=int, default=None, help="how many [100; to catch a planted bug, at most 150]")
    parser.add_argument("--start", type=int, default=1, help="the first")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument(
        "--mode", choices=("mixed", "all", *SCENARIOS), default="mixed", help="of each seed [mixed: one of them in turn]"
    )
    parser.add_argument("--trace", type=int, metavar="SEED", help="replay one seed and print all that happens")
    parser.add_argument("--planted", nargs="*", metavar="BUG", help="plant bugs, all or these, and catch them")
    given = parser.parse_args(arguments)
    if unknown := set(given.planted or ()) - ALL_PLANTS.keys():
        parser.error(f"there is no bug {', '.join(sorted(unknown))}; there are {', '.join(ALL_PLANTS)}")
    if given.planted is not None:
        seeds = range(given.start, given.start + (given.seeds or PLANTED_SEEDS))
        return run_planted(given.planted or list(ALL_PLANTS), seeds, given.jobs)
    if given.trace is not None:
        return trace_one(*jobs_of(given.mode, range(given.trace, given.trace + 1))[0])
    return run_many(jobs_of(given.mode, range(given.start, given.start + (given.seeds or 100))), given.jobs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
