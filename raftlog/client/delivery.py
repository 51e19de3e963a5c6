"""Carries batches to their leaders and settles them: routes, retries, producer ids, deadlines.

Rules:

1. Every batch is settled exactly once: acknowledged, or failed with the error that says what is known. A batch that may be
   stored fails with ``IndeterminateError`` or its child ``RequestTimedOutError``, never with anything that says it was not.
2. A batch is settled at the latest when its ``delivery_timeout_s`` is over.
3. Whatever fails asks anew who leads, one question a topic at a time; the answer moves the partition to its new leader at once.
4. A node that holds messages unanswered for ``SUSPECT_AFTER_S`` may be stopped or cut off. If another one leads by then, an
   idempotent partition goes on there without waiting.
5. Every topic is asked about again every ``refresh_s``, also where nothing fails: its keys must go where those of a newly started
   producer go.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final

from raftlog.client.accumulator import Batch, PartitionQueue, ProducerIdentity
from raftlog.client.backoff import backoff_s
from raftlog.client.connections import Node
from raftlog.client.node_sender import NodeSender
from raftlog.client.publish_stream import Outcome, PublishStream
from raftlog.client.routing import Routing
from raftlog.client.splitting import halves_of
from raftlog.client.values import RecordMetadata
from raftlog.client.verdicts import Verdict, verdict
from raftlog.core.tasks import TaskScope
from raftlog.errors import (
    IndeterminateError,
    LeaderNotAvailableError,
    NotLeaderError,
    OverloadedError,
    RaftlogError,
    RequestTimedOutError,
    StorageFullError,
    UnknownTopicOrPartitionError,
)
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1.log_service_pb2 import InitProducerRequest
from raftlog.records.compression import Codec

_log = logging.getLogger(__name__)

SUSPECT_AFTER_S: Final = 1.0
"""An answer usually takes milliseconds, and an election less than a second."""
SWEEP_S: Final = 0.25
"""How often deadlines are looked at: they are seconds, and a look costs microseconds a partition."""


class Delivery:
    """All partitions of one producer, and the senders to their leaders.

    Args:
        open_stream: opens a publish stream to an address.
        released: is told the bytes that a settled batch gives back.
    """

    def __init__(
        self,
        *,
        routing: Routing,
        tasks: TaskScope,
        rng: random.Random,
        open_stream: Callable[[str], PublishStream],
        released: Callable[[int], None],
        idempotent: bool,
        codec: Codec,
        linger_s: float,
        max_in_flight: int,
        delivery_timeout_s: float,
        request_timeout_s: float,
        refresh_s: float,
    ) -> None:
        self._routing = routing
        self._tasks = tasks
        self._rng = rng
        self._open_stream = open_stream
        self._released = released
        self._idempotent = idempotent
        self._codec = codec
        self._linger_s = linger_s
        self._max_in_flight = max_in_flight
        self._delivery_timeout_s = delivery_timeout_s
        self._request_timeout_s = request_timeout_s
        self._refresh_s = refresh_s
        self._loop = asyncio.get_running_loop()
        self._queues: dict[str, dict[int, PartitionQueue]] = {}
        self._topic_ids: dict[str, str] = {}
        self._senders: dict[str, NodeSender] = {}
        self._finding: set[str] = set()
        self._identity: ProducerIdentity | None = None
        self._asking_identity = False
        self._sweeper: asyncio.TimerHandle | None = None
        self._next_number = 0
        self._unsettled: dict[int, int] = {}
        """Unsettled batches by number (two where a batch was split), in the order of their making."""
        self._flushes: list[tuple[int, asyncio.Future[None]]] = []
        self._closed = False
        routing.listeners.add(self._rerouted)
        self._refresher = tasks.start(self._keep_fresh(), name="producer metadata")

    def queue(self, tp: TopicPartition) -> PartitionQueue:
        """The queue of a partition that routing knows."""
        queues = self._queues.setdefault(tp.topic, {})
        queue = queues.get(tp.partition)
        if queue is None:
            queue = queues[tp.partition] = PartitionQueue(tp, idempotent=self._idempotent, codec=self._codec)
            known = self._routing.topic(tp.topic)
            if known is not None:
                self._topic_ids.setdefault(tp.topic, known.topic_id)
            queue.route = self._routing.leader_address(tp)
        return queue

    def new_batch(self) -> Batch:
        """An empty batch whose time begins now; the caller fills it and puts it in a queue before anything else happens."""
        now = self._loop.time()
        number = self._next_number
        self._next_number += 1
        self._unsettled[number] = 1
        if self._sweeper is None:
            period_s = min(SWEEP_S, self._delivery_timeout_s / 4, self._request_timeout_s / 4)
            self._sweeper = self._loop.call_later(period_s, self._sweep)
        return Batch(number=number, now=now, deadline=now + self._delivery_timeout_s)

    def poke(self, queue: PartitionQueue) -> None:
        """``queue`` has something to send."""
        if queue.identity is None and self._idempotent:
            self._identify(queue)
        if queue.route:
            self._sender(queue.route).poke(queue)
        else:
            self._find_leaders(queue.tp.topic)

    def oldest(self) -> tuple[PartitionQueue, Batch] | None:
        """The unsettled batch that was made first, and its queue."""
        queues = (queue for queues in self._queues.values() for queue in queues.values())
        heads = ((queue, batches[0]) for queue in queues for batches in (queue.unanswered, queue.waiting) if batches)
        return min(heads, key=lambda head: head[1].number, default=None)

    async def flush(self) -> None:
        """Wait until all batches made so far are settled; none waits for company."""
        for queues in self._queues.values():
            for queue in queues.values():
                if queue.waiting:
                    queue.close_open()
                    self.poke(queue)
        if not self._unsettled:
            return
        done: asyncio.Future[None] = self._loop.create_future()
        self._flushes.append((self._next_number, done))
        await done

    async def close(self) -> None:
        """End all streams; what is unsettled fails."""
        self._closed = True
        self._routing.listeners.discard(self._rerouted)
        self._refresher.cancel()
        if self._sweeper is not None:
            self._sweeper.cancel()
        try:
            for sender in self._senders.values():
                await sender.close()
        finally:
            for queue in [queue for queues in self._queues.values() for queue in queues.values()]:
                for batch in [*queue.unanswered, *queue.waiting]:
                    error = IndeterminateError if batch.maybe_stored or batch.in_flight else LeaderNotAvailableError
                    self._give_up(queue, batch, error("the producer was closed before the batch was acknowledged"))

    # Answers

    def answered(self, queue: PartitionQueue, batch: Batch, attempt: int, outcome: Outcome, address: str) -> None:
        """See ``node_sender.Answers``. An answer to an earlier attempt counts only where it is a success."""
        if batch.done:
            return
        if isinstance(outcome, RecordMetadata):
            queue.acknowledged(batch)
            self._acknowledge(queue, batch, outcome)
        elif attempt == batch.attempt and batch.in_flight:
            self._refused(queue, batch, outcome, address)
        if queue.has_work and not self._closed:
            self.poke(queue)

    def _refused(self, queue: PartitionQueue, batch: Batch, error: RaftlogError, address: str) -> None:
        batch.last_error = error
        decision = verdict(queue, batch, error)
        if isinstance(error, IndeterminateError):
            batch.maybe_stored = True
        if decision is Verdict.FAIL:
            if batch.maybe_stored and not isinstance(error, IndeterminateError):
                error = IndeterminateError(f"an earlier attempt may have stored the batch; the last one said: {error}")
            self._give_up(queue, batch, error)
        elif decision is Verdict.SPLIT:
            self._unsettled[batch.number] += 1
            queue.split(batch, halves_of(batch, self._codec))
        else:
            if decision is Verdict.NEW_ID:
                queue.has_hole = True
            queue.returned(batch, retry_at=self._loop.time() + self._wait_s(queue, error))
            self._look_elsewhere(queue, error, address)

    def _wait_s(self, queue: PartitionQueue, error: RaftlogError) -> float:
        wait_s = backoff_s(queue.failures + 1, self._rng)
        if isinstance(error, (OverloadedError, StorageFullError)):
            return max(wait_s, error.retry_after_ms / 1_000)
        return wait_s

    def _look_elsewhere(self, queue: PartitionQueue, error: RaftlogError, address: str) -> None:
        if isinstance(error, NotLeaderError) and error.hint is not None and self._routing.apply_hint(queue.tp, error.hint):
            return
        if isinstance(error, (IndeterminateError, StorageFullError)):
            self._routing.avoid(address)  # also where its disk is full: whether it still leads, others know better
        self._find_leaders(queue.tp.topic)

    def _acknowledge(self, queue: PartitionQueue, batch: Batch, first: RecordMetadata) -> None:
        topic, partition = queue.tp.topic, queue.tp.partition
        offset, append_time = first.offset, first.timestamp_ms
        step = 1 if offset >= 0 else 0
        new = tuple.__new__
        for future, timestamp in zip(batch.futures, batch.timestamps, strict=True):
            if not future.done():
                time_ms = timestamp if append_time < 0 else append_time
                future.set_result(new(RecordMetadata, (topic, partition, offset, time_ms)))
            offset += step
        self._settled(batch)

    def _give_up(self, queue: PartitionQueue, batch: Batch, error: RaftlogError) -> None:
        queue.gave_up(batch)
        for future in batch.futures:
            if not future.done():
                future.set_exception(error)
        self._settled(batch)

    def _settled(self, batch: Batch) -> None:
        self._released(batch.cost_bytes)
        left = self._unsettled[batch.number] - 1
        if left:
            self._unsettled[batch.number] = left
            return
        del self._unsettled[batch.number]
        if self._flushes:
            oldest = next(iter(self._unsettled), self._next_number)
            for end, done in self._flushes:
                if oldest >= end and not done.done():
                    done.set_result(None)
            self._flushes = [(end, done) for end, done in self._flushes if not done.done()]

    # Routes

    def _sender(self, address: str) -> NodeSender:
        sender = self._senders.get(address)
        if sender is None:
            sender = self._senders[address] = NodeSender(
                address,
                open_stream=lambda: self._open_stream(address),
                answers=self,
                linger_s=self._linger_s,
                max_in_flight=self._max_in_flight,
            )
        return sender

    def _rerouted(self, topic: str) -> None:
        """Routing knows more about ``topic``."""
        known = self._routing.topic(topic)
        if known is not None and self._topic_ids.setdefault(topic, known.topic_id) != known.topic_id:
            self._topic_ids[topic] = known.topic_id
            for queue in self._queues.get(topic, {}).values():
                queue.begins_anew()
        for queue in self._queues.get(topic, {}).values():
            address = self._routing.leader_address(queue.tp)
            if address == queue.route:
                continue
            if queue.route:
                self._sender(queue.route).forget(queue)
            queue.route = address
            if address:
                queue.retry_at, queue.failures = 0.0, 0  # that the last leader went says nothing of this one
                if queue.has_work:
                    self.poke(queue)

    def _find_leaders(self, topic: str) -> None:
        if topic not in self._finding and not self._closed and not self._tasks.closed:
            self._finding.add(topic)
            self._tasks.start(self._find(topic), name=f"find leaders of {topic}")

    async def _find(self, topic: str) -> None:
        attempt = 0
        try:
            while not self._closed:
                error = await self._routing.refresh(topic)
                queues = list(self._queues[topic].values())
                if isinstance(error, UnknownTopicOrPartitionError):
                    self._fail_all(queues, error)
                    return
                if not any(queue.has_work and not queue.route for queue in queues):
                    return
                attempt += 1
                await asyncio.sleep(backoff_s(attempt, self._rng))
        finally:
            self._finding.discard(topic)

    async def _keep_fresh(self) -> None:
        """Rule 5: one topic after another, for there may be thousands. What cannot be renewed goes on being used."""
        while True:
            await asyncio.sleep(self._refresh_s)
            for topic in list(self._queues):
                if self._routing.topic(topic) is not None:
                    await self._routing.refresh(topic)

    def _fail_all(self, queues: list[PartitionQueue], error: RaftlogError) -> None:
        for queue in queues:
            for batch in [*queue.unanswered, *queue.waiting]:
                if not batch.in_flight:
                    self._give_up(queue, batch, self._unless_stored(batch, error))

    @staticmethod
    def _unless_stored(batch: Batch, error: RaftlogError) -> RaftlogError:
        return IndeterminateError(f"the batch may be stored; the last attempt said: {error}") if batch.maybe_stored else error

    # Producer ids

    def _identify(self, queue: PartitionQueue) -> None:
        if queue.unanswered:
            return
        if self._identity is not None and self._identity.generation > queue.last_generation:
            queue.identify(self._identity)
        elif not self._asking_identity and not self._closed and not self._tasks.closed:
            self._asking_identity = True
            self._tasks.start(self._new_identity(), name="init producer")

    async def _new_identity(self) -> None:
        async def call(node: Node, timeout_s: float) -> tuple[int, int]:
            answer = await node.log.InitProducer(InitProducerRequest(), timeout=timeout_s)
            return answer.producer_id, answer.producer_epoch

        try:
            producer_id, epoch = await self._routing.any_node(call)
        except RaftlogError as error:
            self._asking_identity = False
            self._no_identity(error)
            return
        self._asking_identity = False
        generation = 0 if self._identity is None else self._identity.generation + 1
        self._identity = ProducerIdentity(producer_id, epoch, generation)
        for queue in self._unidentified():
            self.poke(queue)

    def _unidentified(self) -> list[PartitionQueue]:
        queues = (queue for queues in self._queues.values() for queue in queues.values())
        return [queue for queue in queues if queue.identity is None and queue.has_work]

    def _no_identity(self, error: RaftlogError) -> None:
        """The sweep asks again, where asking again may help."""
        _log.warning("no producer id: %s", error)
        for queue in self._unidentified():
            for batch in list(queue.waiting):
                batch.last_error = error
                if not error.retriable:
                    self._give_up(queue, batch, error)

    # Deadlines

    def _sweep(self) -> None:
        self._sweeper = None
        if self._closed:
            return
        now = self._loop.time()
        for queues in list(self._queues.values()):
            for queue in list(queues.values()):
                if queue.waiting or queue.unanswered:
                    self._expire(queue, now)
                    if queue.has_work:
                        self.poke(queue)
        for sender in list(self._senders.values()):
            sent_at = sender.oldest_sent_at
            if sent_at is not None:
                self._suspect(sender, now - sent_at)
        if self._unsettled and self._sweeper is None:
            period_s = min(SWEEP_S, self._delivery_timeout_s / 4, self._request_timeout_s / 4)
            self._sweeper = self._loop.call_later(period_s, self._sweep)

    def _expire(self, queue: PartitionQueue, now: float) -> None:
        for batch in [*queue.unanswered, *queue.waiting]:
            if batch.deadline > now:
                return
            self._give_up(queue, batch, self._expired(queue, batch))

    def _expired(self, queue: PartitionQueue, batch: Batch) -> RaftlogError:
        text = f"{queue.tp}: no acknowledgement within delivery_timeout_s={self._delivery_timeout_s:g}"
        if batch.in_flight or batch.maybe_stored:
            return RequestTimedOutError(f"{text}; the records may be stored or not (last: {batch.last_error})")
        if batch.last_error is not None:
            batch.last_error.add_note(text)
            return batch.last_error
        return LeaderNotAvailableError(f"{text}; nothing was sent, for no leader was found or its queue was full")

    def _suspect(self, sender: NodeSender, waited_s: float) -> None:
        if waited_s >= self._request_timeout_s:
            sender.reset(RequestTimedOutError(f"{sender.address} did not answer within {self._request_timeout_s:g} s"))
            return
        if waited_s < min(SUSPECT_AFTER_S, self._request_timeout_s):
            return
        self._routing.avoid(sender.address)
        for queue in sender.unanswered_queues:
            if queue.route == sender.address:
                self._find_leaders(queue.tp.topic)
            elif queue.idempotent and queue.route and sender.holds(queue):
                queue.abandon_in_flight(IndeterminateError(f"{sender.address} did not answer, and no longer leads {queue.tp}"))
                self.poke(queue)
