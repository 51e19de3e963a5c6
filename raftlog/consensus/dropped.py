"""A store as a group sees it that is opened anew before the drop of its last data is durable: empty until then."""

from __future__ import annotations

from collections.abc import Container, Iterator

from raftlog.core.entry import EntryHeader
from raftlog.storage.port import StoreReader


class DroppedReader:
    """``StoreReader`` in which the groups of ``dropping`` hold nothing. What they have written since is with their journals."""

    def __init__(self, store: StoreReader, dropping: Container[int]) -> None:
        self._store, self._dropping = store, dropping

    def bounds(self, group: int) -> tuple[int, int] | None:
        """See the port."""
        return None if group in self._dropping else self._store.bounds(group)

    def header(self, group: int, index: int) -> EntryHeader | None:
        """See the port."""
        return None if group in self._dropping else self._store.header(group, index)

    def entries(self, group: int, start: int, stop: int, bytes_max: int) -> list[bytes]:
        """See the port."""
        return [] if group in self._dropping else self._store.entries(group, start, stop, bytes_max)

    def row(self, group: int, table: int, key: bytes) -> bytes | None:
        """See the port."""
        return None if group in self._dropping else self._store.row(group, table, key)

    def rows(self, group: int, table: int, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """See the port."""
        return iter(()) if group in self._dropping else self._store.rows(group, table, prefix)
