"""One coordinator over a log that is moved by hand: refusals, timers, leadership, and what retention does."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest

from raftlog.broker import trim
from raftlog.broker.config import BrokerConfig
from raftlog.broker.coordinator import BORN_AT_ONCE, Coordinator
from raftlog.broker.group_port import CommittedOffset, GroupMember, GroupState, JoinedGroup, JoinGroup, Leaver
from raftlog.broker.group_retention import GroupRetention
from raftlog.consensus.port import Build
from raftlog.core.entry import Entry, EntryKind
from raftlog.core.groups.limits import GroupLimits
from raftlog.core.tasks import TaskScope
from raftlog.errors import (
    CoordinatorNotAvailableError,
    IndeterminateError,
    MemberIdRequiredError,
    NotCoordinatorError,
    OverloadedError,
    RequestTimedOutError,
    UnknownMemberError,
)
from raftlog.model import TopicPartition
from tests.broker.cluster import until
from tests.broker.doubles import HandClock, HandLog
from tests.broker.hand_store import HandStore

CONFIG = BrokerConfig(groups=GroupLimits(initial_rebalance_delay_ms=0), offsets_commit_timeout_s=30.0)
T0 = TopicPartition("t", 0)
WISH = JoinGroup(group_id="g", client_id="c", protocols=(("range", b""),), session_timeout_ms=6_000)
OUTSIDER = GroupMember(group_id="g")
DAY_MS = 86_400_000


class FullLog(HandLog):
    """May refuse to append."""

    full = False

    def append(self, build: Build) -> Entry:
        """See ``ReplicatedLog``."""
        if self.full:
            raise OverloadedError("the disk is slow")
        return super().append(build)


def commit_soon(log: HandLog, _: Entry) -> None:
    """Commit what was appended on the next pass of the loop."""
    asyncio.get_running_loop().call_soon(log.commit)


class Stand:
    """A coordinator that leads in term 1; what it appends is committed by the test, or at once with ``auto``."""

    def __init__(self, config: BrokerConfig = CONFIG, *, auto: bool = True) -> None:
        self.clock = HandClock()
        self.store = HandStore()
        self.config = config
        self.coordinator = self.new()
        self.log = FullLog(5, (1, 2, 3), self.coordinator.machine)
        self.coordinator.machine.bind(self.log)
        if auto:
            self.log.on_append = commit_soon
        self.log.lead(1)
        self.scope = TaskScope(lambda _: None)

    def new(self) -> Coordinator:
        """A coordinator without a log."""
        name = TopicPartition("__consumer_offsets", 0)
        return Coordinator(name, 5, store=self.store, clock=self.clock, rng=random.Random(1), config=self.config)

    async def member(self, **changes: Any) -> GroupMember:
        """The only member of a stable group."""
        joined = await self.coordinator.join(replace(WISH, **changes))
        member = of(joined)
        await self.coordinator.sync(member, {}, protocol_type="", protocol="")
        return member

    async def commit(self, member: GroupMember = OUTSIDER, offset: int = 1, *, partition: int = 0) -> None:
        """Commit one offset."""
        tp = TopicPartition("t", partition)
        await self.coordinator.commit(member, {tp: (CommittedOffset(offset=offset), 7)})

    def retention(self, *, gone: bool = False) -> GroupRetention:
        """The job over this coordinator."""
        return GroupRetention(
            {5: self.coordinator}, lambda _tp, _group: gone, clock=self.clock, rng=random.Random(1), config=self.config
        )


def of(joined: JoinedGroup) -> GroupMember:
    """The member that a join made."""
    return GroupMember(group_id="g", generation=joined.generation, member_id=joined.member_id)


async def test_sessions_run_by_the_clock_and_timers_only_look_at_it() -> None:
    """However early or late a timer is: the member goes when its time is over."""
    stand = Stand(replace(CONFIG, groups=GroupLimits(initial_rebalance_delay_ms=0, session_timeout_min_ms=20)))
    member = await stand.member(session_timeout_ms=20)
    stand.clock.now_ms += 19
    stand.coordinator.heartbeat(member)
    stand.clock.now_ms += 20
    await until(lambda: stand.coordinator.states() == {GroupState.EMPTY: 1})
    with pytest.raises(UnknownMemberError):
        stand.coordinator.heartbeat(member)
    await until(lambda: stand.coordinator.machine.state.groups["g"].generation == 2)


async def test_a_group_whose_command_cannot_be_appended_goes_back_to_its_record() -> None:
    """Its members are told to come again, and nothing is left over."""
    stand = Stand()
    member = await stand.member()
    stand.log.full = True
    with pytest.raises(CoordinatorNotAvailableError):
        await stand.coordinator.join(replace(WISH, member_id=member.member_id))
    stand.coordinator.heartbeat(member)
    with pytest.raises(CoordinatorNotAvailableError):
        await stand.commit(member)
    with pytest.raises(CoordinatorNotAvailableError):
        await stand.coordinator.join(replace(WISH, group_id="new"))
    assert stand.coordinator.group_ids() == ["g"]
    stand.log.full = False
    assert (await stand.coordinator.join(replace(WISH, member_id=member.member_id))).generation == 2


async def test_a_deposed_coordinator_answers_everybody_at_once() -> None:
    """Members are sent away, commits may have happened; regained in a later term, it begins with what was applied."""
    stand = Stand()
    member = await stand.member()
    stand.log.on_append = None
    join = stand.scope.start(stand.coordinator.join(WISH), name="join")
    commit = stand.scope.start(stand.commit(member), name="commit")
    await until(lambda: stand.log.last_index > stand.log.commit_index)
    stand.log.follow(2, 3)
    with pytest.raises(NotCoordinatorError):
        await join
    with pytest.raises(IndeterminateError):
        await commit
    with pytest.raises(NotCoordinatorError):
        stand.coordinator.heartbeat(member)
    with pytest.raises(NotCoordinatorError):
        await stand.coordinator.offsets("g")
    stand.log.truncate(stand.log.commit_index + 1)
    stand.log.lead(3)
    assert stand.coordinator.states() == {GroupState.STABLE: 1}
    stand.coordinator.heartbeat(member)
    assert await stand.coordinator.offsets("g") == {}


async def test_a_generation_that_was_lost_with_its_leader_is_made_again() -> None:
    """Its number was heard by nobody, so another rebalance may have it."""
    stand = Stand()
    member = await stand.member()
    stand.log.on_append = None
    join = stand.scope.start(stand.coordinator.join(replace(WISH, member_id=member.member_id)), name="join")
    await until(lambda: stand.log.last_index > stand.log.commit_index)
    stand.log.follow(2, 3)
    stand.log.truncate(stand.log.commit_index + 1)
    stand.log.on_append = commit_soon
    stand.log.lead(3)
    with pytest.raises(NotCoordinatorError):
        await join
    assert (await stand.coordinator.join(replace(WISH, member_id=member.member_id))).generation == 2


async def test_a_commit_that_no_majority_confirms_has_an_unknown_outcome() -> None:
    """In bounded time; it may yet take effect."""
    stand = Stand(replace(CONFIG, offsets_commit_timeout_s=0.01), auto=False)
    with pytest.raises(RequestTimedOutError):
        await stand.commit()
    stand.log.commit()
    assert stand.coordinator.machine.state.offsets["g"][T0].offset == 1


async def test_a_full_disk_refuses_commits_and_nothing_else() -> None:
    """Rebalances are few, and what they need is kept in reserve; the commit can be sent again."""
    stand = Stand()
    member = await stand.member()
    stand.store.full = True
    with pytest.raises(CoordinatorNotAvailableError):
        await stand.commit(member)
    joined = await stand.coordinator.join(replace(WISH, member_id=member.member_id))
    assert joined.generation == 2
    await stand.coordinator.sync(of(joined), {}, protocol_type="", protocol="")
    stand.store.full = False
    await stand.commit(of(joined))


async def test_what_a_coordinator_holds_is_bounded() -> None:
    """Groups and offsets; those that are there go on."""
    stand = Stand(replace(CONFIG, groups_per_coordinator_max=1, offsets_per_coordinator_max=2))
    member = await stand.member()
    await stand.commit(member, partition=0)
    await stand.commit(member, partition=1)
    with pytest.raises(OverloadedError):
        await stand.commit(member, partition=2)
    await stand.commit(member, 2, partition=1)
    for other in (stand.coordinator.join(replace(WISH, group_id="h")), stand.commit(GroupMember(group_id="h"))):
        with pytest.raises(OverloadedError):
            await other
    assert stand.coordinator.leave("g", [Leaver(member_id=member.member_id)]) == [None]
    assert (await stand.member()).generation == 3


async def test_a_restarted_replica_has_what_was_applied() -> None:
    """From rows alone; the log behind them may be gone."""
    stand = Stand()
    member = await stand.member()
    await stand.commit(member, 9)
    again = stand.new()
    log = stand.log.restarted(again.machine)
    again.machine.bind(log)
    assert again.states() == {}
    assert again.machine.state == stand.coordinator.machine.state
    log.lead(2)
    assert again.states() == {GroupState.STABLE: 1}
    again.heartbeat(member)


async def test_retention_forgets_old_offsets_then_their_group() -> None:
    """Decided by the leader's clock, applied from the log; the next pass takes what is unused."""
    stand = Stand()
    await stand.commit()
    job = stand.retention()
    stand.clock.now_ms += 7 * DAY_MS - 1
    await job.expire_all()
    assert (await stand.coordinator.offsets("g")).keys() == {T0}
    stand.clock.now_ms += 1
    await job.expire_all()
    assert stand.coordinator.group_ids() == []
    await stand.commit()
    await stand.retention(gone=True).expire_all()
    assert stand.coordinator.machine.state.offset_count == 0


