"""A call that failed leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from typing import Any, NoReturn

import grpc
import pytest

from raftlog.errors import OverloadedError, RaftlogError
from raftlog.gateway.port import NoMetrics
from raftlog.gateway.rpc import Handlers
from raftlog.pb.raftlog.v1.log_service_pb2 import PublishRequest, PublishResponse


class Held:
    """Stands for the megabytes of a request."""


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

    handler: Any = Handlers(NoMetrics(), asyncio.Event()).unary(call, PublishRequest, PublishResponse)
    request, caller = Held(), Caller()
    gone = weakref.ref(request)
    running = handler.unary_unary(request, caller)
    del request
    with pytest.raises(grpc.aio.AbortError):
        await running
    assert gone() is None
