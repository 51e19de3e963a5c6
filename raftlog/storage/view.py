"""A group's rows as of one moment, page by page: what a snapshot is read from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lmdb

from raftlog.storage import layout
from raftlog.storage.environment import Databases
from raftlog.storage.reader import LmdbReader


class LmdbView(LmdbReader):
    """``raftlog.storage.port.GroupView``: a read transaction of its own, which stays. ``closed`` is called with it once."""

    def __init__(self, env: lmdb.Environment, dbs: Databases, path: Path, group: int, closed: Callable[[LmdbView], None]) -> None:
        super().__init__(env, dbs, path)
        self._group = group
        self._on_closed: Callable[[LmdbView], None] | None = closed

    def page(self, start: tuple[int, bytes], bytes_max: int) -> list[tuple[int, bytes, bytes]]:
        """See the port."""
        found: list[tuple[int, bytes, bytes]] = []
        size = 0
        if self._dropped(self._group):
            return found
        front = layout.group_key(self._group)
        with self._reading(f"the rows of group {self._group}"):
            for key, stored in self._items(layout.ROWS_DB, layout.row_key(self._group, *start)):
                size += len(key) + len(stored)
                if not key.startswith(front) or (found and size > bytes_max):
                    break
                found.append((key[len(front)], key[layout.ROW_KEY_FRONT_SIZE :], layout.open_row(key, stored)))
        return found

    def _met_damage(self) -> None:
        """It is of one group, and of one moment that does not come again: so it stays damaged, and its reader gives it up."""

    def close(self) -> None:
        """See the port."""
        if self._on_closed is not None:
            self.end_reading()
            self._on_closed(self)
            self._on_closed = None
