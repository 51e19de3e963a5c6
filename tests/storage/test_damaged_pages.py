"""A page that is damaged as a whole never ends the process, and a lookup that meets it loses what it held alone."""

from __future__ import annotations

import asyncio
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import lmdb
import pytest

from raftlog.errors import DataLossError, FatalError, StorageFailedError, UnreadableLogError
from raftlog.storage import layout
from raftlog.storage.datafile import opened
from raftlog.storage.environment import data_file, unwritable
from raftlog.storage.lmdb_store import LmdbStore
from raftlog.storage.port import WriteBatch
from raftlog.storage.sound_pages import SoundPages
from tests.storage.every_page import ENDS, LOST, PAGE_SIZE, READ, UNREADABLE, WRITES, WRITTEN
from tests.storage.helpers import OPTIONS, Faults, batch_of, commit, make_entry, open_store, until

MANY = 300
"""More than a batch deletes itself."""


async def filled(directory: Path) -> Path:
    """Groups 1 and 2 with many entries, and a row each; closed. The data file's path."""
    store = open_store(directory)
    for group in (1, 2):
        batch = batch_of(group, 0, MANY, b"payload of group %d " % group * 10)
        batch.entries[group, MANY] = make_entry(group, MANY, b"large" * 2_000)
        batch.rows = {(group, 0, b"vote"): b"row of group %d" % group}
        await commit(store, batch)
    store.close()
    return data_file(directory)


def zero_page_of(path: Path, what: bytes) -> int:
    """Overwrite the page that ``what`` stands in with zeros; its number."""
    page = path.read_bytes().index(what) // PAGE_SIZE
    with path.open("r+b") as file:
        file.seek(page * PAGE_SIZE)
        file.write(bytes(PAGE_SIZE))
    return page


@pytest.mark.parametrize("harm", ["zeros", "other"])
async def test_no_damaged_page_ends_the_process(tmp_path: Path, harm: str) -> None:
    """Whichever page it is, and whatever is read, deleted or put: that is done, or said to be lost, or the file to be damaged."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.storage.every_page", str(tmp_path), harm, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    ends = {line.split()[0]: {word.split("=")[0] for word in line.split()[1:]} for line in out.decode().splitlines()}
    assert ends.pop("read") == {ENDS[READ], ENDS[LOST], ENDS[UNREADABLE]}
    assert ends == {make.__name__: {ENDS[WRITTEN], ENDS[UNREADABLE]} for make in WRITES}


@pytest.mark.parametrize("batch", [WriteBatch(drop={1}), WriteBatch(trim={1: MANY}), WriteBatch(truncate={1: 1})])
async def test_deleting_what_lies_on_a_damaged_page_makes_the_file_unreadable(tmp_path: Path, batch: WriteBatch) -> None:
    """It is said before LMDB meets the page, so that the node can set its data aside and join anew."""
    path = await filled(tmp_path)
    page = zero_page_of(path, layout.entry_key(1, MANY // 2))
    fatal: list[FatalError] = []
    store = LmdbStore(tmp_path, fatal.append, options=OPTIONS)
    store.commit(batch, lambda: None)
    await until(lambda: bool(fatal))
    assert isinstance(fatal[0], UnreadableLogError)
    assert f"page {page} is not the tree's page" in str(fatal[0])
    store.close()


async def test_a_damaged_page_far_from_what_is_deleted_is_left_alone(tmp_path: Path) -> None:
    """The rest of the node goes on."""
    zero_page_of(await filled(tmp_path), layout.entry_key(1, MANY // 2))
    store = open_store(tmp_path)
    await commit(store, WriteBatch(drop={2}))
    assert store.groups() == [1]
    store.close()


async def test_a_large_value_whose_page_says_another_size_is_not_deleted(tmp_path: Path) -> None:
    """Its pages would be taken for free, and be others'."""
    path = await filled(tmp_path)
    with path.open("r+b") as file:
        file.seek(path.read_bytes().index(make_entry(1, MANY, b"large" * 2_000)) - 4)
        file.write((9_999).to_bytes(4, sys.byteorder))
    sound = SoundPages(path)
    found = sound.find(layout.ENTRIES_DB, layout.entry_key(1, 0), layout.entry_key(1, MANY), MANY + 1)
    assert found == [layout.entry_key(1, index) for index in range(MANY)]
    with pytest.raises(UnreadableLogError, match="is not the value's page"):
        sound.find(layout.ENTRIES_DB, layout.entry_key(1, 0), layout.entry_key(1, MANY + 1), MANY + 1)
    sound.close()


async def test_a_list_of_free_pages_that_cannot_be_is_refused_at_the_start(tmp_path: Path) -> None:
    """LMDB would write over whatever page it names."""
    path = await filled(tmp_path)
    with opened(path) as file:
        assert file is not None
        behind = (file.meta.free.root + 1) * PAGE_SIZE
    with path.open("r+b") as written:
        written.seek(behind - 8)  # the last number of the list that was put first
        written.write((1 << 40).to_bytes(8, sys.byteorder))
    with pytest.raises(UnreadableLogError, match="free pages"):
        open_store(tmp_path)


