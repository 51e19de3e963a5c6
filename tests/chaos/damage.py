"""Damage to the data file of a stopped node, as bad disks and bad hands do it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from raftlog.core.entry import HEADER_SIZE
from raftlog.storage.environment import data_file
from raftlog.storage.lmdb_store import LmdbOptions, LmdbStore

PAGE_BYTES = 4096
"""LMDB's page on the machines that raftlog runs on."""

Damage = Callable[[Path, bytes], None]
"""Damages a data file; the bytes are in it, and mark the place."""


def flipped_bit(path: Path, mark: bytes) -> None:
    """One bit of the marked value, wherever the file has it: old copies in free pages too."""
    data = bytearray(path.read_bytes())
    places = _places(data, mark)
    for place in places:
        data[place] ^= 1
    _write(path, data)


def damaged_last_entry(data_dir: Path, group: int) -> None:
    """The newest entry of a group on a stopped node's disk, in its header, which is read at the start. Needs a running loop."""
    store = LmdbStore(data_dir, lambda error: None, options=LmdbOptions(ballast_bytes=0))
    try:
        _, last = store.bounds(group) or (0, 0)
        [entry] = store.entries(group, last, last + 1, 1)
    finally:
        store.close()
    flipped_bit(data_file(data_dir), bytes(entry[:HEADER_SIZE]))


def zeroed_page(path: Path, mark: bytes) -> None:
    """Every page that holds the marked value."""
    data = bytearray(path.read_bytes())
    for place in _places(data, mark):
        begin = place // PAGE_BYTES * PAGE_BYTES
        data[begin : begin + PAGE_BYTES] = bytes(PAGE_BYTES)
    _write(path, data)


def truncated(path: Path, mark: bytes) -> None:
    """The second half is gone."""
    os.truncate(path, path.stat().st_size // 2 // PAGE_BYTES * PAGE_BYTES)


def deleted(path: Path, mark: bytes) -> None:
    """The file is gone."""
    path.unlink()


def _places(data: bytearray, mark: bytes) -> list[int]:
    found = []
    at = data.find(mark)
    while at >= 0:
        found.append(at)
        at = data.find(mark, at + 1)
    assert found, f"{mark!r} is not in the file: was it compressed?"
    return found


def _write(path: Path, data: bytearray) -> None:
    with path.open("r+b") as file:
        file.write(data)
