"""Strangers at the Kafka port of a running node: garbage, lies about lengths and counts, slowness, crowds, bombs, and requests
that are right and ask for as much as one can.

Each ends in a closed connection or an error in its answer, the node's memory stays bounded, and other clients, of both doors, are
served meanwhile.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from raftlog import Client as GrpcClient
from raftlog import TopicPartition
from raftlog.kafka.codec import REQUEST_BYTES_MAX
from raftlog.kafka.wire.api import APIS, ApiKey
from raftlog.kafka.wire.primitives import HOT_ITEMS_MAX, ITEMS_MAX
from raftlog.records.compression import Codec
from raftlog.testing import LocalNode, SyncLocalCluster
from tests.fuzz.corpus import kept
from tests.gateway.helpers import make_batch
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
from tests.integration.support import leader_of
from tests.integration.test_overload import anonymous_bytes
from tests.kafka.door import Client

IDLE_CONNECTIONS = 1_100
HALF_CONNECTIONS, HALF_BYTES = 200, 64 * 1024
"""Requests of 60 MB of which so much comes."""
UNKNOWN_SERVER_ERROR, CORRUPT_MESSAGE, UNKNOWN_TOPIC, TOO_LARGE, INVALID_TOPIC = -1, 2, 3, 10, 17


def frame(request: bytes) -> bytes:
    """A request as it is sent."""
    return struct.pack(">i", len(request)) + request


def head(key: int, version: int) -> bytes:
    """A request's header without a client id."""
    return struct.pack(">hhih", key, version, 7, -1) + (b"\x00" if version >= APIS[key].flexible_from else b"")


LIES = {
    "length of minus one": b"\xff\xff\xff\xff" + bytes(12),
    "length of zero": bytes(16),
    "length of 2^31-1": b"\x7f\xff\xff\xff" + bytes(12),
    "much declared and little sent": struct.pack(">i", 60_000_000) + b"little",
    "noise": bytes(range(256)) * 40,
    "array of 2^31-1": frame(head(ApiKey.METADATA, 1) + struct.pack(">i", (1 << 31) - 1)),
    "array of minus two": frame(head(ApiKey.METADATA, 1) + struct.pack(">i", -2)),
    "varint without an end": frame(head(ApiKey.METADATA, 12) + b"\xff" * 1_000),
    "tags of 2^32-1": frame(struct.pack(">hhih", ApiKey.METADATA, 12, 7, -1) + b"\xff\xff\xff\xff\x0f"),
    "more items than are allowed": frame(head(ApiKey.DELETE_GROUPS, 0) + struct.pack(">i", ITEMS_MAX + 1) + bytes(400_004)),
    "more bytes than are read": frame(head(ApiKey.DELETE_GROUPS, 0) + bytes(REQUEST_BYTES_MAX + 1)),
}


@pytest.fixture
async def node(cluster: SyncLocalCluster, client: GrpcClient) -> AsyncIterator[LocalNode]:
    """The leader of a topic that two bystanders publish to all the while, one through each door."""
    await make_topic(client)
    async with attacked(cluster, client, both(cluster, client)) as leader:
        yield leader


@asynccontextmanager
async def both(cluster: SyncLocalCluster, client: GrpcClient) -> AsyncIterator[None]:
    """A bystander at each door; the one at the Kafka door has a topic of its own, and one connection to each node."""
    topic = f"{TOPIC}-kafka"
    if topic not in {one.name for one in await client.admin.list_topics()}:
        await client.admin.create_topic(topic, replication_factor=3)
    done, published = asyncio.Event(), 0
    before = await end_of(client, topic)
    async with AsyncExitStack() as stack:
        ways = [await stack.enter_async_context(connected(node)) for node in cluster.nodes.values()]

        async def publish() -> None:
            nonlocal published
            while not done.is_set():
                async with asyncio.timeout(PATIENCE_S):
                    for way in ways:
                        code = await produced(way, topic, make_batch(b"served"))
                        published += code == 0
                        assert code in (0, 6), f"error {code}"  # only the leader takes it

        async with bystander(client), asyncio.TaskGroup() as group:
            group.create_task(publish())
            try:
                yield
            finally:
                done.set()
    assert published
    assert await end_of(client, topic) - before == published


async def end_of(client: GrpcClient, topic: str) -> int:
    """Behind the last record."""
    tp = TopicPartition(topic, 0)
    return (await client.admin.list_offsets({tp: "latest"}))[tp].offset


