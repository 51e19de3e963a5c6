"""The scenario of power failures of everything at once, again and again under load: nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio

from tests.simulation.safety import boot, finish, make_clients, make_topics
from tests.simulation.world import STOP_CLIENTS_S, World

BLACKOUTS = 10
BETWEEN_S = (0.3, 3.0)
"""Between the moment when all nodes are back and the next failure: at times before there is a leader again."""


async def blackout(world: World) -> None:
    """See the module; disks are slow at times, so that commits are under way when the power goes."""
    boot(world)
    await world.until(world.sealed, "the cluster begins")
    await make_topics(world)
    make_clients(world)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(client.run()) for client in world.clients]
        for _ in range(BLACKOUTS):
            await asyncio.sleep(world.rng.uniform(*BETWEEN_S))
            for machine in world.machines.values():
                machine.disk.latency_s = world.rng.choice(((0.0005, 0.004), (0.01, 0.1)))
            await asyncio.sleep(world.rng.uniform(*BETWEEN_S))
            await power_failure(world)
        for machine in world.machines.values():
            machine.disk.repair()
        world.enough = True
        await asyncio.wait(running, timeout=STOP_CLIENTS_S)
    world.coverage["faults"] += BLACKOUTS
    await world.until(world.converged, "the replicas agree after the last power failure")
    await finish(world)


async def power_failure(world: World) -> None:
    """All machines at the same moment, in the middle of whatever they do; each comes back within a second."""
    for machine in world.machines.values():
        machine.kill(power=True)
    world.covered("blackouts")
    world.note("everything loses power")
    for machine in world.machines.values():
        world.later(world.rng.uniform(0.0, 1.0), world.start, machine)
    await world.until(lambda: all(machine.run is not None for machine in world.machines.values()), "all nodes are back")
