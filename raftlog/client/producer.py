"""The producer: records go into one batch a partition, batches to their leaders, acknowledgements back into futures."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from raftlog.client.accumulator import Batch, PartitionQueue
from raftlog.client.delivery import Delivery
from raftlog.client.publish_stream import PublishStream
from raftlog.client.routing import KnownTopic, Routing
from raftlog.client.values import RecordMetadata
from raftlog.core.clock import Clock
from raftlog.core.tasks import TaskScope
from raftlog.errors import (
    InvalidConfigError,
    InvalidRequestError,
    MessageTooLargeError,
    OverloadedError,
    UnknownTopicOrPartitionError,
)
from raftlog.model import NO_PRODUCER, Acks, TopicPartition
from raftlog.records.batch import BatchBuilder, Headers, Record, read_header, record_size_max
from raftlog.records.compression import Codec
from raftlog.records.partitioner import partition_of

RECORD_COST_BYTES: Final = 200
"""Memory that a record takes beside its key and value: its future, its encoding's small parts."""
MIB: Final = 1024 * 1024

Partitioner = Callable[[bytes, int], int]
"""The partition of a key among so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerOptions:
    """Checked options of a producer; see ``Client.producer`` for their meaning."""

    acks: Acks
    linger_ms: float
    batch_size: int
    compression: Codec
    idempotence: bool
    max_in_flight: int
    delivery_timeout_s: float
    request_timeout_s: float
    max_block_s: float
    buffer_memory: int
    max_request_size: int
    metadata_max_age_s: float
    partitioner: Partitioner = partition_of

    def __post_init__(self) -> None:
        if self.idempotence and self.acks is not Acks.ALL:
            raise InvalidConfigError("idempotence needs acks='all': only what a majority holds can be recognised again")
        for name in (
            "batch_size", "max_in_flight", "delivery_timeout_s", "max_block_s", "buffer_memory", "max_request_size",
            "metadata_max_age_s",
        ):  # fmt: skip
            if getattr(self, name) <= 0:
                raise InvalidConfigError(f"{name} must be positive, not {getattr(self, name)}")
        if self.linger_ms < 0:
            raise InvalidConfigError(f"linger_ms must not be negative, and is {self.linger_ms}")


@dataclass(frozen=True, slots=True)
class Waiting:
    """What keeps a producer's oldest batch: its partition, why as far as it is known, and how long it goes on trying."""

    tp: TopicPartition
    why: str
    left_s: float


class _TopicQueues:
    """A topic's queues by partition, and the partition that records without a key stick to (KIP-480)."""

    __slots__ = ("known", "queues", "sticky")

    def __init__(self, known: KnownTopic, queues: list[PartitionQueue]) -> None:
        self.known = known
        self.queues = queues
        self.sticky: PartitionQueue | None = None