async def test_retention_leaves_alone_what_it_does_not_lead() -> None:
    """And one coordinator's trouble is not another's."""
    stand = Stand()
    await stand.commit()
    stand.clock.now_ms += 8 * DAY_MS
    stand.log.full = True
    await stand.retention().expire_all()
    stand.log.follow(2)
    stand.log.full = False
    await stand.retention().expire_all()
    stand.retention().cut_all()
    assert stand.coordinator.machine.state.offset_count == 1


async def test_the_log_is_cut_behind_what_is_applied_once_it_is_long() -> None:
    """All of the state is in rows; one TRIM at a time, and none for a short log."""
    stand = Stand()
    await stand.commit()
    job = stand.retention()
    last = stand.log.last_index
    job.cut_all()
    assert stand.log.last_index == last
    for offset in range(trim.ENTRIES_KEPT + 5):
        await stand.commit(offset=offset)
    stand.log.matched = stand.log.last_index
    stand.log.on_append = None
    job.cut_all()
    job.cut_all()
    assert stand.log.kept[stand.log.last_index].header.kind is EntryKind.TRIM
    assert stand.log.kept[stand.log.last_index - 1].header.kind is EntryKind.COMMAND
    stand.log.commit()
    assert stand.log.first_index > trim.ENTRIES_KEPT
    assert (await stand.coordinator.offsets("g"))[T0].offset == trim.ENTRIES_KEPT + 4


