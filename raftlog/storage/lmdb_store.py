"""A node's storage in one LMDB environment.

Theory of operation. Writing is the writer thread's (raftlog.storage.writer): one batch, one synced transaction. Reading
happens on the event loop, from one read transaction that is renewed in the very callback that reports a batch durable.
So a reader sees exactly what ``done`` has announced, never half of what is in flight, and a read costs no transaction of
its own. Holding it keeps no page from reuse: LMDB spares the pages of the newest committed state in any case.

Rules:

1. The map is reserved once, sparse and larger than the disk, and never grown: growing it under a reader is a SIGBUS.
2. After a fatal error nothing is written; ``on_fatal`` is called once, on the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lmdb

from raftlog.errors import DataDirectoryError, FatalError
from raftlog.storage.ballast import BALLAST_SIZE_BYTES, Ballast, disk_free_bytes
from raftlog.storage.datafile import sound_length
from raftlog.storage.environment import (
    BALLAST_FILE,
    COMPACT_FILE,
    data_file,
    open_databases,
    open_environment,
    unreadable,
    unwritable,
)
from raftlog.storage.port import ROW_KEY_BYTES_MAX, StorageUsage, WriteBatch
from raftlog.storage.reader import LmdbReader
from raftlog.storage.room import DISK_FREE_MIN_BYTES, Limits, judge
from raftlog.storage.transaction import used_bytes
from raftlog.storage.view import LmdbView
from raftlog.storage.writer import RETRY_S, Changes, Writer

RECENT_SHARE = 16
"""A measure is good enough to publish by until one part in so many of the room that it saw has been written."""
RECENT_S = 0.25
"""And for no longer than this: others fill the disk as well."""


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class LmdbOptions:
    """How an ``LmdbStore`` behaves. Sizes in bytes."""

    limit_bytes: int = 0
    """Soft limit over used bytes (``storage-bytes-max``); 0 is none."""
    disk_free_min_bytes: int = DISK_FREE_MIN_BYTES
    ballast_bytes: int = BALLAST_SIZE_BYTES
    map_size_bytes: int = 0
    """0: ``environment.MAP_SIZE_BYTES``, or more on a larger disk."""
    retry_s: float = RETRY_S
    """Seconds between tries while there is no space."""
    before_commit: Callable[[], None] = _nothing
    """Called on the writer's thread inside each transaction, right before its commit: for injected faults."""


