"""``python -m tests.chaos --minutes 10``: mixed faults on a real cluster. Exit 0 where nothing was found, 1 otherwise."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path
from random import SystemRandom

from tests.chaos.hunt import hunt
from tests.chaos.plan import KINDS
from tests.chaos.planted import BUGS
from tests.chaos.recorder import HISTORY_FILE
from tests.chaos.run import FINDINGS_FILE, PICTURE_FILE, Options, Report, run

SHOWN_MAX = 20


def main(argv: list[str]) -> int:
    """Run and report; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Mixed faults on a cluster of real processes.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long, about [10]")
    parser.add_argument("--seed", type=int, default=None, help="of the plan of faults [a fresh one]")
    parser.add_argument("--nodes", type=int, choices=(3, 5), default=3)
    parser.add_argument("--only", default="", help=f"faults to draw from, by comma: {', '.join(KINDS)}")
    parser.add_argument("--proxies", action="store_true", help="cut links by proxies also where network namespaces can be made")
    parser.add_argument("--rate", type=float, default=25.0, help="records a second of each of three producers [25]")
    parser.add_argument("--out", type=Path, default=None, help="directory of what a run leaves [var/chaos/SEED]")
    parser.add_argument("--planted", choices=BUGS, default=None, metavar="BUG", help=f"catch a planted bug: {', '.join(BUGS)}")
    given = parser.parse_args(argv)
    if given.planted is not None:
        found = hunt(given.planted, (given.out or Path("var") / "planted" / given.planted).absolute(), proxies=given.proxies)
        print(found)
        return 0 if found.caught else 1
    seed = SystemRandom().randrange(10**6) if given.seed is None else given.seed
    only = tuple(filter(None, given.only.split(","))) or tuple(KINDS)
    if unknown := [name for name in only if name not in KINDS]:
        parser.error(f"there is no fault {', '.join(unknown)}")
    directory = (given.out or Path("var") / "chaos" / str(seed)).absolute()
    options = Options(
        seconds=given.minutes * 60, seed=seed, directory=directory, nodes=given.nodes, only=only, proxies=given.proxies,
        rate=given.rate,
    )  # fmt: skip
    print(f"seed {seed}: about {given.minutes:g} minutes on {given.nodes} nodes, into {directory}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # nodes, mounts and namespaces are not to outlive the run
    report = asyncio.run(run(options))
    _tell(report, options)
    if report.findings:
        again = f"python -m tests.chaos --minutes {given.minutes:g} --seed {seed} --nodes {given.nodes} --rate {given.rate:g}"
        again += f" --only {given.only}" if given.only else ""
        again += " --proxies" if given.proxies else ""
        print(f"\nto replay: {again}\nnodes' disks and logs are in {directory / 'nodes'}")
    return 1 if report.findings else 0


def _tell(report: Report, options: Options) -> None:
    for line in report.summary.lines():
        print(line)
    for group, mishaps in report.mishaps.items():
        print(
            f"members of group {group}: "
            + (", ".join(f"{count} {kind}" for kind, count in sorted(mishaps.items())) or "left alone")
        )
    print("faults: " + ", ".join(f"{count} {kind}" for kind, count in sorted(report.played.items())))
    if report.left_out:
        print(f"not possible on this machine, left out: {', '.join(report.left_out)}")
    print(f"history {options.directory / HISTORY_FILE}, picture {options.directory / PICTURE_FILE}")
    print(f"{len(report.findings)} findings" + (f", all in {options.directory / FINDINGS_FILE}:" if report.findings else ""))
    for finding in report.findings[:SHOWN_MAX]:
        print(f"  {finding}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
