"""How long a cluster is without service: at its start, and when a leader dies."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from statistics import median
from time import perf_counter

from raftlog.client.client import Client
from raftlog.client.producer import Producer
from raftlog.errors import RaftlogError
from raftlog.model import TopicPartition
from raftlog.testing import LocalCluster
from tests.bench.cluster import REPLICAS, new_topic
from tests.bench.figures import Figure, Target

START = "start"
FAILOVER = "failover"
RECORD = os.urandom(100)
PERIOD_S = 0.005
"""A publish leaves this often while a leader is missed."""
LEADER_TIMEOUT_S = 15.0
CALM_S = 0.3
"""Acknowledgements without a pause before the next kill."""
_POLL_S = 0.01
_log = logging.getLogger(__name__)


async def starting(directory: Path, *, rounds: int) -> Figure:
    """Three nodes started over empty directories → the first acknowledged publish, making the topic included."""
    times = []
    for number in range(rounds):
        times.append(await _start_once(directory / f"start-{number}"))
        _log.info("start %d: %.2f s", number + 1, times[-1])
    return Figure(
        name=START, text="three nodes started → first acknowledged publish", value=median(times), unit="s",
        target=Target(3.0, at_most=True), samples=times, detail=f"worst of {len(times)}: {max(times):.2f} s",
    )  # fmt: skip


async def _start_once(home: Path) -> float:
    began = perf_counter()
    async with LocalCluster(REPLICAS, data_dir=home) as cluster, Client(cluster.brokers) as client:
        tp = await new_topic(client, "first")
        async with client.producer() as producer:
            await producer.publish(tp.topic, RECORD)
            return perf_counter() - began


async def failover(directory: Path, *, kills: int) -> list[Figure]:
    """A leader is killed while publishes leave every 5 ms → the first acknowledgement of one sent after the kill."""
    times: list[float] = []
    async with LocalCluster(REPLICAS, data_dir=directory / "failover") as cluster, Client(cluster.brokers) as client:
        tp = await new_topic(client, "failover")
        async with client.producer() as producer:
            epoch = -1
            for number in range(kills):
                await _calm(producer, tp)
                leader, epoch = await _leader(client, tp, epoch)
                times.append(await _kill(cluster, leader, producer, tp))
                await cluster.start(leader)
                _log.info("kill %d: %.3f s", number + 1, times[-1])
    return [
        Figure(
            name=FAILOVER, text=f"leader killed → next acknowledged publish, p50 of {kills}", value=median(times), unit="s",
            target=Target(0.8, at_most=True), samples=times,
        ),
        Figure(
            name=f"{FAILOVER}-worst", text=f"the same, worst of {kills}", value=max(times), unit="s",
            target=Target(2.0, at_most=True), samples=times,
        ),
    ]  # fmt: skip


async def _kill(cluster: LocalCluster, leader: int, producer: Producer, tp: TopicPartition) -> float:
    """Seconds from the signal to the first acknowledgement of what was sent behind it."""
    acknowledged: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def publish() -> None:
        await producer.publish(tp.topic, RECORD, partition=tp.partition)
        if not acknowledged.done():
            acknowledged.set_result(perf_counter())

    async with asyncio.TaskGroup() as group:
        began = perf_counter()
        group.create_task(cluster.kill(leader))
        await asyncio.sleep(0)  # one round of the loop: now the signal has been sent
        while not acknowledged.done():
            group.create_task(publish())
            await asyncio.sleep(PERIOD_S)
    return acknowledged.result() - began


async def _calm(producer: Producer, tp: TopicPartition) -> None:
    """Publish one by one until nothing has been slow for ``CALM_S``."""
    calm_since = perf_counter()
    while (now := perf_counter()) < calm_since + CALM_S:
        await producer.publish(tp.topic, RECORD, partition=tp.partition)
        if perf_counter() > now + CALM_S / 3:
            calm_since = perf_counter()
        await asyncio.sleep(_POLL_S)


async def _leader(client: Client, tp: TopicPartition, epoch: int) -> tuple[int, int]:
    """The leader of an epoch above ``epoch``, and its epoch."""
    async with asyncio.timeout(LEADER_TIMEOUT_S):
        while True:
            try:
                partition = (await client.admin.describe_topic(tp.topic)).topic.partitions[tp.partition]
            except RaftlogError:
                partition = None
            if partition is not None and partition.leader is not None and partition.leader_epoch > epoch:
                return partition.leader, partition.leader_epoch
            await asyncio.sleep(_POLL_S)
