"""A node without its doors: identity, links, consensus, broker, over whatever storage, clock and network it is given.

This is all that keeps data safe. A process puts doors on it (``raftlog.node.node``); a simulator puts none, and supplies the
event loop, the clock, the randomness, the disk and the network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from ssl import SSLContext

from raftlog.broker.broker import NodeBroker
from raftlog.broker.config import BrokerConfig
from raftlog.broker.feature_levels import OwnLevels
from raftlog.consensus import snapshot_pull
from raftlog.consensus.config import ConsensusConfig
from raftlog.consensus.snapshot_pull import Snapshots
from raftlog.consensus.snapshot_source import SnapshotSource
from raftlog.consensus.turns import Turns
from raftlog.core.clock import Clock
from raftlog.core.features import THIS_VERSION, Features, Supported
from raftlog.core.joining import Way
from raftlog.errors import JoinRefusedError, UnavailableError
from raftlog.model import METADATA_GROUP, NodeInfo, NodeStatus, Role
from raftlog.node.gate import IdentityDirectory, IdentityGate
from raftlog.node.handing_over import hand_over
from raftlog.node.joining import Joiner
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.peers.mesh import PeerMesh
from raftlog.peers.port import Payloads
from raftlog.storage.port import Store

LINGER_LOOK_S = 0.2
"""How often a node looks whether a removed one has left group 0."""
LINGER_S = 10.0
"""How long a removed node stays for that itself: as long as a metadata command may take."""
LONELY_S = 3.0
"""How long a member has no link before it asks whether it is one: nobody dials a removed node, and one that led the metadata when
it was removed, or was down, hears of it in no other way."""


class NodeCore:
    """See the module.

    Args:
        told: node ids and peer addresses of the cluster's founders, as this start was told them. What the directory knows
            counts; the addresses of this start are newer.
        join: peer addresses of members of a running cluster, which an empty node joins.
        directory: the node's identity, opened: its boot number is committed.
        store: its storage, opened.
        fail: called once with what the node cannot go on with.
        supported: the feature levels that this node understands.
        version: raftlog's, for people.
    """

    def __init__(
        self,
        *,
        directory: IdentityDirectory,
        store: Store,
        peer_listen: str,
        clock: Clock,
        rng: Random,
        consensus: ConsensusConfig,
        broker: BrokerConfig,
        fail: Callable[[BaseException], None],
        tls: tuple[SSLContext | None, SSLContext | None] = (None, None),
        told: Mapping[int, str] | None = None,
        join: Sequence[str] = (),
        supported: Supported = THIS_VERSION,
        version: str = "",
    ) -> None:
        identity = directory.identity
        self.node_id = identity.node_id
        self.serving = False
        self._directory = directory
        self._founders = {} if identity.joined else dict(identity.voters or told or {})
        self._store, self._clock, self._rng, self._broker_config = store, clock, rng, broker
        self._addresses = {**self._founders, **identity.others, **(told or {})}
        self._join = list(dict.fromkeys([*join, *(at for node, at in self._addresses.items() if node != self.node_id)]))
        self._told, self._told_to_join = dict(told or {}), bool(join)
        self._client_ssl = tls[1]
        self._joiner: Joiner | None = None
        self._nodes: Mapping[int, NodeInfo] = {}
        """All nodes that are or were members, as far as the metadata is applied here."""
        self._look_again: asyncio.TimerHandle | None = None
        self._removed_s: float | None = None
        """Since when this node knows that it was removed."""
        self._informed = asyncio.Event()
        """Set when the metadata that is applied here knows this node."""
        self.gate = IdentityGate(
            directory,
            self._founders,
            rng=rng,
            send=self._send_turn,
            fail=fail,
            peers=self._addresses,
            told_to_join=self._told_to_join,
            supported=supported,
            cut=self._cut,
        )
        self._version, self._fail = version, fail
        self._features = Features(supported)
        self.mesh = PeerMesh(
            node_id=self.node_id, listen=peer_listen, gate=self.gate, handler=_Links(self), clock=clock, random=rng,
            server_ssl=tls[0], client_ssl=tls[1], on_error=fail,
        )  # fmt: skip
        self.turns = Turns(
            node_id=self.node_id, store=store, peers=self.mesh, clock=clock, rng=rng, config=consensus, fail=fail,
            features=self._features,
        )  # fmt: skip
        source = SnapshotSource(self.turns.groups, store)
        self.snapshots = Snapshots(self.turns, source, peers=self.mesh, store=store, clock=clock, fail=fail)
        self.turns.on_offer, self.turns.snapshot_progress = self.snapshots.offered, source.progress
        self.broker: NodeBroker
        self._info: NodeInfo

    async def listen(self) -> None:
        """Open the peer port, and where this node does not have to join, dial the peers and begin or resume the bootstrap.

        Raises:
            AddressInUseError, ConfigError: of the peer port.
        """
        await self.mesh.start()
        if self.gate.way is not Way.JOIN:
            self.mesh.set_peers(self._addresses)
        self.gate.begin()

    async def become_member(self, info: NodeInfo) -> None:
        """Wait until this node is a member of the cluster for good: it was, or founds it with others, or joins it.

        Args:
            info: its addresses.

        Raises:
            RaftlogError: the cluster does not take it as it was started.
        """
        if self.gate.way is Way.FOUND and not self.gate.sealed.is_set():
            await self._found()
        if not self.gate.sealed.is_set():
            await self._join_cluster(info)

    async def _found(self) -> None:
        """Until the cluster has begun, or this node is late for it."""
        prober = self._make_joiner()
        async with asyncio.TaskGroup() as group:
            ways = [self.gate.sealed.wait(), self.gate.late.wait(), *([prober.probe()] if self._join else [])]
            tasks = [group.create_task(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        if not self.gate.sealed.is_set() and not self.gate.join():
            await self.gate.sealed.wait()  # it has the cluster's id already: whoever is sealed seals it

    async def _join_cluster(self, info: NodeInfo) -> None:
        self.mesh.set_peers({})
        if not self._join:
            raise JoinRefusedError(
                f"node {self.node_id} has lost its data and knows no other node to get it from; start it with --join HOST:PORT"
            )
        self._joiner = self._make_joiner()
        answer = await self._joiner.join(self._versioned(info))
        others = {peer.node_id: peer.peer_address for peer in answer.peers if peer.node_id != self.node_id}
        self.gate.joined(answer.cluster_id, answer.incarnation, others, answer.level)
        self._founders = {}
        self._addresses = {**others, **{node_id: at for node_id, at in self._told.items() if node_id in others}}
        self.mesh.set_peers(self._addresses)

    def _make_joiner(self) -> Joiner:
        return self._joiner_at(self._join)

    def _joiner_at(self, addresses: Sequence[str]) -> Joiner:
        as_founder = not self._told_to_join and not self.gate.cluster_id
        return Joiner(self.gate, addresses, as_founder=as_founder, clock=self._clock, rng=self._rng, client_ssl=self._client_ssl)

    async def serve(self, info: NodeInfo) -> None:
        """Start the broker; ``info`` is registered with the cluster. Only once a member. Returns when the metadata is here."""
        identity = self._directory.identity
        self._info = info = replace(self._versioned(info), incarnation=identity.incarnation)
        self.broker = NodeBroker(
            node_id=self.node_id, node_info=info, cluster_id=self.gate.cluster_id, voters=tuple(self._founders),
            consensus=self.turns, peers=self.mesh, store=self._store, clock=self._clock, rng=self._rng,
            config=self._broker_config, on_nodes=self._on_nodes, fail=self._fail,
            own_levels=OwnLevels(self.gate, self._features, self._version),
        )  # fmt: skip
        self.snapshots.begin()
        await self.broker.start()
        self.serving = True
        self.mesh.scope.start(self._ask_when_lonely(), name="ask-when-lonely")
        if identity.joined:
            await self._informed.wait()  # without the metadata it would tell clients that their topics do not exist

    def _versioned(self, info: NodeInfo) -> NodeInfo:
        """What this node says of itself, with what its version supports."""
        return replace(info, level_min=self.gate.supported.low, level_max=self.gate.supported.high)

    async def _ask_when_lonely(self) -> None:
        """Where all links stay away, ask the others whether this node was removed."""
        linked_s = self._clock.monotonic_s()
        while True:
            await asyncio.sleep(LONELY_S / 4 * (1 + self._rng.random()))
            others = [node_id for node_id in self.broker.metadata_members if node_id != self.node_id]
            if not others or any(self.mesh.connected(node_id) for node_id in others):
                linked_s = self._clock.monotonic_s()
            elif self._clock.monotonic_s() - linked_s >= LONELY_S:
                known = {**self._addresses, **{node_id: info.peer_address for node_id, info in self._nodes.items()}}
                others_at = [address for node_id, address in known.items() if node_id != self.node_id]
                removed = await self._joiner_at(others_at).is_removed(self._info)
                if removed is not None:
                    self.gate.refused(0, removed.reason, str(removed))

    def why_not_ready(self) -> str | None:
        """What this node still waits for before it can serve well, None when it can."""
        if not self.serving:
            return "waiting for the founding nodes" if self._joiner is None else f"joining: {self._joiner.trouble}"
        if self._directory.identity.joined and not self._informed.is_set():
            return "getting the cluster's metadata"
        cluster = self.broker.cluster()
        if cluster.controller is None:
            return "the metadata group has no leader"
        if not any(node.registers_as(self._info) for node in cluster.nodes):
            return "not registered with the cluster yet, or by other addresses"
        return self.broker.lacking()

    async def hand_over(self) -> bool:
        """Let others lead what this node leads; see ``handing_over``."""
        return await hand_over(self.turns.groups, self._clock)

    async def stop(self) -> None:
        """Stop the broker, the links and consensus, in this order. Storage and directory are the caller's to close."""
        if self._look_again is not None:
            self._look_again.cancel()
        if self.serving:
            await self.broker.stop()
        await self.snapshots.close()
        await self.mesh.close()
        self.turns.stop()

    def _cut(self, node_id: int, why: str) -> None:
        self.mesh.cut(node_id, why)

    def _send_turn(self, node_id: int, turn: pb.Turn) -> None:
        self.mesh.send_turn(node_id, turn, ())

    def _on_nodes(self, nodes: Mapping[int, NodeInfo]) -> None:
        if self.broker.knows_itself():
            self._informed.set()
        self._nodes = nodes
        self._look_at_nodes()

    def _look_at_nodes(self) -> None:
        """Whom to keep links with. A removed node keeps its links until it has left group 0: it may lead that."""
        removed = {node_id for node_id, info in self._nodes.items() if info.status is NodeStatus.REMOVED}
        lingering = removed.intersection(self.broker.metadata_members)
        now_s = self._clock.monotonic_s()
        if self.node_id in lingering:
            self._removed_s = now_s if self._removed_s is None else self._removed_s
            if now_s - self._removed_s >= LINGER_S and not self._leads_metadata():
                lingering.discard(self.node_id)
        unwelcome = self.gate.set_nodes({node_id: info for node_id, info in self._nodes.items() if node_id not in lingering})
        # What is registered may be as old as what this start was told: all nodes may have moved while they were down.
        addresses = {**self._addresses, **{node_id: info.peer_address for node_id, info in self._nodes.items()}}
        wanted = {node_id: at for node_id, at in addresses.items() if node_id not in removed - lingering}
        self.mesh.set_peers(wanted, elsewhere={node_id: at for node_id, at in self._addresses.items() if node_id in wanted})
        for node_id in unwelcome:
            self.mesh.cut(node_id, "the cluster knows a later disk of it, or has removed it")
        if self._look_again is not None:
            self._look_again.cancel()
        if lingering:
            self._look_again = asyncio.get_running_loop().call_later(LINGER_LOOK_S, self._look_at_nodes)

    def _leads_metadata(self) -> bool:
        """A removed node that does stays until another one takes over: without it the cluster could not go on."""
        group = self.turns.groups().get(METADATA_GROUP)
        return group is not None and group.role is Role.LEADER


