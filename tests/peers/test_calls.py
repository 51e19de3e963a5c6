from __future__ import annotations

import asyncio

import pytest

from raftlog.core.tasks import TaskScope
from raftlog.errors import (
    IndeterminateError,
    LeaderHint,
    MessageTooLargeError,
    NotLeaderError,
    OverloadedError,
    RequestTimedOutError,
    StorageFailedError,
    UnavailableError,
)
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.peers import calls as calls_module
from raftlog.peers.calls import Calls
from raftlog.peers.frame import FRAME_BYTES_MAX, Frame, PeerProtocolError
from raftlog.peers.port import Payloads
from tests.peers.mesh_support import Recorder, linked

LONG_S = 60.0


class Gate:
    """A handler of calls that waits until it is opened, and counts."""

    def __init__(self) -> None:
        self.entered = 0
        self.cancelled = 0
        self.opened = asyncio.Event()
        self._changed = asyncio.Event()

    async def serve(self, node_id: int, method: str, body: bytes, payloads: list[bytes]) -> tuple[bytes, Payloads]:
        self.entered += 1
        self._changed.set()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            self._changed.set()
            raise
        return b"done", ()

    async def until(self, *, entered: int = 0, cancelled: int = 0) -> None:
        while self.entered < entered or self.cancelled < cancelled:
            self._changed.clear()
            await self._changed.wait()


async def test_a_call_is_answered_with_body_and_payloads() -> None:
    """Method, body and payloads reach the handler, its answer the caller; many calls at once do not mix."""
    async with linked(1, 2) as (one, two):

        async def serve(node_id: int, method: str, body: bytes, payloads: list[bytes]) -> tuple[bytes, Payloads]:
            await asyncio.sleep(0.001 * (7 - body[0] % 7))
            return f"{node_id} {method} ".encode() + body, [*payloads, memoryview(b"more")]

        two.recorder.serve = serve
        answers = await asyncio.gather(
            *(one.mesh.call(2, "echo", bytes([n]), [bytes(n * 1_000)], timeout_s=LONG_S) for n in range(100))
        )
        assert answers == [(b"1 echo " + bytes([n]), [bytes(n * 1_000), b"more"]) for n in range(100)]


async def test_an_error_of_the_handler_travels() -> None:
    """Class, message and hint arrive as they were raised."""
    async with linked(1, 2) as (one, two):

        async def serve(node_id: int, method: str, body: bytes, payloads: list[bytes]) -> tuple[bytes, Payloads]:
            raise NotLeaderError("ask node 3", hint=LeaderHint(node_id=3, address="h:1", term=4))

        two.recorder.serve = serve
        with pytest.raises(NotLeaderError, match="ask node 3") as caught:
            await one.mesh.call(2, "m", b"", timeout_s=LONG_S)
        assert caught.value.hint == LeaderHint(node_id=3, address="h:1", term=4)


@pytest.mark.parametrize("error", [ZeroDivisionError("bug"), StorageFailedError("fsync failed")])
async def test_a_failure_of_the_peer_is_indeterminate_here(error: Exception) -> None:
    """Neither a bug there nor a fatal error there is one here; the outcome is unknown."""
    async with linked(1, 2) as (one, two):

        async def serve(node_id: int, method: str, body: bytes, payloads: list[bytes]) -> tuple[bytes, Payloads]:
            raise error

        two.recorder.serve = serve
        with pytest.raises(IndeterminateError, match=str(error)):
            await one.mesh.call(2, "m", b"", timeout_s=LONG_S)


async def test_a_call_without_a_link_did_nothing() -> None:
    """No link, no doubt: unavailable, not indeterminate."""
    async with linked(1) as (one,):
        with pytest.raises(UnavailableError):
            await one.mesh.call(2, "m", b"", timeout_s=LONG_S)


async def test_a_timeout_is_indeterminate_and_ends_the_work() -> None:
    """The caller stops waiting, and the peer's handler is cancelled."""
    async with linked(1, 2) as (one, two):
        gate = Gate()
        two.recorder.serve = gate.serve
        with pytest.raises(RequestTimedOutError):
            await one.mesh.call(2, "m", b"", timeout_s=0.05)
        await gate.until(entered=1, cancelled=1)


