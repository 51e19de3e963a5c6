"""The reconciler: the step of each situation, and that any situation ends as wanted whatever fails on the way."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from raftlog.core.metadata_values import PartitionMeta, Replica
from raftlog.core.moving import placed, removed, renewed
from raftlog.core.reconcile import (
    CAUGHT_UP_MS,
    FollowerReport,
    GroupReport,
    Limits,
    Next,
    Step,
    StepKind,
    next_step,
    plan,
)

ALL_UP = range(1, 10)
A, B, C, D, E = (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)


def _partition(
    *wanted: Replica, leaving: tuple[Replica, ...] = (), lost: tuple[Replica, ...] = (), group: int = 1
) -> PartitionMeta:
    return PartitionMeta(
        group_id=group, replicas=wanted, created_index=1, founders=(A, B, C), next_replica_id=9, leaving=leaving, lost=lost
    )


def _report(
    *voters: Replica, leader: Replica = A, learners: tuple[Replica, ...] = (), behind: tuple[Replica, ...] = (),
    dead: tuple[Replica, ...] = (), damaged: tuple[Replica, ...] = (), committed: bool = True, group: int = 1,
) -> GroupReport:  # fmt: skip
    return GroupReport(
        group=group, leader=leader, term=3, voters=voters, learners=learners, committed=committed, last_index=9, commit_index=9,
        followers={
            one: FollowerReport(
                match_index=9, lag_ms=60_000 if one in behind else 0, live=one not in dead, damaged=one in damaged
            )
            for one in voters + learners
            if one != leader
        },
    )  # fmt: skip


def _kind(found: Next) -> tuple[StepKind, Replica] | str:
    return found.waits if found.step is None else (found.step.kind, found.step.replica)


def test_one_replica_moves_in_five_steps() -> None:
    """Added, promoted, then the one that goes is removed and forgotten; nothing is left to do after that."""
    moved = _partition(A, B, D, leaving=(C,))
    assert _kind(next_step(moved, _report(A, B, C), ALL_UP)) == (StepKind.ADD, D)
    assert _kind(next_step(moved, _report(A, B, C, learners=(D,), behind=(D,)), ALL_UP)) == "node 4 catches up"
    assert _kind(next_step(moved, _report(A, B, C, learners=(D,)), ALL_UP)) == (StepKind.PROMOTE, D)
    assert _kind(next_step(moved, _report(A, B, C, D), ALL_UP)) == (StepKind.REMOVE, C)
    assert _kind(next_step(moved, _report(A, B, D), ALL_UP)) == (StepKind.FORGET, C)
    assert next_step(_partition(A, B, D), _report(A, B, D), ALL_UP).settled


def test_a_step_names_the_leader_and_term_that_it_follows_from() -> None:
    """So that whoever carries it out can refuse it when another leads by now."""
    step = next_step(_partition(A, B, D, leaving=(C,)), _report(A, B, C, leader=B), ALL_UP).step
    assert step == Step(kind=StepKind.ADD, group=1, replica=D, leader=B, term=3)


def test_nothing_is_changed_before_the_last_change_is_committed() -> None:
    """One change at a time (Raft dissertation, section 4.1)."""
    found = next_step(_partition(A, B, D, leaving=(C,)), _report(A, B, C, D, committed=False), ALL_UP)
    assert _kind(found) == "its last change is not committed yet"


def test_a_leader_hands_over_before_it_is_removed() -> None:
    """The heir is the first of the wanted that has caught up."""
    moved = _partition(B, C, D, leaving=(A,))
    assert _kind(next_step(moved, _report(A, B, C, D), ALL_UP)) == (StepKind.TRANSFER, B)
    # Only a voter that lacks nothing takes over; a wanted replica that is behind keeps the leader where it is.
    assert _kind(next_step(moved, _report(A, B, C, D, behind=(B,)), ALL_UP)) == ("node 2 has to catch up before node 1 may go")


def test_a_lost_disk_never_counts_as_a_copy() -> None:
    """The leader still believes that the replica matches; the metadata knows that its disk is gone."""
    wiped_there = _partition(A, B, (3, 4), lost=(C,))
    assert _kind(next_step(wiped_there, _report(A, B), ALL_UP)) == (StepKind.FORGET, C)
    assert _kind(next_step(wiped_there, _report(A, B, C, behind=(B,), dead=(C,)), ALL_UP)) == (StepKind.ADD, (3, 4))
    assert _kind(next_step(wiped_there, _report(A, B, C, (3, 4)), ALL_UP)) == (StepKind.REMOVE, C)
    # With a second one behind, taking the lost one out would leave one good copy of three.
    found = next_step(wiped_there, _report(A, B, C, (3, 4), behind=(B, (3, 4))), ALL_UP)
    assert _kind(found) == "node 2 has to catch up before node 3 may go"


def test_a_lost_voter_goes_before_another_one_comes() -> None:
    """With the lost one and its successor there would be four voters, and all three that live were needed for a majority: one
    that is slow, as a disk is that is just being filled, would stop the partition."""
    wiped_there = _partition(A, B, (3, 4), lost=(C,))
    assert _kind(next_step(wiped_there, _report(A, B, C), ALL_UP)) == (StepKind.REMOVE, C)
    assert _kind(next_step(wiped_there, _report(A, B, C, learners=((3, 4),)), ALL_UP)) == (StepKind.REMOVE, C)
    # A replica that is lost and leads yet, for its data is damaged, hands over first.
    assert _kind(next_step(wiped_there, _report(A, B, C, leader=C), ALL_UP)) == (StepKind.TRANSFER, A)


def test_a_damaged_replica_is_out_of_its_group_before_its_successor_comes() -> None:
    """They have one place on their node. More than half of the voters have to be others that are sound, or it stays."""
    given_up = _partition(A, B, (3, 4), lost=(C,))
    assert _kind(next_step(given_up, _report(A, B, C, damaged=(C,)), ALL_UP)) == (StepKind.REMOVE, C)
    found = next_step(given_up, _report(A, B, C, damaged=(C,), behind=(B,)), ALL_UP)
    assert _kind(found) == "node 2 has to catch up before node 3 may go"
    # One that was added all the same, as long as the damaged one was silent, would be waited for without end.
    both = _report(A, B, C, damaged=(C,), learners=((3, 4),), behind=(B, (3, 4)))
    assert _kind(next_step(given_up, both, ALL_UP)) == (StepKind.REMOVE, (3, 4))
    # Where it stops answering for good it is as one whose disk is lost.
    found = next_step(given_up, _report(A, B, C, damaged=(C,), behind=(B,), dead=(C,)), ALL_UP)
    assert _kind(found) == (StepKind.ADD, (3, 4))


def test_a_damaged_replica_counts_until_a_lost_one_is_made_anew() -> None:
    """A disk is lost just when a damaged replica of another node was given up: two of three are lost, and one of them votes. The
    one whose disk is gone leaves by its vote, and is filled before the damaged one leaves: else a single copy would be left."""
    lost_two = _partition((1, 4), (2, 5), C, lost=(A, B))
    assert _kind(next_step(lost_two, _report(A, B, C, leader=C, damaged=(B,), dead=(A,)), ALL_UP)) == (StepKind.REMOVE, A)
    lost_one = _partition((1, 4), (2, 5), C, lost=(B,))
    assert _kind(next_step(lost_one, _report(B, C, leader=C, damaged=(B,)), ALL_UP)) == (StepKind.ADD, (1, 4))
    filling = _report(B, C, leader=C, damaged=(B,), learners=((1, 4),), behind=((1, 4),))
    assert _kind(next_step(lost_one, filling, ALL_UP)) == "node 1 catches up"
    assert _kind(next_step(lost_one, _report((1, 4), B, C, leader=C, damaged=(B,)), ALL_UP)) == (StepKind.REMOVE, B)
    # Nothing is settled while it is there, and nothing could be done.
    found = next_step(lost_one, _report(B, C, leader=C, damaged=(B,)), [2, 3])
    assert (_kind(found), found.held_up) == ("node 1 has to catch up before node 2 may go", True)


def test_a_dead_node_s_replica_leaves_by_the_vote_of_a_damaged_one() -> None:
    """Its successor is there, and the damaged one waits for as many sound ones as are wanted: neither may wait for the other."""
    for leader in (A, B):
        moved = _partition((1, 9), B, D, leaving=(C,), lost=(A,))
        report = _report(A, B, C, D, leader=leader, damaged=(A,), dead=(C,))
        assert _kind(next_step(moved, report, [1, 2, 4])) == (StepKind.REMOVE, C)
        report = _report(A, B, D, leader=leader, damaged=(A,))
        assert _kind(next_step(moved, report, [1, 2, 4])) == (StepKind.FORGET, C)
        moved = replace(moved, leaving=())
        expected = (StepKind.TRANSFER, B) if leader == A else (StepKind.REMOVE, A)
        assert _kind(next_step(moved, report, [1, 2, 4])) == expected


def test_what_a_damaged_replica_waits_for_is_never_its_own_successor() -> None:
    """That comes after it. A node that is down holds it up."""
    given_up = _partition((1, 4), B, C, lost=(A,))
    found = next_step(given_up, _report(A, B, leader=B, damaged=(A,)), [1, 2])
    assert (_kind(found), found.held_up) == ("node 3 has to catch up before node 1 may go", True)


def test_two_damaged_replicas_of_five_leave_when_nobody_else_is_to_come() -> None:
    """Of four voters two are sound, and three are wanted: the successor of one waits for it to leave. Three would be left."""
    two, damaged = _partition((6, 6), (3, 3), (5, 9), lost=((2, 2), (5, 5))), ((2, 2), (5, 5))
    report = _report((2, 2), (3, 3), (5, 5), (6, 6), leader=(3, 3), damaged=damaged)
    assert _kind(next_step(two, report, (2, 3, 5, 6))) == (StepKind.REMOVE, (2, 2))


def test_no_step_leaves_less_than_a_majority() -> None:
    """One sound copy is all that is wanted, and there is one; but beside it there is a voter that is down."""
    alone = _partition(B, leaving=(C,), lost=(A,))
    report = _report(A, B, C, leader=B, damaged=(A,), dead=(C,))
    assert _kind(next_step(alone, report, [1, 2])) == (StepKind.REMOVE, C)
    alone = _partition(B, leaving=(A, C))
    assert _kind(next_step(alone, _report(A, B, C, leader=B, dead=(C,)), [1, 2])) == (StepKind.REMOVE, C)


def test_a_damaged_replica_that_does_not_say_so_has_its_place_all_the_same() -> None:
    """The leader's version knows nothing of it, or what says so was taken away: its successor could not be opened."""
    given_up = _partition(A, B, (3, 4), lost=(C,))
    assert _kind(next_step(given_up, _report(A, B, C), ALL_UP)) == (StepKind.REMOVE, C)
    found = next_step(given_up, _report(A, B, C, behind=(B,)), ALL_UP)
    assert _kind(found) == "node 2 has to catch up before node 3 may go"