class _Links:
    """What the links bring, to where it belongs (``peers.port.PeerHandler``)."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core

    def on_connected(self, node_id: int) -> None:
        self._core.gate.on_connected(node_id)
        self._core.turns.on_connected(node_id)

    def on_disconnected(self, node_id: int) -> None:
        self._core.gate.on_disconnected(node_id)
        self._core.turns.on_disconnected(node_id)

    def on_turn(self, node_id: int, turn: pb.Turn, payloads: list[bytes]) -> None:
        if turn.HasField("seed"):
            self._core.gate.on_seed(node_id, turn.seed)
        elif self._core.gate.sealed.is_set():
            self._core.turns.on_turn(node_id, turn, payloads)

    async def on_call(self, node_id: int, method: str, body: bytes, payloads: list[bytes]) -> tuple[bytes, Payloads]:
        if not self._core.serving:
            raise UnavailableError(f"node {self._core.node_id} is starting")
        if method.startswith(snapshot_pull.PREFIX):
            return await self._core.snapshots.on_call(node_id, method, body)
        return await self._core.broker.on_call(node_id, method, body, payloads)

    async def on_guest_call(self, node_id: int, method: str, body: bytes) -> bytes:
        if not self._core.serving:
            raise UnavailableError(f"node {self._core.node_id} is starting")
        return await self._core.broker.on_guest_call(node_id, method, body)
