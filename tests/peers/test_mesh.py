from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from random import Random
from unittest.mock import MagicMock

import pytest

from raftlog.core.clock import SystemClock
from raftlog.errors import AddressInUseError, BootstrapRefusedError, ConfigError, CorruptMessageError, MessageTooLargeError
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.peers import link as link_module
from raftlog.peers import mesh as mesh_module
from raftlog.peers.backoff import BACKOFF_FIRST_S, BACKOFF_MAX_S, Backoff
from raftlog.peers.frame import FRAME_BYTES_MAX
from raftlog.peers.link import LINK_BUFFER_BYTES_MAX
from raftlog.peers.mesh import PeerMesh
from tests.peers.mesh_support import RawPeer, Recorder, introduce, linked, node, turn


async def test_turns_arrive_in_the_order_sent_both_ways() -> None:
    """Port rule 1, with payloads of all sizes, among three nodes."""
    sizes = [0, 1, 1_000, 70_000, 1_000_000, 17]
    async with linked(1, 2, 3) as nodes:
        for one in nodes:
            for other in nodes:
                if one is not other:
                    for number, size in enumerate(sizes):
                        payloads: list[bytes | memoryview] = [bytes([number]) * size, memoryview(b"view"), b""]
                        assert one.mesh.send_turn(other.node_id, turn(number), payloads)
        for one in nodes:
            await one.recorder.until(lambda one=one: len(one.recorder.turns) == 2 * len(sizes))  # type: ignore[misc]
            for other in nodes:
                got = [(t.raft[0].group, payloads) for sender, t, payloads in one.recorder.turns if sender == other.node_id]
                want = [(number, [bytes([number]) * size, b"view", b""]) for number, size in enumerate(sizes)]
                assert got == ([] if one is other else want)
            assert all(type(payload) is bytes for _, _, payloads in one.recorder.turns for payload in payloads)


async def test_the_first_turn_may_leave_in_on_connected() -> None:
    """A link is usable from within the callback that reports it, also for a turn over the handshake's frame bound."""
    one, two = await node(1), await node(2)
    for each in (one, two):
        other = 3 - each.node_id

        def greet(node_id: int, each=each, other=other) -> None:  # type: ignore[no-untyped-def]
            assert node_id == other
            assert each.mesh.send_turn(other, turn(7), [bytes(500_000)])

        each.recorder.on_connected = greet  # type: ignore[method-assign]
    introduce(one, two)
    for each in (one, two):
        await each.recorder.until(lambda each=each: len(each.recorder.turns) == 1)  # type: ignore[misc]
        assert each.recorder.turns[0][2] == [bytes(500_000)]
    await one.mesh.close()
    await two.mesh.close()


