"""Faults of a node's disk: slow, failing, full, old, wiped, damaged, or used twice."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

from raftlog import Client
from raftlog.consensus.snapshot import STAGED
from raftlog.errors import RaftlogError
from raftlog.storage.lmdb_store import LmdbOptions, LmdbStore
from tests.chaos.damage import damaged_last_entry
from tests.chaos.scene import Scene

ENDS_WITHIN_S = 20.0
"""For a node that must not go on to say so and end: a peer has to be reached first, on a busy machine."""
REFUSED = 1
"""Exit code of a node that must not start, or not go on."""
BACK_WITHIN_S = 45.0
"""For a node that comes back without its data to have joined; twice as long to be ready, which is when it has been filled."""
JOINED = b"this node has joined"
GIVEN_UP = b"the damaged replica of group %d is given up"
_LOOK_S = 0.1
FILLER = "filler"
_CHUNK_BYTES = 1 << 20


async def slow_disk(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """Every sync takes long."""
    await _slow(scene, [node_id], hold_s, rng)


async def slow_disks(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """The same on all nodes."""
    await _slow(scene, scene.node_ids, hold_s, rng)


async def _slow(scene: Scene, node_ids: list[int], hold_s: float, rng: Random) -> None:
    disks = [scene.preload(node_id) for node_id in node_ids]
    sync_ms, write_ms = rng.choice([20, 100, 400, 1_500]), rng.choice([0, 0, 2])
    try:
        for disk in disks:
            disk.slow_disk(sync_ms=sync_ms, write_ms=write_ms)
        scene.recorder.note("slow disk", nodes=node_ids, sync_ms=sync_ms, write_ms=write_ms)
        await asyncio.sleep(hold_s)
    finally:
        scene.recorder.note("good disk", nodes=node_ids)
        for disk in disks:
            disk.good_disk()


async def failed_sync(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """A sync fails with EIO: the node must end, for nobody knows what is on the disk."""
    disk = scene.preload(node_id)
    try:
        disk.fail_syncs()
        if not await scene.ended(node_id, ENDS_WITHIN_S):
            scene.found(f"node {node_id} went on though its syncs fail")
            await scene.cluster.kill(node_id)
        elif scene.node(node_id).exit_code != REFUSED:
            scene.found(f"node {node_id} ended with {scene.node(node_id).exit_code} when its syncs failed")
    finally:
        disk.good_disk()
    await asyncio.sleep(hold_s)
    await scene.cluster.start(node_id)


async def disk_full(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """The node with the small disk: it fills up to the last byte, and the node must neither end nor lose anything."""
    target = scene.node(node_id)
    assert target.small_disk is not None
    filler = target.small_disk / FILLER
    try:
        await asyncio.to_thread(_fill, filler)
        if await scene.ended(target.node_id, hold_s):
            scene.found(f"node {target.node_id} ended with {target.exit_code} when its disk was full")
    finally:
        filler.unlink(missing_ok=True)


def _fill(filler: Path) -> None:
    """Write until the file system takes nothing more."""
    with filler.open("wb", buffering=0) as file:
        size = _CHUNK_BYTES
        while size:
            try:
                file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size //= 2


async def old_disk(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """A copy of the disk that was made before the last start comes back: it must join anew, and be filled."""
    node = scene.node(node_id)
    old = scene.cluster.directory / f"old-{node_id}"
    await scene.cluster.stop(node_id)
    await asyncio.to_thread(_copy, node.data_dir, old)
    await scene.cluster.start(node_id)
    await asyncio.sleep(hold_s)
    await scene.cluster.kill(node_id)
    await asyncio.to_thread(shutil.rmtree, node.data_dir)
    await asyncio.to_thread(shutil.move, old, node.data_dir)
    await _must_come_back(scene, node_id, "an old copy of its disk")


async def wiped_disk(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """It comes back with an empty disk: it must join anew, and be filled."""
    await scene.cluster.kill(node_id)
    await asyncio.sleep(hold_s)
    await asyncio.to_thread(shutil.rmtree, scene.node(node_id).data_dir)
    await _must_come_back(scene, node_id, "an empty disk")


async def bit_flip(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """A bit of the newest entry of one of its groups is another one: its replica must be given up, and filled again."""
    node = scene.node(node_id)
    await scene.cluster.kill(node_id)
    await asyncio.sleep(hold_s)
    group = _flip(node.data_dir, rng)
    scene.recorder.note("bit flip", node=node_id, group=group)
    before = node.log_path.stat().st_size
    await scene.cluster.start(node_id)
    for _ in range(round(BACK_WITHIN_S / _LOOK_S)):
        if GIVEN_UP % group in node.log_path.read_bytes()[before:]:
            break
        await asyncio.sleep(_LOOK_S)
    else:
        scene.found(f"node {node_id} did not give up its replica of group {group}, whose last entry is damaged")
    await _must_be_filled(scene, node_id, "a damaged entry")


def _flip(data_dir: Path, rng: Random) -> int:
    """Damage the last entry of one of the groups on a stopped node's disk, but for the metadata's; the group."""
    store = LmdbStore(data_dir, lambda error: None, options=LmdbOptions(ballast_bytes=0))
    try:
        group = rng.choice([group for group in store.groups() if 0 < group < STAGED and store.bounds(group)])
    finally:
        store.close()
    damaged_last_entry(data_dir, group)
    return group


async def _must_come_back(scene: Scene, node_id: int, what: str) -> None:
    """Start the node on what is there. It must say that it has joined: as what it was before, nobody may take it."""
    node = scene.node(node_id)
    before = node.log_path.stat().st_size
    node.spawn()
    for _ in range(round(BACK_WITHIN_S / _LOOK_S)):
        if not node.alive:
            scene.found(f"node {node_id} ended with {node.exit_code} on {what}")
            return
        if JOINED in node.log_path.read_bytes()[before:]:
            break
        await asyncio.sleep(_LOOK_S)
    else:
        scene.found(f"node {node_id} went on with {what}, and did not join")
    await node.ready(2 * BACK_WITHIN_S)
    await _must_be_filled(scene, node_id, what)


async def _must_be_filled(scene: Scene, node_id: int, what: str) -> None:
    node = scene.node(node_id)
    others = [other.grpc for other in scene.cluster.nodes.values() if other is not node]
    async with Client(others) as client:
        for _ in range(round(BACK_WITHIN_S / _LOOK_S)):
            if not await _moves(client):
                return
            await asyncio.sleep(_LOOK_S)
    scene.found(f"node {node_id} came back with {what}, and was not filled within {BACK_WITHIN_S:g} s")


async def _moves(client: Client) -> bool:
    """Whether replicas are on the move, or nobody knows."""
    try:
        return bool(await client.admin.list_moves())
    except RaftlogError:
        return True


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


async def second_process(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """A second process on the same directory: it must be refused, and the first must not notice."""
    node = scene.node(node_id)
    command = [*node.prefix, sys.executable, "-m", "raftlog.testing.child", str(os.getpid()), *node.flags]
    process = await asyncio.create_subprocess_exec(
        *command, env=dict(node.environ), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(ENDS_WITHIN_S):
            await process.communicate()
    except TimeoutError:
        scene.found(f"a second process on the directory of node {node_id} was not refused")
        process.send_signal(signal.SIGKILL)
        await process.wait()
    if process.returncode != REFUSED:
        scene.found(f"a second process on the directory of node {node_id} ended with {process.returncode}")
    await asyncio.sleep(hold_s)
    if not node.alive:
        scene.found(f"node {node_id} ended when a second process was started on its directory")
