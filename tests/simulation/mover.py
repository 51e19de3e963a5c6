"""The mover: changes who is in the groups while everything else goes on, through the port of the node that leads.

It does what an administrator of a living cluster causes: removes voters, the leader among them, and lets their nodes begin again
with a new, empty replica; adds these as learners, promotes them when they have caught up, takes some away again; makes voters
learners for a while. Often it asks for the next change before the last one is committed, which must be refused.

Rules:

1. Data is dropped only when the newest leader has committed a configuration without its replica.
2. As many voters as make a majority stay on machines that can come back, in every configuration that may be in force. The
   metadata promotes its own learners, whoever they are: so none are made there while a machine is gone, and no machine goes
   while there are some.
3. It draws from a randomness of its own, and so changes nothing in the seeds in which it does nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from raftlog.consensus.group import Group
from raftlog.consensus.snapshot import STAGED
from raftlog.consensus.turns import Turns
from raftlog.core.configuration import Configuration, member_id, node_of, replica_of
from raftlog.core.metadata_values import PartitionMeta, TopicMeta
from raftlog.errors import InvalidRequestError, RaftlogError, ReassignmentInProgressError
from raftlog.model import METADATA_GROUP
from raftlog.storage.port import WriteBatch

if TYPE_CHECKING:
    from tests.simulation.node import Machine
    from tests.simulation.world import World

BETWEEN_S = (0.1, 1.2)
HASTY = 0.4
"""How often it asks for another change at once."""
ALONE = 0.15
"""How often the leader is cut off as soon as it was asked."""
OWN_IDS = 1_000
"""Its replica ids are above these, the metadata's below."""
DIES = 0.2
"""How often a node dies of a page that it stages, or of a snapshot that it installs."""
SETTLE_S = 30.0
"""In a healthy cluster all groups are whole again within this."""