def test_a_good_copy_goes_only_when_as_many_as_wanted_are_left() -> None:
    """A wanted replica that is down keeps the one that is to go, until it is back."""
    moved = _partition(A, B, D, leaving=(C,))
    found = next_step(moved, _report(A, B, C, D, dead=(B,)), ALL_UP)
    assert _kind(found) == "node 2 has to catch up before node 3 may go"
    # One that is itself down holds nothing back.
    assert _kind(next_step(moved, _report(A, B, C, D, dead=(C,)), ALL_UP)) == (StepKind.REMOVE, C)


def test_a_learner_that_is_down_makes_room_for_one_that_is_up() -> None:
    """It is added again later; where nobody else could go on it stays."""
    both = _partition(A, D, E, leaving=(B, C))
    report = _report(A, B, C, learners=(D,), behind=(D,), dead=(D,))
    assert _kind(next_step(both, report, {1, 2, 3, 5})) == (StepKind.REMOVE, D)
    assert _kind(next_step(both, report, {1, 2, 3})) == "node 4 is down"
    assert _kind(next_step(both, _report(A, B, C), {1, 2, 3, 5})) == (StepKind.ADD, E)


def test_replicas_that_are_not_wanted_any_more_go_even_as_learners() -> None:
    """A move that was taken back leaves no learner behind."""
    back = _partition(A, B, C, leaving=(D,))
    assert _kind(next_step(back, _report(A, B, C, learners=(D,)), ALL_UP)) == (StepKind.REMOVE, D)
    assert _kind(next_step(back, _report(A, B, C), ALL_UP)) == (StepKind.FORGET, D)