class Producer:
    """Publishes records, batched by partition. Made by ``Client.producer``; an async context manager that flushes at its end.

    With idempotence (the default) every record that is acknowledged is stored exactly once and in the order of ``send`` within
    its partition, whatever fails on the way. When a batch fails for good, the partition goes on under a new producer id: what
    follows stays in order, and whether the failed batch is stored is told by its error (``IndeterminateError``: unknown).

    Without idempotence a batch may be stored twice after a lost answer, and a later batch may overtake one that is sent again.
    """

    def __init__(
        self,
        options: ProducerOptions,
        *,
        routing: Routing,
        tasks: TaskScope,
        clock: Clock,
        rng: random.Random,
        open_stream: Callable[[str], PublishStream],
        on_close: Callable[[Producer], None],
    ) -> None:
        self._options = options
        self._routing = routing
        self._clock = clock
        self._rng = rng
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._refresh_s = options.metadata_max_age_s / 2
        """What the client knows of a topic is taken over up to this age, and is renewed after as long again."""
        self._delivery = Delivery(
            routing=routing,
            tasks=tasks,
            rng=rng,
            open_stream=open_stream,
            released=self._released,
            idempotent=options.idempotence,
            codec=options.compression,
            linger_s=options.linger_ms / 1_000,
            max_in_flight=options.max_in_flight,
            delivery_timeout_s=options.delivery_timeout_s,
            request_timeout_s=options.request_timeout_s,
            refresh_s=self._refresh_s,
        )
        self._topics: dict[str, _TopicQueues] = {}
        self._buffered = 0
        self._space_waiters: deque[asyncio.Future[None]] = deque()
        self._give_way = False
        self._closed = False

    async def __aenter__(self) -> Producer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def buffered_bytes(self) -> int:
        """What unacknowledged records take of ``buffer_memory``."""
        return self._buffered

    @property
    def waiting(self) -> Waiting | None:
        """What its oldest unacknowledged batch waits for, to be told to people; None where there is no such batch."""
        oldest = self._delivery.oldest()
        if oldest is None:
            return None
        queue, batch = oldest
        if batch.last_error is not None:
            why = str(batch.last_error)
        else:
            why = f"no answer from {queue.route} yet" if queue.route else "no leader of it is known"
        return Waiting(queue.tp, why, max(0.0, batch.deadline - self._loop.time()))

    async def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp_ms: int | None = None,
    ) -> asyncio.Future[RecordMetadata]:
        """Take a record for publishing. Waits only for buffer space and, once a topic, for its partitions; for these once more
        where ``partition`` is none of them, for it may have been added.

        Where this call is cancelled or raises, the record was not taken. The future is the acknowledgement; cancelling it does
        not call the record back.

        Args:
            topic: an existing topic.
            value: the record's bytes; None is a tombstone.
            key: decides the partition, as in every Kafka client.
            partition: instead of the key's or any.
            headers: names and bytes.
            timestamp_ms: milliseconds since the epoch; now where it is missing.

        Raises:
            UnknownTopicOrPartitionError: no such topic or partition.
            MessageTooLargeError: the record is larger than ``max_request_size``.
            OverloadedError: no buffer space within ``max_block_s``.
            InvalidRequestError: the producer is closed, or what was given is no record: text has to be encoded.
        """
        if value is not None and type(value) is not bytes:
            value = _bytes_of("value", value)
        if key is not None and type(key) is not bytes:
            key = _bytes_of("key", key)
        cost = RECORD_COST_BYTES + (len(value) if value is not None else 0) + (len(key) if key is not None else 0)
        packed: Headers = _headers_of(headers) if headers else ()
        if packed:
            cost += sum(len(name) + len(data or b"") for name, data in packed)
        queues = self._topics.get(topic)
        if queues is None or queues.known is not self._routing.topic(topic):
            queues = await self._load(topic)
        if partition is not None and not 0 <= partition < len(queues.queues):
            queues = await self._load_with(topic, partition)
        if self._give_way:
            self._give_way = False
            await asyncio.sleep(0)  # the sender's turn: a loop of sends would otherwise never let it run
        if self._space_waiters or self._buffered + cost > self._options.buffer_memory:
            await self._wait_for_space(cost)
        if self._closed:
            raise InvalidRequestError("the producer is closed; send inside its 'async with'")
        if cost > self._options.max_request_size:
            self._check_size(key, value, packed)
        now_ms = timestamp_ms if timestamp_ms is not None else self._clock.wall_ms()
        batch = self._append(queues, Record(-1, now_ms, key, value, packed), partition)
        future: asyncio.Future[RecordMetadata] = self._loop.create_future()
        batch.futures.append(future)
        batch.timestamps.append(now_ms)
        batch.record_count += 1
        batch.cost_bytes += cost
        self._buffered += cost
        return future

    async def publish(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp_ms: int | None = None,
    ) -> RecordMetadata:
        """Send a record and wait for its acknowledgement; see ``send``. A lone record does not wait for ``linger_ms``."""
        return await (await self.send(topic, value, key=key, partition=partition, headers=headers, timestamp_ms=timestamp_ms))

    async def send_batch(self, tp: TopicPartition, batch: bytes) -> asyncio.Future[RecordMetadata]:
        """Take one ready-made record batch v2; the future tells the place of its first record.

        A batch without a producer id is numbered like the producer's own; one that has an id is sent as it is.

        Raises:
            CorruptMessageError: it is shorter than a batch's header.
            See also ``send``.
        """
        header = read_header(batch)
        queue = await self._queue(tp)
        cost = RECORD_COST_BYTES + len(batch)
        if self._space_waiters or self._buffered + cost > self._options.buffer_memory:
            await self._wait_for_space(cost)
        if self._closed:
            raise InvalidRequestError("the producer is closed; send inside its 'async with'")
        queue.close_open()
        made = self._delivery.new_batch()
        made.data = bytes(batch)
        made.stampable = header.producer_id == NO_PRODUCER
        made.record_count = header.record_count
        made.closed = True
        made.cost_bytes = cost
        self._buffered += cost
        future: asyncio.Future[RecordMetadata] = self._loop.create_future()
        made.futures.append(future)
        made.timestamps.append(header.base_timestamp)
        queue.waiting.append(made)
        self._delivery.poke(queue)
        return future

    async def publish_batch(self, tp: TopicPartition, batch: bytes) -> RecordMetadata:
        """Send a ready-made batch and wait for its acknowledgement; see ``send_batch``."""
        return await (await self.send_batch(tp, batch))

    async def flush(self) -> None:
        """Wait until every record sent so far is acknowledged or has failed; failures are in their futures."""
        await self._delivery.flush()

    async def close(self) -> None:
        """Flush, then end. Takes at most ``delivery_timeout_s``; cancelled, it fails what is left."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._delivery.flush()
        finally:
            self._on_close(self)
            await self._delivery.close()
            self._wake_waiters()

    # Taking a record

    def _append(self, topic: _TopicQueues, record: Record, partition: int | None) -> Batch:
        """Put the record in its partition's open batch, or in a new one."""
        _, now_ms, key, value, headers = record
        queues = topic.queues
        if partition is not None:
            queue = queues[partition]
        elif key is not None:
            queue = queues[self._options.partitioner(key, len(queues))]
        else:
            queue = self._sticky(topic)
        batch = queue.open
        if batch is not None:
            assert batch.builder is not None
            if batch.builder.append(key, value, headers, timestamp_ms=now_ms):
                return batch
            batch.closed = True
            self._give_way = True
            self._delivery.poke(queue)
            if partition is None and key is None:
                queue = self._sticky(topic)
                return self._append(topic, record, queue.tp.partition)
        return self._append_new(queue, record)

    def _append_new(self, queue: PartitionQueue, record: Record) -> Batch:
        _, now_ms, key, value, headers = record
        builder = BatchBuilder(size_bytes_max=self._options.batch_size)
        builder.append(key, value, headers, timestamp_ms=now_ms)  # before the batch is registered: it may raise
        batch = self._delivery.new_batch()
        batch.builder = builder
        queue.waiting.append(batch)
        self._delivery.poke(queue)
        return batch

    def _sticky(self, topic: _TopicQueues) -> PartitionQueue:
        """The partition for records without a key: another one for each batch, one with a leader where there is any."""
        queue = topic.sticky
        if queue is None or queue.open is None:
            choices = [q for q in topic.queues if q is not queue and q.route] or [q for q in topic.queues if q is not queue]
            if choices:
                queue = choices[int(self._rng.random() * len(choices))]
            assert queue is not None, "a topic has a partition at least"
            topic.sticky = queue
        return queue

    def _check_size(self, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        size = record_size_max(key, value, headers)
        if size > self._options.max_request_size:
            raise MessageTooLargeError(
                f"the record has {size} bytes, and max_request_size is {self._options.max_request_size}; "
                "send it in parts, or raise max_request_size and the topic's max.message.bytes"
            )

    async def _load(self, topic: str) -> _TopicQueues:
        """A topic in use is taken as it is known: it is renewed beside, and ``send`` waits for no node that is silent."""
        max_age_s = math.inf if topic in self._topics else self._refresh_s
        return self._loaded(topic, await self._routing.load(topic, max_age_s=max_age_s))

    async def _load_with(self, topic: str, partition: int) -> _TopicQueues:
        """The queues of a topic that has ``partition`` by now, if it has: it may have been added since the topic was loaded."""
        loaded = self._loaded(topic, await self._routing.load(topic, max_age_s=0.0))
        if not 0 <= partition < len(loaded.queues):
            raise UnknownTopicOrPartitionError(
                f"topic {topic!r} has no partition {partition}: its partitions are 0 to {len(loaded.queues) - 1}"
            )
        return loaded

    def _loaded(self, topic: str, known: KnownTopic) -> _TopicQueues:
        queues = [self._delivery.queue(TopicPartition(topic, number)) for number in range(len(known.leaders))]
        loaded = self._topics[topic] = _TopicQueues(known, queues)
        return loaded

    async def _queue(self, tp: TopicPartition) -> PartitionQueue:
        loaded = self._topics.get(tp.topic)
        if loaded is None or loaded.known is not self._routing.topic(tp.topic):
            loaded = await self._load(tp.topic)
        if not 0 <= tp.partition < len(loaded.queues):
            loaded = await self._load_with(tp.topic, tp.partition)
        return loaded.queues[tp.partition]

    # Buffer space, first come, first served

    async def _wait_for_space(self, cost: int) -> None:
        if cost > self._options.buffer_memory:
            raise MessageTooLargeError(
                f"the record takes {cost} bytes, and buffer_memory is {self._options.buffer_memory}; raise it"
            )
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._space_waiters.append(waiter)
        try:
            async with asyncio.timeout(self._options.max_block_s):
                while self._space_waiters[0] is not waiter or self._buffered + cost > self._options.buffer_memory:
                    if self._closed:
                        break
                    await waiter
                    if self._space_waiters[0] is waiter and self._buffered + cost > self._options.buffer_memory:
                        at_front: asyncio.Future[None] = self._loop.create_future()
                        self._space_waiters[0] = waiter = at_front
        except TimeoutError as error:
            raise OverloadedError(
                f"buffer_memory is full of unacknowledged records for {self._options.max_block_s:g} s; "
                "send slower, raise buffer_memory, or see whether the cluster is up"
            ) from error
        finally:
            self._space_waiters.remove(waiter)
            self._wake_first()

    def _released(self, cost_bytes: int) -> None:
        self._buffered -= cost_bytes
        self._wake_first()

    def _wake_first(self) -> None:
        if self._space_waiters and not self._space_waiters[0].done():
            self._space_waiters[0].set_result(None)

    def _wake_waiters(self) -> None:
        for waiter in self._space_waiters:
            if not waiter.done():
                waiter.set_result(None)


def _bytes_of(what: str, given: object) -> bytes:
    """What a record may be made of. Found out later, it would hold up the records that travel with it."""
    if isinstance(given, bytes | bytearray | memoryview):
        return bytes(given)
    raise InvalidRequestError(f"a record's {what} is bytes, not {type(given).__name__}; encode it first")


def _headers_of(headers: Sequence[tuple[str, bytes | None]]) -> Headers:
    if not all(isinstance(name, str) for name, _ in headers):
        raise InvalidRequestError("the name of a header is a str")
    return tuple((name, None if data is None else _bytes_of(f"header {name!r}", data)) for name, data in headers)
