"""Nodes join a running cluster, and come back without their data, while publishing goes on."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from raftlog import Client
from raftlog.errors import IndeterminateError, NodeInUseError, UnavailableError
from raftlog.testing import LocalCluster, LocalClusterError, LocalNode
from tests.integration.support import caught_up, loaded, run_node, until

TOPIC = "joining"


@pytest.fixture
async def three() -> AsyncIterator[LocalCluster]:
    """A cluster to change."""
    async with LocalCluster(nodes=3) as cluster:
        yield cluster


async def make_topic(client: Client, name: str, replication_factor: int) -> None:
    await client.admin.create_topic(name, partitions=1, replication_factor=replication_factor)


def flags_of(node: LocalNode, **others: object) -> list[str]:
    """A node's flags, with ports of its own and some others."""
    free = {f"{door}-listen": "127.0.0.1:0" for door in ("peer", "grpc", "kafka", "admin")}
    wanted = {**dict(flag.removeprefix("--").split("=", 1) for flag in node.flags), **free}
    wanted |= {name.replace("_", "-"): str(value) for name, value in others.items()}
    return [f"--{name}={value}" for name, value in wanted.items()]


async def test_a_node_joins_a_running_cluster(three: LocalCluster, tmp_path: Path) -> None:
    """It is ready when it knows the metadata; it takes replicas and calls, and starts again by the same flags."""
    async with Client(three.brokers) as client:
        await make_topic(client, TOPIC, 3)
        async with loaded(client, TOPIC, 1) as load:
            assert await three.join(rack="r4") == 4
            await load.progress()
        described = await client.admin.describe_cluster()
        assert [(node.node_id, node.rack) for node in described.nodes] == [(1, ""), (2, ""), (3, ""), (4, "r4")]
        await make_topic(client, "on-four", 4)
        async with Client([three.nodes[4].grpc]) as through, loaded(through, "on-four", 1) as load:
            await load.progress()
            await three.restart(4)
            await load.progress()
        code, said = await run_node(
            *flags_of(three.nodes[4], data_dir=tmp_path / "another"), environ=os.environ | dict(three.nodes[4].environ)
        )
        assert code == 1
        assert "node 4 is up: the id is taken" in said.splitlines()[-1]
        assert three.nodes[4].alive


async def test_a_cluster_of_one_grows_to_three_voters() -> None:
    """Then it lives without the node that it began with."""
    async with LocalCluster(nodes=1) as cluster:
        async with Client(cluster.brokers) as client:
            await make_topic(client, TOPIC, 1)
        await cluster.join()
        await cluster.join(at=2)
        log = cluster.nodes[1].log_path
        await until(
            lambda: "group 0 changes to voters [1/1, 2/2, 3/2], learners []" in log.read_text(), "three nodes are to vote"
        )
        async with Client(cluster.brokers) as client:
            await make_topic(client, "behind-it", 1)  # what is committed behind the change shows that it is, too
        async with Client([cluster.nodes[2].grpc, cluster.nodes[3].grpc]) as client:
            await cluster.kill(1)

            async def created() -> bool:
                try:
                    await make_topic(client, "without-the-first", 2)
                except UnavailableError:
                    return False
                return True

            await until(created, "the others command")
            async with loaded(client, "without-the-first", 1) as load:
                await load.progress()


async def test_a_node_that_is_told_to_join_waits_for_its_cluster(tmp_path: Path) -> None:
    """Whoever starts first; and it says what it waits for."""
    async with LocalCluster(nodes=1, data_dir=tmp_path) as cluster:
        await cluster.kill(1)
        await cluster.join(wait_ready=False)
        log = cluster.nodes[2].log_path
        await until(lambda: log.exists() and f"cannot reach {cluster.nodes[1].peer}" in log.read_text(), "it says so")
        await cluster.start(1)
        await cluster.nodes[2].ready(20.0)


