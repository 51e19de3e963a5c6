"""What the layers above ask of storage. Two implementations pass one test: LMDB, and a double in memory.

Theory of operation. A node has one store. Its groups' logs and rows change only through ``commit``: one batch is one
transaction, written and synced as a whole or not at all. Reading sees what was committed; what is not yet committed is
kept by those who wrote it.

Rules:

1. At most one commit is under way; ``commit`` while one is raises ``RuntimeError``.
2. ``done`` is called on the event loop, once, and only when the batch is durable. It is never called for a batch that
   could not be written: a full disk is waited out inside (``usage().full`` is true meanwhile), anything else ends the
   process through the ``on_fatal`` callback given at opening.
3. Within a batch the order is: drop groups, install rows, truncate, trim, put entries, rows.
4. An entry that fails its check is never returned: ``DataLossError``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from raftlog.core.entry import EntryHeader

ROW_KEY_BYTES_MAX = 400
"""Longest row key. LMDB's own limit for a whole key is 511 bytes."""


@dataclass(slots=True)
class WriteBatch:
    """What one turn writes. Groups, tables and indices are unsigned; a row value of None deletes the row."""

    entries: dict[tuple[int, int], bytes] = field(default_factory=dict)
    """(group, index) → encoded entry. Within a group indices rise without a gap in insertion order."""
    truncate: dict[int, int] = field(default_factory=dict)
    """group → first index to delete; all from there to the end of the log go, before ``entries`` are put."""
    trim: dict[int, int] = field(default_factory=dict)
    """group → first index to keep; all before it go."""
    rows: dict[tuple[int, int, bytes], bytes | None] = field(default_factory=dict)
    """(group, table, key) → value, or None to delete."""
    drop: set[int] = field(default_factory=set)
    """Groups whose entries and rows all go."""
    install: dict[int, int] = field(default_factory=dict)
    """group → another one, all of whose rows become this group's in the place of its own, and which has none afterwards."""
    size_bytes: int = 0
    """Bytes of ``entries``, and of the rows that are installed, kept by whoever adds them."""

    def forget(self, group: int) -> None:
        """Take out what was gathered for a group, but for its drop. Rows that were to be installed are dropped instead."""
        for at in [at for at in self.entries if at[0] == group]:
            self.size_bytes -= len(self.entries.pop(at))
        for row in [row for row in self.rows if row[0] == group]:
            del self.rows[row]
        self.truncate.pop(group, None)
        self.trim.pop(group, None)
        if group in self.install:
            self.drop.add(self.install.pop(group))

    def __bool__(self) -> bool:
        return bool(self.entries or self.truncate or self.trim or self.rows or self.drop or self.install)


COPIES_DISK_FREE_BYTES_MIN = 64 << 20
"""A full node takes no more entries from leaders with less of its disk free: a write cut short would end it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageUsage:
    """Sizes in bytes. ``used`` is what live pages take, ``file`` the data file's length (it does not shrink)."""

    used_bytes: int
    file_bytes: int
    limit_bytes: int
    disk_free_bytes: int
    room_bytes: int
    """What may still be stored before publishing is refused, about."""
    low: bool
    """``room_bytes`` is little: whatever may go should go now."""
    shortage: str
    """Why publishing must be refused: a soft limit is reached, or a write met a full disk or map. Empty while it need not."""

    @property
    def full(self) -> bool:
        """Publishing must be refused."""
        return bool(self.shortage)

    @property
    def takes_no_copies(self) -> bool:
        """No entries of other nodes' either: the disk has little more than what votes, rows and trims need."""
        return self.full and self.disk_free_bytes < COPIES_DISK_FREE_BYTES_MIN


class StoreReader(Protocol):
    """What can be read of one group. All methods are called on the event loop; reads are short and take one copy."""

    def bounds(self, group: int) -> tuple[int, int] | None:
        """First and last index of a group's log, None when it is empty.

        Raises:
            DataLossError: the store is damaged where they are.
        """

    def header(self, group: int, index: int) -> EntryHeader | None:
        """The checked header of one entry, None where there is none. The payload is not read.

        Raises:
            DataLossError: the header fails its check.
        """

    def entries(self, group: int, start: int, stop: int, bytes_max: int) -> list[bytes]:
        """Encoded entries ``start <= index < stop``, in order without a gap, checked (header and payload).

        Stops before exceeding ``bytes_max`` but returns at least one entry where ``start`` exists; [] where it does not.

        Raises:
            DataLossError: the first entry asked for fails its check (a bad one later ends the list before it).
        """

    def row(self, group: int, table: int, key: bytes) -> bytes | None:
        """One row's value.

        Raises:
            DataLossError: it fails its check.
        """

    def rows(self, group: int, table: int, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """A table's rows in order of key, as of the call.

        Raises:
            DataLossError: one of them fails its check, or the store is damaged where they are.
        """


class GroupView(StoreReader, Protocol):
    """One group as it is at one moment, however much is written meanwhile. A disk cannot use again what it must still show, so
    a view is closed soon."""

    def page(self, start: tuple[int, bytes], bytes_max: int) -> list[tuple[int, bytes, bytes]]:
        """Rows (table, key, value) in order from (table, key) ``start`` on, up to ``bytes_max`` but at least one; [] at the end.

        Raises:
            DataLossError: one of them fails its check.
        """
        ...

    def close(self) -> None:
        """Let go of the moment. Idempotent; nothing can be read afterwards."""


class Store(StoreReader, Protocol):
    """A node's storage."""

    def view(self, group: int) -> GroupView:
        """A group as it is on the disk now, which may be more than the newest ``done`` has announced."""
        ...

    def commit(self, batch: WriteBatch, done: Callable[[], None]) -> None:
        """Write ``batch`` durably, then call ``done`` on the loop. The batch is not touched by the caller again."""

    def groups(self) -> list[int]:
        """Ids of the groups that have entries or rows, rising.

        Raises:
            DataLossError: the store is damaged where they are listed.
            DataDirectoryError: the disk does not let them be read.
        """

    def deleting(self, group: int, ended: Callable[[], None]) -> bool:
        """Whether data of a group that was dropped is still being deleted. What is put into the group before that has ended first
        deletes all that is left, in its own transaction, however long that takes and however full the disk is.

        Args:
            ended: called on the loop, once, when none is left, where there is some; it must not commit. The last of those who
                have asked about a group is told. Not after ``close``.
        """
        ...

    def usage(self) -> StorageUsage:
        """Sizes now."""

    def recent_usage(self) -> StorageUsage:
        """Sizes of a moment ago, while there was room: cheap enough to be asked for each batch."""

    def close(self) -> None:
        """Wait for a commit under way, then release everything. Idempotent."""
