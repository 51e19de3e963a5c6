"""What to do next so that every group becomes what the metadata wants: the pure part of moving replicas.

Theory of operation. The metadata says which replicas a partition shall have (``PartitionMeta``); each group's own log says
which it has. A round compares the two, out of the reports of the groups' leaders, and gives at most one step for each group;
the next round sees what came of it. Nothing is kept between rounds: a round that is lost, or done twice, or done by two at
a time, costs nothing but the time.

The way of one replica: added as a learner → it catches up → promoted to a voter → one that is not wanted hands over
leadership, if it leads → is removed → is forgotten by the metadata, upon which its data goes. Only lost ones go before.

Rules:

1. One replica of a group changes at a time, and only when the change before it is committed.
2. A learner is promoted only when it has caught up: it lacks nothing that is older than ``CAUGHT_UP_MS``.
3. A voter that holds what is committed is removed only when as many others hold it as replicas are wanted. One that does not,
   because it is down, is removed once there are more voters than wanted, if a majority of the others hold it. So no step
   leaves fewer good copies than are wanted, or than there were. One whose disk is lost goes first of all, under the same
   condition: it never votes again, and beside it each voter more would raise the majority, to all that are left of three.
   One that is lost for being damaged answers all the same, and counts as far as that goes: it goes after those, when more
   than half of the voters, or as many as are wanted, are others that are sound, or when nobody else is to come. Its
   successor comes after it, for they have one place. In no case is there less than a majority without the one that goes, nor
   no sound one, unless the one that goes holds nothing.
4. A leader is never removed: it hands over first, to a voter that has caught up and, unless itself is damaged, is wanted.
5. A replica is forgotten only when a committed configuration does not hold it.
6. Learners that catch up cost bandwidth, so few do at a time (``Limits``); the other steps cost nothing and are not held up.
   Groups that lack good copies have as much again for themselves: those that merely move must not be in their way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from raftlog.core.metadata_values import PartitionMeta, Replica

CAUGHT_UP_MS = 1_000
"""A follower that lacks no entry older than this has caught up: under load, the newest are always on their way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowerReport:
    """What a group's leader knows of another member."""

    match_index: int
    """Up to here its log is the leader's."""
    lag_ms: int = 0
    """Age of the oldest entry that it lacks; 0 where it lacks none that is committed."""
    live: bool = True
    """Whether the leader's node has a link to its node, and has heard of it lately."""
    damaged: bool = False
    """It says so of itself."""
    snapshot_sent_bytes: int = 0
    snapshot_bytes: int = 0
    """Of a snapshot under way; 0 where there is none."""

    @property
    def caught_up(self) -> bool:
        """Whether it may be counted on."""
        return self.live and self.lag_ms <= CAUGHT_UP_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupReport:
    """A group as its leader sees it, once it serves. ``followers`` are the members but the leader itself."""

    group: int
    leader: Replica
    term: int
    voters: tuple[Replica, ...]
    learners: tuple[Replica, ...] = ()
    committed: bool = True
    """Whether that configuration, the newest, is committed."""
    first_index: int = 0
    last_index: int = 0
    commit_index: int = 0
    size_bytes: int = 0
    followers: Mapping[Replica, FollowerReport] = field(default_factory=dict)

    @property
    def members(self) -> tuple[Replica, ...]:
        """Voters and learners."""
        return self.voters + self.learners

    def good(self, replica: Replica) -> bool:
        """Whether a member holds all that is committed, but for what is on its way."""
        if replica == self.leader:
            return True
        follower = self.followers.get(replica)
        return follower is not None and follower.caught_up


