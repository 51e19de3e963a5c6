"""A node's data directory: one process at a time, one node for ever, a new boot number at each start.

::

    DIR/lock             held with flock(2) while a node runs; contains its pid
    DIR/node.identity    raftlog.storage.identity
    DIR/log/             the LMDB environment (raftlog.storage.environment)
    DIR/ballast          raftlog.storage.ballast
    DIR/set-aside-N/     raftlog.storage.set_aside

A directory whose data must not be used any more (it is an old copy, its log is gone or cannot be read, nobody knows whose it is)
is either refused, or, where the node can join its cluster anew, emptied: the data is moved aside and kept.

Rules:

1. What is unusable is first marked as such, then moved, then forgotten: a crash anywhere leaves a mark or an empty directory.
2. A directory that was emptied says so for good (``Identity.rejoin``, until it has joined): it never begins a cluster.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from raftlog.core.features import THIS_VERSION, Supported, check_mark
from raftlog.errors import (
    DataDirectoryError,
    DataDirectoryLockedError,
    FeatureLevelError,
    NewerFormatError,
    UnreadableLogError,
    WrongNodeError,
)
from raftlog.storage import ballast, identity
from raftlog.storage.environment import BALLAST_FILE, DATA_FILE, LOG_DIR, data_file
from raftlog.storage.identity import DamagedIdentityError, Identity
from raftlog.storage.set_aside import keep_copy, set_aside

LOCK_FILE = "lock"
IDENTITY_FILE = "node.identity"


class DataDirectory:
    """An opened data directory. Made by ``open``; ``identity`` is what the file says."""

    def __init__(self, path: Path, lock_fd: int, identity_: Identity) -> None:
        self.path = path
        self.identity = identity_
        self._lock_fd = lock_fd

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        node_id: int,
        boot_nonce: str,
        voters: dict[int, str] | None = None,
        may_join: bool = False,
        supported: Supported = THIS_VERSION,
    ) -> DataDirectory:
        """Lock ``path``, making it if need be, check whose it is, and commit the next boot number.

        Args:
            node_id: who asks.
            boot_nonce: random text, new at each start.
            voters: node id → peer address; kept by a directory that belongs to no cluster yet.
            may_join: other nodes are known, so that this one can join them without what it has.
            supported: the feature levels that this node understands.

        Raises:
            DataDirectoryLockedError: another process has it open.
            WrongNodeError: it belongs to another node.
            NewerFormatError: a newer version wrote its identity, or it is marked with a level that this version does not know.
            FeatureLevelError: it is marked with a level that this version no longer knows.
            DataDirectoryError: it cannot be made or written; or, where no other nodes are known, its identity is damaged, a
                part of it is missing, or it is known to be an old copy.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock_fd = _lock(path)
        except OSError as error:
            raise DataDirectoryError(f"data directory {path} cannot be used: {error}") from error
        try:
            known, unusable = _load(path, node_id, supported)
            directory = cls(path, lock_fd, known)
            if unusable is not None:
                if not (may_join or known.joined or len(known.voters) > 1):
                    raise unusable
                directory._empty(unusable)
            directory.update(**identity.start(known, boot_nonce=boot_nonce, voters=voters))
        except BaseException:
            os.close(lock_fd)
            raise
        return directory

    def update(self, **changes: Any) -> None:
        """Change fields of the identity and make that durable before returning. Blocks for two syncs.

        On a full disk the ballast is given up for it.

        Raises:
            DataDirectoryError: it could not be written; nothing has changed.
        """
        changed = replace(self.identity, **changes)
        path = self.path / IDENTITY_FILE
        try:
            try:
                identity.store(path, changed)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not ballast.release(self.path / BALLAST_FILE):
                    raise
                identity.store(path, changed)
        except OSError as error:
            raise DataDirectoryError(
                f"{path} cannot be written: {error}. Make room, or mend the disk; then start again"
            ) from error
        self.identity = changed

    def _empty(self, unusable: DataDirectoryError) -> None:
        """Move aside what is there."""
        why = self.identity.damaged or str(unusable)
        try:
            if isinstance(unusable, DamagedIdentityError):
                keep_copy(self.path, IDENTITY_FILE, why)
            self.update(damaged=why)
            set_aside(self.path, LOG_DIR, why)
        except OSError as error:
            raise DataDirectoryError(f"what is in {self.path} cannot be set aside: {error}") from error
        self.update(damaged="", rejoin=why, sealed=False)

    def close(self) -> None:
        """Release the lock. Idempotent."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


@contextmanager
def stopped(path: Path) -> Iterator[None]:
    """Hold the lock of the data directory of a node that does not run. Nothing else of it changes.

    Raises:
        DataDirectoryLockedError: the node runs, or another command works on its directory.
        DataDirectoryError: there is no node's data at ``path``, or it cannot be written.
    """
    if not (path / IDENTITY_FILE).exists() and not data_file(path).exists():
        raise DataDirectoryError(f"there is no node's data in {path}: name the --data-dir that a node was started with")
    try:
        lock_fd = _lock(path)
    except OSError as error:
        raise DataDirectoryError(f"data directory {path} cannot be used: {error}. Be the user that its node runs as") from error
    try:
        yield
    finally:
        os.close(lock_fd)


def _lock(path: Path) -> int:
    fd = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    except BlockingIOError as error:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise DataDirectoryLockedError(f"data directory {path} is in use by process {holder}; stop that one first") from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def _load(path: Path, node_id: int, supported: Supported) -> tuple[Identity, DataDirectoryError | None]:
    """The directory's identity, that of an empty one where nothing is known; and why its data must not be used, if so."""
    log_file = data_file(path)
    has_log = log_file.exists() and log_file.stat().st_size > 0
    try:
        known = identity.load(path / IDENTITY_FILE)
    except DamagedIdentityError as error:
        return Identity(node_id=node_id), error
    if known is None:
        return Identity(node_id=node_id), _ownerless(path) if has_log else None
    if known.node_id != node_id:
        raise WrongNodeError(
            f"{path} belongs to node {known.node_id}, not to node {node_id}; give each node its own --data-dir and --node-id"
        )
    try:
        check_mark(known.level, supported)
    except (NewerFormatError, FeatureLevelError) as error:
        raise type(error)(f"{path} cannot be used: {error}") from None
    if known.damaged:
        return known, DataDirectoryError(f"{path} must not be used any more: {known.damaged}")
    if known.sealed and not has_log:
        return known, UnreadableLogError(
            f"{path} belongs to cluster {known.cluster_id} but its {LOG_DIR}/{DATA_FILE} is gone. Started like this, the node"
            " could vote against what it acknowledged. Restore it, or remove the directory and let the node join as a new one."
        )
    return known, None


def _ownerless(path: Path) -> DataDirectoryError:
    return DataDirectoryError(
        f"{path} has a log but no {IDENTITY_FILE}: nobody knows whose it is. Restore the file from a copy, or remove"
        " the directory and let the node join the cluster as a new one."
    )
