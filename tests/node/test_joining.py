"""Whatever crashes, is wiped or comes back old: no disk ever votes under a name that has acknowledged more than it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftlog.core.features import NEWEST
from raftlog.core.joining import REFUSED_PATIENCE_S, Patience, Way, way_in
from raftlog.core.metadata import JOIN_ID_BYTES, MetadataState
from raftlog.errors import (
    BootstrapRefusedError,
    IndeterminateError,
    JoinRefusedError,
    LeaderNotAvailableError,
    NodeIdTakenError,
    NodeRemovedError,
    RaftlogError,
    UnavailableError,
    WrongNodeError,
)
from raftlog.node.gate import IdentityGate
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb
from raftlog.storage import identity as identities
from raftlog.storage.identity import Identity

CLUSTER = "c"
FOUNDERS = {1: "n1:1", 2: "n2:1", 3: "n3:1"}
NODES = (1, 4)
"""A founder, and one that joins. What is tried here concerns one node alone."""
OBSERVERS = (8, 9)
"""Its peers: what one of them has seen, the other may not know."""


@dataclass
class Disk:
    """A data directory: the identity, and what was acknowledged by the log beside it."""

    identity: Identity | None = None
    acks: Counter[tuple[int, int]] = field(default_factory=Counter)

    def copy(self) -> Disk:
        return Disk(self.identity, Counter(self.acks))


class Crash(Exception):
    """The process is gone."""


class Directory:
    """``IdentityDirectory`` of one process; ``crash`` ends it at the next update: before it, or after."""

    def __init__(self, disk: Disk, node_id: int, nonce: str, voters: dict[int, str]) -> None:
        self.disk = disk
        self.crash: str | None = None
        self.identity = disk.identity or Identity(node_id=node_id)
        if self.identity.damaged:
            disk.acks.clear()
            self.update(damaged="", rejoin=self.identity.damaged, sealed=False)
        self.update(**identities.start(self.identity, boot_nonce=nonce, voters=voters))

    def update(self, **changes: Any) -> None:
        if self.crash == "before":
            raise Crash
        self.identity = self.disk.identity = replace(self.identity, **changes)
        if self.crash == "after":
            raise Crash


class Process:
    """One process of a node, from its start to its end."""

    def __init__(self, world: World, node_id: int, disk: Disk | None = None) -> None:
        voters = FOUNDERS if node_id in FOUNDERS else {}
        self.node_id = node_id
        self.directory = Directory(disk or world.disks[node_id], node_id, f"{next(world.numbers)}", voters)
        self.failed: list[RaftlogError] = []
        self.gate = IdentityGate(
            self.directory, voters, rng=Random(node_id), send=lambda *_: None, fail=self.failed.append,
            peers=voters, told_to_join=not voters,
        )  # fmt: skip
        self.join_id = next(world.numbers).to_bytes(JOIN_ID_BYTES)
        self.answer: int | None = None
        """The incarnation that group 0 has given it, on its way."""
        self.admitted = False
        self.gate.begin()

    @property
    def member(self) -> tuple[int, int] | None:
        """Its name in group 0, once it may speak."""
        return (self.node_id, self.directory.identity.incarnation) if self.gate.sealed.is_set() else None


class World:
    """Nodes with disks, group 0 as if it were one place, and peers that have seen whom they let in."""

    def __init__(self) -> None:
        self.numbers = count(1)
        sealed = Identity(node_id=0, cluster_id=CLUSTER, sealed=True, voters=FOUNDERS, level=NEWEST)
        self.disks = {n: Disk(replace(sealed, node_id=n) if n in FOUNDERS else None) for n in NODES}
        self.backups: list[tuple[int, Disk]] = []
        self.processes: dict[int, Process] = {}
        self.state = MetadataState()
        self.state.apply(next(self.numbers), pb.MetadataCommand(raise_level=pb.RaiseLevel(level=NEWEST)))
        self.acks: Counter[tuple[int, int]] = Counter()
        self.observers = [
            Process(self, node_id, Disk(replace(sealed, node_id=node_id, cluster_id=CLUSTER))) for node_id in OBSERVERS
        ]
        for node_id in NODES:
            self.start(node_id)

    def start(self, node_id: int) -> None:
        if node_id not in self.processes:
            self.processes[node_id] = Process(self, node_id)

    def crash(self, node_id: int) -> None:
        self.processes.pop(node_id, None)

    def wipe(self, node_id: int) -> None:
        """Any of them, one at a time: who counts majorities has tests of his own."""
        self.crash(node_id)
        self.disks[node_id] = Disk()

    def backup(self, node_id: int) -> None:
        self.backups.append((node_id, self.disks[node_id].copy()))

    def restore(self, node_id: int) -> None:
        """The oldest copy that somebody can know to be old comes back."""
        for kept in self.backups:
            if kept[0] == node_id and self._known_to_be_old(node_id, kept[1].identity):
                self.crash(node_id)
                self.disks[node_id] = kept[1].copy()
                self.backups.remove(kept)
                return

    def _known_to_be_old(self, node_id: int, kept: Identity | None) -> bool:
        """What was copied and put back between two starts is not known to be old, and is not promised to be."""
        if kept is None or not kept.sealed:
            return True
        seen = [one.directory.identity.peers_seen.get(node_id, (0, 0, "")) for one in self.observers]
        return all(start[:2] > (kept.incarnation, kept.boot_number) for start in seen)

    def ask(self, node_id: int) -> None:
        """A joining process has its join committed; the answer is on its way, and may be lost with it."""
        process = self.processes.get(node_id)
        if process is None or process.gate.sealed.is_set():
            return
        if process.gate.way is Way.FOUND:
            process.gate.late.set()
        assert process.gate.join()
        add = pb.AddNode(node=pb.RegisterNode(node_id=node_id, level_max=NEWEST), join_id=process.join_id)
        effects = self.state.apply(next(self.numbers), pb.MetadataCommand(add_node=add))
        assert effects.error is None
        process.answer = effects.incarnation

    def answered(self, node_id: int, how: str) -> None:
        """It gets the answer, and persists it; it may die on the way."""
        process = self.processes.get(node_id)
        if process is None or process.answer is None or process.gate.sealed.is_set():
            return
        process.directory.crash = how if how != "whole" else None
        try:
            process.gate.joined(CLUSTER, process.answer, FOUNDERS, NEWEST)
        except Crash:
            self.crash(node_id)
        process.directory.crash = None

    def admit(self, node_id: int, number: int) -> None:
        """It meets a peer; told that it is old, it marks its disk and ends."""
        process, observer = self.processes.get(node_id), self.observers[number]
        if process is None or process.member is None:
            return
        try:
            _run(observer.gate.admit(process.gate.hello()))
            process.admitted = True
        except RaftlogError as error:
            process.gate.refused(observer.node_id, error.reason, str(error))
            assert process.failed
            self.crash(node_id)

    def learn(self, _: int) -> None:
        """A peer applies the metadata."""
        self.observers[0].gate.set_nodes(self.state.nodes | self.state.removed)

    def vote(self, node_id: int) -> None:
        """It acknowledges, if it can."""
        process = self.processes.get(node_id)
        if process is None or process.member is None or not process.admitted:
            return
        held = process.directory.disk.acks[process.member]
        assert held == self.acks[process.member], f"{process.member} has acknowledged more than this disk holds"
        process.directory.disk.acks[process.member] += 1
        self.acks[process.member] += 1


def _run(work: Coroutine[Any, Any, None]) -> None:
    """The gate awaits nothing."""
    with pytest.raises(StopIteration):
        work.send(None)


STEPS = st.one_of(
    st.tuples(st.just("live"), st.sampled_from(NODES)),
    st.tuples(st.sampled_from(["start", "start", "ask", "admit:0", "admit:1", "vote", "vote", "learn"]), st.sampled_from(NODES)),
    st.tuples(st.sampled_from(["crash", "wipe", "backup", "restore"]), st.sampled_from(NODES)),
    st.tuples(st.sampled_from(["answered:whole", "answered:whole", "answered:before", "answered:after"]), st.sampled_from(NODES)),
)
LIVES = ("start", "ask", "answered:whole", "admit:0", "vote", "admit:1", "vote")


def play(world: World, steps: Sequence[tuple[str, int]]) -> None:
    for name, node_id in steps:
        verb, _, how = name.partition(":")
        if verb == "live":
            play(world, [(step, node_id) for step in LIVES])
        elif verb == "answered":
            world.answered(node_id, how)
        elif verb == "admit":
            world.admit(node_id, int(how))
        else:
            {
                "start": world.start, "ask": world.ask, "vote": world.vote, "learn": world.learn,
                "crash": world.crash, "wipe": world.wipe, "backup": world.backup, "restore": world.restore,
            }[verb](node_id)  # fmt: skip


@given(st.lists(STEPS, min_size=20, max_size=120))
@settings(max_examples=300)
def test_no_disk_votes_under_a_name_that_has_acknowledged_more(steps: list[tuple[str, int]]) -> None:
    """Crashes at any step of a join, wiped disks, old copies; and in the end everybody is a member and votes."""
    world = World()
    play(world, steps)
    for _ in range(2):  # an old copy is told so, and is back as another one
        play(world, [("live", node_id) for node_id in NODES])
    assert all(world.processes[node_id].admitted for node_id in NODES)


def test_a_wiped_founder_and_a_new_node_come_by_another_incarnation() -> None:
    """Never 1, which a founder has that may not have registered; each wipe gives the next one."""
    world = World()
    assert world.processes[1].member == (1, 1)
    world.wipe(1)
    play(world, [("live", 1), ("live", 4)])
    assert (world.processes[1].member, world.processes[4].member) == ((1, 2), (4, 2))
    world.wipe(4)
    play(world, [("live", 4)])
    assert world.processes[4].member == (4, 3)


def test_a_join_that_is_asked_again_gives_the_same_incarnation_to_the_same_process_alone() -> None:
    """The answer was lost; the next process asks for another."""
    world = World()
    for _ in range(2):
        world.ask(4)
        assert world.processes[4].answer == 2
    world.answered(4, "before")
    play(world, [("start", 4), ("ask", 4), ("answered:after", 4), ("start", 4)])
    assert world.processes[4].member == (4, 3)


@pytest.mark.parametrize(
    ("facts", "way"),
    [
        ((True, CLUSTER, False, True), Way.MEMBER),
        ((True, CLUSTER, False, False), Way.MEMBER),
        ((False, None, False, False), Way.FOUND),
        ((False, CLUSTER, False, False), Way.FOUND),
        ((False, CLUSTER, False, True), Way.FOUND),
        ((False, None, False, True), Way.JOIN),
        ((False, None, True, False), Way.JOIN),
        ((False, CLUSTER, True, False), Way.JOIN),
    ],
)
def test_a_node_founds_joins_or_is_a_member(facts: tuple[bool, str | None, bool, bool], way: Way) -> None:
    """``--join`` is ignored by members and by founders that have the cluster's id; an emptied directory never founds."""
    sealed, cluster_id, emptied, told = facts
    assert way_in(sealed=sealed, cluster_id=cluster_id, emptied=emptied, told_to_join=told) is way


def test_a_node_asks_on_while_that_may_help() -> None:
    """For ever while nobody leads; for a while where its id is taken or the door is wrong; not where it is refused."""
    patience = Patience()
    for passing in (UnavailableError("x"), LeaderNotAvailableError("x"), IndeterminateError("x")):
        assert not patience.gives_up(passing, 1e9)
    for final in (JoinRefusedError("x"), NodeRemovedError("x")):
        assert patience.gives_up(final, 0.0)
    for number, wrong in enumerate((NodeIdTakenError("x"), WrongNodeError("x"), BootstrapRefusedError("x"))):
        assert not patience.gives_up(wrong, number)
    assert patience.gives_up(NodeIdTakenError("x"), REFUSED_PATIENCE_S)
