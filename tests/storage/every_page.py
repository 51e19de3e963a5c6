"""``python -m tests.storage.every_page DIR HARM``: each page is damaged in turn, and a process of its own reads all, or writes.

Prints a line for reading, and for each kind of write: its name, and how many of the processes ended how. It is a program, so that
it can fork while it has neither threads nor a loop; and what it forks may die, which is what it looks for.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path

from raftlog.errors import DataLossError, FatalError, UnreadableLogError
from raftlog.storage import transaction
from raftlog.storage.environment import data_file
from raftlog.storage.lmdb_store import LmdbStore
from raftlog.storage.port import StoreReader, WriteBatch
from tests.storage.helpers import OPTIONS, batch_of, commit, make_entry, open_store, until

PAGE_SIZE = 4096
WRITTEN, UNREADABLE, FAILED, READ, LOST = range(5)
ENDS = {WRITTEN: "written", UNREADABLE: "unreadable", FAILED: "failed", READ: "read", LOST: "lost"}
SOUND_ENDS = {ENDS[end] for end in (WRITTEN, UNREADABLE, READ, LOST)}
STAGED = 9
TRY_S = 20

Act = Callable[[], Coroutine[None, None, int]]


def key_of(number: int) -> bytes:
    """Long, so that few rows make a tree of three levels."""
    return b"%03d" % number * 130


def a_trim() -> WriteBatch:
    """Most of a log goes."""
    return WriteBatch(trim={2: 25})


def a_drop() -> WriteBatch:
    """A group in the middle goes."""
    return WriteBatch(drop={2})


def a_truncation() -> WriteBatch:
    """A log's tail goes."""
    return WriteBatch(truncate={2: 8})


def deleted_rows() -> WriteBatch:
    """A group's rows go, one by one."""
    return WriteBatch(rows={(2, 1, key_of(number)): None for number in range(12)})


def an_install() -> WriteBatch:
    """Rows and log are replaced."""
    return WriteBatch(install={2: STAGED}, truncate={2: 40}, trim={2: 40}, entries={(2, 40): make_entry(2, 40)})


def more() -> WriteBatch:
    """Logs go on, and rows change."""
    batch = batch_of(1, 30, 36, b"p" * 300)
    batch.entries |= batch_of(2, 30, 36, b"p" * 300).entries
    batch.rows = {(2, 1, key_of(3)): b"changed", (2, 1, key_of(6)): b"w" * 6_000, (1, 0, b"vote"): b"new"}
    return batch


WRITES: tuple[Callable[[], WriteBatch], ...] = (a_trim, a_drop, a_truncation, deleted_rows, an_install, more)


async def fill(directory: Path) -> None:
    """Three groups with large values and small ones, staged rows, and a list of free pages."""
    store = open_store(directory)
    for start in range(0, 30, 10):
        batch = WriteBatch()
        for group in (1, 2, 3):
            batch.entries |= batch_of(group, start, start + 10, b"p" * 300).entries
            batch.entries[group, start + 4] = make_entry(group, start + 4, b"p" * 9_000)
        await commit(store, batch)
    batch = WriteBatch()
    for group in (1, 2, 3, STAGED):
        for row in range(12):
            batch.rows[group, 1, key_of(row)] = b"v" * (10 if row % 6 else 5_000)
    await commit(store, batch)
    await commit(store, WriteBatch(trim={3: 4}))
    store.close()


async def write(directory: Path, batch: WriteBatch) -> int:
    """Commit ``batch``, have done what it leaves to be done, and write once more; how that ended."""
    fatal: list[FatalError] = []
    done: list[bool] = []
    try:
        store = LmdbStore(directory, fatal.append, options=OPTIONS)
    except UnreadableLogError:
        return UNREADABLE
    store.commit(batch, lambda: done.append(True))
    await until(lambda: bool(fatal or (done and not store._writer._condemned)))
    if not fatal:
        store.commit(WriteBatch(rows={(1, 0, b"more"): b"1"}), lambda: done.append(True))
        await until(lambda: bool(fatal) or len(done) == 2)
    store.close()
    if fatal:
        return UNREADABLE if isinstance(fatal[0], UnreadableLogError) else FAILED
    return WRITTEN


async def read(directory: Path) -> int:
    """Ask a store for all that can be read of every group that there was; whether any of it is lost."""
    try:
        store = LmdbStore(directory, lambda error: None, options=OPTIONS)
    except UnreadableLogError:
        return UNREADABLE
    lost = _is_lost(store.groups)
    for group in (1, 2, 3, STAGED):
        view = store.view(group)
        lost |= _is_lost(partial(view.page, (0, b""), 1 << 20)) | _is_lost(partial(view.page, (1, key_of(6)), 1))
        for reader in (store, view):
            lost |= _reads(reader, group)
        view.close()
    store.close()
    return LOST if lost else READ


def _reads(reader: StoreReader, group: int) -> bool:
    asked: list[Callable[[], object]] = [partial(reader.bounds, group), *(partial(reader.rows, group, table) for table in (0, 1))]
    for number in range(30):
        asked.append(partial(reader.header, group, number))
        asked.append(partial(reader.entries, group, number, number + 3, 1 << 20))
        asked.append(partial(reader.row, group, 1, key_of(number)))
    return sum(map(_is_lost, asked)) > 0


def _is_lost(ask: Callable[[], object]) -> bool:
    """Whether what is asked for is said to be."""
    try:
        ask()
    except DataLossError:
        return True
    return False


def attempt(act: Act) -> str:
    """How a process of its own ends."""
    pid = os.fork()
    if pid == 0:
        end = FAILED
        try:
            signal.alarm(TRY_S)
            end = asyncio.run(act())
        finally:
            os._exit(end)
    status = os.waitpid(pid, 0)[1]
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else ENDS[os.WEXITSTATUS(status)]


def harmed(data: bytes, page: int, harm: str) -> bytes:
    """The page as it is found: of zeros, or what another page holds."""
    if harm == "zeros":
        return bytes(PAGE_SIZE)
    other = 2 + (page * 7 + 3) % (len(data) // PAGE_SIZE - 2)
    return data[other * PAGE_SIZE : (other + 1) * PAGE_SIZE]


def main(directory: Path, harm: str) -> None:
    """Try to read all and each of the writes, over all pages."""
    transaction.INLINE_DELETES_MAX, transaction.STEP_DELETES_MAX = 4, 16
    asyncio.run(fill(directory))
    path = data_file(directory)
    data = path.read_bytes()
    acts: dict[str, Act] = {read.__name__: partial(read, directory)}
    acts |= {make.__name__: partial(write, directory, make()) for make in WRITES}
    for name, act in acts.items():
        ends: Counter[str] = Counter()
        for page in range(2, len(data) // PAGE_SIZE):
            at = page * PAGE_SIZE
            path.write_bytes(data[:at] + harmed(data, page, harm) + data[at + PAGE_SIZE :])
            end = attempt(act)
            ends[end] += 1
            if end not in SOUND_ENDS:
                print(f"{name} over page {page}: {end}", file=sys.stderr)
        print(name, *(f"{end}={count}" for end, count in sorted(ends.items())))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