class LmdbStore(LmdbReader):
    """``raftlog.storage.port.Store`` over LMDB; what it reads is in ``LmdbReader``.

    Args:
        directory: the data directory; the environment is its ``log/``, the ballast file lies beside it. The caller holds
            the directory's lock.
        on_fatal: called on the loop, once, when nothing more can be written: with a ``StorageFailedError``, or with an
            ``UnreadableLogError`` where the file's own pages are damaged.
        loop: default: the running loop.

    Raises:
        DataDirectoryError: the environment cannot be opened, or its file is cut short.
        NewerFormatError: a newer version of raftlog wrote it.
    """

    def __init__(
        self,
        directory: Path,
        on_fatal: Callable[[FatalError], None],
        *,
        options: LmdbOptions = LmdbOptions(),
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._loop = loop or asyncio.get_running_loop()
        self._on_fatal = on_fatal
        self._options = options
        self._directory = directory
        path = data_file(directory)
        path.with_name(COMPACT_FILE).unlink(missing_ok=True)  # of a compaction that a crash cut short
        env = open_environment(directory, options.map_size_bytes)
        self._done: Callable[[], None] | None = None
        self._failure: FatalError | None = None
        self._closed = False
        self._usage: StorageUsage | None = None
        self._recent: StorageUsage | None = None
        self._recent_until_s = 0.0
        self._unmeasured_bytes = self._writing_bytes = 0
        self._views: list[LmdbView] = []
        self._deleted: dict[int, Callable[[], None]] = {}
        """By group: whom to tell when its deletion has ended."""
        with contextlib.ExitStack() as undo:
            undo.callback(env.close)
            try:
                super().__init__(env, open_databases(env), path)
                undo.callback(self.end_reading)
                self._writer = Writer(
                    self._env, self._dbs, directory, Ballast(directory / BALLAST_FILE, options.ballast_bytes),
                    dict(self._condemned),
                    committed=lambda changes: self._post(self._committed, changes),
                    stepped=lambda changes: self._post(self._renew, changes),
                    failed=lambda error: self._post(self._failed, error),
                    before_commit=options.before_commit, retry_s=options.retry_s,
                )  # fmt: skip
            except lmdb.Error as error:
                raise unreadable(path, error) from error
            undo.pop_all()

    def commit(self, batch: WriteBatch, done: Callable[[], None]) -> None:
        """See the port. After ``close``, ``done`` is not called any more.

        Raises:
            RuntimeError: a commit is under way, or the store is closed.
            ValueError: a row key is too long.
            StorageFailedError, UnreadableLogError: an earlier commit failed for good.
        """
        if self._failure is not None:
            raise self._failure
        if self._closed or self._done is not None:
            raise RuntimeError("the store is closed" if self._closed else "a commit is under way")
        for _, _, key in batch.rows:
            if len(key) > ROW_KEY_BYTES_MAX:
                raise ValueError(f"row key of {len(key)} bytes; at most {ROW_KEY_BYTES_MAX}")
        self._done = done
        self._writing_bytes = batch.size_bytes
        self._writer.put(batch)

    def view(self, group: int) -> LmdbView:
        """See the port."""
        view = LmdbView(self._env, self._dbs, self._data_file, group, self._views.remove)
        self._views.append(view)
        return view

    def deleting(self, group: int, ended: Callable[[], None]) -> bool:
        """See the port."""
        if not self._dropped(group):
            return False
        self._deleted[group] = ended
        return True

    def usage(self) -> StorageUsage:
        """See the port. Measured again after each commit, and at every call while full."""
        if self._usage is None or self._usage.full or self._writer.no_space:
            self._usage = self._measure()
        return self._usage

    def recent_usage(self) -> StorageUsage:
        """See the port. Measuring after each commit took an eighth of a busy leader's loop."""
        recent = self._recent
        if (
            recent is None
            or self._writer.no_space
            or self._unmeasured_bytes * RECENT_SHARE >= recent.room_bytes
            or self._loop.time() >= self._recent_until_s
        ):
            self._usage = self._measure()
            return self._usage
        return recent

    def close(self) -> None:
        """See the port. A batch that waits for space is given up: it is not durable and its ``done`` is never called."""
        if self._closed:
            return
        self._closed = True
        self._writer.close()
        for view in self._views[:]:
            view.close()
        self.end_reading()
        self._env.close()
        with contextlib.suppress(OSError, DataDirectoryError):
            # So that the next start needs no walk (raftlog.storage.datafile). The addition is a hole, nothing is written.
            length = sound_length(self._data_file)
            if length > self._data_file.stat().st_size:
                os.truncate(self._data_file, length)

    def _measure(self) -> StorageUsage:
        limits = Limits(
            limit_bytes=self._options.limit_bytes,
            disk_free_min_bytes=self._options.disk_free_min_bytes,
            map_size_bytes=self._env.info()["map_size"],
        )
        self._recent_until_s, self._unmeasured_bytes = self._loop.time() + RECENT_S, 0
        self._recent = judge(
            limits,
            used_bytes=used_bytes(self._txn, self._dbs),
            file_bytes=self._data_file.stat().st_size,
            disk_free_bytes=disk_free_bytes(self._directory),
            no_space=self._writer.no_space,
        )
        return self._recent

    def _post(self, call: Callable[..., None], argument: object) -> None:
        """From the writer's thread to the loop. A loop that is closed has nobody left to tell."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, argument)

    def _committed(self, changes: Changes) -> None:
        self._renew(changes)
        done, self._done = self._done, None
        self._unmeasured_bytes += self._writing_bytes
        if done is not None and not self._closed:
            done()
        if not self._closed:
            self.recent_usage()  # now, when nobody waits: the next publish asks

    def _renew(self, changes: Changes) -> None:
        """Show what is durable now: a new read transaction and the condemned ranges that belong to it."""
        if self._closed:
            return
        self._renew_transaction()
        for group, condemned in changes.items():
            if condemned is None:
                self._condemned.pop(group, None)
            else:
                self._condemned[group] = condemned
        self._usage = None
        over = [group for group in changes if group in self._deleted and not self._dropped(group)]
        for ended in [self._deleted.pop(group) for group in over]:
            ended()

    def _failed(self, error: BaseException) -> None:
        if self._closed:
            return
        self._failure = unwritable(self._data_file, error)
        self._on_fatal(self._failure)
