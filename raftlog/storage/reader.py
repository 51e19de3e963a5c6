"""The reading half of a node's storage: what the port's reads mean over one LMDB read transaction.

Rules:

1. Bytes leave a read transaction by exactly one copy, and only after their check.
2. What is condemned (raftlog.storage.transaction) is hidden from every read.
3. A read transaction that has met a damaged page refuses whatever is read from it next, of every group. So it is given up for
   another one: what is damaged is lost, and nothing else.
4. LMDB looks entries up, which say themselves where they belong. Its cursors are not used: one that meets a page of zeros ends
   the process. Nor does it look rows up: where a page is another's it finds none, and a vote that is missing was never given.
   So rows, and what is asked for in order, are read plainly (raftlog.storage.plain_walk).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import lmdb

from raftlog.core import entry
from raftlog.core.entry import HEADER_SIZE, EntryHeader
from raftlog.errors import DataLossError, UnreadableLogError
from raftlog.storage import layout
from raftlog.storage.environment import Databases, unreadable
from raftlog.storage.page_format import ADVICE, PageError, Tree, tree_of
from raftlog.storage.plain_walk import PlainWalk
from raftlog.storage.transaction import WHOLE, Condemned, load_condemned


class LmdbReader:
    """The reads of ``raftlog.storage.port.Store``, as of the moment when this was made or renewed.

    Args:
        path: the data file, for errors.
    """

    def __init__(self, env: lmdb.Environment, dbs: Databases, path: Path) -> None:
        self._env = env
        self._dbs = dbs
        self._data_file = path
        self._txn = env.begin(buffers=True)
        self._walk = PlainWalk(path, env.stat()["psize"])
        self._trees: dict[bytes, Tree] = {}
        """The databases as the read transaction sees them, once they were asked for."""
        try:
            self._condemned = self._load_condemned()
        except BaseException as error:
            self.end_reading()
            if isinstance(error, PageError):
                raise UnreadableLogError(f"{path} is damaged: {error}. {ADVICE}") from error
            if isinstance(error, OSError):
                raise unreadable(path, error) from error
            raise

    def end_reading(self) -> None:
        """Give the read transaction up."""
        self._txn.abort()
        self._walk.close()

    def _renew_transaction(self) -> None:
        """See what is in the file now."""
        self._txn.abort()
        self._walk.renew()
        self._trees.clear()
        self._txn = self._env.begin(buffers=True)

    def groups(self) -> list[int]:
        """See the port."""
        with self._reading(f"the groups in {self._data_file}"):
            try:
                found = self._groups_in(layout.ENTRIES_DB) | self._groups_in(layout.ROWS_DB)
            except OSError as error:  # the disk's fault, which may pass: no reason to set the data aside
                raise unreadable(self._data_file, error) from error
        return sorted(group for group in found if not self._dropped(group))

    def _groups_in(self, database: bytes) -> set[int]:
        found = set()
        at: bytes | None = b""
        while at is not None and (key := self._first(database, at)) is not None:
            group = layout.group_of(key)
            if database == layout.ROWS_DB or self._has_kept(key):
                found.add(group)
            at = layout.group_key(group + 1) if group < layout.INDEX_MAX else None
        return found

    def bounds(self, group: int) -> tuple[int, int] | None:
        """See the port."""
        with self._reading(f"the log of group {group}"):
            first = self._first(layout.ENTRIES_DB, layout.entry_key(group, self._first_kept(group)))
            if first is None or layout.group_of(first) != group:
                return None
            last = self._walk.last(self._tree(layout.ENTRIES_DB), layout.entry_key(group, layout.INDEX_MAX))  # no entry's index
            if last is None or last < first:
                raise PageError("the pages contradict each other")
            return layout.index_of(first), layout.index_of(last)

    def header(self, group: int, index: int) -> EntryHeader | None:
        """See the port."""
        stored = self._stored_entry(group, index)
        if stored is None:
            return None
        header = entry.decode_header(bytes(stored[:HEADER_SIZE]))
        check_place(header, group, index)
        return header

    def entries(self, group: int, start: int, stop: int, bytes_max: int) -> list[bytes]:
        """See the port."""
        found: list[bytes] = []
        size = 0
        for index in range(start, stop):
            try:
                stored = self._stored_entry(group, index)
                if stored is None:
                    break
                size += len(stored)
                if found and size > bytes_max:
                    break
                data = bytes(stored)
                check_place(entry.decode(data).header, group, index)
            except DataLossError:
                if found:
                    break
                raise
            found.append(data)
        return found

    def row(self, group: int, table: int, key: bytes) -> bytes | None:
        """See the port."""
        if self._dropped(group):
            return None
        whole_key = layout.row_key(group, table, key)
        with self._reading(f"row {key!r} of table {table} of group {group}"):
            stored = self._walk.value(self._tree(layout.ROWS_DB), whole_key)
            return None if stored is None else layout.open_row(whole_key, stored)

    def rows(self, group: int, table: int, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """See the port. The rows are read, checked and copied before this returns."""
        found: list[tuple[bytes, bytes]] = []
        if self._dropped(group):
            return iter(found)
        start = layout.row_key(group, table, prefix)
        with self._reading(f"table {table} of group {group}"):
            for key, stored in self._items(layout.ROWS_DB, start):
                if not key.startswith(start):
                    break
                found.append((key[layout.ROW_KEY_FRONT_SIZE :], layout.open_row(key, stored)))
        return iter(found)

    def _items(self, database: bytes, start: bytes) -> Iterator[tuple[bytes, memoryview]]:
        """A database's items from ``start`` on."""
        return self._walk.items(self._tree(database), start)

    def _first(self, database: bytes, start: bytes) -> bytes | None:
        """A database's first key from ``start`` on."""
        return self._walk.first(self._tree(database), start)

    def _has_kept(self, first: bytes) -> bool:
        """Whether there is an entry of a group that is not condemned, where its first one has the key ``first``."""
        group, index = layout.group_of(first), layout.index_of(first)
        return index >= self._first_kept(group) or self.bounds(group) is not None

    def _tree(self, database: bytes) -> Tree:
        tree = self._trees.get(database)
        if tree is None:
            tree = self._trees[database] = tree_of(bytes(self._txn.get(database) or b""))  # LMDB's own list of what there is
        return tree

    def _load_condemned(self) -> dict[int, Condemned]:
        return load_condemned(self._items(layout.META_DB, layout.CONDEMNED_PREFIX))

    def _stored_entry(self, group: int, index: int) -> memoryview | None:
        """A view that is valid until the read transaction is renewed."""
        if index < self._first_kept(group):
            return None
        try:  # as ``_reading``, whose words would have to be made for every entry that is read
            return self._txn.get(layout.entry_key(group, index), db=self._dbs.entries)
        except lmdb.Error as error:
            self._met_damage()
            raise DataLossError(f"entry {index} of group {group} cannot be read: {error}") from error

    @contextlib.contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """What is found wrong with the file's pages is lost data."""
        try:
            yield
        except lmdb.Error as error:
            self._met_damage()
            raise DataLossError(f"{what} cannot be read: {error}") from error
        except (PageError, OSError) as error:
            raise DataLossError(f"{what} cannot be read: {error}") from error

    def _met_damage(self) -> None:
        """Rule 3."""
        with contextlib.suppress(lmdb.Error, PageError):  # else the next read fails in the same way, and tries this again
            self._renew_transaction()
            self._condemned = self._load_condemned()

    def _first_kept(self, group: int) -> int:
        condemned = self._condemned.get(group)
        return 0 if condemned is None else condemned.keep_from

    def _dropped(self, group: int) -> bool:
        return self._condemned.get(group) == WHOLE


def check_place(header: EntryHeader, group: int, index: int) -> None:
    """Check that an entry stands where it says it does.

    Raises:
        DataLossError
    """
    if header.group != group or header.index != index:
        raise DataLossError(f"entry {index} of group {group} is stored as entry {header.index} of group {header.group}")
