"""Who may talk to this node: old copies, wiped disks and strangers are refused, and what is promised is on disk first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from raftlog.core.features import FIRST_VERSION, THIS_VERSION, Supported
from raftlog.core.joining import Way
from raftlog.errors import (
    BootstrapRefusedError,
    FeatureLevelError,
    JoinRequiredError,
    NewerFormatError,
    NodeRemovedError,
    RaftlogError,
    StaleDataDirectoryError,
    UnavailableError,
)
from raftlog.model import NodeInfo, NodeStatus
from raftlog.node.gate import IdentityGate
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.peers.frame import HANDSHAKE_FRAME_BYTES_MAX
from raftlog.storage.data_directory import DataDirectory
from raftlog.storage.environment import DATA_FILE, LOG_DIR
from raftlog.storage.identity import PAST_BOOTS_KEPT, declare_lost

FOUNDERS = {1: "127.0.0.1:1", 2: "127.0.0.1:2", 3: "127.0.0.1:3"}


class Door:
    """A gate with its directory, what it sent, and what it failed with."""

    def __init__(self, path: Path, node_id: int, founders: dict[int, str], nonce: str, supported: Supported) -> None:
        self.sent: list[tuple[int, pb.Seed]] = []
        self.failed: list[RaftlogError] = []
        self.cut: list[int] = []
        self.directory = DataDirectory.open(path, node_id=node_id, boot_nonce=nonce, voters=founders)
        self.gate = IdentityGate(
            self.directory, founders, rng=Random(node_id), send=self._send, fail=self.failed.append, peers=FOUNDERS,
            supported=supported, cut=lambda node_id, _: self.cut.append(node_id),
        )  # fmt: skip
        (path / LOG_DIR).mkdir(exist_ok=True)
        (path / LOG_DIR / DATA_FILE).write_bytes(b"a member without a log is refused")

    def _send(self, node_id: int, turn: pb.Turn) -> None:
        self.sent.append((node_id, turn.seed))


Opened = Callable[..., Door]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Open the gate of a node over its directory; the last one of the same directory is closed."""
    doors: dict[Path, Door] = {}

    def open_door(
        node_id: int = 1, founders: dict[int, str] = FOUNDERS, *, nonce: str = "n", path: Path | None = None,
        supported: Supported = THIS_VERSION,
    ) -> Door:  # fmt: skip
        path = path or tmp_path / f"node-{node_id}"
        if path in doors:
            doors[path].directory.close()
        doors[path] = Door(path, node_id, founders, nonce, supported)
        return doors[path]

    yield open_door
    for door in doors.values():
        door.directory.close()


def hello(
    node_id: int = 2,
    boot: int = 1,
    nonce: str = "a",
    *,
    past: tuple[tuple[int, str], ...] = (),
    state: int = pb.NODE_STATE_EMPTY,
    cluster_id: str = "",
    incarnation: int = 0,
) -> pb.Hello:
    """A peer's Hello."""
    return pb.Hello(
        node_id=node_id,
        boot_number=boot,
        boot_nonce=nonce,
        past_boots=[pb.Boot(number=number, nonce=one) for number, one in past],
        state=pb.NodeState.ValueType(state),
        cluster_id=cluster_id,
        voters=[1, 2, 3],
        level_max=THIS_VERSION.high,
        incarnation=incarnation,
    )


def seeded(**facts: Any) -> pb.Hello:
    """The Hello of a founder that has the cluster's id."""
    return hello(state=pb.NODE_STATE_SEEDED, cluster_id="c", **facts)


async def introduce(one: Door, other: Door) -> None:
    """A link between two gates comes up."""
    mine, its = one.gate.hello(), other.gate.hello()
    await one.gate.admit(its)
    await other.gate.admit(mine)
    one.gate.on_connected(its.node_id)
    other.gate.on_connected(mine.node_id)


def exchange(*doors: Door) -> None:
    """Deliver what the gates send each other, until nothing is left."""
    by_id = {door.gate.hello().node_id: door for door in doors}
    while any(door.sent for door in doors):
        for node_id, door in by_id.items():
            sent, door.sent = door.sent, []
            for to, seed in sent:
                by_id[to].gate.on_seed(node_id, seed)


