"""Guests: one connection, one call, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from raftlog.errors import InvalidRequestError, UnavailableError, WrongNodeError
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.peers import mesh as mesh_module
from raftlog.peers.frame import encode_frame
from raftlog.peers.guest import visit
from raftlog.peers.handshake import PROTOCOL_VERSION
from tests.peers.mesh_support import Node, RawPeer, linked, node, turn

TIMEOUT_S = 10.0


def guest_hello(node_id: int) -> pb.Hello:
    return pb.Hello(node_id=node_id, join=True, state=pb.NODE_STATE_EMPTY)


async def echo(node_id: int, method: str, body: bytes) -> bytes:
    return b"%d %s %s" % (node_id, method.encode(), body)


@pytest.mark.parametrize("guest", [1, 9])
async def test_a_guest_makes_its_call_whoever_has_the_higher_id(guest: int) -> None:
    """It knows the host's address alone; the host hears of no link, and the guest's connection ends with the visit."""
    async with linked(2, 3) as (host, other):
        host.recorder.serve_guest = echo
        answer = await visit(host.mesh.address, guest_hello(guest), "join", b"please", timeout_s=TIMEOUT_S)
        assert answer == b"%d join please" % guest
        assert not host.mesh.connected(guest)
        assert host.recorder.events == [("up", 3)]
        await until(lambda: not host.mesh._guests)
        assert other.is_linked(2)


async def test_a_guest_that_bears_the_id_of_a_linked_node_does_not_disturb_it() -> None:
    """The id may be taken: the link stays up meanwhile."""
    async with linked(2, 3) as (host, _):
        host.recorder.serve_guest = echo
        await visit(host.mesh.address, guest_hello(3), "join", b"", timeout_s=TIMEOUT_S)
        assert host.is_linked(3)


async def test_a_guest_with_the_hosts_own_id_is_refused_by_name() -> None:
    """Two nodes were given one id."""
    host = await node(2)
    with pytest.raises(WrongNodeError, match="both ends are node 2"):
        await visit(host.mesh.address, guest_hello(2), "join", b"", timeout_s=TIMEOUT_S)
    await host.mesh.close()


async def test_what_the_host_raises_reaches_the_guest() -> None:
    """A refusal at the gate as well as one of the call."""
    host = await node(2)

    async def refuse(node_id: int, method: str, body: bytes) -> bytes:
        raise InvalidRequestError("no")

    host.recorder.serve_guest = refuse
    with pytest.raises(InvalidRequestError, match="no"):
        await visit(host.mesh.address, guest_hello(3), "join", b"", timeout_s=TIMEOUT_S)
    host.recorder.refuse[3] = UnavailableError("not a member yet")
    with pytest.raises(UnavailableError, match=r"not a member yet \(node 2 at "):
        await visit(host.mesh.address, guest_hello(3), "join", b"", timeout_s=TIMEOUT_S)
    await host.mesh.close()


async def test_an_address_where_nobody_is_says_so() -> None:
    """Nothing was done, so the next address may be tried."""
    host = await node(2)
    address = host.mesh.address
    await host.mesh.close()
    with pytest.raises(UnavailableError, match=f"cannot reach {address}"):
        await visit(address, guest_hello(3), "join", b"", timeout_s=TIMEOUT_S)


async def test_a_host_that_says_nothing_is_given_up() -> None:
    """Whatever listens there is no raftlog peer."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(UnavailableError):
        await visit(f"127.0.0.1:{port}", guest_hello(3), "join", b"", timeout_s=TIMEOUT_S)
    server.close()


async def test_nothing_but_calls_of_a_guest_is_looked_at() -> None:
    """Its turns are dropped, and it may send no more than a stranger."""
    host = await node(2)
    host.recorder.serve_guest = echo
    raw = await welcomed(host)
    raw.writer.writelines(encode_frame(pb.Envelope(turn=turn(1)), [])[0])
    raw.writer.writelines(encode_frame(pb.Envelope(call_request=pb.CallRequest(call_id=1, method="join", timeout_ms=9_000)))[0])
    answer = await raw.read_envelope()
    assert answer.call_response.body == b"3 join "
    assert host.recorder.turns == []
    raw.writer.writelines(encode_frame(pb.Envelope(call_request=pb.CallRequest(call_id=2, body=bytes(10_000))))[0])
    await raw.ended()
    assert host.errors == []
    await host.mesh.close()


async def test_guests_are_bounded_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle ones keep nobody out, and each has to go in the end."""
    monkeypatch.setattr(mesh_module, "GUESTS_MAX", 2)
    monkeypatch.setattr(mesh_module, "GUEST_LIFE_S", 0.2)
    host = await node(2)
    guests = [await welcomed(host) for _ in range(3)]
    await guests[0].ended()
    assert len(host.mesh._guests) == 2
    for guest in guests[1:]:
        await guest.ended()
    assert not host.mesh._guests
    await host.mesh.close()


async def test_a_guest_is_not_let_in_where_it_was_dialled() -> None:
    """Who joins does not listen for links: it is not taken for the peer that was expected there."""
    joining, member = await node(1), await node(2)
    joining.recorder.hello = lambda: guest_hello(1)  # type: ignore[method-assign]
    member.mesh.set_peers({1: joining.mesh.address})
    await joining.recorder.until(lambda: bool(joining.recorder.refusals))
    assert joining.recorder.refusals[0][1] == InvalidRequestError.reason
    await member.mesh.close()
    await joining.mesh.close()


async def welcomed(host: Node) -> RawPeer:
    """A guest by hand, its handshake done."""
    raw = await RawPeer.connect(host.mesh.address)
    hello = guest_hello(3)
    hello.protocol_version = PROTOCOL_VERSION
    raw.writer.writelines(encode_frame(pb.Envelope(hello=hello))[0])
    assert (await raw.read_envelope()).HasField("hello")
    assert (await raw.read_envelope()).HasField("welcome")
    raw.writer.writelines(encode_frame(pb.Envelope(welcome=pb.Welcome()))[0])
    await until(lambda: any(guest.remote == name(raw) for guest in host.mesh._guests))
    return raw


def name(raw: RawPeer) -> str:
    host, port = raw.writer.get_extra_info("sockname")
    return f"{host}:{port}"


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():
            await asyncio.sleep(0)
