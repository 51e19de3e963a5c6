"""A cluster whose nodes are replaced by newer ones, one by one: what is new waits until all have it and an operator says so.

The older version is this one, with nodes that claim to support no feature level above the first; ``make upgrade-test`` does the
same with the version before."""

from __future__ import annotations

import os

import pytest

from raftlog import Client, TopicPartition
from raftlog.core.features import LEVEL_MAX_VARIABLE, NEWEST
from raftlog.errors import FeatureLevelError
from raftlog.testing import LocalCluster, LocalClusterError
from tests.integration.rolling import GRPC_TOPIC, busy, stop_in_order
from tests.integration.support import run_node, until


def set_level(cluster: LocalCluster, node_id: int, level: int | None) -> None:
    """From its next start on the node supports no level above this one."""
    environ = {name: value for name, value in cluster.nodes[node_id].environ.items() if name != LEVEL_MAX_VARIABLE}
    cluster.nodes[node_id].environ = environ if level is None else {**environ, LEVEL_MAX_VARIABLE: str(level)}


async def levels(client: Client, cluster: LocalCluster) -> list[int]:
    """The cluster's level as each node knows it."""
    found = []
    for node in cluster.nodes.values():
        async with Client([node.grpc]) as one:
            found.append((await one.admin.describe_cluster()).level)
    return found


async def test_a_new_cluster_begins_at_the_newest_level() -> None:
    """A node that joins is marked with it, too, and is refused by an older version from then on."""
    async with LocalCluster(nodes=1) as cluster, Client(cluster.brokers) as client:
        assert (await client.admin.describe_cluster()).level == NEWEST
        joined = await cluster.join()
        assert (await client.admin.describe_cluster()).nodes[1].level_max == NEWEST
        assert await cluster.stop(joined) == 0
        set_level(cluster, joined, 1)
        node = cluster.nodes[joined]
        code, said = await run_node(*node.flags, environ=os.environ | dict(node.environ))
        assert code == 1
        assert f"may hold forms of feature level {NEWEST}; this version of raftlog supports level 1" in said


async def test_a_rolling_upgrade_under_load_and_the_level_raised() -> None:
    """No call fails, not even while the level is raised. Until then the cluster stays at the level it had: what is new is refused
    and says how to get it, a node may go back, and whoever holds the cluster back is named."""
    async with (
        LocalCluster(nodes=3, environ={LEVEL_MAX_VARIABLE: "1"}) as cluster,
        Client(cluster.brokers) as client,
        busy(cluster, client),
    ):
        assert await levels(client, cluster) == [1, 1, 1]
        for node_id in (1, 2, 3):
            await stop_in_order(cluster, node_id)
            set_level(cluster, node_id, None)
            await cluster.start(node_id)
            if node_id < 3:
                plan = await client.admin.raise_level(NEWEST, dry_run=True)
                assert [node.node_id for node in plan.nodes if node.problem] == list(range(node_id + 1, 4))
                said = f"stays at feature level 1, not {NEWEST}: .*its version supports level 1"
                with pytest.raises(FeatureLevelError, match=said):
                    await client.admin.raise_level(NEWEST)
        other_order = {TopicPartition(GRPC_TOPIC, 0): [3, 2, 1]}
        with pytest.raises(FeatureLevelError, match=r"needs feature level 2, .* raftlog cluster upgrade"):
            await client.admin.move_partitions(other_order)
        assert await levels(client, cluster) == [1, 1, 1]
        await stop_in_order(cluster, 2)
        set_level(cluster, 2, 1)  # back to the version before
        await cluster.start(2)
        await stop_in_order(cluster, 2)
        set_level(cluster, 2, None)
        await cluster.start(2)
        report = await client.admin.raise_level()
        assert (report.level, report.target, report.raised) == (1, NEWEST, True)

        async def everywhere() -> bool:
            return await levels(client, cluster) == [NEWEST] * 3

        await until(everywhere, "all nodes had applied the new level")
        await client.admin.move_partitions(other_order)
        await stop_in_order(cluster, 1)
        set_level(cluster, 1, 1)
        await cluster.start(1, wait_ready=False)
        assert await cluster.nodes[1].ended(20.0)
        assert cluster.nodes[1].exit_code == 1
        assert f"start a version that supports level {NEWEST}" in cluster.nodes[1].log_tail().lower()
        set_level(cluster, 1, None)
        await cluster.start(1)
        with pytest.raises(LocalClusterError, match="the version of node 4 supports level 1"):
            await cluster.join()
        set_level(cluster, 4, None)
        await cluster.start(4)
