"""Damaged bytes are never served, and a damaged file is refused at start."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from raftlog.core.entry import HEADER_SIZE
from raftlog.errors import DataDirectoryError, DataLossError, NewerFormatError
from raftlog.storage import layout
from raftlog.storage.datafile import check_data_file, sound_length
from raftlog.storage.environment import DATA_FILE, LOG_DIR
from raftlog.storage.lmdb_store import LmdbStore
from raftlog.storage.memory_store import MemoryStore
from raftlog.storage.port import WriteBatch
from tests.storage.helpers import OPTIONS, batch_of, commit, make_entry, never, open_store

PAYLOAD = bytes(range(256)) * 40
PAGE_SIZE = mmap.PAGESIZE


async def filled(directory: Path) -> Path:
    """Entries 0 to 4 of group 1, one with ``PAYLOAD``, and a row; closed. The data file's path."""
    store = open_store(directory)
    batch = batch_of(1, 0, 5)
    batch.entries[1, 2] = make_entry(1, 2, PAYLOAD)
    batch.rows = {(1, 3, b"key"): b"a value to be found in the file"}
    await commit(store, batch)
    store.close()
    return directory / LOG_DIR / DATA_FILE


def flip(path: Path, where: bytes, offset: int = 0) -> None:
    """Flip one bit of the file, ``offset`` bytes from the only place where ``where`` stands."""
    data = path.read_bytes()
    at = data.index(where) + offset
    assert data.find(where, at + len(where)) == -1
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([data[at] ^ 1]))


async def test_a_flipped_bit_in_a_payload_is_data_loss(tmp_path: Path) -> None:
    """The entry is not served; those before it are, and its header still is."""
    path = await filled(tmp_path)
    flip(path, PAYLOAD, 5_000)
    store = open_store(tmp_path)
    with pytest.raises(DataLossError, match="payload of entry 2 of group 1"):
        store.entries(1, 2, 5, 1 << 20)
    assert len(store.entries(1, 0, 5, 1 << 20)) == 2
    assert len(store.entries(1, 3, 5, 1 << 20)) == 2
    assert store.header(1, 2) is not None
    store.close()


async def test_a_flipped_bit_in_a_header_is_data_loss(tmp_path: Path) -> None:
    """Neither the header nor the entry is served."""
    path = await filled(tmp_path)
    flip(path, PAYLOAD, -HEADER_SIZE + 30)
    store = open_store(tmp_path)
    with pytest.raises(DataLossError):
        store.header(1, 2)
    with pytest.raises(DataLossError):
        store.entries(1, 2, 3, 1 << 20)
    store.close()


async def test_a_flipped_bit_in_a_row_is_data_loss(tmp_path: Path) -> None:
    """The row is not served, alone or in a list."""
    path = await filled(tmp_path)
    flip(path, b"a value to be found")
    store = open_store(tmp_path)
    with pytest.raises(DataLossError, match="table 3 of group 1"):
        store.row(1, 3, b"key")
    with pytest.raises(DataLossError):
        store.rows(1, 3)
    store.close()


@pytest.mark.parametrize("key", [(1, 3), (2, 0)])
async def test_an_entry_under_a_key_that_is_not_its_own_is_data_loss(tmp_path: Path, key: tuple[int, int]) -> None:
    """The check covers the key: a sound entry in the wrong place is not served."""
    await filled(tmp_path)
    with lmdb.open(str(tmp_path / LOG_DIR), max_dbs=3) as env, env.begin(write=True) as txn:
        txn.put(layout.entry_key(*key), make_entry(1, 2), db=env.open_db(layout.ENTRIES_DB, txn=txn))
    store = open_store(tmp_path)
    with pytest.raises(DataLossError, match="is stored as"):
        store.entries(*key, key[1] + 1, 1 << 20)
    with pytest.raises(DataLossError, match="is stored as"):
        store.header(*key)
    store.close()


async def test_a_row_under_another_key_is_data_loss(tmp_path: Path) -> None:
    """The check covers the key of a row, too."""
    await filled(tmp_path)
    with lmdb.open(str(tmp_path / LOG_DIR), max_dbs=3) as env, env.begin(write=True) as txn:
        sealed = layout.seal_row(layout.row_key(1, 3, b"key"), b"value")
        txn.put(layout.row_key(1, 3, b"yek"), sealed, db=env.open_db(layout.ROWS_DB, txn=txn))
    store = open_store(tmp_path)
    with pytest.raises(DataLossError):
        store.row(1, 3, b"yek")
    store.close()


