"""One subscription: follows partitions from their positions on, for as long as the call lives.

Rules:

1. Each partition has one task with at most one fetch outstanding, which waits at the broker where there is nothing to read: a
   subscription at the tail costs one timer a partition and wait, it never spins.
2. Responses are written one at a time, in the order in which their fetches were answered (``asyncio.Lock`` is first in, first
   out), so a busy partition cannot starve the others. A write waits for gRPC's flow control: a slow reader stops the fetching.
3. Memory is bounded: all fetches of a subscription together ask for ``SUBSCRIBE_BYTES_MAX`` at most.
4. Without ``direct``, whatever passes by itself (an election, a leader that moved, overload) is met by trying again after a
   growing, bounded pause. The call ends with an error only where going on cannot help: out of range, unknown topic, data loss.
5. The call's initial metadata leaves when all positions are known: from then on, what is published is in or after the
   position EDGE_END.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from raftlog.broker.port import EARLIEST, LATEST, Broker, Fetched
from raftlog.errors import CorruptMessageError, DataLossError, RaftlogError, ShuttingDownError, UnknownTopicOrPartitionError
from raftlog.gateway import requests
from raftlog.gateway.port import GatewayMetrics
from raftlog.gateway.status import Context
from raftlog.gateway.wire import BatchesResponse
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1.log_service_pb2 import SubscribeRequest, SubscribeResponse
from raftlog.pb.raftlog.v1.records_pb2 import Header, Record
from raftlog.records import batch as record_batch
from raftlog.records.compression import Codec

SUBSCRIBE_WAIT_S: Final = 10.0
"""How long a fetch waits at the tail before it asks again."""
SUBSCRIBE_BYTES_MAX: Final = 16 * requests.MIB
"""Bytes that a subscription's fetches may hold together, but for batches that are bigger than their share."""
SUBSCRIBE_SHARE_BYTES_MIN: Final = 64 * 1024
"""What a partition may fetch at least, however many there are."""
RETRY_PAUSE_S_MIN: Final = 0.05
RETRY_PAUSE_S_MAX: Final = 1.0
"""Pauses between attempts: the first is shorter than an election, the last keeps a long outage cheap."""
RECORDS_PER_RESPONSE: Final = 1_000
"""Decoded records in one response: some 3 ms of encoding between two turns of the loop."""
DECODE_INLINE_BYTES_MAX: Final = 32 * 1024
"""A batch up to this size that is not compressed is decoded on the loop: some 5 ms at worst. Of a bigger one, or of one whose
size is not known before, that could delay heartbeats."""

_T = TypeVar("_T")


@dataclass(slots=True)
class _Follower:
    """One partition of the subscription; ``offset`` is the next to be read."""

    tp: TopicPartition
    offset: int


