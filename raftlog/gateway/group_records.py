"""Groups single records into one batch for each partition: the node's part of the work that our client does by itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from raftlog.broker.port import Broker
from raftlog.core.clock import Clock
from raftlog.errors import InvalidRequestError, RaftlogError
from raftlog.model import TopicInfo, TopicPartition
from raftlog.pb.raftlog.v1.records_pb2 import NewRecord
from raftlog.records.batch import BatchBuilder
from raftlog.records.partitioner import partition_of

RECORD_BATCH_BYTES_MAX: Final = 512 * 1024
"""Bytes of one batch of grouped records: big enough for the log's full speed, below any usual ``max.message.bytes``."""

Failed = tuple[int, TopicPartition, RaftlogError]


class RecordGrouper:
    """Keyless records without a partition go to one partition for each topic and request, in turn over the requests: as even
    as one by one, in far bigger batches (KIP-480 found the same for producers)."""

    __slots__ = ("_broker", "_clock", "_turn")

    def __init__(self, broker: Broker, clock: Clock) -> None:
        self._broker = broker
        self._clock = clock
        self._turn = itertools.count()

    def group(
        self,
        records: Iterable[NewRecord],
        first_slot: int,
        batches: list[tuple[TopicPartition, bytes]],
        slots: list[Sequence[int]],
    ) -> Iterator[Failed]:
        """Append to ``batches`` and, in step, to ``slots``: which records a batch holds, counted from ``first_slot``.

        Yields the records that cannot be published, and is to be used up: batches are complete only then.
        """
        grouping = _Grouping(self._broker, next(self._turn), self._clock.wall_ms(), batches, slots)
        for slot, record in enumerate(records, first_slot):
            try:
                grouping.add(slot, record)
            except RaftlogError as error:
                yield slot, TopicPartition(record.topic, record.partition), error
        grouping.finish()


class _Grouping:
    """The open batches of one request."""

    def __init__(
        self,
        broker: Broker,
        turn: int,
        now_ms: int,
        batches: list[tuple[TopicPartition, bytes]],
        slots: list[Sequence[int]],
    ) -> None:
        self._broker = broker
        self._turn = turn
        self._now_ms = now_ms
        self._batches = batches
        self._slots = slots
        self._topics: dict[str, TopicInfo] = {}
        self._open: dict[TopicPartition, tuple[BatchBuilder, list[int]]] = {}

    def add(self, slot: int, record: NewRecord) -> None:
        """Put a record into its partition's open batch; a full one is finished first, so order is kept."""
        topic = self._topic(record.topic)
        key = record.key if record.HasField("key") else None
        tp = TopicPartition(topic.name, self._partition(record, key, len(topic.partitions)))
        value = record.value if record.HasField("value") else None
        headers = tuple((header.key, header.value if header.HasField("value") else None) for header in record.headers)
        timestamp_ms = record.timestamp_ms if record.HasField("timestamp_ms") else self._now_ms
        while True:
            entry = self._open.get(tp)
            if entry is None:
                entry = self._open[tp] = (BatchBuilder(size_bytes_max=_batch_bytes_max(topic)), [])
            if entry[0].append(key, value, headers, timestamp_ms=timestamp_ms):
                entry[1].append(slot)
                return
            self._close(tp)

    def finish(self) -> None:
        """Finish all open batches."""
        for tp in list(self._open):
            self._close(tp)

    def _close(self, tp: TopicPartition) -> None:
        builder, slots = self._open.pop(tp)
        if slots:
            self._batches.append((tp, builder.build()))
            self._slots.append(slots)

    def _topic(self, name: str) -> TopicInfo:
        known = self._topics.get(name)
        if known is None:
            if not name:
                raise InvalidRequestError("a record's topic is empty; name a topic")
            known = self._topics[name] = self._broker.topic(name)
        return known

    def _partition(self, record: NewRecord, key: bytes | None, count: int) -> int:
        if record.HasField("partition"):
            return record.partition
        return self._turn % count if key is None else partition_of(key, count)


def _batch_bytes_max(topic: TopicInfo) -> int:
    """As much as the topic takes in one batch, where it takes less than we would send."""
    text = topic.configs.get("max.message.bytes", "")
    return min(RECORD_BATCH_BYTES_MAX, int(text)) if text.isdecimal() else RECORD_BATCH_BYTES_MAX
