"""The pages that a write is going to change, looked at by plain reads that believe none of them: what LMDB then touches is sound.

Theory of operation. LMDB looks at the kind of a page that a search meets, and believes the rest. Deleting goes further: what
a page has left is evened out with the pages beside it, and of those not even the kind is looked at. A page of zeros there makes
it write to memory that it does not own, which ends the process, and again at each start, since what was to be deleted still is.
So before a range is deleted it is walked here, in the file, as the last transaction left it. From that state the writer's
transaction began: what it changes lies in memory or in pages that were free, and only the writer commits.

Rules:

1. Looked at are all pages on the way to the range's keys, and beside them as far as evening out may reach: on each side
   ``BESIDE`` leaves under the same parent, and a branch with the outermost pages below it. Of large values, the first page's
   header: it says which pages the deletion frees.
2. A page is what its parent says: number, kind, and keys between the parent's. So another's page is noticed, or an older one.
3. A page that was found sound is not looked at again in the same transaction.
4. Where something is put, LMDB believes the page's own number, and frees that one. Putting is what a node does most, so the
   way to a key is looked at once: from then on its pages are those that this process has written. For entries, once a group is
   enough.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_left, bisect_right
from operator import lt
from pathlib import Path
from typing import NamedTuple

from raftlog.errors import UnreadableLogError
from raftlog.storage import layout
from raftlog.storage.page_format import (
    ADVICE,
    BIG_VALUE,
    BRANCH,
    LEAF,
    NO_PAGE,
    NODE,
    NUMBER,
    OVERFLOW_HEADER,
    PAGE_HEADER_SIZE,
    SUB_DATABASE,
    Meta,
    PageError,
    Tree,
    newest_meta,
    nodes_of,
    tree_of,
    value_fits,
)

_ENTRY_NODE = struct.Struct(f"={NODE.format.lstrip('=')}{layout.ENTRY_KEY_SIZE}s")
BESIDE = 2
"""Leaves beside a range that are looked at. One is what LMDB evens out with; that page may have too little as well."""


LOOKED_MAX = 100_000
"""Names of keys that are remembered: some megabytes. When there are more, all are forgotten, and looked at again."""


class _Branch(NamedTuple):
    keys: list[bytes]
    """Lowest key of each child; that of the first one is not stored."""
    children: list[int]


class _Leaf(NamedTuple):
    keys: list[bytes]
    big: list[tuple[int, int, int]]
    """Of values in pages of their own: position in ``keys``, first page, bytes."""


class _Range(NamedTuple):
    start: bytes
    stop: bytes
    count_max: int
    beside: bool
    """Whether the pages beside it are looked at as well."""


class SoundPages:
    """The data file at ``path``, for as long as it is written. Used by the writer's thread alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._state: _State | None = None
        self._looked: set[int] = set()

    def renew(self) -> None:
        """A transaction begins: what the last one left is another state."""
        self._state = None

    def find(self, database: bytes, start: bytes, stop: bytes, count_max: int) -> list[bytes]:
        """The first keys ``start <= key < stop``, at most ``count_max``; LMDB may delete them.

        Raises:
            UnreadableLogError: a page that deleting them may touch is damaged.
        """
        try:
            return self._now().find(database, _Range(start, stop, count_max, beside=True))
        except PageError as error:
            raise UnreadableLogError(f"{self._path} is damaged where something is to be deleted: {error}. {ADVICE}") from error

    def look_once(self, database: bytes, key: bytes, name: bytes) -> None:
        """Look at the pages on the way to ``key``, which is to be put, unless that was done before under ``name``.

        Raises:
            UnreadableLogError: one of them is damaged.
        """
        mark = hash((database, name))
        if mark in self._looked:
            return
        if len(self._looked) >= LOOKED_MAX:
            self._looked.clear()
        try:
            self._now().find(database, _Range(key, key + b"\0", 1, beside=False))
        except PageError as error:
            raise UnreadableLogError(f"{self._path} is damaged where something is to be put: {error}. {ADVICE}") from error
        self._looked.add(mark)

    def _now(self) -> _State:
        if self._state is None:
            self._state = _State(self._fd, newest_meta(self._fd, self._path))
        return self._state

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class _State:
    """What one transaction left."""

    def __init__(self, fd: int, meta: Meta) -> None:
        self._fd = fd
        self._meta = meta
        self._trees = {} if meta.main.root == NO_PAGE else _databases_of(self._read(meta.main.root), meta.main.root)
        self._branches: dict[int, _Branch] = {}
        self._sound: set[int] = set()
        """Leaves."""
        self._last: tuple[int, _Leaf | None] = NO_PAGE, None

    def find(self, database: bytes, wanted: _Range) -> list[bytes]:
        """See ``SoundPages``."""
        tree = self._trees.get(database)
        if tree is None:
            raise PageError("a database is gone")
        found: list[bytes] = []
        if tree.root != NO_PAGE:
            _Walk(self, tree.depth, wanted, found).into(tree.root, 1, b"", None)
        return found

    def branch(self, number: int, low: bytes, high: bytes | None) -> _Branch:
        """A branch with keys ``low <= key < high``."""
        branch = self._branches.get(number)
        if branch is None:
            branch = _branch_of(self._read(number), number)
            _check_order(number, branch.keys[1:], low, high)
            self._branches[number] = branch
        return branch

    def leaf(self, number: int, low: bytes, high: bytes | None) -> _Leaf:
        """A leaf with keys ``low <= key < high``. The last one is remembered: keys that are asked for one by one share it."""
        last, leaf = self._last
        if number != last or leaf is None:
            leaf = _leaf_of(self._read(number), number)
            _check_order(number, leaf.keys, low, high)
            self._sound.add(number)
            self._last = number, leaf
        return leaf

    def look_at_leaf(self, number: int, low: bytes, high: bytes | None) -> None:
        """As ``leaf``, where its keys are not wanted."""
        if number not in self._sound:
            self.leaf(number, low, high)

    def look_at_values(self, values: list[tuple[int, int]]) -> None:
        """Whether the pages of large values, (first page, bytes) each, are their own, by what their headers say."""
        fd, page_size, end = self._fd, self._meta.page_size, self._meta.last_page + 1
        for first, size in values:
            data = os.pread(fd, PAGE_HEADER_SIZE, first * page_size) if first < end else b""
            if len(data) == PAGE_HEADER_SIZE:
                header = OVERFLOW_HEADER.unpack(data)
                if value_fits(header, first, size, page_size) and header[-1] <= end - first:
                    continue
            raise PageError(f"page {first} is not the value's page that belongs there")

    def _read(self, number: int) -> bytes:
        size = self._meta.page_size
        if not 2 <= number <= self._meta.last_page:
            raise PageError(f"page {number} was never handed out")
        page = os.pread(self._fd, size, number * size)
        if len(page) < size:
            raise PageError(f"it is cut short: page {number} is in use")
        return page


