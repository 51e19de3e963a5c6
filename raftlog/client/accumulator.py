"""Records waiting for their node, partition by partition: what may be sent next, and in which order it is sent again.

Pure state: no I/O, no clock, no tasks; ``now`` is a parameter, in the loop's seconds.

A batch's life::

    open ──full, flushed or taken──▶ closed ──take──▶ sent ──acknowledged──▶ gone
                                        ▲               │ refused or unknown
                                        └── unnumber ── returned ──▶ sent again …

Rules:

1. A batch gets its sequence when it is first taken, and keeps it: the node knows a repetition by it (KIP-98).
2. From the oldest numbered batch without an answer to the newest one there are at most ``UNANSWERED_MAX``, for a node remembers
   a producer's last so many. Answers may come out of order, so this counts places, not batches. The halves of a split batch
   share a place and go one at a time.
3. After a failure nothing of the partition leaves until all its batches in flight are answered; then all that is left goes
   again, in the old order.
4. A numbered batch that fails for good leaves a hole, behind which the node refuses everything. The partition then goes on under
   a new producer id, from sequence 0. Only batches that are certain not to be stored are numbered anew; others keep their
   sequence until they are answered or give up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, NamedTuple

from raftlog.client.stamping import stamp
from raftlog.client.values import RecordMetadata
from raftlog.errors import RaftlogError
from raftlog.model import TopicPartition
from raftlog.records.batch import SEQUENCE_MODULUS, BatchBuilder
from raftlog.records.compression import Codec

UNANSWERED_MAX: Final = 5
"""Numbered batches of a partition without an answer: a node recognises a producer's last five."""
_AFTER_AN_EVENT: Final = float("inf")
"""No time will help: an answer, an identity or a record will."""


class ProducerIdentity(NamedTuple):
    """A producer id and epoch, and how many this producer had before it."""

    producer_id: int
    epoch: int
    generation: int


class Batch:
    """Records of one partition, and the futures of those who wait for them."""

    __slots__ = (
        "attempt",
        "builder",
        "closed",
        "cost_bytes",
        "data",
        "deadline",
        "done",
        "futures",
        "half",
        "in_flight",
        "last_error",
        "maybe_stored",
        "number",
        "opened_at",
        "place",
        "record_count",
        "sequence",
        "stampable",
        "timestamps",
    )

    def __init__(self, *, number: int, now: float, deadline: float, builder: BatchBuilder | None = None) -> None:
        self.number = number
        """Place in the producer's order of batches; halves of a split batch share their parent's."""
        self.builder = builder
        self.data = b""
        """The encoded batch, once it was taken."""
        self.futures: list[asyncio.Future[RecordMetadata]] = []
        self.timestamps: list[int] = []
        self.cost_bytes = 0
        """What the batch takes of the producer's buffer."""
        self.record_count = 0
        self.opened_at = now
        self.deadline = deadline
        self.closed = False
        self.done = False
        self.in_flight = False
        self.attempt = 0
        """Times it was sent; an answer to an earlier time does not count, but for a success."""
        self.sequence = -1
        self.place = -1
        """Its number among the batches that its partition numbered."""
        self.half = False
        """It was made by splitting."""
        self.stampable = True
        """False for a ready-made batch under a producer id of its own."""
        self.maybe_stored = False
        """An attempt ended without a known outcome."""
        self.last_error: RaftlogError | None = None


