"""A full disk or map: publishing stops, nothing is lost, and it goes on when there is space."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from raftlog.storage import ballast as ballast_module
from raftlog.storage import lmdb_store
from raftlog.storage.ballast import Ballast
from raftlog.storage.environment import BALLAST_FILE
from raftlog.storage.port import WriteBatch
from tests.storage.helpers import OPTIONS, Faults, batch_of, commit, open_store, until

NO_SPACE = OSError(errno.ENOSPC, "injected")
BALLAST_BYTES = 1 << 20
SMALL_MAP_BYTES = 4 << 20
CHUNK = b"x" * 200_000


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """``disk[0]`` is how many bytes the ballast believes to be free."""
    value = [1 << 40]
    monkeypatch.setattr(ballast_module, "disk_free_bytes", lambda _: value[0])
    return value


async def test_a_full_disk_is_waited_out(tmp_path: Path, disk: list[int]) -> None:
    """The ballast goes, the same batch is tried again until it is durable, and meanwhile ``full`` is true."""
    faults = Faults()
    store = open_store(tmp_path, replace(OPTIONS, ballast_bytes=BALLAST_BYTES, before_commit=faults))
    assert (tmp_path / BALLAST_FILE).stat().st_size == BALLAST_BYTES
    assert not store.usage().full
    disk[0] = 0
    faults.errors = [NO_SPACE] * 3
    await commit(store, batch_of(1, 0, 3))
    assert faults.errors == []
    assert store.bounds(1) == (0, 2)
    assert store.usage().full
    assert not (tmp_path / BALLAST_FILE).exists()
    await commit(store, WriteBatch(rows={(1, 0, b"vote"): b"2"}))
    assert store.usage().full
    disk[0] = 1 << 40
    await until(lambda: not store.usage().full)
    assert (tmp_path / BALLAST_FILE).stat().st_size == BALLAST_BYTES
    store.close()


async def test_what_publishes_ask_is_measured_by_the_share_of_room_that_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``recent_usage`` stays as it was for a small batch in a large room, sees a large batch, and the end of the room at once."""
    monkeypatch.setattr(lmdb_store, "RECENT_S", float("inf"))
    store = open_store(tmp_path, replace(OPTIONS, limit_bytes=64 * len(CHUNK)))
    seen = store.recent_usage()
    await commit(store, batch_of(1, 0, 1, CHUNK))
    assert store.recent_usage() is seen
    await commit(store, batch_of(1, 1, 6, CHUNK))
    assert store.recent_usage().used_bytes > 6 * len(CHUNK)
    assert not store.recent_usage().full
    await commit(store, batch_of(1, 6, 70, CHUNK))
    assert store.recent_usage().full
    store.close()


async def test_what_publishes_ask_is_measured_again_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others fill the disk, too: a measure is good for ``RECENT_S`` and not for longer."""
    free = [1 << 40]
    monkeypatch.setattr(lmdb_store, "disk_free_bytes", lambda _: free[0])
    monkeypatch.setattr(lmdb_store, "RECENT_S", float("inf"))
    store = open_store(tmp_path, replace(OPTIONS, disk_free_min_bytes=1 << 20))
    assert not store.recent_usage().full
    free[0] = 0
    assert not store.recent_usage().full
    await commit(store, WriteBatch(rows={(1, 0, b"vote"): b"2"}))
    assert store.usage().full, "what is asked for sizes measures anew"
    free[0] = 1 << 40
    monkeypatch.setattr(lmdb_store, "RECENT_S", 0.0)
    assert not store.usage().full
    free[0] = 0
    assert store.recent_usage().full
    store.close()


async def test_deleting_ends_full_though_the_file_does_not_shrink(
    tmp_path: Path, disk: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that stays full, what trims have freed within the file is room to publish into."""
    monkeypatch.setattr(ballast_module.Ballast.__init__, "__defaults__", (BALLAST_BYTES,))
    disk[0] = 0
    store = open_store(tmp_path, replace(OPTIONS, ballast_bytes=BALLAST_BYTES))
    await commit(store, batch_of(1, 0, 20, CHUNK))
    assert store.usage().full
    await commit(store, WriteBatch(trim={1: 19}))
    await until(lambda: not store.usage().full)
    assert not (tmp_path / BALLAST_FILE).exists()
    store.close()


async def test_a_node_starts_on_a_full_disk(tmp_path: Path, disk: list[int]) -> None:
    """Without room for its ballast it is full from the start, and still writes votes."""
    disk[0] = 0
    store = open_store(tmp_path, replace(OPTIONS, ballast_bytes=BALLAST_BYTES))
    assert store.usage().full
    await commit(store, WriteBatch(rows={(1, 0, b"vote"): b"2"}))
    assert store.row(1, 0, b"vote") == b"2"
    assert store.usage().full
    store.close()


