"""The clients: each does one thing over and over, and records every operation. An outcome is ok, fail, or unknown.

Values are unique in the whole run: the client's name and a number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Self, TypeVar

import grpc

from raftlog import Client, RecordMetadata, TopicPartition
from raftlog.client.connections import MESSAGE_BYTES_MAX
from raftlog.client.offsets import END
from raftlog.client.producer import Producer
from raftlog.client.wire_errors import from_rpc_error, from_status
from raftlog.errors import IndeterminateError, OffsetOutOfRangeError, RaftlogError
from raftlog.pb.raftlog.v1.log_service_pb2 import (
    FetchPartition,
    FetchRequest,
    ListOffsetsPartition,
    ListOffsetsRequest,
    PublishRequest,
)
from raftlog.pb.raftlog.v1.log_service_pb2_grpc import LogServiceStub
from raftlog.pb.raftlog.v1.records_pb2 import ACKS_ALL, ACKS_LEADER, NewRecord
from raftlog.records.batch import decode
from tests.chaos.recorder import Recorder
from tests.history.events import (
    LATEST,
    NO_PRODUCER,
    DeleteTopic,
    Fetch,
    Fetched,
    ListedOffset,
    ListOffset,
    Outcome,
    Publish,
    Published,
)

if TYPE_CHECKING:  # exists for the type checker only
    from raftlog.pb.raftlog.v1.log_service_pb2_grpc import LogServiceAsyncStub

_T = TypeVar("_T")

OUTSTANDING_MAX = 400
"""Records of one producer without an answer: an outage of many seconds is waited out, then sending stops too."""
DELIVERY_TIMEOUT_S = 120.0
"""Longer than any fault: an idempotent producer's record fails only where something is wrong."""
CALL_TIMEOUT_S = 5.0
"""Of calls to one node: then the outcome counts as unknown."""
FETCH_WAIT_MS = 500
RETRY_S = 0.25
_CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
]


def outcome_of(error: BaseException) -> Outcome:
    """Whether an error says that it did not happen, or that nobody knows."""
    return "fail" if isinstance(error, RaftlogError) and not isinstance(error, IndeterminateError) else "unknown"


