"""Batches that become one entry: they came together, for one partition, and of one producer in its order, or of none.

An entry is what a group replicates, stores and looks up. Its cost is the same for 1 KB and for 1 MB, so a client that has many
small batches waiting is not made to pay it for each. To whoever reads, a batch stays what it was.
"""

from __future__ import annotations

from typing import Final

from raftlog.broker.port import Batch
from raftlog.core.entry import Entry, EntryHeader, EntryKind, encode
from raftlog.model import NO_PRODUCER
from raftlog.records import batch
from raftlog.records.batch import SEQUENCE_MODULUS, BatchHeader

RUN_BYTES_MAX: Final = 1 << 20
"""Bytes of an entry, unless a single batch is larger: more would not be replicated any faster."""


class Run:
    """Gathers batches for one entry.

    Args:
        now_ms: the time of the append.
        is_log_append_time: whether the topic wants that time for every record.
    """

    __slots__ = ("_now_ms", "_sequence_next", "batches", "is_log_append_time", "record_count", "size_bytes")

    def __init__(self, now_ms: int, is_log_append_time: bool) -> None:
        self.batches: list[tuple[int, BatchHeader, Batch]] = []
        """(slot of the call, header, bytes)."""
        self.size_bytes = 0
        self.record_count = 0
        self.is_log_append_time = is_log_append_time
        self._now_ms = now_ms
        self._sequence_next = -1

    def takes(self, header: BatchHeader) -> bool:
        """Whether a checked batch may follow; one of a producer then is known to be new, if those before it are."""
        if not self.batches:
            return header.producer_id == NO_PRODUCER
        if self.size_bytes + header.size_bytes > RUN_BYTES_MAX:
            return False
        first = self.batches[0][1]
        if header.producer_id != first.producer_id or header.producer_epoch != first.producer_epoch:
            return False
        return header.producer_id == NO_PRODUCER or header.base_sequence == self._sequence_next

    def add(self, position: int, header: BatchHeader, data: Batch) -> None:
        """Add a batch that ``takes`` let pass, or that was found to be new."""
        self.batches.append((position, header, data))
        self.size_bytes += len(data)
        self.record_count += header.record_count
        self._sequence_next = (header.base_sequence + header.record_count) % SEQUENCE_MODULUS

    def entry(self, group: int, index: int, term: int, before: EntryHeader) -> Entry:
        """The entry at ``index``, behind ``before``: the place of every batch is decided in here."""
        append_time = self._now_ms if self.is_log_append_time else None
        parts: list[bytes | memoryview] = []
        offset, max_timestamp = before.next_offset, -1
        for _, header, data in self.batches:
            parts += batch.assign(data, base_offset=offset, leader_epoch=term, log_append_time=append_time)
            offset += header.record_count
            max_timestamp = max(max_timestamp, header.max_timestamp)
        if append_time is not None:
            max_timestamp = append_time
        first = self.batches[0][1]
        made = EntryHeader(
            kind=EntryKind.RECORDS,
            group=group,
            index=index,
            term=term,
            base_offset=before.next_offset,
            record_count=self.record_count,
            producer_id=first.producer_id,
            producer_epoch=first.producer_epoch,
            base_sequence=first.base_sequence,
            max_timestamp=max_timestamp,
            running_max_timestamp=max(before.running_max_timestamp, max_timestamp),
            append_time=self._now_ms,
        )
        return encode(made, *parts)