async def test_closing_ends_the_wait_for_space(tmp_path: Path) -> None:
    """A batch that found no space is given up by ``close``: not durable, and never reported."""
    faults = Faults()
    store = open_store(tmp_path, replace(OPTIONS, before_commit=faults))
    faults.errors = [NO_SPACE] * 1_000_000
    store.commit(batch_of(1, 0, 3), lambda: pytest.fail("it was not durable"))
    await until(lambda: store.usage().full)
    store.close()
    store = open_store(tmp_path)
    assert store.bounds(1) is None
    store.close()


async def test_a_batch_that_the_map_has_no_room_for_changes_nothing(tmp_path: Path) -> None:
    """MapFull is waited out like a full disk, reading goes on, and what was durable stays."""
    options = replace(OPTIONS, map_size_bytes=SMALL_MAP_BYTES)
    store = open_store(tmp_path, options)
    await commit(store, batch_of(1, 0, 3))
    assert not store.usage().full
    store.commit(batch_of(1, 3, 103, CHUNK), lambda: pytest.fail("there was no room for it"))
    await until(lambda: store.usage().full)
    assert len(store.entries(1, 0, 3, 1 << 20)) == 3
    store.close()
    store = open_store(tmp_path, options)
    assert store.bounds(1) == (0, 2)
    assert not store.usage().full
    store.close()


async def test_trims_free_a_full_map(tmp_path: Path) -> None:
    """The soft limit leaves enough of the map for the trim that ends it."""
    store = open_store(tmp_path, replace(OPTIONS, map_size_bytes=SMALL_MAP_BYTES))
    index = 0
    while not store.usage().full:
        await commit(store, batch_of(1, index, index + 1, CHUNK))
        index += 1
    assert index > 5
    await commit(store, WriteBatch(trim={1: index - 1}))
    await until(lambda: not store.usage().full)
    for again in range(index, index + 8):
        await commit(store, batch_of(1, again, again + 1, CHUNK))
    assert store.bounds(1) == (index - 1, index + 7)
    store.close()


async def test_a_batch_that_waits_for_space_gets_what_the_trim_before_it_freed(tmp_path: Path) -> None:
    """LMDB lends a freed page out two transactions later; the waiting batch must not wait for ever for the second."""
    store = open_store(tmp_path, replace(OPTIONS, map_size_bytes=SMALL_MAP_BYTES))
    await commit(store, batch_of(1, 0, 1, b"x" * 3_500_000))
    await commit(store, WriteBatch(trim={1: 1}))
    await commit(store, batch_of(1, 1, 2, b"x" * 3_400_000))
    assert store.bounds(1) == (1, 1)
    store.close()


async def test_the_soft_limit_is_over_used_bytes(tmp_path: Path) -> None:
    """Reaching it is ``full`` though commits succeed; deleting ends it though the file does not shrink."""
    store = open_store(tmp_path, replace(OPTIONS, limit_bytes=1 << 20))
    await commit(store, batch_of(1, 0, 4, CHUNK))
    assert not store.usage().full
    await commit(store, batch_of(1, 4, 8, CHUNK))
    usage = store.usage()
    assert usage.full
    assert usage.limit_bytes == 1 << 20
    assert 8 * len(CHUNK) < usage.used_bytes < 9 * len(CHUNK)
    await commit(store, WriteBatch(drop={1}))
    await until(lambda: not store.usage().full)
    assert store.usage().file_bytes >= usage.used_bytes
    store.close()


async def test_too_little_free_disk_is_full(tmp_path: Path) -> None:
    """Publishing stops before the disk is full."""
    store = open_store(tmp_path, replace(OPTIONS, disk_free_min_bytes=1 << 62))
    assert store.usage().full
    await commit(store, batch_of(1, 0, 1))
    store.close()


async def test_a_full_disk_does_not_stop_deletion_for_good(tmp_path: Path) -> None:
    """A step that finds no space is tried again."""
    faults = Faults()
    store = open_store(tmp_path, replace(OPTIONS, before_commit=faults))
    await commit(store, batch_of(1, 0, 2_000))
    used = store.usage().used_bytes
    faults.hold_after(1)
    await commit(store, WriteBatch(drop={1}))
    faults.errors = [NO_SPACE] * 3
    faults.release()
    await until(lambda: store.usage().used_bytes < used // 10)
    await until(lambda: not store.usage().full)
    store.close()


def test_the_ballast_is_not_taken_from_the_last_space(tmp_path: Path, disk: list[int]) -> None:
    """It is taken only where headroom is left beyond it."""
    ballast = Ballast(tmp_path / BALLAST_FILE, 4_096, headroom_bytes=4_096)
    disk[0] = 8_191
    assert not ballast.take()
    disk[0] = 8_192
    assert ballast.take()
    assert ballast.release()
    assert not ballast.release()
