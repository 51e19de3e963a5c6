"""One write batch as one LMDB transaction, and the deletion in steps of what it condemns.

Theory of operation. Deleting an entry costs a page of the tree, a page for the free list and, in Python, one chance to
lose the GIL to the event loop; a trim of a gigabyte would hold up every commit of the node. So a batch deletes at most
``INLINE_DELETES_MAX`` entries and rows itself. What is left over is *condemned*: a small row in ``meta``, in the same
transaction, names the range. From then on readers do not see it, and the writer deletes it in steps of
``STEP_DELETES_MAX`` between batches. A crash in between loses nothing: condemned ranges are read again at opening.

Rules:

1. What is condemned is invisible as soon as the transaction that condemned it is; deleting it changes nothing visible.
2. Only prefixes of a log are condemned, or whole groups. A log's tail is always truncated in the transaction itself.
3. Nothing is ever put into a condemned range: a batch that would first deletes the whole range, in its own transaction.
4. Nothing is deleted before it has been looked at (raftlog.storage.sound_pages): over a damaged page LMDB may end the process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import lmdb

from raftlog.storage import layout
from raftlog.storage.environment import Databases
from raftlog.storage.port import WriteBatch
from raftlog.storage.sound_pages import SoundPages

INLINE_DELETES_MAX = 256
"""Deletes within a batch's own transaction: half a millisecond, and the usual trim needs no second one."""
STEP_DELETES_MAX = 1_024
"""Deletes in one step between batches: a few milliseconds that a commit may have to wait for."""
CAREFUL_DELETES_MAX = 8
"""Deletes in one step where there is no space. LMDB lists the pages that a transaction frees in pages of their own: 8
entries of 1 MB are five in a row, 1,024 of them would be 514."""


MOVED_AT_ONCE = 1_024
"""Rows in memory while they are moved from one group to another."""


class Condemned(NamedTuple):
    """Entries below ``keep_from`` are to be deleted; if ``whole``, the group's rows too."""

    keep_from: int
    whole: bool


WHOLE = Condemned(layout.INDEX_MAX, True)