async def test_a_closed_coordinator_serves_nobody() -> None:
    """Whoever waits is told, and nothing comes to life again."""
    stand = Stand()
    await stand.member()
    join = stand.scope.start(stand.coordinator.join(WISH), name="join")
    await until(lambda: stand.coordinator.states() == {GroupState.PREPARING_REBALANCE: 1})
    stand.coordinator.close()
    with pytest.raises(NotCoordinatorError):
        await join
    stand.coordinator.machine.progressed()
    assert stand.coordinator.states() == {}


async def test_retention_leaves_a_group_alone_that_was_left_just_now() -> None:
    """Its last member's going is on its way: however old its commits are, it was alive, and its offsets have their full time."""
    stand = Stand()
    member = await stand.member()
    await stand.commit(member, 42)
    stand.clock.now_ms += 8 * DAY_MS
    stand.coordinator.heartbeat(member)
    stand.log.on_append = None
    stand.coordinator.leave("g", [Leaver(member_id=member.member_id)])
    assert stand.coordinator.state_of("g") is GroupState.EMPTY
    await stand.retention().expire_all()
    stand.log.on_append = commit_soon
    stand.log.commit()
    await until(lambda: not stand.coordinator.machine.state.groups["g"].members)
    await stand.retention().expire_all()
    assert stand.coordinator.machine.state.offset_count == 1
    stand.clock.now_ms += 8 * DAY_MS
    await stand.retention().expire_all()
    assert stand.coordinator.machine.state.offset_count == 0


