"""The admin calls, and how calls find a node that answers."""

from __future__ import annotations

import random

import pytest

from raftlog.client.client import Client, addresses_of
from raftlog.client.values import AtTime
from raftlog.errors import (
    InvalidConfigError,
    InvalidRequestError,
    TopicExistsError,
    UnavailableError,
    UnknownTopicOrPartitionError,
    UnsupportedVersionError,
)
from raftlog.model import Balanced, Replacement, Role, TopicPartition
from raftlog.pb.raftlog.v1 import cluster_service_pb2 as cluster_pb
from raftlog.records.batch import Record, encode

from .fake_cluster import FakeCluster
from .helpers import client_of


async def test_topics_are_made_listed_described_altered_and_deleted() -> None:
    """A topic's life, with typed answers and typed errors."""
    async with FakeCluster() as cluster, client_of(cluster, request_timeout_s=0.5) as client:
        topic = await client.admin.create_topic("t", partitions=2)
        assert [(p.partition, p.leader, p.leader_address) for p in topic.partitions] == [
            (0, 1, cluster.nodes[1].address),
            (1, 2, cluster.nodes[2].address),
        ]
        with pytest.raises(TopicExistsError):
            await client.admin.create_topic("t")
        assert [one.name for one in await client.admin.list_topics()] == ["t"]
        assert len((await client.admin.alter_topic("t", partitions=3)).partitions) == 3
        described = await client.admin.describe_topic("t", offsets=True)
        assert [o.high_watermark for o in described.offsets] == [0, 0, 0]
        await client.admin.delete_topic("t")
        with pytest.raises(UnknownTopicOrPartitionError):
            await client.admin.describe_topic("t")


async def test_offsets_are_found_by_edge_and_time() -> None:
    """Earliest, latest, by time, and −1 where no record is that young."""
    async with FakeCluster() as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        partition.append(encode([Record(0, 100 + n, None, b"v") for n in range(10)]))
        tp = TopicPartition("t", 0)
        assert (await client.admin.list_offsets({tp: "earliest"}))[tp].offset == 0
        assert (await client.admin.list_offsets({tp: "latest"}))[tp].offset == 10
        found = (await client.admin.list_offsets({tp: AtTime(105)}))[tp]
        assert (found.offset, found.timestamp_ms) == (5, 105)
        assert (await client.admin.list_offsets({tp: AtTime(500)}))[tp].offset == -1


async def test_the_level_is_raised_by_a_node_that_knows_of_levels() -> None:
    """Those of the first version are passed over; without any other the error says so."""
    async with FakeCluster() as cluster, client_of(cluster) as client:
        for number in (1, 3):
            cluster.nodes[number].first_version = True
        plan = await client.admin.raise_level(2, dry_run=True)
        assert (plan.level, plan.target, plan.raised, plan.held_back) == (1, 2, False, "node 2: it is down")
        raised = await client.admin.raise_level(without=[2])
        assert (raised.target, raised.raised, raised.held_back) == (2, True, "")
        assert (raised.nodes[0].level_min, raised.nodes[0].level_max, raised.nodes[0].version) == (1, 2, "9.9")
        cluster.nodes[2].first_version = True
        with pytest.raises(UnsupportedVersionError):
            await client.admin.raise_level()


async def test_the_cluster_and_its_replicas_are_described() -> None:
    """Nodes with addresses; replicas asked of the node itself, by id or address."""
    async with FakeCluster() as cluster, client_of(cluster) as client:
        cluster.topic("t", 3)
        info = await client.admin.describe_cluster()
        assert [node.grpc_address for node in info.nodes] == cluster.brokers
        replicas = await client.admin.describe_replicas(2)
        assert [(r.node_id, r.partition, r.role) for r in replicas.replicas] == [(2, 1, Role.LEADER)]
        assert (await client.admin.describe_replicas(cluster.nodes[3].address)).node_id == 3
        with pytest.raises(InvalidRequestError):
            await client.admin.describe_replicas(9)


async def test_a_node_that_is_back_is_reached_at_once() -> None:
    """Although its connection has just failed, and gRPC will not dial again for half a second."""
    async with FakeCluster() as cluster, client_of(cluster) as client:
        node = cluster.nodes[3]
        await client.admin.describe_replicas(node.address)
        await node.stop()
        with pytest.raises(UnavailableError):
            await client.admin.describe_replicas(node.address)
        await node.start()
        assert (await client.admin.describe_replicas(node.address)).node_id == 3


async def test_replicas_are_moved_drained_balanced_and_listed() -> None:
    """Each wish is one call of any node; a balance tells what it changes, a list how far it is."""
    async with FakeCluster() as cluster, client_of(cluster) as client:
        tp = TopicPartition("t", 1)
        await client.admin.move_partitions({tp: [3, 1], TopicPartition("t", 2): None}, reason="why")
        assert await client.admin.drain_node(2) == 3
        assert await client.admin.drain_node(2, cancel=True) == 3
        await client.admin.remove_node(2)
        balanced = await client.admin.balance(dry_run=True)
        assert balanced == Balanced(
            replacements=(Replacement(tp=tp, before=(1, 2), replicas=(3, 2), reason="why", size_bytes=9),), stuck=("no room",)
        )
        move, drain, cancelled, removed, balance = cluster.wishes
        assert isinstance(move, cluster_pb.MovePartitionRequest)
        assert [list(one.replicas) for one in move.placements] == [[3, 1], []]
        assert (drain, cancelled) == (cluster_pb.DrainNodeRequest(node_id=2), cluster_pb.DrainNodeRequest(node_id=2, cancel=True))
        assert (removed, balance) == (cluster_pb.RemoveNodeRequest(node_id=2), cluster_pb.BalanceRequest(dry_run=True))
        cluster.moves = [cluster_pb.Move(topic="t", partition=1, adding=[3], state="s", bytes_total=5, seconds_left=0.5)]
        (one,) = await client.admin.list_moves()
        assert (one.tp, one.adding, one.state, one.bytes_total, one.seconds_left) == (tp, (3,), "s", 5, 0.5)
        cluster.moves[0].ClearField("seconds_left")
        assert (await client.admin.list_moves())[0].seconds_left is None


async def test_a_dead_node_is_passed_over() -> None:
    """Calls go on to the next address; nodes that were not named at the start are learned."""
    async with FakeCluster() as cluster:
        cluster.topic("t")
        async with Client([cluster.nodes[1].address], rng=random.Random(1)) as client, client.producer() as producer:
            await producer.publish("t", b"0")
            await cluster.nodes[1].stop()
            cluster.elect(cluster.partitions[TopicPartition("t", 0)], 2)
            await producer.publish("t", b"1")
            assert [topic.name for topic in await client.admin.list_topics()] == ["t"]


async def test_no_node_at_all_is_told_within_the_timeout() -> None:
    """With nobody there the call fails with what gRPC said, as certain not to have happened."""
    async with FakeCluster(1) as cluster, client_of(cluster, request_timeout_s=0.3) as client:
        await cluster.nodes[1].stop()
        with pytest.raises(UnavailableError):
            await client.admin.list_topics()


def test_addresses_come_from_argument_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list, a comma-separated text, or RAFTLOG_BROKERS; what is no address is refused."""
    assert addresses_of("a:1, b:2") == ["a:1", "b:2"]
    assert addresses_of(["[::1]:7"]) == ["[::1]:7"]
    monkeypatch.setenv("RAFTLOG_BROKERS", "c:3")
    assert addresses_of(None) == ["c:3"]
    for wrong in ("", "host", ":1", "host:port"):
        with pytest.raises(InvalidConfigError):
            addresses_of(wrong)
