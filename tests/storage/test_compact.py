"""Compacting a stopped node's data file: nothing is lost at any moment, and what is not used is given back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raftlog.core import failpoints
from raftlog.errors import DataDirectoryError, DataLossError, StorageFullError
from raftlog.storage import compact as compact_module
from raftlog.storage import identity
from raftlog.storage.compact import Compacted, compact
from raftlog.storage.data_directory import IDENTITY_FILE
from raftlog.storage.environment import COMPACT_FILE, data_file
from raftlog.storage.identity import Identity
from raftlog.storage.port import WriteBatch
from tests.storage.helpers import batch_of, commit, open_store

SMALL, LARGE = b"small" * 100, b"large" * 4_000


async def fill(directory: Path) -> None:
    """Two logs that grew side by side, rows, and a group as large again that was deleted."""
    identity.store(directory / IDENTITY_FILE, Identity(node_id=1))
    store = open_store(directory)
    for start in range(0, 200, 50):
        await commit(store, batch_of(1, start, start + 50, SMALL))
        await commit(store, batch_of(2, start, start + 50, LARGE))
        await commit(store, batch_of(3, start, start + 50, LARGE))
    await commit(store, WriteBatch(rows={(1, 3, b"key %d" % number): b"value" * number for number in range(100)}))
    await commit(store, WriteBatch(drop={3}))
    store.close()


async def reads_the_same(directory: Path) -> bool:
    """Whether everything that ``fill`` wrote and kept is there, and nothing else."""
    store = open_store(directory)
    try:
        small, large = batch_of(1, 0, 200, SMALL), batch_of(2, 0, 200, LARGE)
        rows = {b"key %d" % number: b"value" * number for number in range(100)}
        return (
            store.groups() == [1, 2]
            and store.entries(1, 0, 201, 1 << 30) == list(small.entries.values())
            and store.entries(2, 0, 201, 1 << 30) == list(large.entries.values())
            and dict(store.rows(1, 3)) == rows
        )
    finally:
        store.close()


def compacted(directory: Path) -> Compacted:
    """Without progress."""
    return compact(directory, lambda what, done, total: None)


async def test_what_is_not_used_is_given_back(tmp_path: Path) -> None:
    """The file is as long as the data needs, the progress of copying and comparing is told, and everything reads the same."""
    await fill(tmp_path)
    path = data_file(tmp_path)
    before = path.stat().st_size
    told: list[tuple[str, int, int]] = []
    done = compact(tmp_path, lambda *what: told.append(what))
    assert done.before_bytes == before
    assert done.after_bytes == path.stat().st_size < before * 0.6
    assert {what for what, _, _ in told} == {"copying", "comparing"}
    assert all(0 < done <= total for _, done, total in told)
    assert await reads_the_same(tmp_path)
    assert not path.with_name(COMPACT_FILE).exists()


async def test_a_file_that_is_compact_stays_as_it_is(tmp_path: Path) -> None:
    """It is not replaced by one that is no smaller."""
    await fill(tmp_path)
    first = compacted(tmp_path)
    inode = data_file(tmp_path).stat().st_ino
    second = compacted(tmp_path)
    assert data_file(tmp_path).stat().st_ino == inode
    assert first.after_bytes == second.before_bytes == second.after_bytes
    assert await reads_the_same(tmp_path)


async def test_what_was_being_deleted_is_left_behind(tmp_path: Path) -> None:
    """A group whose deletion a stop cut short takes no space in the new file."""
    store = open_store(tmp_path)
    await commit(store, batch_of(1, 0, 5_000, SMALL))
    await commit(store, batch_of(2, 0, 3_000, SMALL))
    await commit(store, WriteBatch(drop={1}, trim={2: 2_999}))
    assert store._writer._condemned, "the test needs a deletion that is not done"
    store.close()
    assert compacted(tmp_path).after_bytes < 100_000
    store = open_store(tmp_path)
    assert store.groups() == [2]
    assert store.bounds(2) == (2_999, 2_999)
    assert not store._condemned
    store.close()


def compact_by_command(directory: Path, crash_at: str = "") -> int:
    """In a process of its own; its exit code."""
    command = [sys.executable, "-c", "from raftlog.cli.main import main; main()", "storage", "compact", "--data-dir"]
    environ = {**os.environ, failpoints.VARIABLE: crash_at}
    return subprocess.run([*command, str(directory)], env=environ, check=False, capture_output=True, timeout=60).returncode


@pytest.mark.parametrize("point", [*failpoints.COMMAND_POINTS, "compact-copying:2"])
async def test_a_crash_anywhere_loses_nothing(tmp_path: Path, point: str) -> None:
    """The old file or the new one stands there, whole; the next compaction, or start, removes what else there is."""
    await fill(tmp_path)
    assert compact_by_command(tmp_path, point) == failpoints.EXIT_CODE
    left = data_file(tmp_path).with_name(COMPACT_FILE)
    assert left.exists() == (point != "compact-after-swap")
    assert await reads_the_same(tmp_path)
    assert not left.exists(), "opening the store removes it"
    left.write_bytes(b"of a crash")
    assert compact_by_command(tmp_path) == 0
    assert not left.exists()
    assert await reads_the_same(tmp_path)


async def test_without_room_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how much is needed, and where."""
    await fill(tmp_path)
    before = data_file(tmp_path).read_bytes()
    monkeypatch.setattr(compact_module, "disk_free_bytes", lambda _: 5 << 20)
    with pytest.raises(StorageFullError, match=r"needs \d+\.\d MiB free beside .*data\.mdb, where there are 5\.0 MiB"):
        compacted(tmp_path)
    assert data_file(tmp_path).read_bytes() == before
    assert await reads_the_same(tmp_path)


