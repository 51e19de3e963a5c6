"""A Kafka door over the fake broker, and a client that speaks through an independent codec."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from kio.schema.metadata.v12 import request as r
from kio.schema.types import TopicName

from raftlog.broker.group_port import GroupBroker
from raftlog.core.clock import SystemClock
from raftlog.kafka.listener import KafkaListener
from raftlog.kafka.port import KafkaOptions
from raftlog.kafka.wire.api import APIS, Api, ApiKey
from raftlog.model import ClusterInfo, NodeInfo
from tests.gateway.fake_broker import FakeBroker
from tests.gateway.fake_moves import FakeMoves
from tests.kafka.oracle import decode_with_kio, encode_with_kio, entity

TIMEOUT_S = 20.0
"""Ends what hangs; nothing here takes a second."""
LISTEN = {"default": ("127.0.0.1", 0)}


class KafkaFakeBroker(FakeBroker):
    """Nodes with Kafka listeners: node 1 has two, node 2 one, node 3 is down."""

    def cluster(self) -> ClusterInfo:
        nodes = (
            NodeInfo(
                node_id=1, peer_address="p:1", grpc_address="g:1", rack="a",
                kafka_listeners=(("default", "127.0.0.1:9001"), ("outside", "[2001:db8::1]:19001")),
            ),
            NodeInfo(node_id=2, peer_address="p:2", grpc_address="g:2", kafka_listeners=(("default", "b.example:9002"),)),
            NodeInfo(
                node_id=3, peer_address="p:3", grpc_address="g:3", alive=False, kafka_listeners=(("default", "c.example:9003"),)
            ),
        )  # fmt: skip
        return ClusterInfo(cluster_id="c1", controller=2, nodes=nodes, level=1, level_index=7, supported=(1, 2))


class Figures:
    """Counts what the door counts."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.errors: Counter[int] = Counter()
        self.open = 0
        self.batches = 0
        self.fetched_bytes = 0

    def request(self, api: str, seconds: float) -> None:
        assert seconds >= 0
        self.requests[api] += 1

    def error(self, code: int) -> None:
        self.errors[code] += 1

    def connections(self, change: int) -> None:
        self.open += change

    def produced(self, batches: int, size_bytes: int) -> None:
        self.batches += batches

    def fetched(self, size_bytes: int) -> None:
        self.fetched_bytes += size_bytes


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._number = 0

    def send(self, key: int, version: int, body: bytes, *, client_id: bytes = b"test") -> int:
        """Send a request; its correlation id."""
        self._number += 1
        api = APIS.get(key)
        tags = b"\x00" if api is not None and version >= api.flexible_from else b""
        head = struct.pack(">hhih", key, version, self._number, len(client_id)) + client_id + tags
        self.writer.write(struct.pack(">i", len(head) + len(body)) + head + body)
        return self._number

    async def answer(self) -> tuple[int, bytes]:
        """The next answer: its correlation id, and what follows."""
        async with asyncio.timeout(TIMEOUT_S):
            (size,) = struct.unpack(">i", await self.reader.readexactly(4))
            data = await self.reader.readexactly(size)
        return struct.unpack(">i", data[:4])[0], data[4:]

    async def ask(self, key: int, version: int, **fields: Any) -> Any:
        """Send a request of these fields (kio's names), and read its answer."""
        api: Api = APIS[key]
        request = entity(api, version, "Request")(**fields)
        number = self.send(key, version, encode_with_kio(request))
        correlation_id, data = await self.answer()
        assert correlation_id == number
        if version >= api.flexible_from and key != ApiKey.API_VERSIONS:
            assert data[0] == 0
            data = data[1:]
        return decode_with_kio(entity(api, version, "Response"), data)

    async def metadata(self, *names: str, create: bool = False) -> Any:
        """Ask for these topics, or for all."""
        topics = tuple(r.MetadataRequestTopic(topic_id=None, name=TopicName(name)) for name in names) if names else None
        return await self.ask(
            ApiKey.METADATA, 12, topics=topics, allow_auto_topic_creation=create, include_topic_authorized_operations=False
        )

    async def closed(self) -> bool:
        """Whether the door closes the connection, having said nothing more."""
        async with asyncio.timeout(TIMEOUT_S):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True


class Door:
    """The broker, the door before it, and the way in."""

    def __init__(self, broker: KafkaFakeBroker, listener: KafkaListener, figures: Figures) -> None:
        self.broker = broker
        self.listener = listener
        self.figures = figures
        self._clients: list[Client] = []

    async def connect(self, name: str = "default") -> Client:
        """A client of this listener."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.listener.ports[name]))
        self._clients.append(client)
        return client

    def close_clients(self) -> None:
        """Close what was opened."""
        for client in self._clients:
            client.writer.close()


@asynccontextmanager
async def open_door(*, groups: GroupBroker | None = None, **options: Any) -> AsyncIterator[Door]:
    """A started door with topic ``t`` of three partitions."""
    broker, figures = KafkaFakeBroker(), Figures()
    broker.add_topic("t", 3)
    listener = KafkaListener(KafkaOptions(**{"listen": LISTEN, **options}), clock=SystemClock())
    await listener.bind()
    await listener.start(broker, groups=groups, moves=FakeMoves(), metrics=figures)
    door = Door(broker, listener, figures)
    try:
        yield door
    finally:
        await listener.stop(0.0)
        door.close_clients()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(TIMEOUT_S):
        while not holds():
            await asyncio.sleep(0.001)