class PartitionQueue:
    """The batches of one partition. ``unanswered`` and ``waiting`` together are its batches in their order."""

    __slots__ = (
        "codec",
        "failed",
        "failures",
        "has_hole",
        "idempotent",
        "identity",
        "in_flight",
        "last_generation",
        "next_place",
        "next_sequence",
        "retry_at",
        "route",
        "tp",
        "unanswered",
        "waiting",
    )

    def __init__(self, tp: TopicPartition, *, idempotent: bool, codec: Codec) -> None:
        self.tp = tp
        self.idempotent = idempotent
        self.codec = codec
        self.waiting: deque[Batch] = deque()
        """Never taken, or unnumbered; only the last may be open."""
        self.unanswered: deque[Batch] = deque()
        """Taken and not answered for good, by sequence; those not in flight are to be sent again."""
        self.in_flight = 0
        self.identity: ProducerIdentity | None = None
        self.last_generation = -1
        """Generation of the newest identity that this partition was given."""
        self.next_sequence = 0
        self.next_place = 0
        self.has_hole = False
        """A sequence will never be stored: see rule 4."""
        self.failed = False
        """Something failed: nothing is sent until ``in_flight`` is 0."""
        self.failures = 0
        """Failures in a row."""
        self.retry_at = 0.0
        self.route = ""
        """Address that the queue sends to, empty while nobody leads."""

    @property
    def open(self) -> Batch | None:
        """The batch that takes records."""
        waiting = self.waiting
        return waiting[-1] if waiting and not waiting[-1].closed else None

    @property
    def has_work(self) -> bool:
        """Whether there is anything to send, now or later."""
        return bool(self.waiting) or len(self.unanswered) > self.in_flight

    def close_open(self) -> None:
        """Let the open batch take no more records, so that it need not wait for company."""
        if self.waiting:
            self.waiting[-1].closed = True

    def next_to_send(self, now: float, *, linger_s: float, idle: bool) -> tuple[Batch | None, float]:
        """The batch that may leave now, or the time at which to ask again (infinity: after the next event).

        Args:
            now: seconds.
            linger_s: how long an open batch waits for company.
            idle: whether its node has nothing to answer; then nothing waits for company.
        """
        if now < self.retry_at:
            return None, self.retry_at
        if self.failed and self.in_flight:
            return None, _AFTER_AN_EVENT
        self.failed = False
        again = self._to_repeat()
        if self.idempotent and self.in_flight:
            # A half goes alone: there may be more of them than the node remembers batches.
            halves = any(batch.half for batch in self.unanswered if batch.in_flight)
            if halves or (again is not None and again.half):
                return None, _AFTER_AN_EVENT
        if again is not None:
            return again, now
        return self._next_waiting(now, linger_s, idle)

    def _to_repeat(self) -> Batch | None:
        """The oldest of those that were taken and are not under way."""
        if len(self.unanswered) == self.in_flight:
            return None  # without idempotence there may be thousands, and this is asked for each of them
        return next(batch for batch in self.unanswered if not batch.in_flight)

    def _next_waiting(self, now: float, linger_s: float, idle: bool) -> tuple[Batch | None, float]:
        if not self.waiting or (self.idempotent and (self.identity is None or self.has_hole or self._window_is_full())):
            return None, _AFTER_AN_EVENT
        first = self.waiting[0]
        if first.closed or idle or now >= first.opened_at + linger_s:
            return first, now
        return None, first.opened_at + linger_s

    def _window_is_full(self) -> bool:
        return bool(self.unanswered) and self.next_place - self.unanswered[0].place >= UNANSWERED_MAX

    def encode(self, batch: Batch) -> bytes:
        """The bytes of a batch that ``next_to_send`` gave; a waiting one is closed and numbered by this."""
        if self.waiting and batch is self.waiting[0]:
            self._number(batch)
        return batch.data

    def _number(self, batch: Batch) -> None:
        self.waiting.popleft()
        self.unanswered.append(batch)
        batch.closed = True
        batch.place = self.next_place
        self.next_place += 1
        producer_id, epoch = -1, -1
        if self.idempotent and batch.stampable:
            assert self.identity is not None
            producer_id, epoch, _ = self.identity
            batch.sequence = self.next_sequence
            self.next_sequence = (self.next_sequence + batch.record_count) % SEQUENCE_MODULUS
        builder, batch.builder = batch.builder, None
        if builder is not None:
            batch.data = builder.build(
                codec=self.codec, producer_id=producer_id, producer_epoch=epoch, base_sequence=batch.sequence
            )
        elif batch.sequence >= 0:
            batch.data = stamp(batch.data, producer_id=producer_id, producer_epoch=epoch, base_sequence=batch.sequence)

    def identify(self, identity: ProducerIdentity) -> None:
        """Number batches under ``identity``, which this partition has never seen, from 0."""
        self.identity = identity
        self.last_generation = identity.generation
        self.next_sequence = 0

    def begins_anew(self) -> None:
        """The partition is another one, of a topic that was made again under its name: it has not seen this producer."""
        if not self.unanswered:
            self.identity, self.has_hole = None, False

    def sent(self, batch: Batch) -> None:
        """``batch`` is on its way."""
        batch.in_flight = True
        batch.attempt += 1
        self.in_flight += 1

    def back(self, batch: Batch) -> None:
        """``batch`` is no longer on its way: it was answered, or given up."""
        if batch.in_flight:
            batch.in_flight = False
            self.in_flight -= 1

    def acknowledged(self, batch: Batch) -> None:
        """``batch`` is stored."""
        self.back(batch)
        self._drop(batch)
        self.failures = 0
        self.renumber()

    def gave_up(self, batch: Batch) -> None:
        """``batch`` has failed for good; where it had a sequence, that leaves a hole."""
        self.back(batch)
        self._drop(batch)
        if batch.sequence >= 0:
            self.has_hole = True
        self.renumber()

    def _drop(self, batch: Batch) -> None:
        batch.done = True
        if self.unanswered and self.unanswered[0] is batch:
            self.unanswered.popleft()  # answers come in order, but for failures
        else:
            (self.unanswered if batch in self.unanswered else self.waiting).remove(batch)

    def split(self, batch: Batch, halves: list[Batch]) -> None:
        """Replace ``batch``, which was refused as too large, by smaller ones that share its sequences among them: no hole."""
        self.back(batch)
        batch.done = True
        at = self.unanswered.index(batch)
        del self.unanswered[at]
        for half in reversed(halves):
            self.unanswered.insert(at, half)
        self.failed = True
        self.renumber()

    def returned(self, batch: Batch, *, retry_at: float) -> None:
        """``batch`` was refused, or nobody knows; it is to be sent again."""
        self.back(batch)
        if not self.failed:
            self.failed = True
            self.failures += 1
            self.retry_at = retry_at
        self.renumber()

    def abandon_in_flight(self, error: RaftlogError) -> None:
        """The node that holds the batches in flight no longer leads: send them to another one, without its answers."""
        for batch in self.unanswered:
            if batch.in_flight:
                batch.maybe_stored = True
                batch.last_error = error
                self.back(batch)
        self.failed = False
        self.retry_at = 0.0

    def renumber(self) -> None:
        """Behind a hole, once nothing is in flight and no outcome is unknown: give the sequences back and ask for a new id."""
        if not self.has_hole or self.in_flight or any(batch.maybe_stored for batch in self.unanswered):
            return
        self.has_hole = False
        self.identity = None
        self.next_sequence = 0
        while self.unanswered:
            batch = self.unanswered.pop()
            batch.sequence = -1
            self.waiting.appendleft(batch)