@asynccontextmanager
async def connected(node: LocalNode) -> AsyncIterator[Client]:
    """A connection to the Kafka port."""
    reader, writer = await asyncio.open_connection(*address_of(node, "kafka"))
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


async def produced(way: Client, topic: str, batch: bytes) -> int:
    """Produce one batch to partition 0; the error's code."""
    name = struct.pack(">h", len(topic)) + topic.encode()
    part = struct.pack(">iii", 1, 0, len(batch)) + batch
    number = way.send(ApiKey.PRODUCE, 8, struct.pack(">hhii", -1, -1, 10_000, 1) + name + part)
    correlation_id, answer = await way.answer()
    assert correlation_id == number
    code: int = struct.unpack_from(">h", answer, 4 + len(name) + 4 + 4)[0]
    return code


async def test_garbage_closes_its_connection(node: LocalNode) -> None:
    """Lies about lengths and counts, other protocols, TLS, a pickle; and all that was ever kept for the decoders."""
    said = [*LIES.values()]
    for target, wrap in TARGETS.items():
        said += [wrap(data) for data in kept(target).values()]
    for data in said:
        await say(node, "kafka", data)


TARGETS: dict[str, Callable[[bytes], bytes]] = {
    "kafka-frames": lambda data: data,
    "kafka-request": frame,
    "kafka-connection": lambda data: data[1:],
    "handshake": lambda data: data,
    "admin-http": lambda data: data,
}
"""Whose corpus is said, and how."""


async def test_what_is_no_request_of_these_is_not_answered(node: LocalNode) -> None:
    """An API that nobody knows, a version of tomorrow, one of the past: the end of the connection is the answer."""
    for key, version in ((999, 0), (-1, 0), (ApiKey.METADATA, 99), (ApiKey.PRODUCE, 2), (ApiKey.METADATA, -1)):
        async with connected(node) as stranger:
            stranger.send(key, version, bytes(8))
            assert await stranger.closed()


async def test_names_that_no_topic_may_have_are_refused_by_name(node: LocalNode) -> None:
    """And none of them is made, though the client asks for that."""
    bad = ["", ".", "..", "../../etc/passwd", "a/b", "a" * 250, "a b", "a\x00b", "ü"]
    async with connected(node) as stranger:
        answer = await stranger.metadata(*bad, create=True)
        assert {topic.error_code.value for topic in answer.topics} == {INVALID_TOPIC}
        there = {topic.name for topic in (await stranger.metadata()).topics}
        assert not there & set(bad)
        name = struct.pack(">ih", 1, 2) + b"\xff\xfe"
        stranger.send(ApiKey.METADATA, 4, name + b"\x01")
        assert await stranger.closed()


async def test_batches_that_are_none_are_refused_with_a_code(
    node: LocalNode, cluster: SyncLocalCluster, client: GrpcClient
) -> None:
    """A wrong CRC, lengths and counts that cannot be; what follows on the same connection is served."""
    good = make_batch(b"v")
    await client.admin.create_topic("kafka-strangers", replication_factor=3)
    async with connected(cluster.nodes[await leader_of(client, "kafka-strangers")]) as stranger:
        for data in kept("record-batch").values():
            assert await produced(stranger, "kafka-strangers", data) != UNKNOWN_SERVER_ERROR
        assert await produced(stranger, "kafka-strangers", good[:-1] + b"\xff") == CORRUPT_MESSAGE
        assert await produced(stranger, "kafka-strangers", make_batch(b"v" * 2 * MIB)) == TOO_LARGE
        assert await produced(stranger, "nobody", good) == UNKNOWN_TOPIC
        assert await produced(stranger, "kafka-strangers", good) == 0
    await client.admin.delete_topic("kafka-strangers")


async def test_a_request_that_comes_byte_by_byte_keeps_nobody_waiting(node: LocalNode) -> None:
    """It is answered when it is there; and two hundred that never come whole are held as far as they have come."""
    async with AsyncExitStack() as stack:
        for _ in range(HALF_CONNECTIONS):
            half = await stack.enter_async_context(connected(node))
            half.writer.write(struct.pack(">i", 60_000_000) + bytes(HALF_BYTES))
            await half.writer.drain()
        slow = await stack.enter_async_context(connected(node))
        for byte in frame(head(ApiKey.METADATA, 1) + struct.pack(">i", -1)):
            slow.writer.write(bytes([byte]))
            await slow.writer.drain()
            quick = await stack.enter_async_context(connected(node))
            assert (await quick.metadata(TOPIC)).topics[0].name == TOPIC
        assert (await slow.answer())[0] == 7


