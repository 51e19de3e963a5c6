"""Publishing: a request's batches and records become batches for the broker, its outcomes become results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from google.rpc.status_pb2 import Status

from raftlog.broker.port import Broker, Published
from raftlog.core.clock import Clock
from raftlog.errors import InvalidRequestError, RaftlogError
from raftlog.gateway import requests
from raftlog.gateway.group_records import RecordGrouper
from raftlog.gateway.port import GatewayMetrics
from raftlog.gateway.status import reason_of, to_status
from raftlog.model import Acks, TopicPartition
from raftlog.pb.raftlog.v1.log_service_pb2 import PublishRequest
from raftlog.pb.raftlog.v1.records_pb2 import PublishResult

PUBLISH_ITEMS_MAX: Final = 10_000
"""Batches and records in one request: 10,000 small records keep the loop busy for some 30 ms, which an election survives."""

Outcome = tuple[TopicPartition, Published | RaftlogError, int]
"""Where an item went, what became of its batch, and its place in that batch."""


@dataclass(slots=True)
class Prepared:
    """A request taken apart: what goes to the broker, and where its outcomes belong. Free of the request's own bytes, and of the
    batches' as soon as the broker has them: a publish that waits for its majority holds its entry in the log and nothing else."""

    acks: Acks
    timeout_s: float
    direct: bool
    started_s: float
    outcomes: list[Outcome | None]
    """One for each batch, then one for each record; those that failed already are there."""
    batches: list[tuple[TopicPartition, bytes]]
    slots: list[Sequence[int]]
    """For each of ``batches`` the outcomes that it decides."""

    @property
    def terms(self) -> tuple[Acks, float, bool]:
        """What requests must have in common to be published in one call."""
        return self.acks, self.timeout_s, self.direct

    @property
    def only_partition(self) -> TopicPartition | None:
        """The partition of all its batches, None where there are several, or no batch."""
        if not self.batches:
            return None
        tp = self.batches[0][0]
        return tp if len(self.batches) == 1 or all(other == tp for other, _ in self.batches) else None

    def take_over(self, published: Iterator[Published | RaftlogError], places: Sequence[TopicPartition]) -> None:
        """Note what became of its batches: the next so many of ``published``."""
        for tp, slots in zip(places, self.slots, strict=True):
            outcome = next(published)
            for delta, slot in enumerate(slots):
                self.outcomes[slot] = (tp, outcome, delta)


class Publisher:
    """Publishes requests of both kinds of call; keeps nothing but the turn of keyless records."""

    __slots__ = ("_broker", "_clock", "_grouper", "_metrics")

    def __init__(self, broker: Broker, clock: Clock, metrics: GatewayMetrics) -> None:
        self._broker = broker
        self._clock = clock
        self._metrics = metrics
        self._grouper = RecordGrouper(broker, clock)

    def prepare(self, request: PublishRequest) -> Prepared:
        """Take a request apart.

        Raises:
            InvalidRequestError: of the request as a whole; what is wrong with an item is kept as its outcome.
        """
        acks, timeout_s = requests.acks(request.acks), requests.publish_timeout_s(request.timeout_ms)
        outcomes: list[Outcome | None] = [None] * _count(request)
        batches: list[tuple[TopicPartition, bytes]] = []
        slots: list[Sequence[int]] = []
        tp = TopicPartition("", 0)
        for slot, new in enumerate(request.batches):
            topic, partition = new.topic, new.partition  # each look makes them anew
            if topic != tp.topic or partition != tp.partition:
                tp = TopicPartition(topic, partition)
            if topic:
                batches.append((tp, new.record_batch))
                slots.append((slot,))
            else:
                outcomes[slot] = (tp, InvalidRequestError(f"batches[{slot}].topic is empty; name a topic"), 0)
        if request.records:
            first = len(request.batches)
            for failed, tp, error in self._grouper.group(request.records, first, batches, slots):
                outcomes[failed] = (tp, error, 0)
        return Prepared(acks, timeout_s, request.direct, self._clock.monotonic_s(), outcomes, batches, slots)

    async def outcomes(self, *together: Prepared) -> list[list[Outcome]]:
        """Publish requests on the same terms in one call, and say of each what became of its batches, then of its records. Calls
        the broker before its first await."""
        places = [[tp for tp, _ in prepared.batches] for prepared in together]
        sizes = [sum([len(data) for _, data in prepared.batches]) for prepared in together]
        if any(places):
            acks, timeout_s, direct = together[0].terms
            published = iter(await self._broker.publish(_hand_over(together), acks=acks, timeout_s=timeout_s, direct=direct))
            for prepared, its in zip(together, places, strict=True):
                prepared.take_over(published, its)
        now_s = self._clock.monotonic_s()
        for prepared, its, size_bytes in zip(together, places, sizes, strict=True):
            self._count(prepared.outcomes, len(its), size_bytes, now_s - prepared.started_s)
        return [[outcome for outcome in prepared.outcomes if outcome is not None] for prepared in together]

    async def publish(self, *together: Prepared) -> list[list[PublishResult]]:
        """As ``outcomes``, encoded."""
        return [encode_outcomes(outcomes) for outcomes in await self.outcomes(*together)]

    def failed(self, error: BaseException) -> PublishResult:
        """The result of a request that failed as a whole."""
        self._metrics.failed(reason_of(error))
        return _failed(to_status(error), TopicPartition("", 0))

    def _count(self, outcomes: list[Outcome | None], batches: int, size_bytes: int, seconds: float) -> None:
        self._metrics.published(batches, size_bytes, seconds)
        for outcome in outcomes:
            if outcome is not None and isinstance(outcome[1], BaseException):
                self._metrics.failed(reason_of(outcome[1]))


def _hand_over(together: Sequence[Prepared]) -> list[tuple[TopicPartition, bytes]]:
    """All batches, which are then the caller's alone."""
    batches: list[tuple[TopicPartition, bytes]] = []
    for prepared in together:
        batches += prepared.batches
        prepared.batches = []
    return batches


def _count(request: PublishRequest) -> int:
    count = len(request.batches) + len(request.records)
    if not count:
        raise InvalidRequestError("batches and records are both empty; there is nothing to publish")
    if count > PUBLISH_ITEMS_MAX:
        raise InvalidRequestError(f"batches and records are {count} items; at most {PUBLISH_ITEMS_MAX} go into one request")
    return count


def encode_outcomes(outcomes: Iterable[Outcome]) -> list[PublishResult]:
    """Outcomes as the contract has them. An error that many items share is taken apart once: it costs more than they do."""
    known: dict[int, Status] = {}
    results = []
    for tp, outcome, delta in outcomes:
        if isinstance(outcome, BaseException):
            status = known.get(id(outcome)) or known.setdefault(id(outcome), to_status(outcome))
            results.append(_failed(status, tp))
        else:
            results.append(_published(tp, outcome, delta))
    return results


def _published(tp: TopicPartition, outcome: Published, delta: int) -> PublishResult:
    return PublishResult(
        topic=tp.topic,
        partition=tp.partition,
        offset=outcome.base_offset + delta if outcome.base_offset >= 0 else -1,
        log_append_time_ms=outcome.log_append_time_ms,
        log_start_offset=outcome.log_start_offset,
    )


def _failed(status: Status, tp: TopicPartition) -> PublishResult:
    return PublishResult(
        topic=tp.topic, partition=tp.partition, offset=-1, log_append_time_ms=-1, log_start_offset=-1, error=status
    )
