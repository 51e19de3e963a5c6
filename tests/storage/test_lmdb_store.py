"""What the LMDB store keeps to beyond what both stores share: deletion in steps, order, failing, closing."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import lmdb
import pytest

from raftlog.errors import DataDirectoryError, FatalError, NewerFormatError, StorageFailedError, UnreadableLogError
from raftlog.storage import layout
from raftlog.storage.environment import LOG_DIR
from raftlog.storage.lmdb_store import LmdbStore
from raftlog.storage.port import WriteBatch
from raftlog.storage.transaction import INLINE_DELETES_MAX, STEP_DELETES_MAX
from tests.storage.helpers import OPTIONS, Faults, batch_of, commit, make_entry, never, open_store, until

MANY = INLINE_DELETES_MAX + STEP_DELETES_MAX + 10
"""Entries whose deletion takes the batch and two steps."""


@pytest.fixture
def faults() -> Iterator[Faults]:
    """Released at the end, so that no store hangs in its closing."""
    faults = Faults()
    yield faults
    faults.release()


def stored_entries(directory: Path) -> int:
    """How many entries a closed environment holds, hidden ones too."""
    with lmdb.open(str(directory / LOG_DIR), max_dbs=3, readonly=True) as env, env.begin() as txn:
        return txn.stat(env.open_db(layout.ENTRIES_DB, txn=txn, create=False))["entries"]


async def test_a_trim_is_seen_before_it_is_carried_out(tmp_path: Path, faults: Faults) -> None:
    """``done`` comes with the first transaction, and from then on no read shows what was trimmed."""
    store = open_store(tmp_path, replace(OPTIONS, before_commit=faults))
    await commit(store, batch_of(1, 0, MANY + 5))
    faults.hold_after(1)
    await commit(store, WriteBatch(trim={1: MANY}))
    assert store.bounds(1) == (MANY, MANY + 4)
    assert store.header(1, MANY - 1) is None
    assert store.entries(1, MANY - 1, MANY + 1, 1 << 20) == []
    faults.release()
    store.close()
    assert stored_entries(tmp_path) >= 5


async def test_a_dropped_group_is_gone_before_it_is_deleted(tmp_path: Path, faults: Faults) -> None:
    """Neither its entries nor its rows are seen again, though they are still on disk."""
    store = open_store(tmp_path, replace(OPTIONS, before_commit=faults))
    batch = batch_of(1, 0, MANY)
    batch.rows = {(1, 2, b"key"): b"value", (2, 2, b"key"): b"other"}
    await commit(store, batch)
    faults.hold_after(1)
    await commit(store, WriteBatch(drop={1}))
    assert store.groups() == [2]
    assert store.bounds(1) is None
    assert store.row(1, 2, b"key") is None
    assert list(store.rows(1, 2)) == []
    assert store.row(2, 2, b"key") == b"other"
    faults.release()
    store.close()


async def test_a_log_emptied_by_a_trim_has_no_group(tmp_path: Path, faults: Faults) -> None:
    """``groups`` does not name a group that has nothing left but what is condemned."""
    store = open_store(tmp_path, replace(OPTIONS, before_commit=faults))
    await commit(store, batch_of(1, 0, MANY))
    faults.hold_after(1)
    await commit(store, WriteBatch(trim={1: MANY}))
    assert store.groups() == []
    faults.release()
    store.close()


@pytest.mark.parametrize("in_one_batch", [True, False])
async def test_a_dropped_group_filled_again_shows_only_the_new(tmp_path: Path, faults: Faults, in_one_batch: bool) -> None:
    """What was condemned does not come back under new entries and rows."""
    store = open_store(tmp_path, replace(OPTIONS, before_commit=faults))
    batch = batch_of(1, 0, MANY)
    batch.rows = {(1, 2, b"old"): b"value"}
    await commit(store, batch)
    again = batch_of(1, MANY // 2, MANY // 2 + 2)
    again.rows = {(1, 2, b"new"): b"value"}
    if in_one_batch:
        again.drop = {1}
    else:
        await commit(store, WriteBatch(drop={1}))
    await commit(store, again)
    assert store.bounds(1) == (MANY // 2, MANY // 2 + 1)
    assert list(store.rows(1, 2)) == [(b"new", b"value")]
    store.close()
    assert stored_entries(tmp_path) == 2


async def test_a_log_begun_again_below_its_trim_does_not_show_the_old(tmp_path: Path) -> None:
    """Entries put below a condemned range's end first delete that range; in one batch with the trim, too."""
    store = open_store(tmp_path)
    for again in (WriteBatch(), WriteBatch(trim={1: MANY})):
        await commit(store, WriteBatch(drop={1}))
        await commit(store, batch_of(1, 0, MANY))
        if not again:
            await commit(store, WriteBatch(trim={1: MANY}))
        again.entries = batch_of(1, MANY - 20, MANY - 18).entries
        await commit(store, again)
        assert store.bounds(1) == (MANY - 20, MANY - 19)
    store.close()


