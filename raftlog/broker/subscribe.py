"""Reading a partition: from an offset, and from a time.

Theory of operation. The log is its own index: along it neither ``next_offset`` nor ``running_max_timestamp`` ever falls, so
both lookups are binary searches over entry headers. A reader who goes on where it stopped is not searched for: the partition
remembers its place.

Rules:

1. Nothing beyond the commit index is read.
2. A batch is given whole, also to who asks for an offset in the middle of it.
3. A fetch with nothing to give waits for the high watermark, and never polls.
4. Only the leader says that an offset is out of range above; a follower asked above its high watermark waits.
5. Whoever meets damage takes the replica out of service where there are others (``ReplicatedLog.read``); a reader is then told
   that this node does not lead, and finds the data at the next leader. Only the last replica's damage is told as such.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from raftlog.broker.partition import Partition
from raftlog.broker.port import EARLIEST, LATEST, MAX_TIMESTAMP, NO_EPOCH, EpochEnd, Fetched, ListedOffset
from raftlog.core.entry import Entry, EntryHeader
from raftlog.errors import (
    CorruptMessageError,
    DataLossError,
    FencedLeaderEpochError,
    InvalidRequestError,
    OffsetOutOfRangeError,
    UnknownLeaderEpochError,
)
from raftlog.records import batch
from raftlog.records.batch import BatchHeader

HEADERS_A_STEP = 256
"""Headers that a lookup by time reads before it lets others run."""

LOOKUP_RECORDS_MAX = 100_000
LOOKUP_BYTES_MAX = 16 << 20
"""A lookup by time reads the records of no larger batch, decompressed: it holds the loop, up to some tenths of a second, which an
election survives. It then answers with the batch's first record, as for one that cannot be read."""
NOTHING_LISTED = ListedOffset(offset=-1, timestamp_ms=-1, leader_epoch=-1)
NO_EPOCH_END = EpochEnd(leader_epoch=-1, end_offset=-1)

CheckLeader = Callable[[Partition], None]
"""Raises ``NotLeaderError`` where this node does not lead the partition, or may not serve it."""


async def fetch(partition: Partition, offset: int, *, bytes_max: int, wait_s: float, check_leader: CheckLeader | None) -> Fetched:
    """Read committed batches from ``offset`` on; wait up to ``wait_s`` seconds for the first.

    Args:
        partition: the replica that is read.
        offset: where to begin.
        bytes_max: bytes of batches; the first is given even if it is bigger.
        wait_s: seconds.
        check_leader: None for a read of a follower.

    Raises:
        OffsetOutOfRangeError: below the log start, or (leader) above the high watermark.
        NotLeaderError, LeaderNotAvailableError: from ``check_leader``, before the wait or after it.
        DataLossError: the batch asked for is damaged, and there is no other replica.
    """
    if check_leader is not None:
        check_leader(partition)
    check_range(partition, offset, is_leader=check_leader is not None)
    if offset >= partition.high_watermark and wait_s > 0:
        await partition.wait_above(offset, wait_s)
        if check_leader is not None:
            check_leader(partition)
        check_range(partition, offset, is_leader=False)
    with _others_may_lead(partition, check_leader):
        return read(partition, offset, bytes_max)


def read_here(partition: Partition, offset: int, *, bytes_max: int, check_leader: CheckLeader | None) -> Fetched:
    """``fetch`` without a wait."""
    if check_leader is not None:
        check_leader(partition)
    check_range(partition, offset, is_leader=check_leader is not None)
    if offset >= partition.high_watermark:
        return nothing(partition, offset)
    with _others_may_lead(partition, check_leader):
        return read(partition, offset, bytes_max)


def nothing(partition: Partition, offset: int) -> Fetched:
    """The answer without batches."""
    return Fetched(
        batches=(), high_watermark=partition.high_watermark, log_start_offset=partition.log_start_offset, next_offset=offset
    )


def check_epoch(partition: Partition, leader_epoch: int) -> None:
    """Compare the leader epoch that a caller knows with this replica's term (KIP-320); ``NO_EPOCH`` passes.

    Raises:
        FencedLeaderEpochError: the caller's is older.
        UnknownLeaderEpochError: the caller's is newer.
    """
    term = partition.log.term
    if leader_epoch in (NO_EPOCH, term):
        return
    if leader_epoch < term:
        raise FencedLeaderEpochError(
            f"{partition.name}: leader epoch {leader_epoch} is over, {term} is known here; look up the leader again"
        )
    raise UnknownLeaderEpochError(f"{partition.name}: leader epoch {leader_epoch} is not known here yet, {term} is; try again")