async def test_cancelling_the_caller_ends_the_work() -> None:
    """A CallCancel reaches the peer, and the link serves on."""
    async with linked(1, 2) as (one, two):
        gate = Gate()
        two.recorder.serve = gate.serve
        async with asyncio.TaskGroup() as group:
            task = group.create_task(one.mesh.call(2, "m", b"", timeout_s=LONG_S))
            await gate.until(entered=1)
            task.cancel()
        await gate.until(cancelled=1)
        gate.opened.set()
        assert await one.mesh.call(2, "m", b"", timeout_s=LONG_S) == (b"done", [])


async def test_a_broken_link_makes_calls_indeterminate_and_ends_their_work() -> None:
    """What is in flight when the link breaks may or may not have happened."""
    async with linked(1, 2) as (one, two):
        gate = Gate()
        two.recorder.serve = gate.serve
        async with asyncio.TaskGroup() as group:
            task = group.create_task(_outcome(one.mesh.call(2, "m", b"", timeout_s=LONG_S)))
            await gate.until(entered=1)
            (link,) = one.mesh._connections
            link.close()
        assert type(task.result()) is IndeterminateError
        await gate.until(cancelled=1)


async def _outcome(call) -> object:  # type: ignore[no-untyped-def]
    try:
        return await call
    except Exception as error:
        return error


async def test_calls_in_flight_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One over the bound is unavailable at once, and room comes back."""
    monkeypatch.setattr(calls_module, "CALLS_IN_FLIGHT_MAX", 3)
    async with linked(1, 2) as (one, two):
        gate = Gate()
        two.recorder.serve = gate.serve
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(one.mesh.call(2, "m", b"", timeout_s=LONG_S))
            await gate.until(entered=3)
            with pytest.raises(UnavailableError, match="under way"):
                await one.mesh.call(2, "m", b"", timeout_s=LONG_S)
            gate.opened.set()
        assert await one.mesh.call(2, "m", b"", timeout_s=LONG_S) == (b"done", [])


async def test_calls_served_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer over its bound is told so; the calls under way go on."""
    monkeypatch.setattr(calls_module, "CALLS_SERVED_MAX", 2)
    async with linked(1, 2) as (one, two):
        gate = Gate()
        two.recorder.serve = gate.serve
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one.mesh.call(2, "m", b"", timeout_s=LONG_S)) for _ in range(2)]
            await gate.until(entered=2)
            with pytest.raises(OverloadedError):
                await one.mesh.call(2, "m", b"", timeout_s=LONG_S)
            gate.opened.set()
        assert [task.result() for task in tasks] == [(b"done", []), (b"done", [])]


async def test_too_large_a_request_or_answer_is_an_error_of_the_call() -> None:
    """The caller hears of it either way, and the link holds."""
    async with linked(1, 2) as (one, two):

        async def serve(node_id: int, method: str, body: bytes, payloads: list[bytes]) -> tuple[bytes, Payloads]:
            return b"", [bytes(FRAME_BYTES_MAX)] if method == "large" else ()

        two.recorder.serve = serve
        with pytest.raises(MessageTooLargeError):
            await one.mesh.call(2, "m", b"", [bytes(FRAME_BYTES_MAX)], timeout_s=LONG_S)
        with pytest.raises(MessageTooLargeError):
            await one.mesh.call(2, "large", b"", timeout_s=LONG_S)
        assert await one.mesh.call(2, "m", b"", timeout_s=LONG_S) == (b"", [])
        assert one.recorder.events == [("up", 2)]


async def test_answers_wait_for_room_in_the_buffer() -> None:
    """More answers than the write buffer holds all arrive once the caller reads."""
    async with linked(1, 2) as (one, two):

        async def serve(node_id: int, method: str, body: bytes, payloads: list[bytes]) -> tuple[bytes, Payloads]:
            return b"", [bytes(4_000_000)]

        two.recorder.serve = serve
        (link,) = one.mesh._connections
        assert link._transport is not None
        link._transport.pause_reading()
        (other,) = two.mesh._connections
        waiting, drained = asyncio.Event(), other.drained

        async def noted() -> None:
            waiting.set()
            await drained()

        other.drained = noted  # type: ignore[method-assign]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one.mesh.call(2, "m", b"", timeout_s=LONG_S)) for _ in range(12)]
            await waiting.wait()
            link._transport.resume_reading()
        assert all(task.result() == (b"", [bytes(4_000_000)]) for task in tasks)


