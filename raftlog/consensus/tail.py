"""The tail cache: the newest durable entries of all groups, in memory, within one budget for the whole node.

The usual reader is at the tail; a budget for each group would multiply with the groups.
"""

from __future__ import annotations

from collections import OrderedDict

from raftlog.core.entry import Entry

INDEX_MAX = 1 << 64


class TailCache:
    """Entries by (group, index); the oldest written goes first when the budget is spent."""

    __slots__ = ("_budget_bytes", "_entries", "_size_bytes")

    def __init__(self, budget_bytes: int) -> None:
        self._entries: OrderedDict[tuple[int, int], Entry] = OrderedDict()
        self._budget_bytes = budget_bytes
        self._size_bytes = 0  # sum of len(entry.data); ≤ _budget_bytes after every put

    def put(self, entry: Entry) -> None:
        """Remember an entry; one larger than the whole budget is not kept."""
        key = (entry.header.group, entry.header.index)
        self._forget(key)
        self._entries[key] = entry
        self._size_bytes += len(entry.data)
        while self._size_bytes > self._budget_bytes:
            _, oldest = self._entries.popitem(last=False)
            self._size_bytes -= len(oldest.data)

    def get(self, group: int, index: int) -> Entry | None:
        """The entry, if it is still here."""
        return self._entries.get((group, index))

    def forget(self, group: int, first: int = 0, stop: int = INDEX_MAX) -> None:
        """Forget the entries ``first <= index < stop`` of a group, or all of them."""
        if stop - first > len(self._entries):
            for key in [key for key in self._entries if key[0] == group and first <= key[1] < stop]:
                self._forget(key)
            return
        for index in range(first, stop):
            self._forget((group, index))

    def _forget(self, key: tuple[int, int]) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size_bytes -= len(entry.data)

    @property
    def size_bytes(self) -> int:
        """Bytes held now."""
        return self._size_bytes
