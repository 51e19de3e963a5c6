"""The term of an entry that cannot be read, by what stands beside it.

Theory of operation. A leader begins its term with a no-op, and nothing else makes one. So an entry before any other kind of entry
is of that one's term; and one before a no-op is of a term before it, which is known where that leaves one only. An exception is a
configuration that was made by force (``forcing``): it begins a term too, so nothing is concluded from a configuration.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

from raftlog.core.entry import EntryHeader, EntryKind
from raftlog.errors import DataLossError


class Headers(Protocol):
    """A log's headers."""

    def header(self, index: int) -> EntryHeader | None:
        """Of an entry, None outside of the log.

        Raises:
            DataLossError: it is damaged, or missing.
        """
        ...


def term_by_neighbours(log: Headers, index: int) -> int | None:
    """The term of the entry at ``index``, None where its neighbours do not tell."""
    before, after = _read(log, index - 1), _read(log, index + 1)
    if after is None or after.kind is EntryKind.CONFIGURATION:
        return None
    if after.kind is not EntryKind.NOOP:
        return after.term
    return before.term if before is not None and before.term == after.term - 1 else None


def _read(log: Headers, index: int) -> EntryHeader | None:
    with suppress(DataLossError):
        return log.header(index)
    return None
