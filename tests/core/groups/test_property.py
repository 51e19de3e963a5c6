"""Members that do what they like, at any time, over changes of coordinators: what must hold holds."""

from __future__ import annotations

from collections import defaultdict
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raftlog.core.groups.limits import GroupLimits
from raftlog.core.groups.live import NEVER, LiveGroup
from raftlog.core.groups.values import NO_GENERATION, GroupMember, GroupState, JoinedGroup, Leaver, SyncedGroup
from raftlog.errors import (
    FencedInstanceError,
    IllegalGenerationError,
    MemberIdRequiredError,
    RaftlogError,
    RebalanceInProgressError,
    UnknownMemberError,
)
from raftlog.model import TopicPartition
from tests.core.groups.scene import REBALANCE_MS, SESSION_MS, Call, G, Scene

ACTORS = 5
STATIC = {3: "i3", 4: "i4"}
"""These actors are static members; the others are not."""
LIMITS = GroupLimits(initial_rebalance_delay_ms=50, members_max=4)
actors = st.integers(0, ACTORS - 1)


class Actor:
    """One client of the group: what it believes."""

    def __init__(self, number: int) -> None:
        self.instance_id = STATIC.get(number)
        self.member_id = ""
        self.generation = NO_GENERATION
        self.leads: tuple[str, ...] = ()
        """The members that it is to assign to."""
        self.waiting: Call | None = None
        self.synced = False
        """It has its assignment of this generation."""

    @property
    def member(self) -> GroupMember:
        """What it calls itself."""
        return GroupMember(group_id=G, generation=self.generation, member_id=self.member_id, instance_id=self.instance_id)

    def forget(self) -> None:
        """It starts anew."""
        self.member_id, self.generation, self.leads, self.synced = "", NO_GENERATION, (), False


