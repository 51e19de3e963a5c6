"""Reading everything of a stopped node: what is damaged is found, wherever it is, and never ends the process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raftlog.core.entry import EntryHeader, EntryKind, encode
from raftlog.errors import DataDirectoryError, NewerFormatError
from raftlog.storage import check as check_module
from raftlog.storage import identity, layout
from raftlog.storage.check import Checked, check
from raftlog.storage.data_directory import IDENTITY_FILE
from raftlog.storage.datafile import check_before_writing
from raftlog.storage.environment import LOG_DIR, data_file, opened_read_only
from raftlog.storage.identity import Identity
from raftlog.storage.port import WriteBatch
from tests.storage.helpers import batch_of, commit, make_entry, open_store

PAYLOAD = bytes(range(256)) * 40
PAGE_BYTES = 4096


def checked(directory: Path) -> Checked:
    """Without progress."""
    return check(directory, lambda done, total: None)


def texts(directory: Path) -> list[str]:
    """What is found."""
    return [finding.what for finding in checked(directory).findings]


async def fill(directory: Path) -> Path:
    """Two logs with small and large entries, rows, a group that was dropped, a log that was trimmed. The data file's path."""
    identity.store(directory / IDENTITY_FILE, Identity(node_id=1))
    store = open_store(directory)
    for start in range(0, 60, 20):
        await commit(store, batch_of(1, start, start + 20, b"z" * 700))
        await commit(store, batch_of(2, start, start + 20))
        await commit(store, batch_of(3, start, start + 20, b"z" * 300))
    batch = batch_of(1, 60, 64, PAYLOAD)
    batch.rows = {(group, 3, b"key %d" % number): b"value" * number for group in (1, 2, 3) for number in range(40)}
    await commit(store, batch)
    await commit(store, WriteBatch(drop={3}, trim={2: 30}))
    await commit(store, WriteBatch(truncate={1: 63}))
    store.close()
    return data_file(directory)


def contents(path: Path) -> list[tuple[bytes, bytes]]:
    """All that LMDB reads."""
    with opened_read_only(path) as (env, dbs), env.begin() as txn:
        return [item for db in dbs for item in txn.cursor(db)]


async def test_sound_data_is_counted(tmp_path: Path) -> None:
    """Entries, rows and groups that a node would see; progress is told to its end."""
    await fill(tmp_path)
    told: list[tuple[int, int]] = []
    found = check(tmp_path, lambda done, total: told.append((done, total)))
    assert (found.findings, found.damaged) == ([], 0)
    assert (found.entries, found.rows, found.groups) == (63 + 30, 80, {1, 2})
    assert told[-1][0] == told[-1][1] > 0


async def test_a_payload_that_fails_its_check_is_named(tmp_path: Path) -> None:
    """By its group and index; the rest is read."""
    path = await fill(tmp_path)
    data = bytearray(path.read_bytes())
    with opened_read_only(path) as (env, dbs), env.begin(buffers=True) as txn:
        entry = bytes(txn.get(layout.entry_key(1, 61), db=dbs.entries) or b"")
    data[data.index(entry) + len(entry) - 1] ^= 1
    path.write_bytes(data)
    found = checked(tmp_path)
    assert [(finding.group, finding.what) for finding in found.findings] == [
        (1, "entry 61 of group 1: payload of entry 61 of group 1 fails its CRC32C")
    ]
    assert found.entries == 63 + 30


def lmdb_edit(edit: Callable[[lmdb.Transaction[bytes], list[lmdb._Database]], None]) -> Callable[[Path], None]:
    """An edit that leaves LMDB's own structure sound."""

    def at(directory: Path) -> None:
        with lmdb.open(str(directory / LOG_DIR), max_dbs=3, map_size=1 << 30) as env, env.begin(write=True) as txn:
            names = (layout.ENTRIES_DB, layout.ROWS_DB, layout.META_DB)
            edit(txn, [env.open_db(name, txn=txn) for name in names])

    return at


def _fall(txn: lmdb.Transaction[bytes], dbs: list[lmdb._Database]) -> None:
    header = EntryHeader(EntryKind.RECORDS, 1, 63, 0, 63, 1)
    txn.put(layout.entry_key(1, 63), encode(header, b"").data, db=dbs[0])


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (lambda txn, dbs: txn.delete(layout.entry_key(1, 40), db=dbs[0]), "entries 40 to 40 of group 1 are missing"),
        (lambda txn, dbs: txn.put(layout.entry_key(2, 60), make_entry(2, 9), db=dbs[0]), "is stored as entry 9 of group 2"),
        (_fall, "entry 63 of group 1 has a lower term or offset than the one before it"),
        (lambda txn, dbs: txn.put(layout.row_key(1, 3, b"key 5"), b"no check", db=dbs[1]), "table 3 of group 1 fails its CRC32C"),
        (lambda txn, dbs: txn.put(b"x", b"y", db=dbs[0]), "the entries: key 78 has a wrong length"),
        (lambda txn, dbs: txn.put(b"x", b"y", db=dbs[1]), "the rows: key 78 is too short"),
        (lambda txn, dbs: txn.put(layout.condemned_key(4), b"y", db=dbs[2]), "has a value of 1 bytes"),
        (lambda txn, dbs: txn.drop(dbs[1]), "the rows: their database is gone"),
    ],
    ids=["a gap", "a wrong place", "a falling term", "a row", "an entry's key", "a row's key", "a condemned range", "no rows"],
)
async def test_what_raftlog_must_have_is_looked_for(
    tmp_path: Path, edit: Callable[[lmdb.Transaction[bytes], list[lmdb._Database]], None], what: str
) -> None:
    """Where LMDB finds nothing wrong."""
    await fill(tmp_path)
    lmdb_edit(edit)(tmp_path)
    assert [text for text in texts(tmp_path) if what in text]


