"""A node's storage in memory, for the simulator and for tests: the port's rules without a disk or a thread.

A commit takes effect only when the scheduled callback runs, so a crash before that loses it, and ``crash`` may also keep
it: the disk had it, only nobody was told. What is dropped is taken to be deleted some time after somebody asks about it.
Misuse that LMDB would take silently (a gap, an entry written twice) raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial

from raftlog.core import entry
from raftlog.core.entry import HEADER_SIZE, EntryHeader
from raftlog.errors import DataLossError
from raftlog.storage.port import ROW_KEY_BYTES_MAX, StorageUsage, WriteBatch
from raftlog.storage.room import LOW_SHARE_OF_LIMIT

DISK_SIZE_BYTES = 1 << 40
"""What ``usage`` reports as the size of the disk."""

Schedule = Callable[[Callable[[], None]], object]
"""Calls its argument later, on the loop."""


class _Log:
    """One group's entries: ``items[0]`` has index ``first``."""

    __slots__ = ("first", "items")

    def __init__(self, first: int) -> None:
        self.first = first
        self.items: list[bytes] = []

    @property
    def next(self) -> int:
        return self.first + len(self.items)


class MemoryStore:
    """``raftlog.storage.port.Store`` in memory.

    Args:
        schedule: how a commit's end is put off; default: the running loop's ``call_soon``.
        limit_bytes: soft limit over the bytes of entries and rows, 0 is none.
    """

    def __init__(self, *, schedule: Schedule | None = None, limit_bytes: int = 0) -> None:
        self._schedule = schedule
        self._limit_bytes = limit_bytes
        self._logs: dict[int, _Log] = {}
        self._rows: dict[tuple[int, int], dict[bytes, bytes]] = {}
        self._bad_rows: set[tuple[int, int, bytes]] = set()
        self._dropped: set[int] = set()
        """Groups that are still being deleted."""
        self._deleted: dict[int, Callable[[], None]] = {}
        """By group: whom to tell when its deletion has ended."""
        self._used_bytes = 0
        self._batch: WriteBatch | None = None
        self._done: Callable[[], None] | None = None
        self._full = False
        self._closed = False

    # faults

    def set_full(self, full: bool) -> None:
        """A full disk: commits wait, ``usage().full`` is true. Ending it lets the commit that waits go on."""
        self._full = full
        if not full and self._batch is not None:
            self._later(self._finish)

    def damage_entry(self, group: int, index: int, at: int = -1) -> None:
        """Flip a bit of byte ``at`` of a stored entry: behind the header the payload fails its check, before it the header."""
        log = self._logs[group]
        data = bytearray(log.items[index - log.first])
        data[at] ^= 1
        log.items[index - log.first] = bytes(data)

    def damage_row(self, group: int, table: int, key: bytes) -> None:
        """Make a stored row fail its check until it is written again."""
        self._bad_rows.add((group, table, key))

    def crash(self, *, keep_in_flight: bool = False) -> MemoryStore:
        """What is found after the process died: only what was durable, or, if asked, also the batch in flight.

        This store is dead afterwards; the ``done`` of a batch in flight is never called.
        """
        after = MemoryStore(schedule=self._schedule, limit_bytes=self._limit_bytes)
        if keep_in_flight and self._batch is not None:
            self._apply(self._batch)
        self.close()
        after._logs, after._rows, after._bad_rows = self._logs, self._rows, self._bad_rows
        after._dropped, after._used_bytes = set(self._dropped), self._used_bytes
        self._logs, self._rows, self._bad_rows = {}, {}, set()
        return after

    # the port

    def commit(self, batch: WriteBatch, done: Callable[[], None]) -> None:
        """See the port."""
        if self._closed or self._batch is not None:
            raise RuntimeError("the store is closed" if self._closed else "a commit is under way")
        for _, _, key in batch.rows:
            if len(key) > ROW_KEY_BYTES_MAX:
                raise ValueError(f"row key of {len(key)} bytes; at most {ROW_KEY_BYTES_MAX}")
        self._batch, self._done = batch, done
        if not self._full:
            self._later(self._finish)

    def groups(self) -> list[int]:
        """See the port."""
        return sorted(self._logs.keys() | {group for group, _ in self._rows})

    def bounds(self, group: int) -> tuple[int, int] | None:
        """See the port."""
        log = self._logs.get(group)
        return None if log is None else (log.first, log.next - 1)

    def header(self, group: int, index: int) -> EntryHeader | None:
        """See the port."""
        data = self._entry(group, index)
        return None if data is None else entry.decode_header(data[:HEADER_SIZE])

    def entries(self, group: int, start: int, stop: int, bytes_max: int) -> list[bytes]:
        """See the port."""
        found: list[bytes] = []
        size = 0
        for index in range(start, stop):
            data = self._entry(group, index)
            if data is None:
                break
            size += len(data)
            if found and size > bytes_max:
                break
            try:
                entry.decode(data)
            except DataLossError:
                if found:
                    break
                raise
            found.append(data)
        return found

    def row(self, group: int, table: int, key: bytes) -> bytes | None:
        """See the port."""
        if (group, table, key) in self._bad_rows:
            raise DataLossError(f"row {key!r} of table {table} of group {group} fails its CRC32C")
        return self._rows.get((group, table), {}).get(key)

    def rows(self, group: int, table: int, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """See the port."""
        found: list[tuple[bytes, bytes]] = []
        for key in sorted(self._rows.get((group, table), {})):
            if key.startswith(prefix):
                value = self.row(group, table, key)
                assert value is not None
                found.append((key, value))
        return iter(found)

    def view(self, group: int) -> MemoryView:
        """See the port."""
        return MemoryView(self, group)

    def deleting(self, group: int, ended: Callable[[], None]) -> bool:
        """See the port."""
        if group not in self._dropped:
            return False
        self._deleted[group] = ended
        self._later(partial(self._delete, group))
        return True

    def recent_usage(self) -> StorageUsage:
        """See the port."""
        return self.usage()

    def usage(self) -> StorageUsage:
        """See the port. Used and file bytes are those of entries, row keys and row values."""
        limit, used = self._limit_bytes or DISK_SIZE_BYTES, self._used_bytes
        room = 0 if self._full else max(0, limit - used)
        return StorageUsage(
            used_bytes=used, file_bytes=used, limit_bytes=self._limit_bytes,
            disk_free_bytes=0 if self._full else DISK_SIZE_BYTES - used,
            room_bytes=room, low=room < limit // LOW_SHARE_OF_LIMIT, shortage="" if room else "the memory is full",
        )  # fmt: skip

    def close(self) -> None:
        """See the port. A commit under way is lost, as in a crash; its ``done`` is not called."""
        self._closed = True
        self._batch = self._done = None

    def _later(self, call: Callable[[], None]) -> None:
        schedule = self._schedule or asyncio.get_running_loop().call_soon
        schedule(call)

    def _delete(self, group: int) -> None:
        """The last of a dropped group is gone."""
        if self._closed:
            return
        self._dropped.discard(group)
        self._tell_deleted()

    def _tell_deleted(self) -> None:
        for ended in [self._deleted.pop(group) for group in self._deleted.keys() - self._dropped]:
            ended()

    def _finish(self) -> None:
        batch, done = self._batch, self._done
        if batch is None or done is None or self._full:
            return
        self._batch = self._done = None
        self._apply(batch)
        self._tell_deleted()
        done()

    def _entry(self, group: int, index: int) -> bytes | None:
        log = self._logs.get(group)
        if log is None or not log.first <= index < log.next:
            return None
        return log.items[index - log.first]

    def _apply(self, batch: WriteBatch) -> None:
        """In the order of the port's rule 3."""
        if self._dropped or batch.drop:
            filled = {group for (group, _, _), value in batch.rows.items() if value is not None}
            filled |= {group for group, _ in batch.entries} | batch.install.keys() | set(batch.install.values())
            self._dropped = (self._dropped | batch.drop.intersection(self.groups())) - filled
        for group in batch.drop:
            self._cut(group, 0, None)
            for table_key in [key for key in self._rows if key[0] == group]:
                self._used_bytes -= sum(len(key) + len(value) for key, value in self._rows.pop(table_key).items())
            self._bad_rows = {bad for bad in self._bad_rows if bad[0] != group}
        for group, source in batch.install.items():
            self._install(group, source)
        for group, index in batch.truncate.items():
            if group in self._logs:
                self._cut(group, max(0, index - self._logs[group].first), None)
        for group, index in batch.trim.items():
            if group in self._logs:
                self._cut(group, 0, max(0, index - self._logs[group].first))
        for (group, index), data in batch.entries.items():
            log = self._logs.setdefault(group, _Log(index))
            if index != log.next:
                raise RuntimeError(f"entry {index} of group {group} does not follow entry {log.next - 1}")
            log.items.append(data)
            self._used_bytes += len(data)
        for (group, table, key), value in batch.rows.items():
            self._put_row(group, table, key, value)

    def _install(self, group: int, source: int) -> None:
        for key in [key for key in self._rows if key[0] == group]:
            self._used_bytes -= sum(len(at) + len(value) for at, value in self._rows.pop(key).items())
        self._bad_rows = {bad for bad in self._bad_rows if bad[0] != group}
        for number, table in [key for key in self._rows if key[0] == source]:
            self._rows[group, table] = self._rows.pop((number, table))
        self._bad_rows = {(group if bad[0] == source else bad[0], *bad[1:]) for bad in self._bad_rows}

    def _cut(self, group: int, start: int, stop: int | None) -> None:
        """Delete a slice of a log's items: its head or its tail."""
        log = self._logs.get(group)
        if log is None:
            return
        gone = log.items[start:stop]
        self._used_bytes -= sum(map(len, gone))
        del log.items[start:stop]
        if start == 0:
            log.first += len(gone)
        if not log.items:
            del self._logs[group]

    def _put_row(self, group: int, table: int, key: bytes, value: bytes | None) -> None:
        rows = self._rows.setdefault((group, table), {})
        old = rows.pop(key, None)
        self._bad_rows.discard((group, table, key))
        if old is not None:
            self._used_bytes -= len(key) + len(old)
        if value is not None:
            rows[key] = value
            self._used_bytes += len(key) + len(value)
        if not rows:
            del self._rows[group, table]


class MemoryView(MemoryStore):
    """``GroupView``: a copy of one group."""

    def __init__(self, store: MemoryStore, group: int) -> None:
        super().__init__()
        self._group = group
        log = store._logs.get(group)
        if log is not None:
            copy = self._logs[group] = _Log(log.first)
            copy.items = list(log.items)
        self._rows = {key: dict(rows) for key, rows in store._rows.items() if key[0] == group}
        self._bad_rows = {bad for bad in store._bad_rows if bad[0] == group}

    def page(self, start: tuple[int, bytes], bytes_max: int) -> list[tuple[int, bytes, bytes]]:
        """See the port."""
        assert not self._closed
        found: list[tuple[int, bytes, bytes]] = []
        size = 0
        for _, table in sorted(self._rows):
            for key, value in self.rows(self._group, table):
                if (table, key) < start:
                    continue
                size += len(key) + len(value)
                if found and size > bytes_max:
                    return found
                found.append((table, key, value))
        return found