class OneNode:
    """The log service of one node, without routing and retries."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self.log: LogServiceAsyncStub = LogServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def answer(self, call: Awaitable[_T]) -> _T:
        """Await a call of this node.

        Raises:
            RaftlogError: what the node, or gRPC, says of it.
        """
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self._address) from error


class IdempotentProducer:
    """Sends to all partitions of a topic in turn, many records at once, through the Python client."""

    def __init__(self, name: str, number: int, recorder: Recorder, topic: str, partitions: int, rate: float) -> None:
        self._name, self._number, self._recorder = name, number, recorder
        self._topic, self._partitions, self._rate = topic, partitions, rate
        self._stop = asyncio.Event()
        self._outstanding = asyncio.Semaphore(OUTSTANDING_MAX)
        self._sessions = [0] * partitions

    def stop(self) -> None:
        """Send no more."""
        self._stop.set()

    async def run(self, client: Client) -> None:
        """Until ``stop``; then wait for every outcome."""
        async with client.producer(delivery_timeout_s=DELIVERY_TIMEOUT_S) as producer:
            sent = 0
            while not self._stop.is_set():
                await self._outstanding.acquire()
                await self._send(producer, sent)
                sent += 1
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), 1 / self._rate)

    async def _send(self, producer: Producer, number: int) -> None:
        partition, value = number % self._partitions, f"{self._name}.{number}"
        session = f"{self._name}/{partition}/{self._sessions[partition]}"
        publish = Publish(
            topic=self._topic, partition=partition, values=(value,), producer_id=self._number, base_sequence=number,
            session=session,
        )  # fmt: skip
        operation = self._recorder.begin(self._name, publish)
        try:
            future = await producer.send(self._topic, value.encode(), partition=partition)
        except RaftlogError as error:
            self._recorder.end(operation, "fail", error=repr(error))
            self._outstanding.release()
            return

        def settled(done: asyncio.Future[RecordMetadata]) -> None:
            self._settled(operation, partition, done)

        future.add_done_callback(settled)

    def _settled(self, operation: int, partition: int, done: asyncio.Future[RecordMetadata]) -> None:
        self._outstanding.release()
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if error is None:
            self._recorder.end(operation, "ok", Published(base_offset=done.result().offset))
            return
        # The partition goes on under another producer id, for which an order of its own is promised.
        self._sessions[partition] += 1
        self._recorder.end(operation, outcome_of(error), error=repr(error))


class PlainProducer:
    """Publishes one record after the other through any node, once: without retries, and without idempotence."""

    def __init__(self, name: str, recorder: Recorder, rng: Random, topic: str, partitions: int) -> None:
        self._name, self._recorder, self._rng, self._topic, self._partitions = name, recorder, rng, topic, partitions

    async def run(self, addresses: Sequence[str], stop: asyncio.Event, pause_s: float) -> None:
        """Until ``stop``."""
        number = 0
        nodes = [OneNode(address) for address in addresses]
        try:
            while not stop.is_set():
                await self._publish(self._rng.choice(nodes), number, leader_only=number % 10 == 9)
                number += 1
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), pause_s)
        finally:
            for node in nodes:
                await node.close()

    async def _publish(self, node: OneNode, number: int, *, leader_only: bool) -> None:
        partition, value = self._rng.randrange(self._partitions), f"{self._name}.{number}"
        session = f"{self._name}/{partition}"
        publish = Publish(
            topic=self._topic, partition=partition, values=(value,), acks=1 if leader_only else -1,
            producer_id=NO_PRODUCER, session=session,
        )  # fmt: skip
        operation = self._recorder.begin(self._name, publish)
        record = NewRecord(topic=self._topic, partition=partition, value=value.encode())
        request = PublishRequest(
            acks=ACKS_LEADER if leader_only else ACKS_ALL, timeout_ms=round(CALL_TIMEOUT_S * 800), records=[record]
        )
        try:
            result = (await node.answer(node.log.Publish(request, timeout=CALL_TIMEOUT_S))).results[0]
            if result.HasField("error"):
                raise from_status(result.error)
        except RaftlogError as error:
            self._recorder.end(operation, outcome_of(error), error=repr(error))
        else:
            self._recorder.end(operation, "ok", Published(base_offset=result.offset))


class Fetcher:
    """Reads all partitions of a topic from one node, which forwards to whoever leads; begins again from the start at times."""

    def __init__(self, name: str, recorder: Recorder, rng: Random, topic: str, partitions: int) -> None:
        self._name, self._recorder, self._rng = name, recorder, rng
        self._topic = topic
        self._next = [0] * partitions
        self._sessions = [0] * partitions

    async def run(self, address: str, stop: asyncio.Event) -> None:
        """Until ``stop``."""
        async with OneNode(address) as node:
            turn = 0
            while not stop.is_set():
                partition = turn % len(self._next)
                if self._rng.random() < 0.002:
                    self._next[partition], self._sessions[partition] = 0, self._sessions[partition] + 1
                if not await self.fetch(node, partition):
                    await asyncio.sleep(RETRY_S)
                if self._rng.random() < 0.2:
                    await self._list_latest(node, partition)
                turn += 1

    async def read_all(self, address: str, wanted: dict[int, int]) -> dict[int, list[tuple[int, str]]]:
        """Read every partition up to an offset, as the final read: partition → (offset, value)."""
        read: dict[int, list[tuple[int, str]]] = {partition: [] for partition in wanted}
        async with OneNode(address) as node:
            for partition, end in wanted.items():
                while self._next[partition] < end:
                    found = await self.fetch(node, partition, final=True)
                    if found is None:
                        await asyncio.sleep(RETRY_S)
                    else:
                        read[partition] += [(offset, value) for offset, value, _ in found.records]
        return read

    async def fetch(self, node: OneNode, partition: int, *, final: bool = False) -> Fetched | None:
        """One call; None where it failed."""
        offset = self._next[partition]
        session = f"{self._name}/{partition}/{self._sessions[partition]}"
        operation = self._recorder.begin(
            self._name, Fetch(topic=self._topic, partition=partition, offset=offset, session=session, final=final)
        )
        one = FetchPartition(topic=self._topic, partition=partition, offset=offset)
        request = FetchRequest(partitions=[one], max_wait_ms=0 if final else FETCH_WAIT_MS)
        try:
            said = (await node.answer(node.log.Fetch(request, timeout=CALL_TIMEOUT_S))).partitions[0]
            if said.HasField("error"):
                raise from_status(said.error)
        except RaftlogError as error:
            # A fetch changes nothing: whatever is wrong, it did not happen.
            self._recorder.end(operation, "fail", error=repr(error))
            if isinstance(error, OffsetOutOfRangeError):
                self._recorder.found(f"{self._name} had read up to {offset} of {self._topic}-{partition}, and now: {error}")
            return None
        fetched = _fetched(said.record_batches, offset, said.next_offset, said.high_watermark, said.log_start_offset)
        self._recorder.end(operation, "ok", fetched)
        self._next[partition] = fetched.next_offset
        return fetched

    async def _list_latest(self, node: OneNode, partition: int) -> None:
        operation = self._recorder.begin(self._name, ListOffset(topic=self._topic, partition=partition, timestamp_ms=LATEST))
        request = ListOffsetsRequest(partitions=[ListOffsetsPartition(topic=self._topic, partition=partition, at=END)])
        try:
            said = (await node.answer(node.log.ListOffsets(request, timeout=CALL_TIMEOUT_S))).offsets[0]
            if said.HasField("error"):
                raise from_status(said.error)
        except RaftlogError as error:
            self._recorder.end(operation, "fail", error=repr(error))
            return
        self._recorder.end(operation, "ok", ListedOffset(offset=said.offset))


def _fetched(batches: bytes, offset: int, next_offset: int, high_watermark: int, start: int) -> Fetched:
    """Records before the offset that was asked for come along in their batch, and are not what was asked for."""
    records = tuple(
        (record.offset, (record.value or b"").decode(), record.timestamp_ms)
        for record in (decode(batches) if batches else ())
        if record.offset >= offset
    )
    return Fetched(records=records, next_offset=next_offset, high_watermark=high_watermark, log_start_offset=start)


class Subscriber:
    """Follows a whole topic through the Python client, wherever its leaders go."""

    def __init__(self, name: str, recorder: Recorder, topic: str) -> None:
        self._name, self._recorder, self._topic = name, recorder, topic

    async def run(self, client: Client) -> None:
        """Until cancelled."""
        position: dict[int, int] = {}
        async with client.consumer(self._topic, unavailable_timeout_s=DELIVERY_TIMEOUT_S) as consumer:
            async for batch in consumer.batches():
                partition = batch.tp.partition
                begin = Fetch(
                    topic=self._topic, partition=partition, offset=position.get(partition, 0), session=f"{self._name}/{partition}"
                )
                operation = self._recorder.begin(self._name, begin)
                records = tuple((record.offset, (record.value or b"").decode(), record.timestamp_ms) for record in batch.records)
                fetched = Fetched(
                    records=records, next_offset=batch.next_offset, high_watermark=batch.high_watermark, log_start_offset=0
                )
                self._recorder.end(operation, "ok", fetched)
                position[partition] = batch.next_offset


class TopicMaker:
    """Creates topics, publishes to them a little, and deletes every second one."""

    def __init__(self, name: str, recorder: Recorder) -> None:
        self._name, self._recorder = name, recorder
        self.kept: list[str] = []
        """Topics that are certainly there, and are to stay."""

    async def run(self, client: Client, stop: asyncio.Event, pause_s: float) -> None:
        """Until ``stop``."""
        number = 0
        async with client.producer(delivery_timeout_s=DELIVERY_TIMEOUT_S) as producer:
            while not stop.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), pause_s)
                    return
                await self._one(client, producer, f"{self._name}-{number}", delete=number % 2 == 1)
                number += 1

    async def _one(self, client: Client, producer: Producer, topic: str, *, delete: bool) -> None:
        try:
            await client.admin.create_topic(topic, partitions=1)
        except RaftlogError as error:
            self._recorder.note("topic not created", topic=topic, error=repr(error))
            return
        self._recorder.note("topic created", topic=topic)
        for at in range(5):
            await self._publish(producer, topic, f"{topic}.{at}")
        if not delete:
            self.kept.append(topic)
            return
        operation = self._recorder.begin(self._name, DeleteTopic(topic=topic))
        try:
            await client.admin.delete_topic(topic)
        except RaftlogError as error:
            self._recorder.end(operation, outcome_of(error), error=repr(error))
            return
        self._recorder.end(operation, "ok")
        self._recorder.note("topic deleted", topic=topic)

    async def _publish(self, producer: Producer, topic: str, value: str) -> None:
        publish = Publish(topic=topic, partition=0, values=(value,), producer_id=0, session=topic)
        operation = self._recorder.begin(self._name, publish)
        try:
            stored = await producer.publish(topic, value.encode(), partition=0)
        except RaftlogError as error:
            self._recorder.end(operation, outcome_of(error), error=repr(error))
        else:
            self._recorder.end(operation, "ok", Published(base_offset=stored.offset))


async def ends_of(client: Client, topic: str, partitions: int) -> dict[int, int]:
    """Partition → the offset behind its last record."""
    tps = dict.fromkeys((TopicPartition(topic, partition) for partition in range(partitions)), "latest")
    return {tp.partition: listed.offset for tp, listed in (await client.admin.list_offsets(dict(tps))).items()}