async def test_deletion_goes_on_after_a_crash(tmp_path: Path, faults: Faults) -> None:
    """A node that stops before the steps are done hides the rest at its next start, and deletes it."""
    store = open_store(tmp_path, replace(OPTIONS, before_commit=faults))
    await commit(store, batch_of(1, 0, MANY + 5))
    faults.hold_after(1)
    await commit(store, WriteBatch(trim={1: MANY}, rows={(1, 0, b"start"): b"%d" % MANY}))
    faults.errors = [SystemExit()]
    faults.release()
    store.close()
    left = stored_entries(tmp_path)
    assert left > 5, "the test has seen nothing if the steps were done"
    faults.errors = []  # the writer may have closed before it met the error
    faults.hold_after(0)
    store = open_store(tmp_path, replace(OPTIONS, before_commit=faults))
    assert store.bounds(1) == (MANY, MANY + 4)
    used = store.usage().used_bytes
    faults.release()
    await until(lambda: store.usage().used_bytes < used)
    await commit(store, WriteBatch(trim={1: MANY + 1}))
    await until(lambda: not store._writer._condemned)
    store.close()
    assert stored_entries(tmp_path) == 4


async def test_who_waits_for_a_dropped_group_is_told_when_the_last_of_it_is_deleted(tmp_path: Path, faults: Faults) -> None:
    """Also by a process that starts in the middle of it. Other groups, and one that is trimmed, are not waited for."""
    store = open_store(tmp_path, replace(OPTIONS, before_commit=faults))
    for group in (1, 2):
        await commit(store, batch_of(group, 0, MANY + 5))
    faults.hold_after(1)
    await commit(store, WriteBatch(drop={1}, trim={2: MANY}))
    told: list[str] = []
    assert store.deleting(1, lambda: told.append("the first process"))
    assert not store.deleting(2, lambda: told.append("of a trim"))
    faults.errors = [SystemExit()]
    faults.release()
    store.close()
    assert stored_entries(tmp_path) > 5, "the test has seen nothing if the steps were done"
    faults.errors = []
    faults.hold_after(0)
    store = open_store(tmp_path, replace(OPTIONS, before_commit=faults))
    assert store.groups() == [2]
    assert store.deleting(1, lambda: told.append("the second process"))
    assert not store.deleting(2, lambda: told.append("of a trim"))
    await asyncio.sleep(0)
    assert told == []
    faults.release()
    await until(lambda: bool(told))
    assert told == ["the second process"]
    assert not store.deleting(1, lambda: None)
    await until(lambda: not store._writer._condemned)
    store.close()
    assert stored_entries(tmp_path) == 5


async def test_who_waits_for_a_dropped_group_is_told_when_it_is_filled_again(tmp_path: Path, faults: Faults) -> None:
    """That transaction has deleted the rest."""
    store = open_store(tmp_path, replace(OPTIONS, before_commit=faults))
    await commit(store, batch_of(1, 0, MANY))
    faults.hold_after(1)
    await commit(store, WriteBatch(drop={1}))
    told: list[int] = []
    assert store.deleting(1, lambda: told.append(1))
    faults.errors = [OSError(errno.ENOSPC, "injected")]  # the step that is held; another one comes behind the batch
    store.commit(batch_of(1, 5, 6), lambda: told.append(2))
    faults.release()
    await until(lambda: 2 in told)
    assert told == [1, 2]
    store.close()
    assert stored_entries(tmp_path) == 1


async def test_a_batch_is_written_as_a_whole_or_not_at_all(tmp_path: Path, faults: Faults) -> None:
    """A process that ends inside a transaction leaves what was durable before."""
    fatal: list[FatalError] = []
    store = LmdbStore(tmp_path, fatal.append, options=replace(OPTIONS, before_commit=faults))
    await commit(store, batch_of(1, 0, 3))
    faults.errors = [SystemExit()]
    batch = batch_of(1, 3, 6)
    batch.rows = {(1, 0, b"key"): b"value"}
    store.commit(batch, lambda: pytest.fail("it was not durable"))
    await until(lambda: bool(fatal))
    store.close()
    store = open_store(tmp_path)
    assert store.bounds(1) == (0, 2)
    assert store.row(1, 0, b"key") is None
    store.close()


