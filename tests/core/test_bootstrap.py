"""A cluster begins once, whatever is delivered, lost, crashed or wiped on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftlog.core.bootstrap import Bootstrap, Effect, FounderState, Persist, SendSeed, Told
from raftlog.core.features import FIRST_VERSION, Supported
from raftlog.errors import BootstrapRefusedError, JoinRequiredError, UnavailableError

# ---- The model: nodes with disks, and connections that may break at any message. A connection is one of links' kind: each end
# sends its Hello at once, answers the other's with a Welcome or a refusal, and is up when it has accepted and been accepted.


@dataclass(frozen=True)
class Hello:
    """What a node says of itself when the connection is made; it may be old when it arrives."""

    state: FounderState
    cluster_id: str
    founders: tuple[int, ...]
    supported: Supported
    level: int


@dataclass(frozen=True)
class Welcome:
    accepted: bool


@dataclass
class End:
    """One node's end of a connection."""

    peer: int
    inbox: deque[Hello | Welcome | SendSeed] = field(default_factory=deque)
    other: End | None = None
    heard: Hello | None = None
    accepted_us: bool = False
    up: bool = False


@dataclass
class Node:
    supported: Supported = FIRST_VERSION
    """What its version understands."""
    cluster_id: str | None = None
    """On disk."""
    level: int = 1
    """On disk."""
    sealed: bool = False
    """On disk."""
    process: Bootstrap | None = None
    ends: list[End] = field(default_factory=list)
    wiped: bool = False
    """Its disk was wiped, and it was told nothing since."""
    wiped_late: bool = False
    """Its disk was wiped, and another node is sealed: it must not come back as the member that it was."""

    def link(self, peer: int) -> End | None:
        return next((end for end in self.ends if end.peer == peer and end.up), None)


