"""Consensus under random faults: real code, virtual time, a handful of seeds in every run."""

from __future__ import annotations

import pytest

from tests.consensus.world import World

SEEDS = [(3, seed) for seed in range(8)] + [(5, seed) for seed in range(3)]
"""(nodes, seed)"""
MESSAGE_BYTES = (1 << 20, 300)
"""Most in one message: so that logs travel whole, and in pieces of one or two entries."""


async def mixed_faults(world: World, seconds: float = 8.0) -> None:
    """Publish all the while; crash, cut, stall, isolate and slow nodes at random; then heal and wait for agreement."""
    rng, end = world.rng, world.loop.now_s + seconds
    fault_at = world.loop.now_s + 1.5
    down: list[tuple[float, int]] = []
    while world.loop.now_s < end:
        if leader := world.leader():
            for _ in range(rng.choice((0, 0, 1, 1, 3, 12))):
                world.publish(leader, rng.choice((20, 90, 3_000)))
        for moment, node_id in list(down):
            if moment <= world.loop.now_s:
                down.remove((moment, node_id))
                world.nodes[node_id].start()
        if world.loop.now_s >= fault_at:
            fault_at += rng.expovariate(2.5)
            _fault(world, down)
        await world.step(rng.uniform(0.001, 0.02))
    world.heal()
    for node in world.nodes.values():
        node.disk_s = (0.0005, 0.004)
        if node.turns is None:
            node.start()
    await world.until(lambda: world.converged() and world.leader() is not None)
    await world.until(lambda: world.under_way() == 0)
    world.check_rest()


def _fault(world: World, down: list[tuple[float, int]]) -> None:
    rng = world.rng
    alive = [node for node in world.nodes.values() if node.turns is not None]
    kind = rng.choice(("crash", "crash", "all", "cut", "stall", "isolate", "heal", "disk", "transfer", "full", "trim"))
    if kind == "crash" and alive:
        victims = [world.leader() if rng.random() < 0.6 else None, rng.choice(alive)]
        _crash(world, down, next(node for node in victims if node is not None).id)
    elif kind == "all" and rng.random() < 0.3:
        for node in alive:
            _crash(world, down, node.id)
    elif kind == "cut" and world.up:
        a, b = sorted(rng.choice(sorted(world.up, key=sorted)))
        world.cut(a, b)
    elif kind == "stall" and world.up:
        a, b = rng.sample(sorted(rng.choice(sorted(world.up, key=sorted))), 2)
        world.stall(a, b, rng.uniform(0.05, 3.0))
    elif kind == "isolate":
        world.isolate(rng.choice(world.members))
    elif kind == "heal":
        world.heal()
    elif kind == "disk" and alive:
        rng.choice(alive).disk_s = rng.choice(((0.0005, 0.004), (0.05, 0.6)))
    elif kind == "full":
        world.fill(rng.choice(world.members), rng.uniform(0.2, 2.0))
    elif kind == "trim":
        world.trim()
    elif kind == "transfer" and (leader := world.leader()) and leader.group:
        leader.group.transfer()


def _crash(world: World, down: list[tuple[float, int]], node_id: int) -> None:
    if world.nodes[node_id].turns is not None:
        world.nodes[node_id].crash()
        down.append((world.loop.now_s + world.rng.uniform(0.1, 2.0), node_id))


@pytest.mark.parametrize(("nodes", "seed"), SEEDS)
def test_nothing_committed_is_lost_under_random_faults(nodes: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crashes, cuts, stalls, partitions, slow and full disks, trims and transfers break nothing, and in the end all agree."""
    monkeypatch.setattr("raftlog.consensus.sender.APPEND_BYTES_MAX", MESSAGE_BYTES[seed % len(MESSAGE_BYTES)])
    world = World(nodes, seed)
    world.run(mixed_faults)
    assert len(world.acknowledged) > 20
    assert not world.missing()
