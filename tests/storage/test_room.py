"""The soft limits: what is said of room, from sizes alone."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from raftlog.storage.port import StorageUsage
from raftlog.storage.room import MAP_RESERVE_BYTES, Limits, judge

MIB = 1 << 20
LIMITS = Limits(limit_bytes=1_000 * MIB, disk_free_min_bytes=100 * MIB, map_size_bytes=1 << 42)


def at(
    limits: Limits = LIMITS, *, used: int = 0, file: int = 0, free: int = 10_000 * MIB, no_space: bool = False
) -> StorageUsage:
    """The judgement; sizes in bytes."""
    return judge(limits, used_bytes=used, file_bytes=file, disk_free_bytes=free, no_space=no_space)


def test_the_limit_is_low_before_it_is_full() -> None:
    """A tenth before, and the room that is left is said."""
    assert not at(used=900 * MIB).low
    low = at(used=901 * MIB)
    assert (low.low, low.full, low.room_bytes) == (True, False, 99 * MIB)
    full = at(used=1_000 * MIB)
    assert (full.low, full.full, full.room_bytes) == (True, True, 0)
    assert full.shortage == "data takes 1000.0 MiB, and storage-bytes-max is 1000.0 MiB"


def test_the_disk_is_low_before_it_is_full() -> None:
    """At twice the room that it must have; what the file can use again counts as free."""
    assert not at(free=200 * MIB).low
    assert at(free=190 * MIB).low
    assert not at(free=190 * MIB).full
    assert not at(free=90 * MIB, file=200 * MIB, used=90 * MIB).low
    full = at(free=90 * MIB, file=10 * MIB, used=5 * MIB)
    assert full.full
    assert full.shortage == (
        "the disk has 90.0 MiB free and the data file 5.0 MiB to use again, less than storage-disk-free-min-bytes, 100.0 MiB"
    )


def test_the_map_has_a_reserve() -> None:
    """Publishing stops before the address space is used up."""
    limits = replace(LIMITS, limit_bytes=0, map_size_bytes=1 << 30)
    assert not at(limits, used=(1 << 30) - 2 * MAP_RESERVE_BYTES).low
    assert at(limits, used=(1 << 30) - MAP_RESERVE_BYTES - 1).low
    assert "address space" in at(limits, used=(1 << 30) - MAP_RESERVE_BYTES).shortage


def test_a_write_that_found_no_space_counts_whatever_the_sizes_say() -> None:
    """It is the one thing that is certain."""
    usage = at(no_space=True)
    assert (usage.full, usage.low, usage.room_bytes) == (True, True, 0)
    assert "a write found no space" in usage.shortage


SIZES = st.integers(0, 1 << 44)


@given(
    st.builds(Limits, limit_bytes=SIZES, disk_free_min_bytes=SIZES, map_size_bytes=st.integers(1, 1 << 44)), SIZES, SIZES, SIZES
)
def test_more_data_never_makes_more_room(limits: Limits, used: int, free: int, more: int) -> None:
    """Full is low where there is a low mark, has no room, and stays full when data grows."""
    before = at(limits, used=used, file=used, free=free)
    after = at(limits, used=used + more, file=used + more, free=max(0, free - more))
    assert after.room_bytes <= before.room_bytes
    assert before.full == (before.room_bytes == 0)
    assert after.full or not before.full
    assert after.low or not before.low
