"""The thread that writes: one batch at a time, retried while the disk is full, and deletion between batches.

Rules:

1. A batch is reported durable only after LMDB's commit returned, which is after the data and then the meta page are
   synced.
2. No space (ENOSPC, EDQUOT, map full) is waited out: the ballast is given up and the same batch is written again, then
   again every ``RETRY_S`` until it succeeds or the store is closed. That is safe after a sync that failed for want of
   space, too: a new transaction writes every page of the batch anew.
3. Every other error is fatal and nothing is written after it. That includes EIO: after a failed sync the kernel may
   hold pages as clean that never reached the disk.
4. LMDB reports a write that the full disk cut short as EIO. So the ballast is given up *before* a batch that might not
   fit in what is free, and such a write does not come up while there is ballast. Without it a batch deletes nothing
   itself and the steps are small, so that every write is of a few pages: what a full disk cuts short then leaves no
   space at all, and the next write is refused as a whole.
5. LMDB reuses a page two transactions after the one that freed it, and an aborted try is none. So while a batch waits
   for space, a tiny transaction is committed before each try; else it would never see what a trim before it has freed.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue

import lmdb

from raftlog.core import failpoints
from raftlog.storage import transaction
from raftlog.storage.ballast import Ballast, disk_free_bytes
from raftlog.storage.environment import Databases, data_file
from raftlog.storage.port import WriteBatch
from raftlog.storage.sound_pages import SoundPages
from raftlog.storage.transaction import BatchWriter, Condemned, used_bytes

RETRY_S = 1.0
"""Between tries while there is no space: often enough that freed space is noticed at once, seldom enough to cost nothing."""
BATCH_GROWTH_FACTOR = 2
"""A 1 KB entry takes two in pages; larger ones less."""
BATCH_GROWTH_BYTES = 4 << 20
"""Pages of the tree and of the free list that a batch of small writes may take besides."""
_crash_before_commit = failpoints.point("storage-before-commit")
_crash_after_commit = failpoints.point("storage-after-commit")
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})

Changes = dict[int, Condemned | None]


def is_no_space(error: BaseException) -> bool:
    """Whether ``error`` means that disk, quota or map is full."""
    if isinstance(error, (lmdb.MapFullError, lmdb.DiskError)):
        return True
    code = error.errno if isinstance(error, OSError) else getattr(error, "code", None)
    return code in _NO_SPACE


class Writer:
    """Owns the environment's write transactions.

    ``committed(changes)`` is called on the writer's thread after each durable batch, ``stepped(changes)`` after each
    step of deletion, ``failed(error)`` once when it gives up. ``before_commit`` runs inside a transaction right before
    its commit: the seam where tests inject errors and crashes.
    """

    def __init__(
        self, env: lmdb.Environment, dbs: Databases, directory: Path, ballast: Ballast, condemned: dict[int, Condemned], *,
        committed: Callable[[Changes], None], stepped: Callable[[Changes], None], failed: Callable[[BaseException], None],
        before_commit: Callable[[], None], retry_s: float = RETRY_S,
    ) -> None:  # fmt: skip
        self._env = env
        self._dbs = dbs
        self._directory = directory
        self._sound = SoundPages(data_file(directory))
        self._ballast = ballast
        self._condemned = condemned
        self._committed, self._stepped, self._failed = committed, stepped, failed
        self._before_commit = before_commit
        self._retry_s = retry_s
        self._jobs: SimpleQueue[WriteBatch | None] = SimpleQueue()
        self._closing = threading.Event()
        self._no_space = not ballast.take()
        self._thread = threading.Thread(target=self._run, name="raftlog-storage", daemon=True)
        self._thread.start()

    @property
    def no_space(self) -> bool:
        """The last write met a full disk or map, or the ballast could not be taken again since."""
        return self._no_space

    def put(self, batch: WriteBatch) -> None:
        """Hand over the next batch; the caller keeps to one at a time."""
        self._jobs.put(batch)

    def close(self) -> None:
        """Finish the batch under way, unless it waits for space, and end the thread."""
        self._closing.set()
        self._jobs.put(None)
        self._thread.join()
        self._sound.close()

    def _run(self) -> None:
        try:
            while (batch := self._next()) is not None:
                changes = self._write_until_done(batch)
                if changes is None:
                    return
                self._committed(changes)
                self._take_ballast()
        except BaseException as error:  # whatever it was, nothing may be written after it
            self._failed(error)

    def _next(self) -> WriteBatch | None:
        """Wait for a batch; meanwhile delete what is condemned, and take the ballast again when there is space."""
        idle = False
        while True:
            try:
                if self._condemned and not idle:
                    return self._jobs.get_nowait()
                return self._jobs.get(timeout=self._retry_s if self._condemned or self._no_space else None)
            except Empty:
                idle = not self._step()
                self._take_ballast()

    def _write_until_done(self, batch: WriteBatch) -> Changes | None:
        """Write ``batch``; None when closed while waiting for space."""
        growth = batch.size_bytes * BATCH_GROWTH_FACTOR + BATCH_GROWTH_BYTES
        while True:
            if self._ballast.held and disk_free_bytes(self._directory) < growth:
                self._no_space = True
                self._ballast.release()
            deletes_max = 0 if self._no_space else transaction.INLINE_DELETES_MAX
            try:
                return self._transact(lambda writer: writer.apply(batch), deletes_max)
            except (lmdb.Error, OSError) as error:
                if not is_no_space(error):
                    raise
            self._no_space = True
            if self._ballast.release() or self._step():
                continue
            self._turn_over()
            if self._closing.wait(self._retry_s):
                return None

    def _turn_over(self) -> None:
        """Rule 5: commit next to nothing, and have the readers renewed."""
        try:
            self._transact(lambda writer: writer.touch(), 0)
        except (lmdb.Error, OSError) as error:
            if not is_no_space(error):
                raise
        self._stepped({})

    def _step(self) -> bool:
        """Delete some of what is condemned; whether there is reason to try again at once."""
        if not self._condemned:
            return False
        group = next(iter(self._condemned))
        deletes_max = transaction.CAREFUL_DELETES_MAX if self._no_space else transaction.STEP_DELETES_MAX
        try:
            changes = self._transact(lambda writer: writer.step(group), deletes_max)
        except (lmdb.Error, OSError) as error:
            if not is_no_space(error):
                raise
            self._no_space = True
            return self._ballast.release()
        self._stepped(changes)
        return True

    def _transact(self, work: Callable[[BatchWriter], None], deletes_max: int) -> Changes:
        """Run ``work`` in a transaction and commit it durably."""
        txn = self._env.begin(write=True, buffers=True)
        try:
            self._sound.renew()
            writer = BatchWriter(txn, self._dbs, self._sound, self._condemned, deletes_max)
            work(writer)
            self._before_commit()
            _crash_before_commit()
            txn.commit()
            _crash_after_commit()
        except BaseException:
            txn.abort()
            raise
        for group, range_ in writer.changes.items():
            if range_ is None:
                self._condemned.pop(group, None)
            else:
                self._condemned[group] = range_
        return writer.changes

    def _take_ballast(self) -> None:
        """End the state of no space: with the ballast taken again, or where the file itself has as much to reuse."""
        if self._no_space:
            self._no_space = not self._ballast.take() and self._reusable_bytes() < self._ballast.wanted_bytes

    def _reusable_bytes(self) -> int:
        """Pages of the file that hold nothing (the few of the free list itself included): files never shrink."""
        with self._env.begin() as txn:
            used = used_bytes(txn, self._dbs)
            return (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"] - used
