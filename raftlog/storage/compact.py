"""Rewriting a stopped node's data file without the pages that hold nothing: LMDB uses them again, but never gives them back.

Theory of operation. The old file is opened read-only and stays as it is. Its items are copied in order of their keys to a new
environment in one file beside it, so that its pages are full; a live store's are about half full, as logs grow side by side.
What was condemned (raftlog.storage.transaction) is left behind. The new file gets the old one's owner and mode, is synced, read
again from the disk, compared item by item, and renamed over the old one. So the data file is always one of the two, whole.

Rules:

1. The old file is replaced by one rename, after the new one is durable and compared.
2. Bytes are copied as they are: what fails its check fails it afterwards, too.
3. A new file that a crash left behind is worth nothing: the next compaction or the node's next start removes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lmdb

from raftlog.core import failpoints
from raftlog.errors import DataLossError, StorageFullError
from raftlog.storage import layout
from raftlog.storage.ballast import disk_free_bytes
from raftlog.storage.datafile import check_structure, opened, sound_length
from raftlog.storage.environment import COMPACT_FILE, NAMES, Databases, data_file, missing, opened_read_only, unreadable
from raftlog.storage.identity import sync_directory
from raftlog.storage.transaction import Condemned, load_condemned, used_bytes
from raftlog.storage.writer import is_no_space

CHUNK_BYTES = 16 << 20
"""Bytes copied in one transaction: its pages are held in memory until it ends."""
SLACK_BYTES = 4 << 20
"""Room wanted beyond what the old file uses, for what the copying itself takes and gives back."""
_SLACK_SHARE = 64
_MIB = 1 << 20
_crash_copying = failpoints.point("compact-copying")
_crash_before_swap = failpoints.point("compact-before-swap")
_crash_after_swap = failpoints.point("compact-after-swap")

Progress = Callable[[str, int, int], None]
"""(what is being done, bytes of it done, bytes in all)."""
Item = tuple[memoryview, memoryview]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """The data file's length before and after; the same where there was nothing to gain, and nothing was changed."""

    before_bytes: int
    after_bytes: int


def compact(directory: Path, tell: Progress) -> Compacted:
    """Rewrite the data file of a data directory whose lock the caller holds.

    Raises:
        StorageFullError: there is no room for the new file beside the old one; nothing has changed.
        DataDirectoryError: there is no data file, or it is damaged so that it cannot be copied; nothing has changed.
        NewerFormatError: a newer version of raftlog, or of LMDB, wrote it.
        DataLossError: what was copied is not what was read; nothing has changed.
    """
    path = data_file(directory)
    new = path.with_name(COMPACT_FILE)
    new.unlink(missing_ok=True)
    with opened(path) as file:
        if file is None:
            raise missing(path)
        check_structure(file, path)  # for from here on the file is mapped
    before_bytes = path.stat().st_size
    try:
        _make(path, new, tell)
        after_bytes = new.stat().st_size
        if after_bytes >= before_bytes:
            new.unlink()
            return Compacted(before_bytes=before_bytes, after_bytes=before_bytes)
        _crash_before_swap()
        new.replace(path)
    except BaseException as error:
        new.unlink(missing_ok=True)
        if isinstance(error, OSError | lmdb.Error) and is_no_space(error):
            raise StorageFullError(f"there is no room left for {new}: {error}. Nothing has changed; make room there") from error
        if isinstance(error, lmdb.Error):
            raise unreadable(path, error) from error
        raise
    _crash_after_swap()
    sync_directory(path.parent)
    return Compacted(before_bytes=before_bytes, after_bytes=after_bytes)


def _make(path: Path, new: Path, tell: Progress) -> None:
    """Make the new file, whole and durable."""
    with opened_read_only(path) as (env, dbs), env.begin(buffers=True) as txn:
        used = used_bytes(txn, dbs)
        _check_room(path, used)
        copying = _Copying(txn, dbs, tell, used)
        copying.copy(new)
        _settle(path, new)
        copying.compare(new)


def _check_room(path: Path, used: int) -> None:
    wanted, free = used + used // _SLACK_SHARE + SLACK_BYTES, disk_free_bytes(path.parent)
    if free < wanted:
        raise StorageFullError(
            f"compacting needs {wanted / _MIB:.1f} MiB free beside {path}, where there are {free / _MIB:.1f} MiB. Make room"
            " there, or move the data directory of the stopped node to a larger disk and compact it there"
        )


