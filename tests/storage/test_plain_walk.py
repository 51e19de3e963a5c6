"""What is walked by plain reads is what LMDB's cursors would have found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from raftlog.storage.page_format import PageError, Tree, tree_of
from raftlog.storage.plain_walk import PlainWalk

KEYS = [b"%03d" % number * 100 for number in range(2, 198, 2)]
"""So long that a few make a tree of three levels."""
DELETED = set(KEYS[10:40:2] + KEYS[60:75])


def value_of(key: bytes) -> bytes:
    """Each seventh is large."""
    return key * (20 if int(key[:3]) % 7 == 0 else 1)


@pytest.fixture
def env(tmp_path: Path) -> Iterator[lmdb.Environment]:
    """An environment with a tree of items, some of which were deleted, and one that is empty."""
    with lmdb.open(str(tmp_path), max_dbs=2, map_size=1 << 24) as env:
        some, none = env.open_db(b"some"), env.open_db(b"none")
        with env.begin(write=True) as txn:
            for key in KEYS:
                txn.put(key, value_of(key), db=some)
            txn.put(b"gone", b"", db=none)
        with env.begin(write=True) as txn:
            for key in DELETED:
                txn.delete(key, db=some)
            txn.delete(b"gone", db=none)
        yield env


def tree(env: lmdb.Environment, name: bytes) -> Tree:
    """A database by its own account."""
    with env.begin() as txn:
        return tree_of(txn.get(name) or b"")


def test_a_walk_from_anywhere_finds_what_there_is(env: lmdb.Environment, tmp_path: Path) -> None:
    """From each key, from before and behind it; upwards and downwards, near the last walk or far from it."""
    some = tree(env, b"some")
    assert some.depth == 3
    left = [key for key in KEYS if key not in DELETED]
    walk = PlainWalk(tmp_path / "data.mdb", 4096)
    starts = [key + end for key in [b"", *KEYS] for end in (b"", b"\0")]
    for start in starts + starts[::-1] + starts[::7]:
        higher = [key for key in left if key >= start]
        lower = [key for key in left if key < start]
        assert walk.first(some, start) == (higher[0] if higher else None)
        assert walk.last(some, start) == (lower[-1] if lower else None)
        assert [(key, bytes(value)) for key, value in walk.items(some, start)] == [(key, value_of(key)) for key in higher]
        stored = walk.value(some, start)
        assert (stored and bytes(stored)) == (value_of(start) if start in left else None)
    walk.close()


def test_an_empty_tree_has_nothing(env: lmdb.Environment, tmp_path: Path) -> None:
    """It has no root."""
    none = tree(env, b"none")
    walk = PlainWalk(tmp_path / "data.mdb", 4096)
    assert (walk.first(none, b""), walk.last(none, b"x"), walk.value(none, b"x"), list(walk.items(none, b""))) == (None,) * 3 + (
        [],
    )
    walk.close()


def test_walks_that_alternate_do_not_disturb_each_other(env: lmdb.Environment, tmp_path: Path) -> None:
    """The remembered way is no walk's place."""
    some = tree(env, b"some")
    walk = PlainWalk(tmp_path / "data.mdb", 4096)
    alone = [key for key, _ in walk.items(some, b"")]
    among = []
    for key, _ in walk.items(some, b""):
        among.append(key)
        walk.first(some, KEYS[-1])
        walk.last(some, KEYS[1])
    assert among == alone
    walk.close()


def test_whatever_a_page_says_a_walk_ends(env: lmdb.Environment, tmp_path: Path) -> None:
    """One byte of a page is another: what is found is what its own checks are for, but it comes in order, or as an error."""
    some = tree(env, b"some")
    path = tmp_path / "data.mdb"
    data = path.read_bytes()
    walk = PlainWalk(path, 4096)
    ends = set()
    with path.open("r+b", buffering=0) as file:
        for page in range(2, len(data) // 4096):
            for offset in (*range(24), *range(24, 4096, 500)):
                at = page * 4096 + offset
                os.pwrite(file.fileno(), bytes([data[at] ^ 0xFF]), at)
                walk.renew()
                try:
                    found = [key for key, _ in walk.items(some, b"")]
                    assert found == sorted(found)
                    ends.add("walked")
                except PageError:
                    ends.add("refused")
                os.pwrite(file.fileno(), data[at : at + 1], at)
    walk.close()
    assert ends == {"walked", "refused"}
