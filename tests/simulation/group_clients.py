"""Members of consumer groups: each joins, shares the partitions, reads what it has, commits what it has read, and heartbeats.

A good member commits only what it was given, begins at what was committed, and joins again when it is told to. It may also die
without a word, stall until its session is over and commit then as if nothing had happened, or leave.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from raftlog.broker import group_port as port
from raftlog.broker.port import EARLIEST
from raftlog.errors import (
    FencedInstanceError,
    GroupError,
    IllegalGenerationError,
    IndeterminateError,
    MemberIdRequiredError,
    OffsetOutOfRangeError,
    RaftlogError,
    RebalanceInProgressError,
    UnknownMemberError,
    UnknownTopicOrPartitionError,
)
from raftlog.model import Role, TopicPartition
from tests.history.events import Outcome
from tests.history.group_events import (
    CommitOffset,
    CommittedOffset,
    FetchCommitted,
    FetchedCommitted,
    JoinedGroup,
    JoinGroup,
    SyncedGroup,
    SyncGroup,
)
from tests.simulation.clients import Client, fetch, list_offset

if TYPE_CHECKING:
    from tests.simulation.world import World

SESSION_MS: Final = 1_500
REBALANCE_MS: Final = 2_500
JOIN_TIMEOUT_S: Final = 6.0
ALONE: Final = "alone"
STALL_S: Final = 3.0
"""Longer than a session: the others go on without this one."""
FENCED: Final = (IllegalGenerationError, UnknownMemberError, FencedInstanceError, RebalanceInProgressError)


@dataclass(slots=True)
class Plan:
    """What the members of one group have between them, beside what the coordinator carries."""

    partitions: int = 0
    """How many partitions were shared out last: where there are more now, the leader joins again, as it would in earnest."""


class Member(Client):
    """One process. ``instance`` makes it a static member: it keeps its place over its deaths."""

    def __init__(self, world: World, name: str, group: str, plan: Plan, *, instance: str = "") -> None:
        super().__init__(world, name)
        self.group, self.instance, self._plan = group, instance, plan
        self._leads = False
        self.done: dict[TopicPartition, int] = {}
        """How far it has read what it has now."""
        self._member_id, self._generation = "", port.NO_GENERATION
        self._committed: dict[TopicPartition, int] = {}
        self._partitions: list[TopicPartition] | None = None
        """What it is to read; None until it has synced."""
        self._share: dict[str, bytes] = {}
        """What it assigns, where it leads."""
        self._sessions = 0
        self._heard_s = 0.0

    @property
    def _member(self) -> port.GroupMember:
        return port.GroupMember(
            group_id=self.group, generation=self._generation, member_id=self._member_id, instance_id=self.instance or None
        )

    async def once(self) -> None:
        """The next thing to do."""
        try:
            if self._generation < 0:
                await self._join()
            elif self._partitions is None:
                await self._sync()
            elif any(tp not in self.done for tp in self._partitions):
                await self._find_place()
            else:
                await self._work()
        except MemberIdRequiredError as error:
            self._member_id = error.member_id
        except (UnknownMemberError, FencedInstanceError):
            self._forget()
        except (IllegalGenerationError, RebalanceInProgressError):
            self._generation = port.NO_GENERATION
        except GroupError as error:
            self.world.violated(f"{self.name} is refused: {error!r}")
        except RaftlogError:
            self.node(other=True)
            await self.pause(0.04, 0.2)

    def _forget(self) -> None:
        self._member_id, self._generation = "", port.NO_GENERATION

    # The protocol.

    async def _join(self) -> None:
        machine, member_id = self.node(), self._member_id
        self.done, self._committed, self._partitions = {}, {}, None
        said = json.dumps(sorted(tp.topic for tp in self.world.partitions)).encode()
        wish = port.JoinGroup(
            group_id=self.group, member_id=member_id, instance_id=self.instance or None, client_id=self.name,
            protocols=(("shuffle", said),), session_timeout_ms=SESSION_MS, rebalance_timeout_ms=REBALANCE_MS,
            member_id_required=not self.instance and self.rng.random() < 0.7,
        )  # fmt: skip
        number = self.world.history.invoke(self.name, JoinGroup(group=self.group, member_id=member_id, instance=self.instance))
        try:
            joined = await machine.ask(
                lambda broker: broker.groups.join_group(wish), timeout_s=JOIN_TIMEOUT_S, hidden=self.hidden(machine)
            )
        except RaftlogError as error:
            self.world.history.end(self.name, number, "unknown", error=error)
            raise
        members = tuple(member.member_id for member in joined.members)
        told = JoinedGroup(
            generation=joined.generation, member_id=joined.member_id, leader=joined.leader, members=members
        )  # fmt: skip
        self.world.history.end(self.name, number, "ok", told)
        self._member_id, self._generation = joined.member_id, joined.generation
        self._leads = bool(members)
        self._share = {} if joined.skip_assignment else self._assign(members)
        if members and joined.generation > 1:
            self.world.covered("rebalances")
        if joined.skip_assignment:
            self.world.covered("static members back")

    def _assign(self, members: tuple[str, ...]) -> dict[str, bytes]:
        """The leader's work: every partition to one member, another way each time."""
        share: dict[str, list[list[str | int]]] = {member: [] for member in members}
        if members:
            self._plan.partitions = len(self.world.partitions)
            for tp in self.world.partitions:
                share[self.rng.choice(members)].append([tp.topic, tp.partition])
        return {member: json.dumps(mine).encode() for member, mine in share.items()}

    async def _sync(self) -> None:
        machine, member, share = self.node(), self._member, self._share
        sync = SyncGroup(group=self.group, generation=member.generation, member_id=member.member_id)
        number = self.world.history.invoke(self.name, sync)
        try:
            synced = await machine.ask(
                lambda broker: broker.groups.sync_group(member, share), timeout_s=JOIN_TIMEOUT_S, hidden=self.hidden(machine)
            )
        except RaftlogError as error:
            self.world.history.end(self.name, number, "unknown", error=error)
            raise
        mine = [TopicPartition(topic, number) for topic, number in json.loads(synced.assignment or b"[]")]
        self.world.history.end(self.name, number, "ok", SyncedGroup(partitions=tuple((tp.topic, tp.partition) for tp in mine)))
        self._partitions, self._heard_s = mine, self.world.loop.now_s

    async def _find_place(self) -> None:
        assert self._partitions is not None
        for tp in self._partitions:
            if tp not in self.done:
                offset = await fetch_committed(self.world, self, self.group, tp)
                self.done[tp] = self._committed[tp] = max(offset, 0)
                self._sessions += 1

    # The work.

    async def _work(self) -> None:
        assert self._partitions is not None
        if self._leads and self._plan.partitions < len(self.world.partitions):
            self._generation = port.NO_GENERATION
            return
        if self.world.loop.now_s - self._heard_s > SESSION_MS / 4_000:
            await self._heartbeat()
        if self._partitions:
            await self._read(self.rng.choice(self._partitions))
        behind = [tp for tp in self._partitions if self.done[tp] > self._committed[tp]]
        if behind and self.rng.random() < 0.3:
            await self._commit(self.rng.choice(behind))
        await self._mishap()
        await self.pause(0.03, 0.2)

    async def _heartbeat(self) -> None:
        machine, member = self.node(), self._member
        await machine.ask(lambda broker: broker.groups.heartbeat(member), timeout_s=1.0, hidden=self.hidden(machine))
        self._heard_s = self.world.loop.now_s

    async def _read(self, tp: TopicPartition) -> None:
        machine = self.node()
        found = await fetch(
            self.world, self.name, machine, tp, self.done[tp], session=f"{self.group}/{self.name}/{self._sessions}/{tp}",
            direct=False, wait_s=self.rng.choice((0.0, 0.05)), bytes_max=self.rng.choice((1, 3_000, 1 << 20)), rng=self.rng,
            hidden=self.hidden(machine),
        )  # fmt: skip
        if isinstance(found, OffsetOutOfRangeError):
            earliest = await list_offset(self.world, self.name, self.node(), tp, EARLIEST)
            if earliest is not None and earliest > self.done[tp]:
                self._sessions += 1
                self.done[tp] = earliest
        elif isinstance(found, int):
            self.done[tp] = found

    async def _commit(self, tp: TopicPartition) -> None:
        machine, member, offset = self.node(), self._member, self.done[tp]
        commit = CommitOffset(
            group=self.group, generation=member.generation, member_id=member.member_id, topic=tp.topic,
            partition=tp.partition, offset=offset,
        )  # fmt: skip
        number = self.world.history.invoke(self.name, commit)
        wanted = {tp: port.CommittedOffset(offset=offset, metadata=self.name)}
        try:
            outcomes = await machine.ask(
                lambda broker: broker.groups.commit_offsets(member, wanted),
                timeout_s=self.rng.choice((0.2, 3.0)), hidden=self.hidden(machine),
            )  # fmt: skip
            error = outcomes[tp]
        except RaftlogError as raised:
            error = raised
        if error is None:
            self.world.history.end(self.name, number, "ok", CommittedOffset())
            self._committed[tp] = offset
            return
        self.world.history.end(self.name, number, "unknown" if isinstance(error, IndeterminateError) else "fail", error=error)
        if isinstance(error, FENCED):
            self.world.covered("fenced commits refused")
        if not isinstance(error, UnknownTopicOrPartitionError):  # a node that is behind may not know it yet
            raise error

    async def _mishap(self) -> None:
        """Now and then something happens to the process."""
        chance = self.rng.random()
        if chance < 0.006:
            self.world.covered("members died")
            self._forget()
        elif chance < 0.010:
            self.world.covered("members stalled")
            await self.pause(SESSION_MS / 1_000, STALL_S)
            for tp in self._partitions or ():
                await self._commit(tp)
        elif chance < 0.014 and not self.instance:
            await self._leave()

    async def _leave(self) -> None:
        machine, leaver = self.node(), port.Leaver(member_id=self._member_id)
        self._forget()
        await machine.ask(lambda broker: broker.groups.leave_group(self.group, [leaver]), timeout_s=2.0)
        self.world.covered("members left")