@pytest.mark.parametrize("removed", [4, 1])
async def test_a_removed_node_ends_and_may_come_back_as_a_new_one(three: LocalCluster, removed: int) -> None:
    """Also where it led the metadata; its data directory is of no more use, and an empty one is."""
    await three.join()
    node = three.nodes[removed]
    others = [other.grpc for other in three.nodes.values() if other is not node]
    async with Client(others) as client:
        await make_topic(client, TOPIC, 3)
        async with loaded(client, TOPIC, 1) as load:
            await client.admin.drain_node(removed)

            async def gone() -> bool:
                try:
                    await client.admin.remove_node(removed)
                except (NodeInUseError, UnavailableError, IndeterminateError):
                    return False
                return True

            await until(gone, "it is drained and removed")
            await until(lambda: not node.alive, "it ends")
            assert "was removed from the cluster" in node.log_path.read_text().splitlines()[-1]
            with pytest.raises(LocalClusterError, match="was removed from the cluster"):
                await three.start(removed)
            await load.progress()
        await asyncio.to_thread(wiped, node)
        if removed == 4:
            await three.start(4)  # by its --join
            return
        with pytest.raises(LocalClusterError, match="has begun without node 1; to add it, start it with --join"):
            await three.start(1)


def wiped(node: LocalNode) -> None:
    shutil.rmtree(node.data_dir)


def without_log(node: LocalNode) -> None:
    shutil.rmtree(node.data_dir / "log")


def cut_short(node: LocalNode) -> None:
    os.truncate(node.data_dir / "log" / "data.mdb", 3 * 4096)


def overwritten(node: LocalNode) -> None:
    with (node.data_dir / "log" / "data.mdb").open("r+b") as file:
        file.write(bytes(range(256)) * 64)


def without_identity(node: LocalNode) -> None:
    (node.data_dir / "node.identity").unlink()


@pytest.mark.parametrize(
    ("lose", "said"),
    [
        (wiped, ""),
        (without_log, "its log/data.mdb is gone"),
        (cut_short, "is cut short"),
        (overwritten, "is not an LMDB data file"),
        (without_identity, "has a log but no node.identity"),
    ],
)
async def test_a_founder_that_lost_its_data_comes_back_by_itself(
    three: LocalCluster, lose: Callable[[LocalNode], None], said: str
) -> None:
    """As another replica of itself, by the flags that it founded the cluster with; what was left is kept aside."""
    node = three.nodes[3]
    async with Client(three.brokers) as client:
        await make_topic(client, TOPIC, 3)
        async with loaded(client, TOPIC, 1) as load:
            await load.progress()
            await three.stop(3)
            await asyncio.to_thread(lose, node)
            await three.start(3)
            await load.progress()
        assert "this node has joined" in node.log_path.read_text()
        await group_0_has(three, "3/2")
        await caught_up(client, node, TOPIC, 1)
        assert said in why_set_aside(node)
        assert (await load.check()).holds


async def test_an_old_copy_of_a_data_directory_comes_back_as_another_replica(three: LocalCluster) -> None:
    """Its peers tell it what it is; it sets the copy aside, in the same process, and joins."""
    node = three.nodes[3]
    kept = node.data_dir.with_name("kept")
    async with Client(three.brokers) as client:
        await make_topic(client, TOPIC, 3)
        async with loaded(client, TOPIC, 1) as load:
            await three.stop(3)
            await asyncio.to_thread(shutil.copytree, node.data_dir, kept)
            await three.start(3)
            await load.progress()
            await three.stop(3)
            await asyncio.to_thread(shutil.rmtree, node.data_dir)
            kept.rename(node.data_dir)
            await three.start(3, wait_ready=False)
            await group_0_has(three, "3/2")
            await node.ready(20.0)
            await load.progress()
        await caught_up(client, node, TOPIC, 1)
        assert "this is an old copy of its data directory" in why_set_aside(node)
        assert (await load.check()).holds


def why_set_aside(node: LocalNode) -> str:
    """What stands beside the data that was set aside, or in the identity, where there was none."""
    places = sorted(node.data_dir.glob("set-aside-*"))
    return "".join((place / "why.txt").read_text() for place in places) or node.log_path.read_text()


async def group_0_has(cluster: LocalCluster, member: str) -> None:
    """Wait until a member votes in group 0."""

    def votes() -> bool:
        said = "".join(node.log_path.read_text() for node in cluster.nodes.values())
        changes = [line.split("voters ")[1].split(", learners")[0] for line in said.splitlines() if "group 0 changes to" in line]
        return any(member in voters for voters in changes)

    await until(votes, f"{member} votes in group 0")
