"""Replicas move between real nodes while clients go on: no record is lost, doubled or reordered, and nothing fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from raftlog import Client, TopicPartition
from raftlog.errors import NodeInUseError, RaftlogError
from raftlog.model import Move
from raftlog.testing import LocalCluster
from tests.integration.support import leader_of, loaded, until

PARTITIONS = 3


@pytest.fixture
async def four() -> AsyncIterator[LocalCluster]:
    """Four nodes."""
    async with LocalCluster(nodes=4) as started:
        yield started


async def _replicas(client: Client, topic: str = "t") -> list[tuple[int, ...]]:
    return [one.replicas for one in (await client.admin.describe_topic(topic)).topic.partitions]


async def _still(client: Client) -> bool:
    """Whether nothing is on the move."""
    try:
        return not await client.admin.list_moves()
    except RaftlogError:
        return False  # the cluster's leader is being elected


async def _lets_go(client: Client, node: int, number: int) -> bool:
    return ("t", number) not in await _held(client, node)


async def _held(client: Client, node: int) -> list[tuple[str, int]]:
    """The replicas on a node, but for the metadata's."""
    replicas = (await client.admin.describe_replicas(node)).replicas
    return [(replica.topic, replica.partition) for replica in replicas if replica.group_id]


async def test_replicas_move_under_load_the_leader_among_them(four: LocalCluster) -> None:
    """Each partition goes to the node that has none of it, in place of its leader; the old replicas are gone at the end."""
    async with Client(four.brokers) as client:
        await client.admin.create_topic("t", partitions=PARTITIONS, replication_factor=3)
        before = await _replicas(client)
        leaders = [await leader_of(client, "t", number) for number in range(PARTITIONS)]
        wanted = {}
        for number, nodes in enumerate(before):
            [free] = set(four.nodes) - set(nodes)
            wanted[TopicPartition("t", number)] = [free if node == leaders[number] else node for node in nodes]
        async with loaded(client, "t", PARTITIONS) as load:
            await client.admin.move_partitions(wanted, reason="a test")
            await until(lambda: _still(client), "all replicas had moved")
            await load.progress(50)
        assert [list(nodes) for nodes in await _replicas(client)] == list(wanted.values())
        for number, leader in enumerate(leaders):  # a node deletes what it has when it has read that it is to have it no more
            await until(partial(_lets_go, client, leader, number), f"node {leader} has nothing of partition {number} any more")
        assert (await load.check()).holds


async def test_a_move_goes_on_when_the_nodes_that_drive_it_are_killed(four: LocalCluster) -> None:
    """The cluster's leader and then the partition's: whoever leads next reads what is wanted, and goes on."""
    async with Client(four.brokers) as client:
        await client.admin.create_topic("t", partitions=1, replication_factor=3)
        [before] = await _replicas(client)
        [free] = set(four.nodes) - set(before)
        async with loaded(client, "t", 1) as load:
            await client.admin.move_partitions({TopicPartition("t", 0): [free, *before[1:]]})
            controller = (await client.admin.describe_cluster()).controller
            assert controller is not None
            await four.kill(controller)
            await four.start(controller)
            leader = await leader_of(client, "t")
            await four.kill(leader)
            await four.start(leader)
            await until(lambda: _still(client), "the replica had moved")
            await load.progress(50)
        assert await _replicas(client) == [(free, *before[1:])]
        assert (await load.check()).holds


async def test_a_node_is_drained_and_removed_under_load(four: LocalCluster) -> None:
    """It holds nothing then, the cluster knows it no more, and its end is noticed by nobody."""
    async with Client(four.brokers) as client:
        await client.admin.create_topic("t", partitions=PARTITIONS, replication_factor=3)
        with pytest.raises(NodeInUseError):
            await client.admin.remove_node(2)
        async with loaded(client, "t", PARTITIONS) as load:
            await client.admin.drain_node(2)
            await until(lambda: _is_drained(client, 2), "node 2 was drained")
            assert await _held(client, 2) == []
            await client.admin.remove_node(2)
            await four.stop(2)
            await load.progress(50)
        assert [node.node_id for node in (await client.admin.describe_cluster()).nodes] == [1, 3, 4]
        assert all(2 not in nodes for nodes in await _replicas(client))
        assert (await load.check()).holds


async def _is_drained(client: Client, node: int) -> bool:
    return await client.admin.drain_node(node) == 0


