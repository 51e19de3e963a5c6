"""Strangers at the peer, gRPC and admin ports of a running node: garbage, lies about lengths, slowness, crowds, bombs.

Each ends in a closed connection or a typed error, the node's memory stays bounded, and another client is served meanwhile.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator

import pytest

from raftlog import AtTime, Client, TopicPartition
from raftlog.pb.raftlog.v1 import log_service_pb2 as log_pb
from raftlog.pb.raftlog.v1.records_pb2 import NewBatch
from raftlog.records.compression import Codec
from raftlog.testing import LocalNode, SyncLocalCluster
from tests.fuzz.corpus import kept
from tests.integration.strangers import (
    GROWTH_BYTES_MAX,
    MIB,
    PATIENCE_S,
    TOPIC,
    address_of,
    attacked,
    bomb,
    bystander,
    make_topic,
    say,
)
from tests.integration.support import leader_of, stubs_of
from tests.integration.test_overload import anonymous_bytes

IDLE_CONNECTIONS = 1_500
PORTS = ("peer", "grpc", "admin")
LIES = {
    "length of minus one": b"\xff\xff\xff\xff" + bytes(12),
    "length of zero": bytes(16),
    "length of 2^31-1": b"\x7f\xff\xff\xff" + bytes(12),
    "much declared and little sent": struct.pack(">II", 16_000, 15_000) + b"little",
    "noise": bytes(range(256)) * 40,
    "http2 frame of 16 MiB": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
}


@pytest.fixture(autouse=True)
async def topic(client: Client) -> None:
    """What the bystander uses."""
    await make_topic(client)


@pytest.fixture
async def node(cluster: SyncLocalCluster, client: Client, topic: None) -> AsyncIterator[LocalNode]:
    """The leader of a topic that a bystander publishes to and reads all the while."""
    async with attacked(cluster, client, bystander(client)) as leader:
        yield leader


@pytest.mark.parametrize("port", PORTS)
async def test_garbage_closes_its_connection(node: LocalNode, port: str) -> None:
    """Lies about lengths, other protocols, TLS to a plain port, a pickle; and all that was ever kept for the decoders."""
    kept_bytes = [data for target in ("handshake", "peer-frames", "admin-http") for data in kept(target).values()]
    for data in (*LIES.values(), *kept_bytes):
        await say(node, port, data)


@pytest.mark.parametrize("port", ["peer", "admin"])
async def test_a_byte_now_and_then_is_not_waited_for(node: LocalNode, port: str) -> None:
    """Each byte says that the caller lives; the connection is closed nevertheless."""
    reader, writer = await asyncio.open_connection(*address_of(node, port))
    ended = asyncio.ensure_future(reader.read())  # noqa: TID251 - ended below
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not ended.done():
                writer.write(b"\0")
                await asyncio.wait((ended,), timeout=0.2)
    finally:
        ended.cancel()
        await asyncio.gather(ended, return_exceptions=True)
        writer.close()


@pytest.mark.parametrize("port", PORTS)
async def test_a_crowd_that_says_nothing_keeps_nobody_out(node: LocalNode, port: str) -> None:
    """More than a thousand connections stand open, or are closed; who has something to say gets through the while."""
    writers = []
    try:
        for _ in range(IDLE_CONNECTIONS):
            _, writer = await asyncio.open_connection(*address_of(node, port))
            writers.append(writer)
        async with Client([node.grpc]) as another, asyncio.timeout(PATIENCE_S):
            await another.admin.describe_topic(TOPIC)
    finally:
        for writer in writers:
            writer.transport.abort()


async def test_a_bomb_does_not_go_off_in_the_node(cluster: SyncLocalCluster, client: Client) -> None:
    """A gigabyte in a megabyte is stored as it came, for a node looks into no batch; where a lookup by time would have to, it
    stops at its cap, and takes the batch as a whole."""
    await client.admin.create_topic("bombs", replication_factor=3, configs={"max.message.bytes": str(4 * MIB)})
    leader = cluster.nodes[await leader_of(client, "bombs")]
    before_bytes = anonymous_bytes(leader)
    data = await asyncio.to_thread(bomb, Codec.GZIP, 1024 * MIB)
    assert len(data) < 2 * MIB
    async with bystander(client), stubs_of(leader) as stubs:
        answer = await stubs.log.Publish(log_pb.PublishRequest(batches=[NewBatch(topic="bombs", record_batch=data)]))
        assert answer.results[0].offset == 0
        tp = TopicPartition("bombs", 0)
        assert (await client.admin.list_offsets({tp: AtTime(1)}))[tp].offset == 0
    assert anonymous_bytes(leader) - before_bytes < GROWTH_BYTES_MAX
    await client.admin.delete_topic("bombs")
