"""A TCP proxy before the peer port of each node, so that links between nodes can be cut without root.

Theory of operation. Every node advertises its proxy's address, so all peer traffic passes through here. Who dials is not to be
seen from its address (all are 127.0.0.1): the first frame of a connection is a Hello, which says it. From then on the two
directions of that pair of nodes are pumped under their ``Way``:

- ``OPEN``: bytes pass.
- ``STALLED``: nothing is read any more, as behind a router that drops packets: the sender's buffers fill up, nobody is told.
  When the way opens again, what was held comes through, as TCP would send it again.
- ``RESET``: connections of the pair are aborted, new ones too.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Coroutine, Iterable
from enum import Enum
from typing import Any

from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.peers.frame import HANDSHAKE_FRAME_BYTES_MAX

HOST = "127.0.0.1"
HELLO_TIMEOUT_S = 10.0
CHUNK_BYTES = 64 * 1024
_PREFIX = struct.Struct(">II")


class Way(Enum):
    """What becomes of the bytes from one node to another."""

    OPEN = "open"
    STALLED = "stalled"
    RESET = "reset"


class Ways:
    """The state of every direction between two nodes; ``OPEN`` unless said otherwise."""

    def __init__(self) -> None:
        self._ways: dict[tuple[int, int], Way] = {}
        self._changed = asyncio.Condition()

    def of(self, sender: int, receiver: int) -> Way:
        """The way from one node to another."""
        return self._ways.get((sender, receiver), Way.OPEN)

    async def set(self, cut: Iterable[tuple[int, int]], way: Way) -> None:
        """Exactly these directions (sender, receiver) are in this state, all others open."""
        self._ways = dict.fromkeys(cut, way)
        async with self._changed:
            self._changed.notify_all()

    async def passable(self, sender: int, receiver: int) -> None:
        """Wait until bytes may pass.

        Raises:
            ConnectionAbortedError: the pair's connections are to be reset.
        """
        async with self._changed:
            while (way := self.of(sender, receiver)) is Way.STALLED:
                await self._changed.wait()
        if way is Way.RESET:
            raise ConnectionAbortedError

    async def reset(self, one: int, other: int) -> None:
        """Wait until the pair's connections are to be reset."""
        async with self._changed:
            while Way.RESET not in (self.of(one, other), self.of(other, one)):
                await self._changed.wait()


class PeerProxy:
    """Stands before the peer port of ``node_id``.

    Args:
        listen_port: what the node advertises.
        target_port: where the node listens.
    """

    def __init__(self, node_id: int, listen_port: int, target_port: int, ways: Ways) -> None:
        self._node_id, self._listen_port, self._target_port, self._ways = node_id, listen_port, target_port, ways
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._connected, HOST, self._listen_port)

    async def close(self) -> None:
        """Listen no more, and end all connections."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError, TimeoutError, ValueError, asyncio.CancelledError):
            pass  # the pair's connection is over, and the server has no one to tell
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            dialler, hello = await _read_hello(reader)
        await self._ways.passable(dialler, self._node_id)
        there_reader, there_writer = await asyncio.open_connection(HOST, self._target_port)
        try:
            there_writer.write(hello)
            ends = [
                self._pump(reader, there_writer, dialler, self._node_id),
                self._pump(there_reader, writer, self._node_id, dialler),
                self._ways.reset(dialler, self._node_id),
            ]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_quietly(end)) for end in ends]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
        finally:
            there_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sender: int, receiver: int) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            await self._ways.passable(sender, receiver)
            writer.write(chunk)
            await writer.drain()
        # Also the end of a connection is seen only where packets pass.
        await self._ways.passable(sender, receiver)


async def _quietly(end: Coroutine[Any, Any, None]) -> None:
    with contextlib.suppress(OSError):
        await end


async def _read_hello(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Who dials, and the bytes that said it."""
    prefix = await reader.readexactly(_PREFIX.size)
    total, envelope_size = _PREFIX.unpack(prefix)
    if total > HANDSHAKE_FRAME_BYTES_MAX or total != 4 + envelope_size:
        raise ValueError("a connection that begins with no Hello")
    body = await reader.readexactly(envelope_size)
    dialler = pb.Envelope.FromString(body).hello.node_id
    return dialler, prefix + body
