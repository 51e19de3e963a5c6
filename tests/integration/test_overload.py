"""More than a node can take: it says so, keeps its memory, and loses nothing that it acknowledged."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import grpc

from raftlog import Client, TopicPartition
from raftlog.broker.config import BrokerConfig
from raftlog.consensus.config import TAIL_CACHE_BYTES, WINDOW_BYTES_MAX
from raftlog.core.allocator import TRIM_BYTES
from raftlog.pb.raftlog.v1 import log_service_pb2 as log_pb
from raftlog.pb.raftlog.v1.records_pb2 import NewBatch
from raftlog.records.batch import BatchBuilder
from raftlog.testing import LocalNode, SyncLocalCluster
from tests.gateway.helpers import Told, told_by_call
from tests.integration.support import Stubs, leader_of, stubs_of

MIB = 1 << 20
BATCH_BYTES = MIB
AT_ONCE = 256
"""Calls that the flood keeps under way: four times what may wait, so that refusals come quickly on any disk."""
FLOODS = 3
REFUSALS, CALLS_MAX = 300, 5_000
"""Each flood goes on until it was refused so often, and is no flood where so many calls do not get there."""
GROWTH_BYTES_MAX = (
    2 * BrokerConfig().queued_bytes_max  # entries that wait for their majority; storage has each once more while it is written
    + TAIL_CACHE_BYTES
    + 2 * WINDOW_BYTES_MAX  # frames under way to each of two peers
    + AT_ONCE * BATCH_BYTES  # what gRPC has received of the calls under way, and nobody has read yet
    + TRIM_BYTES  # freed, and kept by the allocator
)
"""What a flooded node may hold, however long the flood: 464 MiB. One that kept what it refused would be at 900 MiB in the end."""


def anonymous_bytes(node: LocalNode) -> int:
    """Memory of the node's process, without mapped files."""
    status = Path(f"/proc/{node.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")) * 1024


async def publish(stubs: Stubs, data: bytes) -> Told | None:
    """Publish one batch; what the node said where it did not acknowledge."""
    wish = log_pb.PublishRequest(batches=[NewBatch(topic="flooded", record_batch=data)], timeout_ms=60_000)
    try:
        await stubs.log.Publish(wish)
    except grpc.aio.AioRpcError as error:
        return told_by_call(error)
    return None


async def flood(node: LocalNode, data: bytes) -> list[Told | None]:
    """Publish ``data`` from all sides until it was refused ``REFUSALS`` times; what became of each call."""
    outcomes: list[Told | None] = []
    refusals = 0

    async def pour(stubs: Stubs) -> None:
        nonlocal refusals
        while refusals < REFUSALS and len(outcomes) < CALLS_MAX:
            outcomes.append(said := await publish(stubs, data))
            refusals += said is not None and said.reason == "OVERLOADED"

    async with stubs_of(node) as stubs, asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(pour(stubs))
    return outcomes


async def test_a_flooded_node_refuses_and_keeps_its_memory(cluster: SyncLocalCluster, client: Client) -> None:
    """More calls at once than it can keep waiting: what it cannot take it refuses, with the time to come back, and keeps none of
    it, so that more floods take no more memory. What it acknowledged is there, and publishing works when they are over."""
    await client.admin.create_topic("flooded", replication_factor=3, configs={"max.message.bytes": str(2 * MIB)})
    node = cluster.nodes[await leader_of(client, "flooded")]
    builder = BatchBuilder(size_bytes_max=2 * MIB)
    builder.append(None, os.urandom(BATCH_BYTES), timestamp_ms=time.time_ns() // 1_000_000)
    data = builder.build()
    before_bytes = anonymous_bytes(node)
    outcomes: list[Told | None] = []
    refusals: list[Told] = []
    for number in range(1, FLOODS + 1):
        said = await flood(node, data)
        refused = [each for each in said if each is not None and each.reason == "OVERLOADED"]
        assert len(refused) >= REFUSALS
        outcomes, refusals = outcomes + said, refusals + refused
        grown_bytes = anonymous_bytes(node) - before_bytes
        assert grown_bytes < GROWTH_BYTES_MAX, f"{grown_bytes / MIB:.0f} MiB after flood {number}"
    assert all(each.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0] and (each.retry_ms or 0) > 0 for each in refusals)
    async with stubs_of(node) as stubs:
        assert await publish(stubs, data) is None
    tp = TopicPartition("flooded", 0)
    stored = (await client.admin.list_offsets({tp: "latest"}))[tp].offset
    assert outcomes.count(None) < stored <= len(outcomes) + 1 - len(refusals)
    await client.admin.delete_topic("flooded")