@contextlib.contextmanager
def _others_may_lead(partition: Partition, check_leader: CheckLeader | None) -> Iterator[None]:
    """Rule 5."""
    try:
        yield
    except DataLossError:
        if check_leader is not None:
            check_leader(partition)
        raise


def read(partition: Partition, offset: int, bytes_max: int) -> Fetched:
    """What there is from ``offset`` on, without waiting."""
    log, high_watermark = partition.log, partition.high_watermark
    batches: list[bytes | memoryview] = []
    next_offset = offset
    if offset < high_watermark:
        stop = log.commit_index + 1
        place = partition.place(offset)
        index = first_index(partition, lambda header: header.next_offset > offset) if place is None else place
        while not batches and index < stop:
            entries = log.read(index, stop, bytes_max)
            if not entries:
                raise DataLossError(f"{partition.name}: entry {index} is missing from this replica's log")
            index, next_offset = _take(entries, offset, bytes_max, batches)
        partition.remember(next_offset, index)
    return Fetched(
        batches=batches,
        high_watermark=high_watermark,
        log_start_offset=partition.log_start_offset,
        next_offset=next_offset,
    )


def _take(entries: list[Entry], offset: int, bytes_max: int, batches: list[bytes | memoryview]) -> tuple[int, int]:
    """Add the batches that reach beyond ``offset``, up to ``bytes_max``; the index and the offset to go on with."""
    left, index, next_offset = bytes_max, entries[0].header.index, offset
    for entry in entries:
        header = entry.header
        if header.record_count and header.next_offset > offset:
            data, next_offset = _cut(entry, max(offset, next_offset), left, at_least_one=not batches)
            if data:
                batches.append(data)
                left -= len(data)
            if next_offset < header.next_offset:
                break
        index = header.index + 1
    return index, next_offset


def _cut(entry: Entry, offset: int, bytes_max: int, *, at_least_one: bool) -> tuple[memoryview, int]:
    """Of an entry's batches those that reach beyond ``offset``, up to ``bytes_max``; and the offset behind them."""
    header, payload = entry.header, entry.payload
    if offset <= header.base_offset and len(payload) <= bytes_max:
        return payload, header.next_offset
    begin = end = 0
    for found, data in batch.split(payload):
        if found.next_offset <= offset:
            begin = end = end + len(data)
            continue
        if end + len(data) - begin > bytes_max and (end > begin or not at_least_one):
            break
        end, offset = end + len(data), found.next_offset
    return payload[begin:end], offset


async def list_offset(partition: Partition, timestamp_ms: int, *, timeout_s: float, check_leader: CheckLeader) -> ListedOffset:
    """``EARLIEST``, ``LATEST`` and ``MAX_TIMESTAMP`` (after a read barrier), or the first record at or after a time (after one,
    where there is none).

    Raises:
        InvalidRequestError: another negative time.
        NotLeaderError, RequestTimedOutError: leadership is not there, or could not be confirmed.
    """
    check_leader(partition)
    if timestamp_ms == EARLIEST:
        return ListedOffset(offset=partition.log_start_offset, timestamp_ms=-1, leader_epoch=partition.log.term)
    if timestamp_ms == LATEST:
        await partition.log.barrier(timeout_s)
        check_leader(partition)
        return ListedOffset(offset=partition.high_watermark, timestamp_ms=-1, leader_epoch=partition.log.term)
    if timestamp_ms < 0 and timestamp_ms != MAX_TIMESTAMP:
        raise InvalidRequestError(f"time {timestamp_ms} means nothing; {LATEST} is the latest offset, {EARLIEST} the earliest")
    with _others_may_lead(partition, check_leader):
        if timestamp_ms != MAX_TIMESTAMP:
            found = await _find_time(partition, timestamp_ms)
            if found.offset >= 0:
                return found  # committed, and so the first for ever
        # That there is none, and what is the youngest, a leader that was deposed would say, too.
        await partition.log.barrier(timeout_s)
        check_leader(partition)
        if timestamp_ms == MAX_TIMESTAMP:
            return await _find_youngest(partition)
        return await _find_time(partition, timestamp_ms)


async def _find_time(partition: Partition, timestamp_ms: int) -> ListedOffset:
    """Binary search on the running maximum, then forward on the entries' own maximum, then inside one entry."""
    index = first_index(partition, lambda header: header.running_max_timestamp >= timestamp_ms)
    steps = 0
    while index <= partition.log.commit_index:
        header = _header(partition, index)
        if header.record_count and header.max_timestamp >= timestamp_ms and header.next_offset > partition.log_start_offset:
            found = _find_record(partition, header, timestamp_ms)
            if found is not None:
                return found
        steps += 1
        if steps % HEADERS_A_STEP == 0:
            await asyncio.sleep(0)
        index = max(index + 1, partition.log.first_index)
    return NOTHING_LISTED


