"""The scenario of consumer groups under random faults: no offset is lost, no fenced member commits, no record is passed over."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

from raftlog.broker.group_machine import GroupMachine
from raftlog.broker.partition import Partition
from raftlog.core.groups.limits import GroupLimits
from raftlog.model import TopicPartition
from tests.history.group_checkers import judge_groups
from tests.simulation.admin import Admin
from tests.simulation.clients import Client, Looker, Producer
from tests.simulation.faults import Faults
from tests.simulation.group_clients import SESSION_MS, Auditor, Loner, Member, Plan, coordinators
from tests.simulation.safety import boot, finish, make_topics, work_under_faults
from tests.simulation.world import World

CATCH_UP_S = 40.0
"""With everything healed and nobody publishing, every group comes to the end of every partition within this: a rebalance that
the faults left behind lasts as long as its members' timeouts."""
LIMITS = GroupLimits(session_timeout_min_ms=SESSION_MS, initial_rebalance_delay_ms=50)


async def groups(world: World) -> None:
    """See the module."""
    begun_s = world.loop.now_s
    world.broker_config = replace(
        world.broker_config, groups=LIMITS, offsets_topic_num_partitions=2, offsets_topic_replication_factor=5
    )
    boot(world)
    await world.until(world.sealed, "the cluster begins")
    await make_topics(world)
    members = make_members(world)
    names = sorted({member.group for member in members})
    others: list[Client] = [
        Producer(world, "p1"), Producer(world, "plain", idempotent=False), Looker(world, "looker"), Admin(world, "admin"),
        Loner(world, "loner"), Auditor(world, "auditor1", names), Auditor(world, "auditor2", names),
    ]  # fmt: skip
    world.clients += [*others, *members]
    faults = Faults(world)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(client.run()) for client in others]
        moving = group.create_task(world.mover.run())
        reading = [group.create_task(_read(world, member)) for member in members]
        await work_under_faults(world, faults, others, running, begun_s)
        await moving
        await world.mover.settle()
        await _caught_up(world, members)
        for task in reading:
            task.cancel()
    world.coverage["faults"] += faults.begun
    await world.until(world.converged, "the replicas agree")
    await finish(world)
    for finding in judge_groups(world.history.events):
        world.violated(str(finding))


def make_members(world: World) -> list[Member]:
    """Two groups: one of members that come and go, one of static members."""
    one, other = Plan(), Plan()
    dynamic = [Member(world, f"a{number}", "dynamic", one) for number in range(world.rng.choice((2, 3, 4)))]
    static = [Member(world, f"s{number}", "static", other, instance=f"i{number}") for number in range(2)]
    return [*dynamic, *static]


async def _read(world: World, member: Member) -> None:
    """Members go on when the others have stopped, until all is read."""
    while True:
        await member.once()


async def _caught_up(world: World, members: list[Member]) -> None:
    """Every group has committed the end of every partition, as those who lead know it."""
    for group in sorted({member.group for member in members}):
        for tp in world.partitions:
            await world.until(partial(_done, world, group, tp), f"group {group} comes to the end of {tp}", CATCH_UP_S)


def _done(world: World, group: str, tp: TopicPartition) -> bool:
    leader, number = world.leader_of(world.group_of(tp)), world.group_of(tp)
    if leader is None:
        return False
    partition = leader.groups[number].machine
    assert isinstance(partition, Partition)
    return committed(world, group, tp) >= partition.high_watermark


def committed(world: World, group: str, tp: TopicPartition) -> int:
    """The offset that the group's coordinator holds; 0 where there is none."""
    for number in coordinators(world):
        leader = world.leader_of(number)
        machine = None if leader is None else leader.groups[number].machine
        if isinstance(machine, GroupMachine) and tp in machine.state.offsets.get(group, {}):
            return machine.state.offsets[group][tp].offset
    return 0