class Subscription:
    """Runs one call of Subscribe."""

    def __init__(
        self, broker: Broker, metrics: GatewayMetrics, context: Context, request: SubscribeRequest, stopping: asyncio.Event
    ) -> None:
        requests.partitions_count(len(request.partitions))
        self._broker = broker
        self._metrics = metrics
        self._context = context
        self._stopping = stopping
        self._direct = request.direct
        self._records = requests.wants_records(request.form)
        share_bytes = max(SUBSCRIBE_SHARE_BYTES_MIN, SUBSCRIBE_BYTES_MAX // len(request.partitions))
        self._bytes_max = min(requests.bytes_max(request.max_bytes), share_bytes)
        self._writing = asyncio.Lock()
        self._starts = [
            (
                requests.topic_partition(one.topic, one.partition, f"partitions[{index}]"),
                requests.offset_or_timestamp(getattr(one, "from"), f"partitions[{index}].from"),
            )
            for index, one in enumerate(request.partitions)
        ]

    async def run(self) -> None:
        """Serve the subscription until the client leaves.

        Raises:
            RaftlogError: going on cannot help, or the node stops.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._end_on_stop())
            resolving = [group.create_task(self._resolve(tp, *start)) for tp, start in self._starts]
            followers = [await task for task in resolving]
            await self._context.send_initial_metadata(())
            for follower in followers:
                group.create_task(self._follow(follower))

    async def _end_on_stop(self) -> None:
        await self._stopping.wait()
        raise ShuttingDownError("the node is stopping; subscribe again at another node")

    async def _resolve(self, tp: TopicPartition, offset: int | None, timestamp_ms: int) -> _Follower:
        if offset is not None:
            return _Follower(tp, offset)
        if timestamp_ms in (EARLIEST, LATEST):
            return _Follower(tp, await self._list(tp, timestamp_ms))
        end = await self._list(tp, LATEST)  # before the time: of what arrives between the two questions, nothing is passed over
        found = await self._list(tp, timestamp_ms)
        return _Follower(tp, found if found >= 0 else end)  # no record that young yet: those to come are

    async def _list(self, tp: TopicPartition, timestamp_ms: int) -> int:
        listed = await self._patiently(lambda: self._broker.list_offset(tp, timestamp_ms, direct=self._direct))
        return listed.offset

    async def _follow(self, follower: _Follower) -> None:
        while True:
            fetched = await self._patiently(
                lambda: self._broker.fetch(
                    follower.tp, follower.offset, bytes_max=self._bytes_max, wait_s=SUBSCRIBE_WAIT_S, direct=self._direct
                )
            )
            if not fetched.batches:
                # The log may hold offsets without records, which a fetch passes over.
                follower.offset = max(follower.offset, fetched.next_offset)
                continue
            async with self._writing:
                await self._write(follower, fetched)
            self._metrics.fetched(fetched.size_bytes)
            follower.offset = fetched.next_offset

    async def _write(self, follower: _Follower, fetched: Fetched) -> None:
        if self._records:
            await self._write_records(follower, fetched)
            return
        response = _response(follower.tp, fetched, fetched.next_offset)
        await self._context.write(BatchesResponse(response, fetched.batches))

    async def _write_records(self, follower: _Follower, fetched: Fetched) -> None:
        """The records from the follower's offset on, in responses bounded by number and bytes.

        Each says where to go on after it; the last one's is the fetch's own, past offsets that hold no record.
        """
        ready: list[Record] = []
        size_bytes = 0
        for data in fetched.batches:
            for record in await _records(follower.tp, data):
                if record.offset < follower.offset:
                    continue
                if len(ready) >= RECORDS_PER_RESPONSE or size_bytes >= self._bytes_max:
                    response = _response(follower.tp, fetched, record.offset)
                    response.records.extend(ready)
                    await self._context.write(response)
                    ready.clear()
                    size_bytes = 0
                ready.append(record)
                size_bytes += len(record.key) + len(record.value)
        response = _response(follower.tp, fetched, fetched.next_offset)
        response.records.extend(ready)
        await self._context.write(response)

    async def _patiently(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """``call()``, again after a pause for as long as its failure is one that passes."""
        pause_s = RETRY_PAUSE_S_MIN
        while True:
            try:
                return await call()
            except RaftlogError as error:
                if self._direct or not error.retriable or isinstance(error, (UnknownTopicOrPartitionError, DataLossError)):
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_PAUSE_S_MAX)


def _response(tp: TopicPartition, fetched: Fetched, next_offset: int) -> SubscribeResponse:
    return SubscribeResponse(
        topic=tp.topic,
        partition=tp.partition,
        high_watermark=fetched.high_watermark,
        log_start_offset=fetched.log_start_offset,
        next_offset=next_offset,
    )


async def _records(tp: TopicPartition, data: bytes | memoryview) -> list[Record]:
    """A stored batch's records; a big batch is taken apart beside the loop.

    Raises:
        DataLossError: it passes its check, and says what no record can be.
    """
    header = record_batch.read_header(data)
    try:
        if len(data) <= DECODE_INLINE_BYTES_MAX and header.codec is Codec.NONE:
            return _decode(data)
        return await asyncio.to_thread(_decode, data)
    except (CorruptMessageError, ValueError) as error:  # the latter where a time is beyond 64 bits
        first, last = header.base_offset, header.base_offset + header.last_offset_delta
        raise DataLossError(
            f"the stored batch of {tp} with offsets {first} to {last} cannot be decoded: {error}; go on behind it, from"
            f" {last + 1}"
        ) from error


def _decode(data: bytes | memoryview) -> list[Record]:
    return [_encode(record) for record in record_batch.decode(data)]


def _encode(record: record_batch.Record) -> Record:
    return Record(
        offset=record.offset,
        timestamp_ms=record.timestamp_ms,
        key=record.key,
        value=record.value,
        headers=[Header(key=key, value=value) for key, value in record.headers],
    )
