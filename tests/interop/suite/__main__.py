"""``python -m tests.interop.suite``: kafka-python's own integration tests against raftlog. Nothing of theirs is kept here.

The sdist is fetched and unpacked below ``var/interop``, its tests run in an environment of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tarfile
from contextlib import AsyncExitStack
from pathlib import Path

from raftlog.testing import LocalCluster
from tests.interop.bridges.leash import leashed
from tests.interop.clients import ROOT
from tests.interop.environments import python_of
from tests.interop.suite.adapter import excuses

RELEASE = "3.0.12"
CLAIMED_VERSION = "4.1.0"
"""The suite leaves out what a broker of this version lacks."""
FILES = ("test_consumer_integration.py", "test_producer_integration.py", "test_admin_integration.py")
"""Those of the suite that need a cluster; the ones of SASL and TLS start brokers with settings of their own."""
PACKAGES = (
    f"kafka-python=={RELEASE}", "pytest==8.4.2", "pytest-mock==3.15.1", "pytest-timeout==2.4.0",
    "python-snappy==0.7.3", "lz4==4.4.4", "zstandard==0.23.0",
)  # fmt: skip
TEST_TIMEOUT_S = 90
NODES = 1
"""As the suite starts its own broker: one test reads all partitions by a single fetch."""


def main() -> int:
    """pytest's exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.interop.suite", description=__doc__)
    parser.add_argument("--brokers", metavar="HOST:PORT", help="another cluster, instead of one of raftlog's")
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "interop", help="environment, sources, report")
    args, more = parser.parse_known_args()
    return asyncio.run(run(args.out.resolve(), args.brokers, more))


async def run(home: Path, brokers: str | None, more: list[str]) -> int:
    """Run the suite against a cluster of its own, or ``brokers``; ``more`` goes to pytest."""
    python = await asyncio.to_thread(python_of, home / "suite", PACKAGES)
    sources = await asyncio.to_thread(unpacked, home / "suite-sources", python)
    for name, why in excuses().items():
        print(f"left out: {name}: {why}")
    async with AsyncExitStack() as stack:
        if brokers is None:
            cluster = await stack.enter_async_context(LocalCluster(NODES))
            brokers = cluster.kafka.split(",", maxsplit=1)[0]
        return await _pytest(python, sources, brokers, more)


async def _pytest(python: Path, sources: Path, address: str, more: list[str]) -> int:
    environ = {
        **os.environ,
        "KAFKA_URI": f"kafka://{address}",
        "KAFKA_VERSION": CLAIMED_VERSION,
        "KAFKA_ROOT": str(sources),
        "SUITE_REPLICAS": "1",
        "PYTHONPATH": f"{sources}{os.pathsep}{ROOT}",
    }
    process = await asyncio.create_subprocess_exec(
        *leashed([str(python), "-m", "pytest", "-p", "tests.interop.suite.adapter", "-c", os.devnull]),
        "--rootdir", str(sources), "-q", "-ra", f"--timeout={TEST_TIMEOUT_S}",
        *(f"test/integration/{name}" for name in FILES), *more,
        cwd=sources, env=environ,
    )  # fmt: skip
    return await process.wait()


def unpacked(home: Path, python: Path) -> Path:
    """The sources of the release, fetched once."""
    tree = home / f"kafka_python-{RELEASE}"
    if not tree.exists():
        home.mkdir(parents=True, exist_ok=True)
        fetch = ["download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(home), f"kafka-python=={RELEASE}"]
        subprocess.run([str(python), "-m", "pip", *fetch], check=True)
        with tarfile.open(home / f"{tree.name}.tar.gz") as archive:
            archive.extractall(home, filter="data")
        (tree / "test" / "__init__.py").touch()  # the sdist lacks it, and Python has a package of that name itself
    return tree


if __name__ == "__main__":
    sys.exit(main())
