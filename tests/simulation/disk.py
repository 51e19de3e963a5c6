"""A node's whole disk: its log and rows, its identity, and what can go wrong with it.

What a commit has not finished is lost with the process, or was just written: never half of it (LMDB's commits are atomic). The
identity is written as a whole, too. A process that has died cannot write any more, whatever it still runs.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from raftlog.errors import DataDirectoryError, DataLossError, StorageFailedError
from raftlog.storage import identity
from raftlog.storage.identity import Identity
from raftlog.storage.memory_store import DISK_SIZE_BYTES, MemoryStore
from raftlog.storage.port import StorageUsage, WriteBatch
from tests.simulation.loop import Process, VirtualLoop

CRASH_POINTS = ("before_write", "after_write", "after_done", "before_identity", "after_identity")
"""Where a process can be made to die."""

OnCommit = Callable[[WriteBatch], None]


@dataclass(slots=True)
class Contents:
    """What is on the platter."""

    identity: Identity | None = None
    store: SimulatedStore = field(default_factory=lambda: SimulatedStore.bare())  # noqa: PLW0108 - defined below

    def copy(self) -> Contents:
        """As a backup would have it."""
        kept = SimulatedStore.bare()
        kept.take_from(self.store, copied=True)
        return Contents(self.identity, kept)


class Disk:
    """One machine's disk, from one process to the next. ``latency_s`` bounds a commit."""

    def __init__(self, loop: VirtualLoop, rng: Random) -> None:
        self.loop, self.rng = loop, rng
        self.contents = Contents()
        self.former: Contents | None = None
        """What was on it before it was lost or changed for an old copy: what the node had acknowledged until then was there."""
        self.lost = ""
        """What is there instead of what the node had: no peer may take it."""
        self.latency_s = (0.0005, 0.004)
        self.full = False
        """No byte fits: commits wait."""
        self.low = False
        """Commits pass, but publishing is to stop."""
        self.sync_fails = False
        """The next commit ends in an error of fsync; it may be on the disk or not."""
        self.crash_at: str | None = None
        """A crash point: the process dies when it comes by."""
        self.crash: Callable[[], None] = lambda: None
        self.joined: Callable[[bool], None] = lambda _: None
        """Called when the node has joined by this disk, with whether it had another one before."""
        self.damaged: set[tuple[int, int]] = set()
        """(group, index) of entries with a flipped bit, as far as ``look`` has not seen them go."""

    def swap(self, contents: Contents, lost: str = "an old copy of its disk") -> None:
        """An old copy of the disk comes back."""
        self.former, self.contents, self.lost = self.contents, contents, lost

    @property
    def is_empty(self) -> bool:
        """Nothing was ever written on it."""
        return self.contents.identity is None

    def wipe(self) -> None:
        """A new, empty disk."""
        self.swap(Contents(), "an empty disk")
        self.damaged = set()

    def set_aside(self) -> None:
        """What is on it is of no use: the node begins with nothing, but keeps its identity."""
        self.contents = Contents(self.contents.identity)

    def rejoined(self) -> None:
        """The node is a member by what this disk holds now."""
        self.joined(self.former is not None)
        self.former, self.lost = None, ""

    def repair(self) -> None:
        """End what passes; damage stays."""
        self.latency_s = (0.0005, 0.004)
        self.set_full(full=False)
        self.low = self.sync_fails = False
        self.crash_at = None

    def set_full(self, *, full: bool) -> None:
        """See ``full``."""
        self.full = full
        self.contents.store.set_full(full)

    def reaches(self, point: str) -> None:
        """The process comes by a crash point."""
        if self.crash_at == point:
            self.crash_at = None
            self.crash()

    def damage(self, group: int, index: int, at: int) -> None:
        """Flip a bit of a stored entry."""
        self.contents.store.damage_entry(group, index, at)
        self.damaged.add((group, index))

    def look(self) -> bool:
        """Whether a damaged entry is still there: its replica may have been given up, or the entry trimmed away."""
        self.damaged = {at for at in self.damaged if self._is_damaged(*at)}
        return bool(self.damaged)

    def _is_damaged(self, group: int, index: int) -> bool:
        bounds = self.contents.store.bounds(group)
        if bounds is None or not bounds[0] <= index <= bounds[1]:
            return False
        try:
            return not self.contents.store.entries(group, index, index + 1, 1)
        except DataLossError:
            return True

    def open_store(self, process: Process, fail: Callable[[BaseException], None], on_commit: OnCommit) -> SimulatedStore:
        """Storage for a process that starts, with all that the last one left."""
        store = SimulatedStore(self, process, fail, on_commit)
        store.take_from(self.contents.store, copied=False)
        self.contents.store = store
        store.set_full(self.full)
        return store


