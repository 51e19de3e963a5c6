"""Many partitions on three nodes: what it takes to create them, what they cost idle, and what is left of one partition's pace."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from time import perf_counter

from raftlog.client.client import Client
from raftlog.client.publish_stream import PublishStream
from raftlog.model import TopicPartition
from raftlog.testing import LocalCluster
from tests.bench.batches import ready_made
from tests.bench.cluster import REPLICAS, new_topic, stream_to, turns_load
from tests.bench.figures import Figure, Target, middle_round
from tests.bench.process_facts import anonymous_bytes, cpu_seconds
from tests.bench.window import Rate

CREATE, IDLE, ACTIVE, IDLE_5000 = "create-1000", "idle-1000", "active-1000", "idle-5000"
NAMES = (CREATE, IDLE, ACTIVE, IDLE_5000)
PARTITIONS = 1_000
MANY_TOPICS = 5
"""Topics of so many partitions for ``IDLE_5000``."""
CREATE_TIMEOUT_S = 120.0
SETTLE_S = 5.0
"""After the last topic is made: its groups fall asleep, and what making it took is given back."""
RECORD_BYTES = 100
LOAD_S = 5.0
"""Behind the ramp; with so many in flight, a slow machine answers the first late."""
IN_FLIGHT = 1_000
_POLL_S = 0.05
_log = logging.getLogger(__name__)


async def measure(names: Sequence[str], directory: Path, *, rounds: int, seconds: float) -> list[Figure]:
    """The figures of ``names``: those of 1,000 partitions on one cluster, those of 5,000 on another."""
    figures: list[Figure] = []
    if set(names) & {CREATE, IDLE, ACTIVE}:
        async with LocalCluster(REPLICAS, data_dir=directory / "many") as cluster, Client(cluster.brokers) as client:
            took_s = await _create(client, "many-0")
            if CREATE in names:
                figures.append(
                    Figure(
                        name=CREATE, text="1,000 partitions created, each with a leader", value=took_s, unit="s",
                        target=Target(30.0, at_most=True),
                    )
                )  # fmt: skip
            if IDLE in names:
                (cpu, _), _ = await _idle(cluster, seconds * rounds)
                figures.append(_cpu(IDLE, "processor of a node with 1,000 idle partitions", cpu, 2.0))
            if ACTIVE in names:
                figures.append(await _active(client, rounds, max(seconds, LOAD_S)))
    if IDLE_5000 in names:
        async with LocalCluster(REPLICAS, data_dir=directory / "very-many") as cluster, Client(cluster.brokers) as client:
            for number in range(MANY_TOPICS):
                _log.info("topic %d of 1,000 partitions: %.1f s", number + 1, await _create(client, f"many-{number}"))
            (cpu, memory), samples = await _idle(cluster, seconds * rounds)
            figures.append(_cpu(IDLE_5000, "processor of a node with 5,000 idle partitions", cpu, 10.0))
            figures.append(
                Figure(
                    name=f"{IDLE_5000}-memory", text="its memory, the largest of three", value=memory, unit="MB",
                    target=Target(400, at_most=True), samples=samples, detail="without mapped file pages",
                )
            )  # fmt: skip
    return figures


def _cpu(name: str, text: str, percent: float, target: float) -> Figure:
    return Figure(
        name=name, text=f"{text}, the busiest of three", value=percent, unit="% of a core", target=Target(target, at_most=True)
    )


async def _create(client: Client, name: str) -> float:
    """Create a topic of 1,000 partitions; seconds until all have a leader."""
    began = perf_counter()
    await client.admin.create_topic(name, partitions=PARTITIONS, replication_factor=REPLICAS)
    async with asyncio.timeout(CREATE_TIMEOUT_S):
        while True:
            topic = (await client.admin.describe_topic(name)).topic
            if all(partition.leader is not None for partition in topic.partitions):
                return perf_counter() - began
            await asyncio.sleep(_POLL_S)


async def _idle(cluster: LocalCluster, seconds: float) -> tuple[tuple[float, float], list[float]]:
    """Percent of a core and megabytes of the costliest node; megabytes of all."""
    await asyncio.sleep(SETTLE_S)
    pids = [node.pid for node in cluster.nodes.values() if node.pid is not None]
    before, began = [cpu_seconds(pid) for pid in pids], perf_counter()
    await asyncio.sleep(max(seconds, SETTLE_S))
    spent = [(cpu_seconds(pid) - was) / (perf_counter() - began) * 100 for pid, was in zip(pids, before, strict=True)]
    memory = sorted(anonymous_bytes(pid) / 1e6 for pid in pids)
    _log.info("idle: %s %% of a core, %s MB", [round(one, 2) for one in spent], [round(one) for one in memory])
    return (max(spent), memory[-1]), memory


async def _active(client: Client, rounds: int, seconds: float) -> Figure:
    one = await new_topic(client, "alone")
    many = [TopicPartition("many-0", number) for number in range(PARTITIONS)]
    sides = []
    for number in range(rounds):
        alone = await _load(client, [one], seconds)
        spread = await _load(client, many, seconds)
        _log.info("round %d: %.0f records/s on one partition, %.0f on 1,000", number + 1, alone.per_s, spread.per_s)
        sides.append((spread.per_s, alone.per_s))
    return middle_round(ACTIVE, "records of 100 B, one a publish: 1,000 partitions beside one", "records/s", Target(0.3), sides)


async def _load(client: Client, partitions: Sequence[TopicPartition], seconds: float) -> Rate:
    """Publish one record after the other to the partitions in turn, over one stream a leader."""
    batch = ready_made(RECORD_BYTES)
    topic = (await client.admin.describe_topic(partitions[0].topic)).topic
    leaders = {partition.partition: partition.leader for partition in topic.partitions}
    async with AsyncExitStack() as stack:
        streams: dict[int | None, PublishStream] = {}
        for tp in partitions:
            leader = leaders[tp.partition]
            if leader not in streams:
                streams[leader] = await stack.enter_async_context(stream_to(client, tp))
        return await turns_load([(tp, streams[leaders[tp.partition]]) for tp in partitions], batch, IN_FLIGHT, seconds)