async def test_a_mesh_closes_while_a_connection_is_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event loop may have told of the connection before ``create_connection`` returns; cancelled then, it does not tell of
    its end (uvloop)."""
    one = await node(2)
    made = asyncio.Event()

    async def never_returns(factory: Callable[[], asyncio.BaseProtocol], *_: object, **__: object) -> None:
        factory().connection_made(MagicMock(asyncio.Transport))
        made.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never_returns)
    one.mesh.set_peers({1: "127.0.0.1:1"})
    await made.wait()
    async with asyncio.timeout(5):
        await one.mesh.close()


async def test_a_node_without_a_link_is_neither_writable_nor_sent_to() -> None:
    """``send_turn`` says False, ``writable`` too, and nothing raises."""
    async with linked(1) as (one,):
        assert not one.mesh.writable(9)
        assert not one.mesh.send_turn(9, turn(1), [])


async def test_a_restarted_peer_is_found_again() -> None:
    """Whichever side restarts, the other hears of the loss first and of the new link after it."""
    for stays, restarts in ((1, 2), (2, 1)):
        staying, leaving = await node(stays), await node(restarts)
        introduce(staying, leaving)
        await staying.linked(restarts)
        address = leaving.mesh.address
        await leaving.mesh.close()
        await staying.recorder.until(lambda s=staying: s.recorder.events[-1][0] == "down")  # type: ignore[misc]
        back = await node(restarts, listen=address)
        introduce(staying, back)
        await back.linked(stays)
        await staying.linked(restarts)
        assert [what for what, _ in staying.recorder.events] == ["up", "down", "up"]
        assert back.mesh.send_turn(stays, turn(5), [])
        await staying.recorder.until(lambda s=staying: len(s.recorder.turns) == 1)  # type: ignore[misc]
        await staying.mesh.close()
        await back.mesh.close()


async def test_a_second_connection_of_a_peer_replaces_the_first() -> None:
    """Two processes with node id 2 whom the gate admits: the newer link is the link, and the older is reported down first."""
    one, old, new = await node(1), await node(2), await node(2)
    old.mesh.set_peers({1: one.mesh.address})
    await one.linked(2)
    new.mesh.set_peers({1: one.mesh.address})
    await new.linked(1)
    await old.recorder.until(lambda: ("down", 1) in old.recorder.events)
    old.mesh.set_peers({})
    await one.recorder.until(lambda: len(one.recorder.events) >= 3)
    assert one.recorder.events[:3] == [("up", 2), ("down", 2), ("up", 2)]
    for each in (one, old, new):
        await each.mesh.close()


async def test_a_refused_peer_gets_no_link_and_hears_why(caplog: pytest.LogCaptureFixture) -> None:
    """The gate's error is logged on both sides by name and told to the other gate; neither handler hears of a link."""
    one, two = await node(1), await node(2)
    one.recorder.refuse[2] = BootstrapRefusedError("the voters differ")
    with caplog.at_level(logging.WARNING):
        introduce(one, two)
        await one.recorder.until(lambda: len(one.recorder.admitted) >= 3)
    assert one.recorder.events == two.recorder.events == []
    assert two.recorder.refusals[0] == (1, "BOOTSTRAP_REFUSED", "the voters differ")
    assert one.recorder.refusals == []
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "refused node 2: the voters differ" in line]) == 1
    assert len([line for line in lines if "refused this node: BOOTSTRAP_REFUSED: the voters differ" in line]) == 1
    del one.recorder.refuse[2]
    await two.linked(1)
    await one.mesh.close()
    await two.mesh.close()


async def test_a_wrong_node_at_an_address_is_refused() -> None:
    """Node 3 is told that node 1 lives where node 2 does: no link comes up under either name."""
    two, three = await node(2), await node(3)
    three.mesh.set_peers({1: two.mesh.address})
    raw = await RawPeer.connect(two.mesh.address)
    assert (await raw.read_envelope()).hello.node_id == 2
    raw.close()
    await asyncio.wait_for(_attempts(three, 2), 5)
    assert two.recorder.events == three.recorder.events == []
    await two.mesh.close()
    await three.mesh.close()


async def _attempts(dialler, count: int) -> None:  # type: ignore[no-untyped-def]
    """Wait until ``dialler`` has said hello ``count`` more times."""
    hello, seen, enough = dialler.recorder.hello, 0, asyncio.Event()

    def counted() -> pb.Hello:
        nonlocal seen
        seen += 1
        if seen > count:
            enough.set()
        return hello()  # type: ignore[no-any-return]

    dialler.recorder.hello = counted
    await enough.wait()


async def test_a_peer_is_looked_for_elsewhere_too() -> None:
    """Where its first address is nobody's, or another node's; and there again after it was away."""
    one, two, three = await node(1), await node(2), await node(3)
    for wrong in ("127.0.0.1:1", two.mesh.address):
        three.mesh.set_peers({1: wrong}, elsewhere={1: one.mesh.address})
        await three.linked(1)
        three.mesh.set_peers({})
        await three.recorder.until(lambda: not three.is_linked(1))
    three.mesh.set_peers({1: one.mesh.address}, elsewhere={1: "127.0.0.1:1"})
    await three.linked(1)
    for each in (one, two, three):
        await each.mesh.close()


async def test_a_peer_that_is_no_longer_named_loses_its_link() -> None:
    """``set_peers`` closes what it no longer names and leaves the rest alone."""
    async with linked(1, 2, 3) as (one, two, three):
        three.mesh.set_peers({1: one.mesh.address})
        await two.recorder.until(lambda: ("down", 3) in two.recorder.events)
        assert three.recorder.events[-1] == ("down", 2)
        assert three.is_linked(1)
        assert not three.mesh.writable(2)


