"""The faults: each hurts the cluster, holds, and heals it again, also when it is cut short. ``FAULTS`` has them by kind."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from itertools import permutations
from random import Random

from raftlog.core.failpoints import EXIT_CODE, POINTS
from tests.chaos import disk_faults
from tests.chaos.proxy import Way
from tests.chaos.scene import Scene

Play = Callable[[Scene, int, float, Random], Awaitable[None]]
"""A fault of the node, so long, with this randomness."""

CRASH_WAIT_S = 10.0
"""For a crash point to be reached under load; a point in the identity file is reached at the start or never."""
FLAP_S = (0.2, 1.2)


async def kill(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """SIGKILL, and start again later."""
    await scene.cluster.kill(node_id)
    await asyncio.sleep(hold_s)
    await scene.cluster.start(node_id)


async def kill_all(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """All at once."""
    await asyncio.gather(*(scene.cluster.kill(each) for each in scene.node_ids))
    await asyncio.sleep(hold_s)
    for each in scene.node_ids:
        scene.node(each).spawn()
    await scene.cluster.ready()


async def crash_point(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """Start it so that it ends at a named point."""
    await scene.cluster.kill(node_id)
    name = rng.choice(sorted(POINTS))
    node = scene.node(node_id)
    node.crash_at = f"{name}:{rng.randint(1, 2) if name.startswith('identity') else rng.randint(1, 300)}"
    scene.recorder.note("crash point", node=node_id, at=node.crash_at)
    node.spawn()
    if await scene.ended(node_id, CRASH_WAIT_S):
        if node.exit_code != EXIT_CODE:
            scene.found(f"node {node_id} was to crash at a point and ended with {node.exit_code}")
    else:
        scene.recorder.note("crash point not reached", node=node_id)
        await scene.cluster.kill(node_id)
    await scene.cluster.start(node_id)


async def restart(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """SIGTERM, which hands leadership over, and start again."""
    code = await scene.cluster.stop(node_id)
    if code != 0:
        scene.found(f"node {node_id} was asked to stop and ended with {code}")
    await asyncio.sleep(hold_s)
    await scene.cluster.start(node_id)


async def pause(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """SIGSTOP: connections stay open, nothing is answered."""
    await _paused(scene, [node_id], hold_s)


async def pause_majority(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """The same for more nodes than may fail."""
    others = [other for other in scene.node_ids if other != node_id]
    await _paused(scene, [node_id, *others[: len(scene.node_ids) // 2]], hold_s)


async def _paused(scene: Scene, node_ids: list[int], hold_s: float) -> None:
    try:
        for node_id in node_ids:
            scene.node(node_id).signal(signal.SIGSTOP)
        await asyncio.sleep(hold_s)
    finally:
        for node_id in node_ids:
            scene.node(node_id).signal(signal.SIGCONT)


async def isolate(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """Packets from and to the other nodes are dropped."""
    await scene.cut(scene.both_ways(node_id))
    await asyncio.sleep(hold_s)


async def one_way_out(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """It hears the others, and is not heard."""
    await scene.cut(scene.outward(node_id))
    await asyncio.sleep(hold_s)


async def one_way_in(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """It is heard, and hears nobody."""
    await scene.cut(scene.inward(node_id))
    await asyncio.sleep(hold_s)


async def bridge(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """Two halves that only this node connects."""
    others = [other for other in scene.node_ids if other != node_id]
    left = set(others[: len(others) // 2])
    await scene.cut((one, other) for one, other in permutations(others, 2) if (one in left) != (other in left))
    await asyncio.sleep(hold_s)


async def split_all(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """Nobody hears anybody."""
    await scene.cut(permutations(scene.node_ids, 2))
    await asyncio.sleep(hold_s)


async def reset(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """Its connections to the other nodes are reset, new ones too."""
    await scene.cut(scene.both_ways(node_id), Way.RESET)
    await asyncio.sleep(hold_s)


async def flapping(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """Its links come and go."""
    left_s, cut = hold_s, False
    while left_s > 0:
        cut = not cut
        await (scene.cut(scene.both_ways(node_id), rng.choice([Way.STALLED, Way.RESET])) if cut else scene.mend())
        part_s = min(left_s, rng.uniform(*FLAP_S))
        await asyncio.sleep(part_s)
        left_s -= part_s


async def clock_jump(scene: Scene, node_id: int, hold_s: float, rng: Random) -> None:
    """Its wall clock jumps, and jumps back."""
    clock = scene.preload(node_id)
    seconds = rng.choice([-1, 1]) * rng.choice([2, 60, 3_600, 50_000])
    scene.recorder.note("clock", node=node_id, seconds=seconds)
    try:
        clock.shift_clock(seconds)
        await asyncio.sleep(hold_s)
    finally:
        clock.shift_clock(0)


FAULTS: dict[str, Play] = {
    "kill": kill,
    "kill-all": kill_all,
    "crash-point": crash_point,
    "restart": restart,
    "pause": pause,
    "pause-majority": pause_majority,
    "isolate": isolate,
    "one-way-out": one_way_out,
    "one-way-in": one_way_in,
    "bridge": bridge,
    "split-all": split_all,
    "reset": reset,
    "flapping": flapping,
    "slow-disk": disk_faults.slow_disk,
    "slow-disks": disk_faults.slow_disks,
    "failed-sync": disk_faults.failed_sync,
    "disk-full": disk_faults.disk_full,
    "clock-jump": clock_jump,
    "old-disk": disk_faults.old_disk,
    "wiped-disk": disk_faults.wiped_disk,
    "bit-flip": disk_faults.bit_flip,
    "second-process": disk_faults.second_process,
}
"""Every kind of ``plan.KINDS``. The nemesis mends all links behind each."""