async def test_a_row_too_short_for_its_check_is_data_loss(tmp_path: Path) -> None:
    """Fewer bytes than a CRC are no row."""
    await filled(tmp_path)
    with lmdb.open(str(tmp_path / LOG_DIR), max_dbs=3) as env, env.begin(write=True) as txn:
        txn.put(layout.row_key(1, 3, b"key"), b"abc", db=env.open_db(layout.ROWS_DB, txn=txn))
    store = open_store(tmp_path)
    with pytest.raises(DataLossError):
        store.row(1, 3, b"key")
    store.close()


async def test_damage_in_memory_is_data_loss(tmp_path: Path) -> None:
    """The double's faults are seen as the disk's are."""
    store = MemoryStore()
    batch = batch_of(1, 0, 3)
    batch.rows = {(1, 3, b"key"): b"value"}
    await commit(store, batch)
    store.damage_entry(1, 1)
    store.damage_entry(1, 2, at=20)
    store.damage_row(1, 3, b"key")
    assert len(store.entries(1, 0, 3, 1 << 20)) == 1
    assert store.header(1, 1) is not None
    with pytest.raises(DataLossError):
        store.entries(1, 1, 2, 1 << 20)
    with pytest.raises(DataLossError):
        store.header(1, 2)
    with pytest.raises(DataLossError):
        store.row(1, 3, b"key")
    await commit(store, WriteBatch(rows={(1, 3, b"key"): b"new"}))
    assert store.row(1, 3, b"key") == b"new"


async def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    """Wherever it is cut, within a value or before a tree page: a clear error, not a SIGBUS."""
    path = await filled(tmp_path)
    size = path.stat().st_size
    while size > 2 * PAGE_SIZE:
        size -= PAGE_SIZE
        os.truncate(path, size)
        with pytest.raises(DataDirectoryError, match="cut short"):
            LmdbStore(tmp_path, never, options=OPTIONS)


async def test_a_file_without_pages_that_nobody_uses_is_sound(tmp_path: Path) -> None:
    """LMDB never writes pages that a transaction took and gave back; a start after a crash does not stumble over them."""
    store = open_store(tmp_path)
    for start in range(0, 40, 8):
        await commit(store, batch_of(1, start, start + 8, PAYLOAD))
    await commit(store, WriteBatch(drop={1}))
    await commit(store, batch_of(1, 0, 1))
    path = tmp_path / LOG_DIR / DATA_FILE
    store.close()
    in_use = last_page_in_use(path)
    assert in_use < sound_length(path) // PAGE_SIZE - 1, "the test needs unused pages at the end"
    os.truncate(path, (in_use + 1) * PAGE_SIZE)
    store = open_store(tmp_path)
    assert store.bounds(1) == (0, 0)
    store.close()
    assert path.stat().st_size == sound_length(path)


def last_page_in_use(path: Path) -> int:
    """Found by cutting a copy shorter until the check refuses it."""
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    pages = copy.stat().st_size // PAGE_SIZE
    while True:
        os.truncate(copy, (pages - 1) * PAGE_SIZE)
        try:
            check_data_file(copy)
        except DataDirectoryError:
            copy.unlink()
            return pages - 1
        pages -= 1


def overwrite(offset: int, data: bytes) -> Callable[[Path], None]:
    """An edit of a file in place."""

    def edit(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    return edit


@pytest.mark.parametrize("edit", [overwrite(0, b"\xff" * PAGE_SIZE), lambda path: os.truncate(path, 100)])
async def test_a_file_that_is_no_environment_is_refused(tmp_path: Path, edit: Callable[[Path], None]) -> None:
    """The error names the file and says what to do."""
    path = await filled(tmp_path)
    edit(path)
    with pytest.raises(DataDirectoryError, match="Restore it from a copy"):
        LmdbStore(tmp_path, never, options=OPTIONS)


async def test_an_environment_of_another_lmdb_is_refused(tmp_path: Path) -> None:
    """LMDB 1.0 writes data version 3, which this release does not read."""
    path = await filled(tmp_path)
    overwrite(20, (3).to_bytes(4, "little"))(path)
    with pytest.raises(NewerFormatError, match="data version 3"):
        LmdbStore(tmp_path, never, options=OPTIONS)
