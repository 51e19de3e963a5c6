"""Whether LMDB's data file is as long as what it refers to, found out by reading it as a file.

Theory of operation. LMDB maps its file; a page that lies behind the file's end is a SIGBUS, which ends the process
without a word. So before an environment is opened, its two meta pages are read here with plain reads. The newer one says
which page is the last that was ever handed out. If the file reaches that far, all is well, and this took two reads. If
not, it may still be sound: pages that a transaction took and gave back are never written. Then the trees are walked,
free list included, and the file is refused only if something in use lies behind its end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raftlog.errors import UnreadableLogError
from raftlog.storage.page_format import ADVICE
from raftlog.storage.pages import PageFile


def check_data_file(path: Path) -> None:
    """Check that LMDB can map the data file at ``path``. A missing or empty file passes: LMDB makes a new one.

    Raises:
        UnreadableLogError: the file is no LMDB data file, or pages in use lie behind its end.
        NewerFormatError: it has a data version that this release does not write.
    """
    with opened(path) as file:
        if file is not None and file.pages * file.meta.page_size < file.sound_length:
            check_structure(file, path)


def check_before_writing(path: Path, names: tuple[bytes, ...]) -> None:
    """Check what each transaction reads, whatever it writes: the list of databases, those called ``names``, the free pages.

    Raises:
        UnreadableLogError: it is damaged.
    """
    with opened(path) as file:
        if file is not None:
            for broken in file.what_every_write_reads(names):
                raise UnreadableLogError(f"{path} is damaged: {broken.what}. {ADVICE}")


def check_structure(file: PageFile, path: Path) -> None:
    """Walk all trees of an opened file, without the values outside of them.

    Raises:
        UnreadableLogError: a page that a tree refers to is damaged, or not there.
    """
    for tree in (file.meta.free, file.meta.main):
        for broken in file.structure(tree):
            raise UnreadableLogError(f"{path} is damaged: {broken.what}. {ADVICE}")


def sound_length(path: Path) -> int:
    """The length in bytes at which the file at ``path`` passes the check without a walk; 0 for a missing or empty one."""
    with opened(path) as file:
        return 0 if file is None else file.sound_length


@contextmanager
def opened(path: Path) -> Iterator[PageFile | None]:
    """The data file at ``path`` for plain reads; None for a missing or empty one.

    Raises:
        UnreadableLogError: it is no LMDB data file.
        NewerFormatError: it has a data version that this release does not write.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield PageFile(fd, path) if os.fstat(fd).st_size else None
    finally:
        os.close(fd)
