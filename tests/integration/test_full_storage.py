"""A full disk, and the soft limit: publishing is refused, reading goes on, nothing acknowledged is lost, and it ends."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from raftlog import Client
from raftlog.testing import LocalCluster, LocalClusterError
from tests.integration.room import MIB, fill, fill_up, small_disk, storage, whole
from tests.integration.support import until

DISK_BYTES = 160 * MIB
"""Room for the ballast and the 64 MiB that the node wants free besides before it takes that; and some records."""


async def test_the_soft_limit_refuses_publishing_until_there_is_room(tmp_path: Path) -> None:
    """STORAGE_FULL; what was acknowledged is read, also after a crash; a deleted topic makes room, and the file does not grow
    when the same amount is written again."""
    settings = {"storage-bytes-max": "24MiB"}
    async with LocalCluster(nodes=1, data_dir=tmp_path, settings=settings) as cluster, Client(cluster.brokers) as client:
        await client.admin.create_topic("kept")
        await client.admin.create_topic("dropped")
        assert await fill(client, "kept", 10) == 10
        count = await fill(client, "dropped", 100)
        assert 20 <= count <= 60
        full = await storage(client)
        assert full.full
        assert full.limit_bytes == 24 * MIB
        assert full.used_bytes >= 24 * MIB
        assert await whole(client, "dropped") == list(range(count))
        await cluster.kill(1)
        await cluster.start(1)
        assert await whole(client, "dropped") == list(range(count))
        assert await fill(client, "kept", 1) == 0
        await client.admin.delete_topic("dropped")

        async def freed() -> bool:
            return (await storage(client)).used_bytes < 10 * MIB

        await until(freed, "the deleted topic's space was free")
        await client.admin.create_topic("again")
        assert await fill(client, "again", count - 2) == count - 2
        after = await storage(client)
        assert after.file_bytes <= full.file_bytes + 2 * MIB
        assert await whole(client, "kept") == list(range(10))
        assert await whole(client, "again") == list(range(count - 2))


async def test_a_full_disk_refuses_publishing_until_there_is_room(tmp_path: Path, may_mount: bool) -> None:
    """Somebody else fills the disk, to its last page. The node serves on; it starts again with a megabyte to write who it is
    in, and reads; and publishing goes on when there is room."""
    if not may_mount:
        return await test_the_soft_limit_refuses_publishing_until_there_is_room(tmp_path / "limit")
    with small_disk(tmp_path / "disk", DISK_BYTES) as disk:
        settings = {"storage-disk-free-min-bytes": "4MiB", "storage-ballast-bytes": "4MiB"}
        async with LocalCluster(nodes=1, data_dir=disk, settings=settings) as cluster, Client(cluster.brokers) as client:
            await client.admin.create_topic("full")
            await client.admin.create_topic("other")
            assert await fill(client, "full", 10) == 10
            hog = disk / "hog"
            with hog.open("wb") as file:
                file.write(bytes(shutil.disk_usage(disk).free - 12 * MIB))
            count = 10 + await fill(client, "other", 100)
            assert 10 <= count < 40
            assert (await storage(client)).full
            fill_up(hog)
            assert await fill(client, "full", 1) == 0
            assert await whole(client, "full") == list(range(10))
            await cluster.kill(1)
            with pytest.raises(LocalClusterError, match=r"node\.identity cannot be written: .*No space left on device"):
                await cluster.start(1)
            os.truncate(hog, hog.stat().st_size - MIB)
            await cluster.start(1)
            assert await fill(client, "full", 1) == 0
            assert await whole(client, "full") == list(range(10))
            assert await whole(client, "other") == list(range(count - 10))
            hog.unlink()

            async def room() -> bool:
                return not (await storage(client)).full

            await until(room, "there was room again")
            await client.admin.create_topic("again")
            assert await fill(client, "again", 5) == 5
            assert await whole(client, "again") == list(range(5))
    return None