def test_few_learners_catch_up_at_a_time_and_the_weakest_group_goes_first() -> None:
    """Per node and in all; steps that cost no bandwidth are not held up, and groups that lack copies have as much again."""
    wanted = {group: _partition(A, B, D, leaving=(C,), group=group) for group in range(1, 6)}
    reports = {group: _report(A, B, C, group=group) for group in wanted}
    reports[3] = _report(A, B, C, group=3, dead=(C,))
    reports[4] = _report(A, B, C, D, group=4)
    reports[5] = _report(A, B, C, group=5, learners=(D,), behind=(D,))
    round_ = plan(wanted.values(), reports, up=ALL_UP, limits=Limits(catching_up_per_node_max=2))
    assert [(step.group, step.kind) for step in round_.steps] == [(4, StepKind.REMOVE), (3, StepKind.ADD)]
    assert round_.waits == {1: "other replicas catch up first", 2: "other replicas catch up first", 5: "node 4 catches up"}
    all_at_once = plan(wanted.values(), reports, up=ALL_UP, limits=Limits(catching_up_max=1))
    assert [step.group for step in all_at_once.steps] == [4, 3]


def test_a_group_without_a_leader_waits() -> None:
    """Nobody can tell what it is, and nobody could change it."""
    assert plan([_partition(A)], {}, up=ALL_UP, limits=Limits()).waits == {1: "it has no leader just now"}


