"""One transaction into the store of a stopped node, as its own next one would have been."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from raftlog.errors import FatalError, StorageFullError
from raftlog.storage.lmdb_store import LmdbOptions, LmdbStore
from raftlog.storage.port import Store, WriteBatch

WRITE_TIMEOUT_S = 60.0
"""How long a transaction of some kilobytes may wait for room on the disk."""


async def write_once(directory: Path, make: Callable[[Store], WriteBatch], timeout_s: float = WRITE_TIMEOUT_S) -> None:
    """Open the store, have ``make`` look at it and say what to write, write that, and close it. An empty batch writes nothing.

    The caller holds the directory's lock. The ballast is left as it is.

    Raises:
        DataDirectoryError: the store cannot be opened.
        StorageFullError: there was no room in time.
        StorageFailedError, UnreadableLogError: it could not be written.
    """
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(error: FatalError) -> None:
        if not done.done():
            done.set_exception(error)

    def durable() -> None:
        if not done.done():
            done.set_result(None)

    store = LmdbStore(directory, fail, options=LmdbOptions(ballast_bytes=0))
    try:
        batch = make(store)
        if batch:
            store.commit(batch, durable)
            async with asyncio.timeout(timeout_s):
                await done
    except TimeoutError:
        why = store.usage().shortage or "the disk is too slow"
        raise StorageFullError(f"it took longer than {timeout_s:g} s to write: {why}. Make room, then do it again") from None
    finally:
        store.close()