class World:
    def __init__(self, levels: Sequence[int]) -> None:
        self.founders = tuple(range(1, len(levels) + 1))
        self.nodes = {node_id: Node(Supported(1, high)) for node_id, high in enumerate(levels, start=1)}
        self.newest = min(levels)
        """The newest level that all founders support."""
        self._ids = count(1)
        for node_id in self.founders:
            self.start(node_id)

    def start(self, node_id: int, founders: tuple[int, ...] = ()) -> None:
        node = self.nodes[node_id]
        if node.process is None:
            node.process = Bootstrap(
                node_id,
                founders or self.founders,
                cluster_id=node.cluster_id,
                sealed=node.sealed,
                mint=lambda: f"cluster-{next(self._ids)}",
                supported=node.supported,
                level=node.level,
            )
            self._perform(node_id, node.process.begin())

    def crash(self, node_id: int) -> None:
        """Its ends are gone; the others' stay, as after a power cut, until they notice."""
        node = self.nodes[node_id]
        node.process = None
        for end in node.ends:
            if end.other is not None:
                end.other.other = None
        node.ends = []

    def wipe(self, node_id: int) -> None:
        """Crash, and lose the disk; never the last disk that is sealed, for then nobody could know."""
        node = self.nodes[node_id]
        others_sealed = any(other.sealed for other in self.nodes.values() if other is not node)
        if node.sealed and not others_sealed:
            return
        self.crash(node_id)
        node.wiped, node.wiped_late = True, node.wiped_late or others_sealed
        node.cluster_id, node.level, node.sealed = None, 1, False

    def connect(self, a: int, b: int) -> None:
        one, two = self.nodes[a], self.nodes[b]
        if one.process is None or two.process is None:
            return
        if any(end.peer == b and end.other is not None for end in one.ends):
            return  # the dialling node keeps one connection
        here, there = End(b), End(a)
        here.other, there.other = there, here
        one.ends.append(here)
        two.ends.append(there)
        here.inbox.append(self._hello(two, two.process))
        there.inbox.append(self._hello(one, one.process))

    def notice(self, node_id: int) -> None:
        """The node finds out which of its connections are dead."""
        for end in [end for end in self.nodes[node_id].ends if end.other is None]:
            self._close(node_id, end)

    def cut(self, node_id: int, peer: int) -> None:
        """Both ends of a connection go down; what was in flight is lost."""
        for end in [end for end in self.nodes[node_id].ends if end.peer == peer]:
            other = end.other
            self._close(node_id, end)
            if other is not None:
                self._close(peer, other)

    def deliver(self, node_id: int, peer: int) -> bool:
        """One message of a connection; whether there was any."""
        for end in self.nodes[node_id].ends:
            if end.peer == peer and end.inbox:
                self._receive(node_id, end, end.inbox.popleft())
                return True
        return False

    def settle(self) -> None:
        """Everybody is up who can be, connects, and hears everything."""
        for node_id in self.founders:
            self.start(node_id)
        for _ in range(2):  # the second time all connections are fresh
            for a, b in combinations(self.founders, 2):
                self.cut(a, b)
            for node_id in self.founders:
                self.notice(node_id)
            for a, b in combinations(self.founders, 2):
                self.connect(b, a)
            while sum(self.deliver(a, b) for a in self.founders for b in self.founders):
                pass

    def sealed_ids(self) -> set[str | None]:
        return {node.cluster_id for node in self.nodes.values() if node.sealed}

    def _hello(self, node: Node, process: Bootstrap) -> Hello:
        return Hello(process.state, process.cluster_id or "", process.founders, node.supported, node.level)

    def _send(self, end: End, message: Welcome | SendSeed) -> None:
        if end.other is not None:
            end.other.inbox.append(message)

    def _receive(self, node_id: int, end: End, message: Hello | Welcome | SendSeed) -> None:
        node = self.nodes[node_id]
        process = node.process
        assert process is not None
        if isinstance(message, Hello):
            if process.comes_late(message.state):
                self._send(end, Welcome(False))
                assert process.join()
                return
            try:
                process.check(end.peer, message.state, message.cluster_id, message.founders)
            except (BootstrapRefusedError, UnavailableError):
                self._send(end, Welcome(False))
                return
            end.heard = message
            self._send(end, Welcome(True))
        elif isinstance(message, Welcome) and not message.accepted:
            if process.state is FounderState.EMPTY and any(other.sealed for other in self.nodes.values()):
                assert process.join()
            self._close(node_id, end)
        elif isinstance(message, Welcome):
            end.accepted_us = True
        else:
            self._perform(node_id, process.seed(end.peer, message.cluster_id, message.sealed, message.level))
        if not end.up and end.accepted_us and end.heard is not None and end in node.ends:
            self._up(node_id, end, end.heard)

    def _up(self, node_id: int, end: End, heard: Hello) -> None:
        node = self.nodes[node_id]
        older = node.link(end.peer)
        if older is not None:
            self._close(node_id, older)
        end.up = True
        assert node.process is not None
        told = Told(heard.state, heard.cluster_id, heard.supported, heard.level)
        self._perform(node_id, node.process.linked(end.peer, told))

    def _close(self, node_id: int, end: End) -> None:
        node = self.nodes[node_id]
        if end not in node.ends:
            return
        node.ends.remove(end)
        if end.other is not None:
            end.other.other = None
        if end.up and node.process is not None:
            node.process.unlinked(end.peer)

    def _perform(self, node_id: int, effects: Sequence[Effect]) -> None:
        node = self.nodes[node_id]
        for effect in effects:
            if isinstance(effect, Persist):
                assert node.cluster_id in (None, effect.cluster_id), "a cluster id on disk is never replaced"
                assert not (effect.sealed and node.wiped_late), "a wiped founder sealed again"
                if effect.sealed and not self.sealed_ids():
                    self._check_first_seal(node_id, effect.cluster_id)
                assert effect.level == self.newest, "a cluster begins at the newest level that all founders support"
                node.cluster_id, node.level = effect.cluster_id, effect.level
                node.sealed, node.wiped = effect.sealed, False
            else:
                assert node.cluster_id == effect.cluster_id, "sent before it was persisted"
                assert not effect.sealed or node.sealed, "sent before it was persisted"
                link = node.link(effect.node_id)
                if link is not None:
                    self._send(link, effect)
        assert len(self.sealed_ids()) <= 1, "two clusters out of one"

    def _check_first_seal(self, node_id: int, cluster_id: str) -> None:
        """All founders have the id on disk; or lost it since, without the sealing node being able to know."""
        for other_id, other in self.nodes.items():
            if other_id != node_id and other.cluster_id != cluster_id:
                link = self.nodes[node_id].link(other_id)
                assert other.wiped, "sealed before all founders had the cluster id"
                assert link is not None, "sealed without a link to all founders"
                assert link.other is None, "counted the answer of an older link"
                other.wiped_late = True


LEVELS = st.integers(1, 3)
NUMBERS = st.integers(min_value=1, max_value=5)
MESSAGES = st.tuples(st.just("deliver"), NUMBERS, NUMBERS)
LINKS = st.tuples(st.sampled_from(["connect", "connect", "cut"]), NUMBERS, NUMBERS)
LIVES = st.tuples(st.sampled_from(["crash", "start", "start", "notice"]), NUMBERS, st.just(0))
WIPES = st.tuples(st.just("wipe"), NUMBERS, st.just(0))
FIRST_BLOWS = st.tuples(st.sampled_from(["cut", "crash", "wipe"]), NUMBERS, NUMBERS)


