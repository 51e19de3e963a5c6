"""Who may talk to this node: cluster, incarnation, boot number, feature level and bootstrap, over the data directory's identity
file.

Rules of feature levels (``raftlog.core.features``):

1. A node whose directory is marked with a level has no link to one whose version does not support that level.
2. A node takes over a higher mark from a peer of its cluster before it accepts it. So whatever may come over a link, both ends
   know, and both directories are marked with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any, Protocol

import structlog

from raftlog.core.bootstrap import Bootstrap, Effect, FounderState, Persist, Told
from raftlog.core.features import THIS_VERSION, Level, Supported
from raftlog.core.joining import Way, way_in
from raftlog.errors import (
    BootstrapRefusedError,
    DataDirectoryError,
    FeatureLevelError,
    JoinRequiredError,
    NewerFormatError,
    NodeRemovedError,
    RaftlogError,
    StaleDataDirectoryError,
    UnavailableError,
)
from raftlog.model import NodeInfo, NodeStatus
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.storage.identity import LOST_NONCE, Identity

log = structlog.get_logger()


class IdentityDirectory(Protocol):
    """Where the identity is kept: ``storage.data_directory.DataDirectory``, or a simulated one."""

    @property
    def identity(self) -> Identity:
        """What it says now."""
        ...

    def update(self, **changes: Any) -> None:
        """Change fields, durably before it returns."""
        ...


class IdentityGate:
    """``peers.port.Gate`` over an identity.

    Its files are small and written only when a peer starts anew, or this node becomes a member; so the loop may wait for them.

    Args:
        directory: the identity.
        founders: node ids and addresses of those that the cluster begins with, this node among them.
        rng: for the cluster's id.
        send: sends a turn to a peer.
        fail: called with what this node must not go on with.
        peers: the nodes that this one was told of.
        told_to_join: see ``core.joining.way_in``.
        supported: the feature levels that this node understands.
        cut: closes the link to a peer, saying why.
    """

    def __init__(
        self,
        directory: IdentityDirectory,
        founders: Mapping[int, str],
        *,
        rng: Random,
        send: Callable[[int, pb.Turn], object],
        fail: Callable[[RaftlogError], None],
        peers: Iterable[int] = (),
        told_to_join: bool = False,
        supported: Supported = THIS_VERSION,
        cut: Callable[[int, str], None] = lambda _node_id, _why: None,
    ) -> None:
        self._directory = directory
        self._send, self._fail, self._cut = send, fail, cut
        self.supported = supported
        self._hellos: dict[int, pb.Hello] = {}
        identity = directory.identity
        self._peers = frozenset(peers) - {identity.node_id}
        """The nodes that this one was told of."""
        self._strangers: set[int] | None = set()
        """Those of them that belong to another cluster; None once a peer of this cluster was met."""
        self._nodes: dict[int, NodeInfo] = {}
        """All nodes that are or were members, as far as the metadata is applied here."""
        self.way = way_in(
            sealed=identity.sealed,
            cluster_id=identity.cluster_id,
            emptied=bool(identity.rejoin),
            told_to_join=told_to_join,
        )
        """How this node becomes a member."""
        self._bootstrap = Bootstrap(
            identity.node_id,
            tuple(founders),
            cluster_id=identity.cluster_id,
            sealed=identity.sealed,
            mint=lambda: rng.randbytes(16).hex(),
            joining=self.way is Way.JOIN,
            supported=supported,
            level=identity.level,
        )
        self.sealed = asyncio.Event()
        """Set when this node is a member of the cluster for good."""
        self.late = asyncio.Event()
        """Set when this node was to found a cluster, and finds that it has begun without it."""

    @property
    def cluster_id(self) -> str:
        """The cluster's id, empty until it has one."""
        return self._bootstrap.cluster_id or ""

    @property
    def level(self) -> int:
        """The feature level that the data directory is marked with."""
        return self._directory.identity.level

    def raise_to(self, level: int) -> None:
        """Mark the directory with a level, durably before this returns, and give up the peers that do not support it.

        Raises:
            FeatureLevelError: this node does not support it.
            DataDirectoryError: it could not be written.
        """
        if not self.supported.has(level):
            own = self._directory.identity.node_id
            raise FeatureLevelError(f"the version of node {own} supports {self.supported}, not level {level}")
        if level <= self.level:
            return
        self._directory.update(level=level)
        log.info("data directory is marked with a feature level; older versions refuse it from now on", level=level)
        for node_id, hello in self._hellos.items():
            if not _supported_by(hello).has(level):
                self._cut(node_id, _too_old(hello, level))

    def begin(self) -> None:
        """Resume where the disk says; a cluster of one begins here."""
        self._perform(self._bootstrap.begin())

    # ---- peers.port.Gate

    def hello(self) -> pb.Hello:
        """See ``Gate``."""
        identity = self._directory.identity
        return pb.Hello(
            cluster_id=self.cluster_id,
            node_id=identity.node_id,
            boot_number=identity.boot_number,
            boot_nonce=identity.boot_nonce,
            state=pb.NodeState.ValueType(int(self._bootstrap.state)),
            voters=self._bootstrap.founders,
            past_boots=[pb.Boot(number=number, nonce=nonce) for number, nonce in identity.past_boots],
            incarnation=identity.incarnation,
            level_min=self.supported.low,
            level_max=self.supported.high,
            level_mark=identity.level,
        )

    def guest_hello(self) -> pb.Hello:
        """What this node says where it asks to join."""
        identity = self._directory.identity
        return pb.Hello(cluster_id=self.cluster_id, node_id=identity.node_id, state=pb.NODE_STATE_EMPTY, join=True)

    async def admit(self, hello: pb.Hello) -> None:
        """See ``Gate``."""
        if hello.join:
            self._admit_guest(hello)
            return
        try:
            state = FounderState(hello.state)
        except ValueError:
            raise BootstrapRefusedError(f"node {hello.node_id} is in a state that this version does not know") from None
        if self._bootstrap.comes_late(state):
            self.late.set()
            raise UnavailableError(f"node {hello.node_id} is a member already, and this node holds nothing: it joins first")
        self._note_stranger(hello)
        try:
            self._bootstrap.check(hello.node_id, state, hello.cluster_id, tuple(hello.voters))
        except BootstrapRefusedError as error:
            if self._bootstrap.state is FounderState.EMPTY:
                # Another list of founders. Both ends end: whoever refuses first may not hear the other's refusal.
                self._fail(error)
            raise
        self._admit_level(hello)
        self._admit_member(hello)
        # Before the cluster has begun, a founder that lost its disk has lost nothing, and counts its starts anew.
        self._admit_boot(hello, anew=state is FounderState.EMPTY)
        self._hellos[hello.node_id] = hello

    def refused(self, node_id: int, reason: str, message: str) -> None:
        """See ``Gate``. Only what a peer knows of this node's own disk ends it; a peer's other reasons may be its own fault.
        Node 0 is one whose id is not known."""
        who = f"node {node_id}" if node_id else "a node of the cluster"
        said, empty = f"{message} ({who} says so)", self._bootstrap.state is FounderState.EMPTY
        if reason == StaleDataDirectoryError.reason:
            self.stale(said)
        elif reason == NodeRemovedError.reason and self._bootstrap.sealed:
            self._fail(NodeRemovedError(said))
        elif reason == JoinRequiredError.reason and empty:
            self.late.set()
        elif reason == BootstrapRefusedError.reason and empty and not self._bootstrap.joining:
            self._fail(BootstrapRefusedError(said))

    def stale(self, said: str) -> None:
        """This node's data is an old copy: end, and never use it again."""
        with contextlib.suppress(DataDirectoryError):  # for good: it may be started again when no peer that knows is up
            self._directory.update(damaged=said)
        self._fail(StaleDataDirectoryError(said))

    def _admit_guest(self, hello: pb.Hello) -> None:
        if not self._bootstrap.sealed:
            raise UnavailableError(f"node {self._directory.identity.node_id} is no member of a cluster yet")
        if hello.cluster_id not in ("", self.cluster_id):
            raise BootstrapRefusedError(
                f"node {hello.node_id} was part of cluster {hello.cluster_id}, this is cluster {self.cluster_id};"
                " give it the address of a node of its own cluster, or an empty data directory"
            )

    def _note_stranger(self, hello: pb.Hello) -> None:
        """One peer of another cluster may be astray; where all are, and none of ours was met, this node is."""
        mine, other = self.cluster_id, hello.cluster_id
        if self._strangers is None or hello.node_id not in self._peers or not mine or not other or mine == other:
            return
        self._strangers.add(hello.node_id)
        if self._strangers == self._peers:
            self._fail(
                BootstrapRefusedError(
                    f"this data directory belongs to cluster {mine}, but the nodes that this one was told of (--voters) belong"
                    f" to cluster {other}; start it on its own data directory, or with the addresses of its own cluster"
                )
            )

    def _admit_level(self, hello: pb.Hello) -> None:
        """Rules 1 and 2; before there is a cluster, there is nothing that could not be understood."""
        if not self.cluster_id:
            return
        mark = max(self.level, hello.level_mark) if hello.cluster_id == self.cluster_id else self.level
        if not _supported_by(hello).has(mark):
            raise FeatureLevelError(_too_old(hello, mark))
        if not self.supported.has(mark):
            error = NewerFormatError(
                f"the data of node {hello.node_id} may hold forms of feature level {mark}, and this version supports"
                f" {self.supported}; start this node by a version that supports level {mark}"
            )
            self._fail(error)
            raise error
        self.raise_to(mark)

    def _admit_member(self, hello: pb.Hello) -> None:
        """The peer is what the cluster knows it to be. One that this node has not heard of yet is welcome."""
        known = self._nodes.get(hello.node_id)
        if known is None:
            return
        incarnation = hello.incarnation or 1
        if incarnation < known.incarnation:
            raise StaleDataDirectoryError(_earlier_disk(hello.node_id, incarnation, known.incarnation))
        if known.status is NodeStatus.REMOVED and incarnation == known.incarnation:
            raise NodeRemovedError(removed_text(hello.node_id))

    def _admit_boot(self, hello: pb.Hello, *, anew: bool) -> None:
        """The peer's disk is no older than what was seen of it: the start that was seen last is among its own.

        One that was not seen for longer than its Hello remembers need only have a higher number. Boot numbers are compared
        within an incarnation: the next one counts anew.
        """
        node_id, number, nonce, incarnation = hello.node_id, hello.boot_number, hello.boot_nonce, hello.incarnation or 1
        known = self._directory.identity.peers_seen
        seen_incarnation, seen_number, seen_nonce = (0, 0, "") if anew else known.get(node_id, (0, 0, ""))
        if incarnation < seen_incarnation:
            raise StaleDataDirectoryError(_earlier_disk(node_id, incarnation, seen_incarnation))
        boots = {boot.number: boot.nonce for boot in hello.past_boots} | {number: nonce}
        if incarnation == seen_incarnation and seen_nonce == LOST_NONCE:
            raise StaleDataDirectoryError(
                f"the disk of node {node_id} was declared lost for good, and groups went on without its votes: its data must not"
                " be used any more. Start it with an empty data directory; then it joins as a new one"
            )
        unknown = number < seen_number or (seen_number >= min(boots) and boots.get(seen_number) != seen_nonce)
        if incarnation == seen_incarnation and unknown:
            raise StaleDataDirectoryError(
                f"node {node_id} comes with boot number {number} and does not know its boot {seen_number} that was seen before:"
                " this is an old copy of its data directory, or a second node of that id. Start it on its newest data directory"
            )
        if (incarnation, number) > (seen_incarnation, seen_number) and known.get(node_id) != (incarnation, number, nonce):
            self._directory.update(peers_seen={**known, node_id: (incarnation, number, nonce)})

    # ---- what the links bring

    def on_connected(self, node_id: int) -> None:
        """A link is up; both sides admitted each other."""
        hello = self._hellos[node_id]
        self._strangers = None
        told = Told(FounderState(hello.state), hello.cluster_id, _supported_by(hello), hello.level_mark or Level.FIRST)
        self._perform(self._bootstrap.linked(node_id, told))

    def on_disconnected(self, node_id: int) -> None:
        """The link is gone."""
        self._bootstrap.unlinked(node_id)

    def on_seed(self, node_id: int, seed: pb.Seed) -> None:
        """A founder's Seed."""
        try:
            self._perform(self._bootstrap.seed(node_id, seed.cluster_id, seed.sealed, seed.level or Level.FIRST))
        except RaftlogError as error:
            log.error("seed refused", peer=node_id, error=str(error))

    # ---- joining

    def join(self) -> bool:
        """Begin to join, where this node is (still) empty; whether it does. It founds nothing from now on."""
        return self._bootstrap.joining or self._bootstrap.join()

    def joined(self, cluster_id: str, incarnation: int, others: Mapping[int, str], level: int) -> None:
        """The cluster, which is at a feature level, has taken this node as ``incarnation``; durable when this returns."""
        self._directory.update(
            cluster_id=cluster_id,
            level=max(self.level, level),
            sealed=True,
            incarnation=incarnation,
            joined=True,
            others=dict(others),
            voters={},
            rejoin="",
        )
        self._bootstrap.joined(cluster_id)
        log.info("this node has joined", cluster_id=cluster_id, incarnation=incarnation)
        self.sealed.set()

    def set_nodes(self, nodes: Mapping[int, NodeInfo]) -> list[int]:
        """Take note of all nodes that are or were members; the linked ones that would not be admitted as they are now."""
        self._nodes = dict(nodes)
        own = self._nodes.pop(self._directory.identity.node_id, None)
        if own is not None:
            self._look_at_oneself(own)
        unwelcome = []
        for node_id, hello in self._hellos.items():
            try:
                self._admit_member(hello)
            except RaftlogError:
                unwelcome.append(node_id)
        return unwelcome

    def _look_at_oneself(self, own: NodeInfo) -> None:
        identity = self._directory.identity
        if own.incarnation > identity.incarnation:
            self.stale(_earlier_disk(own.node_id, identity.incarnation, own.incarnation))
        elif own.status is NodeStatus.REMOVED and own.incarnation == identity.incarnation:
            self._fail(NodeRemovedError(removed_text(own.node_id)))

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Persist):
                level = max(self.level, effect.level)
                self._directory.update(cluster_id=effect.cluster_id, sealed=effect.sealed, level=level)
            else:
                seed = pb.Seed(cluster_id=effect.cluster_id, sealed=effect.sealed, level=effect.level)
                self._send(effect.node_id, pb.Turn(seed=seed))
        if self._bootstrap.sealed and not self.sealed.is_set():
            log.info("cluster is ready", cluster_id=self.cluster_id)
            self.sealed.set()


def _supported_by(hello: pb.Hello) -> Supported:
    """The feature levels that a peer's version supports; the first version says nothing of them."""
    return Supported(hello.level_min or Level.FIRST, hello.level_max or Level.FIRST)


def _too_old(hello: pb.Hello, level: int) -> str:
    return (
        f"the version of node {hello.node_id} supports {_supported_by(hello)}, and the cluster may be at feature level {level};"
        f" start it by a version that supports level {level}"
    )


def removed_text(node_id: int) -> str:
    """What a removed node is told."""
    return f"node {node_id} was removed from the cluster; to add it again, start it with --join on an empty data directory"


def _earlier_disk(node_id: int, incarnation: int, known: int) -> str:
    return (
        f"node {node_id} has come back with another disk since (incarnation {known}), and this is its disk before"
        f" (incarnation {incarnation}): what it holds may be out of date"
    )
