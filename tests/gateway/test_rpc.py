"""A call that failed leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Coroutine, Iterator
from typing import Any, NoReturn

import grpc
import pytest

from raftlog.errors import OverloadedError, RaftlogError, ShuttingDownError
from raftlog.gateway.port import NoMetrics
from raftlog.gateway.rpc import Handlers, unless
from raftlog.pb.raftlog.v1.log_service_pb2 import PublishResponse


class Held:
    """Stands for the megabytes of a request."""

    newest: weakref.ref[Held]

    @classmethod
    def FromString(cls, raw: bytes) -> Held:
        """See ``Message``."""
        made = cls()
        cls.newest = weakref.ref(made)
        return made


class Caller:
    """A context of gRPC, as far as a failing call needs it."""

    def cancelled(self) -> bool:
        return False

    async def abort(self, code: grpc.StatusCode, details: str, metadata: object) -> NoReturn:
        self.aborted = grpc.aio.AbortError()  # as gRPC does: so the context holds all frames up to here
        raise self.aborted


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only reference counts free memory, as between two of the node's rare collections."""
    gc.disable()
    yield
    gc.enable()


async def test_a_refused_call_is_let_go_at_once(no_collector: None) -> None:
    """Its error does not keep the request alive, not even where the failing frame knows the error by a list."""

    async def call(request: Any) -> PublishResponse:
        outcomes: list[RaftlogError] = [OverloadedError("later")]
        raise outcomes[0]

    handlers: Any = Handlers(NoMetrics(), asyncio.Event())
    caller = Caller()
    with pytest.raises(grpc.aio.AbortError):
        await handlers.unary(call, Held, PublishResponse).unary_unary(b"", caller)
    assert Held.newest() is None


async def test_work_ends_when_the_node_stops() -> None:
    """It is cancelled, and its caller told; what is done before is done."""
    stopping = asyncio.Event()
    assert await unless(stopping, asyncio.sleep(0, 7)) == 7
    with pytest.raises(OverloadedError):
        await unless(stopping, fails())
    ended = asyncio.Event()

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(_told(unless(stopping, waits())))
        await asyncio.sleep(0)
        stopping.set()
    assert isinstance(waiting.result(), ShuttingDownError)
    assert ended.is_set()


async def fails() -> None:
    """Work that fails."""
    raise OverloadedError("later")


async def _told(work: Coroutine[Any, Any, None]) -> BaseException | None:
    try:
        await work
    except RaftlogError as error:
        return error
    return None
