"""Retention: what goes is the oldest, is committed, and is no more than the limits ask for."""

from __future__ import annotations

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from raftlog.core.entry import HEADER_SIZE, EntryHeader, EntryKind
from raftlog.core.retention import Retained, retain

DAY = 86_400_000
NOW = 1_700_000_000_000
SIZE = 1_000


def log(*timestamps: int | None, size: int = SIZE) -> list[EntryHeader]:
    """A log of batches of two records and ``size`` bytes, one for each timestamp; None is an entry without records."""
    entries, offset = [], 0
    for index, timestamp in enumerate(timestamps, 1):
        kind = EntryKind.NOOP if timestamp is None else EntryKind.RECORDS
        records = 0 if timestamp is None else 2
        entries.append(
            EntryHeader(
                kind, 1, index, 1, offset, records, size - HEADER_SIZE, max_timestamp=-1 if timestamp is None else timestamp
            )
        )
        offset += records
    return entries


def decide(
    entries: list[EntryHeader],
    *,
    start: int = 0,
    high_watermark: int | None = None,
    ms: int = -1,
    size: int = -1,
    entries_max: int = 99,
) -> Retained:
    """``retain`` over a whole log at ``NOW``."""
    return retain(
        iter(entries),
        log_start_offset=start,
        high_watermark=entries[-1].next_offset if high_watermark is None else high_watermark,
        size_bytes=sum(HEADER_SIZE + entry.payload_size for entry in entries if entry.next_offset > start),
        retention_ms=ms,
        retention_bytes=size,
        now_ms=NOW,
        entries_max=entries_max,
    )


def test_without_limits_nothing_goes() -> None:
    """−1 twice keeps everything, and no entry is even read."""
    endless = (EntryHeader(EntryKind.RECORDS, 1, index, 1, index, 1) for index in count())
    kept = retain(
        endless, log_start_offset=5, high_watermark=1 << 60, size_bytes=1 << 60, retention_ms=-1, retention_bytes=-1, now_ms=NOW
    )
    assert kept == Retained(5)
    assert next(endless).index == 0


def test_batches_older_than_the_limit_go() -> None:
    """A batch of exactly the limit's age stays; the first that stays keeps all behind it, whatever their age."""
    assert decide(log(NOW - DAY - 1, NOW - DAY, NOW - 2 * DAY), ms=DAY) == Retained(2)


def test_all_may_go() -> None:
    """A log whose newest record is too old becomes empty at its high watermark."""
    assert decide(log(0, 0, 0), ms=DAY) == Retained(6)


def test_the_oldest_go_until_the_rest_fits() -> None:
    """A log of exactly the limit keeps everything; one byte more costs one batch."""
    entries = log(NOW, NOW, NOW)
    assert decide(entries, size=3 * SIZE) == Retained(0)
    assert decide(entries, size=3 * SIZE - 1) == Retained(2)
    assert decide(entries, size=SIZE) == Retained(4)
    assert decide(entries, size=0) == Retained(6)


def test_what_is_not_committed_stays() -> None:
    """The log start never passes the high watermark, also not into the middle of a batch."""
    assert decide(log(0, 0, 0), ms=DAY, size=0, high_watermark=4) == Retained(4)
    assert decide(log(0, 0, 0), ms=DAY, size=0, high_watermark=3) == Retained(2)


def test_entries_without_records_do_not_hold_up_what_follows() -> None:
    """They are passed over: they have no age, and go with what is around them."""
    assert decide(log(None, 0, None, 0, NOW), ms=DAY) == Retained(4)


def test_what_went_before_is_not_counted_again() -> None:
    """Entries below the log start, not yet trimmed, neither stop the decision nor count towards the size."""
    assert decide(log(NOW, NOW, NOW), start=2, size=2 * SIZE) == Retained(2)
    assert decide(log(NOW, NOW, NOW), start=2, size=SIZE) == Retained(4)


def test_records_without_a_timestamp_have_the_age_of_their_batch() -> None:
    """A batch with no maximum timestamp is as old as its appending."""
    old, young = (entry._replace(append_time=time) for entry, time in zip(log(-1, -1), (0, NOW), strict=True))
    assert decide([old, young], ms=DAY) == Retained(2)


def test_a_long_decision_stops_and_says_so() -> None:
    """Work is bounded; asking again from the new start finishes it."""
    entries = log(0, 0, 0, 0, 0)
    first = decide(entries, ms=DAY, entries_max=3)
    assert first == Retained(6, more=True)
    assert decide(entries[3:], start=6, ms=DAY, entries_max=3) == Retained(10)


@given(
    st.lists(st.none() | st.integers(NOW - 4, NOW), min_size=1, max_size=12),
    st.integers(-1, 5),
    st.integers(-1, 13 * SIZE),
    st.integers(0, 24),
    st.integers(0, 24),
)
def test_the_decision_is_the_least_that_meets_the_limits(
    timestamps: list[int | None], ms: int, size: int, start: int, high_watermark: int
) -> None:
    """The start only rises, stays below the watermark, and is the lowest batch boundary where neither limit asks for more."""
    entries = log(*timestamps)
    start = min(start // 2 * 2, entries[-1].next_offset)
    high_watermark = max(start, min(high_watermark, entries[-1].next_offset))
    decided = decide(entries, start=start, high_watermark=high_watermark, ms=ms, size=size)
    batches = [entry for entry in entries if entry.record_count and entry.next_offset > start]
    total = sum(HEADER_SIZE + entry.payload_size for entry in entries if entry.next_offset > start)
    expected = start
    for entry in batches:
        if entry.next_offset > high_watermark or not (0 <= size < total or 0 <= ms < NOW - entry.max_timestamp):
            break
        expected, total = entry.next_offset, total - SIZE
    assert decided == Retained(expected)
