"""The coordinator of the groups of one partition of the internal topic: what it replicates, and, where this node leads, the
groups as they live.

Rules:

1. Live groups exist while this node leads and serves (``GroupMachine`` rule 2). They are made of the replicated records when
   that begins, or when somebody asks for one, and dropped when it ends: whoever waits then is told at once to ask the next
   coordinator.
2. What a live group wants (``core.groups.effects``) is done after each call on it, answers first. A command's outcome reaches it
   in a callback of its own, never within the consensus turn that applied the command, for it may append again.
3. A commit is checked and appended in one call without an await. The check sees the applied state and what the live group
   knows to be on its way; the check within ``apply`` sees the log as it is, and counts.
4. A group whose command could not be appended goes back to its record; its members join again.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeVar

from raftlog.broker.config import BrokerConfig
from raftlog.broker.group_machine import GroupMachine
from raftlog.core.clock import Clock
from raftlog.core.groups.effects import Answer
from raftlog.core.groups.live import NEVER, LiveGroup
from raftlog.core.groups.records import GroupRecord, StoredOffset
from raftlog.core.groups.state import Applied
from raftlog.core.groups.values import CommittedOffset, GroupMember, GroupState, JoinedGroup, JoinGroup, Leaver, SyncedGroup
from raftlog.errors import (
    CoordinatorNotAvailableError,
    FencedInstanceError,
    GroupIdNotFoundError,
    GroupNotEmptyError,
    IllegalGenerationError,
    LeaderNotAvailableError,
    NotCoordinatorError,
    NotLeaderError,
    OverloadedError,
    RaftlogError,
    UnknownMemberError,
)
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.internal.v1 import groups_pb2 as pb
from raftlog.storage.port import Store

BORN_AT_ONCE: Final = 50
"""Groups that are brought to life in one go: some milliseconds."""
TIMER_MIN_S: Final = 0.001
"""Timers are not set shorter: clocks and loops differ by less."""
MEMBER_ID_PREFIX_MAX: Final = 100
"""Characters of the client id that begin a member id, for those who read it; what follows makes it unique."""
FULL_RETRY_AFTER_MS: Final = 1_000
"""Room is made by retention and by people: in seconds at best."""
_T = TypeVar("_T", JoinedGroup, SyncedGroup)


@dataclass(slots=True)
class GroupTally:
    """What a coordinator has done here since the node's start."""

    commits: int = 0
    """Commits that were acknowledged."""
    commits_refused: int = 0
    """Commits that were refused, of members that are none, or not of this generation."""
    rebalances: int = 0
    """Generations with members that were made."""


