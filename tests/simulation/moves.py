"""The scenario of moving replicas: operators move, drain and balance while everything may go wrong.

Nothing is lost, and in the end every replica is where it is wanted, and nowhere else.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from raftlog.core.configuration import member_id
from raftlog.core.metadata import MetadataState
from tests.simulation.admin import Admin
from tests.simulation.clients import Client, Consumer, Looker, Producer
from tests.simulation.faults import Faults
from tests.simulation.operator import REPLICAS, Operator
from tests.simulation.safety import boot, finish, make_topic, power_cycle, work_under_faults
from tests.simulation.world import World


async def moves(world: World) -> None:
    """See the module."""
    begun_s = world.loop.now_s
    world.broker_config = replace(
        world.broker_config, replica_replacement_delay_ms=6_000, leader_imbalance_check_interval_ms=5_000,
        moves_catching_up_max=world.rng.choice((1, 8)),
    )  # fmt: skip
    boot(world)
    await world.until(world.sealed, "the cluster begins")
    world.covered("bootstraps")
    configs = {"retention.bytes": world.rng.choice(("6000", "60000", "-1"))}
    await make_topic(world, "t", world.rng.choice((2, 3)), configs, replicas=REPLICAS)
    operator = Operator(world, "operator")
    clients: list[Client] = [
        Producer(world, "p1"), Producer(world, "p2"), Producer(world, "plain", idempotent=False), Consumer(world, "c1"),
        Looker(world, "looker"), Admin(world, "admin"), operator, Operator(world, "another"),
    ]  # fmt: skip
    world.clients += clients
    faults = Faults(world, lost_disks=False)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(client.run()) for client in clients]
        await work_under_faults(world, faults, clients, running, begun_s)
    world.coverage["faults"] += faults.begun
    for one in (client for client in clients if isinstance(client, Operator)):
        await one.settle()
    await world.until(world.converged, "the replicas agree")
    await world.until(lambda: not misplaced(world), "no replica is anywhere else")
    if world.rng.random() < 0.3:
        await power_cycle(world)
    await finish(world)


def misplaced(world: World) -> list[str]:
    """Replicas that are not where the metadata wants them: in groups, and on nodes."""
    leader = world.leader_of(0)
    if leader is None or leader.run is None or leader.run.broker is None:
        return ["nobody leads the cluster"]
    state: MetadataState = leader.run.broker._machine.state
    wanted = {one.group_id: one for topic in state.topics.values() for one in topic.partitions}
    found = []
    for group, partition in wanted.items():
        members = sorted(member_id(*one) for one in partition.replicas)
        configuration = world.configuration(group)
        going = partition.leaving + partition.lost  # until the group is known to have committed that they are out
        if list(configuration.voters) != members or configuration.learners or going or not world.settled(group):
            found.append(f"group {group} has {configuration} and {going} going, wanted is {partition.replicas}")
    for machine in world.healthy():
        for number in machine.groups:
            if number and (number not in wanted or machine.id not in wanted[number].nodes):
                found.append(f"node {machine.id} has a replica of group {number}")
    return found