class _Model:
    """One group that does what Raft promises: commits need a majority of voters, and a leader holds all that is committed.

    ``log`` is how much each replica holds; a learner or follower catches up in bits. What is lost or forgotten is gone; what is
    ``damaged`` was given up for it, and is there until it is forgotten.
    """

    def __init__(self, rng: Random, nodes: int, wanted: int) -> None:
        self.rng, self.nodes = rng, nodes
        founders = tuple((node, node) for node in range(1, wanted + 1))
        self.partition = PartitionMeta(
            group_id=1, replicas=founders, created_index=1, founders=founders, next_replica_id=wanted + 1
        )
        self.voters, self.learners = list(founders), list[Replica]()
        self.log = dict.fromkeys(founders, 1)
        self.committed, self.last, self.index = 1, 1, 1
        self.down: set[int] = set()
        self.damaged: set[Replica] = set()
        self.leader: Replica | None = founders[0]

    def can_lead(self, replica: Replica) -> bool:
        return replica in self.voters and replica in self.log and replica[0] not in self.down

    def live(self) -> list[Replica]:
        return [one for one in self.voters if self.can_lead(one)]

    def tick(self) -> None:
        """Elections, appends, replication and commit."""
        if self.leader is not None and not self.can_lead(self.leader):
            self.leader = None
        live = self.live()
        if 2 * len(live) <= len(self.voters):
            self.leader = None
            return
        if self.leader is None:
            self.leader = max(live, key=lambda one: self.log[one])
            assert self.log[self.leader] >= self.committed, "a leader without what is committed: data is lost"
            self.last = self.log[self.leader]
        self.last += self.rng.randint(0, 1)
        self.log[self.leader] = self.last
        for one in self.voters + self.learners:
            if one in self.log and one[0] not in self.down and self.rng.random() < 0.6:
                self.log[one] = min(self.last, max(self.log[one], 0) + self.rng.randint(1, 3))
        held = sorted((self.log.get(one, 0) for one in self.voters), reverse=True)
        self.committed = max(self.committed, held[len(self.voters) // 2])

    def report(self) -> GroupReport | None:
        if self.leader is None:
            return None
        followers = {
            one: FollowerReport(
                match_index=self.log.get(one, 0),
                lag_ms=0 if self.log.get(one, 0) >= self.committed else CAUGHT_UP_MS + 1,
                live=one[0] not in self.down and (one in self.log or self.rng.random() < 0.1),
                damaged=one in self.damaged,
            )
            for one in self.voters + self.learners
            if one != self.leader
        }
        return GroupReport(
            group=1, leader=self.leader, term=1, voters=tuple(self.voters), learners=tuple(self.learners), followers=followers
        )

    def good(self) -> int:
        return sum(1 for one in self.sound() if one[0] not in self.down)

    def sound(self) -> list[Replica]:
        return [one for one in self.voters if self.log.get(one, 0) >= self.committed and one not in self.damaged]

    def do(self, step: Step) -> None:
        """Carry a step out as the group's leader would: it refuses what no longer fits."""
        one, before = step.replica, self.good()
        if step.kind is StepKind.FORGET:
            assert one not in self.voters + self.learners
            self.partition = removed(self.partition, one, placed_index=self.partition.placed_index)
            if one not in self.partition.leaving + self.partition.replicas:
                self.log.pop(one, None)
            return
        if self.leader != step.leader or not self.can_lead(step.leader):
            return
        if step.kind is StepKind.ADD and one not in self.voters + self.learners:
            self.learners.append(one)
            self.open()
        elif step.kind is StepKind.PROMOTE and one in self.learners:
            assert self.log.get(one, 0) >= self.committed - 3, "promoted before it caught up"
            self.learners.remove(one)
            self.voters.append(one)
        elif step.kind is StepKind.TRANSFER and self.can_lead(one) and self.log[one] >= self.committed:
            self.leader = one
            self.last = self.log[one]
        elif step.kind is StepKind.REMOVE:
            assert one != self.leader
            remaining = [other for other in self.voters if other != one]
            there = [other for other in remaining if self.can_lead(other) and self.log[other] >= self.committed]
            if one in self.voters and 2 * len(there) <= len(remaining):
                return  # refused: it would have no majority just now
            if one in self.learners:
                self.learners.remove(one)
            elif one in self.voters:
                self.voters.remove(one)
                assert self.good() >= min(before, len(self.partition.replicas)), "fewer good copies than before"

    def disturb(self) -> None:
        """Nodes go and come, disks are lost while a majority is left, replicas are damaged, and others are wanted."""
        node = self.rng.randint(1, self.nodes)
        what = self.rng.random()
        if what < 0.3:
            self.down.add(node)
        elif what < 0.7:
            self.down.discard(node)
        elif what < 0.85:
            self.index += 1
            count = self.rng.randint(1, min(4, self.nodes))
            nodes = self.rng.sample(range(1, self.nodes + 1), count)
            self.partition = placed(self.partition, nodes, index=self.index, reason="", at_ms=0)
        elif what < 0.92:
            found = [one for one in self.partition.replicas + self.partition.leaving if one[0] == node and one in self.log]
            others = [one for one in self.sound() if one not in found and one not in self.partition.lost]
            if found and 2 * len(others) > len(self.voters):
                self.index += 1
                self.partition = renewed(self.partition, node, index=self.index, at_ms=0, reason="damaged")
                self.damaged.update(found)
        else:
            holders = [one for one in self.voters if one[0] != node and one in self.log and self.log[one] >= self.committed]
            if 2 * len(holders) > len(self.voters):  # more than Raft can bear is not the reconciler's to repair
                self.index += 1
                self.partition = renewed(self.partition, node, index=self.index, at_ms=0, reason="lost")
                self.log = {one: held for one, held in self.log.items() if one[0] != node}

    def up(self) -> set[int]:
        return {node for node in range(1, self.nodes + 1) if node not in self.down}

    def one_dies_for_good(self) -> None:
        """A node without which the group has a majority; its replicas are wanted on others."""
        node = self.rng.randint(1, self.nodes)
        there = [one for one in self.live() if one[0] != node and self.log[one] >= self.committed]
        others = [other for other in range(1, self.nodes + 1) if other != node]
        if 2 * len(there) > len(self.voters) and len(others) >= len(self.partition.replicas):
            self.down.add(node)
            self.index += 1
            nodes = self.rng.sample(others, len(self.partition.replicas))
            self.partition = placed(self.partition, nodes, index=self.index, reason="dead", at_ms=0)

    def open(self) -> None:
        """Nodes open what the metadata gives them, where a damaged replica that it has not forgotten is not in its place."""
        taken = {node for node, replica in self.damaged if (node, replica) in self.log}
        for one in self.partition.replicas + self.partition.leaving:
            if one[0] not in self.down and (one in self.log or one[0] not in taken):
                self.log.setdefault(one, 0)

    def round(self, failing: float) -> None:
        report = self.report()
        steps = plan([self.partition], {} if report is None else {1: report}, up=self.up(), limits=Limits()).steps
        assert len(steps) <= 1
        for step in steps:
            if self.rng.random() >= failing:
                self.do(step)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32), st.integers(3, 7), st.integers(1, 3))
