"""What a group's leader does for the reconciler, and refuses where anything is not as the caller saw it."""

from __future__ import annotations

import asyncio

import pytest

from raftlog.broker import asking
from raftlog.broker.group_changes import LAG_UNKNOWN_MS, GroupChanges
from raftlog.broker.move_codec import KINDS, report_of
from raftlog.consensus.port import ReplicatedLog
from raftlog.core.configuration import Configuration, member_id
from raftlog.core.reconcile import StepKind
from raftlog.errors import InvalidRequestError, NotLeaderError, StalePlacementError, UnavailableError
from raftlog.pb.raftlog.internal.v1 import moves_pb2 as pb
from tests.broker.doubles import FOUNDERS, HandLog, Leader, records

NEW = member_id(4, 4)


class _One:
    """This node's replicas: one."""

    def __init__(self, log: HandLog) -> None:
        self._log = log

    def groups(self) -> list[int]:
        """See ``Replicas``."""
        return [1]

    def log(self, group: int) -> ReplicatedLog | None:
        """See ``Replicas``."""
        return self._log if group == 1 else None


class _Led:
    """A group of three that node 1 leads in term 1; the others hold ``matches`` of its log."""

    def __init__(self) -> None:
        self.leader = Leader()
        self.log = self.leader.log
        self.controller_term = 7
        self.matches: dict[int, int] = {}
        self.down: set[int] = set()
        self.asked_to_lead: list[int | None] = []
        self.log.matches = lambda log, member: self.matches.get(member, log.last_index)
        self.log.on_transfer = lambda _, to: not self.asked_to_lead.append(to)  # type: ignore[func-returns-value]
        self.changes = GroupChanges(
            1, replicas=_One(self.log), controller_term=lambda: self.controller_term,
            connected=lambda node: node not in self.down, clock=self.leader.clock, low=lambda: False, timeout_s=1.0,
        )  # fmt: skip

    def call(self, kind: StepKind, member: int, **changes: int) -> pb.ChangeGroupCall:
        """A call as it follows from what the group is now."""
        now = self.log.configuration
        call = pb.ChangeGroupCall(
            group=1, kind=KINDS[kind], member=member, term=self.log.term, voters=now.voters, learners=now.learners,
            controller_term=self.controller_term,
        )  # fmt: skip
        for name, value in changes.items():
            setattr(call, name, value)
        return call

    async def do(self, kind: StepKind, member: int) -> None:
        """Take a step and commit it."""
        await self.changes.change(self.call(kind, member))
        self.log.commit()


async def test_a_learner_comes_is_promoted_and_another_voter_goes() -> None:
    """Each step is one entry of the group's log."""
    led = _Led()
    await led.do(StepKind.ADD, NEW)
    assert led.log.configuration == Configuration.of(FOUNDERS, [NEW])
    await led.do(StepKind.PROMOTE, NEW)
    assert led.log.configuration == Configuration.of([*FOUNDERS, NEW])
    await led.do(StepKind.REMOVE, FOUNDERS[2])
    assert led.log.configuration == Configuration.of([*FOUNDERS[:2], NEW])