class Groups(RuleBasedStateMachine):
    """The machine; ``Scene`` is the coordinator with its log."""

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene(auto=False, limits=LIMITS)
        self.actors = [Actor(number) for number in range(ACTORS)]
        self.generation = 0
        self.protocols: dict[int, str] = {}
        self.assigned: dict[int, set[bytes]] = defaultdict(set)
        """Generation → which syncs of its leaders members got their assignments of."""
        self.tokens = 0
        """Each sync of a leader brings its own."""
        self.offset = 0
        self.committed: int | None = None

    @initialize()
    def begin(self) -> None:
        """A group that nobody knows."""

    # What clients do.

    @rule(number=actors, changed=st.booleans(), required=st.booleans(), sticky=st.booleans())
    def join(self, number: int, changed: bool, required: bool, sticky: bool) -> None:
        """Join, join again, or send the same join again while the first still waits."""
        actor = self.actors[number]
        protocols = (("sticky", b""), ("range", b"new" if changed else b""))
        actor.waiting = self.scene.join(
            member_id=actor.member_id, instance_id=actor.instance_id, member_id_required=required,
            protocols=protocols if sticky else protocols[::-1], client_id=f"a{number}",
        )  # fmt: skip

    @rule(number=actors)
    def next_step(self, number: int) -> None:
        """What a good client does next."""
        actor = self.actors[number]
        if actor.waiting is not None:
            return
        if actor.generation < 0:
            self.join(number, changed=False, required=actor.instance_id is None, sticky=False)
        elif not actor.synced:
            self.sync(number)
        else:
            self.heartbeat(number)

    @rule(
        state=st.sampled_from([GroupState.STABLE, GroupState.COMPLETING_REBALANCE, GroupState.PREPARING_REBALANCE]),
        calls=st.lists(
            st.tuples(st.sampled_from(["join", "back", "sync", "sync", "commit", "leave"]), st.sampled_from([0, 1, 4])),
            min_size=1, max_size=5,
        ),
    )  # fmt: skip
    def trouble(self, state: GroupState, calls: list[tuple[str, int]]) -> None:
        """Bring the group into a state, then make some calls one right after another; 0 is the leader, 4 a static member."""
        self._reach(state)
        led = [actor for actor in self.actors if actor.leads]
        for kind, number in calls:
            self.answers_are_taken()
            who = self.actors.index(led[-1]) if led and number == 0 else number
            if kind == "join":
                self.join(who, changed=True, required=False, sticky=False)
            elif kind == "back":
                self.crash(who)
                self.join(who, changed=False, required=False, sticky=False)
            elif kind == "sync":
                self.sync(who)
            elif kind == "commit":
                self.commit(who, back=0, outside=False)
            else:
                self.leave(who)

    def _reach(self, state: GroupState) -> None:
        """All do what good clients do, and one entry after another becomes durable, until the group is in the state."""
        for turn in range(12 * ACTORS):
            if self.scene.is_in(state):
                return
            if self.scene.is_in(GroupState.STABLE):
                self.join(turn % ACTORS, changed=turn % 2 == 0, required=False, sticky=False)
            self.next_step(turn % ACTORS)
            self.scene.pass_ms(LIMITS.initial_rebalance_delay_ms // ACTORS)
            self.one_is_durable()
            self.answers_are_taken()

    @rule(number=actors)
    def sync(self, number: int) -> None:
        """Sync; a leader brings an assignment of its own making, another one each time."""
        actor = self.actors[number]
        if actor.generation < 0:
            return
        self.tokens += 1
        actor.waiting = self.scene.sync(actor.member, dict.fromkeys(actor.leads, b"%d" % self.tokens))

    @rule(number=actors)
    def heartbeat(self, number: int) -> None:
        """A heartbeat."""
        actor = self.actors[number]
        try:
            self.scene.live.heartbeat(actor.member, self.scene.now_ms)
        except RaftlogError as error:
            self._heard_error(actor, error)

    @rule(number=actors)
    def leave(self, number: int) -> None:
        """Leave, as consumers do; static members are removed by an administrator."""
        actor = self.actors[number]
        if actor.instance_id is not None:
            self.scene.leave(Leaver(instance_id=actor.instance_id))
        elif actor.member_id:
            self.scene.leave(Leaver(member_id=actor.member_id))

    @rule(number=actors)
    def crash(self, number: int) -> None:
        """Forget everything, and come back as a new process."""
        self.actors[number].forget()
        self.actors[number].waiting = None

    @rule(number=actors, back=st.integers(0, 2), outside=st.booleans())
    def commit(self, number: int, back: int, outside: bool) -> None:
        """Commit, maybe as of an older generation, or from outside."""
        actor = self.actors[number]
        member = GroupMember(group_id=G) if outside else actor.member
        if not outside:
            member = GroupMember(
                group_id=G, generation=max(actor.generation - back, 0), member_id=actor.member_id, instance_id=actor.instance_id
            )
        self.offset += 1
        self.scene.commit(member, self.offset)

    # What else happens.

    @rule(span_ms=st.sampled_from([1, 50, SESSION_MS // 2, SESSION_MS, REBALANCE_MS]))
    def time_passes(self, span_ms: int) -> None:
        """Timers go off."""
        self.scene.pass_ms(span_ms)

    @rule()
    def one_is_durable(self) -> None:
        """The next entry is applied."""
        if self.scene.log:
            self.scene.durable_one()

    @precondition(lambda self: len(self.scene.log) > 0)
    @rule()
    def all_is_durable(self) -> None:
        """Everything is applied."""
        self.scene.durable()

    @rule(lose=st.booleans())
    def fail_over(self, lose: bool) -> None:
        """Another coordinator, with or without what was on its way."""
        self.scene.fail_over(lose=lose)

    # What must hold.

    @invariant()
    def answers_are_taken(self) -> None:
        """Members hear of nothing that is not durable, of one outcome for each generation, and of one assignment."""
        record = self.scene.state.groups.get(G)
        durable = 0 if record is None else record.generation
        assert durable >= self.generation
        self.generation = durable
        for actor in self.actors:
            if actor.waiting is None or actor.waiting.outcome is None:
                continue
            outcome, actor.waiting = actor.waiting.outcome, None
            if isinstance(outcome, JoinedGroup):
                assert outcome.generation <= durable
                assert self.protocols.setdefault(outcome.generation, outcome.protocol) == outcome.protocol
                actor.member_id, actor.generation = outcome.member_id, outcome.generation
                actor.leads = tuple(member.member_id for member in outcome.members)
                actor.synced = False
            elif isinstance(outcome, SyncedGroup):
                actor.synced = True
                if outcome.assignment:
                    self.assigned[actor.generation].add(outcome.assignment)
                    assert len(self.assigned[actor.generation]) == 1
            else:
                self._heard_error(actor, outcome)

    @invariant()
    def offsets_are_what_was_committed_last(self) -> None:
        """By members of the newest generation, or from outside an empty group; and no offset comes or goes otherwise."""
        for commit, error, record in self.scene.settled:
            if error is None:
                self.committed = commit.offsets[0].offset
                inside = record.generation == commit.generation and commit.member_id in record.members and record.assigned
                assert inside or (commit.generation < 0 and not record.members)
        self.scene.settled.clear()
        stored = self.scene.state.offsets.get(G, {}).get(TopicPartition("t", 0))
        assert (None if stored is None else stored.offset) == self.committed

    @invariant()
    def whoever_waits_is_known_and_will_be_answered(self) -> None:
        """Each waiting call is a member's ticket, and something is on its way or a timer is set."""
        members = list(self.scene.live.members)
        tickets = [ticket for member in members for ticket in (member.join_ticket, member.sync_ticket) if ticket is not None]
        waiting = {ticket for ticket, call in self.scene.calls.items() if call.outcome is None}
        assert sorted(tickets) == sorted(waiting)
        if waiting and not self.scene.log:
            # However lively all members are: the wait for joins or syncs ends.
            assert self.scene.live._phase_deadline_ms() < NEVER

    @invariant()
    def a_group_at_rest_is_as_its_record_says(self) -> None:
        """A coordinator made of the record alone would lead the same group."""
        live, record = self.scene.live, self.scene.state.groups.get(G)
        assert len(live.pending) <= LIMITS.members_max
        assert live.members.staying(preparing=live.state is GroupState.PREPARING_REBALANCE) <= LIMITS.members_max
        assert len(live.members) <= 2 * LIMITS.members_max
        assert (live.state is GroupState.EMPTY) <= (len(live.members) == 0)
        if record is None or self.scene.log or live.state is GroupState.PREPARING_REBALANCE:
            return
        rebuilt = LiveGroup(record, limits=LIMITS, now_ms=self.scene.now_ms)
        assert (rebuilt.state, rebuilt.generation) == (live.state, live.generation)
        assert rebuilt.members.records() == live.members.records()

    def _heard_error(self, actor: Actor, error: RaftlogError) -> None:
        if isinstance(error, MemberIdRequiredError):
            actor.member_id = error.member_id
        elif isinstance(error, UnknownMemberError | FencedInstanceError):
            actor.forget()
        elif isinstance(error, RebalanceInProgressError | IllegalGenerationError):
            actor.generation = NO_GENERATION  # it joins again, under its id


TestGroups = Groups.TestCase
TestGroups.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


@pytest.mark.parametrize("seed", range(12))
def test_long_walks(seed: int) -> None:
    """The same machine for a long time: hypothesis finds short ways to trouble, this one many combinations."""
    random, machine = Random(seed), Groups()
    states = [GroupState.STABLE, GroupState.COMPLETING_REBALANCE, GroupState.PREPARING_REBALANCE]
    kinds = ["join", "back", "sync", "sync", "commit", "leave"]
    for _ in range(500):
        number, what = random.randrange(ACTORS), random.random()
        if what < 0.5:
            calls = [(random.choice(kinds), random.choice([0, 1, 4])) for _ in range(random.randint(1, 4))]
            machine.trouble(random.choice(states), calls)
        elif what < 0.7:
            machine.one_is_durable()
        elif what < 0.75:
            machine.fail_over(lose=random.random() < 0.5)
        elif what < 0.8:
            machine.time_passes(random.choice([1, 50, SESSION_MS // 2, SESSION_MS, REBALANCE_MS]))
        elif what < 0.9:
            machine.commit(number, back=random.randrange(3), outside=random.random() < 0.2)
        else:
            machine.join(number, changed=random.random() < 0.5, required=random.random() < 0.5, sticky=random.random() < 0.3)
        machine.answers_are_taken()
        machine.offsets_are_what_was_committed_last()
        machine.whoever_waits_is_known_and_will_be_answered()
        machine.a_group_at_rest_is_as_its_record_says()
    assert machine.generation > 10
