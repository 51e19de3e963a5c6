"""What strangers send to the peer port: each ends in a closed connection and one log line; real peers are served on."""

from __future__ import annotations

import asyncio
import logging
import pickle  # noqa: TID251 - to show that it is inert
import ssl
import struct
from pathlib import Path

import pytest

from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.peers.frame import encode_frame
from raftlog.peers.handshake import PROTOCOL_VERSION
from tests.peers.mesh_support import RawPeer, linked, turn


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def _frame(envelope: pb.Envelope) -> bytes:
    return b"".join(encode_frame(envelope)[0])


GARBAGE = {
    "length of minus one": struct.pack(">i", -1) + bytes(20),
    "length of 2^31-1": struct.pack(">I", 2**31 - 1) + bytes(20),
    "length of zero": bytes(20),
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "envelope over its frame": struct.pack(">II", 10, 11) + bytes(10),
    "no protobuf": struct.pack(">II", 12, 8) + b"\xff" * 8,
    "a turn before the handshake": _frame(pb.Envelope(turn=turn(1))),
    "a call before the handshake": _frame(pb.Envelope(call_request=pb.CallRequest(call_id=1, method="drop"))),
    "a seed before the handshake": _frame(pb.Envelope(turn=pb.Turn(seed=pb.Seed(cluster_id="evil", sealed=True)))),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_closes_its_connection_and_no_other(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The stranger's connection ends with one log line, nothing reaches the handler, and the peers' links hold."""
    async with linked(1, 2) as (one, two):
        with caplog.at_level(logging.WARNING):
            raw = await RawPeer.connect(one.mesh.address)
            raw.writer.write(data)
            await raw.ended()
            raw.close()
        assert len(caplog.records) == 1
        assert two.mesh.send_turn(1, turn(3), [])
        await one.recorder.until(lambda: len(one.recorder.turns) == 1)
        assert one.recorder.events == [("up", 2)]
        assert one.recorder.admitted == [2]


async def test_a_pickle_is_inert(tmp_path: Path) -> None:
    """A pickle with a side effect, alone, framed, and as a payload, has none."""
    path = tmp_path / "exploded"
    bomb = pickle.dumps(Bomb(path))
    framed = struct.pack(">II", len(bomb) + 4, len(bomb)) + bomb
    in_a_hello = _frame(pb.Envelope(hello=pb.Hello(node_id=2, protocol_version=PROTOCOL_VERSION), payload_sizes=[len(bomb)]))
    async with linked(1) as (one,):
        for data in (bomb, framed, in_a_hello + bomb, struct.pack(">I", len(bomb)) + bomb):
            raw = await RawPeer.connect(one.mesh.address)
            raw.writer.write(data + bytes(64))
            await raw.ended()
            raw.close()
        assert one.recorder.admitted == []
    pickle.loads(bomb).close()
    assert path.exists(), "the bomb works, so its silence above meant something"


async def test_tls_to_a_plain_port_is_closed() -> None:
    """A TLS hello is no frame; the TLS client gets an error at once, not a hanging connection."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with linked(1, 2) as (one, two):
        host, port = one.mesh.address.rsplit(":", 1)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(host, int(port), ssl=context)
        assert one.is_linked(2)
        assert two.is_linked(1)


async def test_a_frame_that_cannot_follow_the_handshake_closes_the_link() -> None:
    """A second Hello, a Welcome or an empty envelope on an accepted link ends it."""
    for envelope in (pb.Envelope(hello=pb.Hello(node_id=3)), pb.Envelope(welcome=pb.Welcome()), pb.Envelope()):
        async with linked(1) as (one,):
            raw = await RawPeer.connect(one.mesh.address)
            raw.writer.write(_frame(pb.Envelope(hello=pb.Hello(node_id=3, protocol_version=PROTOCOL_VERSION))))
            raw.writer.write(_frame(pb.Envelope(welcome=pb.Welcome())))
            await one.linked(3)
            raw.writer.write(_frame(envelope))
            await raw.ended()
            await one.recorder.until(lambda one=one: one.recorder.events[-1] == ("down", 3))  # type: ignore[misc]
            raw.close()


async def test_another_protocol_version_is_refused_by_name() -> None:
    """The Welcome says UNSUPPORTED_VERSION and both versions, then the connection ends."""
    async with linked(1) as (one,):
        raw = await RawPeer.connect(one.mesh.address)
        assert (await raw.read_envelope()).hello.protocol_version == PROTOCOL_VERSION
        raw.writer.write(_frame(pb.Envelope(hello=pb.Hello(node_id=2, protocol_version=9))))
        welcome = (await raw.read_envelope()).welcome
        assert welcome.refused_reason == "UNSUPPORTED_VERSION"
        assert "version 9" in welcome.refused_message
        assert await raw.ended() == b""
        raw.close()
        assert one.recorder.admitted == []


async def test_a_peer_that_goes_during_its_admission_leaves_nothing() -> None:
    """The gate's work is cancelled with the connection, and no link comes of it."""
    async with linked(1) as (one,):
        entered, ended = asyncio.Event(), asyncio.Event()

        async def admit(hello: pb.Hello) -> None:
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        one.recorder.admit = admit  # type: ignore[method-assign]
        raw = await RawPeer.connect(one.mesh.address)
        raw.writer.write(_frame(pb.Envelope(hello=pb.Hello(node_id=2, protocol_version=PROTOCOL_VERSION))))
        await entered.wait()
        raw.close()
        await ended.wait()
        assert one.recorder.events == []
        assert one.mesh._handshaking == {}