async def fetch_committed(world: World, client: Client, group: str, tp: TopicPartition) -> int:
    """One question where a group is, written down; −1 where nothing was committed."""
    machine = client.node()
    number = world.history.invoke(client.name, FetchCommitted(group=group, topic=tp.topic, partition=tp.partition))
    try:
        found = await machine.ask(
            lambda broker: broker.groups.fetch_offsets(group, [tp]), timeout_s=3.0, hidden=client.hidden(machine)
        )
    except RaftlogError as error:
        world.history.end(client.name, number, "fail", error=error)
        raise
    offset = found[tp].offset if tp in found else -1
    world.history.end(client.name, number, "ok", FetchedCommitted(offset=offset))
    return offset


class Auditor(Client):
    """Asks, from outside, where groups are; and watches who coordinates them."""

    def __init__(self, world: World, name: str, groups: list[str]) -> None:
        super().__init__(world, name)
        self._groups = groups
        self._led: dict[int, int] = {}

    async def once(self) -> None:
        """One question."""
        self._look()
        try:
            self.node(other=self.rng.random() < 0.5)
            self._favourite = deposed(self.world) or self._favourite
            await fetch_committed(self.world, self, self.rng.choice(self._groups), self.rng.choice(self.world.partitions))
            if self.rng.random() < 0.1:
                await self.node().ask(lambda broker: broker.groups.list_groups(), timeout_s=3.0)
        except RaftlogError:
            self.node(other=True)
        await self.pause(0.05, 0.25)

    def _look(self) -> None:
        for number in coordinators(self.world):
            leader = self.world.leader_of(number)
            if leader is not None:
                if self._led.get(number, leader.id) != leader.id:
                    self.world.covered("group failovers")
                self._led[number] = leader.id