def play(world: World, steps: Sequence[tuple[str, int, int]]) -> None:
    """Perform the steps that make sense in this world."""
    for name, first, second in steps:
        a, b = (number % len(world.founders) + 1 for number in (first, second))
        if name in ("connect", "cut", "deliver"):
            if a != b:
                {"connect": world.connect, "cut": world.cut, "deliver": world.deliver}[name](a, b)
        else:
            {"crash": world.crash, "start": world.start, "notice": world.notice, "wipe": world.wipe}[name](a)


def begun(world: World, deliveries: int) -> World:
    """Everybody connects, and hears so many messages in turn."""
    for a, b in combinations(world.founders, 2):
        world.connect(b, a)
    ways = [(a, b) for a in world.founders for b in world.founders if a != b]
    for step in range(deliveries if ways else 0):
        world.deliver(*ways[step % len(ways)])
    return world


@given(
    st.lists(LEVELS, min_size=1, max_size=5),
    st.integers(0, 60),
    st.lists(st.one_of(MESSAGES, MESSAGES, LINKS, LIVES), min_size=60, max_size=150),
)
@settings(max_examples=150)
def test_a_cluster_begins_once_whatever_breaks(levels: list[int], deliveries: int, steps: list[tuple[str, int, int]]) -> None:
    """Crashes and broken links in any order: one cluster id, and all are sealed once all are up, at the newest level that all
    of them support."""
    world = begun(World(levels), deliveries)
    play(world, steps)
    world.settle()
    assert all(node.sealed for node in world.nodes.values())
    assert len(world.sealed_ids()) == 1


@given(
    st.lists(LEVELS, min_size=2, max_size=5),
    st.integers(0, 60),
    FIRST_BLOWS,
    st.lists(st.one_of(MESSAGES, MESSAGES, LINKS, LIVES, WIPES), min_size=60, max_size=150),
)
@settings(max_examples=150)
def test_a_wiped_founder_never_seals_again(
    levels: list[int], deliveries: int, blow: tuple[str, int, int], steps: list[tuple[str, int, int]]
) -> None:
    """Disks are lost as well: who lost his when another was sealed has to join, and everybody else is sealed in the end."""
    world = begun(World(levels), deliveries)
    play(world, [blow, *steps])
    sealed_before = world.sealed_ids()
    world.settle()
    for node in world.nodes.values():
        if node.wiped_late:
            assert not node.sealed
            assert node.process is not None
            assert node.process.joining
    if not any(node.wiped_late for node in world.nodes.values()):
        assert all(node.sealed for node in world.nodes.values())
    assert sealed_before <= world.sealed_ids()


# ---- One fact at a time


def empty(node_id: int = 1, founders: tuple[int, ...] = (1, 2, 3)) -> Bootstrap:
    return Bootstrap(node_id, founders, cluster_id=None, sealed=False, mint=lambda: "c", supported=FIRST_VERSION)


def test_a_cluster_of_one_begins_by_itself() -> None:
    """It persists its id, then that it is sealed, and tells nobody."""
    one = empty(1, (1,))
    assert one.begin() == [Persist("c", False), Persist("c", True)]
    assert one.state is FounderState.SEALED


def test_nothing_begins_before_all_founders_are_linked() -> None:
    """Two of three are a majority, and not enough: the third might hold a cluster."""
    first = empty()
    assert first.begin() == []
    assert first.linked(2, Told(FounderState.EMPTY, "")) == []
    assert first.state is FounderState.EMPTY
    effects = first.linked(3, Told(FounderState.EMPTY, ""))
    assert effects == [Persist("c", False), SendSeed(2, "c", False), SendSeed(3, "c", False)]


def test_only_the_lowest_founder_begins() -> None:
    """Another waits to be told."""
    second = empty(2)
    assert second.linked(1, Told(FounderState.EMPTY, "")) == []
    assert second.linked(3, Told(FounderState.EMPTY, "")) == []
    assert second.seed(1, "c", False) == [Persist("c", False), SendSeed(1, "c", False)]
    assert second.seed(1, "c", True) == [Persist("c", True)]


def test_an_interrupted_beginning_goes_on_with_the_id_that_a_founder_has() -> None:
    """The first founder lost its disk after it had told one other: the id stays."""
    first = empty()
    first.linked(2, Told(FounderState.SEEDED, "old"))
    assert first.linked(3, Told(FounderState.EMPTY, ""))[0] == Persist("old", False)


def test_an_answer_of_a_link_that_broke_does_not_count() -> None:
    """Who answered and went away may have lost its disk since; it is asked again."""
    first = empty()
    first.linked(2, Told(FounderState.EMPTY, ""))
    first.linked(3, Told(FounderState.EMPTY, ""))
    assert first.seed(2, "c", False) == []
    first.unlinked(2)
    assert first.seed(3, "c", False) == []
    assert not first.sealed
    assert SendSeed(2, "c", False) in first.linked(2, Told(FounderState.SEEDED, "c"))
    assert first.seed(2, "c", False)[0] == Persist("c", True)


