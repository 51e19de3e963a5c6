from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from raftlog.core.clock import SystemClock
from raftlog.errors import ConfigError
from raftlog.peers.mesh import PeerMesh
from raftlog.peers.tls import client_context, server_context
from tests.peers.mesh_support import Node, RawPeer, Recorder, introduce, node, turn

CERTS = Path(__file__).parent / "certs"
CA = CERTS / "cluster-ca.pem"
CERT = CERTS / "cluster-node.pem"
KEY = CERTS / "cluster-node.key"


def _server() -> ssl.SSLContext:
    return server_context(cert=CERT, key=KEY, ca=CA)


def _client() -> ssl.SSLContext:
    return client_context(cert=CERT, key=KEY, ca=CA)


@contextlib.asynccontextmanager
async def _pair(client: ssl.SSLContext | None, server: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Node, Node]]:
    """Node 1 with TLS and node 2, which dials it with ``client``; without links yet."""
    one = await node(1, server_ssl=server or _server(), client_ssl=_client())
    two = await node(2, server_ssl=_server() if client else None, client_ssl=client)
    try:
        yield one, two
    finally:
        await one.mesh.close()
        await two.mesh.close()


async def _tries(caplog: pytest.LogCaptureFixture, one: Node, two: Node) -> list[str]:
    """Let node 2 dial some times; the warnings of both."""
    enough, seen = asyncio.Event(), 0
    next_s = two.mesh._random.uniform

    def counted(a: float, b: float) -> float:
        nonlocal seen
        seen += 1
        if seen >= 3:
            enough.set()
        return next_s(a, b)

    two.mesh._random.uniform = counted  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        introduce(one, two)
        await enough.wait()
    return [record.getMessage() for record in caplog.records]


async def test_nodes_of_one_ca_talk_over_tls() -> None:
    """Turns and calls of every size pass, both ways, and closing is clean."""
    async with _pair(_client()) as (one, two):
        introduce(one, two)
        await one.linked(2)
        await two.linked(1)
        for number, size in enumerate([0, 1_000, 3_000_000, 5]):
            assert two.mesh.send_turn(1, turn(number), [bytes(size)])
            assert one.mesh.send_turn(2, turn(number), [bytes(size)])
        for each in (one, two):
            await each.recorder.until(lambda each=each: len(each.recorder.turns) == 4)  # type: ignore[misc]
            assert [len(payloads[0]) for _, _, payloads in each.recorder.turns] == [0, 1_000, 3_000_000, 5]
        (link,) = one.mesh._connections
        assert link._transport is not None
        assert link._transport.get_extra_info("ssl_object").version() == "TLSv1.3"
    assert one.recorder.events == [("up", 2), ("down", 2)]


async def test_a_node_without_a_certificate_of_the_ca_is_kept_out(caplog: pytest.LogCaptureFixture) -> None:
    """A stranger's certificate, or none at all, never reaches a Hello that is heard."""
    foreign = client_context(cert=CERTS / "stranger-node.pem", key=CERTS / "stranger-node.key", ca=CA)
    bare = ssl.create_default_context(cafile=CA)
    for client in (foreign, bare):
        async with _pair(client) as (one, two):
            await _tries(caplog, one, two)
            assert one.recorder.admitted == []
            assert one.recorder.events == two.recorder.events == []


@pytest.mark.parametrize(
    ("cert", "key"), [("stranger-node.pem", "stranger-node.key"), ("cluster-elsewhere.pem", "cluster-node.key")]
)
async def test_a_server_that_is_not_who_was_dialled_is_left(cert: str, key: str, caplog: pytest.LogCaptureFixture) -> None:
    """A certificate of another CA, or for another host, ends the dial with a line that says so."""
    async with _pair(_client(), server_context(cert=CERTS / cert, key=CERTS / key, ca=CA)) as (one, two):
        lines = await _tries(caplog, one, two)
        assert two.recorder.admitted == []
        assert len([line for line in lines if "cannot reach node 1" in line and "CERTIFICATE_VERIFY_FAILED" in line]) == 1


async def test_the_host_name_need_not_match_where_that_is_asked_for() -> None:
    """A private CA may vouch for nodes whatever their addresses are."""
    server = server_context(cert=CERTS / "cluster-elsewhere.pem", key=KEY, ca=CA)
    async with _pair(client_context(cert=CERT, key=KEY, ca=CA, check_hostname=False), server) as (one, two):
        introduce(one, two)
        await one.linked(2)


async def test_a_plain_node_does_not_reach_a_tls_port(caplog: pytest.LogCaptureFixture) -> None:
    """Plain frames to TLS: closed, logged by the dialler, nobody admitted."""
    async with _pair(None) as (one, two):
        lines = await _tries(caplog, one, two)
        assert one.recorder.admitted == two.recorder.admitted == []
        assert any("closed the connection" in line for line in lines)


async def test_a_tls_node_does_not_reach_a_plain_port(caplog: pytest.LogCaptureFixture) -> None:
    """TLS to plain frames: closed on both sides with a line, nobody admitted."""
    one = await node(1)
    two = await node(2, server_ssl=_server(), client_ssl=_client())
    lines = await _tries(caplog, one, two)
    assert one.recorder.admitted == two.recorder.admitted == []
    assert any("these bytes begin no frame" in line for line in lines)
    assert any("cannot reach node 1" in line for line in lines)
    await one.mesh.close()
    await two.mesh.close()


async def test_garbage_on_a_tls_port_is_closed() -> None:
    """A pickle where a TLS hello belongs ends the connection; a real peer gets in after it."""
    async with _pair(_client()) as (one, two):
        raw = await RawPeer.connect(one.mesh.address)
        raw.writer.write(b"\x80\x04\x95" + bytes(100))
        await raw.ended()
        raw.close()
        introduce(one, two)
        await one.linked(2)


def test_half_a_tls_configuration_is_refused() -> None:
    """TLS one way only would leave the other way open."""
    recorder = Recorder.__new__(Recorder)
    with pytest.raises(ConfigError):
        PeerMesh(
            node_id=1,
            listen="127.0.0.1:0",
            gate=recorder,
            handler=recorder,
            clock=SystemClock(),
            random=Random(1),
            server_ssl=_server(),
        )


@pytest.mark.parametrize("which", ["cert", "key", "ca"])
@pytest.mark.parametrize("make", [server_context, client_context])
def test_a_missing_or_broken_file_is_named(make, which: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A path that is not there, a directory, and a file of noise each give a ConfigError with the path."""
    broken = tmp_path / "broken.pem"
    broken.write_bytes(b"\x00 no certificate")
    for path in (tmp_path / "missing.pem", tmp_path, broken):
        with pytest.raises(ConfigError, match=str(path)):
            make(**{"cert": CERT, "key": KEY, "ca": CA, which: path})


def test_a_key_of_another_certificate_or_behind_a_password_is_refused() -> None:
    """Neither is used, and nobody is asked for a password."""
    for key in ("stranger-node.key", "cluster-encrypted.key"):
        with pytest.raises(ConfigError, match=key):
            server_context(cert=CERT, key=CERTS / key, ca=CA)
