"""``python -m tests.interop``: real clients of Kafka against raftlog, each in an environment of its own; a matrix and JSON."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import shutil
import sys
from pathlib import Path

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # gRPC remarks on every child process; it reads this when it is imported

from tests.interop import matrix
from tests.interop.clients import CLIENTS, ROOT
from tests.interop.features import FEATURES
from tests.interop.running import NODES, Plan, run


def main() -> int:
    """Exit code 0 when no cell failed."""
    parser = argparse.ArgumentParser(prog="make interop", description=__doc__)
    parser.add_argument("--client", action="append", metavar="TEXT", help="only clients whose name and release contain this")
    parser.add_argument("--feature", action="append", metavar="NAME", help="only features whose name begins so")
    parser.add_argument("--brokers", metavar="HOST:PORT", help="another cluster, of Kafka say, instead of one of raftlog's")
    parser.add_argument("--replicas", type=int, metavar="N", help=f"replicas of a topic; {NODES}, and 1 with --brokers")
    parser.add_argument("--seed", type=int, help="of the records' bytes and the topics' names")
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "interop", help="environments, logs, interop.json")
    args = parser.parse_args()
    args.out = args.out.resolve()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    clients = [one for one in CLIENTS if not args.client or any(text in one.title for text in args.client)]
    features = [one for one in FEATURES if not args.feature or any(one.name.startswith(text) for text in args.feature)]
    if not clients or not features:
        parser.error(f"nothing to run; features: {', '.join(one.name for one in FEATURES)}")
    for stale in ("data", "logs"):
        shutil.rmtree(args.out / stale, ignore_errors=True)
    args.out.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        clients=clients,
        features=features,
        home=args.out,
        brokers=args.brokers,
        replicas=args.replicas or (1 if args.brokers else NODES),
        seed=random.getrandbits(24) if args.seed is None else args.seed,
    )
    cells = asyncio.run(run(plan))
    texts = {one.name: one.text for one in FEATURES}
    matrix.write(cells, texts, args.out / "interop.json")
    (args.out / "interop.md").write_text(matrix.markdown(cells, texts))
    matrix.show(cells, texts)
    print(f"{args.out / 'interop.json'}; seed {plan.seed}")
    return int(any(cell.outcome is matrix.Outcome.FAIL for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
