from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.peers.frame import encode_frame
from raftlog.testing.ports import free_ports
from tests.chaos.proxy import PeerProxy, Way, Ways


@dataclass
class Pair:
    """Node 2 has dialled node 1 through the proxy; ``here`` is node 2's end, ``there`` node 1's."""

    ways: Ways
    here: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    there: tuple[asyncio.StreamReader, asyncio.StreamWriter]


def hello(node_id: int) -> bytes:
    """The first frame of a connection."""
    buffers, _ = encode_frame(pb.Envelope(hello=pb.Hello(node_id=node_id)))
    return b"".join(buffers)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """A connection through a proxy, with its Hello delivered."""
    front, back = free_ports(2)
    ways, accepted = Ways(), asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda *ends: accepted.set_result(ends), "127.0.0.1", back)
    proxy = PeerProxy(1, front, back, ways)
    await proxy.start()
    here = await asyncio.open_connection("127.0.0.1", front)
    here[1].write(hello(2))
    there = await accepted
    assert await there[0].readexactly(len(hello(2))) == hello(2)
    yield Pair(ways, here, there)
    for _, writer in (here, there):
        writer.close()
    await proxy.close()
    server.close()


async def test_bytes_pass_both_ways(pair: Pair) -> None:
    """The Hello goes through unchanged, and all that follows."""
    pair.here[1].write(b"up")
    pair.there[1].write(b"down")
    assert await pair.there[0].readexactly(2) == b"up"
    assert await pair.here[0].readexactly(4) == b"down"


async def test_a_stalled_way_holds_bytes_until_it_opens(pair: Pair) -> None:
    """The other way goes on meanwhile; nothing is lost."""
    await pair.ways.set([(2, 1)], Way.STALLED)
    pair.here[1].write(b"held")
    pair.there[1].write(b"down")
    assert await pair.here[0].readexactly(4) == b"down"
    held = asyncio.ensure_future(pair.there[0].readexactly(4))  # noqa: TID251 - awaited below
    pair.there[1].write(b"more")
    assert await pair.here[0].readexactly(4) == b"more"
    assert not held.done()
    await pair.ways.set([], Way.OPEN)
    assert await held == b"held"


async def test_a_reset_ends_both_sides(pair: Pair) -> None:
    """Neither waits for bytes that cannot come."""
    await pair.ways.set([(1, 2)], Way.RESET)
    for reader, _ in (pair.here, pair.there):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)


async def test_other_pairs_are_not_touched(pair: Pair) -> None:
    """A cut names its two nodes."""
    await pair.ways.set([(1, 3), (3, 1), (2, 3)], Way.RESET)
    pair.here[1].write(b"up")
    assert await pair.there[0].readexactly(2) == b"up"


async def test_who_does_not_say_hello_is_let_go() -> None:
    """The proxy could not know whose ways to take."""
    front, back = free_ports(2)
    proxy = PeerProxy(1, front, back, Ways())
    await proxy.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", front)
    writer.write(struct.pack(">II", 1 << 30, 5))
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()
    await proxy.close()
