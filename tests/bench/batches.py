"""Record batches of an exact size, of records that do not compress."""

from __future__ import annotations

import os

from raftlog.core.clock import SystemClock
from raftlog.records.batch import BatchBuilder

RECORD_BYTES = 1_000
"""Value of the records that fill a batch; the last one takes what is left."""
_TRIES = 4


def ready_made(size_bytes: int) -> bytes:
    """A batch of ``size_bytes`` to the byte, stamped with the present."""
    now_ms = SystemClock().wall_ms()
    last_bytes = min(size_bytes, RECORD_BYTES)
    whole = max(0, size_bytes // (RECORD_BYTES + 16) - 2)
    for _ in range(_TRIES):
        builder = BatchBuilder(size_bytes_max=2 * size_bytes + 2 * RECORD_BYTES)
        for _ in range(whole):
            builder.append(None, os.urandom(RECORD_BYTES), timestamp_ms=now_ms)
        builder.append(None, os.urandom(last_bytes), timestamp_ms=now_ms)
        if builder.size_bytes == size_bytes:
            return builder.build()
        last_bytes += size_bytes - builder.size_bytes
    raise ValueError(f"no batch of these records has {size_bytes} bytes; the length of the last one's length is in the way")