async def test_a_copy_that_differs_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk or a memory that changes a bit on the way: the old file stays."""
    await fill(tmp_path)
    before = data_file(tmp_path).read_bytes()
    settle = compact_module._settle

    def spoil(path: Path, new: Path) -> None:
        settle(path, new)
        data = bytearray(new.read_bytes())
        data[data.index(LARGE) + 7] ^= 1
        new.write_bytes(data)

    monkeypatch.setattr(compact_module, "_settle", spoil)
    with pytest.raises(DataLossError, match="differs from what was copied"):
        compacted(tmp_path)
    assert data_file(tmp_path).read_bytes() == before
    assert not data_file(tmp_path).with_name(COMPACT_FILE).exists()


async def test_damage_stays_damage(tmp_path: Path) -> None:
    """A payload that fails its check is copied as it is: its entry is neither mended nor dropped."""
    await fill(tmp_path)
    path = data_file(tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(SMALL)
    while at >= 0:
        data[at] ^= 1
        at = data.find(SMALL, at)
    path.write_bytes(data)
    compacted(tmp_path)
    store = open_store(tmp_path)
    assert store.bounds(1) == (0, 199)
    assert store.header(1, 7) is not None
    with pytest.raises(DataLossError):
        store.entries(1, 7, 8, 1 << 20)
    store.close()


async def test_a_damaged_file_is_not_compacted(tmp_path: Path) -> None:
    """Nothing of it is mapped before its pages were looked at."""
    await fill(tmp_path)
    path = data_file(tmp_path)
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)
    with pytest.raises(DataDirectoryError, match="is damaged: it is cut short"):
        compacted(tmp_path)


async def test_owner_and_mode_stay(tmp_path: Path) -> None:
    """An administrator who compacts does not lock the node out of its own data."""
    await fill(tmp_path)
    path = data_file(tmp_path)
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 12_345, 23_456)
    before = path.stat()
    compacted(tmp_path)
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino


def test_where_there_is_no_data_there_is_nothing_to_compact(tmp_path: Path) -> None:
    """The error says what to name, and nothing is made."""
    with pytest.raises(DataDirectoryError, match="name the --data-dir"):
        compacted(tmp_path)
    assert list(tmp_path.iterdir()) == []