class SimulatedStore(MemoryStore):
    """``MemoryStore`` on a ``Disk``, for one process."""

    def __init__(self, disk: Disk, process: Process, fail: Callable[[BaseException], None], on_commit: OnCommit) -> None:
        super().__init__(schedule=self._after_latency)
        self._disk, self._process, self._fail, self._on_commit = disk, process, fail, on_commit
        self._broken = False
        """An fsync has failed: nothing is written any more."""

    @classmethod
    def bare(cls) -> SimulatedStore:
        """Contents that nobody has open."""
        kept = cls.__new__(cls)
        MemoryStore.__init__(kept)
        return kept

    def take_from(self, other: MemoryStore, *, copied: bool) -> None:
        """Begin with what another one holds."""
        if copied:
            self._logs = {}
            for group, log in other._logs.items():
                kept = type(log)(log.first)
                kept.items = list(log.items)
                self._logs[group] = kept
            self._rows = {key: dict(rows) for key, rows in other._rows.items()}
        else:
            self._logs, self._rows = other._logs, other._rows
        self._bad_rows, self._used_bytes, self._dropped = set(other._bad_rows), other._used_bytes, set(other._dropped)

    def commit(self, batch: WriteBatch, done: Callable[[], None]) -> None:
        """See the port."""
        self._disk.reaches("before_write")
        if self._process.dead or self._broken:
            return
        self._on_commit(batch)
        super().commit(batch, done)

    def usage(self) -> StorageUsage:
        """See the port."""
        if self._disk.low and not self._disk.full:
            return replace(super().usage(), disk_free_bytes=DISK_SIZE_BYTES // 4, room_bytes=0, low=True, shortage="it is low")
        return super().usage()

    def die(self) -> None:
        """The process is gone; a batch in flight was written, or was not."""
        batch = self._batch
        if batch is not None and not self._full and self._disk.rng.random() < 0.5:
            self._apply(batch)
        super().close()

    def close(self) -> None:
        """See the port: a commit under way is waited for."""
        batch = self._batch
        if batch is not None and not self._full and not self._process.dead:
            self._apply(batch)
        super().close()

    def _after_latency(self, finish: Callable[[], None]) -> object:
        least, most = self._disk.latency_s
        return self._disk.loop.call_later(least + (most - least) * self._disk.rng.random(), finish)

    def _finish(self) -> None:
        if self._batch is None or self._full or self._process.dead:
            return
        if self._disk.sync_fails:
            self._disk.sync_fails = False
            self._broken = True
            self.die()
            self._fail(StorageFailedError(f"fsync: {errno.errorcode[errno.EIO]}"))
            return
        if self._disk.crash_at == "after_write":
            self._apply(self._batch)
            self._batch = None
            self._disk.reaches("after_write")
            return
        super()._finish()
        self._disk.reaches("after_done")


class SimulatedDirectory:
    """``node.gate.IdentityDirectory`` on a ``Disk``, for one process. Opening it counts the start."""

    def __init__(
        self, disk: Disk, process: Process, *, node_id: int, boot_nonce: str, voters: dict[int, str], may_join: bool = False
    ) -> None:
        self._disk, self._process = disk, process
        known = disk.contents.identity or Identity(node_id=node_id)
        assert known.node_id == node_id
        self.identity = known
        if known.damaged and not may_join:
            raise DataDirectoryError(f"this data directory must not be used any more: {known.damaged}")
        if known.damaged:
            disk.set_aside()
            self.update(damaged="", rejoin=known.damaged, sealed=False)
            known = self.identity
        self.update(**identity.start(known, boot_nonce=boot_nonce, voters=voters))

    def update(self, **changes: Any) -> None:
        """See ``IdentityDirectory``."""
        self._disk.reaches("before_identity")
        if self._process.dead:
            return
        self.identity = self._disk.contents.identity = replace(self.identity, **changes)
        if changes.get("joined"):
            self._disk.rejoined()
        self._disk.reaches("after_identity")
