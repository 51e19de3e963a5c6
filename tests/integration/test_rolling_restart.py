"""Nodes are restarted one by one, as for new settings or a new version, while clients of both doors go on."""

from __future__ import annotations

from raftlog import Client
from raftlog.testing import LocalCluster
from tests.integration.rolling import busy, committed, stop_in_order


async def test_a_rolling_restart_under_load_fails_no_call() -> None:
    """Each node hands over what it leads and ends with 0; it is ready again when it has caught up, and then the next one may go:
    so a majority is always there. Nothing is lost, doubled or reordered, and no client hears of it."""
    async with LocalCluster(nodes=3) as cluster, Client(cluster.brokers) as client, busy(cluster, client):
        for node_id in cluster.nodes:
            await stop_in_order(cluster, node_id)
            before = await committed(client)
            await cluster.start(node_id)
            replicas = (await client.admin.describe_replicas(cluster.nodes[node_id].grpc)).replicas
            behind = {r.group_id: (r.commit_index, before[r.topic, r.partition]) for r in replicas}
            assert all(has >= wanted for has, wanted in behind.values()), behind