async def test_three_gates_begin_a_cluster_and_remember_it(opened: Opened) -> None:
    """All are sealed with one id, on disk; at the next start each is at once."""
    doors = [opened(n) for n in (1, 2, 3)]
    for door in doors:
        door.gate.begin()
    await introduce(doors[0], doors[1])
    await introduce(doors[1], doors[2])
    assert not doors[0].gate.cluster_id
    await introduce(doors[0], doors[2])
    exchange(*doors)
    cluster_id = doors[0].gate.cluster_id
    for door in doors:
        assert door.gate.sealed.is_set()
        assert (door.directory.identity.cluster_id, door.directory.identity.sealed) == (cluster_id, True)
    again = opened(2)
    again.gate.begin()
    assert again.gate.sealed.is_set()
    assert (again.gate.hello().state, again.gate.hello().cluster_id) == (pb.NODE_STATE_SEALED, cluster_id)
    assert not any(door.failed for door in doors)


async def test_a_cluster_of_one_begins_at_once(opened: Opened) -> None:
    """It needs nobody."""
    door = opened(1, {1: "127.0.0.1:1"})
    door.gate.begin()
    assert door.gate.sealed.is_set()


async def test_a_start_is_on_disk_before_its_peer_is_admitted(opened: Opened) -> None:
    """With its nonce; an earlier one is refused from then on, also after a restart."""
    door = opened()
    await door.gate.admit(seeded(boot=7, nonce="g"))
    assert door.directory.identity.peers_seen == {2: (1, 7, "g")}
    await door.gate.admit(seeded(boot=7, nonce="g"))
    with pytest.raises(StaleDataDirectoryError, match="comes with boot number 6"):
        await opened().gate.admit(seeded(boot=6, nonce="f"))


async def test_a_copy_with_the_same_number_is_refused(opened: Opened) -> None:
    """Its nonce is another."""
    door = opened()
    await door.gate.admit(seeded(boot=7, nonce="g"))
    with pytest.raises(StaleDataDirectoryError, match="an old copy of its data directory"):
        await door.gate.admit(seeded(boot=7, nonce="x"))


async def test_an_old_copy_is_refused_however_often_it_is_started(opened: Opened) -> None:
    """Its numbers pass those that were seen, but the starts that were seen are not its own."""
    door = opened()
    await door.gate.admit(hello(boot=7, nonce="g", past=((5, "e"), (6, "f"))))
    for boot in range(6, 20):
        past = ((5, "e"), *((number, f"x{number}") for number in range(6, boot)))
        with pytest.raises(StaleDataDirectoryError):
            await door.gate.admit(seeded(boot=boot, nonce=f"x{boot}", past=past))
    await door.gate.admit(seeded(boot=9, nonce="i", past=((6, "f"), (7, "g"), (8, "h"))))


async def test_a_peer_that_was_not_seen_for_long_is_admitted_by_its_number(opened: Opened) -> None:
    """Its Hello does not remember as far back."""
    door = opened()
    await door.gate.admit(hello(boot=7, nonce="g"))
    await door.gate.admit(hello(boot=300, nonce="z", past=((298, "x"), (299, "y"))))


async def test_a_real_copy_is_refused_by_the_peer(opened: Opened, tmp_path: Path) -> None:
    """Copied after its second start; the original was started once more and seen."""
    path = tmp_path / "original"
    first = opened(2, path=path, nonce="one").directory
    first.update(cluster_id="c")
    first.close()
    opened(2, path=path, nonce="two").directory.close()
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "node.identity").write_bytes((path / "node.identity").read_bytes())
    door = opened(1)
    await door.gate.admit(opened(2, path=path, nonce="three").gate.hello())
    for number in range(3):
        with pytest.raises(StaleDataDirectoryError):
            await door.gate.admit(opened(2, path=copy, nonce=f"copy-{number}").gate.hello())
    await door.gate.admit(opened(2, path=path, nonce="four").gate.hello())


async def test_a_disk_that_was_declared_lost_is_let_in_no_more(opened: Opened) -> None:
    """Whatever starts it had, seen or unseen; the node's next disk is let in as ever."""
    door = opened(1, {1: "127.0.0.1:1"})
    door.gate.begin()
    member = partial(hello, state=pb.NODE_STATE_SEALED, cluster_id=door.gate.cluster_id)
    await door.gate.admit(member(2, boot=7, nonce="g"))
    door.directory.update(peers_seen=declare_lost(door.directory.identity, {2: 1, 3: 4}).peers_seen)
    for number in (7, 8, 9_000):
        with pytest.raises(StaleDataDirectoryError, match="the disk of node 2 was declared lost for good"):
            await door.gate.admit(member(2, boot=number, nonce="g", past=((6, "f"),)))
    for incarnation, said in ((3, "with another disk since"), (4, "was declared lost for good")):
        with pytest.raises(StaleDataDirectoryError, match=said):
            await door.gate.admit(member(3, incarnation=incarnation))
    await door.gate.admit(member(2, incarnation=2))
    await door.gate.admit(member(3, incarnation=5))
    assert not door.failed


