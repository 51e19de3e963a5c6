"""The LMDB environment of a data directory: where its files lie, and how it is opened.

::

    DIR/log/data.mdb            everything that a node stores
    DIR/log/lock.mdb            LMDB's own
    DIR/log/data.mdb.compact    a compacted copy that is being made (raftlog.storage.compact), or was when a process died
    DIR/ballast                 raftlog.storage.ballast
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import lmdb

from raftlog.errors import DataDirectoryError, DataLossError, FatalError, StorageFailedError, UnreadableLogError
from raftlog.storage import layout
from raftlog.storage.datafile import check_before_writing, check_data_file
from raftlog.storage.page_format import ADVICE

LOG_DIR = "log"
DATA_FILE = "data.mdb"
COMPACT_FILE = "data.mdb.compact"
BALLAST_FILE = "ballast"
MAP_SIZE_BYTES = 4 << 40
"""Address space reserved for the map, of the 128 TiB that a process has; twice the disk where the disk is that large."""


class Databases(NamedTuple):
    """Handles of the environment's databases."""

    entries: lmdb._Database
    rows: lmdb._Database
    meta: lmdb._Database

    def name_of(self, db: lmdb._Database) -> bytes:
        """Under which name the file has one of them."""
        return NAMES[self.index(db)]


_DAMAGE = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.PanicError, lmdb.IncompatibleError)
"""What LMDB raises over bytes that it did not write. Everything else (no memory, no permission, a broken disk) may pass."""
_DAMAGE_MET_WRITING = (
    lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.PageFullError, lmdb.CursorFullError, lmdb.BadTxnError, DataLossError,
)  # fmt: skip
"""What a page on the way to a key raises, or a row that fails its check; and what comes of going on in a transaction after such
a page, where LMDB did not say so. A panic is what follows a sync that failed."""
NAMES = (layout.ENTRIES_DB, layout.ROWS_DB, layout.META_DB)
"""The databases' names, each where ``Databases`` has its handle."""


def data_file(directory: Path) -> Path:
    """The data file of a data directory."""
    return directory / LOG_DIR / DATA_FILE


def open_environment(directory: Path, map_size_bytes: int = 0) -> lmdb.Environment:
    """Open, or make, the environment of a data directory whose lock the caller holds.

    Args:
        map_size_bytes: address space to reserve; 0: ``MAP_SIZE_BYTES``, or more on a larger disk.

    Raises:
        UnreadableLogError: its file is damaged or cut short.
        DataDirectoryError: it cannot be opened.
        NewerFormatError: another version of LMDB wrote it.
    """
    path = directory / LOG_DIR
    check_data_file(path / DATA_FILE)
    check_before_writing(path / DATA_FILE, (layout.META_DB,))
    map_size_bytes = map_size_bytes or max(MAP_SIZE_BYTES, 2 * shutil.disk_usage(directory).total)
    try:
        # Readahead stays on: without it a cold 1 MB entry is 256 page faults (measured: 79 MB/s instead of 1,600).
        return lmdb.open(str(path), map_size=map_size_bytes, max_dbs=len(NAMES), sync=True, writemap=False)
    except (lmdb.Error, OSError) as error:
        raise unreadable(path / DATA_FILE, error) from error


def open_databases(env: lmdb.Environment) -> Databases:
    """Open, or make, the environment's databases.

    Raises:
        NewerFormatError: a newer version of raftlog wrote them.
    """
    with env.begin(write=True) as txn:
        dbs = Databases(*(env.open_db(name, txn=txn) for name in NAMES))
        if txn.get(layout.FORMAT_KEY, db=dbs.meta) is None:
            txn.put(layout.FORMAT_KEY, layout.FORMAT.to_bytes(4), db=dbs.meta)
        layout.check_format(format_of(txn, dbs), env.path())
        return dbs


@contextmanager
def opened_read_only(path: Path) -> Iterator[tuple[lmdb.Environment, Databases]]:
    """The environment in the data file at ``path``, which nobody writes meanwhile. Nothing of it changes.

    Raises:
        DataDirectoryError: there is no such file, it cannot be read, or is damaged.
        NewerFormatError: a newer version of raftlog, or of LMDB, wrote it.
    """
    if not path.exists() or path.stat().st_size == 0:
        raise missing(path)
    check_data_file(path)
    try:
        # Without LMDB's lock file: it would be written, and the directory's own lock is held.
        env = lmdb.open(str(path), subdir=False, readonly=True, lock=False, max_dbs=len(NAMES), create=False)
    except lmdb.Error as error:
        raise unreadable(path, error) from error
    with env:
        try:
            dbs = Databases(*(env.open_db(name, create=False) for name in NAMES))
            with env.begin() as txn:
                layout.check_format(format_of(txn, dbs), env.path())
        except lmdb.Error as error:
            raise unreadable(path, error) from error
        yield env, dbs


def format_of(txn: lmdb.Transaction[bytes], dbs: Databases) -> int:
    """The version of the layout that was written."""
    return int.from_bytes(txn.get(layout.FORMAT_KEY, db=dbs.meta) or b"")


def missing(path: Path) -> DataDirectoryError:
    """There is no data file at ``path``."""
    return DataDirectoryError(f"there is no data file {path}: name the --data-dir that a node was started with")


def unreadable(path: Path, error: BaseException) -> DataDirectoryError:
    """What LMDB said when it could not open or read the file at ``path``."""
    if isinstance(error, _DAMAGE):
        return UnreadableLogError(f"{path} cannot be opened: {error}. {ADVICE}")
    return DataDirectoryError(
        f"{path} cannot be opened: {error}. Its data may be sound: see to the room on its disk, its permissions and the"
        " machine's memory, then start again"
    )


def unwritable(path: Path, error: BaseException) -> FatalError:
    """Why nothing more is written to a data file. Where it is damaged, no later start can write it either."""
    if isinstance(error, UnreadableLogError):
        return error
    if any(isinstance(cause, _DAMAGE_MET_WRITING) for cause in _causes(error)):
        failed: FatalError = UnreadableLogError(f"{path} is damaged where it has to be written: {error}. {ADVICE}")
    else:
        failed = StorageFailedError(
            f"writing to {path} failed: {error}. Nothing more is written; check the disk, then start the node again."
        )
    failed.__cause__ = error
    return failed


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came of: where LMDB's own error is found too late, Python raises a SystemError over it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__
