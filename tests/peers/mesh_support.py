"""Meshes on loopback, with a gate and a handler that write down what happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from ssl import SSLContext

from raftlog.core.clock import SystemClock
from raftlog.errors import RaftlogError
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.peers.mesh import PeerMesh
from raftlog.peers.port import Payloads

Event = tuple[str, int]
Serve = Callable[[int, str, bytes, list[bytes]], Awaitable[tuple[bytes, Payloads]]]


class Recorder:
    """A gate and a handler: admits whom ``refuse`` does not name, and keeps what it is told."""

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id
        self.events: list[Event] = []
        self.turns: list[tuple[int, pb.Turn, list[bytes]]] = []
        self.refuse: dict[int, RaftlogError] = {}
        self.admitted: list[int] = []
        self.refusals: list[tuple[int, str, str]] = []
        self.serve: Serve | None = None
        self.serve_guest: Callable[[int, str, bytes], Awaitable[bytes]] | None = None
        self._changed = asyncio.Event()

    def hello(self) -> pb.Hello:
        return pb.Hello(node_id=self.node_id, cluster_id="c", boot_number=1)

    async def admit(self, hello: pb.Hello) -> None:
        await asyncio.sleep(0)
        self.admitted.append(hello.node_id)
        self._changed.set()
        if hello.node_id in self.refuse:
            raise self.refuse[hello.node_id]

    def refused(self, node_id: int, reason: str, message: str) -> None:
        self.refusals.append((node_id, reason, message))
        self._changed.set()

    def on_connected(self, node_id: int) -> None:
        self.events.append(("up", node_id))
        self._changed.set()

    def on_disconnected(self, node_id: int) -> None:
        self.events.append(("down", node_id))
        self._changed.set()

    def on_turn(self, node_id: int, turn: pb.Turn, payloads: list[bytes]) -> None:
        self.turns.append((node_id, turn, payloads))
        self._changed.set()

    async def on_call(self, node_id: int, method: str, body: bytes, payloads: list[bytes]) -> tuple[bytes, Payloads]:
        assert self.serve is not None
        return await self.serve(node_id, method, body, payloads)

    async def on_guest_call(self, node_id: int, method: str, body: bytes) -> bytes:
        assert self.serve_guest is not None
        return await self.serve_guest(node_id, method, body)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what was recorded fulfils ``condition``."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()


class Node:
    """A mesh and its recorder."""

    def __init__(self, node_id: int, mesh: PeerMesh, recorder: Recorder) -> None:
        self.node_id = node_id
        self.mesh = mesh
        self.recorder = recorder
        self.errors: list[BaseException] = []

    async def linked(self, node_id: int) -> None:
        """Wait until the link to ``node_id`` is up."""
        await self.recorder.until(lambda: self.is_linked(node_id))

    def is_linked(self, node_id: int) -> bool:
        """Whether the last thing heard of ``node_id`` is that its link is up."""
        return [event for event in self.recorder.events if event[1] == node_id][-1:] == [("up", node_id)]


def turn(number: int) -> pb.Turn:
    """A turn that carries a number."""
    return pb.Turn(raft=[pb.RaftMessage(group=number, stale_term=pb.StaleTerm(term=1))])


async def node(
    node_id: int,
    *,
    listen: str = "127.0.0.1:0",
    server_ssl: SSLContext | None = None,
    client_ssl: SSLContext | None = None,
) -> Node:
    """A started mesh without peers."""
    recorder = Recorder(node_id)
    errors: list[BaseException] = []
    mesh = PeerMesh(
        node_id=node_id,
        listen=listen,
        gate=recorder,
        handler=recorder,
        clock=SystemClock(),
        random=Random(node_id),
        server_ssl=server_ssl,
        client_ssl=client_ssl,
        on_error=errors.append,
    )
    await mesh.start()
    made = Node(node_id, mesh, recorder)
    made.errors = errors
    return made


def introduce(*nodes: Node) -> None:
    """Tell every node of all."""
    addresses = {each.node_id: each.mesh.address for each in nodes}
    for each in nodes:
        each.mesh.set_peers(addresses)


@contextlib.asynccontextmanager
async def linked(*node_ids: int) -> AsyncIterator[tuple[Node, ...]]:
    """Nodes that all have links with all; closed at the end, with nothing gone wrong."""
    nodes = tuple([await node(node_id) for node_id in node_ids])
    introduce(*nodes)
    for one in nodes:
        for other in nodes:
            if one is not other:
                await one.linked(other.node_id)
    try:
        yield nodes
    finally:
        for each in nodes:
            await each.mesh.close()
    assert [each.errors for each in nodes] == [[] for _ in nodes]


class RawPeer:
    """A plain socket to a mesh, for saying what no mesh says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, address: str) -> RawPeer:
        """Dial a mesh."""
        host, port = address.rsplit(":", 1)
        return cls(*await asyncio.open_connection(host, int(port)))

    async def read_envelope(self) -> pb.Envelope:
        """The next frame's envelope (frames without payloads only)."""
        total = int.from_bytes(await self.reader.readexactly(4), "big")
        return pb.Envelope.FromString((await self.reader.readexactly(total))[4:])

    async def ended(self) -> bytes:
        """Read until the other side closes; what came before."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read(-1)
        return b""

    def close(self) -> None:
        """Close at once."""
        self.writer.transport.abort()
