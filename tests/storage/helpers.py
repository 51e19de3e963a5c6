"""Entries, options and a way to wait for a commit, shared by the storage tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

from raftlog.core.entry import EntryHeader, EntryKind, encode
from raftlog.errors import FatalError
from raftlog.storage.lmdb_store import LmdbOptions, LmdbStore
from raftlog.storage.port import Store, WriteBatch

OPTIONS = LmdbOptions(ballast_bytes=0, disk_free_min_bytes=0, retry_s=0.01)


def make_entry(group: int, index: int, payload: bytes = b"payload") -> bytes:
    """An encoded entry."""
    return encode(EntryHeader(EntryKind.RECORDS, group, index, 1, index, 1), payload).data


def batch_of(group: int, start: int, stop: int, payload: bytes = b"payload") -> WriteBatch:
    """A batch that puts entries ``start <= index < stop``."""
    entries = {(group, index): make_entry(group, index, payload) for index in range(start, stop)}
    return WriteBatch(entries=entries, size_bytes=sum(map(len, entries.values())))


async def commit(store: Store, batch: WriteBatch) -> None:
    """Commit and wait until it is durable."""
    done = asyncio.get_running_loop().create_future()
    store.commit(batch, lambda: done.set_result(None))
    await done


async def deleted(store: Store, group: int) -> bool:
    """Wait until nothing is left of a group that was dropped; whether there was anything to wait for."""
    told = asyncio.get_running_loop().create_future()
    if not store.deleting(group, lambda: told.set_result(None)):
        return False
    async with asyncio.timeout(20):
        await told
    assert not store.deleting(group, lambda: None)
    return True


def never(error: FatalError) -> None:
    """An ``on_fatal`` that must not be called."""
    raise AssertionError("storage failed") from error


def open_store(path: Path, options: LmdbOptions = OPTIONS) -> LmdbStore:
    """An LMDB store on the running loop that must not fail."""
    return LmdbStore(path, never, options=options)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop and the writer's thread run until ``condition`` holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


class Faults:
    """A ``before_commit`` that raises ``errors`` one after another, and holds every transaction while ``held``."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.passes = 1 << 30
        self._released = threading.Event()

    def hold_after(self, passes: int) -> None:
        """Let ``passes`` more transactions through, then hold the next until ``release``."""
        self._released.clear()
        self.passes = passes

    def release(self) -> None:
        """Hold nothing any more."""
        self.passes = 1 << 30
        self._released.set()

    def __call__(self) -> None:
        self.passes -= 1
        if self.passes < 0:
            self._released.wait(20)
        if self.errors:
            raise self.errors.pop(0)