async def test_a_full_buffer_refuses_turns_until_the_peer_reads() -> None:
    """Port rule 3: the queue stays within its bound and one frame; at half of it the link is no longer writable."""
    async with linked(1, 2) as (one, two):
        (link,) = two.mesh._connections
        assert link._transport is not None
        link._transport.pause_reading()
        payload = bytes(1_000_000)
        sent = 0
        while one.mesh.writable(2):
            assert one.mesh.send_turn(2, turn(sent), [payload])
            sent += 1
            assert sent < 200
        while one.mesh.send_turn(2, turn(sent), [payload]):
            sent += 1
            assert sent < 200
        (own,) = one.mesh._connections
        assert LINK_BUFFER_BYTES_MAX <= own._queued() <= LINK_BUFFER_BYTES_MAX + 1_000_100
        link._transport.resume_reading()
        await two.recorder.until(lambda: len(two.recorder.turns) == sent)
        assert [t.raft[0].group for _, t, _ in two.recorder.turns] == list(range(sent))
        assert one.mesh.writable(2)


async def test_a_turn_over_the_frame_bound_is_an_error_and_keeps_the_link() -> None:
    """The sender hears of its own mistake; the link does not suffer."""
    async with linked(1, 2) as (one, two):
        with pytest.raises(MessageTooLargeError):
            one.mesh.send_turn(2, turn(1), [bytes(FRAME_BYTES_MAX)])
        assert one.mesh.send_turn(2, turn(2), [])
        await two.recorder.until(lambda: len(two.recorder.turns) == 1)


async def test_a_silent_link_is_closed_and_an_idle_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pings keep an idle link; one that hears nothing at all, though nobody closed it, is dropped."""
    monkeypatch.setattr(link_module, "PING_S", 0.02)
    async with linked(1, 2) as (one, two):
        (link,) = one.mesh._connections
        checks, enough, check = 0, asyncio.Event(), link._check

        def counted() -> None:
            nonlocal checks
            checks += 1
            if checks >= 4 * link_module._SILENT_CHECKS_MAX:
                enough.set()
            check()

        link._check = counted  # type: ignore[method-assign]
        await enough.wait()
        assert one.is_linked(2)
        assert one.recorder.turns == []
        (other,) = two.mesh._connections
        assert other._timer is not None
        other._timer.cancel()
        await one.recorder.until(lambda: ("down", 2) in one.recorder.events)


async def test_a_silent_stranger_is_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that never says Hello ends after ``HANDSHAKE_TIMEOUT_S``."""
    monkeypatch.setattr(link_module, "HANDSHAKE_TIMEOUT_S", 0.02)
    async with linked(1) as (one,):
        raw = await RawPeer.connect(one.mesh.address)
        await raw.ended()
        raw.close()


