"""Where a partition's log should start, by age and size, batch by batch.

The leader decides by its own clock and proposes what comes out; applying it reads no clock. Kafka's two rules, at the grain of
batches where Kafka has files: the oldest batch goes while the log is larger than ``retention.bytes``, or while the batch's
newest record is older than ``retention.ms``. The first batch that stays ends it, so the log never gets holes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from raftlog.core.entry import HEADER_SIZE, EntryHeader, EntryKind

NO_LIMIT: Final = -1
ENTRIES_MAX: Final = 10_000
"""Most headers that one decision looks at: some 50 ms of reading, for the decision is made on the node's event loop."""


@dataclass(frozen=True, slots=True)
class Retained:
    """The decision: the new log start offset, and whether it stopped at its limit of entries and should be asked again."""

    log_start_offset: int
    more: bool = False


def retain(
    entries: Iterable[EntryHeader],
    *,
    log_start_offset: int,
    high_watermark: int,
    size_bytes: int,
    retention_ms: int,
    retention_bytes: int,
    now_ms: int,
    entries_max: int = ENTRIES_MAX,
) -> Retained:
    """Decide the new log start offset; it never falls, and never passes the high watermark.

    Args:
        entries: headers in order of index, oldest first, from ``log_start_offset`` on (earlier ones are passed over). They
            are taken one at a time and no further than needed.
        log_start_offset: where the log starts now.
        high_watermark: the offset up to which records are committed.
        size_bytes: bytes of all entries from ``log_start_offset`` on, headers included.
        retention_ms: how old a batch's newest record may get, −1 for no limit.
        retention_bytes: how large the log may be, −1 for no limit.
        now_ms: the leader's clock.
        entries_max: most entries to look at.
    """
    if retention_ms == NO_LIMIT and retention_bytes == NO_LIMIT:
        return Retained(log_start_offset)
    start = log_start_offset
    for seen, header in enumerate(entries):
        if seen >= entries_max:
            return Retained(start, more=True)
        if header.next_offset > high_watermark:
            break
        if header.kind is EntryKind.RECORDS and header.next_offset > start:
            too_big = retention_bytes != NO_LIMIT and size_bytes > retention_bytes
            too_old = retention_ms != NO_LIMIT and now_ms - _newest(header) > retention_ms
            if not too_big and not too_old:
                break
            start = header.next_offset
            size_bytes -= HEADER_SIZE + header.payload_size
    return Retained(start)


def _newest(header: EntryHeader) -> int:
    """The batch's newest timestamp; that of its appending where its records have none."""
    return header.max_timestamp if header.max_timestamp >= 0 else header.append_time