class _Walk:
    """One search: ``found`` gets the keys."""

    def __init__(self, state: _State, depth: int, wanted: _Range, found: list[bytes]) -> None:
        self._state, self._depth = state, depth
        self._start, self._stop, self._count_max, self._beside_too = wanted
        self._found = found

    def into(self, number: int, level: int, low: bytes, high: bytes | None) -> None:
        """A page that may hold keys of the range, and those beside what of it does."""
        if level == self._depth:
            self._take(self._state.leaf(number, low, high))
            return
        branch = self._state.branch(number, low, high)
        lows = [low, *branch.keys[1:]]
        highs = [*branch.keys[1:], high]
        first = behind = bisect_right(lows, self._start, 1) - 1
        while behind == first or (behind < len(lows) and lows[behind] < self._stop and len(self._found) < self._count_max):
            self.into(branch.children[behind], level + 1, lows[behind], highs[behind])
            behind += 1
        if not self._beside_too:
            return
        reach = BESIDE if level + 1 == self._depth else 1
        for child in (*range(max(0, first - reach), first), *range(behind, min(behind + reach, len(lows)))):
            self._beside(branch.children[child], level + 1, lows[child], highs[child])

    def _take(self, leaf: _Leaf) -> None:
        """Take the keys of the range."""
        first, stop = bisect_left(leaf.keys, self._start), bisect_left(leaf.keys, self._stop)
        stop = min(stop, first + self._count_max - len(self._found))
        if leaf.big:
            self._state.look_at_values([(page, size) for at, page, size in leaf.big if first <= at < stop])
        self._found += leaf.keys[first:stop]

    def _beside(self, number: int, level: int, low: bytes, high: bytes | None) -> None:
        """A page beside the range; of a branch, the outermost pages below as well."""
        if level == self._depth:
            self._state.look_at_leaf(number, low, high)
            return
        branch = self._state.branch(number, low, high)
        lows = [low, *branch.keys[1:]]
        highs = [*branch.keys[1:], high]
        count, reach = len(lows), BESIDE if level + 1 == self._depth else 1
        for child in {*range(min(reach, count)), *range(max(0, count - reach), count)}:
            self._beside(branch.children[child], level + 1, lows[child], highs[child])


