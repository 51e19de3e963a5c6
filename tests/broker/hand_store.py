"""A double of the node's storage, as far as the broker asks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from raftlog.core.entry import EntryHeader
from raftlog.storage.port import GroupView, StorageUsage, WriteBatch


class HandStore:
    """A store of which the broker asks two things; the rest is consensus' business."""

    def __init__(self, groups: Callable[[], list[int]] = list) -> None:
        self.full = False
        self.low = False
        self._groups = groups

    def groups(self) -> list[int]:
        """See ``Store``."""
        return self._groups()

    def commit(self, batch: WriteBatch, done: Callable[[], None]) -> None:
        """Not used by the broker."""
        raise NotImplementedError

    def bounds(self, group: int) -> tuple[int, int] | None:
        """Not used by the broker."""
        raise NotImplementedError

    def header(self, group: int, index: int) -> EntryHeader | None:
        """Not used by the broker."""
        raise NotImplementedError

    def entries(self, group: int, start: int, stop: int, bytes_max: int) -> list[bytes]:
        """Not used by the broker."""
        raise NotImplementedError

    def row(self, group: int, table: int, key: bytes) -> bytes | None:
        """Not used by the broker."""
        raise NotImplementedError

    def rows(self, group: int, table: int, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Not used by the broker."""
        raise NotImplementedError

    def close(self) -> None:
        """Not used by the broker."""

    def view(self, group: int) -> GroupView:
        """Not used by the broker."""
        raise NotImplementedError

    def deleting(self, group: int, ended: Callable[[], None]) -> bool:
        """Not used by the broker."""
        raise NotImplementedError

    def recent_usage(self) -> StorageUsage:
        """See the port."""
        return self.usage()

    def usage(self) -> StorageUsage:
        """See ``Store``."""
        shortage = "a test says so" if self.full else ""
        return StorageUsage(
            used_bytes=1, file_bytes=2, limit_bytes=3, disk_free_bytes=4, room_bytes=5, low=self.low, shortage=shortage
        )