def test_a_seeded_founder_that_missed_the_end_seals_at_a_sealed_one() -> None:
    """It need not be the first founder that says so."""
    third = Bootstrap(3, (1, 2, 3), cluster_id="c", sealed=False, mint=lambda: "x")
    assert third.linked(2, Told(FounderState.SEALED, "c")) == [Persist("c", True)]


def test_different_lists_of_founders_are_refused_while_the_cluster_begins() -> None:
    """The message names both lists; a sealed cluster does not look any more."""
    with pytest.raises(BootstrapRefusedError, match=r"--voters of nodes 1, 2, 3, node 2 with 1, 2;"):
        empty().check(2, FounderState.EMPTY, "", (1, 2))
    sealed = Bootstrap(1, (1, 2, 3), cluster_id="c", sealed=True, mint=lambda: "x")
    sealed.check(2, FounderState.SEALED, "c", (1, 2))


def test_a_node_of_another_cluster_is_refused() -> None:
    """In its Hello, and in its Seed."""
    seeded = Bootstrap(2, (1, 2, 3), cluster_id="c", sealed=False, mint=lambda: "x")
    with pytest.raises(BootstrapRefusedError, match="belongs to cluster c, node 1 to cluster d"):
        seeded.check(1, FounderState.SEEDED, "d", (1, 2, 3))
    with pytest.raises(BootstrapRefusedError, match="seeds cluster d"):
        seeded.seed(1, "d", False)


def test_a_founder_without_its_data_has_to_join() -> None:
    """Both sides know: the sealed one refuses it, and it founds nothing itself."""
    sealed = Bootstrap(1, (1, 2, 3), cluster_id="c", sealed=True, mint=lambda: "x")
    with pytest.raises(JoinRequiredError, match="cluster c has begun, and node 2 has no data"):
        sealed.check(2, FounderState.EMPTY, "", (1, 2, 3))
    late = empty(2)
    assert late.comes_late(FounderState.SEALED)
    assert not late.comes_late(FounderState.SEEDED)
    assert late.join()
    assert late.seed(1, "c", False) == []
    with pytest.raises(UnavailableError):
        late.check(1, FounderState.SEEDED, "c", (1, 2, 3))
    late.joined("c")
    assert (late.state, late.cluster_id, late.founders) == (FounderState.SEALED, "c", ())


def test_a_founder_that_joins_begins_nothing() -> None:
    """Not even the first one, with all others linked."""
    first = empty()
    first.linked(2, Told(FounderState.EMPTY, ""))
    assert first.join()
    assert first.linked(3, Told(FounderState.EMPTY, "")) == []
    assert first.begin() == []


def test_who_has_the_clusters_id_does_not_join() -> None:
    """A seeded founder has lost nothing, and is sealed by whoever is."""
    second = empty(2)
    second.seed(1, "c", False)
    assert not second.join()
    assert second.state is FounderState.SEEDED


def test_a_cluster_begins_at_the_newest_level_that_all_founders_support() -> None:
    """The first founder, which decides it, says it in its Seed; one of the first version says nothing, and supports the first."""
    first = Bootstrap(1, (1, 2, 3), cluster_id=None, sealed=False, mint=lambda: "c", supported=Supported(1, 3))
    first.linked(2, Told(FounderState.EMPTY, "", Supported(1, 2)))
    begun = first.linked(3, Told(FounderState.EMPTY, "", Supported(1, 4)))
    assert begun == [Persist("c", False, 2), SendSeed(2, "c", False, 2), SendSeed(3, "c", False, 2)]
    second = Bootstrap(2, (1, 2, 3), cluster_id=None, sealed=False, mint=lambda: "x", supported=Supported(1, 2))
    assert second.seed(1, "c", False, 2) == [Persist("c", False, 2), SendSeed(1, "c", False, 2)]
    assert second.seed(1, "c", True, 2) == [Persist("c", True, 2)]


def test_a_level_that_a_founder_was_told_stays_with_the_clusters_id() -> None:
    """The first founder lost its disk and comes back by a newer version: the cluster has begun at the level before."""
    first = Bootstrap(1, (1, 2), cluster_id=None, sealed=False, mint=lambda: "c", supported=Supported(1, 3))
    told = Told(FounderState.SEEDED, "old", Supported(1, 3), 2)
    assert first.linked(2, told) == [Persist("old", False, 2), SendSeed(2, "old", False, 2)]
    again = Bootstrap(2, (1, 2), cluster_id="old", sealed=False, mint=lambda: "x", level=2)
    assert again.linked(1, Told(FounderState.SEALED, "old")) == [Persist("old", True, 2)]
