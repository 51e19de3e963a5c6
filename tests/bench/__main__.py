"""``python -m tests.bench``: measure raftlog beside a bare replication; a table, JSON, and a picture in ``bench-out/``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # gRPC remarks on every child process; it reads this when it is imported

import uvloop

from raftlog.core.allocator import keep_freed_memory
from tests.bench import growing, kafka, many, publishing, reading, report, rolling, starting
from tests.bench.figures import Figure
from tests.bench.processes import ROOT

NAMES = (
    *(case.name for case in publishing.CASES), *reading.NAMES, *kafka.NAMES, *many.NAMES,
    starting.START, starting.FAILOVER, rolling.NAME, *growing.NAMES,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long and how often everything is measured."""

    rounds: int
    repeats: int
    """Comparisons in a round. Many short ones beat a few long ones: what else a machine does comes and goes within seconds."""
    seconds: float
    kills: int
    starts: int
    rolls: int
    rebalances: int
    published_bytes: int
    data_bytes: int
    """What a node has before it is restarted."""


FULL = Effort(
    rounds=4,
    repeats=3,
    seconds=0.8,
    kills=20,
    starts=5,
    rolls=2,
    rebalances=5,
    published_bytes=1_000_000_000,
    data_bytes=5_000_000_000,
)
QUICK = Effort(
    rounds=1,
    repeats=1,
    seconds=1.0,
    kills=3,
    starts=1,
    rolls=1,
    rebalances=1,
    published_bytes=300_000_000,
    data_bytes=300_000_000,
)


def main() -> int:
    """Exit code 0 when all was measured, whatever the figures are."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute, for a look; figures of a short run are rough")
    parser.add_argument(
        "--only", action="append", metavar="NAME", choices=NAMES, help=f"one of {', '.join(NAMES)}; may be repeated"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "bench-out", help="directory for bench.json and bench.png")
    args = parser.parse_args()
    keep_freed_memory()  # the loads of both sides pass megabytes on, as a node does
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    began = perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    # Beside the output, for that is on a disk: a machine's temporary directory may be memory, where an fsync costs nothing.
    with tempfile.TemporaryDirectory(prefix="data-", dir=args.out) as directory:
        figures = uvloop.run(_measure(args.only or NAMES, Path(directory), QUICK if args.quick else FULL))
    report.write(figures, args.out, seconds=perf_counter() - began, quick=args.quick)
    return 0


async def _measure(names: Sequence[str], directory: Path, effort: Effort) -> list[Figure]:
    figures: list[Figure] = []
    cases = [case for case in publishing.CASES if case.name in names]
    if cases:
        figures += await publishing.measure(
            cases, directory, rounds=effort.rounds, repeats=effort.repeats, seconds=effort.seconds
        )
    if any(name in names for name in reading.NAMES):
        figures += await reading.measure(
            names,
            directory,
            rounds=effort.rounds * effort.repeats,
            seconds=effort.seconds,
            published_bytes=effort.published_bytes,
        )
    if any(name in names for name in kafka.NAMES):
        figures += await kafka.measure(
            names, directory, rounds=effort.rounds, seconds=effort.seconds, rebalances=effort.rebalances
        )  # fmt: skip
    if any(name in names for name in many.NAMES):
        figures += await many.measure(names, directory, rounds=effort.rounds, seconds=effort.seconds)
    if starting.START in names:
        figures.append(await starting.starting(directory, rounds=effort.starts))
    if starting.FAILOVER in names:
        figures += await starting.failover(directory, kills=effort.kills)
    if rolling.NAME in names:
        figures += await rolling.rolling(directory, rounds=effort.rolls)
    if any(name in names for name in growing.NAMES):
        figures += await growing.measure(names, directory, rounds=effort.rounds, data_bytes=effort.data_bytes)
    return figures


if __name__ == "__main__":
    sys.exit(main())
