"""A preallocated file that is given up when the disk is full, so that votes, rows and trims still find space."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

BALLAST_SIZE_BYTES = 64 << 20
"""Room for a turn of 8 MB at LMDB's worst amplification, and for the votes, rows and trims that follow it."""
HEADROOM_BYTES = 64 << 20
"""Free space wanted beyond the ballast before it is taken again, so that it is not given and taken in turns."""


def disk_free_bytes(path: Path) -> int:
    """Free bytes that this process may use on the file system of ``path``."""
    stat = os.statvfs(path)
    return stat.f_bavail * stat.f_frsize


class Ballast:
    """The ballast file at ``path``. A size of 0 means none is kept."""

    def __init__(self, path: Path, size_bytes: int, headroom_bytes: int = HEADROOM_BYTES) -> None:
        self._path = path
        self._size_bytes = size_bytes
        self._headroom_bytes = headroom_bytes
        self.held = False

    @property
    def wanted_bytes(self) -> int:
        """Free bytes at which the ballast is taken."""
        return self._size_bytes + self._headroom_bytes

    def take(self) -> bool:
        """Make the file unless that would fill the disk; whether it stands now. Errors count as no space."""
        if self.held or self._size_bytes == 0:
            self.held = True
            return True
        with contextlib.suppress(OSError):
            existing = self._path.stat().st_size if self._path.exists() else 0
            if existing >= self._size_bytes:
                self.held = True
                return True
            if disk_free_bytes(self._path.parent) >= self.wanted_bytes:
                self._allocate()
                self.held = True
                return True
            self._path.unlink(missing_ok=True)
        return False

    def release(self) -> bool:
        """Give the space back; whether there was a file to give."""
        self.held = False
        return release(self._path)

    def _allocate(self) -> None:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, self._size_bytes)
        except OSError:
            self._path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)


def release(path: Path) -> bool:
    """Remove the ballast file at ``path``; whether there was one."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
