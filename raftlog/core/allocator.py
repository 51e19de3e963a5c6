"""Tells glibc's allocator to keep freed memory, for a process that passes megabyte messages on.

A 1 MiB message is allocated three or four times on its way through gRPC and protobuf. By default glibc maps a big block afresh or
gives the top of its heap back as soon as a few are free, so every message pays a page fault for each 4 KiB of each copy: measured
in a virtual machine, 1.2 ms of the 2 ms that a megabyte took. Kept memory is bounded by ``TRIM_BYTES``, and a single arena,
shared by gRPC's threads, takes less than the default's many: the process's own memory after a gigabyte was the same.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

BLOCK_BYTES_MAX: Final = 32 << 20
"""Blocks below this come from the heap; glibc allows no more."""
TRIM_BYTES: Final = 32 << 20
"""Free memory at the top of the heap beyond this goes back to the system."""

# mallopt(3): parameter numbers of <malloc.h>.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def keep_freed_memory() -> bool:
    """Set the process's allocator; call it at start, before threads do. False where there is no glibc: nothing changes."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return False
    settings = ((_M_MMAP_THRESHOLD, BLOCK_BYTES_MAX), (_M_TRIM_THRESHOLD, TRIM_BYTES), (_M_ARENA_MAX, 1))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)
