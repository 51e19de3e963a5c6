"""The admin port, spoken to in plain bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.admin import server as server_module
from raftlog.admin.http import HEAD_BYTES_MAX, Request, parse_head
from raftlog.admin.server import AdminServer
from raftlog.errors import AddressInUseError, ConfigError


class Node:
    """What the admin port asks of a node."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.page = b"raftlog_up 1\n"
        self.broken = False

    def ready(self) -> str | None:
        return self.reason

    def metrics(self) -> bytes:
        if self.broken:
            raise RuntimeError("no figures")
        return self.page


@asynccontextmanager
async def open_admin() -> AsyncIterator[tuple[AdminServer, Node]]:
    """A started admin server and the node behind it."""
    node = Node()
    server = AdminServer("127.0.0.1", 0, ready=node.ready, metrics=node.metrics)
    await server.start()
    try:
        yield server, node
    finally:
        await server.stop()


async def connect(server: AdminServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to it."""
    host, _, port = server.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def say(server: AdminServer, data: bytes) -> bytes:
    """All that it answers to these bytes, until it closes."""
    reader, writer = await connect(server)
    try:
        writer.write(data)
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionError:  # it closed with bytes of ours unread
        return b""
    finally:
        writer.close()


async def get(server: AdminServer, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body."""
    answer = await say(server, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


async def test_each_page_answers() -> None:
    """The index names the others; each has its length and type."""
    async with open_admin() as (server, _):
        for path, text in (("/", b"/metrics"), ("/livez", b"alive"), ("/readyz", b"ready"), ("/metrics", b"raftlog_up 1")):
            status, headers, body = await get(server, path)
            assert status == 200
            assert text in body
            assert int(headers["Content-Length"]) == len(body)
            assert headers["Content-Type"].startswith("text/plain")


async def test_readyz_says_why_it_is_not_ready() -> None:
    """503 with the reason, until there is none; a node that is not ready is alive."""
    async with open_admin() as (server, node):
        node.reason = "no leader for the metadata group"
        status, _, body = await get(server, "/readyz?verbose=1")
        assert (status, body) == (503, b"not ready: no leader for the metadata group\n")
        assert (await get(server, "/livez"))[0] == 200
        node.reason = None
        assert (await get(server, "/readyz"))[0] == 200


async def test_head_is_get_without_its_body() -> None:
    """The length is the body's (RFC 9110)."""
    async with open_admin() as (server, _):
        status, headers, body = await get(server, "/metrics", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, "13", b"")


async def test_wrong_requests_have_their_statuses() -> None:
    """Unknown page, other method, no HTTP, a head that never ends."""
    async with open_admin() as (server, _):
        assert (await get(server, "/nope"))[0] == 404
        status, headers, _ = await get(server, "/metrics", "POST")
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
        for head in (b"hello", b"GET livez HTTP/1.1", b"GET / HTTP/2", b"", b"GET / HTTP/1.1\r\nno colon"):
            assert (await say(server, head + b"\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        assert (await say(server, b"GET / HTTP/1.1\r\nX: " + b"a" * (HEAD_BYTES_MAX + 1)))[:12] in (b"HTTP/1.1 431", b"")
        assert (await get(server, "/livez"))[0] == 200


HTTP_2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TLS = b"\x16\x03\x01\x02\x00" * 50


@pytest.mark.parametrize("garbage", [b"", b"\0" * 100, TLS, b"\xff" * 100_000, HTTP_2])
async def test_garbage_does_no_harm(garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """TLS, HTTP/2, noise and silence: the connection ends, nothing is logged as a fault, the next caller is served."""
    async with open_admin() as (server, _):
        reader, writer = await connect(server)
        try:
            writer.write(garbage)
            writer.write_eof()
            async with asyncio.timeout(10):
                await reader.read()
        except ConnectionError:
            pass
        writer.close()
        assert (await get(server, "/livez"))[0] == 200
    assert caplog.records == []


@given(st.binary(max_size=300))
def test_no_head_breaks_the_parser(head: bytes) -> None:
    """It is a request or it is None."""
    assert isinstance(parse_head(head), Request | None)


async def test_a_slow_caller_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a request does not hold a connection for ever."""
    monkeypatch.setattr(server_module, "REQUEST_S_MAX", 0.02)
    async with open_admin() as (server, _):
        assert await say(server, b"GET /livez HT") == b""


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is closed at once; when another leaves there is room again."""
    monkeypatch.setattr(server_module, "CONNECTIONS_MAX", 1)
    async with open_admin() as (server, _):
        reader, writer = await connect(server)
        writer.write(b"GET /livez")
        async with asyncio.timeout(10):
            while not server._connections:
                await asyncio.sleep(0)
        assert await say(server, b"GET /livez HTTP/1.1\r\n\r\n") == b""
        writer.write(b" HTTP/1.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        async with asyncio.timeout(10):
            while server._connections:
                await asyncio.sleep(0)
        assert (await get(server, "/livez"))[0] == 200


async def test_a_broken_page_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    """The fault is logged, and told without its text."""
    async with open_admin() as (server, node):
        node.broken = True
        status, _, body = await get(server, "/metrics")
        assert status == 500
        assert b"no figures" not in body
    assert "no figures" in caplog.text


async def test_a_port_in_use_is_refused_by_name() -> None:
    """And an address that is not this machine's is another error."""
    async with open_admin() as (server, node):
        port = int(server.address.rpartition(":")[2])
        with pytest.raises(AddressInUseError, match=f"127.0.0.1:{port} .* in use"):
            await AdminServer("127.0.0.1", port, ready=node.ready, metrics=node.metrics).start()
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        await AdminServer("192.0.2.1", 0, ready=node.ready, metrics=node.metrics).start()


async def test_stopping_cuts_open_connections() -> None:
    """A caller that says nothing does not hold up the node's end."""
    async with open_admin() as (server, _):
        reader, writer = await connect(server)
        async with asyncio.timeout(10):
            while not server._connections:
                await asyncio.sleep(0)
            await server.stop()
            assert await reader.read() == b""
        writer.close()
