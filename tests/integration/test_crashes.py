"""Nodes that die or stop under load: nothing acknowledged is lost, doubled or out of order."""

from __future__ import annotations

import asyncio

from raftlog import Client
from raftlog.testing import SyncLocalCluster
from tests.integration.support import caught_up, leader_of, loaded, new_lines

PARTITIONS = 3


async def test_a_killed_leader_costs_nothing_that_was_acknowledged(cluster: SyncLocalCluster, client: Client) -> None:
    """Others take over within the producer's patience, and the killed node catches up when it comes back."""
    await client.admin.create_topic("killed", partitions=PARTITIONS, replication_factor=3)
    async with loaded(client, "killed", PARTITIONS) as load:
        await load.progress()
        victim = await leader_of(client, "killed")
        await asyncio.to_thread(cluster.kill, victim)
        await load.progress()
        assert await leader_of(client, "killed") != victim
        await asyncio.to_thread(cluster.start, victim)
        await load.progress()
        await caught_up(client, cluster.nodes[victim], "killed", PARTITIONS)
    result = await load.check()
    assert result.holds, result
    await caught_up(client, cluster.nodes[victim], "killed", PARTITIONS)


async def test_all_nodes_killed_at_once_lose_nothing_that_was_acknowledged(cluster: SyncLocalCluster, client: Client) -> None:
    """The producer goes on by itself when they are back."""
    await client.admin.create_topic("all-killed", partitions=PARTITIONS, replication_factor=3)
    async with loaded(client, "all-killed", PARTITIONS) as load:
        await load.progress()
        async with asyncio.TaskGroup() as group:
            for node_id in cluster.nodes:
                group.create_task(asyncio.to_thread(cluster.kill, node_id))
        acknowledged = dict(load.acknowledged)
        async with asyncio.TaskGroup() as group:
            for node_id in cluster.nodes:
                group.create_task(asyncio.to_thread(cluster.start, node_id))
        await load.progress()
    assert acknowledged
    result = await load.check()
    assert result.holds, result


async def test_a_stopped_leader_hands_over_before_it_ends(cluster: SyncLocalCluster, client: Client) -> None:
    """SIGTERM: others lead while the process still lives, each a single term later; no call fails, and it exits with 0."""
    await client.admin.create_topic("stopped", partitions=PARTITIONS, replication_factor=3)
    async with loaded(client, "stopped", PARTITIONS) as load:
        await load.progress()
        leaving = cluster.nodes[await leader_of(client, "stopped")]
        before = {p.partition: p for p in (await client.admin.describe_topic("stopped")).topic.partitions}
        seen_bytes = leaving.log_path.stat().st_size
        assert await asyncio.to_thread(cluster.stop, leaving.node_id) == 0
        said = new_lines(leaving.log_path, seen_bytes)
        assert "leadership handed over" in said
        after = {p.partition: p for p in (await client.admin.describe_topic("stopped")).topic.partitions}
        await load.progress()
        await asyncio.to_thread(cluster.start, leaving.node_id)
    for number, partition in before.items():
        moved = partition.leader == leaving.node_id
        assert after[number].leader not in (None, leaving.node_id)
        assert after[number].leader_epoch - partition.leader_epoch == (1 if moved else 0)
    result = await load.check()
    assert result.holds, result
