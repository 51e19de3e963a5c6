"""A node that was away for long gets from the others what their logs no longer hold."""

from __future__ import annotations

import asyncio

from raftlog import Client
from raftlog.model import ReplicaStatus
from raftlog.testing import LocalCluster, LocalNode
from tests.integration.support import caught_up, loaded, new_lines, read_all, until

SETTINGS = {"log-retention-check-interval-ms": 200, "replica-lag-time-max-ms": 500}
TOPIC = "away"


async def replica(client: Client, node: LocalNode) -> ReplicaStatus:
    """The topic's only partition, as a node sees it."""
    replicas = (await client.admin.describe_replicas(node.grpc)).replicas
    return next(one for one in replicas if one.topic == TOPIC)


async def test_a_node_that_was_away_for_long_gets_a_snapshot() -> None:
    """Retention did not wait for it; it starts behind the others' logs, and in the end has what they have, also on its disk."""
    async with LocalCluster(nodes=3, settings=SETTINGS) as cluster, Client(cluster.brokers) as client:
        await client.admin.create_topic(TOPIC, partitions=1, replication_factor=3, configs={"retention.bytes": "20000"})
        away, others = cluster.nodes[3], [cluster.nodes[1], cluster.nodes[2]]
        async with loaded(client, TOPIC, 1) as load:
            await load.progress()
            held = (await replica(client, away)).last_index
            await cluster.kill(away.node_id)

            async def trimmed() -> bool:
                return all([(await replica(client, node)).first_index > held + 10 for node in others])

            await until(trimmed, "the others let go of what the dead node lacks")
            seen_bytes = away.log_path.stat().st_size
            await cluster.start(away.node_id)
            await load.progress()
        await caught_up(client, away, TOPIC, 1)
        assert "snapshot installed" in new_lines(away.log_path, seen_bytes)
        for node in cluster.nodes.values():
            await cluster.kill(node.node_id)
        async with asyncio.TaskGroup() as group:
            for node in cluster.nodes.values():
                group.create_task(cluster.start(node.node_id))
        await caught_up(client, away, TOPIC, 1)
        assert not (await replica(client, away)).damaged
        (records,) = (await read_all(client, TOPIC, 1)).values()
        assert records[-1].offset == max(place.offset for place in load.acknowledged.values())
