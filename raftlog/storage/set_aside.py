"""Data that must not be used any more is moved out of the way, and kept for a person to look at or delete.

::

    DIR/set-aside-1/why.txt        why, in words
    DIR/set-aside-1/log/           the LMDB environment as it was
    DIR/set-aside-1/node.identity  a copy, where it could not be read
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from raftlog.storage.identity import sync_directory

PREFIX = "set-aside-"
WHY_FILE = "why.txt"


def set_aside(directory: Path, name: str, why: str) -> Path | None:
    """Move ``directory/name`` into a new ``set-aside-N``, durably; where that is, None where there is nothing to move.

    A crash on the way leaves it in one of the two places.

    Raises:
        OSError: it could not be done.
    """
    if not (directory / name).exists():
        return None
    place = _new_place(directory, why)
    (directory / name).rename(place / name)
    sync_directory(place)
    sync_directory(directory)
    return place


def keep_copy(directory: Path, name: str, why: str) -> Path:
    """Copy the file ``directory/name`` into a new ``set-aside-N``, durably.

    Raises:
        OSError: it could not be done.
    """
    place = _new_place(directory, why)
    shutil.copyfile(directory / name, place / name)
    _sync_file(place / name)
    sync_directory(place)
    return place


def _new_place(directory: Path, why: str) -> Path:
    numbers = [
        int(path.name.removeprefix(PREFIX)) for path in directory.glob(f"{PREFIX}[0-9]*") if path.name[len(PREFIX) :].isdecimal()
    ]
    place = directory / f"{PREFIX}{max(numbers, default=0) + 1}"
    place.mkdir(mode=0o700)
    (place / WHY_FILE).write_text(f"{why}\n")
    _sync_file(place / WHY_FILE)
    sync_directory(place)
    sync_directory(directory)
    return place


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