async def test_a_node_that_is_told_it_is_an_old_copy_ends_and_never_uses_its_data_again(opened: Opened) -> None:
    """Also where the peer that knows is down the next time: then it joins."""
    door = opened(2)
    door.gate.refused(1, "STALE_DATA_DIRECTORY", "this is an old copy")
    (failure,) = door.failed
    assert isinstance(failure, StaleDataDirectoryError)
    assert str(failure) == "this is an old copy (node 1 says so)"
    again = opened(2)
    assert again.directory.identity.rejoin == "this is an old copy (node 1 says so)"
    assert again.gate.way is Way.JOIN
    assert again.gate.hello().state == pb.NODE_STATE_EMPTY


async def test_a_wiped_founder_is_late_whoever_hears_of_whom_first(opened: Opened) -> None:
    """It meets a sealed peer's Hello, or the peer's refusal; it joins, and founds nothing any more."""
    met = opened(2)
    with pytest.raises(UnavailableError):
        await met.gate.admit(hello(1, state=pb.NODE_STATE_SEALED, cluster_id="c"))
    assert met.gate.late.is_set()
    told = opened(3)
    told.gate.refused(1, JoinRequiredError.reason, "it has no data")
    assert told.gate.late.is_set()
    assert told.gate.join()
    with pytest.raises(UnavailableError, match="is joining"):
        await told.gate.admit(hello(1))
    told.gate.on_seed(1, pb.Seed(cluster_id="c"))
    assert not told.gate.cluster_id
    told.gate.joined("c", 2, {1: "127.0.0.1:1"}, 2)
    assert told.gate.sealed.is_set()
    assert opened(3).gate.hello().incarnation == 2
    assert not met.failed + told.failed


async def test_a_founder_that_has_the_clusters_id_does_not_join(opened: Opened) -> None:
    """It lost nothing, for it never voted; who is sealed seals it."""
    door = opened(2)
    door.gate.on_seed(1, pb.Seed(cluster_id="c"))
    assert not door.gate.join()
    await door.gate.admit(hello(1, state=pb.NODE_STATE_SEALED, cluster_id="c"))
    door.gate.on_connected(1)
    assert door.gate.sealed.is_set()


async def test_a_sealed_node_lets_empty_ones_in_as_guests_alone(opened: Opened) -> None:
    """Whatever their id and their boots; one of another cluster is none of them, and an unsealed node has no guests."""
    door = opened(1, {1: "127.0.0.1:1"})
    with pytest.raises(UnavailableError, match="no member of a cluster yet"):
        await door.gate.admit(pb.Hello(node_id=2, join=True))
    door.gate.begin()
    with pytest.raises(JoinRequiredError, match="node 2 has no data"):
        await door.gate.admit(hello(2))
    before = door.directory.identity
    await door.gate.admit(pb.Hello(node_id=2, join=True))
    await door.gate.admit(pb.Hello(node_id=2, join=True, cluster_id=door.gate.cluster_id))
    with pytest.raises(BootstrapRefusedError, match="was part of cluster elsewhere"):
        await door.gate.admit(pb.Hello(node_id=2, join=True, cluster_id="elsewhere"))
    assert door.directory.identity == before


async def test_boots_are_counted_anew_for_the_next_disk(opened: Opened) -> None:
    """And the disk before is an old copy from then on, also where the metadata does not say so yet."""
    door = opened(1)
    await door.gate.admit(hello(boot=7, nonce="g"))
    second = seeded(boot=1, nonce="a")
    second.incarnation = 2
    await door.gate.admit(second)
    assert door.directory.identity.peers_seen == {2: (2, 1, "a")}
    with pytest.raises(StaleDataDirectoryError, match=r"with another disk since \(incarnation 2\)"):
        await door.gate.admit(seeded(boot=8, nonce="h", past=((7, "g"),)))


async def test_before_the_cluster_has_begun_an_emptied_founder_counts_its_starts_anew(opened: Opened) -> None:
    """It has promised nothing that could be broken, and without it the cluster would never begin."""
    door = opened(1)
    await door.gate.admit(seeded(boot=7, nonce="g"))
    await door.gate.admit(hello(boot=1, nonce="a"))
    await door.gate.admit(seeded(boot=2, nonce="b", past=((1, "a"),)))


