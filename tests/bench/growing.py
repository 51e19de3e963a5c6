"""Nodes that come, and come back: a restart over much data, a node that was away, and a fourth one."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from statistics import median
from time import perf_counter

from raftlog.client.client import Client
from raftlog.client.publish_stream import Outcome
from raftlog.errors import RaftlogError
from raftlog.model import TopicPartition
from raftlog.testing import LocalCluster
from tests.bench.bare import bare_cluster, bare_load
from tests.bench.batches import ready_made
from tests.bench.cluster import REPLICAS, new_topic, packed_load, stream_to
from tests.bench.figures import Figure, Target, middle_round

RESTART, CATCH_UP, FOURTH = "restart-5g", "catch-up", "fourth-node"
NAMES = (RESTART, CATCH_UP, FOURTH)
MIB = 1 << 20
IN_FLIGHT = 8
PARTITIONS = 12
"""Of the topic that a fourth node takes its share of."""
PACKED_BYTES, PACKED_IN_FLIGHT = MIB // 64, 64
MEASURED_FROM = 0.1
"""Catching up is timed from when this share of what was missed is there, so that the start of the process is not in it."""
RATE_S = 4.0
"""For the rate before the fourth node comes, and for each look at it while replicas move."""
LOAD_KEPT_BYTES, RETENTION_CHECK_MS = 200_000_000, 1_000
"""What is published meanwhile does not count: it goes soon."""
SHARE_MIN = 0.9
"""Of an even share: replicas are moved whole, and what is even enough stays."""
MOVED_TIMEOUT_S = 600.0
_POLL_S = 0.05
_log = logging.getLogger(__name__)


async def measure(names: Sequence[str], directory: Path, *, rounds: int, data_bytes: int) -> list[Figure]:
    """The figures of ``names``; ``data_bytes`` is what a node has before its restart, and scales what the others move."""
    figures: list[Figure] = []
    for name in (name for name in NAMES if name in names):
        home = directory / name
        if name == RESTART:
            figures.append(await _restart(home, rounds, data_bytes))
        elif name == CATCH_UP:
            figures.append(await _catch_up(home, rounds, data_bytes // 10))
        else:
            figures.append(await _fourth(home, data_bytes * 2 // 5))
        await asyncio.to_thread(shutil.rmtree, home)  # three times as much as a node has
    return figures


async def _publish(client: Client, tp: TopicPartition, size_bytes: int) -> None:
    """So many bytes, eight batches of 1 MB in flight."""
    batch, left = ready_made(MIB), -(-size_bytes // MIB)
    waiting: set[asyncio.Future[list[Outcome]]] = set()
    async with stream_to(client, tp) as stream:
        while left or waiting:
            while left and len(waiting) < IN_FLIGHT:
                waiting.add(stream.send([(tp, batch)]))
                left -= 1
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for outcome in (outcome for future in done for outcome in future.result()):
                if isinstance(outcome, RaftlogError):
                    raise outcome


async def _until(client: Client, node: str, enough_bytes: float, topic: str) -> tuple[float, int]:
    """Wait until a node holds so many bytes of a topic; when that was seen, and how many it held then."""
    async with asyncio.timeout(MOVED_TIMEOUT_S):
        while True:
            with suppress(RaftlogError):
                replicas = (await client.admin.describe_replicas(node)).replicas
                held_bytes = sum(replica.size_bytes for replica in replicas if replica.topic == topic)
                if held_bytes >= enough_bytes:
                    return perf_counter(), held_bytes
            await asyncio.sleep(_POLL_S)


async def _restart(home: Path, rounds: int, data_bytes: int) -> Figure:
    """A node with so much data is killed and started → ready, as its admin port says."""
    times = []
    async with LocalCluster(REPLICAS, data_dir=home) as cluster, Client(cluster.brokers) as client:
        tp = await new_topic(client, "much")
        await _publish(client, tp, data_bytes)
        for number in range(rounds):
            node_id = number % REPLICAS + 1
            await cluster.kill(node_id)
            began = perf_counter()
            await cluster.start(node_id)
            times.append(perf_counter() - began)
            _log.info("restart %d: %.2f s", number + 1, times[-1])
    return Figure(
        name=RESTART, text=f"a node with {data_bytes / 1e9:g} GB killed and started → ready", value=median(times), unit="s",
        target=Target(5.0, at_most=True), samples=times, detail=f"worst of {rounds}: {max(times):.2f} s",
    )  # fmt: skip


async def _catch_up(home: Path, rounds: int, missed_bytes: int) -> Figure:
    """A node is down while so much is published → the pace at which it takes that from the leader."""
    sides = []
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(bare_cluster(home / "bare"))
        cluster = await stack.enter_async_context(LocalCluster(REPLICAS, data_dir=home / "raftlog"))
        client = await stack.enter_async_context(Client(cluster.brokers))
        for number in range(rounds):
            tp = await new_topic(client, f"missed-{number}")
            leader = (await client.admin.describe_topic(tp.topic)).topic.partitions[0].leader
            away = next(node for node_id, node in cluster.nodes.items() if node_id != leader)
            await cluster.stop(away.node_id)
            await _publish(client, tp, missed_bytes)
            bare = (await bare_load(port, ready_made(MIB), IN_FLIGHT, RATE_S / 2)).mb_per_s(MIB)
            await cluster.start(away.node_id, wait_ready=False)
            since, had_bytes = await _until(client, away.grpc, missed_bytes * MEASURED_FROM, tp.topic)
            done, has_bytes = await _until(client, away.grpc, missed_bytes, tp.topic)
            rate = (has_bytes - had_bytes) / 1e6 / (done - since)
            _log.info("catch-up %d: %.4g of %.4g MB/s", number + 1, rate, bare)
            sides.append((rate, bare))
    return middle_round(CATCH_UP, f"a node that missed {missed_bytes / 1e6:g} MB catches up", "MB/s", Target(0.5), sides)


async def _fourth(home: Path, data_bytes: int) -> Figure:
    """A fourth node joins three with so much data, and is given its share, while a producer publishes. The balance is asked for:
    by itself it comes within minutes."""
    settings = {"log-retention-check-interval-ms": RETENTION_CHECK_MS}
    async with LocalCluster(REPLICAS, data_dir=home, settings=settings) as cluster, Client(cluster.brokers) as client:
        await client.admin.create_topic("shared", partitions=PARTITIONS, replication_factor=REPLICAS)
        for number in range(PARTITIONS):
            await _publish(client, TopicPartition("shared", number), data_bytes // PARTITIONS)
        await client.admin.create_topic("load", replication_factor=REPLICAS, configs={"retention.bytes": str(LOAD_KEPT_BYTES)})
        load = TopicPartition("load", 0)
        async with client.producer(idempotence=False, compression="none") as producer, asyncio.TaskGroup() as group:

            async def rate() -> float:
                return (await packed_load(producer, load, batch, PACKED_IN_FLIGHT, RATE_S)).mb_per_s(PACKED_BYTES)

            batch, share = ready_made(PACKED_BYTES), data_bytes * REPLICAS // (REPLICAS + 1)
            before, began, during = await rate(), perf_counter(), list[float]()
            newcomer = cluster.nodes[await cluster.join()]
            await client.admin.balance()
            moved = group.create_task(_until(client, newcomer.grpc, SHARE_MIN * share, "shared"))
            while not moved.done():
                during.append(await rate())
                _log.info("fourth node, %.0f s: publishing at %.4g of %.4g MB/s", perf_counter() - began, during[-1], before)
            took_s = moved.result()[0] - began
    return Figure(
        name=FOURTH, text=f"publishing while a fourth node takes its share of {data_bytes / 1e9:g} GB, of the rate before",
        value=median(during) / before, unit="×", target=Target(0.6), samples=[rate / before for rate in during],
        detail=f"{median(during):.4g} of {before:.4g} MB/s; {took_s:.0f} s",
    )  # fmt: skip
