"""LMDB's data file read as a file: its trees and values, by plain reads, so that no damage to it ends the process.

Theory of operation. LMDB maps its file and believes it: a page that lies behind the file's end, or a number in a page that
makes no sense, is a SIGBUS or SIGSEGV. Here a page is read, its header and its nodes are looked at, and what is wrong is an
item like any other: the walk goes on beside it. The newer of the file's two meta pages says where the trees begin and which
page is the last that was ever handed out; pages up to that one may be missing at the end, if no tree refers to them.

The layout is ``raftlog.storage.page_format``'s.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from collections.abc import Iterator
from operator import gt
from pathlib import Path
from typing import NamedTuple

from raftlog.storage.page_format import (
    BIG_VALUE,
    BRANCH,
    INTEGER_KEYS,
    KINDS,
    LEAF,
    NO_PAGE,
    NODE,
    NUMBER,
    OVERFLOW,
    PAGE_HEADER,
    PAGE_HEADER_SIZE,
    SUB_DATABASE,
    PageError,
    Tree,
    newest_meta,
    tree_of,
)


class Leaf(NamedTuple):
    """One item of a tree. ``value`` is empty where values are not read."""

    key: bytes
    value: bytes
    is_tree: bool


class Broken(NamedTuple):
    """What is wrong at ``page``; ``key``: of the item that it concerns, where that is known."""

    page: int
    what: str
    key: bytes | None = None


class _Place(NamedTuple):
    """A page to be walked: how deep it lies, and between which keys its own must be (``high`` excluded, None: any)."""

    number: int
    depth: int
    low: bytes
    high: bytes | None


class _Node(NamedTuple):
    key: bytes
    child: int
    """Of a branch: the page below."""
    size: int
    """Of a leaf: bytes of the value."""
    flags: int
    at: int
    """Where the value, or the number of the page that it begins on, stands in the page."""
    stored: int
    """Bytes of the page that the node takes."""


class PageFile:
    """An open data file.

    Raises:
        UnreadableLogError: the file at ``path`` is no LMDB data file.
        NewerFormatError: it has a data version that this release does not write.
    """

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self.path = path
        self.meta = newest_meta(fd, path)
        self.pages = os.fstat(fd).st_size // self.meta.page_size
        """Whole pages of the file."""
        self._seen = bytearray(self.pages)
        self._claimed = 0
        """Pages that trees have been found to use."""

    @property
    def sound_length(self) -> int:
        """Bytes of a file that has every page which was ever handed out."""
        return (self.meta.last_page + 1) * self.meta.page_size

    def structure(self, tree: Tree) -> Iterator[Broken]:
        """What is wrong with the pages of a tree, and of trees within it. Values stored outside of the tree's own pages are
        not read, but must lie within the file."""
        todo = [tree.root]
        while todo:
            number = todo.pop()
            try:
                page, is_branch, nodes = self._tree_page(number)
                for node in nodes:
                    if is_branch:
                        todo.append(node.child)
                    elif node.flags & BIG_VALUE:
                        self._claim(*self._extent(page, node))
                    elif node.flags & SUB_DATABASE:
                        todo.append(tree_of(page[node.at : node.at + node.size]).root)
            except PageError as error:
                yield Broken(number, str(error))

    def leaves(self, tree: Tree) -> Iterator[Leaf | Broken]:
        """A tree's items with their values, in order of key, and what is wrong in between. Keys that are numbers: big-endian."""
        before = self._claimed
        todo = [_Place(tree.root, 1, b"", None)] if tree.root != NO_PAGE else []
        whole = True
        while todo:
            place = todo.pop()
            try:
                page, is_branch, nodes = self._tree_page(place.number)
                if tree.flags & INTEGER_KEYS and sys.byteorder == "little":
                    nodes = [node._replace(key=node.key[::-1]) for node in nodes]  # so that their bytes are in order as well
                _check_order(place, nodes, is_branch, tree.depth)
            except PageError as error:
                whole = False
                yield Broken(place.number, str(error), place.low)
                continue
            if is_branch:
                todo.extend(_children(place, nodes))
                continue
            for node in nodes:
                try:
                    value = self._value(page, node)
                except PageError as error:
                    whole = False
                    yield Broken(place.number, str(error), node.key)
                else:
                    yield Leaf(node.key, value, bool(node.flags & SUB_DATABASE))
        pages = self._claimed - before
        if whole and pages != tree.pages:
            yield Broken(tree.root, f"the tree at page {tree.root} has {pages} pages, and should have {tree.pages}")

    def trees(self) -> Iterator[tuple[bytes, Tree] | Broken]:
        """The environment's databases by name."""
        for item in self.leaves(self.meta.main):
            if isinstance(item, Broken):
                yield item
            elif item.is_tree:
                try:
                    yield item.key, tree_of(item.value)
                except PageError as error:
                    yield Broken(self.meta.main.root, str(error), item.key)

    def free_pages(self) -> Iterator[Broken]:
        """What is wrong with the list of free pages; after all trees were walked, also pages that are used and free."""
        for item in self.leaves(self.meta.free):
            if isinstance(item, Broken):
                yield item
                continue
            numbers = [number for (number,) in struct.iter_unpack("=Q", item.value[: len(item.value) & ~7])]
            count = numbers[0] if numbers else -1
            if count < 0 or count != len(numbers) - 1:
                yield Broken(self.meta.free.root, "the list of free pages is damaged")
                continue
            for number in numbers[1:]:
                if number > self.meta.last_page:
                    yield Broken(number, f"page {number} is listed as free, and was never handed out")
                elif number < self.pages and self._seen[number]:
                    yield Broken(number, f"page {number} is listed as free, and is in use or listed before")
                elif number < self.pages:
                    self._seen[number] = 1

    def what_every_write_reads(self, names: tuple[bytes, ...]) -> Iterator[Broken]:
        """What is wrong with the list of databases, with those called ``names``, and with the list of free pages. LMDB believes
        that list: what stands there is written over."""
        for item in list(self.trees()):
            if isinstance(item, Broken):
                yield item
            elif item[0] in names:
                yield from (broken for broken in self.leaves(item[1]) if isinstance(broken, Broken))
        for leaf in self.leaves(self.meta.free):
            if isinstance(leaf, Broken):
                yield leaf
            elif not self._is_free_list(leaf.value):
                yield Broken(self.meta.free.root, "the list of free pages is damaged")

    def _is_free_list(self, value: bytes) -> bool:
        """A count, and page numbers that fall. There may be millions of them: so nothing here looks at them one by one."""
        numbers = array("Q", value[: len(value) & ~7])
        if not numbers or numbers[0] >= len(numbers):
            return False
        pages = numbers[1 : numbers[0] + 1]
        return not pages or (pages[0] <= self.meta.last_page and pages[-1] >= 2 and all(map(gt, pages, pages[1:])))

    def _tree_page(self, number: int) -> tuple[bytes, bool, list[_Node]]:
        """A page of a tree, whether it is a branch, and its nodes."""
        if number == NO_PAGE:
            return b"", False, []
        self._claim(number, 1)
        size = self.meta.page_size
        page = os.pread(self._fd, size, number * size)
        if len(page) < size:
            raise self._cut_short(number)
        own, _, flags, lower, upper = PAGE_HEADER.unpack_from(page)
        is_branch = flags & KINDS == BRANCH
        if own != number or not (is_branch or flags & KINDS == LEAF):
            raise PageError(f"page {number} is not the tree's page that belongs there")
        if not PAGE_HEADER_SIZE <= lower <= upper <= size or lower % 2:
            raise PageError(f"page {number} is damaged")
        offsets = struct.unpack_from(f"={(lower - PAGE_HEADER_SIZE) // 2}H", page, PAGE_HEADER_SIZE)
        nodes = [_node_of(page, number, offset, upper, is_branch) for offset in offsets]
        if sum(node.stored for node in nodes) != size - upper:
            raise PageError(f"page {number} is damaged")  # nodes overlap, or there is something between them
        return page, is_branch, nodes

    def _value(self, page: bytes, node: _Node) -> bytes:
        if not node.flags & BIG_VALUE:
            return page[node.at : node.at + node.size]
        first, count = self._extent(page, node)
        self._claim(first, count)
        data = os.pread(self._fd, PAGE_HEADER_SIZE + node.size, first * self.meta.page_size)
        if len(data) < PAGE_HEADER_SIZE + node.size:
            raise self._cut_short(first + count - 1)
        own, _, flags, _, _ = PAGE_HEADER.unpack_from(data)
        if own != first or flags & KINDS != OVERFLOW:
            raise PageError(f"page {first} is not the value's page that belongs there")
        return data[PAGE_HEADER_SIZE:]

    def _extent(self, page: bytes, node: _Node) -> tuple[int, int]:
        """The first page of a value outside of its tree's pages, and how many it takes."""
        count = -(-(PAGE_HEADER_SIZE + node.size) // self.meta.page_size)
        return NUMBER.unpack_from(page, node.at)[0], count

    def _claim(self, first: int, count: int) -> None:
        """Note pages as used by a tree."""
        if first + count > self.pages:
            raise self._cut_short(first + count - 1)
        if first < 2 or any(self._seen[first : first + count]):
            raise PageError(f"page {first} is used twice")
        if first + count - 1 > self.meta.last_page:
            raise PageError(f"page {first + count - 1} is in use, and was never handed out")
        self._seen[first : first + count] = b"\1" * count
        self._claimed += count

    def _cut_short(self, number: int) -> PageError:
        return PageError(f"it is cut short: page {number} is in use, the file ends at page {self.pages}")


def _node_of(page: bytes, number: int, offset: int, upper: int, is_branch: bool) -> _Node:
    if offset < upper or offset + NODE.size > len(page):
        raise PageError(f"page {number} is damaged")
    low, high, flags, key_size = NODE.unpack_from(page, offset)
    key_at = offset + NODE.size
    at = key_at + key_size
    key = page[key_at:at]
    if is_branch:
        if at > len(page):
            raise PageError(f"page {number} is damaged")
        return _Node(key, low | high << 16 | flags << 32, 0, 0, at, _even(at - offset))
    size = low | high << 16
    end = at + (NUMBER.size if flags & BIG_VALUE else size)
    if end > len(page) or flags & ~(BIG_VALUE | SUB_DATABASE):
        raise PageError(f"page {number} is damaged")
    return _Node(key, 0, size, flags, at, _even(end - offset))


def _even(size: int) -> int:
    return size + (size & 1)


def _check_order(place: _Place, nodes: list[_Node], is_branch: bool, depth: int) -> None:
    """Whether a page has its keys where a search looks for them. The first key of a branch is not looked at by any."""
    if is_branch == (place.depth == depth) or not nodes:
        raise PageError(f"page {place.number} is not the tree's page that belongs there")
    last = place.low
    for number, node in enumerate(nodes):
        if is_branch and number == 0:
            continue
        if node.key < last or (node.key == last and (is_branch or number > 0)):
            raise PageError(f"page {place.number} is out of order")
        last = node.key
    if place.high is not None and last >= place.high:
        raise PageError(f"page {place.number} is out of order")


def _children(place: _Place, nodes: list[_Node]) -> list[_Place]:
    """The pages below a branch, the last one first."""
    lows = [place.low, *(node.key for node in nodes[1:])]
    highs = [*(node.key for node in nodes[1:]), place.high]
    children = zip(nodes, lows, highs, strict=True)
    return [_Place(node.child, place.depth + 1, low, high) for node, low, high in children][::-1]