async def test_one_damaged_page_hides_only_what_it_held(tmp_path: Path) -> None:
    """Whatever meets it: what is read next, of this group or another, is read."""
    zero_page_of(await filled(tmp_path), layout.entry_key(1, MANY // 2))
    store = open_store(tmp_path)
    for meet in (lambda: store.header(1, MANY // 2), lambda: store.entries(1, MANY // 2, MANY, 1 << 20)):
        with pytest.raises(DataLossError, match="cannot be read"):
            meet()
        assert store.groups() == [1, 2]
        assert store.row(1, 0, b"vote") == b"row of group 1"
        assert store.bounds(2) == (0, MANY)
        assert len(store.entries(2, 0, MANY + 1, 1 << 20)) == MANY + 1
        assert store.header(1, 0) is not None
        assert store.recent_usage().used_bytes
    store.close()


async def test_a_damaged_page_behind_a_groups_rows_costs_that_page_only(tmp_path: Path) -> None:
    """LMDB's cursors end the process where they go on to a page of zeros: at each start, for opening a group lists its rows."""
    store = open_store(tmp_path)
    await commit(store, WriteBatch(rows={(group, 1, b"%03d" % row): b"v" * 100 for group in (1, 2, 3) for row in range(100)}))
    store.close()
    zero_page_of(data_file(tmp_path), layout.row_key(2, 1, b"099"))
    store = open_store(tmp_path)
    with pytest.raises(DataLossError, match="is not the tree's page"):
        store.rows(2, 1)
    assert len(list(store.rows(1, 1))) == 100
    assert store.row(2, 1, b"000") == b"v" * 100
    with closing(store.view(2)) as view, pytest.raises(DataLossError, match="is not the tree's page"):
        view.page((1, b"000"), 1 << 20)
    store.close()


async def test_a_row_is_lost_rather_than_missing_where_another_page_stands(tmp_path: Path) -> None:
    """LMDB would not find it there, and a vote that is missing is one that was never given."""
    store = open_store(tmp_path)
    await commit(store, WriteBatch(rows={(group, 1, b"%03d" % row): b"v" * 100 for group in (1, 2, 3) for row in range(100)}))
    store.close()
    path = data_file(tmp_path)
    data = path.read_bytes()
    here, there = (data.index(layout.row_key(group, 1, b"050")) // PAGE_SIZE * PAGE_SIZE for group in (1, 3))
    number = data[here : here + 8]  # the page's own
    path.write_bytes(data[:here] + number + data[there + 8 : there + PAGE_SIZE] + data[here + PAGE_SIZE :])
    store = open_store(tmp_path)
    for meet in (lambda: store.row(1, 1, b"050"), lambda: store.rows(1, 1)):
        with pytest.raises(DataLossError, match="out of order"):
            meet()
    store.close()


@pytest.mark.parametrize("key", [b"\0" * 7, layout.group_key(1) + b"\0" * 4])
async def test_an_entrys_key_of_a_wrong_length_is_damage(tmp_path: Path, key: bytes) -> None:
    """Where groups are listed it makes the node join anew, as any damage there."""
    await filled(tmp_path)
    with lmdb.open(str(data_file(tmp_path).parent), max_dbs=3) as env, env.begin(write=True) as txn:
        txn.put(key, b"", db=env.open_db(layout.ENTRIES_DB, txn=txn))
    store = open_store(tmp_path)
    with pytest.raises(DataLossError, match=key.hex()):
        store.groups()
    store.close()


async def test_a_dropped_group_stays_hidden_when_damage_is_read(tmp_path: Path) -> None:
    """The read transaction that takes the other's place comes with the condemned ranges that belong to it."""
    zero_page_of(await filled(tmp_path), layout.entry_key(1, MANY // 2))
    faults = Faults()
    store = open_store(tmp_path, replace(OPTIONS, before_commit=faults))
    faults.hold_after(1)
    await commit(store, WriteBatch(drop={2}, trim={1: 1}))
    with pytest.raises(DataLossError):
        store.header(1, MANY // 2)
    assert (store.bounds(2), store.row(2, 0, b"vote"), store.groups()) == (None, None, [1])
    faults.release()
    store.close()


async def test_what_follows_on_damage_in_a_transaction_is_damage() -> None:
    """LMDB's own error may be found too late, under one of Python's."""
    late = SystemError("returned a result with an exception set")
    late.__cause__ = lmdb.BadTxnError("mdb_cursor_get")
    for error in (late, lmdb.CorruptedError("mdb_put"), DataLossError("a row fails its check"), UnreadableLogError("a page")):
        assert isinstance(unwritable(Path("data"), error), UnreadableLogError)
    for other in (SystemError("of another kind"), lmdb.PanicError("mdb_txn_commit"), OSError(5, "a sync that failed")):
        assert isinstance(unwritable(Path("data"), other), StorageFailedError)