def _settle(path: Path, new: Path) -> None:
    """Give the new file a length that needs no walk, the old one's owner and mode; and let the disk have it."""
    old = path.stat()
    fd = os.open(new, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, max(sound_length(new), os.fstat(fd).st_size))
        os.fchmod(fd, old.st_mode & 0o777)
        if (old.st_uid, old.st_gid) != (os.fstat(fd).st_uid, os.fstat(fd).st_gid):
            os.fchown(fd, old.st_uid, old.st_gid)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # so that what is compared next comes from the disk
    finally:
        os.close(fd)


class _Copying:
    """Copies what one read transaction sees."""

    def __init__(self, txn: lmdb.Transaction[memoryview], dbs: Databases, tell: Progress, used: int) -> None:
        self._txn, self._dbs, self._tell, self._used = txn, dbs, tell, used
        cursor = txn.cursor(dbs.meta)
        self._condemned = load_condemned(cursor if cursor.set_range(layout.CONDEMNED_PREFIX) else ())
        self._done = 0

    def copy(self, new: Path) -> None:
        """Copy everything to a new environment in the file ``new``."""
        # Neither commit is synced: the whole file is, before it is used.
        env = lmdb.open(str(new), subdir=False, lock=False, sync=False, map_size=2 * self._used + (1 << 30), max_dbs=len(NAMES))
        with env:
            for name, db in zip(NAMES, self._dbs, strict=True):
                target = env.open_db(name)
                for chunk in _chunks(self._items(db)):
                    with env.begin(write=True) as txn:
                        _, added = txn.cursor(target).putmulti(chunk, append=True)
                    if added != len(chunk):
                        raise DataLossError(f"the database of {name.decode()} is out of order; run: raftlog storage check")
                    self._count("copying", chunk)
                    _crash_copying()

    def compare(self, new: Path) -> None:
        """Compare the new file's items with the old one's.

        Raises:
            DataLossError: they differ.
        """
        self._done = 0
        with opened_read_only(new) as (env, dbs), env.begin(buffers=True) as txn:
            for name, old_db, new_db in zip(NAMES, self._dbs, dbs, strict=True):
                copied = iter(txn.cursor(new_db))
                for chunk in _chunks(self._items(old_db)):
                    for item in chunk:
                        if _bytes(item) != _bytes(next(copied, None)):
                            raise _differs(new, name)
                    self._count("comparing", chunk)
                if next(copied, None) is not None:
                    raise _differs(new, name)

    def _items(self, db: lmdb._Database) -> Iterator[Item]:
        """A database's items that are not condemned."""
        cursor = self._txn.cursor(db)
        if not self._condemned:
            yield from cursor
            return
        if db is self._dbs.meta:
            prefix = layout.CONDEMNED_PREFIX
            yield from (item for item in cursor if bytes(item[0][: len(prefix)]) != prefix)
            return
        yield from self._kept(cursor, entries=db is self._dbs.entries)

    def _kept(self, cursor: lmdb.Cursor[memoryview], *, entries: bool) -> Iterator[Item]:
        more = cursor.first()
        while more:
            group = layout.group_of(cursor.key())
            condemned = self._condemned.get(group, Condemned(0, False))
            if entries and layout.index_of(cursor.key()) < condemned.keep_from and condemned.keep_from < layout.INDEX_MAX:
                more = cursor.set_range(layout.entry_key(group, condemned.keep_from))
            elif condemned.whole:
                more = group < layout.INDEX_MAX and cursor.set_range(layout.group_key(group + 1))
            else:
                yield cursor.item()
                more = cursor.next()

    def _count(self, what: str, chunk: list[Item]) -> None:
        self._done = min(self._used, self._done + sum(len(key) + len(value) for key, value in chunk))
        self._tell(what, self._done, self._used)


def _chunks(items: Iterator[Item]) -> Iterator[list[Item]]:
    """Items in lists of about ``CHUNK_BYTES``."""
    chunk: list[Item] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += len(item[0]) + len(item[1])
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _bytes(item: Item | None) -> tuple[bytes, bytes] | None:
    return None if item is None else (bytes(item[0]), bytes(item[1]))


def _differs(new: Path, name: bytes) -> DataLossError:
    what = f"{new} differs from what was copied to it, in its {name.decode()}"
    return DataLossError(f"{what}: do not trust this disk or this machine's memory. Nothing has changed")
