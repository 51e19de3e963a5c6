"""Publishing on the leader: check batches, decide their place in the log, and say when they are there.

Rules:

1. Everything up to ``ReplicatedLog.append`` happens without an await: two calls made one after the other keep their order,
   and the producer check and the append see the same log.
2. A batch's offset, the leader epoch (the term), its time and the running maximum are set in the append itself, from the
   header of the entry before it.
3. A batch is either refused with an error (nothing was appended), or appended and then waited for (``pending``).
4. A duplicate of a committed batch is acknowledged at once with its first offset; that of an uncommitted one shares the
   original's outcome.
5. A log that takes nothing just now says so before any batch is judged by what it holds: of a producer's batches in flight,
   those behind a refused one would seem out of order, and a producer gives up its place for that.
6. Batches that come together share an entry (``broker.run.Run``): what an entry costs on every replica is then paid once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from raftlog.broker.partition import Partition
from raftlog.broker.pending import Budget, PublishCall, Waiter
from raftlog.broker.port import Batch, Published
from raftlog.broker.run import Run
from raftlog.config.topic import TopicConfig
from raftlog.core.clock import Clock
from raftlog.core.entry import EntryHeader
from raftlog.core.producers import Duplicate
from raftlog.errors import InvalidRequestError, InvalidTimestampError, RaftlogError, StorageFullError, UnknownProducerIdError
from raftlog.model import NO_PRODUCER, Acks
from raftlog.records import batch
from raftlog.storage.port import Store


class Publisher:
    """Appends batches to the partitions that this node leads."""

    def __init__(self, node_id: int, *, store: Store, clock: Clock, budget: Budget) -> None:
        self._node_id = node_id
        self._store = store
        self._clock = clock
        self._budget = budget

    def publish(self, partition: Partition, batches: Iterable[tuple[int, Batch]], acks: Acks, call: PublishCall) -> None:
        """Append batches in their order; each slot of ``call`` is settled now, or when the wait that ``acks`` asks for is over.

        The caller has made sure that this node leads the partition and is ready.

        Args:
            batches: (slot, one whole batch).
        """
        try:
            partition.log.check_append()
        except RaftlogError as error:
            for position, _ in batches:
                call.settle(position, error)
            return
        now_ms = self._clock.wall_ms()
        run = Run(now_ms, partition.config.is_log_append_time)
        for position, data in batches:
            try:
                header = self._checked(partition.config, data, acks, now_ms)
                if not run.takes(header):
                    self._append(partition, run, acks, call)
                    run = Run(now_ms, partition.config.is_log_append_time)
                    known = partition.producers.check(
                        header.producer_id, header.producer_epoch, header.base_sequence, header.record_count
                    )
                    if isinstance(known, Duplicate):
                        self._settle_duplicate(partition, known, call, position, len(data))
                        continue
                if acks is not Acks.NONE:
                    self._budget.take(len(data))
            except RaftlogError as error:
                if isinstance(error, UnknownProducerIdError):
                    error.log_start_offset = partition.log_start_offset
                call.settle(position, error)
            else:
                run.add(position, header, data)
        self._append(partition, run, acks, call)

    def _checked(self, config: TopicConfig, data: Batch, acks: Acks, now_ms: int) -> batch.BatchHeader:
        header = batch.check(data, size_max=config.max_message_bytes)
        if not config.is_log_append_time:
            _check_times(config, header, now_ms)
        if header.producer_id != NO_PRODUCER and acks is not Acks.ALL:
            raise InvalidRequestError("an idempotent batch needs acks=all; set acks=all, or turn idempotence off")
        return header

    def _append(self, partition: Partition, run: Run, acks: Acks, call: PublishCall) -> None:
        """Append what was gathered as one entry, and have its batches wait for it; all are refused where that cannot be."""
        if not run.batches:
            return
        try:
            self._refuse_if_full()
            place = partition.log.append(lambda index, term, before: run.entry(partition.group, index, term, before)).header
        except BaseException as error:
            if acks is not Acks.NONE:
                self._budget.used_bytes -= run.size_bytes
            if not isinstance(error, RaftlogError):
                raise
            for position, _, _ in run.batches:
                call.settle(position, error)
            return
        self._await(partition, run, place, acks, call)

    def _await(self, partition: Partition, run: Run, place: EntryHeader, acks: Acks, call: PublishCall) -> None:
        outstanding, offset = partition.outstanding, place.base_offset
        log_append_time_ms = place.max_timestamp if run.is_log_append_time else -1
        for position, header, data in run.batches:
            if acks is Acks.NONE:
                call.settle(position, Published(base_offset=-1))
                continue
            published = Published(
                base_offset=offset, log_append_time_ms=log_append_time_ms, log_start_offset=partition.log_start_offset
            )
            waiter = Waiter(place.index, place.term, len(data), published, call, position)
            (outstanding.wait_committed if acks is Acks.ALL else outstanding.wait_durable)(waiter)
            offset += header.record_count

    def _settle_duplicate(
        self, partition: Partition, original: Duplicate, call: PublishCall, position: int, size_bytes: int
    ) -> None:
        published = Published(base_offset=original.base_offset, log_start_offset=partition.log_start_offset)
        header = partition.uncommitted(original.index)
        if partition.config.is_log_append_time:
            stored = header or partition.log.header(original.index)
            published = replace(published, log_append_time_ms=-1 if stored is None else stored.max_timestamp)
        if header is None:
            call.settle(position, published)
            return
        self._budget.take(size_bytes)
        waiter = Waiter(header.index, header.term, size_bytes, published, call, position)
        partition.outstanding.wait_committed(waiter)

    def _refuse_if_full(self) -> None:
        usage = self._store.recent_usage()
        if usage.full:
            raise StorageFullError(
                f"node {self._node_id} takes nothing more: {usage.shortage}. Make room: delete topics or records, set their"
                " retention lower, raise the limit or give it more disk. Reading goes on"
            )


def _check_times(config: TopicConfig, header: batch.BatchHeader, now_ms: int) -> None:
    """The producer's own times must be near this node's. Only the header is read: its first and its youngest record's time."""
    youngest, first = header.max_timestamp, header.base_timestamp
    if youngest - now_ms > config.message_timestamp_after_max_ms:
        raise InvalidTimestampError(
            f"a record is stamped {youngest - now_ms} ms after this node's time; "
            f"message.timestamp.after.max.ms allows {config.message_timestamp_after_max_ms}: check the producer's clock"
        )
    oldest = min(first, youngest)
    if oldest >= 0 and now_ms - oldest > config.message_timestamp_before_max_ms:
        raise InvalidTimestampError(
            f"a record is stamped {now_ms - oldest} ms before this node's time; "
            f"message.timestamp.before.max.ms allows {config.message_timestamp_before_max_ms}"
        )
