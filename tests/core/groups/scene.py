"""A group on its coordinator, without a broker: proposals wait in a log until a test makes them durable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from raftlog.core.groups.effects import Answer
from raftlog.core.groups.limits import GroupLimits
from raftlog.core.groups.live import LiveGroup
from raftlog.core.groups.records import GroupRecord
from raftlog.core.groups.state import GroupsState
from raftlog.core.groups.values import GroupMember, GroupState, JoinedGroup, JoinGroup, Leaver, SyncedGroup
from raftlog.errors import MemberIdRequiredError, RaftlogError
from raftlog.pb.raftlog.internal.v1 import groups_pb2 as pb

G = "g"
SESSION_MS = 10_000
REBALANCE_MS = 60_000


def wish(**changes: Any) -> JoinGroup:
    """A join of a consumer with two assignors."""
    plain = JoinGroup(
        group_id=G, client_id="c", protocols=(("range", b"r"), ("sticky", b"s")),
        session_timeout_ms=SESSION_MS, rebalance_timeout_ms=REBALANCE_MS,
    )  # fmt: skip
    return replace(plain, **changes)


class Call:
    """A call that waits, and its outcome once there is one."""

    def __init__(self) -> None:
        self.outcome: JoinedGroup | SyncedGroup | RaftlogError | None = None

    @property
    def joined(self) -> JoinedGroup:
        """The outcome of a join that went well."""
        assert isinstance(self.outcome, JoinedGroup), self.outcome
        return self.outcome

    @property
    def assignment(self) -> bytes:
        """What a sync that went well brought."""
        assert isinstance(self.outcome, SyncedGroup), self.outcome
        return self.outcome.assignment

    @property
    def error(self) -> type[RaftlogError]:
        """The kind of error that it got."""
        assert isinstance(self.outcome, RaftlogError), self.outcome
        return type(self.outcome)


class Scene:
    """One group. ``durable`` makes what was proposed durable; with ``auto`` that happens after each call."""

    def __init__(self, *, auto: bool = True, limits: GroupLimits | None = None) -> None:
        self.now_ms = 1_000
        self.auto = auto
        self.limits = limits or GroupLimits(initial_rebalance_delay_ms=0)
        self.state = GroupsState()
        self.index = 0
        self.log: list[pb.GroupCommand] = []
        """Proposed, not durable yet."""
        self.settled: list[tuple[pb.CommitOffsets, RaftlogError | None, GroupRecord]] = []
        """Commits that were applied: their outcome, and the group's record at that time."""
        self.calls: dict[int, Call] = {}
        self.ids = 0
        self.live = self._bring_to_life()

    def is_in(self, state: GroupState) -> bool:
        """Whether the group is in this state."""
        return self.live.state is state

    # What members do.

    def join(self, **changes: Any) -> Call:
        """Join; an error that is raised is the outcome."""
        call = Call()
        self.ids += 1
        ticket = self.ids
        self.calls[ticket] = call
        try:
            self.live.join(wish(**changes), ticket=ticket, new_member_id=f"m{ticket}", now_ms=self.now_ms)
        except RaftlogError as error:
            call.outcome = error
        self._perform()
        return call

    def handed_out(self) -> str:
        """A member id, by a join that must come again."""
        outcome = self.join(member_id_required=True).outcome
        assert isinstance(outcome, MemberIdRequiredError)
        return outcome.member_id

    def sync(self, member: GroupMember, assignments: dict[str, bytes] | None = None, **said: str) -> Call:
        """Sync; the leader brings ``assignments``."""
        call = Call()
        self.ids += 1
        self.calls[self.ids] = call
        try:
            self.live.sync(
                member, assignments or {}, protocol_type=said.get("protocol_type", ""), protocol=said.get("protocol", ""),
                ticket=self.ids, now_ms=self.now_ms,
            )  # fmt: skip
        except RaftlogError as error:
            call.outcome = error
        self._perform()
        return call

    def leave(self, *leavers: Leaver) -> list[type[RaftlogError] | None]:
        """Leave; the kinds of the outcomes."""
        outcomes = self.live.leave(leavers, self.now_ms)
        self._perform()
        return [None if outcome is None else type(outcome) for outcome in outcomes]

    def commit(self, member: GroupMember, offset: int = 1) -> RaftlogError | None:
        """Commit an offset as the coordinator does: checked by the live group, appended, checked again when applied.

        The error, where there is one by now; what comes of the entry later is in ``settled``.
        """
        try:
            self.live.check_commit(member, self.now_ms)
        except RaftlogError as error:
            return error
        rows = [pb.OffsetRow(topic="t", offset=offset)]
        commit = pb.CommitOffsets(
            group_id=G, generation=member.generation, member_id=member.member_id, instance_id=member.instance_id, offsets=rows
        )
        self.log.append(pb.GroupCommand(commit_offsets=commit))
        self._perform()
        return self.settled[-1][1] if self.auto else None

    def together(self, count: int, **changes: Any) -> list[Call]:
        """The joins of that many members of an empty group, answered by one generation."""
        limits, self.live._limits = self.live._limits, replace(self.limits, initial_rebalance_delay_ms=1)
        ids = [self.handed_out() for _ in range(count)]
        calls = [self.join(member_id=member_id, **changes) for member_id in ids]
        self.pass_ms(1)
        self.durable()
        self.live._limits = limits
        return calls

    def stable(self, count: int, **changes: Any) -> list[GroupMember]:
        """That many members in one generation, synced; the first leads."""
        calls = self.together(count, **changes)
        members = [member_of(call) for call in calls]
        syncs = [self.sync(member, {m.member_id: m.member_id.encode() for m in members}) for member in members]
        self.durable()
        assert [call.assignment for call in syncs] == [member.member_id.encode() for member in members]
        assert self.live.state is GroupState.STABLE
        return members

    # What the coordinator does.

    def pass_ms(self, span_ms: int) -> None:
        """Let time pass, ticking the group at each of its deadlines."""
        end_ms = self.now_ms + span_ms
        while self.live.deadline_ms <= end_ms:
            self.now_ms = max(self.live.deadline_ms, self.now_ms)
            self.live.tick(self.now_ms)
            self._perform()
            assert self.live.deadline_ms > self.now_ms, "a tick deals with what is due"
        self.now_ms = end_ms

    def durable(self) -> None:
        """Everything that was proposed becomes durable and is applied, and what follows from it too."""
        while self.log:
            self.durable_one()

    def durable_one(self) -> None:
        """The first of what was proposed becomes durable."""
        command = self.log.pop(0)
        error = self._apply(command)
        if not command.HasField("commit_offsets"):
            assert error is None, error
            self.live.durable(command, self.state.groups[G], self.now_ms)
            self._take()

    def fail_over(self, *, lose: bool = False) -> None:
        """Another node becomes the coordinator, with what was durable and (unless ``lose``) what was on its way."""
        self.live.abandon(RaftlogError("deposed"))
        self._take()
        log, self.log = self.log, []
        for command in [] if lose else log:
            self._apply(command)
        rows = self.state.rows()
        self.state = GroupsState()
        self.state.load(rows)
        self.live = self._bring_to_life()

    def _apply(self, command: pb.GroupCommand) -> RaftlogError | None:
        self.index += 1
        before = self.state.groups.get(G, GroupRecord(group_id=G))
        error = self.state.apply(self.index, command).error
        if command.HasField("commit_offsets"):
            self.settled.append((command.commit_offsets, error, before))
        return error

    def _bring_to_life(self) -> LiveGroup:
        record = self.state.groups.get(G, GroupRecord(group_id=G))
        return LiveGroup(record, limits=self.limits, now_ms=self.now_ms)

    def _perform(self) -> None:
        self._take()
        if self.auto:
            self.durable()

    def _take(self) -> None:
        for effect in self.live.take_effects():
            if isinstance(effect, Answer):
                call = self.calls.pop(effect.ticket)
                assert call.outcome is None, "a ticket is answered once"
                call.outcome = effect.outcome
            else:
                self.log.append(effect.command)


def member_of(call: Call, instance_id: str | None = None) -> GroupMember:
    """The member that a join made."""
    joined = call.joined
    return GroupMember(group_id=G, generation=joined.generation, member_id=joined.member_id, instance_id=instance_id)