async def _find_youngest(partition: Partition) -> ListedOffset:
    """The record with the highest timestamp: by the running maximum, unless its batch is gone; then by going over the rest."""
    commit = partition.log.commit_index
    highest = _header(partition, commit).running_max_timestamp
    found = await _find_time(partition, highest) if highest >= 0 else NOTHING_LISTED
    if found.offset >= 0 or highest < 0:
        return found
    index = first_index(partition, lambda header: header.next_offset > partition.log_start_offset)
    highest, steps = -1, 0
    while index <= commit:
        header = _header(partition, index)
        if header.record_count:
            highest = max(highest, header.max_timestamp)
        steps += 1
        if steps % HEADERS_A_STEP == 0:
            await asyncio.sleep(0)
        index = max(index + 1, partition.log.first_index)
    return NOTHING_LISTED if highest < 0 else await _find_time(partition, highest)


def epoch_end(partition: Partition, leader_epoch: int) -> EpochEnd:
    """Where the largest epoch that is not above ``leader_epoch`` ends: terms never fall along the log (KIP-101, KIP-320).

    The present term's end is the high watermark; nothing is known of a later one.
    """
    log = partition.log
    if not 0 <= leader_epoch <= log.term:
        return NO_EPOCH_END
    after = first_index(partition, lambda header: header.term > leader_epoch)
    if after > log.commit_index:
        end = partition.high_watermark
    else:
        end = max(_header(partition, after).base_offset, partition.log_start_offset)
    if after <= log.first_index:
        return EpochEnd(leader_epoch=leader_epoch, end_offset=end)
    return EpochEnd(leader_epoch=_header(partition, after - 1).term, end_offset=end)


def _find_record(partition: Partition, header: EntryHeader, timestamp_ms: int) -> ListedOffset | None:
    """The record inside an entry: in the first batch that says it has one."""
    entries = partition.log.read(header.index, header.index + 1, header.payload_size)
    if not entries:
        raise DataLossError(f"{partition.name}: entry {header.index} is missing from this replica's log")
    start = partition.log_start_offset
    for found, data in batch.split(entries[0].payload):
        if found.max_timestamp >= timestamp_ms and found.next_offset > start:
            listed = _find_in_batch(found, data, timestamp_ms, start)
            if listed is not None:
                return listed
    return None


def _find_in_batch(header: BatchHeader, data: memoryview, timestamp_ms: int, start: int) -> ListedOffset | None:
    """The record inside a batch; the batch itself where its records cannot be read, or not at once.

    What is in a batch is its producer's business: one that put nonsense or a bomb there must not keep others from looking up.
    """
    whole = ListedOffset(
        offset=max(header.base_offset, start), timestamp_ms=header.max_timestamp, leader_epoch=header.leader_epoch
    )
    if header.record_count > LOOKUP_RECORDS_MAX:
        return whole
    try:
        records = batch.decode(data, decompressed_bytes_max=LOOKUP_BYTES_MAX)
    except CorruptMessageError:
        return whole
    for record in records:
        if record.timestamp_ms >= timestamp_ms and record.offset >= start:
            return ListedOffset(offset=record.offset, timestamp_ms=record.timestamp_ms, leader_epoch=header.leader_epoch)
    return None


def first_index(partition: Partition, holds: Callable[[EntryHeader], bool]) -> int:
    """Index of the first committed entry for which ``holds``, commit + 1 where there is none; it must hold for all behind it too.

    Raises:
        DataLossError: a header on the way is damaged.
    """
    low, high = partition.log.first_index, partition.log.commit_index + 1
    while low < high:
        middle = (low + high) // 2
        if holds(_header(partition, middle)):
            high = middle
        else:
            low = middle + 1
    return low


def _header(partition: Partition, index: int) -> EntryHeader:
    header = partition.log.header(index)
    if header is None:
        raise DataLossError(f"{partition.name}: entry {index} is missing from this replica's log")
    return header


def check_range(partition: Partition, offset: int, *, is_leader: bool) -> None:
    """Pass where ``offset`` may be read; a follower's high watermark may be behind.

    Raises:
        OffsetOutOfRangeError: below the log start, or (leader) above the high watermark.
    """
    earliest, latest = partition.log_start_offset, partition.high_watermark
    if offset < earliest or (is_leader and offset > latest):
        raise OffsetOutOfRangeError(
            f"{partition.name}: offset {offset} is outside of {earliest} to {latest}; begin at one of them",
            earliest=earliest,
            latest=latest,
        )
