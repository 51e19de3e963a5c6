"""One group as its coordinator leads it: Kafka's classic protocol (KIP-62, KIP-134, KIP-345, KIP-394), pure.

Theory of operation. Members join; when all have, or the time for it is over, a new *generation* is proposed: members, the
assignor they voted for, a leader. When it is durable they are told, and each asks for its assignment (sync); the leader brings
it, it is proposed, and when it is durable all are answered and the group is stable, until somebody joins, leaves or falls
silent. Inputs are calls and the passing of time, both with ``now_ms``; what is to be done comes out as *effects* in order.

Rules:

1. A generation is durable before any member hears of it, an assignment before anybody gets it. So after a failover no two
   rebalances share a number, and the group continues from its record (``records.GroupRecord``) as it was told last.
2. Only one generation is proposed at a time; what changes while it is on its way makes the next rebalance begin right
   behind it.
3. In ``COMPLETING_REBALANCE`` and ``STABLE`` the live members are those of the record; in ``EMPTY`` there are none.
4. A call that must wait has a ticket. A ticket is answered once, and a member has one of each kind: a newer call of the same
   member takes over, and a retry never makes a second member.
5. Times are of a clock that never goes back, in milliseconds. The times that are replicated are not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from raftlog.core.groups.commands import assign_command, generation_command, replace_command
from raftlog.core.groups.effects import Answer, Effect, Propose
from raftlog.core.groups.limits import GroupLimits
from raftlog.core.groups.member import NEW_MEMBER_JOIN_TIMEOUT_MS, Member
from raftlog.core.groups.outcomes import joined, record_of, synced
from raftlog.core.groups.records import GroupRecord, MemberRecord
from raftlog.core.groups.roster import Roster
from raftlog.core.groups.transitions import GroupEvent, next_state
from raftlog.core.groups.values import GroupMember, GroupState, JoinGroup, Leaver
from raftlog.errors import (
    FencedInstanceError,
    GroupFullError,
    IllegalGenerationError,
    InconsistentGroupProtocolError,
    InvalidSessionTimeoutError,
    MemberIdRequiredError,
    MessageTooLargeError,
    RaftlogError,
    RebalanceInProgressError,
    UnknownMemberError,
)
from raftlog.pb.raftlog.internal.v1 import groups_pb2 as pb

PENDING_MS_MAX: Final = 60_000
"""A member id that was handed out is used at once or never: so long it holds a place in the group."""
NEVER: Final = 1 << 62
"""A deadline that does not come."""


class LiveGroup:
    """A group on the node that leads its coordinator.

    Args:
        record: what is replicated of it; of generation 0 and empty for a new one.
        limits: what it may be.
        now_ms: the time; the sessions of its members begin anew.
    """

    def __init__(self, record: GroupRecord, *, limits: GroupLimits, now_ms: int) -> None:
        self.group_id = record.group_id
        self.state = GroupState.EMPTY
        self.protocol_type = record.protocol_type
        """The first member of an empty group brings it, the others must have the same."""
        self.pending: dict[str, int] = {}
        """Member ids that were handed out and not yet used (KIP-394) → when they expire."""
        self.members = Roster(
            record.group_id,
            (Member(member, now_ms + member.session_timeout_ms, synced=record.assigned) for member in record.members.values()),
        )
        self._record = record
        """The newest generation that is durable."""
        self._limits = limits
        self._effects: list[Effect] = []
        self._proposed = False
        """A generation is on its way."""
        self._assigning = False
        """The generation's assignment is on its way."""
        self._leader = record.leader
        self._begun_ms = now_ms
        """When the rebalance, or the wait for its syncs, began."""
        self._initial_until_ms: int | None = None
        """Until when a group that was empty waits for more members."""
        if record.members:
            self.state = GroupState.STABLE if record.assigned else GroupState.COMPLETING_REBALANCE

    # What others ask.

    @property
    def generation(self) -> int:
        """The newest generation that is durable."""
        return self._record.generation

    @property
    def idle(self) -> bool:
        """Nobody is here, and nothing is on its way: the record says all that there is."""
        return self.state is GroupState.EMPTY and not self.pending and not self._proposed and not self._effects

    @property
    def generation_next(self) -> int:
        """The newest generation when all that is on its way is durable."""
        return self.generation + self._proposed

    @property
    def deadline_ms(self) -> int:
        """When ``tick`` has something to do, at the earliest."""
        sessions = (member.deadline_ms for member in self.members if member.may_expire)
        return min([*self.pending.values(), *sessions, self._phase_deadline_ms()])

    def take_effects(self) -> list[Effect]:
        """What is to be done since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    # Calls. What they raise is the answer; nothing has changed then, but where the docstring says so.

    def join(self, wish: JoinGroup, *, ticket: int, new_member_id: str, now_ms: int) -> None:
        """Join, or join again; the ticket is answered when the rebalance is over.

        Raises:
            MemberIdRequiredError: ``new_member_id`` is this caller's from now on, for as long as its session timeout.
            UnknownMemberError, FencedInstanceError, InconsistentGroupProtocolError, InvalidSessionTimeoutError, GroupFullError
        """
        lowest, highest = self._limits.session_timeout_min_ms, self._limits.session_timeout_max_ms
        if not lowest <= wish.session_timeout_ms <= highest:
            raise InvalidSessionTimeoutError(
                f"a session timeout is {lowest} to {highest} ms, not {wish.session_timeout_ms}; change session.timeout.ms"
            )
        self._check_protocols(wish)
        if wish.member_id:
            self._join_again(wish, ticket, now_ms)
            return
        record = record_of(wish, new_member_id)
        static = self.members.instance(wish.instance_id)
        if static is not None:
            self._replace_static(static, record, ticket, now_ms)
        elif wish.instance_id is None and wish.member_id_required:
            self._check_room(record)
            self.pending[new_member_id] = now_ms + min(wish.session_timeout_ms, PENDING_MS_MAX)
            raise MemberIdRequiredError(f"join group {self.group_id!r} again, as {new_member_id!r}", member_id=new_member_id)
        else:
            self._add(record, wish.protocol_type, ticket, now_ms)

    def sync(
        self, caller: GroupMember, assignments: Mapping[str, bytes], *,
        protocol_type: str, protocol: str, ticket: int, now_ms: int,
    ) -> None:  # fmt: skip
        """Ask for the assignment, and bring it where the caller leads the generation.

        Raises:
            UnknownMemberError, FencedInstanceError, IllegalGenerationError, InconsistentGroupProtocolError,
            RebalanceInProgressError, MessageTooLargeError
        """
        member = self._member_of(caller)
        record = self._record
        if protocol_type not in ("", record.protocol_type) or protocol not in ("", record.protocol):
            raise InconsistentGroupProtocolError(
                f"generation {record.generation} of group {self.group_id!r} uses {record.protocol_type!r}, {record.protocol!r}"
            )
        if self.state is GroupState.PREPARING_REBALANCE:
            raise self._rebalancing()
        size_bytes = sum(len(key.encode()) + len(assignment) for key, assignment in assignments.items())
        if size_bytes > self._limits.member_bytes_max:
            raise MessageTooLargeError(
                f"the assignment has {size_bytes} bytes; {self._limits.member_bytes_max} is the most that a group may have"
            )
        member.synced = True
        member.heard(now_ms)
        if self.state is GroupState.STABLE:
            self._effects.append(Answer(ticket, synced(record, member.record.assignment)))
            return
        self._supersede(member.sync_ticket)
        member.sync_ticket = ticket
        if member.member_id == record.leader and not self._assigning:
            self._assigning = True
            self._effects.append(Propose(assign_command(record, assignments)))

    def heartbeat(self, caller: GroupMember, now_ms: int) -> None:
        """The member lives.

        Raises:
            RebalanceInProgressError: it is to join again; its session goes on nevertheless.
            UnknownMemberError, FencedInstanceError, IllegalGenerationError
        """
        self._member_of(caller).heard(now_ms)
        if self.state is GroupState.PREPARING_REBALANCE:
            raise self._rebalancing()

    def check_commit(self, caller: GroupMember, now_ms: int) -> None:
        """Pass where the caller may commit. The replicated state decides; this adds what only the leader knows.

        Raises:
            UnknownMemberError, FencedInstanceError, IllegalGenerationError, RebalanceInProgressError
        """
        if caller.generation < 0 and self.state is GroupState.EMPTY:
            return
        self._member_of(caller).heard(now_ms)
        if self._proposed:
            raise self._rebalancing()

    def leave(self, leavers: Sequence[Leaver], now_ms: int) -> list[RaftlogError | None]:
        """Remove members; an outcome for each."""
        outcomes: list[RaftlogError | None] = []
        left = False
        for leaver in leavers:
            try:
                left |= self._leave(leaver)
                outcomes.append(None)
            except RaftlogError as error:
                outcomes.append(error)
        if left:
            self._rebalance(GroupEvent.MEMBER_LEFT, now_ms)
        self._complete_if_due(now_ms)
        return outcomes

    def tick(self, now_ms: int) -> None:
        """Let time pass: sessions end, and so do the waits for joins and syncs."""
        for member_id in [member_id for member_id, deadline_ms in self.pending.items() if deadline_ms <= now_ms]:
            del self.pending[member_id]
        silent = [member for member in self.members if member.may_expire and member.deadline_ms <= now_ms]
        if self.state in (GroupState.COMPLETING_REBALANCE, GroupState.STABLE) and self._phase_deadline_ms() <= now_ms:
            silent += [member for member in self.members if not member.synced and member not in silent]
        for member in silent:
            self._remove(member)
        if silent:
            self._rebalance(GroupEvent.MEMBER_LEFT, now_ms)
        self._complete_if_due(now_ms)

    # What became of what was proposed, and of the group.

    def durable(self, command: pb.GroupCommand, record: GroupRecord, now_ms: int) -> None:
        """A command that this group proposed was applied, and made ``record`` of the group."""
        kind = command.WhichOneof("command")
        self._record = record
        if kind == "new_generation":
            self._generation_durable(now_ms)
        elif kind == "assign":
            self._assignment_durable(now_ms)
        else:
            self._replacement_durable(command.replace_member.member.member_id)

    def deleted(self, error: RaftlogError) -> None:
        """The group was deleted while it was empty; whoever has begun to join it since must join again."""
        self.state = next_state(self.state, GroupEvent.DELETED)
        self.abandon(error)

    def abandon(self, error: RaftlogError) -> None:
        """This group is led here no longer: everybody who waits is told so."""
        for member in self.members:
            self._drop_tickets(member, error)

    # Joining.

    def _check_protocols(self, wish: JoinGroup) -> None:
        if not wish.protocol_type or not wish.protocols:
            raise InconsistentGroupProtocolError("a member names a protocol type and at least one assignor")
        if len(wish.protocols) > self._limits.protocols_max:
            raise InconsistentGroupProtocolError(f"a member names {self._limits.protocols_max} assignors at most")
        if not self.members:
            return
        common = self.members.common_protocols()
        if wish.protocol_type != self.protocol_type or common.isdisjoint(name for name, _ in wish.protocols):
            raise InconsistentGroupProtocolError(
                f"group {self.group_id!r} has protocol type {self.protocol_type!r} and its members share {sorted(common)}; "
                f"this one brings {wish.protocol_type!r} and {[name for name, _ in wish.protocols]}"
            )

    def _join_again(self, wish: JoinGroup, ticket: int, now_ms: int) -> None:
        if wish.member_id in self.pending and wish.instance_id is None:
            deadline_ms = self.pending.pop(wish.member_id)
            try:
                self._add(record_of(wish, wish.member_id), wish.protocol_type, ticket, now_ms)
            except GroupFullError:
                self.pending[wish.member_id] = deadline_ms
                raise
            return
        member = self.members.find(wish.member_id, wish.instance_id)
        told = self.state is GroupState.COMPLETING_REBALANCE or (
            self.state is GroupState.STABLE and member.member_id != self._record.leader
        )
        if told and member.record.protocols == wish.protocols:
            # It lost the answer, or asks what it knows already.
            member.heard(now_ms)
            self._effects.append(Answer(ticket, joined(self._record, member.member_id)))
            return
        stays = member.stays(preparing=self.state is GroupState.PREPARING_REBALANCE)
        if not stays and self._staying() >= self._limits.members_max:
            raise self._full()  # those who came since have taken its place
        record = replace(record_of(wish, wish.member_id), assignment=member.record.assignment)
        self._check_room(record, instead=member.record)
        self.members.update(member, record)
        member.heard(now_ms)
        self._await_join(member, ticket, now_ms)

    def _add(self, record: MemberRecord, protocol_type: str, ticket: int, now_ms: int) -> None:
        self._check_room(record)
        if not self.members:
            self.protocol_type, self._leader = protocol_type, record.member_id
        member = Member(record, now_ms + NEW_MEMBER_JOIN_TIMEOUT_MS, is_new=True)
        self.members.add(member)
        self._await_join(member, ticket, now_ms)

    def _replace_static(self, member: Member, record: MemberRecord, ticket: int, now_ms: int) -> None:
        """A static member is back under a new id: it takes the old one's place, and the old id is fenced."""
        self._check_room(record, instead=member.record)
        old_id, new_id = member.member_id, record.member_id
        error = FencedInstanceError(f"instance {record.instance_id!r} of group {self.group_id!r} joined anew, as {new_id!r}")
        self._drop_tickets(member, error)
        self.members.update(member, replace(record, assignment=member.record.assignment))
        member.heard(now_ms)
        if self._leader == old_id:
            self._leader = new_id
        if self.state is GroupState.STABLE and self.members.select_protocol() == self._record.protocol:
            member.join_ticket = ticket
            self._effects.append(Propose(replace_command(self._record, old_id, member.record)))
        else:
            self._await_join(member, ticket, now_ms)

    def _await_join(self, member: Member, ticket: int, now_ms: int) -> None:
        """The member takes part in the rebalance that is under way, or begins now."""
        self._supersede(member.join_ticket)
        member.join_ticket = ticket
        member.awaiting_join = True
        self._rebalance(GroupEvent.MEMBER_JOINED, now_ms)
        if self._initial_until_ms is not None:
            last_ms = self._begun_ms + self.members.rebalance_timeout_ms()
            self._initial_until_ms = min(now_ms + self._limits.initial_rebalance_delay_ms, last_ms)
        self._complete_if_due(now_ms)

    def _check_room(self, record: MemberRecord, *, instead: MemberRecord | None = None) -> None:
        limits = self._limits
        if instead is None and len(self.members) + len(self.pending) >= limits.members_max:
            while self.pending and self._staying() + len(self.pending) >= limits.members_max:
                del self.pending[next(iter(self.pending))]  # the oldest: whoever has it and comes after all gets another one
            if self._staying() >= limits.members_max:
                raise self._full()
        size_bytes = self.members.size_bytes + record.size_bytes - (0 if instead is None else instead.size_bytes)
        if size_bytes > limits.member_bytes_max:
            raise GroupFullError(
                f"the members of group {self.group_id!r} say more of themselves than {limits.member_bytes_max} bytes"
            )

    def _staying(self) -> int:
        return self.members.staying(preparing=self.state is GroupState.PREPARING_REBALANCE)

    def _full(self) -> GroupFullError:
        return GroupFullError(f"group {self.group_id!r} has {self._limits.members_max} members, as many as it may have")

    # Rebalancing.

    def _rebalance(self, event: GroupEvent, now_ms: int) -> None:
        """Membership has changed: everybody is to join again, unless that is under way already."""
        before = self.state
        self.state = next_state(before, event)
        if before is GroupState.PREPARING_REBALANCE:
            return
        self._begun_ms = now_ms
        self._assigning = False
        for member in self.members:
            if member.sync_ticket is not None:
                self._effects.append(Answer(member.sync_ticket, self._rebalancing()))
                member.sync_ticket = None
                member.heard(now_ms)  # it could not speak while it waited
            if member.join_ticket is not None:
                member.awaiting_join = True  # a static member whose return was on its way joins in
        if before is GroupState.EMPTY:
            self._initial_until_ms = now_ms

    def _complete_if_due(self, now_ms: int) -> None:
        if self.state is not GroupState.PREPARING_REBALANCE or self._proposed:
            return
        gone = not self.members and not self.pending
        waiting = self._initial_until_ms is not None or self.pending or not all(m.awaiting_join for m in self.members)
        if gone or not waiting or now_ms >= self._phase_deadline_ms():
            self._complete(now_ms)

    def _complete(self, now_ms: int) -> None:
        """The time for joining is over: propose a generation of those who have, and of the static members."""
        self._initial_until_ms = None
        for member in [m for m in self.members if not m.awaiting_join and m.record.instance_id is None]:
            self._remove(member)
        awaiting = [member.member_id for member in self.members if member.awaiting_join]
        if self.members and not awaiting:
            self._begun_ms = now_ms  # static members only, and all away: until one is back, or their sessions end
            return
        if not self.members:
            self.state = next_state(self.state, GroupEvent.EMPTIED)
            if not self._record.members:
                return  # as the record says
        if awaiting and self._leader not in awaiting:
            self._leader = awaiting[0]
        self._proposed = True
        command = generation_command(
            self._record,
            self.members.records(),
            protocol_type=self.protocol_type,
            protocol=self.members.select_protocol() if self.members else "",
            leader=self._leader if self.members else "",
        )
        self._effects.append(Propose(command))

    def _generation_durable(self, now_ms: int) -> None:
        self._proposed = False
        told = self._record.members
        if not told:
            self._complete_if_due(now_ms)  # somebody may have joined since the last one went
            return
        self._begun_ms = now_ms
        self.state = next_state(self.state, GroupEvent.GENERATION_DURABLE)
        changed = len(self.members) != len(told)
        for member_id, record in told.items():
            member = self.members.get(member_id)
            if member is None or replace(member.record, assignment=b"") != record:
                changed = True
                continue
            member.record = record
            ticket, awaited = member.join_ticket, member.awaiting_join
            member.join_ticket, member.awaiting_join, member.is_new = None, False, False
            member.synced = not awaited
            if awaited:
                member.heard(now_ms)
            if ticket is not None:
                self._effects.append(Answer(ticket, joined(self._record, member.member_id)))
        if changed:
            self._rebalance(GroupEvent.MEMBER_JOINED, now_ms)
            self._complete_if_due(now_ms)

    def _assignment_durable(self, now_ms: int) -> None:
        if self.state is not GroupState.COMPLETING_REBALANCE:
            return  # a rebalance has begun meanwhile; who syncs hears of that
        self._assigning = False
        self.state = next_state(self.state, GroupEvent.ASSIGNMENT_DURABLE)
        for member in self.members:
            member.record = self._record.members[member.member_id]
            if member.sync_ticket is not None:
                member.heard(now_ms)
                self._effects.append(Answer(member.sync_ticket, synced(self._record, member.record.assignment)))
                member.sync_ticket = None

    def _replacement_durable(self, member_id: str) -> None:
        member = self.members.get(member_id)
        if self.state is not GroupState.STABLE or member is None or member.join_ticket is None:
            return  # it joins the rebalance that began meanwhile
        self._effects.append(Answer(member.join_ticket, joined(self._record, member_id, back=True)))
        member.join_ticket = None

    # Leaving.

    def _leave(self, leaver: Leaver) -> bool:
        """Remove one; whether a member went, not just an id that was handed out."""
        if leaver.member_id and self.pending.pop(leaver.member_id, None) is not None:
            return False
        static = None if leaver.member_id else self.members.instance(leaver.instance_id)
        member_id = leaver.member_id if static is None else static.member_id
        self._remove(self.members.find(member_id, leaver.instance_id))
        return True

    def _remove(self, member: Member) -> None:
        self.members.remove(member)
        error = UnknownMemberError(f"member {member.member_id!r} was removed from group {self.group_id!r}; join again")
        self._drop_tickets(member, error)

    # Small parts.

    def _member_of(self, caller: GroupMember) -> Member:
        member = self.members.find(caller.member_id, caller.instance_id)
        if caller.generation != self.generation:
            raise IllegalGenerationError(
                f"group {self.group_id!r} is at generation {self.generation}, the member at {caller.generation}; join again"
            )
        return member

    def _phase_deadline_ms(self) -> int:
        """When the wait for joins, or for syncs, is over."""
        if self.state is GroupState.PREPARING_REBALANCE:
            if self._proposed:
                return NEVER
            if self._initial_until_ms is not None:
                return self._initial_until_ms
        elif all(member.synced for member in self.members):
            return NEVER
        return self._begun_ms + self.members.rebalance_timeout_ms()

    def _rebalancing(self) -> RebalanceInProgressError:
        return RebalanceInProgressError(f"group {self.group_id!r} is rebalancing; join again")

    def _supersede(self, ticket: int | None) -> None:
        if ticket is not None:
            error = RebalanceInProgressError(f"a newer call of the same member of group {self.group_id!r} took over")
            self._effects.append(Answer(ticket, error))

    def _drop_tickets(self, member: Member, error: RaftlogError) -> None:
        for ticket in (member.join_ticket, member.sync_ticket):
            if ticket is not None:
                self._effects.append(Answer(ticket, error))
        member.join_ticket = member.sync_ticket = None