def coordinators(world: World) -> list[int]:
    """The Raft groups of the internal topic, as far as any node knows."""
    found = [world.group_of(TopicPartition(port.GROUPS_TOPIC, number)) for number in range(8)]
    return [number for number in found if number >= 0]


class Loner(Client):
    """Keeps its place in a group without members, as a process does that chose its partitions itself: it commits ever higher
    offsets, and asks at once where it is, somebody deposed where there is one."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self._offset = 0

    async def once(self) -> None:
        """A commit, and a question."""
        self._offset += 1
        tp, offset, machine = self.world.partitions[0], self._offset, self.node(other=self.rng.random() < 0.3)
        value = CommitOffset(
            group=ALONE, generation=port.NO_GENERATION, member_id="", topic=tp.topic, partition=tp.partition, offset=offset
        )
        number = self.world.history.invoke(self.name, value)
        outcome: RaftlogError | None
        try:
            outcome = (
                await machine.ask(
                    lambda broker: broker.groups.commit_offsets(
                        port.GroupMember(group_id=ALONE), {tp: port.CommittedOffset(offset=offset, metadata=self.name)}
                    ),
                    timeout_s=0.5,
                    hidden=self.hidden(machine),
                )
            )[tp]
        except RaftlogError as error:
            outcome = error
        if outcome is None:
            self.world.history.end(self.name, number, "ok", CommittedOffset())
            self._favourite = deposed(self.world) or self._favourite
            with contextlib.suppress(RaftlogError):
                await fetch_committed(self.world, self, ALONE, tp)
        else:
            ended: Outcome = "unknown" if isinstance(outcome, IndeterminateError) else "fail"
            self.world.history.end(self.name, number, ended, error=outcome)
            self.node(other=True)
        await self.pause(0.04, 0.25)


def deposed(world: World) -> int | None:
    """A node that takes itself for a coordinator's leader when another was elected: what it says must not be old."""
    for number in coordinators(world):
        claims = [one for one in world.machines.values() if number in one.groups and one.groups[number].role is Role.LEADER]
        if len(claims) > 1:
            return min(claims, key=lambda one: one.groups[number].term).id
    return None
