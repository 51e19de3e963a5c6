"""A bare gRPC stream: a server that sends the same megabyte over and over, and how fast it is read.

Run as ``python -m tests.bench.bare_stream PARENT_PID``; prints its port. Nothing is encoded or decoded on either side.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Any

import grpc
import grpc.aio
import uvloop

from raftlog.testing.child import die_with_parent

METHOD = "/bench.Stream/Read"
MESSAGE_BYTES = 1 << 20
OPTIONS = [("grpc.max_receive_message_length", 4 * MESSAGE_BYTES)]


async def read_stream(port: int, seconds: float) -> float:
    """Read for ``seconds``; megabytes a second."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        method: Any = channel.unary_stream(METHOD)
        call = method(b"")
        await call.read()
        began, size = perf_counter(), 0
        while (now := perf_counter()) < began + seconds:
            size += len(await call.read())
        call.cancel()
    return size / (now - began) / 1e6


async def _serve() -> None:
    message = os.urandom(MESSAGE_BYTES)

    async def read(_request: bytes, _context: object) -> AsyncIterator[bytes]:
        while True:
            yield message

    server = grpc.aio.server(options=OPTIONS)
    service, name = METHOD[1:].split("/")
    handlers: dict[str, Any] = {name: grpc.unary_stream_rpc_method_handler(read)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    uvloop.run(_serve())