async def test_what_the_metadata_says_of_a_node_counts(opened: Opened) -> None:
    """An earlier disk is an old copy, a removed node is refused by name, and those that are linked are named."""
    door = opened(1)
    await door.gate.admit(hello(2))
    await door.gate.admit(hello(3))
    there = NodeInfo(node_id=2, peer_address="", grpc_address="")
    removed = replace(there, node_id=3, status=NodeStatus.REMOVED)
    assert door.gate.set_nodes({2: there}) == []
    assert door.gate.set_nodes({2: replace(there, incarnation=2), 3: removed}) == [2, 3]
    with pytest.raises(StaleDataDirectoryError):
        await door.gate.admit(hello(2))
    with pytest.raises(NodeRemovedError, match="node 3 was removed from the cluster"):
        await door.gate.admit(hello(3))
    again = hello(3)
    again.incarnation = 2
    await door.gate.admit(again)


async def test_a_node_that_learns_what_became_of_it_ends(opened: Opened) -> None:
    """From its own metadata, or from a peer: removed, or superseded by its next disk."""
    own = NodeInfo(node_id=1, peer_address="", grpc_address="")
    ways: list[Callable[[Door], object]] = [
        lambda door: door.gate.set_nodes({1: replace(own, status=NodeStatus.REMOVED)}),
        lambda door: door.gate.refused(2, NodeRemovedError.reason, "removed"),
        lambda door: door.gate.set_nodes({1: replace(own, incarnation=2)}),
    ]
    for told in ways:
        door = opened(1, {1: "127.0.0.1:1"})
        door.gate.begin()
        told(door)
        (failure,) = door.failed
        assert isinstance(failure, NodeRemovedError | StaleDataDirectoryError)
        assert bool(door.directory.identity.damaged) == isinstance(failure, StaleDataDirectoryError)


async def test_a_refusal_that_may_be_the_peers_fault_ends_nobody(opened: Opened) -> None:
    """A sealed node goes on when another is refused; a wrong node in the way is no reason to end."""
    door = opened(1, {1: "127.0.0.1:1"})
    door.gate.begin()
    for reason in ("BOOTSTRAP_REFUSED", "WRONG_NODE", "UNSUPPORTED_VERSION", "", "no such reason"):
        door.gate.refused(2, reason, "no")
    assert door.failed == []


async def test_a_directory_of_another_cluster_ends_the_node(opened: Opened) -> None:
    """Once all nodes that it was told of belong to another one; a single stray peer ends nobody."""
    door = opened(1, {1: "127.0.0.1:1"})
    door.gate.begin()
    for times, stray in enumerate((2, 2, 7, 3)):
        assert not door.failed, times
        with pytest.raises(BootstrapRefusedError):
            await door.gate.admit(hello(stray, state=pb.NODE_STATE_SEALED, cluster_id="elsewhere"))
    assert "but the nodes that this one was told of (--voters) belong to cluster elsewhere" in str(door.failed[0])


async def test_a_node_that_met_its_own_cluster_is_not_astray(opened: Opened) -> None:
    """Whoever comes later."""
    door = opened(1, {1: "127.0.0.1:1"})
    door.gate.begin()
    await door.gate.admit(hello(2, state=pb.NODE_STATE_SEALED, cluster_id=door.gate.cluster_id))
    door.gate.on_connected(2)
    for stray in (2, 3):
        with pytest.raises(BootstrapRefusedError):
            await door.gate.admit(hello(stray, boot=2, state=pb.NODE_STATE_SEALED, cluster_id="elsewhere"))
    assert not door.failed


async def test_an_empty_node_that_meets_another_list_of_founders_ends(opened: Opened) -> None:
    """It need not hear so from the other one, who may have closed the connection first."""
    door = opened(1)
    other = hello(2)
    other.voters[:] = [1, 2]
    with pytest.raises(BootstrapRefusedError):
        await door.gate.admit(other)
    assert "start all founding nodes with the same --voters" in str(door.failed[0])


async def test_a_state_of_a_later_version_is_refused(opened: Opened) -> None:
    """Rather than taken for another one."""
    with pytest.raises(BootstrapRefusedError, match="a state that this version does not know"):
        await opened().gate.admit(hello(state=9))


async def test_a_seed_of_another_cluster_changes_nothing(opened: Opened) -> None:
    """It is logged, and the link stays."""
    door = opened(2)
    door.gate.on_seed(1, pb.Seed(cluster_id="c"))
    door.gate.on_seed(1, pb.Seed(cluster_id="d", sealed=True))
    assert door.directory.identity.cluster_id == "c"
    assert not door.gate.sealed.is_set()