class Mover:
    """See the module. ``enabled``: in this seed it does something."""

    def __init__(self, world: World, *, share: float) -> None:
        self.world = world
        self.rng = Random(f"mover {world.mode} {world.seed}")
        self.enabled = self.rng.random() < share
        self._ids: dict[tuple[int, int], int] = {}
        """(group, node) → replica id, where it is not the one of the group's creation."""
        self._possible: dict[int, list[Configuration]] = {}
        """Group → the newest configuration that was seen to be committed, and all that were proposed since."""
        self._members: set[tuple[int, int]] = set()
        """(group, member id) of all that were ever proposed."""

    # ---- what others ask

    def may_lose(self, machine: Machine) -> bool:
        """Whether no group could lose its majority with that machine (rule 2)."""
        whole = not any(one.learners for one in self.possible(METADATA_GROUP))
        return whole and all(self._lives(one, without=machine) for known in self._possible.values() for one in known)

    def possible(self, group: int) -> list[Configuration]:
        """The configurations of a group that may be in force anywhere; none where it never changed."""
        return self._possible.get(group, [])

    def replica(self, group: int, node_id: int, created: int) -> int:
        """The id of the replica that a node has to open; a machine that has lost its disk goes by the metadata alone."""
        return created if self.world.machines[node_id].disk.lost else self._ids.get((group, node_id), created)

    def watch(self, machine: Machine, turns: Turns) -> None:
        """A process has come to its consensus: it opens the replicas that it is to have by now."""
        open_created, vacant_created = turns.open, turns.vacant

        def open_present(group: int, machine_: Any, *, replica: int, founders: tuple[int, ...], preferred: bool) -> Group:
            wanted = self.replica(group, machine.id, replica)
            mine = wanted == replica
            return open_created(group, machine_, replica=wanted, founders=founders if mine else (), preferred=preferred and mine)

        def vacant_present(group: int, replica: int, ended: Callable[[], None]) -> bool:
            return vacant_created(group, self.replica(group, machine.id, replica), ended)

        turns.__dict__.update(open=open_present, vacant=vacant_present)

    def commits(self, machine: Machine, batch: WriteBatch) -> None:
        """A node is about to write: where that is a part of a snapshot, it may die of it."""
        if batch.install:
            self.world.covered("snapshots")
            self.world.note(f"node {machine.id} installs snapshots {batch.install}")
        elif not any(group >= STAGED for group, _, _ in batch.rows):
            return
        if self.enabled and machine.disk.crash_at is None and self.rng.random() < DIES:
            machine.disk.crash_at = self.rng.choice(("after_write", "after_done"))
            self.world.later(1.0, self.world.start, machine)
            self.world.covered("deaths of a snapshot")

    # ---- its work

    async def run(self) -> None:
        """Change something now and then."""
        while self.enabled and not self.world.enough:
            await asyncio.sleep(self.rng.uniform(*BETWEEN_S))
            self.once()

    def once(self) -> None:
        """One change in one group, where there is a leader to ask."""
        leader, number = self._leader()
        if leader is None:
            return
        self.look(leader, number)
        group, hasty, alone = leader.groups[number], self.rng.random() < HASTY, self.rng.random() < ALONE
        assert leader.run is not None
        leader.run.call(lambda: self._change(leader, group, hasty=hasty))
        if alone:
            self._leave_alone(leader)

    def _change(self, leader: Machine, group: Group, *, hasty: bool) -> None:
        """In the leader's own process: a change, and maybe the next one at once."""
        for _ in range(2 if hasty else 1):
            step = self._step(leader, group)
            if step is not None:
                self._reconfigure(group, step)

    def _leave_alone(self, leader: Machine) -> None:
        """A leader has a change to make, and nobody hears of it for a while."""
        others = [machine.name for machine in self.world.machines.values() if machine is not leader]
        seconds = self.rng.uniform(0.3, 2.0)
        for way in [way for other in others for way in ((leader.name, other), (other, leader.name))]:
            self.world.network.block(*way)
            self.world.later(seconds, self.world.network.open, *way)
        self.world.covered("changes cut off")
        self.world.note(f"node {leader.id} is cut off with a change to make")

    async def settle(self) -> None:
        """All is healed: make every group whole again."""
        if not self.enabled:
            return
        end_s = self.world.loop.now_s + SETTLE_S
        while self.world.loop.now_s < end_s:
            whole = [self._made_whole(number) for number in sorted(self._possible)]
            if all(whole):
                return
            await asyncio.sleep(0.1)
        self.world.violated(f"groups are not whole again within {SETTLE_S:g} s of a healthy cluster: {self.world.state()}")

    def _made_whole(self, number: int) -> bool:
        """One step towards all healthy machines being voters; whether there is none to take."""
        leader = self._newest_leader(number)
        if leader is None:
            return not self.world.can_be_led(number)
        self.look(leader, number)
        group = leader.groups[number]
        if not group.configuration_committed:
            return False
        now, wanted = group.configuration, self._wanted(leader, number)
        lost = [member for member in now.members if member not in wanted]
        for step in (
            *(now.with_voter(member) for member in now.learners if member in wanted and self._caught_up(group, member)),
            *(now.with_learner(member) for member in wanted if member not in now.members),
            *(now.without(member) for member in now.learners if member in lost),
            *(now.without(member) for member in lost if node_of(member) not in self._healthy_nodes()),
        ):
            if self._sound(step):
                assert leader.run is not None
                leader.run.call(lambda step=step: self._reconfigure(group, step))  # type: ignore[misc]
                return False
        return not now.learners and not lost

    # ---- what it knows

    def look(self, leader: Machine, number: int) -> None:
        """Take note of what is committed, and let machines whose replica is out begin anew (rule 1)."""
        group = leader.groups[number]
        if not (group.ready and group.configuration_committed and self._leads_newest(leader, number)):
            return
        committed = group.configuration
        self._possible[number] = [committed]
        self._members |= {(number, member) for member in committed.members}
        if number == METADATA_GROUP:
            return
        for machine in self.world.healthy():
            member = self._member(leader, number, machine.id)
            if member is not None and (number, member) in self._members and member not in committed.members:
                self._begin_anew(machine, number, member)

    def _begin_anew(self, machine: Machine, number: int, member: int) -> None:
        self._ids[number, machine.id] = max(replica_of(member), OWN_IDS) + 1
        self.world.note(f"node {machine.id} is to have a new replica of group {number}")
        if machine.run is not None:
            machine.run.call(lambda: _reopen(machine, number))

    def _leader(self) -> tuple[Machine | None, int]:
        numbers = sorted({number for machine in self.world.machines.values() for number in machine.groups})
        number = self.rng.choice(numbers or [METADATA_GROUP])
        return self._newest_leader(number), number

    def _newest_leader(self, number: int) -> Machine | None:
        leader = self.world.leader_of(number)
        return leader if leader is not None and leader.run is not None and self._leads_newest(leader, number) else None

    def _leads_newest(self, leader: Machine, number: int) -> bool:
        """Nobody was elected since: what it has committed is the last word."""
        newest = max((term for group, term in self.world.invariants.leaders if group == number), default=0)
        return leader.groups[number].term == newest

    def _member(self, leader: Machine, number: int, node_id: int) -> int | None:
        """The member that a node is, or is to be, in a group that was placed on it."""
        if number == METADATA_GROUP:
            return member_id(node_id, 1)
        meta = _meta(leader, number)
        created = None if meta is None else dict(meta[1].replicas).get(node_id)
        return None if created is None else member_id(node_id, self.replica(number, node_id, created))

    def _wanted(self, leader: Machine, number: int) -> list[int]:
        found = [self._member(leader, number, machine.id) for machine in self.world.healthy()]
        return [member for member in found if member is not None]

    def _healthy_nodes(self) -> set[int]:
        return {machine.id for machine in self.world.healthy()}

    def _lives(self, configuration: Configuration, *, without: Machine | None = None) -> bool:
        living = self._healthy_nodes() - ({without.id} if without else set())
        return sum(node_of(voter) in living for voter in configuration.voters) * 2 > len(configuration.voters)

    def _sound(self, configuration: Configuration) -> bool:
        return bool(configuration.voters) and self._lives(configuration)

    @staticmethod
    def _caught_up(group: Group, member: int) -> bool:
        return group.member.matches().get(member, 0) >= group.commit_index

    # ---- steps

    def _step(self, leader: Machine, group: Group) -> Configuration | None:
        """A configuration to ask for, one step from the one in force."""
        now, number = group.configuration, group.group
        absent = [member for member in self._wanted(leader, number) if member not in now.members]
        ready = [member for member in now.learners if self._caught_up(group, member)]
        kinds: list[Configuration] = []
        kinds += [now.with_learner(member) for member in absent] * 3
        kinds += [now.with_voter(member) for member in ready] * 4
        kinds += [now.without(voter) for voter in now.voters] if number != METADATA_GROUP else []
        voter = self.rng.choice(now.voters)
        if number != METADATA_GROUP or len(self._healthy_nodes()) == len(self.world.machines):
            kinds.append(now.without(voter).with_learner(voter))
        kinds += [now.without(learner) for learner in now.learners]
        kinds = [kind for kind in kinds if self._sound(kind)]
        return self.rng.choice(kinds) if kinds else None

    def _reconfigure(self, group: Group, new: Configuration) -> None:
        """In the leader's own process."""
        before = group.configuration
        self._possible.setdefault(group.group, [before]).append(new)
        try:
            group.reconfigure(new)
        except ReassignmentInProgressError:
            self.world.covered("overlapping changes refused")
        except InvalidRequestError as error:
            self.world.violated(f"group {group.group} refuses {new}: {error}")
        except RaftlogError:
            pass  # it leads no more, or is overloaded
        else:
            self._members |= {(group.group, member) for member in new.members}
            self.world.note(f"group {group.group} is to have {new}")
            self._count(before, new)

    def _count(self, before: Configuration, new: Configuration) -> None:
        if set(new.learners) - set(before.members):
            self.world.covered("learners added")
        if set(new.voters) - set(before.voters):
            self.world.covered("promotions")
        if set(before.members) - set(new.members):
            self.world.covered("removals")
        if set(before.voters) & set(new.learners):
            self.world.covered("demotions")


def _meta(machine: Machine, number: int) -> tuple[TopicMeta, PartitionMeta] | None:
    """What a node's metadata says of a group."""
    if machine.run is None or machine.run.broker is None:
        return None
    for topic in machine.run.broker._machine.state.topics.values():
        for partition in topic.partitions:
            if partition.group_id == number:
                return topic, partition
    return None


def _reopen(machine: Machine, number: int) -> None:
    """In the node's own process: drop its replica and open the next one, as its broker would."""
    if machine.run is None or machine.run.broker is None:
        return  # it will open the next one when it starts its broker
    found, replicas = _meta(machine, number), machine.run.broker._replicas
    replica: Any = replicas._open.pop(number, None) or replicas.coordinators.pop(number, None)
    if replica is not None:
        replica.close()
        machine.run.broker._consensus.drop(number)
    if found is not None and not replicas._closed:
        for _ in replicas._opening(found[0]):
            pass
