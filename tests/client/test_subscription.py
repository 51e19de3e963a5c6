"""Streams to leaders: what a partition's failures do to itself, and what to its neighbours."""

from __future__ import annotations

from functools import partial

import pytest

from raftlog.client import subscription as module
from raftlog.client.consumer import Consumer
from raftlog.client.subscription import PartitionState
from raftlog.errors import RaftlogError, UnavailableError
from raftlog.model import TopicPartition

from .fake_cluster import FakeCluster
from .helpers import client_of, until
from .test_consumer import fill, offsets, take


def state_of(consumer: Consumer, tp: TopicPartition) -> PartitionState:
    """How a partition is being read."""
    assert consumer._subscription is not None
    return consumer._subscription._states[tp]


async def test_an_idle_partition_has_not_been_failing_since_its_last_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that stands has ended the outage, though nothing has come over it: the next move of the leader is the first
    failure again. With no patience at all, two of them in a row would be told."""
    monkeypatch.setattr(module, "SETTLED_S", 0.02)
    async with FakeCluster(2) as cluster, client_of(cluster) as client:
        (partition,) = cluster.topic("t")
        fill(partition, 5)
        async with client.consumer("t", from_=0, unavailable_timeout_s=1e-9) as consumer:
            await take(consumer, 5)
            state = state_of(consumer, partition.tp)

            def stands_again(streams: int) -> bool:
                return len(cluster.subscriptions) >= streams and state.failing_since is None

            for number, leader in enumerate((2, 1), 2):
                cluster.elect(partition, leader)
                await until(partial(stands_again, number))
            fill(partition, 1)
            assert offsets(await take(consumer, 1)) == [5]


async def test_a_partition_whose_leader_serves_no_longer_does_not_hold_up_its_neighbours() -> None:
    """All of an address share a stream, which the node refuses over one; then it is asked for patience, and the others go on."""
    async with FakeCluster(1) as cluster, client_of(cluster) as client:
        good, bad = cluster.topic("t", 2)
        async with client.consumer("t") as consumer:
            await until(lambda: len(cluster.subscriptions) == 1)
            bad.deposed = True
            cluster.nodes[1].changed()
            await until(lambda: not cluster.subscriptions[-1].direct)
            streams = len(cluster.subscriptions)
            for number in range(20):
                fill(good, 1)
                assert offsets(await take(consumer, 1)) == [number]
            bad.deposed = False
            fill(bad, 1)
            assert offsets(await take(consumer, 1), bad.tp.partition) == [0]
            assert len(cluster.subscriptions) == streams


async def test_a_direct_stream_is_tried_again_when_the_patient_one_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience costs a hop where a leader moves: it is asked for where a node has just refused, and not for ever."""
    monkeypatch.setattr(module, "SETTLED_S", 0.02)
    async with FakeCluster(2) as cluster, client_of(cluster) as client:
        (good, bad) = cluster.topic("t", 2)
        cluster.elect(bad, 1)
        async with client.consumer("t") as consumer:
            await until(lambda: len(cluster.subscriptions) == 1)
            bad.deposed = True
            cluster.nodes[1].changed()
            await until(lambda: not cluster.subscriptions[-1].direct)
            bad.deposed = False
            await cluster.nodes[1].stop()
            await cluster.nodes[1].start()
            await until(lambda: cluster.subscriptions[-1].direct)
            fill(good, 1)
            fill(bad, 1)
            assert {record.partition for record in await take(consumer, 2)} == {0, 1}


async def test_a_failed_look_at_the_metadata_is_nothing_to_a_partition_that_is_being_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is asked for now and then may fail for its own reasons; the stream says how its partitions are."""
    async with FakeCluster(2) as cluster, client_of(cluster, request_timeout_s=0.05) as client:
        (partition,) = cluster.topic("t")
        fill(partition, 1)
        async with client.consumer("t", metadata_max_age_s=0.02) as consumer:
            await take(consumer, 1)
            asked = 0

            async def fail(*_: object) -> RaftlogError:
                nonlocal asked
                asked += 1
                return UnavailableError("no answer")

            monkeypatch.setattr(consumer._routing, "refresh", fail)
            await until(lambda: asked >= 2)
            assert state_of(consumer, partition.tp).failing_since is None