async def test_the_identity_is_looked_at(tmp_path: Path) -> None:
    """Damaged, or gone."""
    await fill(tmp_path)
    path = tmp_path / IDENTITY_FILE
    path.write_bytes(b"x" + path.read_bytes())
    assert "fails its CRC32C" in texts(tmp_path)[0]
    path.unlink()
    assert "nobody knows whose log this is" in texts(tmp_path)[0]


async def test_a_zeroed_page_hides_only_what_it_held(tmp_path: Path) -> None:
    """Each page of the file in turn: what is read beside it is still counted."""
    path = await fill(tmp_path)
    whole = path.read_bytes()
    sound = blind = 0
    for page in range(2, len(whole) // PAGE_BYTES):
        damaged = bytearray(whole)
        damaged[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = bytes(PAGE_BYTES)
        path.write_bytes(damaged)
        found = checked(tmp_path)
        sound += not found.damaged
        assert found.damaged or (found.entries, found.rows) == (93, 80)
        blind += not (found.entries or found.rows)
    assert sound < page - 10, "most pages are in use"
    assert blind == 1, "only the root of all databases hides them all"


async def test_a_file_cut_anywhere_is_found_or_not_in_need_of_the_rest(tmp_path: Path) -> None:
    """Without an end of the process."""
    path = await fill(tmp_path)
    size = path.stat().st_size
    found = 0
    while size > 2 * PAGE_BYTES:
        size -= PAGE_BYTES // 2
        os.truncate(path, size)
        found += bool(checked(tmp_path).damaged)
    assert found > 10


async def test_no_more_is_listed_than_a_person_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is counted."""
    await fill(tmp_path)
    monkeypatch.setattr(check_module, "FINDINGS_MAX", 3)

    def spoil(txn: lmdb.Transaction[bytes], dbs: list[lmdb._Database]) -> None:
        for number in range(7):
            txn.put(layout.row_key(1, 3, b"key %d" % number), b"no check", db=dbs[1])

    lmdb_edit(spoil)(tmp_path)
    found = checked(tmp_path)
    assert (len(found.findings), found.damaged) == (3, 7)


def test_where_there_is_no_data_there_is_nothing_to_check(tmp_path: Path) -> None:
    """The error says what to name."""
    with pytest.raises(DataDirectoryError, match="name the --data-dir"):
        checked(tmp_path)


async def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """It is not called damaged."""
    await fill(tmp_path)

    def raise_format(txn: lmdb.Transaction[bytes], dbs: list[lmdb._Database]) -> None:
        txn.put(layout.FORMAT_KEY, (9).to_bytes(4), db=dbs[2])

    lmdb_edit(raise_format)(tmp_path)
    with pytest.raises(NewerFormatError, match="format 9"):
        checked(tmp_path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, list[tuple[bytes, bytes]]]:
    """A directory, its data file's bytes, and what LMDB reads of it."""
    import asyncio

    directory = tmp_path_factory.mktemp("sound")
    path = asyncio.run(fill(directory))
    return directory, path.read_bytes(), contents(path)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(at=st.integers(2 * PAGE_BYTES, 1 << 20), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_or_does_no_harm(sound: tuple[Path, bytes, list[tuple[bytes, bytes]]], at: int, bit: int) -> None:
    """Anywhere behind the two meta pages: where nothing is found, LMDB reads all that it read before."""
    directory, whole, expected = sound
    path = data_file(directory)
    data = bytearray(whole)
    data[2 * PAGE_BYTES + at % (len(whole) - 2 * PAGE_BYTES)] ^= 1 << bit
    path.write_bytes(data)
    found = checked(directory)
    if not found.damaged:
        assert contents(path) == expected


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(at=st.integers(0, 200), page=st.integers(0, 1), value=st.binary(min_size=1, max_size=8))
def test_damaged_meta_pages_end_in_findings_or_in_an_error(
    sound: tuple[Path, bytes, list[tuple[bytes, bytes]]], at: int, page: int, value: bytes
) -> None:
    """Whatever they say then of trees and lengths."""
    directory, whole, _ = sound
    data = bytearray(whole)
    at += page * PAGE_BYTES
    data[at : at + len(value)] = value
    data_file(directory).write_bytes(data)
    with contextlib.suppress(DataDirectoryError):
        checked(directory)


async def test_the_list_of_free_pages_is_in_order_of_numbers(tmp_path: Path) -> None:
    """Its keys are the machine's own numbers: 256 comes behind 255, and the file is sound, to the check and at the next start."""
    identity.store(tmp_path / IDENTITY_FILE, Identity(node_id=1))
    store = open_store(tmp_path)
    for number in range(262):
        await commit(store, WriteBatch(rows={(1, 0, b"key"): b"%d" % number}))
        if number > 248:
            assert texts(tmp_path) == []
            check_before_writing(data_file(tmp_path), (layout.META_DB,))
    store.close()