async def test_a_dead_nodes_replicas_are_made_anew_and_it_finds_its_place_again() -> None:
    """After the delay the others have three copies again; when it comes back, it drops its own."""
    settings = {"replica-replacement-delay-ms": 1_000}
    async with LocalCluster(nodes=4, settings=settings) as four, Client(four.brokers) as client:
        await client.admin.create_topic("t", partitions=PARTITIONS, replication_factor=3)
        before = await _replicas(client)
        dead = before[0][1]
        async with loaded(client, "t", PARTITIONS) as load:
            await four.kill(dead)
            await until(lambda: _is_nowhere(client, dead), f"what was on node {dead} was made anew")
            await four.start(dead)
            await until(lambda: _still(client), "everything had come to rest")
            await load.progress(50)
        assert await _held(client, dead) == []
        assert (await load.check()).holds


async def _is_nowhere(client: Client, node: int) -> bool:
    try:
        return all(node not in nodes for nodes in await _replicas(client)) and not await client.admin.list_moves()
    except RaftlogError:
        return False


async def test_a_node_that_joins_gets_its_share(four: LocalCluster) -> None:
    """Balancing says what it would do, does it, and then has no replica more to move; who should lead follows the load."""
    async with Client(four.brokers) as client:
        await client.admin.create_topic("t", partitions=5, replication_factor=3)
        fifth = await four.join()
        planned = await client.admin.balance(dry_run=True)
        assert {node for one in planned.replacements for node in set(one.replicas) - set(one.before)} == {fifth}
        assert await _held(client, fifth) == []
        async with loaded(client, "t", 5) as load:
            assert len((await client.admin.balance()).replacements) >= 3
            await until(lambda: _still(client), "the fifth node had its share")
        assert len(await _held(client, fifth)) == 3
        after = (await client.admin.balance(dry_run=True)).replacements
        assert [one for one in after if set(one.replicas) != set(one.before)] == []
        assert (await load.check()).holds


async def test_a_move_tells_how_far_it_is_and_can_be_taken_back(four: LocalCluster) -> None:
    """It waits for a node that is down, and says so; taken back, everything stays where it was."""
    async with Client(four.brokers) as client:
        await client.admin.create_topic("t", partitions=1, replication_factor=3)
        [before] = await _replicas(client)
        [free] = set(four.nodes) - set(before)
        await four.kill(free)
        tp = TopicPartition("t", 0)
        await client.admin.move_partitions({tp: [*before[:2], free]}, reason="a test")
        seen: list[Move] = []

        async def waits() -> bool:
            seen[:] = await client.admin.list_moves()
            return any(move.state == f"node {free} is down" for move in seen)

        await until(waits, "it waited for the node")
        assert [(one.tp, one.adding, one.removing, one.reason) for one in seen] == [(tp, (free,), (before[2],), "a test")]
        await client.admin.move_partitions({tp: None})
        await four.start(free)
        await until(lambda: _still(client), "it was taken back")
        assert await _replicas(client) == [before]


async def test_a_group_reads_on_while_its_coordinator_moves(four: LocalCluster) -> None:
    """The node that coordinates it is drained: members stay members, nothing is passed over, and the last commit counts."""
    async with Client(four.brokers) as client:
        await client.admin.create_topic("t", partitions=PARTITIONS, replication_factor=3)
        seen: set[tuple[int, int]] = set()

        async def read() -> None:
            async with client.consumer("t", group="g", auto_commit_interval_s=0.1) as consumer:
                async for record in consumer:
                    seen.add((record.partition, record.offset))

        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(read())
            async with loaded(client, "t", PARTITIONS) as load:
                await until(lambda: bool(seen), "the group read")
                coordinator = (await client.admin.describe_group("g", offsets=False)).coordinator
                assert coordinator is not None
                await client.admin.drain_node(coordinator)
                await until(lambda: _is_drained(client, coordinator), "the coordinator's node was drained")
                await load.progress(50)
            written = {(place.partition, place.offset) for place in load.acknowledged.values()}
            await until(lambda: written <= seen, "the group read everything")

            async def committed() -> bool:
                return all(one.lag == 0 for one in (await client.admin.group_offsets("g", lag=True)).values())

            await until(committed, "everything was committed")
            reading.cancel()
        assert (await client.admin.describe_group("g", offsets=False)).coordinator != coordinator
