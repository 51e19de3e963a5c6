"""What tests of room share: filling a node's storage, reading it whole, small disks, and commands."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raftlog import Client
from raftlog.client.values import StorageInfo
from raftlog.errors import StorageFullError

MIB = 1 << 20
VALUE = os.urandom(MIB // 2)
PATIENCE_S = 2.0
"""A busy disk may take some tenths of a second over one record that it takes."""


async def storage(client: Client) -> StorageInfo:
    """Of the only node."""
    return (await client.admin.describe_replicas(1)).storage


async def fill(client: Client, topic: str, count_max: int, patience_s: float = PATIENCE_S) -> int:
    """Publish until it is refused as full for so long, or so many records; how many were acknowledged."""
    async with client.producer(compression="none", delivery_timeout_s=patience_s) as producer:
        for number in range(count_max):
            try:
                await producer.publish(topic, b"%08d" % number + VALUE)
            except StorageFullError:
                return number
    return count_max


async def whole(client: Client, topic: str) -> list[int]:
    """The numbers of the records that are there, each with its bytes."""
    async with client.consumer(topic, follow=False) as consumer:
        read = [record.value or b"" async for record in consumer]
    assert all(value[8:] == VALUE for value in read)
    return [int(value[:8]) for value in read]


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[Path]:
    """A tmpfs of this size."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill_up(path: Path) -> None:
    """Append until there is not a page left."""
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


async def storage_command(*words: object) -> tuple[int, str, str]:
    """Run ``raftlog storage …``; its exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from raftlog.cli.main import main; main()", "storage", *map(str, words),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
