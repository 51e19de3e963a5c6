"""The reading half of a node's storage: what the port's reads mean over one LMDB read transaction.

Rules:

1. Bytes leave a read transaction by exactly one copy, and only after their check.
2. What is condemned (raftlog.storage.transaction) is hidden from every read.
3. A read transaction that has met a damaged page refuses whatever is read from it next, of every group. So it is given up for
   another one: what is damaged is lost, and nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import lmdb

from raftlog.core import entry
from raftlog.core.entry import HEADER_SIZE, EntryHeader
from raftlog.errors import DataLossError
from raftlog.storage import layout
from raftlog.storage.environment import Databases
from raftlog.storage.transaction import WHOLE, load_condemned


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
        self._condemned = load_condemned(self._txn, dbs)

    def end_reading(self) -> None:
        """Give the read transaction up."""
        self._txn.abort()

    def groups(self) -> list[int]:
        """See the port."""
        found = set()
        with self._reading(f"the groups in {self._data_file}"):
            for db in (self._dbs.entries, self._dbs.rows):
                cursor = self._txn.cursor(db)
                more = cursor.first()
                while more:
                    group = layout.group_of(cursor.key())
                    if db is self._dbs.rows or self.bounds(group) is not None:
                        found.add(group)
                    more = group < layout.INDEX_MAX and cursor.set_range(layout.group_key(group + 1))
        return sorted(group for group in found if not self._dropped(group))

    def bounds(self, group: int) -> tuple[int, int] | None:
        """See the port."""
        with self._reading(f"the log of group {group}"):
            cursor = self._txn.cursor(self._dbs.entries)
            if not cursor.set_range(layout.entry_key(group, self._first_kept(group))):
                return None
            first = bytes(cursor.key())
            if layout.group_of(first) != group:
                return None
            found = cursor.prev() if cursor.set_range(layout.entry_key(group, layout.INDEX_MAX)) else cursor.last()
            assert found
            return layout.index_of(first), layout.index_of(cursor.key())

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
            stored = self._txn.get(whole_key, db=self._dbs.rows)
            return None if stored is None else layout.open_row(whole_key, stored)

    def rows(self, group: int, table: int, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """See the port. The rows are read, checked and copied before this returns."""
        found: list[tuple[bytes, bytes]] = []
        if self._dropped(group):
            return iter(found)
        start = layout.row_key(group, table, prefix)
        with self._reading(f"table {table} of group {group}"):
            cursor = self._txn.cursor(self._dbs.rows)
            if cursor.set_range(start):
                for view, stored in cursor:
                    key = bytes(view)
                    if not key.startswith(start):
                        break
                    found.append((key[layout.ROW_KEY_FRONT_SIZE :], layout.open_row(key, stored)))
        return iter(found)

    def _stored_entry(self, group: int, index: int) -> memoryview | None:
        """A view that is valid until the read transaction is renewed."""
        if index < self._first_kept(group):
            return None
        with self._reading(f"entry {index} of group {group}"):
            return self._txn.get(layout.entry_key(group, index), db=self._dbs.entries)

    @contextlib.contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """What LMDB finds wrong with its pages is lost data."""
        try:
            yield
        except lmdb.Error as error:
            self._met_damage()
            raise DataLossError(f"{what} cannot be read: {error}") from error

    def _met_damage(self) -> None:
        """Rule 3."""
        self._txn.abort()
        with contextlib.suppress(lmdb.Error):  # else the next read fails in the same way, and tries this again
            self._txn = self._env.begin(buffers=True)
            self._condemned = load_condemned(self._txn, self._dbs)

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