async def test_a_crowd_that_says_nothing_keeps_nobody_out(node: LocalNode) -> None:
    """More than a thousand connections stand open; who has something to say gets through the while."""
    async with AsyncExitStack() as stack:
        for _ in range(IDLE_CONNECTIONS):
            await stack.enter_async_context(connected(node))
        async with connected(node) as another, asyncio.timeout(PATIENCE_S):
            assert (await another.metadata(TOPIC)).topics[0].name == TOPIC


async def test_a_bomb_does_not_go_off_in_the_node(node: LocalNode, cluster: SyncLocalCluster, client: GrpcClient) -> None:
    """It is stored as it came, for a node looks into no batch, and a lookup by time stops at its cap."""
    await client.admin.create_topic("kafka-bombs", replication_factor=3, configs={"max.message.bytes": str(4 * MIB)})
    data = await asyncio.to_thread(bomb, Codec.GZIP, 1024 * MIB)
    leader = cluster.nodes[await leader_of(client, "kafka-bombs")]
    before_bytes = anonymous_bytes(leader)
    async with connected(leader) as stranger:
        assert await produced(stranger, "kafka-bombs", data) == 0
        stranger.send(
            ApiKey.LIST_OFFSETS, 5, struct.pack(">ibih", -1, 0, 1, 11) + b"kafka-bombs" + struct.pack(">iiiq", 1, 0, -1, 1)
        )
        _, answer = await stranger.answer()
    error_code, _, offset = struct.unpack_from(">hqq", answer, 4 + 4 + 2 + 11 + 4 + 4)
    assert (error_code, offset) == (0, 0)
    assert anonymous_bytes(leader) - before_bytes < GROWTH_BYTES_MAX
    await client.admin.delete_topic("kafka-bombs")


MANY, HOT = ITEMS_MAX - 10, HOT_ITEMS_MAX - 10
GREEDY = {
    "a topic again and again": (ApiKey.METADATA, 1, struct.pack(">i", MANY) + b"\x00\x09bystander" * MANY),
    "ids that no topic has": (
        ApiKey.METADATA, 12, b"\x91\x4e" + b"".join(struct.pack(">qqh", 7, at, 0) for at in range(10_000)) + b"\0\0\0",
    ),
    "a topic's configs again and again": (
        ApiKey.DESCRIBE_CONFIGS, 1, struct.pack(">i", MANY) + (b"\x02\x00\x09bystander" + b"\xff" * 4) * MANY + b"\x01",
    ),
    "a group again and again": (ApiKey.DESCRIBE_GROUPS, 0, struct.pack(">i", MANY) + b"\x00\x01g" * MANY),
    "an offset again and again": (
        ApiKey.OFFSET_FETCH, 5, b"\x00\x01g" + struct.pack(">i", 1) + b"\x00\x01t" + struct.pack(">i", MANY) + bytes(4 * MANY),
    ),
    "a fetch of a partition again and again": (
        ApiKey.FETCH, 4, struct.pack(">iiiibih", -1, 0, 1, MIB, 0, 1, 9) + b"bystander" + struct.pack(">i", HOT)
        + struct.pack(">iqi", 0, 0, MIB) * HOT,
    ),
    "topics that are only tried": (
        ApiKey.CREATE_TOPICS, 5, b"\xa1\x1f" + b"".join(b"\x05" + b"%04d" % at + b"\0\0\0\1\0\1\1\1\0" for at in range(4_000))
        + struct.pack(">ib", 1_000, 1) + b"\0",
    ),
}  # fmt: skip
"""API, version, and a body of what few bytes can ask for."""
ANSWER_BYTES_MAX = 4 * MIB


@pytest.mark.parametrize("what", GREEDY)
async def test_who_asks_for_as_much_as_one_can_is_answered_in_proportion(node: LocalNode, what: str) -> None:
    """A hundred bytes of an answer for each item of the request at most, and no more of the node's memory."""
    key, version, body = GREEDY[what]
    async with connected(node) as stranger:
        number = stranger.send(key, version, body)
        correlation_id, answer = await stranger.answer()
    assert correlation_id == number
    assert len(answer) < ANSWER_BYTES_MAX