async def test_a_failed_sync_is_never_tried_again(tmp_path: Path, faults: Faults) -> None:
    """EIO is reported once as fatal; nothing more is written, and reading goes on."""
    fatal: list[FatalError] = []
    store = LmdbStore(tmp_path, fatal.append, options=replace(OPTIONS, before_commit=faults))
    await commit(store, batch_of(1, 0, 3))
    faults.errors = [OSError(errno.EIO, "injected")]
    store.commit(batch_of(1, 3, 4), lambda: pytest.fail("it was not durable"))
    await until(lambda: bool(fatal))
    with pytest.raises(StorageFailedError, match="injected"):
        store.commit(batch_of(1, 3, 4), lambda: pytest.fail("it was not written"))
    assert store.bounds(1) == (0, 2)
    assert len(fatal) == 1
    store.close()


async def test_one_commit_at_a_time(tmp_path: Path) -> None:
    """A second commit before ``done`` is a mistake of the caller, and so is one after ``close``."""
    store = open_store(tmp_path)
    done = asyncio.get_running_loop().create_future()
    store.commit(batch_of(1, 0, 1), lambda: done.set_result(None))
    with pytest.raises(RuntimeError, match="under way"):
        store.commit(batch_of(1, 1, 2), lambda: None)
    await done
    store.close()
    with pytest.raises(RuntimeError, match="closed"):
        store.commit(batch_of(1, 1, 2), lambda: None)


async def test_reads_show_only_what_done_has_announced(tmp_path: Path) -> None:
    """A batch that is already on disk is not seen before its ``done``."""
    store = open_store(tmp_path)
    seen: list[tuple[int, int] | None] = []
    before = store._env.info()["last_txnid"]
    store.commit(batch_of(1, 0, 2), lambda: seen.append(store.bounds(1)))
    while store._env.info()["last_txnid"] == before:
        pass  # the loop does not run, so ``done`` cannot be called
    assert store.bounds(1) is None
    await until(lambda: bool(seen))
    assert seen == [(0, 1)]
    store.close()


async def test_close_waits_for_the_commit_under_way(tmp_path: Path) -> None:
    """It is durable afterwards though its ``done`` is not called any more; closing twice does nothing."""
    store = open_store(tmp_path)
    store.commit(batch_of(1, 0, 5, b"x" * 100_000), lambda: pytest.fail("called after close"))
    store.close()
    store.close()
    await asyncio.sleep(0)
    store = open_store(tmp_path)
    assert store.bounds(1) == (0, 4)
    store.close()


async def test_a_row_key_that_is_too_long_is_refused(tmp_path: Path) -> None:
    """The limit is the port's, and nothing of the batch is written."""
    store = open_store(tmp_path)
    with pytest.raises(ValueError, match="401 bytes"):
        store.commit(WriteBatch(rows={(1, 0, b"x" * 401): b""}), lambda: None)
    store.close()


async def test_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    """An environment that a newer version wrote is left as it is."""
    open_store(tmp_path).close()
    with lmdb.open(str(tmp_path / LOG_DIR), max_dbs=3) as env, env.begin(write=True) as txn:
        txn.put(layout.FORMAT_KEY, (layout.FORMAT + 1).to_bytes(4), db=env.open_db(layout.META_DB, txn=txn))
    with pytest.raises(NewerFormatError, match="format 2"):
        LmdbStore(tmp_path, never, options=OPTIONS)


async def test_a_list_of_entries_keeps_to_its_size(tmp_path: Path) -> None:
    """It stops before the limit is exceeded, but never before the first entry."""
    store = open_store(tmp_path)
    await commit(store, batch_of(1, 0, 10))
    size = len(make_entry(1, 0))
    assert len(store.entries(1, 0, 10, 3 * size)) == 3
    assert len(store.entries(1, 0, 10, 3 * size - 1)) == 2
    assert len(store.entries(1, 0, 10, 0)) == 1
    assert len(store.entries(1, 4, 6, 1 << 20)) == 2
    store.close()


async def test_a_file_that_cannot_be_opened_now_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, a wrong owner, too little memory: the data is kept, and the error says what to look at."""
    open_store(tmp_path).close()
    for error in (OSError(errno.ENOSPC, "no space"), lmdb.Error("Permission denied"), lmdb.MemoryError("Cannot allocate memory")):
        monkeypatch.setattr(lmdb, "open", Mock(side_effect=error))
        with pytest.raises(DataDirectoryError, match="Its data may be sound: see to the room on its disk") as caught:
            LmdbStore(tmp_path, never, options=OPTIONS)
        assert not isinstance(caught.value, UnreadableLogError)
