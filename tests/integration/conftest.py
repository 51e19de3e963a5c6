"""One cluster of three nodes for the tests that leave it whole."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Iterator

import pytest

from raftlog import Client
from raftlog.testing import SyncLocalCluster
from tests.integration.room import MIB, small_disk


@pytest.fixture(scope="session")
def cluster() -> Iterator[SyncLocalCluster]:
    """Three nodes; retention is looked after often. Tests share it: each has topics of its own, and restarts what it ends."""
    with SyncLocalCluster(nodes=3, settings={"log-retention-check-interval-ms": 200}) as started:
        yield started


@pytest.fixture
async def client(cluster: SyncLocalCluster) -> AsyncIterator[Client]:
    """A client of it."""
    async with Client(cluster.brokers) as connected:
        yield connected


@pytest.fixture(scope="module")
def may_mount(tmp_path_factory: pytest.TempPathFactory) -> bool:
    """Whether this machine lets a test mount a disk; where it does not, the node is told of a small one by its limits."""
    try:
        with small_disk(tmp_path_factory.mktemp("mount") / "probe", MIB):
            return True
    except (subprocess.CalledProcessError, OSError):
        return False