class Coordinator:
    """See the module.

    Args:
        name: the partition of the internal topic.
        group: its Raft group.
        store: whether it is full.
        clock: sessions run by its monotonic time, commits are stamped by its wall time.
        rng: member ids.
        config: limits.
    """

    def __init__(
        self, name: TopicPartition, group: int, *, store: Store, clock: Clock, rng: random.Random, config: BrokerConfig
    ) -> None:
        self.machine = GroupMachine(name, group, on_led=self._on_led)
        self.tally = GroupTally()
        self._store = store
        self._clock = clock
        self._rng = rng
        self._config = config
        self._live: dict[str, LiveGroup] = {}
        """Groups with members or with somebody who is about to become one; empty where this node does not lead."""
        self._unborn: dict[str, None] = {}
        """Groups with members that have not been brought to life yet since this node leads."""
        self._timers: dict[str, tuple[int, asyncio.TimerHandle]] = {}
        """Group → when its timer goes off, which may be before its deadline, and the timer."""
        self._waiting: dict[int, asyncio.Future[JoinedGroup | SyncedGroup]] = {}
        """Ticket → the call; at most two for each member."""
        self._last_ticket = 0

    # Members.

    async def join(self, wish: JoinGroup) -> JoinedGroup:
        """See ``GroupBroker.join_group``."""
        self.check_serving()
        live = self.live(wish.group_id)
        if live is None:
            if wish.member_id:
                raise UnknownMemberError(f"group {wish.group_id!r} has no member {wish.member_id!r}; join again as a new one")
            live = self._bring_to_life(wish.group_id)
        named = (wish.instance_id or wish.client_id)[:MEMBER_ID_PREFIX_MAX]
        new_member_id = f"{named}-{uuid.UUID(bytes=self._rng.randbytes(16), version=4)}"
        return await self._wait(
            live, JoinedGroup,
            lambda ticket: live.join(wish, ticket=ticket, new_member_id=new_member_id, now_ms=self._now_ms()),
        )  # fmt: skip

    async def sync(
        self, member: GroupMember, assignments: Mapping[str, bytes], *, protocol_type: str, protocol: str
    ) -> SyncedGroup:
        """See ``GroupBroker.sync_group``."""
        live = self._live_group(member)
        return await self._wait(
            live, SyncedGroup,
            lambda ticket: live.sync(
                member, assignments, protocol_type=protocol_type, protocol=protocol, ticket=ticket, now_ms=self._now_ms()
            ),
        )  # fmt: skip

    def heartbeat(self, member: GroupMember) -> None:
        """See ``GroupBroker.heartbeat``."""
        self._live_group(member).heartbeat(member, self._now_ms())

    def leave(self, group_id: str, leavers: Sequence[Leaver]) -> list[RaftlogError | None]:
        """See ``GroupBroker.leave_group``."""
        self.check_serving()
        live = self.live(group_id)
        if live is None:
            return [UnknownMemberError(f"group {group_id!r} has no members")] * len(leavers)
        outcomes = live.leave(leavers, self._now_ms())
        self._perform(live)
        return outcomes

    # Offsets.

    async def commit(self, member: GroupMember, offsets: Mapping[TopicPartition, tuple[CommittedOffset, int]]) -> None:
        """Commit offsets, each with the Raft group of its partition.

        Raises:
            OverloadedError: this coordinator holds as much as it may; and as ``GroupBroker.commit_offsets``.
        """
        self.check_serving()
        now_ms = self._clock.wall_ms()
        command = pb.GroupCommand(commit_offsets=_commit(member, offsets, now_ms))
        try:
            live = self.live(member.group_id)
            if live is not None:
                live.check_commit(member, self._now_ms())
            else:
                self._check(command)
            self._check_room(member.group_id, offsets)
            self._refuse_if_full()
            await self._run(command, now_ms)
        except (FencedInstanceError, IllegalGenerationError, UnknownMemberError):
            self.tally.commits_refused += 1
            raise
        self.tally.commits += 1

    async def offsets(self, group_id: str) -> dict[TopicPartition, StoredOffset]:
        """All committed offsets of a group, linearizable."""
        await self.barrier()
        return dict(self.machine.state.offsets.get(group_id, {}))

    # Administration.

    async def delete_group(self, group_id: str, *, only_unused: bool = False) -> None:
        """See ``GroupBroker.delete_group``; with ``only_unused`` also refused while there are offsets."""
        self.check_serving()
        record, live, state = self.machine.state.groups.get(group_id), self.live(group_id), self.state_of(group_id)
        if state not in (GroupState.DEAD, GroupState.EMPTY):
            raise GroupNotEmptyError(f"group {group_id!r} has members; stop them first")
        if record is None:
            raise GroupIdNotFoundError(f"there is no group {group_id!r}")
        generation = record.generation if live is None else live.generation_next
        delete = pb.DeleteGroup(group_id=group_id, generation=generation, only_unused=only_unused)
        await self._run(pb.GroupCommand(delete_group=delete), self._clock.wall_ms())
        if live is not None and self._live.get(group_id) is live:
            live.deleted(CoordinatorNotAvailableError(f"group {group_id!r} was deleted just now; join again"))
            self._perform(live)

    async def delete_offsets(self, refs: Sequence[pb.OffsetRef]) -> None:
        """Forget offsets."""
        self.check_serving()
        await self._run(pb.GroupCommand(delete_offsets=pb.DeleteOffsets(offsets=refs)), self._clock.wall_ms())

    def state_of(self, group_id: str) -> GroupState:
        """A group's state; ``DEAD`` where there is none. Where this node leads; elsewhere what the record says."""
        live = self.live(group_id)
        if live is not None:
            return live.state
        return GroupState.EMPTY if group_id in self.machine.state.groups else GroupState.DEAD

    def live(self, group_id: str) -> LiveGroup | None:
        """A group that is not just a record: it has members, or somebody is about to become one."""
        if group_id in self._unborn:
            self._bear(group_id)
        return self._live.get(group_id)

    def group_ids(self) -> list[str]:
        """All groups, those among them that have no record yet."""
        return sorted(self.machine.state.groups.keys() | self._live.keys())

    def states(self) -> Counter[GroupState]:
        """How many groups are in each state; none where this node does not lead."""
        if not self.machine.serving:
            return Counter()
        return Counter(map(self.state_of, self.group_ids()))

    # Leading.

    async def barrier(self) -> None:
        """Wait until the applied state shows everything that was acknowledged before the call.

        Raises:
            NotCoordinatorError: this node does not lead, or could not confirm that it does.
        """
        self.check_serving()
        try:
            await self.machine.barrier(self._config.offsets_commit_timeout_s)
        except RaftlogError as error:
            raise self._not_coordinator(str(error)) from error
        self.check_serving()

    def check_serving(self) -> None:
        """Pass where this node leads and serves.

        Raises:
            NotCoordinatorError: it does not.
        """
        if not self.machine.serving:
            raise self._not_coordinator("this node does not lead it")

    def close(self) -> None:
        """Nothing comes any more: whoever waits is told."""
        self.machine.close()

    def _on_led(self, term: int | None) -> None:
        error = self._not_coordinator("another node may lead it now")
        for live in self._live.values():
            live.abandon(error)
            self._answer(live)
        for _, timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._live, self._unborn = {}, {}
        if term is not None:
            self._unborn = {record.group_id: None for record in self.machine.state.groups.values() if record.members}
            asyncio.get_running_loop().call_soon(self._bear_some)

    def _bear_some(self) -> None:
        """Bring the groups to life that nobody has asked for yet, a few at a time: there may be thousands, and the turn in which
        leadership was won must not take so long that it is lost again."""
        for group_id in list(islice(self._unborn, BORN_AT_ONCE)):
            self._bear(group_id)
        if self._unborn:
            asyncio.get_running_loop().call_soon(self._bear_some)

    def _bear(self, group_id: str) -> None:
        del self._unborn[group_id]
        record = self.machine.state.groups.get(group_id)
        if record is not None and record.members:
            self._arm(self._bring_to_life(group_id))

    def _not_coordinator(self, why: str) -> NotCoordinatorError:
        return NotCoordinatorError(f"{self.machine.name} is not served here: {why}")

    # Live groups.

    def _bring_to_life(self, group_id: str) -> LiveGroup:
        record = self.machine.state.groups.get(group_id, GroupRecord(group_id=group_id))
        if not record.members:
            self._check_group_room(group_id)
        live = self._live[group_id] = LiveGroup(record, limits=self._config.groups, now_ms=self._now_ms())
        return live

    def _live_group(self, member: GroupMember) -> LiveGroup:
        self.check_serving()
        live = self.live(member.group_id)
        if live is None:
            raise UnknownMemberError(f"group {member.group_id!r} has no member {member.member_id!r}; join again")
        return live

    async def _wait(self, live: LiveGroup, kind: type[_T], call: Callable[[int], None]) -> _T:
        """Make a call with a ticket, and wait for the answer to it."""
        self._last_ticket = ticket = self._last_ticket + 1
        future: asyncio.Future[JoinedGroup | SyncedGroup] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = future
        try:
            try:
                call(ticket)
            finally:
                self._perform(live)
            async with asyncio.timeout(self._config.group_wait_max_s):
                outcome = await future
        except TimeoutError:
            raise CoordinatorNotAvailableError("the rebalance did not come to an end; join again") from None
        finally:
            del self._waiting[ticket]
            if future.done() and not future.cancelled():
                future.exception()  # looked at, in case the caller was cancelled in the same turn
        assert isinstance(outcome, kind)
        return outcome

    def _perform(self, live: LiveGroup) -> None:
        """Do what a group wants, then see to its next deadline."""
        commands = []
        for effect in live.take_effects():
            if isinstance(effect, Answer):
                self._settle(effect)
            else:
                commands.append(effect.command)
        if not all(self._propose(live, command) for command in commands):
            return
        if live.idle or live.state is GroupState.DEAD:
            if self._live.get(live.group_id) is live:
                del self._live[live.group_id]
            self._disarm(live.group_id)
        else:
            self._arm(live)

    def _answer(self, live: LiveGroup) -> None:
        """Give a group's answers, and do nothing else that it wants."""
        for effect in live.take_effects():
            if isinstance(effect, Answer):
                self._settle(effect)

    def _settle(self, answer: Answer) -> None:
        future = self._waiting.get(answer.ticket)
        if future is None or future.done():
            return
        if isinstance(answer.outcome, RaftlogError):
            future.set_exception(answer.outcome)
        else:
            future.set_result(answer.outcome)

    def _propose(self, live: LiveGroup, command: pb.GroupCommand) -> bool:
        now_ms = self._clock.wall_ms()
        if command.HasField("new_generation"):
            command.new_generation.time_ms = now_ms

        def settled(outcome: Applied) -> None:
            record = self.machine.state.groups.get(live.group_id)
            asyncio.get_running_loop().call_soon(self._proposed, live, command, outcome, record)

        try:
            self.machine.propose(command, now_ms=now_ms, settled=settled)
        except RaftlogError as error:
            self._start_over(live, error)
            return False
        return True

    def _proposed(self, live: LiveGroup, command: pb.GroupCommand, outcome: Applied, record: GroupRecord | None) -> None:
        """A group's command was applied, refused, or lost with the leadership."""
        if self._live.get(live.group_id) is not live:
            current = self.machine.state.groups.get(live.group_id)
            if self.machine.serving and current is not None and current.members and self.live(live.group_id) is None:
                self._arm(self._bring_to_life(live.group_id))  # deleted while its first generation was on its way
            return
        if outcome.error is not None or record is None:
            self._start_over(live, outcome.error)
            return
        self.tally.rebalances += bool(command.new_generation.members)
        live.durable(command, record, self._now_ms())
        self._perform(live)

    def _start_over(self, live: LiveGroup, error: RaftlogError | None) -> None:
        """Rule 4."""
        live.abandon(CoordinatorNotAvailableError(f"group {live.group_id!r} could not go on, join again: {error}"))
        self._answer(live)
        self._disarm(live.group_id)
        del self._live[live.group_id]
        record = self.machine.state.groups.get(live.group_id)
        if self.machine.serving and record is not None and record.members:
            self._arm(self._bring_to_life(live.group_id))

    def _arm(self, live: LiveGroup) -> None:
        """Have the group ticked at its deadline at the latest. A timer that is too early is left: deadlines mostly move on."""
        deadline_ms = live.deadline_ms
        armed = self._timers.get(live.group_id)
        if armed is not None and armed[0] <= deadline_ms:
            return
        self._disarm(live.group_id)
        if deadline_ms < NEVER:
            delay_s = max((deadline_ms - self._now_ms()) / 1000, TIMER_MIN_S)
            timer = asyncio.get_running_loop().call_later(delay_s, self._tick, live.group_id)
            self._timers[live.group_id] = deadline_ms, timer

    def _disarm(self, group_id: str) -> None:
        armed = self._timers.pop(group_id, None)
        if armed is not None:
            armed[1].cancel()

    def _tick(self, group_id: str) -> None:
        self._timers.pop(group_id, None)
        live = self._live.get(group_id)
        if live is not None and self.machine.serving:
            live.tick(self._now_ms())
            self._perform(live)

    # Small parts.

    async def _run(self, command: pb.GroupCommand, now_ms: int) -> None:
        try:
            await self.machine.run(command, now_ms=now_ms, timeout_s=self._config.offsets_commit_timeout_s)
        except (NotLeaderError, LeaderNotAvailableError) as error:
            raise self._not_coordinator(str(error)) from error
        except OverloadedError as error:
            raise CoordinatorNotAvailableError(str(error), retry_after_ms=error.retry_after_ms) from error

    def _check(self, command: pb.GroupCommand) -> None:
        error = self.machine.state.check(command)
        if error is not None:
            raise error

    def _check_group_room(self, group_id: str) -> None:
        state, most = self.machine.state, self._config.groups_per_coordinator_max
        if group_id in state.groups or len(state.groups) + len(self._live) < most:
            return
        if len(state.groups) + sum(1 for other in self._live if other not in state.groups) >= most:
            raise OverloadedError(f"{self.machine.name} coordinates {most} groups, as many as it may; delete some that are done")

    def _check_room(self, group_id: str, offsets: Mapping[TopicPartition, object]) -> None:
        self._check_group_room(group_id)
        state, most = self.machine.state, self._config.offsets_per_coordinator_max
        more = len(offsets.keys() - state.offsets.get(group_id, {}).keys())
        if more and state.offset_count + more > most:
            raise OverloadedError(f"{self.machine.name} holds {most} offsets, as many as it may; delete groups that are done")

    def _refuse_if_full(self) -> None:
        """Commits are many, and what is left of a full disk belongs to what keeps the node alive; rebalances are few."""
        usage = self._store.recent_usage()
        if usage.full:
            raise CoordinatorNotAvailableError(
                f"{self.machine.name}: no offsets are taken, for {usage.shortage}. Make room on this node, then commit again",
                retry_after_ms=FULL_RETRY_AFTER_MS,
            )

    def _now_ms(self) -> int:
        return int(self._clock.monotonic_s() * 1000)


def _commit(member: GroupMember, offsets: Mapping[TopicPartition, tuple[CommittedOffset, int]], now_ms: int) -> pb.CommitOffsets:
    rows = [
        pb.OffsetRow(
            topic=tp.topic,
            partition=tp.partition,
            offset=committed.offset,
            leader_epoch=committed.leader_epoch,
            metadata=committed.metadata,
            commit_time_ms=now_ms,
            raft_group=raft_group,
        )
        for tp, (committed, raft_group) in offsets.items()
    ]
    return pb.CommitOffsets(
        group_id=member.group_id,
        generation=member.generation,
        member_id=member.member_id,
        instance_id=member.instance_id,
        offsets=rows,
    )
