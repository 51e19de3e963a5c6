"""How a cluster begins with real processes: all founders or none, and again where it was interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from raftlog import Client
from raftlog.testing import LocalCluster, LocalClusterError, LocalNode
from raftlog.testing.process import probe
from tests.integration.support import until


@pytest.fixture
async def founders(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    """Three nodes that were laid out and not started."""
    cluster = LocalCluster(nodes=3, data_dir=tmp_path)
    cluster.nodes = cluster._layout(tmp_path)  # entering it would start them all at once
    yield cluster
    await cluster.close()


async def waits(node: LocalNode, what: str) -> None:
    """Wait until the node says on its admin port what it waits for."""

    async def said() -> bool:
        return what in (await probe(node.admin, "/readyz"))[1]

    await until(said, f"node {node.node_id} said {what!r}")


async def test_a_cluster_begins_once_all_founders_are_there(founders: LocalCluster) -> None:
    """Two of three wait, also over a crash; one that waits can be stopped; the third completes them, and they are one cluster."""
    for node_id in (1, 2):
        await founders.start(node_id, wait_ready=False)
    for node_id in (1, 2):
        await waits(founders.nodes[node_id], "waiting for the founding nodes")
    await founders.kill(1)
    assert await founders.stop(2) == 0
    async with asyncio.TaskGroup() as group:
        for node_id in (1, 2, 3):
            group.create_task(founders.start(node_id))
    ids = set()
    for node in founders.nodes.values():
        async with Client(node.grpc) as client:
            described = await client.admin.describe_cluster()
            ids.add(described.cluster_id)
    assert len(ids) == 1
    assert ids != {""}


async def test_founders_with_different_voters_are_refused(founders: LocalCluster) -> None:
    """Each says so, and ends; with the same list they begin, for nothing was promised yet."""
    astray, flags = founders.nodes[2], founders.nodes[2].flags
    voters = f"--voters=1={founders.nodes[1].peer},2={astray.peer}"
    astray.flags = tuple(voters if flag.startswith("--voters=") else flag for flag in astray.flags)
    await founders.start(1, wait_ready=False)
    with pytest.raises(LocalClusterError, match="start all founding nodes with the same --voters"):
        await founders.start(2)
    assert astray.exit_code == 1
    await until(lambda: not founders.nodes[1].alive, "the other founder ended too")
    assert founders.nodes[1].exit_code == 1
    assert "start all founding nodes with the same --voters" in founders.nodes[1].log_tail()
    astray.flags = flags
    async with asyncio.TaskGroup() as group:
        for node_id in (1, 2, 3):
            group.create_task(founders.start(node_id))
