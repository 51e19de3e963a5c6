"""The consumer: an async iterator over the records of topics and partitions, in order within each partition."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

from raftlog.client.connections import Connections
from raftlog.client.offsets import BEGINNING, END, list_offsets
from raftlog.client.routing import Routing
from raftlog.client.subscription import Fetched, PartitionState, Reset, Subscription
from raftlog.client.values import AtTime, ConsumedBatch, ConsumedRecord
from raftlog.core.tasks import TaskScope
from raftlog.errors import CorruptMessageError, InvalidConfigError, InvalidPartitionsError, InvalidRequestError
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1.records_pb2 import Position
from raftlog.records.batch import decode

From = str | int | datetime | AtTime
"""Where to begin: "beginning", "end", an offset, or a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """Checked options of a consumer; see ``Client.consumer`` for their meaning."""

    from_: From | Mapping[TopicPartition, From]
    follow: bool
    auto_offset_reset: Reset
    max_bytes: int
    prefetch_bytes: int
    metadata_max_age_s: float
    unavailable_timeout_s: float

    def __post_init__(self) -> None:
        if self.auto_offset_reset not in {"error", "earliest", "latest"}:
            raise InvalidConfigError(f"auto_offset_reset is {self.auto_offset_reset!r}; it must be error, earliest or latest")
        for name in ("max_bytes", "prefetch_bytes", "metadata_max_age_s", "unavailable_timeout_s"):
            if getattr(self, name) <= 0:
                raise InvalidConfigError(f"{name} must be positive, not {getattr(self, name)}")

    def start_of(self, tp: TopicPartition) -> From:
        """Where ``tp`` begins."""
        if isinstance(self.from_, Mapping):
            return self.from_.get(tp, "beginning")
        return self.from_


