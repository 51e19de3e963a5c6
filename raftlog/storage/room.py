"""Whether there is room to publish into: the soft limits, pure.

Three things may run short: what the operator allows (``storage-bytes-max``), the disk, and the map. Publishing stops at a
soft limit *before* each of them ends; what lies behind it is the reserve of votes, rows, metadata and trims. Room is *low*
some way before that: then retention no longer waits for its next check.
"""

from __future__ import annotations

from dataclasses import dataclass

from raftlog.storage.port import StorageUsage

DISK_FREE_MIN_BYTES = 128 << 20
"""Publishing stops when disk and file together have less room: batches under way still fit, and the ballast stays untouched."""
MAP_RESERVE_BYTES = 64 << 20
"""Of the map, kept for votes, rows and trims (a quarter at most, where the map is small)."""
LOW_SHARE_OF_LIMIT = 10
"""Room is low when less than one part in so many of ``storage-bytes-max`` is left: at full load some seconds of publishing."""
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where publishing stops, in bytes."""

    limit_bytes: int
    """Most that data may take; 0 is no limit."""
    disk_free_min_bytes: int
    """Least room that disk and file must have together."""
    map_size_bytes: int


@dataclass(frozen=True, slots=True)
class _Room:
    """Bytes left before one of the limits, below how many they are few, and what there is to say when none are left."""

    left_bytes: int
    low_bytes: int
    shortage: str


def judge(limits: Limits, *, used_bytes: int, file_bytes: int, disk_free_bytes: int, no_space: bool) -> StorageUsage:
    """What sizes mean under ``limits``.

    Args:
        used_bytes: bytes of the pages that hold something.
        file_bytes: the data file's length; what is deleted makes room in it, and it does not shrink.
        disk_free_bytes: free on its disk.
        no_space: a write met a full disk or map, and nothing has ended that.
    """
    rooms = [
        _disk(limits, max(0, file_bytes - used_bytes), disk_free_bytes),
        _map(limits, used_bytes),
        *([_limit(limits, used_bytes)] if limits.limit_bytes else []),
    ]
    if no_space:
        rooms.insert(0, _Room(0, 1, f"a write found no space on the disk, of which {_mib(disk_free_bytes)} are free"))
    left = min(room.left_bytes for room in rooms)
    short = [room.shortage for room in rooms if room.left_bytes <= 0]
    return StorageUsage(
        used_bytes=used_bytes,
        file_bytes=file_bytes,
        limit_bytes=limits.limit_bytes,
        disk_free_bytes=disk_free_bytes,
        room_bytes=max(0, left),
        low=any(room.left_bytes < room.low_bytes for room in rooms),
        shortage=short[0] if short else "",
    )


def _limit(limits: Limits, used_bytes: int) -> _Room:
    limit = limits.limit_bytes
    shortage = f"data takes {_mib(used_bytes)}, and storage-bytes-max is {_mib(limit)}"
    return _Room(limit - used_bytes, limit // LOW_SHARE_OF_LIMIT, shortage)


def _map(limits: Limits, used_bytes: int) -> _Room:
    reserve = min(MAP_RESERVE_BYTES, limits.map_size_bytes // 4)
    shortage = f"data takes {_mib(used_bytes)}, as much as the address space reserved for it may hold"
    return _Room(limits.map_size_bytes - reserve - used_bytes, reserve, shortage)


def _disk(limits: Limits, reusable_bytes: int, free_bytes: int) -> _Room:
    least = limits.disk_free_min_bytes
    shortage = (
        f"the disk has {_mib(free_bytes)} free and the data file {_mib(reusable_bytes)} to use again, less than"
        f" storage-disk-free-min-bytes, {_mib(least)}"
    )
    # Exactly as much as it must have is enough: a minimum of 0 never stops anything.
    return _Room(free_bytes + reusable_bytes - least + 1, least, shortage)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / _MIB:.1f} MiB"
