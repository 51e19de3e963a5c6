"""The scenario of one fault that never ends: with a majority healthy and connected, publishing works within 10 s (I9)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from raftlog.errors import RaftlogError
from raftlog.model import TopicPartition
from tests.history.checkers import judge
from tests.simulation.clients import Client, Consumer, Looker, Producer
from tests.simulation.node import Machine
from tests.simulation.safety import boot, make_topic
from tests.simulation.world import OPERATIONS_MIN, STOP_CLIENTS_S, World

WORK_S = 16.0
PUBLISH_WITHIN_S = 10.0
PAUSES_S = (0.03, 0.2)
DROWSY = 0.4
"""Of the worlds, in so many little is published until the fault has settled: groups sleep in between, and when it begins."""
DROWSY_PAUSES_S = (0.5, 2.5)
SETTLED_S = 5.0
"""After which the fault that stays has cost all the elections that it will."""


async def liveness(world: World) -> None:
    """Boot, work, begin one fault, and watch that every partition goes on taking batches."""
    boot(world)
    await world.until(world.sealed, "the cluster begins")
    await make_topic(world, "t", world.rng.choice((1, 2, 3)), {})
    drowsy = world.rng.random() < DROWSY
    pauses_s = DROWSY_PAUSES_S if drowsy else PAUSES_S
    probers = [Prober(world, f"p{tp.partition}", tp, pauses_s) for tp in world.partitions]
    world.clients += probers
    busy = [Producer(world, "busy"), Looker(world, "looker"), Looker(world, "another")]
    world.clients += [Consumer(world, "c1"), *([] if drowsy else busy)]
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(client.run()) for client in world.clients]
        await asyncio.sleep(world.rng.uniform(1.0, 3.0))
        what = begin_fault(world)
        world.note(f"fault for ever: {what}")
        if "slow" not in what:  # a slow disk's heartbeats are late
            world.loop.schedule(world.loop.now_s + SETTLED_S, world.invariants.settles)
        world.coverage["faults"] += 1
        for prober in probers:
            prober.watch()
        if drowsy:
            await asyncio.sleep(SETTLED_S)
            for prober in probers:
                prober.pauses_s = PAUSES_S
            world.clients += busy
            running += [group.create_task(client.run()) for client in busy]
        end_s = world.loop.now_s + WORK_S
        late_s = end_s + 2 * WORK_S
        while world.loop.now_s < end_s or (world.history.operations < OPERATIONS_MIN and world.loop.now_s < late_s):
            await asyncio.sleep(0.5)
        world.enough = True
        await asyncio.wait(running, timeout=STOP_CLIENTS_S)
        for client, task in zip(world.clients, running, strict=True):
            if not task.done():
                world.violated(f"{client.name} still waits {STOP_CLIENTS_S} s after it was asked to stop")
    world.invariants.check_copies()
    for finding in judge(world.history.events):
        world.violated(str(finding))


def begin_fault(world: World) -> str:
    """One fault that never ends and leaves a majority healthy; what it is."""
    kinds: list[Callable[[World, list[Machine]], str]] = [_gone, _cut_off, _one_way, _dead_link, _slow_disk, _paused]
    count = (len(world.machines) - 1) // 2
    victims = world.rng.sample(list(world.machines.values()), count)
    leader = world.leader_of(world.group_of(world.partitions[0]))
    if leader is not None and leader not in victims and world.rng.random() < 0.6:
        victims[0] = leader
    return world.rng.choice(kinds)(world, victims)


def _gone(world: World, victims: list[Machine]) -> str:
    power = world.rng.random() < 0.5
    for machine in victims:
        machine.kill(power=power)
    world.covered("minority gone")
    return f"nodes {_ids(victims)} are gone" + (", without a word" if power else "")


def _cut_off(world: World, victims: list[Machine]) -> str:
    for machine in victims:
        for other in world.machines.values():
            if other not in victims:
                world.network.block(machine.name, other.name)
                world.network.block(other.name, machine.name)
    world.covered("minority cut off")
    return f"nodes {_ids(victims)} are cut off"


def _one_way(world: World, victims: list[Machine]) -> str:
    into = world.rng.random() < 0.5
    for machine in victims:
        for other in world.machines.values():
            if other not in victims:
                world.network.block(*((other.name, machine.name) if into else (machine.name, other.name)))
    world.covered("one way link")
    return f"nothing {'reaches' if into else 'leaves'} nodes {_ids(victims)}"


def _dead_link(world: World, victims: list[Machine]) -> str:
    other = world.rng.choice([machine for machine in world.machines.values() if machine is not victims[0]])
    world.network.block(victims[0].name, other.name)
    if world.rng.random() < 0.5:
        world.network.block(other.name, victims[0].name)
    world.covered("dead link")
    return f"node {victims[0].id} does not reach node {other.id}"


def _slow_disk(world: World, victims: list[Machine]) -> str:
    for machine in victims:
        machine.disk.latency_s = (0.5, 2.0)
    world.covered("slow disk")
    return f"the disks of nodes {_ids(victims)} are slow"


def _paused(world: World, victims: list[Machine]) -> str:
    for machine in victims:
        if machine.run is not None:
            machine.run.process.paused = True
    world.covered("paused node")
    return f"nodes {_ids(victims)} are paused"


def _ids(machines: list[Machine]) -> str:
    return ", ".join(str(machine.id) for machine in machines)


class Prober(Client):
    """Publishes to one partition, through whichever node takes it, and complains when that takes too long."""

    def __init__(self, world: World, name: str, tp: TopicPartition, pauses_s: tuple[float, float]) -> None:
        super().__init__(world, name)
        self._tp = tp
        self.pauses_s = pauses_s
        self._producer = Producer(world, name, brisk=True)
        self._since_s: float | None = None

    def watch(self) -> None:
        """From now on it counts."""
        self._since_s = self.world.loop.now_s

    async def once(self) -> None:
        """One batch."""
        try:
            if await self._producer.publish_one(self._tp):
                if self._since_s is not None:
                    self._since_s = self.world.loop.now_s
                await self.pause(*self.pauses_s)
        except RaftlogError:
            await self.pause()
        if self._since_s is not None and self.world.loop.now_s - self._since_s > PUBLISH_WITHIN_S:
            self.world.violated(f"nothing could be published to {self._tp} for {self.world.loop.now_s - self._since_s:.1f} s")
