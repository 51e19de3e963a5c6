"""A cluster of the version before becomes one of this version while clients of both doors go on."""

from __future__ import annotations

import logging
from pathlib import Path

from raftlog import Client, TopicPartition
from raftlog.core.features import NEWEST
from raftlog.errors import FeatureLevelError, UnsupportedVersionError
from raftlog.testing import LocalCluster
from tests.integration.rolling import GRPC_TOPIC, KAFKA_TOPIC, PARTITIONS, busy, stop_in_order
from tests.integration.support import until

_log = logging.getLogger(__name__)

MIXED_TOPIC = "made-by-both"
"""Made while there are nodes of both versions; so its metadata comes of both."""


async def upgrade(old: Path, data_dir: Path) -> None:
    """The whole way; every step asserts what it must find.

    Args:
        old: the interpreter that has the version before.
        data_dir: where the nodes store.
    """
    async with (
        LocalCluster(nodes=3, data_dir=data_dir, python=old) as cluster,
        Client(cluster.brokers) as client,
        busy(cluster, client),
    ):
        _log.info("three nodes of the version before are busy")
        await _replace_one_by_one(cluster, client)
        await _go_back_and_forth(cluster, old)
        await _raise(cluster, client)
        await _refuse_the_version_before(cluster, old)
        await _use_what_is_new(cluster, client)
    _log.info("nothing was lost, doubled or reordered, and no call of a client failed")


async def _replace_one_by_one(cluster: LocalCluster, client: Client) -> None:
    for node_id in (1, 2, 3):
        await _restart_with(cluster, node_id, None)
        if node_id < 3:
            await client.admin.create_topic(f"{MIXED_TOPIC}-{node_id}", partitions=2, replication_factor=3)
            await _held_back(cluster, node_id)
        await _agree(cluster)
        _log.info("node %d is of this version", node_id)


async def _held_back(cluster: LocalCluster, newest: int) -> None:
    """As long as a node of the version before is there, the level stays, and whoever is to be upgraded is named."""
    async with Client([cluster.nodes[newest].grpc]) as client:
        try:
            plan = await client.admin.raise_level(NEWEST, dry_run=True)
        except FeatureLevelError as error:
            assert "the controller, is of the first version" in str(error)  # noqa: PT017 - which of the two it is, is chance
        else:
            assert [node.node_id for node in plan.nodes if node.problem] == [n for n in cluster.nodes if n > newest]


async def _agree(cluster: LocalCluster) -> None:
    """All nodes, of whichever version, tell the same of every topic."""

    async def same() -> bool:
        told = []
        for node in cluster.nodes.values():
            async with Client([node.grpc]) as client:
                topics = await client.admin.list_topics()
                told.append([(t.name, t.topic_id, t.configs, [p.replicas for p in t.partitions]) for t in topics])
        return all(one == told[0] for one in told)

    await until(same, "all nodes told the same of the topics")


async def _go_back_and_forth(cluster: LocalCluster, old: Path) -> None:
    """Until the level is raised a node may go back to the version before."""
    await _restart_with(cluster, 2, old)
    async with Client([cluster.nodes[2].grpc]) as client:
        try:
            await client.admin.raise_level(dry_run=True)
        except UnsupportedVersionError:
            pass
        else:
            raise AssertionError("node 2 is not of the version before")
    await _agree(cluster)
    await _restart_with(cluster, 2, None)
    await _agree(cluster)
    _log.info("node 2 went back to the version before, and came again")


async def _raise(cluster: LocalCluster, client: Client) -> None:
    report = await client.admin.raise_level()
    assert (report.level, report.target, report.raised) == (1, NEWEST, True), report

    async def everywhere() -> bool:
        levels = []
        for node in cluster.nodes.values():
            async with Client([node.grpc]) as one:
                levels.append((await one.admin.describe_cluster()).level)
        return levels == [NEWEST] * len(cluster.nodes)

    await until(everywhere, "all nodes had applied the new level")
    _log.info("the cluster is at feature level %d", NEWEST)


async def _refuse_the_version_before(cluster: LocalCluster, old: Path) -> None:
    await stop_in_order(cluster, 1)
    cluster.set_python(1, old)
    await cluster.start(1, wait_ready=False)
    assert await cluster.nodes[1].ended(30.0), "the version before began over data that it cannot read"
    assert cluster.nodes[1].exit_code == 1
    assert "node.identity cannot be used: it has format 2" in cluster.nodes[1].log_tail()
    cluster.set_python(1, None)
    await cluster.start(1)
    _log.info("the version before refuses the data of node 1 by name")


async def _use_what_is_new(cluster: LocalCluster, client: Client) -> None:
    """A node joins, and takes replicas of groups that the version before made."""
    cluster.python = None
    assert await cluster.join() == 4
    wanted = {
        TopicPartition(topic, number): [4, *(node for node in (1, 2, 3) if node != number % 3 + 1)]
        for topic in (GRPC_TOPIC, KAFKA_TOPIC)
        for number in range(PARTITIONS)
    }
    await client.admin.move_partitions(wanted, reason="a new node")

    async def still() -> bool:
        return not await client.admin.list_moves()

    await until(still, "all replicas had moved")
    for topic in (GRPC_TOPIC, KAFKA_TOPIC):
        found = (await client.admin.describe_topic(topic)).topic.partitions
        assert [list(one.replicas) for one in found] == [wanted[TopicPartition(topic, n)] for n in range(PARTITIONS)]
    _log.info("a node joined, and replicas moved to it")


async def _restart_with(cluster: LocalCluster, node_id: int, python: Path | None) -> None:
    await stop_in_order(cluster, node_id)
    cluster.set_python(node_id, python)
    await cluster.start(node_id)
