"""Retention: the leader decides what goes and proposes it as a TRIM entry; every replica applies the same.

Theory of operation. Two things end: an offset is gone for readers when the log start offset passes it, and an entry is deleted
when no replica will ask for it again. The first follows the topic's rules (``core.retention``), the second waits for the
slowest replica: a follower that is down holds the space for ``replica.lag.time.max.ms``, and is given a snapshot later.

Passes come at an interval, so up to that much more may be held than the topics' rules ask for. When room gets low
(``StorageUsage.low``) the next pass comes at once, and then every ``PRESSURE_PAUSE_S`` while it stays low. The rules
themselves do not change: what a topic keeps, it keeps on a full disk too, and publishing stops before.

Rules:

1. Only leaders decide, by their own clock; applying a TRIM reads none.
2. At most one TRIM of a partition is under way.
3. A TRIM is proposed only when it lets go of records or producers, so an idle partition's log does not grow by its own trims.
4. Pressure changes when a pass comes, never what it decides.
5. Group 0 keeps its state in rows, so its log is cut behind the applied index, once it is long enough to be worth it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping

from raftlog.broker.config import BrokerConfig
from raftlog.broker.metadata_machine import MetadataMachine
from raftlog.broker.partition import Partition
from raftlog.broker.subscribe import first_index
from raftlog.broker.trim import append_trim, cut_applied
from raftlog.core.clock import Clock
from raftlog.core.entry import HEADER_SIZE, EntryKind
from raftlog.core.retention import ENTRIES_MAX, retain
from raftlog.errors import RaftlogError
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb
from raftlog.storage.port import Store

_log = logging.getLogger(__name__)

MORE_PAUSE_S = 1.0
"""Pause after a pass that was stopped by its limit of entries: time for its TRIM to be applied."""
PRESSURE_LOOK_S = 1.0
"""How often it is looked whether room is low: publishing at full speed takes half of the least low room in that time."""
PRESSURE_PAUSE_S = 5.0
"""Pause between passes while room stays low: a pass over 1,000 partitions takes some 100 ms of the node's event loop."""


class Retention:
    """This node's periodic job.

    Args:
        partitions: this node's replicas.
        machine: group 0.
        clock: the leader's time.
        rng: spreads the nodes' passes.
        config: the interval, and when producers expire.
        store: says when room is low.
    """

    def __init__(
        self, partitions: Mapping[int, Partition], machine: MetadataMachine,
        *, clock: Clock, rng: random.Random, config: BrokerConfig, store: Store,
    ) -> None:  # fmt: skip
        self._partitions = partitions
        self._machine = machine
        self._clock = clock
        self._rng = rng
        self._config = config
        self._store = store
        self._was_low = False
        self._metadata_trim_index = 0
        self._below: dict[int, _Below] = {}

    async def run(self) -> None:
        """Pass over all partitions, for ever."""
        more = False
        while True:
            await self._pause(more)
            more = await self.check_all()

    async def _pause(self, more: bool) -> None:
        """Wait until the next pass is due: by time, or because room gets low, or still is."""
        loop = asyncio.get_running_loop()
        interval_s = self._config.retention_check_interval_ms / 1000
        begin = loop.time()
        due = begin + (MORE_PAUSE_S if more else interval_s * (0.9 + 0.2 * self._rng.random()))
        while (left := due - loop.time()) > 0:
            await asyncio.sleep(min(left, PRESSURE_LOOK_S))
            was_low, self._was_low = self._was_low, self._store.usage().low
            if self._was_low:
                due = min(due, begin + PRESSURE_PAUSE_S if was_low else loop.time())

    async def check_all(self) -> bool:
        """One pass; whether another one soon would find more. One partition's error does not stop the others."""
        more = False
        self._below = {group: below for group, below in self._below.items() if group in self._partitions}
        for partition in list(self._partitions.values()):
            if partition.closed or not partition.log.ready:
                continue
            try:
                more |= self.check(partition)
            except RaftlogError as error:
                _log.warning("retention of %s: %s", partition.name, error)
            await asyncio.sleep(0)
        try:
            self._check_metadata()
        except RaftlogError as error:
            _log.warning("retention of the metadata group: %s", error)
        return more

    def check(self, partition: Partition) -> bool:
        """Decide for one partition that this node leads, and propose the TRIM; whether there is more to decide.

        Raises:
            NotLeaderError, OverloadedError, DataLossError
        """
        log, config = partition.log, partition.config
        if partition.trim_index > log.applied_index:
            return False
        start, more = partition.log_start_offset, False
        if config.deletes:
            below = self._below.setdefault(partition.group, _Below())
            begin = first_index(partition, lambda header: header.next_offset > partition.log_start_offset)
            if not below.count(partition, begin):
                return True
            decided = retain(
                partition.headers(begin, log.commit_index + 1),
                log_start_offset=partition.log_start_offset,
                high_watermark=partition.high_watermark,
                size_bytes=log.size_bytes - below.size_bytes,
                retention_ms=config.retention_ms,
                retention_bytes=config.retention_bytes,
                now_ms=self._clock.wall_ms(),
            )
            start, more = decided.log_start_offset, decided.more
        now_ms = self._clock.wall_ms()
        expired = partition.producers.expirable(now_ms - self._config.producer_id_expiration_ms)
        needed = first_index(partition, lambda header: header.next_offset > start)
        keep_from = min(needed, log.min_match_index(), log.applied_index)
        if start > partition.log_start_offset or expired or _holds_records(partition, log.first_index, keep_from):
            trim = pb.Trim(log_start_offset=start, keep_from_index=max(keep_from, 0), expired_producers=expired)
            partition.trim_index = append_trim(log, trim, now_ms).header.index
        return more

    def _check_metadata(self) -> None:
        now_ms = self._clock.wall_ms()
        self._metadata_trim_index = cut_applied(self._machine.log, self._metadata_trim_index, now_ms)


class _Below:
    """Bytes of the entries below the log start that are still held, counted on as the start moves."""

    __slots__ = ("_begin", "_end", "size_bytes")

    def __init__(self) -> None:
        self._begin = self._end = 0
        self.size_bytes = 0

    def count(self, partition: Partition, end: int) -> bool:
        """Count the entries from the first held below ``end``; False when a step was not enough."""
        begin = partition.log.first_index
        if begin != self._begin or end < self._end:
            self._begin = self._end = begin
            self.size_bytes = 0
        stop = min(end, self._end + ENTRIES_MAX)
        for header in partition.headers(self._end, stop):
            self.size_bytes += HEADER_SIZE + header.payload_size
        self._end = max(self._end, stop)
        return self._end >= end


def _holds_records(partition: Partition, begin: int, end: int) -> bool:
    return any(header.kind is EntryKind.RECORDS for header in partition.headers(begin, end))
