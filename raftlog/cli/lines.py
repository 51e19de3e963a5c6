"""Lines of stdin or a file, as bytes, in chunks: whatever stands between two newlines is a line, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator

from raftlog.cli.errors import CommandError

READ_BYTES = 256 * 1024
"""One read: big enough that the hop between threads costs nothing a line."""
LINE_BYTES_MAX = 64 * 1024 * 1024
"""No topic takes a longer record; without a bound a file without newlines would fill the memory."""
_CHUNKS_WAITING_MAX = 4


class LineSplitter:
    """Cuts a stream of chunks into lines; keeps the unfinished one."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._rest_bytes = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that this chunk completes, without their newlines.

        Raises:
            CommandError: a line is longer than ``LINE_BYTES_MAX``.
        """
        head, newline, tail = chunk.rpartition(b"\n")
        if not newline:
            if chunk:
                self._keep(chunk)
            return []
        lines = (b"".join(self._rest) + head).split(b"\n")
        self._rest, self._rest_bytes = [], 0
        if tail:
            self._keep(tail)
        return lines

    def end(self) -> list[bytes]:
        """The last line, where it had no newline."""
        return [b"".join(self._rest)] if self._rest else []

    def _keep(self, piece: bytes) -> None:
        self._rest.append(piece)
        self._rest_bytes += len(piece)
        if self._rest_bytes > LINE_BYTES_MAX:
            raise CommandError(f"a line is longer than {LINE_BYTES_MAX} bytes; is this a text file?")


async def read_lines(descriptor: int) -> AsyncIterator[list[bytes]]:
    """Lists of lines from a file descriptor, as they arrive: a line that was typed is not waited for by another.

    The reading is done by a daemon thread, because no event loop can wait for all of terminals, pipes and files, and a read
    from a terminal cannot be cancelled: Ctrl-C must not wait for the next line.
    """
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes | OSError] = asyncio.Queue()
    room = threading.Semaphore(_CHUNKS_WAITING_MAX)  # bounds the queue
    ended = threading.Event()

    def pump() -> None:
        while True:
            room.acquire()
            if ended.is_set():
                return
            try:
                chunk: bytes | OSError = os.read(descriptor, READ_BYTES)
            except OSError as error:
                chunk = error
            try:
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)
            except RuntimeError:
                return  # the loop is gone: nobody wants more
            if not chunk or isinstance(chunk, OSError):
                return

    threading.Thread(target=pump, name="read-lines", daemon=True).start()
    splitter = LineSplitter()
    try:
        while chunk := await chunks.get():
            room.release()
            if isinstance(chunk, OSError):
                raise chunk
            if lines := splitter.feed(chunk):
                yield lines
        if lines := splitter.end():
            yield lines
    finally:
        ended.set()
        room.release()  # the thread may wait for it