@pytest.fixture
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not answer is not waited for."""
    monkeypatch.setattr(asking, "ANSWERS_LOOK_S", 0.0)


@pytest.mark.usefixtures("_brisk")
async def test_who_is_silent_is_not_counted_on() -> None:
    """A damaged replica, or one that could not be opened, has acknowledged all of an idle group, and its node has a link; or its
    disk is lost since a second. Without its answers it is no part of a majority."""
    led = _Led()
    led.log.silent = {FOUNDERS[1]}
    with pytest.raises(UnavailableError):
        await led.do(StepKind.REMOVE, FOUNDERS[2])
    await led.do(StepKind.REMOVE, FOUNDERS[1])


@pytest.mark.usefixtures("_brisk")
async def test_who_answers_and_is_behind_is_not_counted_on_where_another_one_is_removed() -> None:
    """It may be what a majority needs then."""
    led = _Led()
    led.leader.fill(3)
    led.leader.clock.now_ms += 60_000
    led.matches = {FOUNDERS[1]: 2}
    with pytest.raises(UnavailableError):
        await led.do(StepKind.REMOVE, FOUNDERS[2])
    await led.do(StepKind.REMOVE, FOUNDERS[1])


@pytest.mark.usefixtures("_brisk")
async def test_a_voter_more_is_taken_only_while_enough_answer() -> None:
    """Of four, three are a majority: with one that is down and one that went this moment nobody could commit anything."""
    led = _Led()
    await led.do(StepKind.ADD, NEW)
    led.log.silent = {FOUNDERS[2], NEW}
    with pytest.raises(UnavailableError):
        await led.do(StepKind.PROMOTE, NEW)
    led.log.silent = {FOUNDERS[1], FOUNDERS[2]}
    with pytest.raises(UnavailableError):
        await led.do(StepKind.PROMOTE, NEW)
    led.log.silent = {NEW}
    with pytest.raises(UnavailableError):
        await led.do(StepKind.PROMOTE, NEW)
    led.log.silent = {FOUNDERS[2]}
    await led.do(StepKind.PROMOTE, NEW)


async def test_who_answers_a_moment_later_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A majority has answered without it, which says nothing of those that are left."""
    led = _Led()
    led.log.silent = {FOUNDERS[1]}
    looks: list[float] = []

    async def look(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            led.log.silent = set()

    monkeypatch.setattr(asyncio, "sleep", look)
    await led.do(StepKind.REMOVE, FOUNDERS[2])
    assert looks.count(asking.ANSWERS_LOOK_S) >= 2


async def test_a_reconciler_that_is_deposed_while_the_voters_are_asked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its successor may have decided otherwise."""
    led = _Led()
    barrier = led.log.barrier

    async def deposing(timeout_s: float) -> int:
        led.controller_term = 8
        return await barrier(timeout_s)

    monkeypatch.setattr(led.log, "barrier", deposing)
    with pytest.raises(StalePlacementError):
        await led.do(StepKind.REMOVE, FOUNDERS[2])
    assert led.log.configuration == Configuration.of(FOUNDERS)


async def test_a_group_that_changes_while_its_voters_are_asked_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the caller saw must hold when the step is taken."""
    led = _Led()
    barrier = led.log.barrier

    async def changing(timeout_s: float) -> int:
        led.log.reconfigure(led.log.configuration.with_learner(NEW))
        return await barrier(timeout_s)

    monkeypatch.setattr(led.log, "barrier", changing)
    with pytest.raises(StalePlacementError):
        await led.do(StepKind.REMOVE, FOUNDERS[2])
    assert led.log.configuration == Configuration.of(FOUNDERS, [NEW])


async def test_entries_of_the_future_are_not_on_their_way() -> None:
    """Whoever stamped them had a clock ahead of this one's: how long a learner has lacked them is not known."""
    led = _Led()
    led.leader.fill(100)
    led.leader.clock.now_ms -= 3_600_000
    await led.do(StepKind.ADD, NEW)
    led.matches = {NEW: 5}
    with pytest.raises(UnavailableError):
        await led.do(StepKind.PROMOTE, NEW)
    led.matches = {}
    await led.do(StepKind.PROMOTE, NEW)


async def test_a_call_that_comes_late_or_twice_changes_nothing() -> None:
    """The group is another one by then, or its change is not committed, or another leads."""
    led = _Led()
    late = led.call(StepKind.ADD, NEW)
    await led.changes.change(late)
    with pytest.raises(StalePlacementError):
        await led.changes.change(led.call(StepKind.PROMOTE, NEW))  # not committed yet
    led.log.commit()
    with pytest.raises(StalePlacementError):
        await led.changes.change(late)
    with pytest.raises(NotLeaderError):
        await led.changes.change(led.call(StepKind.PROMOTE, NEW, term=9))
    with pytest.raises(NotLeaderError):
        await led.changes.change(led.call(StepKind.PROMOTE, NEW, group=2))
    led.log.follow(2)
    with pytest.raises(NotLeaderError):
        await led.changes.change(led.call(StepKind.PROMOTE, NEW))
    assert led.log.configuration == Configuration.of(FOUNDERS, [NEW])


async def test_a_deposed_reconciler_is_refused() -> None:
    """What it decided may be old; this node has heard of a later leader of group 0."""
    led = _Led()
    with pytest.raises(StalePlacementError):
        await led.changes.change(led.call(StepKind.ADD, NEW, controller_term=6))
    unknown = led.call(StepKind.ADD, NEW)
    unknown.kind = pb.StepKind.ValueType(99)
    with pytest.raises(InvalidRequestError):
        await led.changes.change(unknown)
    assert led.log.configuration == Configuration.of(FOUNDERS)


async def test_a_deposed_reconciler_is_refused_by_who_knows_its_successor_from_its_calls_alone() -> None:
    """That one was told that a replica is gone, and has its data deleted: an older call must not bring it back."""
    led = _Led()
    await led.changes.change(led.call(StepKind.FORGET, NEW, controller_term=8))
    with pytest.raises(StalePlacementError):
        await led.changes.change(led.call(StepKind.ADD, NEW, controller_term=7))
    assert led.log.configuration == Configuration.of(FOUNDERS)
    await led.changes.change(led.call(StepKind.ADD, NEW, controller_term=8))


async def test_who_is_behind_is_neither_promoted_nor_handed_the_leadership() -> None:
    """Whatever the report said: it is looked at once more."""
    led = _Led()
    await led.do(StepKind.ADD, NEW)
    led.leader.fill(3)
    led.leader.clock.now_ms += 60_000
    led.matches = {NEW: 2, FOUNDERS[1]: 2}
    for kind, member in ((StepKind.PROMOTE, NEW), (StepKind.TRANSFER, FOUNDERS[1])):
        with pytest.raises(UnavailableError):
            await led.changes.change(led.call(kind, member))
    led.down.add(3)
    with pytest.raises(UnavailableError):
        await led.changes.change(led.call(StepKind.TRANSFER, FOUNDERS[2]))
    led.down.clear()
    await led.changes.change(led.call(StepKind.TRANSFER, FOUNDERS[2]))
    assert led.asked_to_lead == [FOUNDERS[2]]


async def test_that_a_replica_is_gone_is_said_only_after_a_barrier() -> None:
    """And not of a member."""
    led = _Led()
    with pytest.raises(StalePlacementError):
        await led.changes.change(led.call(StepKind.FORGET, FOUNDERS[1]))
    before = led.log.barriers
    await led.changes.change(led.call(StepKind.FORGET, NEW))
    assert led.log.barriers == before + 1


async def test_a_report_tells_members_progress_and_how_old_what_they_lack_is() -> None:
    """Only of groups that this node leads and serves; what the leader itself no longer has cannot be aged."""
    led = _Led()
    led.leader.fill(3)
    led.leader.clock.now_ms += 5_000
    led.matches = {FOUNDERS[1]: led.log.last_index - 1}
    led.down.add(3)
    call = pb.ReportGroupsCall(groups=[1, 2])
    [report] = map(report_of, led.changes.report(call).reports)
    assert (report.group, report.leader, report.term, report.committed) == (1, (1, 1), 1, True)
    assert report.voters == ((1, 1), (2, 1), (3, 1))
    assert (report.followers[2, 1].lag_ms, report.followers[2, 1].live) == (5_000, True)
    assert (report.followers[3, 1].lag_ms, report.followers[3, 1].live) == (0, False)
    led.matches = {FOUNDERS[1]: 0}
    led.log.trim(3)
    [report] = map(report_of, led.changes.report(call).reports)
    assert report.followers[2, 1].lag_ms == LAG_UNKNOWN_MS
    led.log.follow(2)
    assert list(led.changes.report(call).reports) == []


async def test_a_load_tells_what_each_replica_takes() -> None:
    """Leaders and followers alike."""
    led = _Led()
    led.leader.publish(records(3))
    [load] = led.changes.load().groups
    assert (load.group, load.size_bytes, load.last_index) == (1, led.log.size_bytes, led.log.last_index)