class BatchWriter:
    """Applies one batch inside one write transaction and gathers what changes about the condemned ranges.

    ``condemned`` is the state before the batch; it is not changed. ``deletes_max`` bounds the deletes that could as well be
    left over. Afterwards ``changes`` maps each group whose range changed to its new one, or to None where nothing is
    condemned any longer.
    """

    def __init__(
        self,
        txn: lmdb.Transaction[memoryview],
        dbs: Databases,
        sound: SoundPages,
        condemned: dict[int, Condemned],
        deletes_max: int,
    ) -> None:
        self._txn = txn
        self._dbs = dbs
        self._sound = sound
        self._condemned = condemned
        self._deletes_left = deletes_max
        self._lowest: dict[int, int] = {}
        self.changes: dict[int, Condemned | None] = {}

    def apply(self, batch: WriteBatch) -> None:
        """Write ``batch`` in the order of the port's rule 3."""
        for group, index in batch.entries:
            self._lowest.setdefault(group, index)
        if self._condemned or batch.drop:
            self._make_room(batch)
        for group in batch.drop:
            self._condemn(group, WHOLE)
        for group, source in batch.install.items():
            self._delete_rows(group, None)
            self._move_rows(source, group)
        for group, index in batch.truncate.items():
            self._delete_entries(group, index, layout.INDEX_MAX, None)
        for group, index in batch.trim.items():
            self._condemn(group, Condemned(index, False))
        if batch.entries:
            for group, index in self._lowest.items():
                self._sound.look_once(layout.ENTRIES_DB, layout.entry_key(group, index), layout.group_key(group))
            items = sorted((layout.entry_key(*key), data) for key, data in batch.entries.items())
            self._txn.cursor(self._dbs.entries).putmulti(items)
        if batch.rows:
            self._put_rows(batch)
        for changed, range_ in self.changes.items():
            if range_ is not None:
                self._txn.put(layout.condemned_key(changed), layout.pack_condemned(*range_), db=self._dbs.meta)
            elif changed in self._condemned:
                self._delete_key(self._dbs.meta, layout.condemned_key(changed))

    def step(self, group: int) -> None:
        """Delete up to ``deletes_max`` of a group's condemned entries and rows; forget the range once all are gone."""
        if self._delete_condemned(group, self._condemned[group], bounded=True):
            self._delete_key(self._dbs.meta, layout.condemned_key(group))
            self.changes[group] = None

    def touch(self) -> None:
        """Write something that changes nothing, for a transaction that only has to happen."""
        self._txn.put(layout.FORMAT_KEY, layout.FORMAT.to_bytes(4), db=self._dbs.meta)

    def _make_room(self, batch: WriteBatch) -> None:
        """Rule 3: wholly delete condemned ranges that the batch writes into, and dropped groups that it fills again."""
        touched = {group for (group, _, _), value in batch.rows.items() if value is not None} | self._lowest.keys()
        touched |= batch.install.keys() | set(batch.install.values())
        for group in touched & batch.drop:
            self._finish(group, WHOLE)
        for group in touched & self._condemned.keys():
            range_ = self._condemned[group]
            if group not in self.changes and (range_.whole or self._puts_below(group, range_.keep_from)):
                self._finish(group, range_)

    def _puts_below(self, group: int, index: int) -> bool:
        return self._lowest.get(group, layout.INDEX_MAX) < index

    def _finish(self, group: int, range_: Condemned) -> None:
        self._delete_condemned(group, range_, bounded=False)
        self.changes[group] = None

    def _condemn(self, group: int, range_: Condemned) -> None:
        """Delete ``range_`` if it is small, else leave it to the steps."""
        if range_.whole and group in self.changes:
            return  # a dropped group that the batch fills again is gone already
        known = self.changes.get(group) if group in self.changes else self._condemned.get(group)
        if known is not None:
            range_ = Condemned(max(range_.keep_from, known.keep_from), range_.whole or known.whole)
        bounded = not self._puts_below(group, range_.keep_from)
        if not self._delete_condemned(group, range_, bounded=bounded):
            self.changes[group] = range_
        elif known is not None:
            self.changes[group] = None

    def _delete_condemned(self, group: int, range_: Condemned, *, bounded: bool) -> bool:
        limit = self._deletes_left if bounded else None
        if not self._delete_entries(group, 0, range_.keep_from, limit):
            return False
        limit = self._deletes_left if bounded else None
        return not range_.whole or self._delete_rows(group, limit)

    def _delete_entries(self, group: int, start: int, stop: int, limit: int | None) -> bool:
        """Delete entries ``start <= index < stop``, at most ``limit``; whether none is left. ``INDEX_MAX`` is no index."""
        return self._delete(self._dbs.entries, layout.entry_key(group, start), layout.entry_key(group, stop), limit)

    def _delete_rows(self, group: int, limit: int | None) -> bool:
        return self._delete(self._dbs.rows, *layout.row_range(group), limit)

    def _delete(self, db: lmdb._Database, start: bytes, stop: bytes, limit: int | None) -> bool:
        """Delete the range's keys, at most ``limit``; whether none is left."""
        keys = self._sound.find(self._dbs.name_of(db), start, stop, layout.INDEX_MAX if limit is None else limit + 1)
        more = limit is not None and len(keys) > limit
        if more:
            del keys[limit:]
        cursor = self._txn.cursor(db)
        for key in keys:
            if cursor.set_key(key):  # else this transaction has deleted it already: keys are found as it began with them
                cursor.delete()
        self._deletes_left -= len(keys)
        return not more

    def _delete_key(self, db: lmdb._Database, key: bytes) -> None:
        self._delete(db, key, key + b"\0", None)

    def _move_rows(self, source: int, group: int) -> None:
        """Make all rows of ``source`` those of ``group``. A row's check covers its key, so each is checked and sealed anew."""
        front, new_front = layout.group_key(source), layout.group_key(group)
        self._sound.find(layout.ROWS_DB, *layout.row_range(source), layout.INDEX_MAX)
        cursor = self._txn.cursor(self._dbs.rows)
        while cursor.set_range(front):
            moved: list[bytes] = []
            puts: list[tuple[bytes, bytes]] = []
            for view, stored in cursor:
                key = bytes(view)
                if not key.startswith(front) or len(puts) == MOVED_AT_ONCE:
                    break
                new_key = new_front + key[len(front) :]
                moved.append(key)
                puts.append((new_key, layout.seal_row(new_key, layout.open_row(key, stored))))
            if not puts:
                return
            for key in moved:
                self._txn.delete(key, db=self._dbs.rows)
            cursor.putmulti(puts)

    def _put_rows(self, batch: WriteBatch) -> None:
        puts = []
        for key, value in batch.rows.items():
            whole_key = layout.row_key(*key)
            if value is None:
                self._delete_key(self._dbs.rows, whole_key)
            else:
                puts.append((whole_key, layout.seal_row(whole_key, value)))
        if puts:
            puts.sort()
            for whole_key, _ in puts:
                self._sound.look_once(layout.ROWS_DB, whole_key, whole_key)
            self._txn.cursor(self._dbs.rows).putmulti(puts)


def load_condemned(meta: Iterable[tuple[bytes | memoryview, memoryview]]) -> dict[int, Condemned]:
    """The condemned ranges that the environment remembers. ``meta``: what that database has from their prefix on."""
    found: dict[int, Condemned] = {}
    for view, value in meta:
        key = bytes(view)
        if not key.startswith(layout.CONDEMNED_PREFIX):
            break
        found[layout.condemned_group(key)] = Condemned(*layout.unpack_condemned(bytes(value)))
    return found


def used_bytes(txn: lmdb.Transaction[bytes] | lmdb.Transaction[memoryview], dbs: Databases) -> int:
    """Bytes of the pages that hold something."""
    used = 0
    for db in dbs:
        stat = txn.stat(db)
        used += (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]) * stat["psize"]
    return used
