"""Turns plain async methods into gRPC handlers, with one place where errors become statuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from raftlog.errors import InvalidRequestError, RaftlogError, ShuttingDownError
from raftlog.gateway.port import GatewayMetrics
from raftlog.gateway.requests import parsed
from raftlog.gateway.status import Context, abort, reason_of

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)
_Result = TypeVar("_Result")
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def first_error(error: BaseException) -> BaseException:
    """The error that a task group's exception stands for: one of ours where there is one."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [first_error(leaf) for leaf in error.exceptions]
    return next((leaf for leaf in leaves if isinstance(leaf, RaftlogError)), leaves[0])


async def unless(stopping: asyncio.Event, work: Awaitable[_Result]) -> _Result:
    """What ``work`` comes to, if that is before the node stops.

    Raises:
        ShuttingDownError: the node stops; the work has been cancelled.
    """
    try:
        async with asyncio.TaskGroup() as group:
            working = group.create_task(_result_of(work))
            stop = group.create_task(stopping.wait())
            await asyncio.wait((working, stop), return_when=asyncio.FIRST_COMPLETED)
            working.cancel()
            stop.cancel()
    except BaseExceptionGroup as error:
        raise first_error(error) from None
    if working.cancelled():
        raise ShuttingDownError("the node is stopping; go on at another node")
    return working.result()


async def _result_of(work: Awaitable[_Result]) -> _Result:
    return await work


class Handlers:
    """Builds the handlers of one gateway; every failure is counted and told in the encoding of ``gateway.status``."""

    def __init__(self, metrics: GatewayMetrics, stopping: asyncio.Event) -> None:
        self._metrics = metrics
        self._stopping = stopping
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def wait_until_idle(self) -> None:
        """Wait until none of our calls runs."""
        await self._idle.wait()

    def _refuse_when_stopping(self) -> None:
        if self._stopping.is_set():
            raise ShuttingDownError("the node is stopping; go on at another node")

    @contextmanager
    def _call(self) -> Iterator[None]:
        self._calls += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    def unary(
        self, call: Callable[[_Request], Awaitable[_Response]], request: type[_Request], response: type[_Response]
    ) -> Handler:
        """One request, one response."""

        async def handle(raw: bytes, context: Context) -> _Response:
            with self._call():
                try:
                    self._refuse_when_stopping()
                    return await call(parsed(request, raw))
                except Exception as error:
                    del raw  # gRPC keeps the frames of a call that it aborts, until the garbage collector comes
                    await self._fail(context, error)

        # Parsed above: an error here would be told by gRPC, in its own way.
        return grpc.unary_unary_rpc_method_handler(handle, None, response.SerializeToString)

    def unary_large(
        self, call: Callable[[_Request], Awaitable[_Response]], request: type[_Request], response: type[_Response]
    ) -> Handler:
        """As ``unary``, for requests of megabytes: neither their bytes nor the message is kept while the call waits.

        gRPC keeps both for as long as a handler of one request runs. On the wire that request is a stream of one message, and
        what is read from a stream is the reader's alone; so it is read here, and is ``call``'s to drop.
        """

        async def handle(_requests: object, context: Context) -> _Response:
            with self._call():
                try:
                    self._refuse_when_stopping()
                    return await call(await _only_message(context))
                except Exception as error:
                    await self._fail(context, error)

        return grpc.stream_unary_rpc_method_handler(handle, partial(parsed, request), response.SerializeToString)

    def server_stream(
        self, call: Callable[[_Request, Context], Awaitable[None]], request: type[_Request], write: Callable[[Any], bytes]
    ) -> Handler:
        """One request; ``call`` writes to the context what ``write`` makes bytes of."""

        async def handle(raw: bytes, context: Context) -> None:
            with self._call():
                try:
                    self._refuse_when_stopping()
                    await call(parsed(request, raw), context)
                except Exception as error:
                    del raw  # as above
                    await self._fail(context, error)

        return grpc.unary_stream_rpc_method_handler(handle, None, write)

    def both_streams(
        self, call: Callable[[Context], Awaitable[None]], read: Callable[[bytes], object], response: type[_Response]
    ) -> Handler:
        """``call`` reads from the context what ``read`` makes of each request's bytes, and writes responses to it."""

        async def handle(_requests: object, context: Context) -> None:
            with self._call():
                try:
                    self._refuse_when_stopping()
                    await call(context)
                except Exception as error:
                    await self._fail(context, error)

        return grpc.stream_stream_rpc_method_handler(handle, read, response.SerializeToString)

    async def _fail(self, context: Context, error: BaseException) -> NoReturn:
        error = first_error(error)
        if isinstance(error, (grpc.aio.AbortError, grpc.aio.UsageError, grpc.aio.InternalError)) or context.cancelled():
            raise asyncio.CancelledError  # the caller is gone: there is nobody to tell
        self._metrics.failed(reason_of(error))
        if isinstance(error, RaftlogError):
            # Told in full by its message. Its frames hold the request and, through the outcomes, the error: a cycle that would
            # keep megabytes until the garbage collector comes, which is seldom.
            error.__traceback__ = None
        await abort(context, error)


async def _only_message(context: Context) -> Any:
    message = await context.read()
    if message is grpc.aio.EOF:
        raise InvalidRequestError("the call ended before its request came")
    return message
