"""What tests with strangers share: a bystander who is served meanwhile, a bound on the node's memory, bytes for a port, bombs."""

from __future__ import annotations

import asyncio
import struct
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache

from crc32c import crc32c

from raftlog import Client, TopicPartition
from raftlog.records.batch import BatchBuilder
from raftlog.records.compression import Codec
from raftlog.testing import LocalNode, SyncLocalCluster
from tests.integration.support import leader_of
from tests.integration.test_overload import anonymous_bytes

TOPIC = "bystander"
MIB = 1 << 20
PATIENCE_S = 30.0
"""A node closes on a stranger after five seconds at most (``HANDSHAKE_TIMEOUT_S``), also on a busy machine."""
GROWTH_BYTES_MAX = 64 * MIB
"""What strangers may cost: each a buffer of 16 KiB for as long as it is tolerated, and an allocator that gives back late."""


async def make_topic(client: Client) -> None:
    """What a bystander uses, once."""
    if TOPIC not in {topic.name for topic in await client.admin.list_topics()}:
        await client.admin.create_topic(TOPIC, replication_factor=3)


@asynccontextmanager
async def attacked(
    cluster: SyncLocalCluster, client: Client, beside: AbstractAsyncContextManager[None]
) -> AsyncIterator[LocalNode]:
    """The leader of the bystanders' topic, with a bystander ``beside`` whatever the body does to it; afterwards nothing is
    missing, the node lives, and its memory has not grown."""
    leader = cluster.nodes[await leader_of(client, TOPIC)]
    pid, before_bytes = leader.pid, anonymous_bytes(leader)
    async with beside:
        yield leader
    assert leader.pid == pid
    assert leader.alive
    grown_bytes = anonymous_bytes(leader) - before_bytes
    assert grown_bytes < GROWTH_BYTES_MAX, f"{grown_bytes / MIB:.0f} MiB"


@asynccontextmanager
async def bystander(client: Client) -> AsyncIterator[None]:
    """Publishes one record after another while the body runs, each within ``PATIENCE_S``; at least one behind its end."""
    tp, done, published = TopicPartition(TOPIC, 0), asyncio.Event(), 0
    before = (await client.admin.list_offsets({tp: "latest"}))[tp].offset

    async def publish() -> None:
        nonlocal published
        async with client.producer() as producer:
            ended = False
            while not ended:
                ended = done.is_set()
                async with asyncio.timeout(PATIENCE_S):
                    await producer.publish(TOPIC, b"served")
                published += 1

    async with asyncio.TaskGroup() as group:
        group.create_task(publish())
        try:
            yield
        finally:
            done.set()
    after = (await client.admin.list_offsets({tp: "latest"}))[tp].offset
    assert after - before == published


def address_of(node: LocalNode, port: str) -> tuple[str, int]:
    """Host and number of one of its ports."""
    host, _, number = {"peer": node.peer, "grpc": node.grpc, "kafka": node.kafka, "admin": node.admin}[port].rpartition(":")
    return host, int(number)


async def say(node: LocalNode, port: str, data: bytes) -> None:
    """Send bytes to a port, and wait until the node has closed the connection."""
    reader, writer = await asyncio.open_connection(*address_of(node, port))
    try:
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(PATIENCE_S):
            while await reader.read(1 << 16):
                pass
    except OSError as closed:  # ENOTCONN, which is no ConnectionError, when it was reset before our end of file
        if isinstance(closed, TimeoutError):
            raise
    finally:
        writer.close()


@cache
def bomb(codec: Codec, size_bytes: int) -> bytes:
    """A batch of one record whose records are ``size_bytes`` of nothing, compressed; its CRC is right."""
    builder = BatchBuilder(size_bytes_max=MIB)
    builder.append(None, b"small", timestamp_ms=time.time_ns() // 1_000_000)
    header = bytearray(builder.build()[:61])
    body = _zeros_in_gzip(size_bytes // MIB)
    struct.pack_into(">i", header, 8, len(header) + len(body) - 12)
    header[22] |= int(codec)
    struct.pack_into(">I", header, 17, crc32c(bytes(header[21:]) + body))
    return bytes(header) + body


def _zeros_in_gzip(mebibytes: int) -> bytes:
    """A gzip file: one mebibyte, deflated once and repeated, for no block of it looks back beyond a full flush."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    crc = 0
    for _ in range(mebibytes):
        crc = zlib.crc32(bytes(MIB), crc)
    head = b"\x1f\x8b\x08\0\0\0\0\0\x02\xff"
    return head + block * mebibytes + packer.flush() + struct.pack("<II", crc, mebibytes * MIB & 0xFFFFFFFF)
