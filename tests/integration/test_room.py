"""Room on a node's disk: retention that does not wait when there is little, and the commands over a stopped node's data."""

from __future__ import annotations

import json
from pathlib import Path

from raftlog import Client
from raftlog.testing import LocalCluster
from tests.integration.room import MIB, fill, small_disk, storage, storage_command, whole
from tests.integration.support import until

LIMIT = {"storage-bytes-max": "24MiB", "log-retention-check-interval-ms": "600000"}
"""Retention's own next check is ten minutes away."""


async def test_what_may_go_goes_before_publishing_stops_for_long(tmp_path: Path) -> None:
    """Three times the limit is published to a topic that keeps 4 MiB; a topic without retention beside it loses nothing."""
    async with LocalCluster(nodes=1, data_dir=tmp_path, settings=LIMIT) as cluster, Client(cluster.brokers) as client:
        await client.admin.create_topic("kept", configs={"retention.ms": "-1", "retention.bytes": "-1"})
        await client.admin.create_topic("rolling", configs={"retention.bytes": str(4 * MIB)})
        assert await fill(client, "kept", 10) == 10
        assert await fill(client, "rolling", 144, patience_s=60) == 144
        left = await whole(client, "rolling")
        assert left == list(range(144))[-len(left) :]
        assert 8 <= len(left) < 48
        assert await whole(client, "kept") == list(range(10))


async def test_a_full_node_says_why_and_keeps_what_it_must(tmp_path: Path) -> None:
    """Where no rule lets anything go, nothing goes: publishing stops, and the error names the limit."""
    async with LocalCluster(nodes=1, data_dir=tmp_path, settings=LIMIT) as cluster, Client(cluster.brokers) as client:
        await client.admin.create_topic("kept", configs={"retention.ms": "-1"})
        count = await fill(client, "kept", 100)
        assert 40 <= count < 50
        full = await storage(client)
        assert (full.full, full.low, full.room_bytes) == (True, True, 0)
        assert "storage-bytes-max is 24.0 MiB" in full.shortage
        assert await whole(client, "kept") == list(range(count))


async def test_a_stopped_nodes_file_is_checked_and_compacted(tmp_path: Path) -> None:
    """After a topic is deleted its space goes back to the disk; the node starts on what is left, and everything is read."""
    async with LocalCluster(nodes=1, data_dir=tmp_path) as cluster, Client(cluster.brokers) as client:
        await client.admin.create_topic("kept")
        await client.admin.create_topic("dropped")
        assert await fill(client, "kept", 10) == 10
        assert await fill(client, "dropped", 40) == 40
        await client.admin.delete_topic("dropped")
        directory = tmp_path / "node-1"
        code, _, said = await storage_command("compact", "--data-dir", directory)
        assert code == 1
        assert "is in use by process" in said
        await cluster.stop(1)
        code, out, _ = await storage_command("check", "--data-dir", directory, "--format", "json")
        assert (code, json.loads(out)["sound"]) == (0, True)
        code, out, said = await storage_command("compact", "--data-dir", directory, "--format", "json")
        assert code == 0, said
        sizes = json.loads(out)
        assert sizes["before_bytes"] > 24 * MIB > sizes["after_bytes"] / 2
        assert sizes["after_bytes"] < 8 * MIB
        code, out, _ = await storage_command("info", "--data-dir", directory, "--format", "json")
        facts = json.loads(out)
        assert facts["file_bytes"] == sizes["after_bytes"]
        assert "kept" in {group["topic"] for group in facts["groups"]}
        await cluster.start(1)
        assert await whole(client, "kept") == list(range(10))
        assert await fill(client, "kept", 1) == 1


async def test_compacting_needs_room_for_both_files(tmp_path: Path, may_mount: bool) -> None:
    """On a disk that has none the command says so, and the node starts as before; with room it is done there."""
    if not may_mount:
        return await test_a_stopped_nodes_file_is_checked_and_compacted(tmp_path)
    with small_disk(tmp_path / "disk", 64 * MIB) as disk:
        settings = {"storage-disk-free-min-bytes": "4MiB", "storage-ballast-bytes": "0"}
        async with LocalCluster(nodes=1, data_dir=disk, settings=settings) as cluster, Client(cluster.brokers) as client:
            await client.admin.create_topic("kept")
            await client.admin.create_topic("dropped")
            assert await fill(client, "kept", 20) == 20
            assert await fill(client, "dropped", 40) == 40
            await client.admin.delete_topic("dropped")

            async def deleted() -> bool:
                return (await storage(client)).used_bytes < 14 * MIB

            await until(deleted, "the topic's space was free")
            await cluster.stop(1)
            hog = disk / "hog"
            hog.write_bytes(bytes(25 * MIB))
            code, _, said = await storage_command("compact", "--data-dir", disk / "node-1")
            assert code == 1
            assert "MiB free beside" in said
            assert "Make room there" in said
            hog.unlink()
            code, _, said = await storage_command("compact", "--data-dir", disk / "node-1")
            assert code == 0, said
            await cluster.start(1)
            assert await whole(client, "kept") == list(range(20))
    return None
