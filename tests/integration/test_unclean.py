"""A majority of the disks is lost for good: real nodes, and the one command that goes on without them."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

from raftlog import Client
from raftlog.cli.health import findings
from raftlog.client.values import NodeReplicas
from raftlog.errors import UnavailableError
from raftlog.testing import LocalCluster
from tests.integration.room import storage_command
from tests.integration.support import Load, caught_up, loaded, read_all, until

PARTITIONS = 2


async def published(client: Client, cluster: LocalCluster) -> Load:
    """Records in a topic with three replicas, held by all nodes."""
    await client.admin.create_topic("t", partitions=PARTITIONS, replication_factor=3)
    async with loaded(client, "t", PARTITIONS) as load:
        await load.progress()
    for node in cluster.nodes.values():
        await caught_up(client, node, "t", PARTITIONS)
    return load


async def kinds(client: Client, cluster: LocalCluster) -> list[str]:
    """What the nodes that run say is wrong, but for those that do not."""
    info = await client.admin.describe_cluster()
    up = [node for node in info.nodes if cluster.nodes[node.node_id].alive]
    answers: dict[int, NodeReplicas | str] = {node.node_id: await client.admin.describe_replicas(node.node_id) for node in up}
    topics = await client.admin.list_topics(internal=True)
    partitions = [partition for topic in topics for partition in topic.partitions]
    return sorted({finding.kind for finding in findings(up, partitions, answers)})


async def test_one_node_of_three_goes_on_when_it_is_told_to(tmp_path: Path) -> None:
    """Nothing goes on by itself; then everything that the survivor holds is there, and records are taken. A lost disk that comes
    back is refused and never used again; its node joins as a new one, and so does the one whose disk is gone. Health says what
    happened until it is told to forget it."""
    async with LocalCluster(nodes=3, data_dir=tmp_path) as cluster, Client(cluster.brokers) as client:
        load = await published(client, cluster)
        for node_id in (2, 3, 1):
            await cluster.kill(node_id)
        shutil.rmtree(tmp_path / "node-3")
        directory = tmp_path / "node-1"
        words = ("force-configuration", "--data-dir", directory, "--lost-nodes", "2,3")
        code, _, said = await storage_command(*words)
        assert code == 1
        assert "--yes-i-accept-data-loss" in said
        code, out, said = await storage_command(*words, "--yes-i-accept-data-loss", "--format", "json")
        assert code == 0, said
        assert {group["topic"] for group in json.loads(out)["groups"]} == {None, "t"}
        await cluster.start(1)
        read = await read_all(client, "t", PARTITIONS)
        assert {seen.number for records in read.values() for seen in records} >= load.acknowledged.keys()
        async with client.producer() as producer:
            for number in range(PARTITIONS):
                await producer.publish("t", b"more", partition=number)
        await client.admin.create_topic("new", replication_factor=1)
        assert await kinds(client, cluster) == ["unclean"]
        await cluster.start(2)
        assert "the disk of node 2 was declared lost for good" in (tmp_path / "node-2" / "set-aside-1" / "why.txt").read_text()
        await cluster.start(3)
        for node in cluster.nodes.values():
            await caught_up(client, node, "t", PARTITIONS)

        async def replaced() -> bool:
            with contextlib.suppress(UnavailableError):
                return not await client.admin.list_moves()
            return False

        await until(replaced, "the lost nodes' replicas were replaced")
        await cluster.stop(1)
        code, out, said = await storage_command("forget-unclean", "--data-dir", directory, "--format", "json")
        assert code == 0, said
        assert len(json.loads(out)["groups"]) == 1 + PARTITIONS
        await cluster.start(1)

        async def well() -> bool:
            with contextlib.suppress(UnavailableError):
                return await kinds(client, cluster) == []
            return False

        await until(well, "all was well")


async def test_force_over_a_majority_that_is_there_is_refused(tmp_path: Path) -> None:
    """One lost node of three needs no force: the plan says so, and nothing is written."""
    async with LocalCluster(nodes=3, data_dir=tmp_path) as cluster, Client(cluster.brokers) as client:
        await published(client, cluster)
        await cluster.stop(1)
        code, out, said = await storage_command(
            "force-configuration", "--data-dir", tmp_path / "node-1", "--lost-nodes", "3", "--yes-i-accept-data-loss"
        )
        assert code == 1
        assert "its majority is not lost: 2 of 3 voters are left" in out
        assert "nothing was changed" in said
        await cluster.start(1)
        async with client.producer() as producer:
            await producer.publish("t", b"more")
