"""How LMDB lays out its data file: meta pages, the pages of trees and of large values; read as bytes, without LMDB.

The layout is that of LMDB 0.9 on a 64-bit machine (``mdb.c``: MDB_page, MDB_node, MDB_meta, MDB_db; data version 1), in the
machine's own byte order. An environment of another version is refused as of a newer format.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

from raftlog.errors import NewerFormatError, UnreadableLogError

MAGIC = 0xBEEFC0DE
DATA_VERSION = 1
PAGE_HEADER = struct.Struct("=QHHHH")  # number, pad, flags, lower, upper
PAGE_HEADER_SIZE = 16
OVERFLOW_HEADER = struct.Struct("=QHHI")  # number, pad, flags, pages; for a value in pages of its own
META_FRONT = struct.Struct("=IIQQ")  # magic, version, address, map size
DB = struct.Struct("=IHHQQQQQ")  # pad, flags, depth, branch, leaf and overflow pages, entries, root
META_TAIL = struct.Struct("=QQ")  # last page, transaction id
NODE = struct.Struct("=HHHH")  # low, high, flags, key size
NUMBER = struct.Struct("=Q")
BRANCH, LEAF, OVERFLOW = 0x01, 0x02, 0x04
KINDS = BRANCH | LEAF | OVERFLOW
BIG_VALUE, SUB_DATABASE = 0x01, 0x02
INTEGER_KEYS = 0x08  # of a tree: keys are numbers in the machine's byte order, and in order as numbers
NO_PAGE = (1 << 64) - 1
META_SIZE = PAGE_HEADER_SIZE + META_FRONT.size + 2 * DB.size + META_TAIL.size

ADVICE = "Restore it from a copy, or remove this data directory and let the node join the cluster again as a new one."


class Tree(NamedTuple):
    """A database by its own account of itself: the page of its root, its flags, and how deep it is, pages and items it has."""

    root: int
    flags: int
    depth: int
    pages: int
    items: int


class Meta(NamedTuple):
    """What the newest meta page says."""

    page_size: int
    free: Tree
    main: Tree
    last_page: int
    transaction: int


class PageError(Exception):
    """A page is not what its tree says it is."""


def newest_meta(fd: int, path: Path) -> Meta:
    """The newer of an open file's two meta pages.

    Raises:
        UnreadableLogError: it is no LMDB data file.
        NewerFormatError: it has a data version that this release does not write.
    """
    first = _meta_at(fd, path, 0)
    if first is None:
        raise UnreadableLogError(f"{path} is not an LMDB data file, or its first page is damaged. {ADVICE}")
    second = _meta_at(fd, path, first.page_size)
    return first if second is None or first.transaction > second.transaction else second


def _meta_at(fd: int, path: Path, offset: int) -> Meta | None:
    data = os.pread(fd, META_SIZE, offset)
    if len(data) < META_SIZE:
        return None
    magic, version, _, _ = META_FRONT.unpack_from(data, PAGE_HEADER_SIZE)
    if magic != MAGIC:
        return None
    if version != DATA_VERSION:
        raise NewerFormatError(f"{path} has LMDB's data version {version}; this version of raftlog reads version {DATA_VERSION}")
    at = PAGE_HEADER_SIZE + META_FRONT.size
    page_size = DB.unpack_from(data, at)[0]
    free, main = tree_of(data[at : at + DB.size]), tree_of(data[at + DB.size : at + 2 * DB.size])
    last_page, transaction = META_TAIL.unpack_from(data, at + 2 * DB.size)
    if page_size < 512 or page_size & (page_size - 1):
        return None
    return Meta(page_size, free, main, last_page, transaction)


def tree_of(data: bytes) -> Tree:
    """A database's own account of itself."""
    if len(data) != DB.size:
        raise PageError("a database's root is damaged")
    _, flags, depth, branches, leaves, overflow, items, root = DB.unpack(data)
    return Tree(root, flags, depth, branches + leaves + overflow, items)


def nodes_of(page: bytes, number: int, kind: int) -> tuple[tuple[int, ...], int]:
    """Where a tree page's nodes stand, one at least, and from where on they may.

    Raises:
        PageError: it is not that page of the tree.
    """
    own, _, flags, lower, upper = PAGE_HEADER.unpack_from(page)
    if own != number or flags & KINDS != kind:
        raise PageError(f"page {number} is not the tree's page that belongs there")
    if not PAGE_HEADER_SIZE < lower <= upper <= len(page) or lower % 2:
        raise PageError(f"page {number} is damaged")
    return struct.unpack_from(f"={(lower - PAGE_HEADER_SIZE) // 2}H", page, PAGE_HEADER_SIZE), upper


def value_fits(header: tuple[int, ...], first: int, size: int, page_size: int) -> bool:
    """Whether the header of page ``first`` says that a value of ``size`` bytes begins there."""
    own, _, flags, count = header
    return own == first and flags & KINDS == OVERFLOW and PAGE_HEADER_SIZE + size <= count * page_size
