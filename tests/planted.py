"""``make planted``: every planted bug is hunted, and a table says by what it was caught and how soon. Exit 1 where one escaped.

Simulation hunts on all cores, seed after seed; chaos then runs nodes with the bugs that real processes can show; and what no run
of a cluster would show in any time has a test of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.chaos import hunt as chaos
from tests.chaos.planted import BUGS
from tests.simulation import run as simulation
from tests.simulation.planted import PROVED

ROOT: Final = Path(__file__).parents[1]
BUDGET_S: Final = 600.0
"""What a hunt may take to be called a catch."""

Row = tuple[str, str, float, str]
"""Bug, by what, after how many seconds, and what was found; nothing where it escaped."""


def simulated(jobs: int) -> Iterator[Row]:
    """Every plant of the simulator, as they are caught."""
    seeds = range(1, 1 + simulation.PLANTED_SEEDS)
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        for found in pool.imap_unordered(simulation.hunt, [(name, seeds) for name in simulation.ALL_PLANTS]):
            caught = found.caught
            by = f"simulation {found.simulations}" + (f", seed {caught.seed} ({caught.mode})" if caught else "")
            yield found.name, by, found.spent_s, caught.violations[0] if caught else ""


def on_processes(directory: Path) -> Iterator[Row]:
    """Every plant of real nodes."""
    for name in BUGS:
        found = chaos.hunt(name, directory / name)
        yield f"{name} (real nodes)", f"chaos, {found.faults}", found.spent_s, found.caught


def proved() -> Iterator[Row]:
    """What has a test of its own."""
    for guard, test in PROVED.items():
        begun_s = time.perf_counter()
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        name = f"no-guard-{guard.replace('_', '-')}"
        yield name, "a test of its own", time.perf_counter() - begun_s, "" if done.returncode else test.partition("::")[2]


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.planted", description="Catch every planted bug.")
    parser.add_argument("--jobs", type=int, default=2, help="simulations at a time [2]")
    parser.add_argument("--no-chaos", action="store_true", help="leave the real processes out")
    parser.add_argument("--out", type=Path, default=Path("var") / "planted", help="where nodes store [var/planted]")
    given = parser.parse_args(arguments)
    hunts = [simulated(given.jobs), proved()] + ([] if given.no_chaos else [on_processes(given.out.absolute())])
    escaped, bugs = 0, 0
    for name, by, spent_s, what in (row for rows in hunts for row in rows):
        caught = bool(what) and spent_s <= BUDGET_S
        bugs, escaped = bugs + 1, escaped + (not caught)
        print(
            f"{'caught ' if caught else 'ESCAPED'} {spent_s:4.0f} s  {name:<42} {by}: {what or 'nothing found'}"[:220], flush=True
        )
    print(f"{bugs - escaped} of {bugs} planted bugs were caught")
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
