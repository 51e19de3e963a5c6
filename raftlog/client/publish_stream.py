"""An open publish stream to one node: messages of many batches go out without waiting, acknowledgements come back as they come.

Rules:

1. Messages are written in the order of ``send``; a node takes them in that order.
2. When the stream ends, every message without an answer fails: with ``IndeterminateError`` where it may have reached the
   node, with ``UnavailableError`` where it was never written or the node said that it had read no more.
3. A stream that has ended stays ended; its owner opens another.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Final

import grpc

from raftlog.client.connections import Node
from raftlog.client.values import RecordMetadata
from raftlog.client.wire_errors import from_rpc_error, from_status
from raftlog.core.tasks import TaskScope
from raftlog.errors import IndeterminateError, OverloadedError, RaftlogError, ShuttingDownError, UnavailableError
from raftlog.model import Acks, TopicPartition
from raftlog.pb.raftlog.v1 import records_pb2
from raftlog.pb.raftlog.v1.log_service_pb2 import PublishStreamRequest, PublishStreamResponse
from raftlog.pb.raftlog.v1.records_pb2 import PublishResult

IN_FLIGHT_MAX: Final = 1_000
"""Messages without an answer; a node reads no more than that of one stream."""

Outcome = RecordMetadata | RaftlogError
"""What became of one batch: the place of its first record, or why it was refused."""

WIRE_ACKS: Final = {
    Acks.ALL: records_pb2.ACKS_ALL,
    Acks.LEADER: records_pb2.ACKS_LEADER,
    Acks.NONE: records_pb2.ACKS_NONE,
}


def outcome_of(result: PublishResult) -> Outcome:
    """The wire's result as a value."""
    if result.HasField("error"):
        return from_status(result.error)
    return RecordMetadata(result.topic, result.partition, result.offset, result.log_append_time_ms)


class PublishStream:
    """One PublishStream call. Made by ``Client.publish_stream``; an async context manager that closes the stream.

    Args:
        node: where to.
        tasks: runs the stream's writer and reader.
        acks: what an acknowledgement means.
        timeout_ms: how long the node may wait for the acknowledgement.
        direct: refuse with NOT_LEADER rather than forward, where the node does not lead.
    """

    def __init__(
        self, node: Node, *, tasks: TaskScope, acks: Acks = Acks.ALL, timeout_ms: int = 30_000, direct: bool = True
    ) -> None:
        self.address = node.address
        self._loop = asyncio.get_running_loop()
        self._wire_acks = WIRE_ACKS[acks]
        self._timeout_ms = timeout_ms
        self._direct = direct
        self._next_id = 1
        self._unwritten: deque[PublishStreamRequest] = deque()
        self._waiting: dict[int, asyncio.Future[list[Outcome]]] = {}
        self._wake: asyncio.Future[None] | None = None
        self._error: RaftlogError | None = None
        self._call: Any = node.log.PublishStream()
        self._writer = tasks.start(self._write(), name=f"publish writer {node.address}")
        self._reader = tasks.start(self._read(), name=f"publish reader {node.address}")

    async def __aenter__(self) -> PublishStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def error(self) -> RaftlogError | None:
        """Why the stream has ended, None while it is open."""
        return self._error

    @property
    def in_flight(self) -> int:
        """Messages without an answer."""
        return len(self._waiting)

    def send(self, batches: Iterable[tuple[TopicPartition, bytes]]) -> asyncio.Future[list[Outcome]]:
        """Send one message; the future has an outcome for each batch, in their order.

        Raises:
            OverloadedError: ``IN_FLIGHT_MAX`` messages have no answer yet.
            RaftlogError: the stream has ended.
        """
        if self._error is not None:
            raise self._error
        if len(self._waiting) >= IN_FLIGHT_MAX:
            raise OverloadedError(f"{IN_FLIGHT_MAX} messages to {self.address} have no answer yet; await some of them first")
        correlation_id = self._next_id
        self._next_id += 1
        request = PublishStreamRequest(correlation_id=correlation_id)
        publish = request.publish
        publish.acks, publish.timeout_ms, publish.direct = self._wire_acks, self._timeout_ms, self._direct
        add = publish.batches.add  # in its place: a message that is given to another one is copied, with its records
        for tp, data in batches:
            add(topic=tp.topic, partition=tp.partition, record_batch=data)
        self._unwritten.append(request)
        future: asyncio.Future[list[Outcome]] = self._loop.create_future()
        self._waiting[correlation_id] = future
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
        return future

    async def publish(self, batches: Sequence[tuple[TopicPartition, bytes]]) -> list[Outcome]:
        """Send one message and wait for its answer."""
        return await self.send(batches)

    def fail(self, error: RaftlogError) -> None:
        """End the stream now; what has no answer fails with ``error``."""
        if self._error is None:
            self._error = error
            self._call.cancel()
            unwritten = {request.correlation_id for request in self._unwritten}
            self._unwritten.clear()
            waiting, self._waiting = self._waiting, {}
            never = UnavailableError(f"not sent to {self.address}: {error}")
            for correlation_id, future in waiting.items():
                if not future.done():
                    future.set_exception(never if correlation_id in unwritten else error)
                    future.exception()  # whoever waits sees it; nobody has to
            if self._wake is not None and not self._wake.done():
                self._wake.set_result(None)

    async def close(self) -> None:
        """End the stream; what has no answer fails with ``IndeterminateError``."""
        self.fail(IndeterminateError(f"the stream to {self.address} was closed before the answer came"))
        self._writer.cancel()
        self._reader.cancel()
        await asyncio.wait((self._writer, self._reader))

    async def _write(self) -> None:
        try:
            await self._call.wait_for_connection()
            while self._error is None:
                while self._unwritten:
                    await self._call.write(self._unwritten.popleft())
                self._wake = self._loop.create_future()
                await self._wake
                self._wake = None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the call is over; the reader knows why, or is about to

    async def _read(self) -> None:
        read = self._call.read
        try:
            while True:
                response = await read()
                if response is grpc.aio.EOF:
                    break
                self._take(response)
            code, details = await self._call.code(), await self._call.details()
            self._ended(IndeterminateError(f"{self.address} ended the stream: {code.name} {details}"))
        except grpc.aio.AioRpcError as error:
            self._ended(from_rpc_error(error, self.address))
        except asyncio.CancelledError:
            if self._error is None:
                self._ended(IndeterminateError(f"the stream to {self.address} was cancelled"))
            raise

    def _ended(self, error: RaftlogError) -> None:
        # A node that stops answers all that it has read, so what is left was not read.
        sure = isinstance(error, (UnavailableError, IndeterminateError))
        if isinstance(error, ShuttingDownError) or sure:
            self.fail(error)
        else:
            self.fail(IndeterminateError(f"the stream to {self.address} failed: {error}"))

    def _take(self, response: PublishStreamResponse) -> None:
        if response.closing:
            self.fail(ShuttingDownError(f"{self.address} is stopping; go on at another node"))
        for ack in response.acks:
            future = self._waiting.pop(ack.correlation_id, None)
            if future is not None and not future.done():
                future.set_result([outcome_of(result) for result in ack.results])
