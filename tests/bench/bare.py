"""The bare replication as a cluster of three processes, and the load on it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.bench.bare_node import HOST, FrameProtocol
from tests.bench.processes import child
from tests.bench.window import Rate, Window

_TAG = struct.Struct(">Q")


@asynccontextmanager
async def bare_cluster(directory: Path) -> AsyncIterator[int]:
    """Three nodes that store below ``directory``; gives the leader's port."""
    homes = [directory / name for name in ("leader", "follower-1", "follower-2")]
    for home in homes:
        home.mkdir(parents=True)
    module = "tests.bench.bare_node"
    async with (
        child(module, str(homes[1])) as first,
        child(module, str(homes[2])) as second,
        child(module, str(homes[0]), str(first), str(second)) as leader,
    ):
        yield leader


async def bare_load(port: int, batch: bytes, in_flight: int, seconds: float) -> Rate:
    """Replicate ``batch`` over and over on one connection."""

    def send(number: int) -> None:
        connection.send(_TAG.pack(number), batch)

    window = Window(send, in_flight)
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: FrameProtocol(lambda _, frame: window.answered(_TAG.unpack(frame)[0])), HOST, port
    )
    try:
        return await window.run(seconds)
    finally:
        connection.close()
