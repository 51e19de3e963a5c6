"""A node of the bare replication: what three nodes must do at the very least to keep a batch, and nothing else.

The leader takes framed batches over TCP, writes each to LMDB and passes it on to two followers, which write it to theirs. A
writer thread commits whatever has arrived since the last fsync as one transaction. A batch is acknowledged once two of the three
have it on disk. There is no election, no check, no offset, no producer and no reader: this is the ceiling, not a log.

Run as ``python -m tests.bench.bare_node PARENT_PID DIRECTORY [FOLLOWER_PORT …]``: with ports it leads, without it follows. It
prints the port it listens on. A frame is its length, an 8-byte tag that comes back as the acknowledgement, and the batch.
"""

from __future__ import annotations

import asyncio
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

import lmdb
import uvloop

from raftlog.testing.child import die_with_parent

HOST = "127.0.0.1"
TAG_BYTES = 8
MAP_BYTES = 64 << 30
"""Sparse, and more than any run writes."""
TRANSACTION_BYTES_MAX = 8 << 20
WRITE_BUFFER_BYTES_MAX = 64 << 20
"""More than the load keeps in flight, so that no write is ever held back."""
_LENGTH = struct.Struct(">I")
_TAG = struct.Struct(">Q")


class FrameProtocol(asyncio.Protocol):
    """Cuts a TCP stream into frames and calls ``on_frame(connection, tag and batch)`` for each."""

    def __init__(self, on_frame: Callable[[FrameProtocol, bytes], None]) -> None:
        self._on_frame = on_frame
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)

    def data_received(self, data: bytes) -> None:
        """Add what came, and hand out every frame that is whole."""
        received, at = self._received, 0
        received += data
        with memoryview(received) as view:
            while len(view) - at >= _LENGTH.size:
                end = at + _LENGTH.size + _LENGTH.unpack_from(view, at)[0]
                if end > len(view):
                    break
                frame = bytes(view[at + _LENGTH.size : end])
                at = end
                self._on_frame(self, frame)
        del received[:at]

    def send(self, tag: bytes, batch: bytes = b"") -> None:
        """Write one frame."""
        assert self._transport is not None
        self._transport.write(_LENGTH.pack(len(tag) + len(batch)) + tag)
        if batch:
            self._transport.write(batch)

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()


class Committer(threading.Thread):
    """Writes batches in the order of ``put``, one durable transaction for all that wait."""

    def __init__(self, directory: str, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name="committer", daemon=True)
        self._env = lmdb.open(directory, map_size=MAP_BYTES, max_dbs=1)
        self._db = self._env.open_db(b"log")
        self._loop = loop
        self._waiting: deque[tuple[bytes, Callable[[], None]]] = deque()
        self._wake = threading.Event()
        self._index = 0

    def put(self, batch: bytes, on_durable: Callable[[], None]) -> None:
        """Have ``batch`` written; ``on_durable`` is called on the loop."""
        self._waiting.append((batch, on_durable))
        self._wake.set()

    def run(self) -> None:
        """Commit for as long as the process lives."""
        while self._wake.wait():
            self._wake.clear()
            while self._waiting:
                self._loop.call_soon_threadsafe(_call_all, self._commit())

    def _commit(self) -> list[Callable[[], None]]:
        durable: list[Callable[[], None]] = []
        size_bytes = 0
        with self._env.begin(write=True, db=self._db) as txn:
            while self._waiting and size_bytes < TRANSACTION_BYTES_MAX:
                batch, on_durable = self._waiting.popleft()
                txn.put(_TAG.pack(self._index), batch, append=True)
                self._index += 1
                size_bytes += len(batch)
                durable.append(on_durable)
        return durable


def _call_all(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()


class Leader:
    """Counts who has each batch on disk."""

    QUORUM, NODES = 2, 3

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self._followers: list[FrameProtocol] = []
        self._pending: dict[int, tuple[FrameProtocol, bytes, list[None]]] = {}
        self._next_index = 0

    async def connect(self, ports: Sequence[int]) -> None:
        """Connect to the followers."""
        loop = asyncio.get_running_loop()
        for port in ports:
            _, follower = await loop.create_connection(lambda: FrameProtocol(self._on_ack), HOST, port)
            self._followers.append(follower)

    def on_batch(self, client: FrameProtocol, frame: bytes) -> None:
        """Write a client's batch and pass it on."""
        index = self._next_index
        self._next_index += 1
        self._pending[index] = (client, frame[:TAG_BYTES], [])
        batch = frame[TAG_BYTES:]
        self._committer.put(batch, lambda: self._is_durable(index))
        tag = _TAG.pack(index)
        for follower in self._followers:
            follower.send(tag, batch)

    def _on_ack(self, _follower: FrameProtocol, frame: bytes) -> None:
        self._is_durable(_TAG.unpack(frame)[0])

    def _is_durable(self, index: int) -> None:
        client, tag, holders = self._pending[index]
        holders.append(None)
        if len(holders) == self.QUORUM:
            client.send(tag)
        elif len(holders) == self.NODES:
            del self._pending[index]


async def serve(directory: str, followers: Sequence[int]) -> None:
    """Lead ``followers``, or follow where there are none, until the process is ended."""
    loop = asyncio.get_running_loop()
    committer = Committer(directory, loop)
    committer.start()

    def follow(leader: FrameProtocol, frame: bytes) -> None:
        committer.put(frame[TAG_BYTES:], lambda: leader.send(frame[:TAG_BYTES]))

    on_frame: Callable[[FrameProtocol, bytes], None] = follow
    if followers:
        leader = Leader(committer)
        await leader.connect(followers)
        on_frame = leader.on_batch
    server = await loop.create_server(lambda: FrameProtocol(on_frame), HOST, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    uvloop.run(serve(sys.argv[2], [int(port) for port in sys.argv[3:]]))
