"""The scenario of random faults: everything may go wrong, nothing may be lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from raftlog.errors import OffsetOutOfRangeError, RaftlogError, TopicExistsError
from raftlog.model import Acks, TopicPartition
from tests.history.checkers import judge
from tests.simulation.admin import Admin
from tests.simulation.clients import Client, Consumer, Looker, Producer, fetch, list_offset
from tests.simulation.faults import Faults
from tests.simulation.world import FAULTS_MIN, OPERATIONS_MIN, SEED_S_MIN, STOP_CLIENTS_S, World

WORK_S = 15.0
"""Simulated seconds of work under faults, at least."""
MORE_WORK_S = 4 * WORK_S
"""So much more where they have let too little happen for a seed: nobody may have led for long."""
FAULTS_END_S = SEED_S_MIN - 2.5
"""Faults come until then at least, if that is later: what is left of a seed belongs to healing and to the final reads."""
FAULT_EVERY_S = 0.7
RESUME_S = 10.0
"""With everything healed, publishing works within this (I9)."""


async def safety(world: World) -> None:
    """See the module."""
    begun_s = world.loop.now_s
    boot(world)
    await world.until(world.sealed, "the cluster begins")
    world.covered("bootstraps")
    await make_topics(world)
    make_clients(world)
    faults = Faults(world)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(client.run()) for client in world.clients]
        moving = group.create_task(world.mover.run())
        await work_under_faults(world, faults, world.clients, running, begun_s)
        await moving
        await world.mover.settle()
    world.coverage["faults"] += faults.begun
    await world.until(world.converged, "the replicas agree")
    if world.rng.random() < 0.3:
        await power_cycle(world)
    await finish(world)


async def work_under_faults(
    world: World, faults: Faults, clients: Sequence[Client], running: Sequence[asyncio.Task[None]], begun_s: float
) -> None:
    """Let faults come for as long as a seed takes, heal everything, and see that the clients, which run already, come to an end.

    Args:
        begun_s: when the seed began.
    """
    end_s = max(world.loop.now_s + WORK_S, begun_s + FAULTS_END_S)
    while world.loop.now_s < end_s or (too_small(world, faults) and world.loop.now_s < end_s + MORE_WORK_S):
        await asyncio.sleep(faults.rng.expovariate(1 / FAULT_EVERY_S))
        faults.once()
        world.invariants.look_around()
    world.enough = True
    world.heal()
    await asyncio.wait(running, timeout=STOP_CLIENTS_S)
    stuck = [client.name for client, task in zip(clients, running, strict=True) if not task.done()]
    if stuck:
        world.violated(f"{', '.join(stuck)} still wait {STOP_CLIENTS_S} s after everything was healed")


def too_small(world: World, faults: Faults) -> bool:
    """Whether this world has not yet had what makes a seed."""
    return world.history.operations < OPERATIONS_MIN or faults.begun < FAULTS_MIN


def boot(world: World) -> None:
    """Start all machines, within a moment of each other."""
    for machine in world.machines.values():
        world.later(world.rng.uniform(0.0, 0.5), world.start, machine)


async def make_topics(world: World) -> None:
    """A topic of several partitions, and at times one that the leader stamps."""
    await make_topic(world, "t", world.rng.choice((1, 2, 2)), {"retention.bytes": world.rng.choice(("6000", "60000", "-1"))})
    if world.rng.random() < 0.3:
        await make_topic(world, "stamped", 1, {"message.timestamp.type": "LogAppendTime"})


async def make_topic(world: World, name: str, partitions: int, configs: dict[str, str], *, replicas: int | None = None) -> None:
    """Create a topic, however long it takes; with a replica on every machine, unless it is to have fewer."""
    factor = replicas or len(world.machines)
    while True:
        machine = world.rng.choice(list(world.machines.values()))
        try:
            await machine.ask(
                lambda broker: broker.create_topic(name, partitions=partitions, replication_factor=factor, configs=configs),
                timeout_s=10.0,
            )
        except TopicExistsError:
            break
        except RaftlogError:
            await asyncio.sleep(0.1)
            continue
        break
    world.partitions += [TopicPartition(name, number) for number in range(partitions)]


def make_clients(world: World) -> None:
    """Who works in this world."""
    clients: list[Client] = [
        Producer(world, "p1"),
        Producer(world, "p2"),
        Producer(world, "plain", idempotent=False),
        Producer(world, "hasty", acks=world.rng.choice((Acks.LEADER, Acks.NONE)), idempotent=False),
        Consumer(world, "c1"),
        Consumer(world, "c2"),
        Looker(world, "looker1"),
        Looker(world, "looker2"),
        Admin(world, "admin"),
    ]
    world.clients += clients


async def power_cycle(world: World) -> None:
    """Everything loses power at once; what each replica knew must be there again."""
    before = {group.group: group.last_index for number in world.healthy()[0].groups for group in world.replicas(number)}
    for machine in world.machines.values():
        machine.kill(power=True)
    world.covered("blackouts")
    world.note("everything loses power")
    for machine in world.healthy():
        world.later(world.rng.uniform(0.0, 1.0), world.start, machine)
    await world.until(world.converged, "the replicas agree after a blackout")
    for number, last in before.items():
        for group in world.replicas(number):
            if group.last_index < last:
                world.violated(f"member {group.member.id} had entry {last} of group {number} before the blackout")


async def finish(world: World) -> None:
    """Publish once more everywhere, read everything, compare the replicas, judge the history."""
    last = Producer(world, "last")
    for tp in world.partitions:
        if not await resumes(world, last, tp):
            return
    await world.until(world.converged, "the replicas agree in the end")
    for tp in world.partitions:
        await read_all(world, tp)
    if await world.until(world.converged, "the replicas agree after all was read"):
        compare(world)  # at this very moment: retention goes on
    for finding in judge(world.history.events):
        world.violated(str(finding))


async def resumes(world: World, producer: Producer, tp: TopicPartition) -> bool:
    """A new batch is acknowledged in time."""
    end_s = world.loop.now_s + RESUME_S
    while world.loop.now_s < end_s:
        if await producer.publish_one(tp):
            return True
    world.violated(f"nothing could be published to {tp} within {RESUME_S} s of a healthy cluster")
    return False


async def read_all(world: World, tp: TopicPartition) -> None:
    """The final log, from its start to its end, through any node."""
    start = end = None
    for _ in range(200):
        machine = world.rng.choice(world.healthy())
        if start is None:
            start = await list_offset(world, "reader", machine, tp, -2)
        elif end is None:
            end = await list_offset(world, "reader", machine, tp, -1)
        else:
            break
        await asyncio.sleep(0.01)
    if start is None or end is None:
        world.violated(f"the bounds of {tp} cannot be read")
        return
    offset, failures, session = start, 0, 0
    while failures < 100:
        machine = world.rng.choice(world.healthy())
        found = await fetch(
            world, "reader", machine, tp, offset, session=f"final {tp} {session}", direct=False, wait_s=0.0, bytes_max=1 << 18,
            rng=world.rng, final=True,
        )  # fmt: skip
        if found == offset:
            if offset < end:
                world.violated(f"{tp} ends at {offset} for its reader, but {end} was its latest offset")
            return
        if isinstance(found, int):
            offset = found
            continue
        failures += 1
        if isinstance(found, OffsetOutOfRangeError) and found.earliest > offset:
            offset, session = found.earliest, session + 1  # retention goes on
        await asyncio.sleep(0.05)
    world.violated(f"{tp} cannot be read at {offset}: {found!r}")


def compare(world: World) -> None:
    """All replicas hold the same entries and the same state (I2, I8)."""
    numbers = {number for machine in world.healthy() for number in machine.groups}
    for number in sorted(numbers):
        group, *twins = world.replicas(number)
        for twin in twins:
            start = max(group.first_index, twin.first_index)
            mine = [entry.data for entry in group.read(start, group.last_index + 1, 1 << 30)]
            theirs = [entry.data for entry in twin.read(start, twin.last_index + 1, 1 << 30)]
            if mine != theirs:
                world.violated(f"the logs of group {number} differ between members {group.member.id} and {twin.member.id}")
            if _state(group.machine) != _state(twin.machine):
                world.violated(f"the state of group {number} differs between members {group.member.id} and {twin.member.id}")


def _state(machine: object) -> object:
    producers = getattr(machine, "producers", None)
    if producers is not None:
        return producers._applied, producers._forgotten_max, getattr(machine, "log_start_offset", None)
    return getattr(machine, "state", None)