async def test_idle_strangers_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over ``HANDSHAKES_MAX`` unfinished handshakes the oldest is closed, and a real peer still gets in."""
    monkeypatch.setattr(mesh_module, "HANDSHAKES_MAX", 3)
    one, two = await node(1), await node(2)
    strangers = [await RawPeer.connect(one.mesh.address) for _ in range(5)]
    await strangers[0].ended()
    await strangers[1].ended()
    introduce(one, two)
    await one.linked(2)
    assert len(one.mesh._handshaking) <= 3
    for stranger in strangers:
        stranger.close()
    await one.mesh.close()
    await two.mesh.close()


async def test_an_exception_of_the_handler_closes_the_link_and_is_heard_of() -> None:
    """A bug above costs the one connection and reaches ``on_error``; the link comes back."""
    one, two = await node(1), await node(2)
    introduce(one, two)
    await one.linked(2)
    await two.linked(1)

    def broken(node_id: int, turn: pb.Turn, payloads: list[bytes]) -> None:
        raise ZeroDivisionError

    one.recorder.on_turn = broken  # type: ignore[method-assign]
    assert two.mesh.send_turn(1, turn(1), [])
    await two.recorder.until(lambda: two.recorder.events == [("up", 1), ("down", 1), ("up", 1)])
    assert [type(error) for error in one.errors] == [ZeroDivisionError]
    await one.mesh.close()
    await two.mesh.close()


async def test_a_corrupt_message_found_by_the_handler_closes_the_link_only() -> None:
    """What the handler finds wrong with a peer's bytes is the peer's fault: no failure of this node."""
    one, two = await node(1), await node(2)
    introduce(one, two)
    await one.linked(2)
    await two.linked(1)

    def refuse(node_id: int, turn: pb.Turn, payloads: list[bytes]) -> None:
        raise CorruptMessageError("entries are missing")

    one.recorder.on_turn = refuse  # type: ignore[method-assign]
    assert two.mesh.send_turn(1, turn(1), [])
    await two.recorder.until(lambda: two.recorder.events == [("up", 1), ("down", 1), ("up", 1)])
    assert one.errors == []
    await one.mesh.close()
    await two.mesh.close()


async def test_an_address_in_use_says_so() -> None:
    """The error names the address and the option."""
    async with linked(1) as (one,):
        with pytest.raises(AddressInUseError, match=f"{one.mesh.address}.*--peer-listen"):
            await node(2, listen=one.mesh.address)


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:", ":7001", "127.0.0.1:99999", "::1:7001", "[::1:7001", "192.0.2.1:0"])
async def test_an_address_that_cannot_be_listened_on_says_so(listen: str) -> None:
    """Malformed, out of range, or not of this machine."""
    with pytest.raises(ConfigError):
        await node(1, listen=listen)


async def test_a_malformed_peer_address_changes_nothing() -> None:
    """``set_peers`` checks all before it acts."""
    async with linked(1, 2) as (one, two):
        with pytest.raises(ConfigError):
            two.mesh.set_peers({3: "nonsense"})
        assert two.mesh.send_turn(1, turn(1), [])
        await one.recorder.until(lambda: len(one.recorder.turns) == 1)


async def test_closing_sends_what_is_queued_and_reports_links_down() -> None:
    """Turns queued before ``close`` arrive; the handler hears of the loss; a second close does nothing."""
    one, two = await node(1), await node(2)
    introduce(one, two)
    await two.linked(1)
    await one.linked(2)
    for number in range(5):
        assert two.mesh.send_turn(1, turn(number), [bytes(1_000_000)])
    await two.mesh.close()
    await two.mesh.close()
    assert two.recorder.events == [("up", 1), ("down", 1)]
    await one.recorder.until(lambda: len(one.recorder.turns) == 5)
    assert not two.mesh.send_turn(1, turn(9), [])
    await one.mesh.close()


async def test_closing_does_not_wait_for_a_peer_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be sent within ``CLOSE_FLUSH_S`` is given up."""
    monkeypatch.setattr(link_module, "CLOSE_FLUSH_S", 0.02)
    one, two = await node(1), await node(2)
    introduce(one, two)
    await two.linked(1)
    await one.linked(2)
    (link,) = one.mesh._connections
    assert link._transport is not None
    link._transport.pause_reading()
    while two.mesh.send_turn(1, turn(1), [bytes(1_000_000)]):
        pass
    await two.mesh.close()
    assert not two.mesh._connections
    await one.mesh.close()


async def test_a_mesh_may_be_closed_before_it_is_started() -> None:
    """Stopping in reverse order works from wherever the start broke off."""
    recorder = Recorder(1)
    mesh = PeerMesh(node_id=1, listen="127.0.0.1:0", gate=recorder, handler=recorder, clock=SystemClock(), random=Random(1))
    await mesh.close()


def test_backoff_doubles_to_its_cap_with_jitter_and_begins_again() -> None:
    """Waits lie between half and all of 20 ms, 40 ms … 1 s."""
    backoff = Backoff(Random(1))
    nominal = BACKOFF_FIRST_S
    for _ in range(12):
        assert nominal / 2 <= backoff.next_s() <= nominal
        nominal = min(BACKOFF_MAX_S, nominal * 2)
    backoff.reset()
    assert backoff.next_s() <= BACKOFF_FIRST_S