class DeafLink:
    """A link that keeps what it is given, or takes nothing."""

    def __init__(self, *, full: bool = False) -> None:
        self.full = full
        self.sent: list[pb.Envelope] = []

    def send(self, envelope: pb.Envelope, payloads: Payloads = (), *, urgent: bool = False) -> bool:
        if self.full and not urgent:
            return False
        self.sent.append(envelope)
        return True

    async def drained(self) -> None:
        await asyncio.sleep(0)


def _request(call_id: int, timeout_ms: int = 60_000) -> Frame:
    return Frame(pb.Envelope(call_request=pb.CallRequest(call_id=call_id, method="m", timeout_ms=timeout_ms)), [])


async def test_a_call_id_used_twice_is_a_fault_of_the_peer() -> None:
    """Its answer could not be told from the other's."""
    scope, recorder, gate = TaskScope(lambda error: None), Recorder(1), Gate()
    recorder.serve = gate.serve
    calls = Calls(DeafLink(), node_id=2, handler=recorder, scope=scope)
    calls.received_request(_request(1))
    with pytest.raises(PeerProtocolError):
        calls.received_request(_request(1))
    await scope.close()


async def test_the_peer_works_no_longer_than_its_caller_waits() -> None:
    """The request's own limit ends the handler, though no cancel comes."""
    scope, recorder, gate, link = TaskScope(lambda error: None), Recorder(1), Gate(), DeafLink()
    recorder.serve = gate.serve
    calls = Calls(link, node_id=2, handler=recorder, scope=scope)
    calls.received_request(_request(1, timeout_ms=20))
    await gate.until(cancelled=1)
    await asyncio.wait(set(calls._serving.values()))
    assert [envelope.call_response.error_reason for envelope in link.sent] == ["REQUEST_TIMED_OUT"]
    await scope.close()


async def test_a_peer_that_reads_no_refusals_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls over the bound are refused only while the refusals find room: memory stays bounded."""
    monkeypatch.setattr(calls_module, "CALLS_SERVED_MAX", 0)
    scope = TaskScope(lambda error: None)
    calls = Calls(DeafLink(full=True), node_id=2, handler=Recorder(1), scope=scope)
    with pytest.raises(PeerProtocolError):
        calls.received_request(_request(1))
    await scope.close()


async def test_a_full_buffer_refuses_a_call_before_anything_is_done() -> None:
    """Unavailable, and nothing is left waiting."""
    scope = TaskScope(lambda error: None)
    calls = Calls(DeafLink(full=True), node_id=2, handler=Recorder(1), scope=scope)
    with pytest.raises(UnavailableError):
        await calls.call("m", b"", (), LONG_S)
    assert calls._pending == {}
    await scope.close()


async def test_answers_and_cancels_of_unknown_calls_are_dropped() -> None:
    """Late ones are in the nature of timeouts; invented ones do no harm."""
    scope = TaskScope(lambda error: None)
    calls = Calls(DeafLink(), node_id=2, handler=Recorder(1), scope=scope)
    calls.received_response(Frame(pb.Envelope(call_response=pb.CallResponse(call_id=5)), []))
    calls.received_cancel(6)
    await scope.close()


async def test_a_call_cancelled_before_its_first_step_leaves_nothing() -> None:
    """Request and cancel in one read: the task never ran, and its place is free again."""
    scope, recorder, gate = TaskScope(lambda error: None), Recorder(1), Gate()
    recorder.serve = gate.serve
    calls = Calls(DeafLink(), node_id=2, handler=recorder, scope=scope)
    calls.received_request(_request(1))
    (task,) = calls._serving.values()
    calls.received_cancel(1)
    await asyncio.wait({task})
    await asyncio.sleep(0)
    assert calls._serving == {}
    assert gate.entered == 0
    await scope.close()
