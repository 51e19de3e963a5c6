"""One partition's replica: what its log means, told in offsets.

Theory of operation. Consensus tells this object what joins the log (``appended``), leaves it again (``truncated``), and is
committed (``apply``); the object keeps the numbers that publishing and fetching need, so that neither reads the log for them.

Rules:

1. ``log_start_offset`` ≤ ``high_watermark`` ≤ ``log_end_offset``. The first two never go back.
2. The high watermark is the next offset of the entry at the commit index. The headers of the tail (committed, last] are
   held in memory, so it advances without a read; the tail is as long as consensus lets the log run ahead of its commit. After a
   snapshot it is at the log start at least, which may have passed entries that are still to come.
3. Applied state (producers, log start) is a function of the log: ``apply`` reads no clock and no local setting.
4. Rows: ``TABLE_PRODUCERS`` one a producer, ``TABLE_PARTITION`` one with the log start offset.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Iterator

from raftlog.broker.pending import Budget, Outstanding
from raftlog.config.topic import TopicConfig
from raftlog.consensus.port import ReplicatedLog, Rows
from raftlog.core.entry import EntryHeader, EntryKind
from raftlog.core.producers import ProducerTable
from raftlog.errors import NewerFormatError
from raftlog.model import NO_PRODUCER, ReplicaStatus, Role, TopicPartition
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb

TABLE_PRODUCERS = 1
TABLE_PARTITION = 2
_START_KEY = b"log_start_offset"
_START = struct.Struct(">Bq")
_START_FORMAT = 1
TERM_MAX = (1 << 64) - 1
PLACES_KEPT = 64
"""Readers whose place is remembered: as many may tail a partition without a search; beyond that the oldest is forgotten."""


class Partition:
    """A replica as its group's ``StateMachine``, and what the broker asks of it.

    Args:
        name: topic and number.
        group: its Raft group.
        config: the topic's settings; replaced when they change.
        budget: the node's bytes of waiting publishes.
        lost_wait_s: how long publishes wait for news after leadership is lost.
    """

    def __init__(self, name: TopicPartition, group: int, *, config: TopicConfig, budget: Budget, lost_wait_s: float) -> None:
        self.name = name
        self.group = group
        self.config = config
        self.producers = ProducerTable()
        self.outstanding = Outstanding(str(name), budget)
        self.log_start_offset = 0
        self.trim_index = 0
        """Index of the TRIM entry proposed last; the next waits until it is applied."""
        self.closed = False
        """The replica was dropped or the node stops: nobody waits on it any more."""
        self._log: ReplicatedLog | None = None
        self._high_watermark = 0
        self._tail: deque[EntryHeader] = deque()
        """Headers of the entries beyond those that the high watermark covers, without a gap."""
        self._keep_from = 0
        self._lost_wait_s = lost_wait_s
        self._led_term: int | None = None
        """The term that this node led when it last looked; None when it did not lead."""
        self._lost_timer: asyncio.TimerHandle | None = None
        self._watchers: dict[asyncio.Future[None], int] = {}
        """Who waits for the high watermark to rise above an offset. A future may wait on several partitions."""
        self._trim_watchers: set[asyncio.Future[None]] = set()
        """Who waits for a TRIM to be applied."""
        self._places: dict[int, int] = {}
        """Offset → index of the entry that holds it, or will hold it: where readers go on. Never above commit + 1."""

    @property
    def log(self) -> ReplicatedLog:
        """The group's log; there once ``bind`` was called."""
        assert self._log is not None, "a partition is used only after it was opened"
        return self._log

    def bind(self, log: ReplicatedLog) -> None:
        """Take the log that ``Consensus.open`` returned."""
        self._log = log
        self.producers.settle(log.applied_index)  # a log that is being filled may end before the state that came with a snapshot
        self._find_high_watermark(log)
        if self._keep_from:
            log.trim(self._keep_from)
        self.progressed()

    def _find_high_watermark(self, log: ReplicatedLog) -> None:
        """Rule 2, where the tail was not followed: from the log."""
        covered = min(log.applied_index, log.commit_index)
        if self._tail:
            covered = min(covered, self._tail[0].index - 1)
        header = log.header(covered)
        if header is not None:
            self._high_watermark = max(self._high_watermark, header.next_offset)

    # What consensus says.

    def restore(self, rows: Rows) -> None:
        """See ``StateMachine``."""
        self.producers = ProducerTable()
        self.producers.load(rows.scan(TABLE_PRODUCERS))
        row = rows.get(TABLE_PARTITION, _START_KEY)
        if row is not None:
            if len(row) != _START.size or row[0] != _START_FORMAT:
                raise NewerFormatError(f"{self.name}: the row of the log start offset is not of format {_START_FORMAT}")
            self.log_start_offset = _START.unpack(row)[1]
        self._high_watermark = max(self._high_watermark, self.log_start_offset)
        if self._log is not None:  # a snapshot has come
            self._tail.clear()
            self._places.clear()
            self.trim_index = self._keep_from = 0
            self.outstanding.lost(TERM_MAX)
            self._find_high_watermark(self._log)
            self._wake(None)
            self._wake_trimmed()

    def appended(self, header: EntryHeader) -> None:
        """See ``StateMachine``."""
        self._tail.append(header)
        if self._log is None or header.index > self._log.applied_index:
            self.producers.append(header)

    def truncated(self, index: int) -> None:
        """See ``StateMachine``."""
        tail = self._tail
        while tail and tail[-1].index >= index:
            tail.pop()
        self.producers.truncate(index)
        if self.trim_index >= index:
            self.trim_index = 0
        self.outstanding.truncated(index)

    def apply(self, entry: EntryHeader, payload: Callable[[], memoryview], rows: Rows) -> None:
        """See ``StateMachine``."""
        if entry.kind is EntryKind.RECORDS:
            self.producers.apply(entry)
            if entry.producer_id != NO_PRODUCER:
                self._put_producers(rows)
        elif entry.kind is EntryKind.TRIM:
            self.producers.apply(entry)
            self._apply_trim(pb.Trim.FromString(bytes(payload())), rows)

    def progressed(self) -> None:
        """See ``StateMachine``."""
        if self._log is None:
            return
        self._advance()
        if self.outstanding:
            self.outstanding.durable(self._log.durable_index)
        led = self._log.term if self._log.role is Role.LEADER else None
        if led != self._led_term:
            if self._led_term is not None:
                self._leadership_lost(self._led_term)
            self._led_term = led

    # What the broker asks.

    @property
    def high_watermark(self) -> int:
        """The offset after the last committed record."""
        self._advance()
        return self._high_watermark

    @property
    def log_end_offset(self) -> int:
        """The offset after the last record of the log."""
        return max(self._tail[-1].next_offset, self._high_watermark) if self._tail else self._high_watermark

    def uncommitted(self, index: int) -> EntryHeader | None:
        """The header of an entry of the log that is not committed yet; None where it is, or is not there."""
        self._advance()
        at = index - self._tail[0].index if self._tail else -1
        return self._tail[at] if 0 <= at < len(self._tail) else None

    def place(self, offset: int) -> int | None:
        """Index of the entry that holds ``offset``, where a reader left it."""
        index = self._places.get(offset)
        return index if index is not None and index >= self.log.first_index else None

    def remember(self, offset: int, index: int) -> None:
        """A reader goes on at ``offset``, which the entry at ``index`` or one behind it holds."""
        self._places.pop(offset, None)
        if len(self._places) >= PLACES_KEPT:
            del self._places[next(iter(self._places))]
        self._places[offset] = index

    async def wait_above(self, offset: int, timeout_s: float) -> None:
        """Wait until the high watermark is above ``offset``, the leader changes, or the time has run out."""
        if self.high_watermark > offset or self.closed or timeout_s <= 0:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.watch(future, offset)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return
        finally:
            self.unwatch(future)

    def watch(self, future: asyncio.Future[None], offset: int) -> None:
        """Set ``future`` as soon as the high watermark is above ``offset``, or the leader changes."""
        self._watchers[future] = offset
        if (self.high_watermark > offset or self.closed) and not future.done():
            future.set_result(None)

    def unwatch(self, future: asyncio.Future[None]) -> None:
        """Forget a future that was given to ``watch``."""
        self._watchers.pop(future, None)

    async def wait_trimmed(self, timeout_s: float) -> None:
        """Wait until a TRIM is applied, the leader changes, or the time has run out."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._trim_watchers.add(future)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return
        finally:
            self._trim_watchers.discard(future)

    def status(self, node_id: int) -> ReplicaStatus:
        """This replica, for ``replicas``."""
        log = self.log
        return ReplicaStatus(
            topic=self.name.topic,
            partition=self.name.partition,
            group_id=self.group,
            node_id=node_id,
            role=log.role,
            term=log.term,
            leader=log.leader,
            first_index=log.first_index,
            last_index=log.last_index,
            commit_index=log.commit_index,
            applied_index=log.applied_index,
            log_start_offset=self.log_start_offset,
            high_watermark=self.high_watermark,
            log_end_offset=self.log_end_offset,
            size_bytes=log.size_bytes,
            damaged=log.damaged is not None,
            unclean_at_ms=log.unclean_at_ms,
        )

    def close(self) -> None:
        """Nothing comes any more: whoever waits is told."""
        self.closed = True
        self._wake(None)
        self._wake_trimmed()
        self.outstanding.lost(TERM_MAX)
        if self._lost_timer is not None:
            self._lost_timer.cancel()

    def _advance(self) -> None:
        """Follow the commit index: the high watermark, and who waits for it."""
        assert self._log is not None
        commit, tail = self._log.commit_index, self._tail
        if not tail or tail[0].index > commit:
            return
        outstanding = self.outstanding
        waiting = bool(outstanding)
        while tail and tail[0].index <= commit:
            header = tail.popleft()
            ahead = header.index <= self._log.applied_index  # of the log, after a snapshot: the start may have passed this entry
            assert header.next_offset >= self._high_watermark or ahead, "offsets never fall along the log"
            self._high_watermark = max(self._high_watermark, header.next_offset)
            if waiting:
                outstanding.committed(header)
        self._wake(self._high_watermark)

    def _wake(self, high_watermark: int | None) -> None:
        """Wake who waits for less than ``high_watermark``; everybody where it is None."""
        for future, offset in self._watchers.items():
            if (high_watermark is None or offset < high_watermark) and not future.done():
                future.set_result(None)

    def _wake_trimmed(self) -> None:
        for future in self._trim_watchers:
            if not future.done():
                future.set_result(None)

    def _leadership_lost(self, term: int) -> None:
        self._wake(None)
        self._wake_trimmed()
        if self.outstanding:
            self._lost_timer = asyncio.get_running_loop().call_later(self._lost_wait_s, self.outstanding.lost, term)

    def _apply_trim(self, trim: pb.Trim, rows: Rows) -> None:
        if trim.log_start_offset > self.log_start_offset:
            self.log_start_offset = trim.log_start_offset
            rows.put(TABLE_PARTITION, _START_KEY, _START.pack(_START_FORMAT, trim.log_start_offset))
        if trim.expired_producers:
            self.producers.expire(trim.expired_producers)
            self._put_producers(rows)
        if trim.keep_from_index:
            self._keep_from = trim.keep_from_index
            if self._log is not None:
                self._log.trim(trim.keep_from_index)
        self._wake_trimmed()

    def _put_producers(self, rows: Rows) -> None:
        for key, value in self.producers.take_changes().items():
            rows.put(TABLE_PRODUCERS, key, value)

    def headers(self, start: int, stop: int) -> Iterator[EntryHeader]:
        """Headers of the log from ``start`` below ``stop``, as far as they are there."""
        for index in range(start, stop):
            header = self.log.header(index)
            if header is None:
                return
            yield header