def _check_order(number: int, keys: list[bytes], low: bytes, high: bytes | None) -> None:
    if keys[0] < low or (high is not None and keys[-1] >= high) or not all(map(lt, keys, keys[1:])):
        raise PageError(f"page {number} is out of order")


def _databases_of(page: bytes, number: int) -> dict[bytes, Tree]:
    """The databases by name: they are few, so that the tree of their names is one page."""
    offsets, _ = nodes_of(page, number, LEAF)
    found = {}
    for offset in offsets:
        if offset > len(page) - NODE.size:
            raise PageError(f"page {number} is damaged")
        size, _, flags, key_size = NODE.unpack_from(page, offset)
        at = offset + NODE.size + key_size
        if flags == SUB_DATABASE:
            found[page[offset + NODE.size : at]] = tree_of(page[at : at + size])
    return found


def _branch_of(page: bytes, number: int) -> _Branch:
    offsets, upper = nodes_of(page, number, BRANCH)
    branch = _Branch([], [])
    stored = 0
    for offset in offsets:
        if not upper <= offset <= len(page) - NODE.size:
            raise PageError(f"page {number} is damaged")
        low, high, top, key_size = NODE.unpack_from(page, offset)
        end = offset + NODE.size + key_size
        branch.keys.append(page[offset + NODE.size : end])
        branch.children.append(low | high << 16 | top << 32)
        stored += end - offset + 1 & ~1
    if stored != len(page) - upper or len(offsets) < 2:
        raise PageError(f"page {number} is damaged")
    return branch


def _leaf_of(page: bytes, number: int) -> _Leaf:
    """A leaf as it is, where nothing in it contradicts the rest."""
    offsets, upper = nodes_of(page, number, LEAF)
    if min(offsets) < upper:
        raise PageError(f"page {number} is damaged")
    try:
        leaf, stored = _entries_of(page, offsets) or _items_of(page, offsets)
    except struct.error as error:
        raise PageError(f"page {number} is damaged") from error
    if stored != len(page) - upper:  # nodes overlap, or there is something between them, or one goes beyond the page
        raise PageError(f"page {number} is damaged")
    return leaf


def _entries_of(page: bytes, offsets: tuple[int, ...]) -> tuple[_Leaf, int] | None:
    """Nodes under keys of the size of an entry's, and their bytes in all; None where others are among them.

    Most of what is ever deleted is such, all with small values or all with large ones: done by columns it takes half the time.
    """
    if max(offsets) > len(page) - _ENTRY_NODE.size:
        return None
    sizes, high, flags, key_sizes, keys = zip(*[_ENTRY_NODE.unpack_from(page, at) for at in offsets], strict=True)
    kinds = set(flags)
    if len(kinds) > 1 or set(key_sizes) != {layout.ENTRY_KEY_SIZE}:
        return None
    if kinds == {BIG_VALUE}:
        pages = [NUMBER.unpack_from(page, at + _ENTRY_NODE.size)[0] for at in offsets]
        whole = [low | top << 16 for low, top in zip(sizes, high, strict=True)]
        big = list(zip(range(len(keys)), pages, whole, strict=True))
        return _Leaf(list(keys), big), len(keys) * (_ENTRY_NODE.size + NUMBER.size)
    if kinds != {0} or any(high):
        return None
    return _Leaf(list(keys), []), len(sizes) * _ENTRY_NODE.size + sum(sizes) + sum(map((1).__and__, sizes))


def _items_of(page: bytes, offsets: tuple[int, ...]) -> tuple[_Leaf, int]:
    leaf = _Leaf([], [])
    stored = 0
    for offset in offsets:
        low, high, flags, key_size = NODE.unpack_from(page, offset)
        key_at = offset + NODE.size
        end = key_at + key_size
        leaf.keys.append(page[key_at:end])
        if not flags:
            end += low | high << 16
        elif flags == BIG_VALUE:
            leaf.big.append((len(leaf.keys) - 1, NUMBER.unpack_from(page, end)[0], low | high << 16))
            end += NUMBER.size
        else:
            raise struct.error("flags of another kind of tree")
        if end > len(page):
            raise struct.error("beyond the page")
        stored += end - offset + 1 & ~1
    return leaf, stored