def test_any_situation_ends_as_wanted_whatever_fails_on_the_way(seed: int, nodes: int, wanted: int) -> None:
    """Steps fail, nodes go, disks are lost and minds change; once that ends, the group is what is wanted, and nothing is lost."""
    rng = Random(seed)
    model = _Model(rng, nodes, wanted)
    for _ in range(rng.randint(1, 60)):
        model.open()
        model.tick()
        if rng.random() < 0.4:
            model.disturb()
        model.round(failing=0.3)
    model.down.clear()
    model.one_dies_for_good()
    report = None
    for _ in range(2_000):
        model.open()
        model.tick()
        model.round(failing=0.0)
        report = model.report()
        if report is not None and next_step(model.partition, report, model.up()).settled:
            break
    assert report is not None, "the group lost its majority"
    assert sorted(model.voters) == sorted(model.partition.replicas)
    assert (model.learners, model.partition.leaving, model.partition.lost) == ([], (), ())
    assert model.log.keys() == set(model.partition.replicas), "a replica that nobody wants is still there"


def test_a_replica_that_returns_before_it_has_left_keeps_its_id_and_a_lost_one_gets_another() -> None:
    """What has kept its promises may come back as itself; what lost them may not."""
    partition = placed(_partition(A, B, C), (1, 2, 4), index=5, reason="why", at_ms=7)
    assert (partition.replicas, partition.leaving, partition.placed_index) == ((A, B, (4, 9)), (C,), 5)
    assert placed(partition, (1, 2, 3), index=6, reason="", at_ms=8).replicas == (A, B, C)
    gone = renewed(partition, 3, index=6, at_ms=8, reason="lost")
    assert (gone.leaving, gone.lost) == ((), (C,))
    assert placed(gone, (1, 2, 3), index=7, reason="", at_ms=9).replicas == (A, B, (3, 10))


def test_a_removal_that_was_seen_under_another_placement_changes_nothing() -> None:
    """The replica may have been wanted again, and have come back, since that was seen."""
    partition = placed(_partition(A, B, C), (1, 2, 4), index=5, reason="", at_ms=0)
    assert removed(partition, C, placed_index=4) == partition
    assert removed(partition, C, placed_index=5) == replace(partition, leaving=())