async def test_a_group_that_comes_back_while_others_are_forgotten_is_passed_over() -> None:
    """And so is one that an administrator has deleted meanwhile; the rest of them goes in the same pass."""
    stand = Stand()
    for name in ("a", "b", "c", "d"):
        joined = await stand.coordinator.join(replace(WISH, group_id=name))
        stand.coordinator.leave(name, [Leaver(member_id=joined.member_id)])
    await until(lambda: not any(record.members for record in stand.coordinator.machine.state.groups.values()))
    stand.clock.now_ms += DAY_MS
    delete_group = stand.coordinator.delete_group
    later = []

    async def delete(group_id: str, *, only_unused: bool = False) -> None:
        if group_id == "a":
            later.append(await stand.coordinator.join(replace(WISH, group_id="b")))
            await delete_group("c")
        await delete_group(group_id, only_unused=only_unused)

    stand.coordinator.delete_group = delete  # type: ignore[method-assign]
    await stand.retention().expire_all()
    assert stand.coordinator.group_ids() == ["b"]
    assert len(later) == 1


async def test_a_group_that_is_deleted_while_its_first_generation_is_on_its_way_lives_on() -> None:
    """Its record has members then: they expire as any others, and the group can be used and deleted again."""
    stand = Stand()
    await stand.commit()  # of an outsider: a group without a generation
    with pytest.raises(MemberIdRequiredError) as told:
        await stand.coordinator.join(replace(WISH, member_id_required=True))
    stand.log.on_append = None
    deleting = stand.scope.start(stand.coordinator.delete_group("g"), name="delete")
    await until(lambda: stand.log.last_index > stand.log.commit_index)
    appended = stand.log.last_index
    joining = stand.scope.start(stand.coordinator.join(replace(WISH, member_id=told.value.member_id)), name="join")
    await until(lambda: stand.log.last_index > appended)
    stand.log.on_append = commit_soon
    stand.log.commit()
    await deleting
    with pytest.raises(CoordinatorNotAvailableError):
        await joining
    await until(lambda: stand.coordinator.live("g") is not None)
    stand.clock.now_ms += DAY_MS
    live = stand.coordinator.live("g")
    assert live is not None
    live.tick(stand.clock.now_ms)
    stand.coordinator._perform(live)
    await until(lambda: stand.coordinator.state_of("g") is GroupState.EMPTY and stand.coordinator.live("g") is None)
    await stand.commit()
    await stand.coordinator.delete_group("g")


async def test_groups_come_to_life_a_few_at_a_time_or_when_they_are_asked_for() -> None:
    """The turn in which leadership was won must not take so long that it is lost again."""
    stand = Stand()
    names = [f"g{number:03}" for number in range(2 * BORN_AT_ONCE + 5)]
    members = {}
    for name in names:
        joined = await stand.coordinator.join(replace(WISH, group_id=name))
        members[name] = GroupMember(group_id=name, generation=joined.generation, member_id=joined.member_id)
    stand.log.follow(2, 3)
    stand.log.lead(3)
    assert stand.coordinator._live == {}
    last = names[-1]
    assert stand.coordinator.state_of(last) is GroupState.COMPLETING_REBALANCE
    stand.coordinator.heartbeat(members[last])
    assert list(stand.coordinator._live) == [last]
    await asyncio.sleep(0)
    assert len(stand.coordinator._live) == BORN_AT_ONCE + 1
    await until(lambda: len(stand.coordinator._live) == len(names))
    assert len(stand.coordinator._timers) == len(names)