class Consumer:
    """Reads records. Made by ``Client.consumer``; an async context manager and an async iterator::

        async with client.consumer("events", from_="end") as consumer:
            async for record in consumer:
                print(record.offset, record.value)

    Positions are fixed when the context is entered: from then on nothing is missed. Records of a partition come in their order,
    each once, whatever leaders and connections do; partitions are interleaved. For one task at a time.
    """

    def __init__(
        self,
        subjects: Sequence[str | TopicPartition],
        options: ConsumerOptions,
        *,
        routing: Routing,
        connections: Connections,
        tasks: TaskScope,
        rng: random.Random,
        on_close: Callable[[Consumer], None],
    ) -> None:
        self._whole = [subject for subject in subjects if isinstance(subject, str)]
        self._single = [subject for subject in subjects if isinstance(subject, TopicPartition)]
        self._options = options
        self._routing = routing
        self._connections = connections
        self._tasks = tasks
        self._rng = rng
        self._on_close = on_close
        self._states: dict[TopicPartition, PartitionState] = {}
        self._subscription: Subscription | None = None
        self._closed = False
        self._current: PartitionState | None = None
        self._records: list[ConsumedRecord] = []
        self._index = 0
        self._next_offset = 0
        self._high_watermark = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[ConsumedRecord]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[ConsumedRecord]:
        """What ``__anext__`` gives, without a coroutine for every record."""
        while True:
            while (record := self.take_ready()) is not None:
                yield record
            if not await self._more():
                return

    async def __anext__(self) -> ConsumedRecord:
        while (record := self.take_ready()) is None:
            if not await self._more():
                raise StopAsyncIteration
        return record

    def take_ready(self) -> ConsumedRecord | None:
        """The next record where it is at hand already, None where it has to be waited for."""
        if self._index >= len(self._records):
            return None
        record = self._records[self._index]
        self._index += 1
        assert self._current is not None
        self._current.position = record.offset + 1
        return record

    async def batches(self) -> AsyncIterator[ConsumedBatch]:
        """The same records, in lists of one partition as they came from the node: less work for each record."""
        while True:
            if self._index >= len(self._records) or self._is_interrupted():
                if not await self._more():
                    return
                continue
            state = self._current
            assert state is not None
            records = self._records[self._index :] if self._index else self._records
            batch = ConsumedBatch(
                tp=state.tp, records=records, next_offset=self._next_offset, high_watermark=self._high_watermark
            )
            self._end_current()
            yield batch

    async def start(self) -> None:
        """Find partitions and positions, and begin to read; entering the context does it.

        Raises:
            UnknownTopicOrPartitionError, InvalidPartitionsError: there is no such topic or partition.
            RaftlogError: offsets cannot be looked up within ``unavailable_timeout_s``.
        """
        if self._closed:
            raise InvalidRequestError("the consumer is closed; make another one")
        if self._subscription is not None:
            return
        tps = list(dict.fromkeys(await self._find_partitions()))
        starts = await self._positions(tps)
        ends: dict[TopicPartition, int] = {}
        if not self._options.follow:
            ends = await self._list(dict.fromkeys(tps, END))
        for tp in tps:
            self._states[tp] = PartitionState(
                tp, starts[tp], starts[tp], ends.get(tp), self._options.auto_offset_reset,
                from_beginning=self._options.start_of(tp) == "beginning",
            )  # fmt: skip
        self._subscription = Subscription(
            self._states,
            routing=self._routing,
            connections=self._connections,
            tasks=self._tasks,
            rng=self._rng,
            max_bytes=self._options.max_bytes,
            prefetch_bytes=self._options.prefetch_bytes,
            metadata_max_age_s=self._options.metadata_max_age_s,
            unavailable_timeout_s=self._options.unavailable_timeout_s,
            topics_grown=self._add_new_partitions,
            moved=self._drop_current,
        )

    async def close(self) -> None:
        """Stop reading; an iteration under way ends."""
        if self._closed:
            return
        self._closed = True
        self._on_close(self)
        if self._subscription is not None:
            await self._subscription.close()

    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions that are read; grows with their topics."""
        return frozenset(self._states)

    def position(self, tp: TopicPartition) -> int:
        """Offset of the next record of ``tp`` that the iteration gives.

        Raises:
            InvalidPartitionsError: the consumer does not read ``tp``, or has not started.
        """
        return self._state(tp).position

    def seek(self, tp: TopicPartition, offset: int) -> None:
        """Go on at ``offset`` in ``tp``; other partitions are not touched. Whether it is in range shows with the next record.

        Raises:
            InvalidPartitionsError: the consumer does not read ``tp``, or has not started.
        """
        if offset < 0:
            raise InvalidRequestError(f"cannot seek to {offset}; offsets begin at 0")
        state = self._state(tp)
        state.move(offset)
        self._drop_current(state)
        if self._subscription is not None:
            self._subscription.wake()

    # Reading

    def _end_current(self) -> None:
        if self._current is not None:
            self._current.position = max(self._current.position, self._next_offset)
        self._current, self._records, self._index = None, [], 0

    def _drop_current(self, state: PartitionState) -> None:
        """``state`` has moved: what is at hand of it no longer counts."""
        if state is self._current:
            self._current, self._records, self._index = None, [], 0

    def _is_interrupted(self) -> bool:
        """Whether there is something to do before the next record."""
        return False

    async def _more(self) -> bool:
        """Make records ready; False at the end. The response taken apart may hold no record that is wanted."""
        self._end_current()
        if self._closed:
            return False
        await self.start()
        assert self._subscription is not None
        fetched = await self._subscription.next()
        if fetched is None:
            return False
        self._take(fetched)
        return True

    def _take(self, fetched: Fetched) -> None:
        state = fetched.state
        try:
            records = decode(fetched.data)
        except CorruptMessageError:
            state.move(state.position)  # asked for again, should the user go on
            raise
        topic, partition = state.tp.topic, state.tp.partition
        new, start, end = tuple.__new__, state.position, state.end
        if records and (records[0].offset < start or (end is not None and records[-1].offset >= end)):
            records = [record for record in records if start <= record.offset and (end is None or record.offset < end)]
        self._records = [new(ConsumedRecord, (topic, partition, *record)) for record in records]
        self._index = 0
        self._current = state
        self._next_offset = fetched.next_offset if end is None else min(fetched.next_offset, end)
        self._high_watermark = fetched.high_watermark

    def _state(self, tp: TopicPartition) -> PartitionState:
        state = self._states.get(tp)
        if state is None:
            raise InvalidPartitionsError(f"{tp} is not among the consumer's partitions; was it started, and with that topic?")
        return state

    # Where to begin

    async def _find_partitions(self) -> list[TopicPartition]:
        """Asked for, whatever the client knew: a partition that is there already must not count as one that was added later."""
        counts: dict[str, int] = {}
        for topic in dict.fromkeys([*self._whole, *(tp.topic for tp in self._single)]):
            counts[topic] = len((await self._routing.load(topic, max_age_s=0.0)).leaders)
        for tp in self._single:
            if not 0 <= tp.partition < counts[tp.topic]:
                raise InvalidPartitionsError(f"{tp}: the topic's partitions are 0 to {counts[tp.topic] - 1}")
        return [TopicPartition(topic, number) for topic in self._whole for number in range(counts[topic])] + self._single

    async def _positions(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        known: dict[TopicPartition, int] = {}
        asked: dict[TopicPartition, Position] = {}
        for tp in tps:
            at = _wire_position(self._options.start_of(tp))
            if isinstance(at, int):
                known[tp] = at
            else:
                asked[tp] = at
        timed = [tp for tp, at in asked.items() if at.HasField("timestamp_ms")]
        # Before their times: of what arrives between the two questions, nothing is passed over.
        ends = await self._list(dict.fromkeys(timed, END))
        found = await self._list(asked)
        late = [tp for tp, offset in found.items() if offset < 0]  # no record that young yet: those to come are
        return known | found | {tp: ends[tp] for tp in late}

    async def _list(self, wanted: Mapping[TopicPartition, Position]) -> dict[TopicPartition, int]:
        if not wanted:
            return {}
        found = await list_offsets(self._routing, wanted, timeout_s=self._options.unavailable_timeout_s)
        return {tp: listed.offset for tp, listed in found.items()}

    def _add_new_partitions(self) -> None:
        """Partitions added to a whole topic are read from their beginning: nothing was there before. Only while following."""
        if not self._options.follow:
            return
        for topic in self._whole:
            known = self._routing.topic(topic)
            for number in range(len(known.leaders) if known is not None else 0):
                tp = TopicPartition(topic, number)
                if tp not in self._states:
                    self._states[tp] = PartitionState(tp, 0, 0, None, self._options.auto_offset_reset, from_beginning=True)


def _wire_position(start: From) -> Position | int:
    """An offset as it is, anything else as the wire says it."""
    if isinstance(start, AtTime):
        return Position(timestamp_ms=start.timestamp_ms)
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise InvalidConfigError("from_ is a datetime without a time zone; give it one, such as datetime.UTC")
        return Position(timestamp_ms=round(start.timestamp() * 1_000))
    if isinstance(start, int) and start >= 0:
        return start
    if start == "beginning":
        return BEGINNING
    if start == "end":
        return END
    raise InvalidConfigError(f"from_ is {start!r}; it must be 'beginning', 'end', an offset, a datetime or AtTime(timestamp_ms)")
