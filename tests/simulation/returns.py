"""The scenario of nodes that come: new ones join, and others come back on empty and on old disks, while everything may go wrong.

Nothing is lost, nobody votes under the name of a disk that he has no more, and in the end every node is whole again. One disk at
a time is lost, or damaged: the next when all replicas are sound, and where they are wanted.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from functools import partial

from raftlog.consensus.group import Group
from raftlog.consensus.journal import stored_progress
from raftlog.consensus.snapshot import STAGED
from raftlog.core.configuration import member_id
from raftlog.core.metadata import MetadataState
from raftlog.errors import DataLossError
from raftlog.storage.port import StoreReader
from tests.simulation.admin import Admin
from tests.simulation.clients import Client, Consumer, Looker, Producer
from tests.simulation.disk import Contents
from tests.simulation.faults import Faults
from tests.simulation.moves import misplaced
from tests.simulation.node import Machine
from tests.simulation.safety import boot, finish, make_topic, power_cycle, work_under_faults
from tests.simulation.world import World

REPLICAS = 3
MACHINES_MAX = 6


async def returns(world: World) -> None:
    """See the module."""
    begun_s = world.loop.now_s
    if world.rng.random() < 0.4:  # who has joined is given its share
        world.broker_config = replace(world.broker_config, leader_imbalance_check_interval_ms=4_000)
    boot(world)
    await world.until(world.sealed, "the cluster begins")
    world.covered("bootstraps")
    configs = {"retention.bytes": world.rng.choice(("6000", "60000", "-1"))}
    await make_topic(world, "t", world.rng.choice((1, 2)), configs, replicas=REPLICAS)
    clients: list[Client] = [
        Producer(world, "p1"), Producer(world, "p2"), Producer(world, "plain", idempotent=False), Consumer(world, "c1"),
        Looker(world, "looker"), Admin(world, "admin"),
    ]  # fmt: skip
    world.clients += clients
    faults = Comings(world)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(client.run()) for client in clients]
        await work_under_faults(world, faults, clients, running, begun_s)
    world.coverage["faults"] += faults.begun
    await world.until(lambda: read_damaged(world) and whole(world), "every node is whole")
    await world.until(world.converged, "the replicas agree")
    if world.rng.random() < 0.3:
        await power_cycle(world)
    await finish(world)


class Comings(Faults):
    """The usual faults, but for disks that are lost for good; and nodes that come, or come back without their data."""

    def __init__(self, world: World) -> None:
        super().__init__(world, lost_disks=False)
        self._copies: list[tuple[int, Contents]] = []
        self._kinds |= {self._copy: 4, self._older_disk: 6, self._empty_disk: 5, self._bit_flips: 4, self._join: 2}

    def _copy(self) -> str | None:
        machine = self.rng.choice(list(self.world.machines.values()))
        if machine.disk.contents.identity is None or machine.disk.lost:
            return None
        self._copies.append((machine.id, machine.disk.contents.copy()))
        return f"a copy of the disk of node {machine.id} is kept"

    def _older_disk(self) -> str | None:
        known = [one for one in self._copies if self.known_to_be_old(one[0], one[1])]
        if not known or not whole(self.world):
            return None
        node_id, contents = self.rng.choice(known)
        machine = self.world.machines[node_id]
        machine.kill()
        machine.disk.swap(contents.copy())
        self.world.later(0.2, self.world.start, machine)
        return f"node {node_id} comes back on an old copy of its disk"

    def _empty_disk(self) -> str | None:
        machine = self._any()
        if machine is None or not whole(self.world):
            return None
        machine.kill(power=self.rng.random() < 0.5)
        machine.disk.wipe()
        self.world.later(self.rng.uniform(0.1, 4.0), self.world.start, machine)
        damaged = self._flips_elsewhere(machine) if self.rng.random() < 0.5 else None
        return f"node {machine.id} comes back on an empty disk" + (f", and {damaged}" if damaged else "")

    def _flips_elsewhere(self, wiped: Machine) -> str | None:
        """Damage comes to light when a lost replica is filled: where the other two are needed to vote. Not in what is read at the
        start, for a replica that cannot be opened does not vote; nor in what the third has not got, for then it is nowhere."""
        machine = self.rng.choice([machine for machine in self.world.machines.values() if machine is not wiped])
        thirds = [third.disk.contents.store for third in self.world.machines.values() if third not in (wiped, machine)]
        store = machine.disk.contents.store
        settled = {
            group: [
                index
                for index in range(bounds[0] + 1, stored_progress(store, group)[1] - 1)
                if any(_holds(third, group, index, store) for third in thirds)
            ]
            for group in store.groups()
            if 0 < group < STAGED and (bounds := store.bounds(group)) is not None
        }
        groups = [group for group, indices in settled.items() if indices]
        if not groups:
            return None
        group = self.rng.choice(groups)
        index = self.rng.choice(settled[group])
        if group in machine.groups:
            machine.groups[group].journal._tail.forget(group, index, index + 1)
        self.world.covered("damage beside a lost disk")
        return self._flip(machine, group, index)

    def _bit_flips(self) -> str | None:
        machine = self._any()
        if machine is None or not whole(self.world):
            return None
        store = machine.disk.contents.store
        groups = [group for group in store.groups() if 0 < group < STAGED and store.bounds(group)]
        if not groups:
            return None
        group = self.rng.choice(groups)
        bounds = store.bounds(group)
        assert bounds is not None
        return self._flip(machine, group, self.rng.randint(*bounds))

    def _flip(self, machine: Machine, group: int, index: int) -> str:
        machine.disk.damage(group, index, self.rng.choice((-1, 5, 40)))
        self.world.damage_done = True
        self.world.covered("damage")
        self.world.later(self.rng.uniform(0.0, 8.0), self._read_damaged)
        return f"a bit of entry {index} of group {group} of node {machine.id} flips"

    def _read_damaged(self) -> None:
        """Until a reader has met what is damaged: a leader that the others need stays."""
        read_damaged(self.world)
        if any(machine.disk.damaged for machine in self.world.machines.values()):
            self.world.later(3.0, self._read_damaged)

    def _join(self) -> str | None:
        if len(self.world.machines) >= MACHINES_MAX or not self.world.sealed():
            return None
        machine = Machine(self.world, max(self.world.machines) + 1, founder=False)
        self.world.machines[machine.id] = machine
        machine.start()
        return f"node {machine.id} is to join"


def _holds(store: StoreReader, group: int, index: int, like: StoreReader) -> bool:
    """Whether a disk holds an entry as another one does."""
    mine, other = store.header(group, index), like.header(group, index)
    return mine is not None and other is not None and mine.term == other.term


def read_damaged(world: World) -> bool:
    """Have every node that runs read what is damaged on its disk, past its caches; True."""
    for machine in world.machines.values():
        for number, index in sorted(machine.disk.damaged) if machine.disk.look() else ():
            group, run = machine.groups.get(number), machine.run
            if run is not None and group is not None and group.damaged is None and group.first_index <= index <= group.last_index:
                group.journal._tail.forget(number, index, index + 1)
                run.call(partial(_read, group, index))
    return True


def _read(group: Group, index: int) -> None:
    with suppress(DataLossError):
        group.read(index, index + 1, 1)


def whole(world: World) -> bool:
    """Whether every node is a member by the disk that it has, and every replica sound, and where it is wanted."""
    leader = world.leader_of(0)
    if leader is None or leader.run is None or leader.run.broker is None or not world.sealed():
        return False
    state: MetadataState = leader.run.broker._machine.state
    identities = {machine.id: machine.disk.contents.identity for machine in world.machines.values()}
    members = {member_id(node.node_id, node.incarnation) for node in state.nodes.values()}
    configuration = world.configuration(0)
    return (
        not any(machine.disk.lost or machine.disk.look() for machine in world.machines.values())
        and {node_id: identity.incarnation for node_id, identity in identities.items() if identity is not None}
        == {node.node_id: node.incarnation for node in state.nodes.values()}
        and set(configuration.members) == members
        and len(configuration.voters) == (5 if len(members) >= 5 else min(len(members), 3))
        and not misplaced(world)
    )