async def test_the_longest_hello_fits_the_handshake(opened: Opened) -> None:
    """A stranger's frame is bounded, and so must ours be: all remembered starts and 99 founders."""
    founders = {node_id: f"127.0.0.1:{node_id}" for node_id in range(1, 100)}
    door = opened(1, founders, nonce="0" * 16)
    boots = tuple(((1 << 32) + number, "f" * 16) for number in range(PAST_BOOTS_KEPT))
    door.directory.update(cluster_id="c" * 32, boot_number=1 << 33, past_boots=boots)
    assert pb.Envelope(hello=door.gate.hello()).ByteSize() < HANDSHAKE_FRAME_BYTES_MAX


async def begun(opened: Opened, *supported: Supported) -> list[Door]:
    """Three founders of these versions that have begun a cluster."""
    doors = [opened(node_id, supported=one) for node_id, one in enumerate(supported, start=1)]
    await introduce(doors[0], doors[1])
    await introduce(doors[0], doors[2])
    exchange(*doors)
    assert all(door.gate.sealed.is_set() for door in doors)
    return doors


async def test_founders_mark_their_directories_with_the_level_that_the_cluster_begins_at(opened: Opened) -> None:
    """The newest that all support, beside the cluster's id."""
    doors = await begun(opened, THIS_VERSION, THIS_VERSION, Supported(1, 9))
    assert [door.gate.level for door in doors] == [THIS_VERSION.high] * 3


async def test_a_cluster_with_a_founder_of_the_first_version_has_no_marks(opened: Opened) -> None:
    """So any of its nodes may go back to that version."""
    doors = await begun(opened, THIS_VERSION, FIRST_VERSION, THIS_VERSION)
    assert [door.gate.level for door in doors] == [1, 1, 1]


async def test_a_marked_node_and_a_version_that_does_not_know_the_mark_have_no_link(opened: Opened) -> None:
    """Rule 1, seen from both sides: the one refuses by name, the other ends by name. A link that is up is cut."""
    marked, other, old = await begun(opened, THIS_VERSION, THIS_VERSION, FIRST_VERSION)
    marked.gate.raise_to(2)
    assert marked.cut == [3]
    assert other.cut == []
    with pytest.raises(FeatureLevelError, match="version of node 3 supports level 1, and the cluster may be at feature level 2"):
        await marked.gate.admit(old.gate.hello())
    with pytest.raises(NewerFormatError, match="start this node by a version that supports level 2"):
        await old.gate.admit(marked.gate.hello())
    assert [type(error) for error in old.failed] == [NewerFormatError]
    assert old.gate.level == 1
    assert not marked.failed + other.failed


async def test_a_mark_is_taken_over_from_a_peer_before_it_is_accepted(opened: Opened) -> None:
    """Rule 2: what comes over the link may be of that level. It is on disk; and old links are cut here too."""
    marked, other, _ = await begun(opened, THIS_VERSION, THIS_VERSION, FIRST_VERSION)
    await introduce(other, opened(3, supported=FIRST_VERSION))
    marked.gate.raise_to(2)
    await other.gate.admit(marked.gate.hello())
    assert other.gate.level == 2
    assert other.cut == [3]
    assert opened(2).gate.level == 2


async def test_a_stranger_marks_nothing(opened: Opened) -> None:
    """A peer of another cluster is refused, and leaves no mark; nor does a guest."""
    door = (await begun(opened, THIS_VERSION, THIS_VERSION, FIRST_VERSION))[0]
    foreign = hello(2, state=pb.NODE_STATE_SEALED, cluster_id="elsewhere")
    foreign.level_mark = foreign.level_max = 2
    with pytest.raises(BootstrapRefusedError):
        await door.gate.admit(foreign)
    await door.gate.admit(pb.Hello(node_id=9, join=True, level_mark=2))
    assert door.gate.level == 1


async def test_a_mark_that_this_version_does_not_support_is_refused(opened: Opened) -> None:
    """Whoever asks for it; a lower one than there is changes nothing."""
    door = opened(1, supported=Supported(1, 2))
    door.gate.raise_to(2)
    door.gate.raise_to(1)
    with pytest.raises(FeatureLevelError, match="supports levels 1 to 2, not level 3"):
        door.gate.raise_to(3)
    assert door.gate.level == 2


async def test_a_node_that_joins_is_marked_by_the_answer(opened: Opened) -> None:
    """Before it holds anything of the cluster."""
    door = opened(9, {})
    assert door.gate.join()
    door.gate.joined("c", 2, {1: "127.0.0.1:1"}, 2)
    assert (door.gate.level, opened(9, {}).gate.level) == (2, 2)
