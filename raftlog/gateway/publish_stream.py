"""One publish stream: requests are published as they arrive, and their acks leave as they are ready.

Rules:

1. Order of requests is order of offsets. Each call of the broker is a task of its own, tasks run their first step in the order in
   which they were started (the loop's ready queue is first in, first out), and the broker decides offsets before its first await.
   Which requests share a call: see ``gathering``.
2. What is in flight is bounded in number and bytes, from reading a request to having written its ack: beyond it the stream is
   not read, gRPC's window fills, and the client waits. A client that does not read its acks stops itself in the same way. The
   errors of an ack count as well: many small records that fail take far more than their request.
3. Acks that are ready together leave in one message: a message costs 0.1 ms and more, whatever it holds.
4. What is refused is refused alone; only where the broker fails as a whole do the requests of that call fail alike. The stream
   ends when the client has closed its side and has all its acks, or with SHUTTING_DOWN when the node stops: then no more is read,
   and what is in flight is answered first. Before that status goes a response which says so, for a client that writes just then
   may never see the status.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import grpc

from raftlog.errors import ShuttingDownError
from raftlog.gateway.gathering import Gathering, Request
from raftlog.gateway.publish import Publisher
from raftlog.gateway.requests import MIB, parsed
from raftlog.gateway.status import Context
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1.log_service_pb2 import PublishStreamRequest, PublishStreamResponse
from raftlog.pb.raftlog.v1.records_pb2 import PublishResult

PUBLISH_IN_FLIGHT_MAX: Final = 1_000
"""Requests of one stream without an ack; a busy client of ours has a few hundred."""
PUBLISH_IN_FLIGHT_BYTES_MAX: Final = 16 * MIB
"""Bytes of them, passed by at most one request: at 200 MB/s, the most that gRPC in Python takes in, 80 ms of data."""
FAILED_RESULT_BYTES: Final = 2_000
"""What a failed result takes until it is written (measured: 1,800 bytes)."""
RESULTS_PER_RESPONSE: Final = 2_000
"""Acks are added to a response until it has so many results: with one request's at most, well below a client's limit."""


def read_request(raw: bytes) -> tuple[PublishStreamRequest, int]:
    """A request and its size in bytes, which protobuf could find out again only by encoding it."""
    return parsed(PublishStreamRequest, raw), len(raw)


class PublishStream:
    """Runs one call of PublishStream."""

    def __init__(self, publisher: Publisher, context: Context, stopping: asyncio.Event) -> None:
        self._publisher = publisher
        self._context = context
        self._stopping = stopping
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._acks: deque[tuple[int, list[PublishResult], int]] = deque()
        self._wake_writer = asyncio.Event()
        self._room = asyncio.Event()
        self._read_all = False

    async def run(self) -> None:
        """Serve the stream to its end.

        Raises:
            ShuttingDownError: the node stops; all that was read has been answered.
        """

        def publish(tp: TopicPartition | None, requests: list[Request]) -> None:
            if not writer.done() and not writer.cancelling():  # else nobody waits for it any more, and the group takes no task
                group.create_task(self._publish(gathering, tp, requests))

        gathering = Gathering(publish)
        try:
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self._write_acks())
                reader = group.create_task(self._read(gathering))
                stop = group.create_task(self._stopping.wait())
                await asyncio.wait((reader, stop), return_when=asyncio.FIRST_COMPLETED)
                cut_short = reader.cancel()
                stop.cancel()
                self._read_all = True
                self._wake_writer.set()
        finally:
            gathering.close()
        if cut_short:
            await self._context.write(PublishStreamResponse(closing=True))
            raise ShuttingDownError("the node is stopping; go on at another node")

    async def _read(self, gathering: Gathering) -> None:
        read = self._context.read
        while True:
            while self._in_flight >= PUBLISH_IN_FLIGHT_MAX or self._in_flight_bytes >= PUBLISH_IN_FLIGHT_BYTES_MAX:
                self._room.clear()
                await self._room.wait()
            message = await read()
            if message is grpc.aio.EOF:
                return
            request, size_bytes = message
            self._in_flight += 1
            self._in_flight_bytes += size_bytes
            correlation_id = request.correlation_id
            try:
                prepared = self._publisher.prepare(request.publish)
            except Exception as error:
                self._answer(correlation_id, [self._publisher.failed(error)], size_bytes)
            else:
                gathering.take(Request(correlation_id, prepared, size_bytes))
            del message, request  # their bytes must not outlive the wait for the next

    async def _publish(self, gathering: Gathering, tp: TopicPartition | None, requests: list[Request]) -> None:
        try:
            answers = await self._publisher.publish(*[request.prepared for request in requests])
        except Exception as error:
            failed = self._publisher.failed(error)
            answers = [[failed] * len(request.prepared.outcomes) for request in requests]
        for request, results in zip(requests, answers, strict=True):
            self._answer(request.correlation_id, results, request.size_bytes)
        gathering.answered(tp)

    def _answer(self, correlation_id: int, results: list[PublishResult], size_bytes: int) -> None:
        if len(results) > 1:  # of a single one, the number of requests is the bound
            failed_bytes = sum(FAILED_RESULT_BYTES for result in results if result.HasField("error"))
            self._in_flight_bytes += failed_bytes
            size_bytes += failed_bytes
        self._acks.append((correlation_id, results, size_bytes))
        self._wake_writer.set()

    async def _write_acks(self) -> None:
        while self._in_flight or not self._read_all:
            await self._wake_writer.wait()
            self._wake_writer.clear()
            while self._acks:
                response, count, size_bytes = self._next_response()
                await self._context.write(response)
                self._in_flight -= count
                self._in_flight_bytes -= size_bytes
                self._room.set()

    def _next_response(self) -> tuple[PublishStreamResponse, int, int]:
        response = PublishStreamResponse()
        count = size_bytes_total = 0
        while self._acks and count < RESULTS_PER_RESPONSE:
            correlation_id, results, size_bytes = self._acks.popleft()
            response.acks.add(correlation_id=correlation_id, results=results)
            count += len(results)
            size_bytes_total += size_bytes
        return response, len(response.acks), size_bytes_total