class StepKind(Enum):
    """What can be done."""

    ADD = "add"
    """Make a replica a learner."""
    PROMOTE = "promote"
    """Make a learner a voter."""
    TRANSFER = "transfer"
    """Hand leadership to a replica."""
    REMOVE = "remove"
    """Take a replica out of the configuration."""
    FORGET = "forget"
    """Tell the metadata that a replica is out of the configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One change of one group. ``leader`` and ``term`` are those of the report that it follows from."""

    kind: StepKind
    group: int
    replica: Replica
    leader: Replica
    term: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """Where a group stands: the next step, or what is waited for, or neither where it is as wanted."""

    step: Step | None = None
    waits: str = ""
    """In words."""
    held_up: bool = False
    """It waits for a node that is down, or a leader: for something that may not come by itself."""

    @property
    def settled(self) -> bool:
        """Whether the group is as wanted."""
        return self.step is None and not self.waits


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much goes on at a time."""

    catching_up_max: int = 16
    """Learners of the whole cluster that catch up at a time."""
    catching_up_per_node_max: int = 4
    """Learners of one node that catch up at a time: each is written to its one disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One round: the steps to take now, and what the other unsettled groups wait for, by group id."""

    steps: tuple[Step, ...]
    waits: Mapping[int, str]
    settled: frozenset[int]
    held_up: frozenset[int] = frozenset()
    """Those that wait for what may not come by itself."""


def plan(partitions: Iterable[PartitionMeta], reports: Mapping[int, GroupReport], *, up: Container[int], limits: Limits) -> Plan:
    """The round: at most one step for each group, within the limits.

    Args:
        partitions: what is wanted. Where more could begin to catch up than may, those with the fewest voters that are good
            go first, then those that come first.
        reports: by group id, of the groups whose leader told.
        up: node ids that can be reached.
    """
    steps: list[Step] = []
    waits: dict[int, str] = {}
    settled, held_up = set(), set()
    adds: list[tuple[int, bool, Step]] = []
    catching_up = Counter[int]()
    for partition in partitions:
        report = reports.get(partition.group_id)
        found = Next(waits="it has no leader just now", held_up=True) if report is None else next_step(partition, report, up)
        if report is not None:
            catching_up.update(node for node, replica in report.learners if (node, replica) in partition.replicas)
        if found.step is not None and found.step.kind is StepKind.ADD:
            assert report is not None
            good = sum(1 for one in report.voters if one not in partition.lost and report.good(one))
            adds.append((good, good < len(partition.replicas), found.step))
        elif found.step is not None:
            steps.append(found.step)
        elif found.waits:
            waits[partition.group_id] = found.waits
            held_up |= {partition.group_id} if found.held_up else set()
        else:
            settled.add(partition.group_id)
    adds.sort(key=lambda add: add[0])
    for _, urgent, step in adds:
        node, share = step.replica[0], 2 if urgent else 1
        per_node_max = share * limits.catching_up_per_node_max
        if catching_up.total() >= share * limits.catching_up_max or catching_up[node] >= per_node_max:
            waits[step.group] = "other replicas catch up first"
            continue
        catching_up[node] += 1
        steps.append(step)
    return Plan(steps=tuple(steps), waits=waits, settled=frozenset(settled), held_up=frozenset(held_up))


def next_step(partition: PartitionMeta, report: GroupReport, up: Container[int]) -> Next:
    """Where one group stands, whatever the others do."""
    return _Group(partition, report, up).next()


class _Group:
    """What is wanted of a group, and what it is."""

    def __init__(self, partition: PartitionMeta, report: GroupReport, up: Container[int]) -> None:
        self.wanted, self.lost = partition.replicas, partition.lost
        self.going = partition.leaving + partition.lost
        self.report, self.up = report, up
        self.unwanted = [one for one in report.voters if one not in partition.replicas]
        # Those that hold nothing go first, the leader last.
        self.unwanted.sort(key=lambda one: (one == report.leader, self.good(one), self.answers(one)))

    def good(self, replica: Replica) -> bool:
        """Whether a member holds what is committed. The leader may not know yet that a disk is lost; the metadata does."""
        return replica not in self.lost and self.report.good(replica)

    def answers(self, replica: Replica) -> bool:
        """Whether a lost replica is there yet, in the place of another one: its node waits to delete it. Or its disk was lost
        this very moment, and its leader is about to see that."""
        follower = self.report.followers.get(replica)
        return replica in self.lost and (replica == self.report.leader or (follower is not None and follower.live))

    def votes(self, replica: Replica) -> bool:
        """Whether a lost replica holds what is committed, as far as it is not damaged; it has said itself that it is."""
        follower = self.report.followers.get(replica)
        damaged = replica == self.report.leader or (follower is not None and follower.damaged)
        return damaged and self.answers(replica) and self.report.good(replica)

    def next(self) -> Next:
        """See ``next_step``."""
        if not self.report.committed:
            return Next(waits="its last change is not committed yet")
        members = self.report.members
        gone = [one for one in self.going if one not in members]
        strangers = [one for one in self.report.learners if one not in self.wanted]
        if gone or strangers:
            return self._step(StepKind.FORGET, gone[0]) if gone else self._step(StepKind.REMOVE, strangers[0])
        leaves = self._one_of(one for one in self.unwanted if one in self.lost)
        if leaves.step is not None:
            return leaves
        taken = {one[0] for one in self.unwanted if self.answers(one)}
        missing = [one for one in self.wanted if one not in members and one[0] not in taken]
        if self.report.learners:
            return self._learn(self.report.learners[0], missing, taken)
        more, last = len(self.report.voters) > len(self.wanted), bool(taken) and not missing
        if more or last:
            leaves = self._one_of([one for one in self.unwanted if more or self.answers(one)], last=last)
        if leaves.step is not None:
            return leaves
        return self._add(missing, leaves.waits, held_up=leaves.held_up)

    def _one_of(self, leaving: Iterable[Replica], *, last: bool = False) -> Next:
        """The first that may leave; if none may, what the first one waits for."""
        found = [self._leave(one, last=last) for one in leaving]
        return next((one for one in found if one.step is not None), found[0] if found else Next())

    def _learn(self, learner: Replica, missing: list[Replica], taken: set[int]) -> Next:
        if self.good(learner):
            return self._step(StepKind.PROMOTE, learner)
        if learner[0] in taken:
            return self._step(StepKind.REMOVE, learner)
        if learner[0] in self.up:
            return Next(waits=f"node {learner[0]} catches up")
        if any(node in self.up for node, _ in missing):
            # It would hold up one that can go on. It keeps what it has, and is added again when it is back.
            return self._step(StepKind.REMOVE, learner)
        return Next(waits=f"node {learner[0]} is down", held_up=True)

    def _add(self, missing: list[Replica], waits: str, *, held_up: bool) -> Next:
        ready = [one for one in missing if one[0] in self.up]
        if ready:
            return self._step(StepKind.ADD, ready[0])
        if missing and not waits:
            return Next(waits=f"node {missing[0][0]} is down", held_up=True)
        return Next(waits=waits, held_up=held_up)

    def _leave(self, leaving: Replica, *, last: bool = False) -> Next:
        """Take out a voter that is not wanted, if the others are enough without it; ``last``: nobody else is to come."""
        remaining = [one for one in self.report.voters if one != leaving]
        good = [one for one in remaining if self.good(one)]
        voting = len(good) + sum(map(self.votes, remaining))
        if self.answers(leaving):
            enough = last or len(good) >= len(self.wanted) or 2 * len(good) > len(self.report.voters)
        else:
            enough = len(good) >= len(self.wanted) or not self.good(leaving)
        only_damaged = not good and (leaving not in self.lost or self.answers(leaving))
        if not enough or only_damaged or 2 * voting <= len(remaining):
            others = [one for one in (*remaining, *self.wanted) if one not in good and one[0] != leaving[0]]
            behind = next(iter(others), leaving)
            down = behind[0] not in self.up or behind == leaving
            return Next(waits=f"node {behind[0]} has to catch up before node {leaving[0]} may go", held_up=down)
        if leaving != self.report.leader:
            return self._step(StepKind.REMOVE, leaving)
        heirs = [one for one in self.wanted if one in self.report.voters and self.good(one)]
        heir = next(iter(heirs or (good if leaving in self.lost else ())), None)
        if heir is None:
            return Next(waits=f"node {leaving[0]} leads, and no other node has caught up to take over")
        return self._step(StepKind.TRANSFER, heir)

    def _step(self, kind: StepKind, replica: Replica) -> Next:
        report = self.report
        return Next(step=Step(kind=kind, group=report.group, replica=replica, leader=report.leader, term=report.term))
