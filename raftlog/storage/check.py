"""Reading all of a stopped node's data to find what is damaged: every page, every entry, every row, each by its own check.

Theory of operation. The file is read with plain reads (raftlog.storage.pages), never mapped, so that whatever is wrong with it
is a finding and not the end of the process; and each tree is walked to its end, so that one bad page hides only what it held.
A log must also be whole: indices without a gap, terms and offsets that never fall. What a node was deleting when it stopped
(raftlog.storage.transaction) is hidden from it, and is not looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from raftlog.core import entry
from raftlog.core.entry import EntryHeader
from raftlog.errors import DataDirectoryError, DataLossError, NewerFormatError
from raftlog.storage import identity, layout
from raftlog.storage.data_directory import IDENTITY_FILE
from raftlog.storage.datafile import opened
from raftlog.storage.environment import data_file, missing
from raftlog.storage.page_format import Tree
from raftlog.storage.pages import Broken, Leaf, PageFile
from raftlog.storage.reader import check_place
from raftlog.storage.transaction import Condemned

FINDINGS_MAX = 1_000
"""More are counted, not listed."""
TELL_BYTES = 8 << 20
"""Progress is told after so many more."""
_ROWS, _ENTRIES = "the rows", "the entries"

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is damaged, in words. ``group`` is the Raft group that it belongs to, where that is known."""

    group: int | None
    what: str


@dataclass(slots=True)
class Checked:
    """What was read, and what is damaged."""

    groups: set[int] = field(default_factory=set)
    entries: int = 0
    rows: int = 0
    size_bytes: int = 0
    """Of keys and values."""
    damaged: int = 0
    """How many findings there are."""
    findings: list[Finding] = field(default_factory=list)
    """The first ``FINDINGS_MAX`` of them."""

    def add(self, group: int | None, what: str) -> None:
        """One more finding."""
        self.damaged += 1
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(group, what))


def check(directory: Path, tell: Progress) -> Checked:
    """Read everything in a data directory's log. The caller holds the directory's lock.

    Raises:
        DataDirectoryError: there is no data file, or it is no LMDB data file at all.
        NewerFormatError: a newer version of raftlog, or of LMDB, wrote it.
    """
    path = data_file(directory)
    with opened(path) as file:
        if file is None:
            raise missing(path)
        checking = _Checking(file, tell)
        _check_identity(directory / IDENTITY_FILE, checking.found)
        checking.run()
        return checking.found


def _check_identity(path: Path, found: Checked) -> None:
    try:
        if identity.load(path) is None:
            found.add(None, f"there is no {path}: nobody knows whose log this is")
    except NewerFormatError:
        raise
    except DataDirectoryError as error:
        found.add(None, str(error))


class _Checking:
    def __init__(self, file: PageFile, tell: Progress) -> None:
        self.found = Checked()
        self._file = file
        self._tell = tell
        self._told_bytes = self._total_bytes = 0
        self._condemned: dict[int, Condemned] = {}
        self._last: EntryHeader | None = None
        """Header of the last entry that was sound."""

    def run(self) -> None:
        """Walk all trees: what is condemned must be known first, what is in use before what is free."""
        trees: dict[bytes, Tree] = {}
        listed = True
        for item in self._file.trees():
            if isinstance(item, Broken):
                listed = False
                self._broken("the list of databases", item)
            else:
                trees[item[0]] = item[1]
        self._total_bytes = sum(tree.pages for tree in trees.values()) * self._file.meta.page_size
        for name, key, take in (
            ("the meta", layout.META_DB, self._meta),
            (_ROWS, layout.ROWS_DB, self._row),
            (_ENTRIES, layout.ENTRIES_DB, self._entry),
        ):
            if key in trees:
                self._walk(name, trees[key], take)
            elif listed:
                self.found.add(None, f"{name}: their database is gone")
        for broken in self._file.free_pages():
            self._broken("the list of free pages", broken)
        self._tell(self._total_bytes, self._total_bytes)

    def _walk(self, name: str, tree: Tree, take: Callable[[bytes, bytes], None]) -> None:
        items, sound = 0, True
        for item in self._file.leaves(tree):
            if isinstance(item, Leaf):
                items += 1
                self._count(item)
                if item.is_tree:
                    self.found.add(None, f"{name}: key {item.key.hex()} is a database, and should be a value")
                    continue
                take(item.key, item.value)
            else:
                sound = False
                self._broken(name, item)
        if sound and items != tree.items:
            self.found.add(None, f"{name}: there are {items} of them, and should be {tree.items}")
        if tree.flags:
            self.found.add(None, f"{name}: their database is marked as one of another kind")

    def _count(self, item: Leaf) -> None:
        self.found.size_bytes += len(item.key) + len(item.value)
        if self.found.size_bytes - self._told_bytes >= TELL_BYTES:
            self._told_bytes = self.found.size_bytes
            self._tell(min(self._told_bytes, self._total_bytes), self._total_bytes)

    def _broken(self, where: str, broken: Broken) -> None:
        near = f", at or behind key {broken.key.hex()}" if broken.key else ""
        group = None
        if broken.key and where in (_ROWS, _ENTRIES) and len(broken.key) >= layout.ROW_KEY_FRONT_SIZE:
            group = layout.group_of(broken.key)
            if where == _ENTRIES and len(broken.key) == layout.ENTRY_KEY_SIZE:
                near = f", at or behind entry {layout.index_of(broken.key)} of group {group}"
        self.found.add(group, f"{where}: {broken.what}{near}")

    def _meta(self, key: bytes, value: bytes) -> None:
        try:
            if key == layout.FORMAT_KEY:
                layout.check_format(int.from_bytes(value), str(self._file.path))
            elif key.startswith(layout.CONDEMNED_PREFIX):
                self._condemned[layout.condemned_group(key)] = Condemned(*layout.unpack_condemned(value))
        except struct.error:
            self.found.add(None, f"the meta: {key!r} has a value of {len(value)} bytes")

    def _row(self, key: bytes, value: bytes) -> None:
        if len(key) < layout.ROW_KEY_FRONT_SIZE:
            self.found.add(None, f"{_ROWS}: key {key.hex()} is too short")
            return
        group = layout.group_of(key)
        if self._condemned.get(group, Condemned(0, False)).whole:
            return
        self.found.rows += 1
        self.found.groups.add(group)
        try:
            layout.open_row(key, memoryview(value))
        except DataLossError as error:
            self.found.add(group, str(error))

    def _entry(self, key: bytes, value: bytes) -> None:
        if len(key) != layout.ENTRY_KEY_SIZE:
            self.found.add(None, f"{_ENTRIES}: key {key.hex()} has a wrong length")
            return
        group, index = layout.group_of(key), layout.index_of(key)
        if index < self._condemned.get(group, Condemned(0, False)).keep_from:
            return
        self.found.entries += 1
        self.found.groups.add(group)
        try:
            header = entry.decode(value).header
            check_place(header, group, index)
        except DataLossError as error:
            self.found.add(group, f"entry {index} of group {group}: {error}")
            header = None
        self._follows(group, index, header)

    def _follows(self, group: int, index: int, header: EntryHeader | None) -> None:
        last = self._last
        if last is not None and last.group == group:
            if index > last.index + 1:
                self.found.add(group, f"entries {last.index + 1} to {index - 1} of group {group} are missing")
            if header is not None and (header.term < last.term or header.base_offset < last.next_offset):
                self.found.add(group, f"entry {index} of group {group} has a lower term or offset than the one before it")
        if header is not None:
            self._last = header
        elif last is not None and last.group == group:
            self._last = last._replace(index=index)
