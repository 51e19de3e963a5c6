"""A tree's items in order of key, by plain reads: what LMDB's cursors would be for, over pages that nobody has looked at.

Theory of operation. Where LMDB looks a key up, a page of another kind on the way is an error. Its cursors take more for granted:
where they go on to the page beside (``next``, ``prev``, and ``set_range`` behind a page's last key), they assert what it is, and
a false assertion ends the process. Opening a group walks, so that one page of zeros would end a node at each start again. So
walks are done here, over the tree that a read transaction sees: LMDB says where its root is, and writes none of its pages while
the transaction lasts.

Rules:

1. A page is what its parent says: number, kind, and keys between the parent's. Nothing else in it is believed: what is asked for
   lies within the page, or the file, and comes in order.
2. Only pages on the way are read, and of them only the keys that a search meets: most walks are to the ends of one log of many.
3. The way to the last leaf is remembered. Groups are opened in order, so that the next walk begins near it.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from raftlog.storage.page_format import (
    BIG_VALUE,
    BRANCH,
    LEAF,
    NO_PAGE,
    NODE,
    NUMBER,
    OVERFLOW_HEADER,
    PAGE_HEADER_SIZE,
    PageError,
    Tree,
    nodes_of,
    value_fits,
)

_key_size = struct.Struct("=H").unpack_from
_KEY_AT = NODE.size
_KEY_SIZE_AT = NODE.size - 2


class _Page(NamedTuple):
    """A page of a tree, which has keys ``low <= key < high``; None: any."""

    number: int
    data: bytes
    offsets: tuple[int, ...]
    """Where the nodes stand."""
    upper: int
    """From where on they may."""
    low: bytes
    high: bytes | None

    def key(self, position: int) -> bytes:
        """The key of a node."""
        data, at = self.data, self.offsets[position]
        if self.upper <= at <= len(data) - _KEY_AT:
            start = at + _KEY_AT
            end = start + _key_size(data, at + _KEY_SIZE_AT)[0]
            if end <= len(data):
                return data[start:end]
        raise self.damaged("is damaged")

    def position(self, key: bytes, start: int = 0, *, behind: bool = False) -> int:
        """Of the first node, from ``start`` on, whose key is not lower; ``behind``: that is higher."""
        data = self.data

        def key_at(at: int) -> bytes:  # ``key`` without its checks: most of what a search costs
            return data[at + _KEY_AT : at + _KEY_AT + _key_size(data, at + _KEY_SIZE_AT)[0]]

        try:
            return (bisect_right if behind else bisect_left)(self.offsets, key, start, key=key_at)
        except struct.error as error:
            raise self.damaged("is damaged") from error

    def leads_to(self, key: bytes, upwards: bool) -> bool:
        """Whether the search for ``key``, or else for what is below it, comes through this page."""
        if upwards:
            return self.low <= key and (self.high is None or key < self.high)
        return self.low < key and (self.high is None or key <= self.high)

    def child(self, key: bytes, upwards: bool) -> tuple[int, bytes, bytes | None]:
        """Of a branch: the page below that leads there, and between which keys its own are."""
        count = len(self.offsets)
        position = self.position(key, 1, behind=upwards) - 1
        low = self.key(position) if position else self.low
        high = self.key(position + 1) if position + 1 < count else self.high
        if low < self.low or (high is not None and (high <= low or (self.high is not None and high > self.high))):
            raise self.damaged("is out of order")
        at = self.offsets[position]
        if not self.upper <= at <= len(self.data) - NODE.size:
            raise self.damaged("is damaged")
        first, second, third, _ = NODE.unpack_from(self.data, at)
        return first | second << 16 | third << 32, low, high

    def damaged(self, how: str) -> PageError:
        """What is wrong with it."""
        return PageError(f"page {self.number} {how}")


class PlainWalk:
    """The data file at ``path``, as the read transactions of one reader see it. Used on the event loop alone."""

    def __init__(self, path: Path, page_size: int) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._page_size = page_size
        self._ways: dict[int, list[_Page]] = {}
        """By root: the pages from there to the last leaf."""

    def renew(self) -> None:
        """A read transaction begins: pages that the last one saw may be others now."""
        self._ways.clear()

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def first(self, tree: Tree, start: bytes) -> bytes | None:
        """The first key that is not lower than ``start``.

        Raises:
            PageError: it cannot be told.
        """
        at: bytes | None = start if tree.root != NO_PAGE else None
        while at is not None:
            leaf = self._leaf(tree, at, True)
            position = leaf.position(start)
            if position < len(leaf.offsets):
                found = leaf.key(position)
                if found < start:
                    raise leaf.damaged("is out of order")
                return found
            at = leaf.high
        return None

    def last(self, tree: Tree, stop: bytes) -> bytes | None:
        """The last key that is lower than ``stop``. As above."""
        at = stop if tree.root != NO_PAGE else b""
        while at:
            leaf = self._leaf(tree, at, False)
            position = leaf.position(stop)
            if position:
                found = leaf.key(position - 1)
                if found >= stop:
                    raise leaf.damaged("is out of order")
                return found
            at = leaf.low
        return None

    def value(self, tree: Tree, key: bytes) -> memoryview | None:
        """The value under ``key``. As above."""
        if tree.root == NO_PAGE:
            return None
        leaf = self._leaf(tree, key, True)
        position = leaf.position(key)
        if position == len(leaf.offsets) or leaf.key(position) != key:
            return None
        return next(self._items_of(leaf, position, key))[1]

    def items(self, tree: Tree, start: bytes) -> Iterator[tuple[bytes, memoryview]]:
        """Keys from the first on that is not lower than ``start``, with their values. To be used up before ``renew``.

        Raises:
            PageError: at the item that cannot be read.
        """
        at: bytes | None = start if tree.root != NO_PAGE else None
        while at is not None:
            leaf = self._leaf(tree, at, True)
            yield from self._items_of(leaf, leaf.position(start), start)
            at = leaf.high

    def _leaf(self, tree: Tree, key: bytes, upwards: bool) -> _Page:
        """The leaf that the search for ``key``, or else for what is below it, comes to."""
        way = self._ways.setdefault(tree.root, [])
        while way and not way[-1].leads_to(key, upwards):
            way.pop()
        if not way:
            way.append(self._page(tree.root, b"", None, LEAF if tree.depth <= 1 else BRANCH))
        while len(way) < tree.depth:
            way.append(self._page(*way[-1].child(key, upwards), LEAF if len(way) + 1 == tree.depth else BRANCH))
        return way[-1]

    def _page(self, number: int, low: bytes, high: bytes | None, kind: int) -> _Page:
        data = self._read(number, 0, self._page_size)
        if len(data) < self._page_size:
            raise PageError(f"it is cut short: page {number} is in use")
        page = _Page(number, data, *nodes_of(data, number, kind), low, high)
        # Another's leaf would else seem to have nothing of what is looked for.
        if kind == LEAF and (page.key(0) < low or (high is not None and page.key(len(page.offsets) - 1) >= high)):
            raise page.damaged("is out of order")
        return page

    def _items_of(self, leaf: _Page, position: int, start: bytes) -> Iterator[tuple[bytes, memoryview]]:
        """A leaf's items from ``position`` on, where those begin that are not lower than ``start``."""
        data, last = leaf.data, start
        view = memoryview(data)
        for at in leaf.offsets[position:]:
            if not leaf.upper <= at <= len(data) - NODE.size:
                raise leaf.damaged("is damaged")
            size, high, flags, key_size = NODE.unpack_from(data, at)
            end = at + NODE.size + key_size
            key = data[at + NODE.size : end]
            if key < last:
                raise leaf.damaged("is out of order")
            last = key
            if flags == BIG_VALUE and end + NUMBER.size <= len(data):
                yield key, self._value(NUMBER.unpack_from(data, end)[0], size | high << 16)
            elif flags or high or end + size > len(data):
                raise leaf.damaged("is damaged")
            else:
                yield key, view[end : end + size]

    def _value(self, first: int, size: int) -> memoryview:
        """A value of so many bytes, in pages of its own."""
        header = self._read(first, 0, PAGE_HEADER_SIZE)
        if len(header) == PAGE_HEADER_SIZE and value_fits(OVERFLOW_HEADER.unpack(header), first, size, self._page_size):
            data = self._read(first, PAGE_HEADER_SIZE, size)
            if len(data) == size:
                return memoryview(data)
        raise PageError(f"page {first} is not the value's page that belongs there")

    def _read(self, number: int, offset: int, size: int) -> bytes:
        """Bytes of the file; fewer, where it ends before."""
        place = number * self._page_size + offset
        return os.pread(self._fd, size, place) if place < 1 << 63 else b""
