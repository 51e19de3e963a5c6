"""A node's broker: what both doors call. Puts the parts together; each part's rules are in its own module.

It starts before the node's doors and stops after them: ``start`` opens group 0 and this node's partitions from local rows,
``stop`` refuses new work, lets waiting publishes finish, and ends every task.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from raftlog.broker import feature_levels, group_calls, moves, subscribe
from raftlog.broker.calls import Answer, CallServer, RemoteBroker
from raftlog.broker.catching_up import CatchingUp
from raftlog.broker.config import BrokerConfig
from raftlog.broker.coordinator import Coordinator
from raftlog.broker.delete_records import delete_records
from raftlog.broker.feature_levels import FeatureLevels, OwnLevels
from raftlog.broker.fetch_many import ManyFetch
from raftlog.broker.group_calls import GroupCallServer, RemoteGroups
from raftlog.broker.group_retention import GroupRetention
from raftlog.broker.group_routing import GroupRouter
from raftlog.broker.groups import Groups
from raftlog.broker.joining import Joins
from raftlog.broker.metadata_calls import MetadataCalls
from raftlog.broker.metadata_machine import MetadataMachine
from raftlog.broker.metadata_members import MetadataMembers
from raftlog.broker.moves import Moves
from raftlog.broker.partition import Partition
from raftlog.broker.pending import Budget, PublishCall
from raftlog.broker.port import (
    NO_EPOCH,
    Batch,
    EpochEnd,
    Fetched,
    FetchPart,
    ListedOffset,
    PartitionStatus,
    Published,
    Share,
)
from raftlog.broker.producer_ids import ProducerIds
from raftlog.broker.publish import Publisher
from raftlog.broker.registration import keep_registered
from raftlog.broker.replicas import Replicas
from raftlog.broker.retention import Retention
from raftlog.broker.routing import Router
from raftlog.broker.topics import Topics
from raftlog.consensus.port import Consensus
from raftlog.core.clock import Clock
from raftlog.core.configuration import member_id
from raftlog.core.metadata_values import Effects
from raftlog.core.names import is_internal
from raftlog.core.tasks import TaskScope
from raftlog.errors import (
    OverloadedError,
    RaftlogError,
    RequestTimedOutError,
    ShuttingDownError,
)
from raftlog.model import METADATA_GROUP, Acks, ClusterInfo, LevelReport, NodeInfo, ReplicaStatus, TopicInfo, TopicPartition
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb
from raftlog.peers.port import Peers
from raftlog.storage.port import StorageUsage, Store

_log = logging.getLogger(__name__)

FOUNDERS_INCARNATION = 1
"""A node's incarnation is its replica id in the metadata group."""


class NodeBroker:
    """The broker of one node; see ``Broker`` for what its methods promise.

    Args:
        node_id: this node.
        node_info: its advertised addresses; registered with the cluster when they differ from what that knows.
        cluster_id: the id, or a function that answers it (it is minted while the node runs).
        voters: node ids of the metadata group's founders, where this node is one of them on its first disk; () where it joined.
        consensus, peers, store, clock, rng: what the broker stands on.
        config: its limits.
        on_nodes: called on the loop with all nodes, the removed ones among them, whenever they change, and at the start.
        own_levels: what this node knows of feature levels for itself.
        fail: called with what the node must not go on with.
    """

    def __init__(
        self, *, node_id: int, node_info: NodeInfo, cluster_id: str | Callable[[], str], voters: Sequence[int],
        consensus: Consensus, peers: Peers, store: Store, clock: Clock, rng: random.Random,
        config: BrokerConfig | None = None, on_nodes: Callable[[Mapping[int, NodeInfo]], None] | None = None,
        own_levels: OwnLevels | None = None, fail: Callable[[Exception], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._node_id = node_id
        self._node_info = replace(node_info, alive=True)
        self._cluster_id = cluster_id
        self._voters = tuple(sorted(voters))
        self._consensus = consensus
        self._peers = peers
        self._store = store
        self._rng = rng
        self._config = config = config or BrokerConfig()
        self._on_nodes = on_nodes
        budget = Budget(config.queued_bytes_max)
        self._replicas = Replicas(
            node_id, consensus=consensus, store=store, budget=budget, lost_wait_s=config.leadership_lost_wait_s, fail=fail,
            make_coordinator=lambda name, group: Coordinator(name, group, store=store, clock=clock, rng=rng, config=config),
        )  # fmt: skip
        own_levels = OwnLevels() if own_levels is None else own_levels
        self._machine = MetadataMachine(self._on_effects, own_levels.reached)
        self._router = Router(node_id, consensus, self._machine.state, self._replicas, self._is_alive)
        self._clock = clock
        self._publisher = Publisher(node_id, store=store, clock=clock, budget=budget)
        self._remote = RemoteBroker(peers, margin_s=config.call_margin_s, timeout_s=config.call_timeout_s)
        self._metadata = MetadataCalls(
            node_id, self._machine, self._router, self._remote,
            clock=clock, rng=rng, config=config, alive=self._is_alive, begins_at=lambda: own_levels.mark.level,
        )  # fmt: skip
        self._levels = FeatureLevels(
            node_id, own_levels, self._machine, self._metadata, peers=peers, timeout_s=config.call_timeout_s,
            leader=lambda: self._router.leader(METADATA_GROUP, self._machine.log)[0],
        )  # fmt: skip
        self._topics = Topics(state=self._machine.state, router=self._router, metadata=self._metadata, rng=rng, config=config)
        self.moves = Moves(
            node_id, replicas=self._replicas, machine=self._machine, metadata=self._metadata, router=self._router, peers=peers,
            up=self._is_alive, low=lambda: store.recent_usage().low, clock=clock, config=config,
        )  # fmt: skip
        """Moving replicas; see ``MoveBroker``."""
        self._joins = Joins(self._own_cluster_id, self._machine, self._metadata, self._is_alive)
        own = member_id(node_id, node_info.incarnation)
        self._members = MetadataMembers(own, self._machine, self._is_alive, rng, self.moves.placer.dead)
        self._producer_ids = ProducerIds(self._allocate_producer_ids)
        self._retention = Retention(self._replicas, self._machine, clock=clock, rng=rng, config=config, store=store)
        coordinators = self._replicas.coordinators
        routing = GroupRouter(
            node_id, state=self._machine.state, router=self._router, coordinators=coordinators,
            create_topic=self._topics.create_groups_topic, check_running=self._check_running, rng=rng, config=config,
        )  # fmt: skip
        self.groups = Groups(
            node_id, state=self._machine.state, routing=routing, find=self._router.find, coordinators=coordinators,
            remote=RemoteGroups(peers, config), config=config,
        )  # fmt: skip
        """Consumer groups; see ``GroupBroker``."""
        self._group_retention = GroupRetention(coordinators, self.groups.gone, clock=clock, rng=rng, config=config)
        self._group_calls = GroupCallServer(self.groups)
        self._calls = CallServer(self)
        self._scope = TaskScope(lambda _: None)
        self._replicas_open = False
        self._catching_up = CatchingUp(lambda: self._machine.log, self._replicas, consensus.leader_of, clock)
        self._stopping = False
        self._publishing = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._fetches_waiting = 0

    # Life.

    async def start(self) -> None:
        """Open group 0 and this node's partitions from local rows; needs no quorum. Registration follows in the background."""
        log = self._consensus.open(
            METADATA_GROUP, self._machine, replica=self._node_info.incarnation,
            founders=tuple(member_id(voter, FOUNDERS_INCARNATION) for voter in self._voters),
            preferred=self._voters[:1] == (self._node_id,),
        )  # fmt: skip
        self._machine.bind(log)
        self._open_replicas()
        self._announce_nodes()
        registering = keep_registered(self._node_info, self._machine.state, self._metadata, self._rng)
        self._scope.start(registering, name="register-node")
        self._scope.start(self._members.run(), name="metadata-members")
        self._scope.start(self._retention.run(), name="retention")
        self._scope.start(self._group_retention.run(), name="group-retention")
        self.moves.start(self._scope)

    async def stop(self) -> None:
        """Refuse new work, let waiting publishes finish for ``stop_wait_s`` at most, then end all tasks. Idempotent."""
        self._stopping = True
        try:
            async with asyncio.timeout(self._config.stop_wait_s):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("stopping with %d publish calls unanswered", self._publishing)
        self._replicas.close()
        self._machine.close()
        await self._scope.close()

    @property
    def node_id(self) -> int:
        """This node."""
        return self._node_id

    async def on_call(self, _node_id: int, method: str, body: bytes, payloads: list[bytes]) -> Answer:
        """Answer another node's broker; see ``PeerHandler.on_call``."""
        self._check_running()
        if method.startswith(group_calls.PREFIX):
            return await self._group_calls.answer(method, body)
        if method in moves.METHODS:
            return await self.moves.answer(method, body)
        if method in feature_levels.METHODS:
            return await self._levels.answer(method, body), ()
        return await self._calls.answer(method, body, payloads)

    async def on_guest_call(self, node_id: int, method: str, body: bytes) -> bytes:
        """Answer a node that asks to join; see ``PeerHandler.on_guest_call``."""
        self._check_running()
        return await self._joins.answer(node_id, method, body)

    @property
    def metadata_members(self) -> tuple[int, ...]:
        """Node ids of the metadata group's members, as far as this node knows."""
        return self._machine.log.members

    def knows_itself(self) -> bool:
        """Whether the metadata that is applied here knows this node, as the disk that it is."""
        known = self._machine.state.nodes.get(self._node_id)
        return known is not None and known.incarnation == self._node_info.incarnation

    def lacking(self) -> str | None:
        """What its replicas still lack after the start, in words; None when they have caught up (``catching_up``)."""
        return self._catching_up.lacking()

    # Records.

    async def publish(
        self, batches: Sequence[tuple[TopicPartition, Batch]], *, acks: Acks, timeout_s: float, direct: bool = False
    ) -> list[Published | RaftlogError]:
        """See ``Broker``."""
        if self._stopping:
            return [_stopping()] * len(batches)
        call = PublishCall(len(batches))
        remote: dict[int, list[tuple[int, tuple[TopicPartition, Batch]]]] = {}
        for tp, run in groupby(enumerate(batches), key=_partition_of):
            try:
                place = self._router.route(tp)
                if direct and not isinstance(place, Partition):
                    raise self._router.elsewhere(tp, self._router.find(tp).group_id)
            except RaftlogError as error:
                for position, _ in run:
                    call.settle(position, error)
                continue
            if isinstance(place, Partition):
                self._publisher.publish(place, ((position, data) for position, (_, data) in run), acks, call)
            else:
                remote.setdefault(place, []).extend(run)
        run = batches = None  # type: ignore[assignment]  # what was appended is in the log: it need not be here as well
        if call.left:
            await self._finish_publish(call, remote, acks, timeout_s)
        if call.left:
            call.close(RequestTimedOutError(f"no answer within {timeout_s:g} s; the batch may or may not be in the log"))
        return call.results()

    async def _finish_publish(
        self,
        call: PublishCall,
        remote: Mapping[int, list[tuple[int, tuple[TopicPartition, Batch]]]],
        acks: Acks,
        timeout_s: float,
    ) -> None:
        self._publishing += 1
        self._idle.clear()
        try:
            if not remote:
                await call.wait(timeout_s)
                return
            async with asyncio.TaskGroup() as group:
                for node_id, batches in remote.items():
                    group.create_task(self._forward(call, node_id, batches, acks=acks, timeout_s=timeout_s))
                await call.wait(timeout_s + self._config.call_margin_s)
        finally:
            self._publishing -= 1
            if not self._publishing:
                self._idle.set()

    async def _forward(
        self, call: PublishCall, node_id: int, batches: Sequence[tuple[int, tuple[TopicPartition, Batch]]],
        *, acks: Acks, timeout_s: float,
    ) -> None:  # fmt: skip
        outcomes = await self._remote.publish(node_id, [batch for _, batch in batches], acks=acks, timeout_s=timeout_s)
        for (position, _), outcome in zip(batches, outcomes, strict=True):
            call.settle(position, outcome)

    async def fetch(
        self, tp: TopicPartition, offset: int, *, bytes_max: int, wait_s: float = 0.0, direct: bool = False
    ) -> Fetched:
        """See ``Broker``."""
        place = self._place(tp, direct)
        bytes_max = min(bytes_max, self._config.fetch_bytes_max)
        with self._fetching():
            if isinstance(place, Partition):
                return await subscribe.fetch(
                    place, offset, bytes_max=bytes_max, wait_s=wait_s, check_leader=self._router.check_leader
                )
            return await self._fetch_there(place, tp, offset, bytes_max, wait_s)

    async def fetch_many(
        self, parts: Sequence[FetchPart], *, bytes_max: int, bytes_min: int = 1, wait_s: float = 0.0, direct: bool = False,
        follower: bool = False, rack: str = "", share: Share | None = None,
    ) -> list[Fetched | RaftlogError]:  # fmt: skip
        """See ``Broker``."""
        self._check_running()
        call = ManyFetch(
            self._router, self._fetch_there, parts, bytes_max=min(bytes_max, self._config.fetch_bytes_max), bytes_min=bytes_min,
            direct=direct, follower=follower, rack="" if rack == self._node_info.rack else rack, share=share,
        )  # fmt: skip
        with self._fetching():
            return await call.run(wait_s)

    async def list_offset(
        self, tp: TopicPartition, timestamp_ms: int, *, leader_epoch: int = NO_EPOCH, direct: bool = False
    ) -> ListedOffset:
        """See ``Broker``. An internal topic has no records: it begins and ends at 0."""
        if is_internal(tp.topic) and self._router.find(tp):
            return ListedOffset(offset=0 if timestamp_ms < 0 else -1, timestamp_ms=-1, leader_epoch=-1)
        place = self._place(tp, direct)
        self._router.check_epoch(tp, leader_epoch)
        if isinstance(place, Partition):
            return await subscribe.list_offset(
                place, timestamp_ms, timeout_s=self._config.call_timeout_s, check_leader=self._router.check_leader
            )
        return await self._remote.list_offset(place, tp, timestamp_ms)

    async def epoch_end(
        self, tp: TopicPartition, leader_epoch: int, *, current_epoch: int = NO_EPOCH, direct: bool = False
    ) -> EpochEnd:
        """See ``Broker``."""
        place = self._place(tp, direct)
        self._router.check_epoch(tp, current_epoch)
        if isinstance(place, Partition):
            return subscribe.epoch_end(place, leader_epoch)
        return await self._remote.epoch_end(place, tp, leader_epoch)

    async def delete_records(self, tp: TopicPartition, offset: int, *, timeout_s: float, direct: bool = False) -> int:
        """See ``Broker``."""
        place = self._place(tp, direct)
        if isinstance(place, Partition):
            return await delete_records(
                place, offset, timeout_s=timeout_s, clock=self._clock, check_leader=self._router.check_leader
            )
        return await self._remote.delete_records(place, tp, offset, timeout_s=timeout_s)

    async def partition_status(self, tp: TopicPartition, *, direct: bool = False) -> PartitionStatus:
        """See ``Broker``. Of an internal topic this node tells what its own replica takes."""
        if is_internal(tp.topic):
            log = self._replicas.log(self._router.find(tp).group_id)
            return PartitionStatus(log_start_offset=0, high_watermark=0, size_bytes=0 if log is None else log.size_bytes)
        place = self._place(tp, direct)
        if isinstance(place, Partition):
            return PartitionStatus(
                log_start_offset=place.log_start_offset,
                high_watermark=place.high_watermark,
                size_bytes=place.log.size_bytes,
            )
        return await self._remote.partition_status(place, tp)

    # Metadata.

    async def init_producer(self) -> tuple[int, int]:
        """See ``Broker``."""
        self._check_running()
        return await self._producer_ids.take(), 0

    def check_new_topic(self, name: str, *, partitions: int, replication_factor: int, configs: dict[str, str]) -> TopicInfo:
        """See ``Broker``."""
        self._check_running()
        return self._topics.preview(name, partitions=partitions, replication_factor=replication_factor, configs=configs)

    async def create_topic(self, name: str, *, partitions: int, replication_factor: int, configs: dict[str, str]) -> TopicInfo:
        """See ``Broker``."""
        self._check_running()
        return await self._topics.create(name, partitions=partitions, replication_factor=replication_factor, configs=configs)

    async def alter_topic(
        self, name: str, *, set_configs: dict[str, str], unset_configs: Sequence[str], partitions: int = 0
    ) -> TopicInfo:
        """See ``Broker``."""
        self._check_running()
        return await self._topics.alter(name, set_configs=set_configs, unset_configs=unset_configs, partitions=partitions)

    async def delete_topic(self, name: str) -> None:
        """See ``Broker``."""
        self._check_running()
        await self._topics.delete(name)

    def topics(self) -> list[TopicInfo]:
        """See ``Broker``."""
        return self._topics.all()

    def topic(self, name: str) -> TopicInfo:
        """See ``Broker``."""
        return self._topics.one(name)

    def cluster(self) -> ClusterInfo:
        """See ``Broker``. A node is alive when it is this one or its peer link is up."""
        nodes = self._machine.state.nodes
        controller, _ = self._router.leader(METADATA_GROUP, self._machine.log)
        return ClusterInfo(
            cluster_id=self._own_cluster_id(),
            controller=controller,
            nodes=tuple(replace(nodes[node_id], alive=self._is_alive(node_id)) for node_id in sorted(nodes)),
            level=self._machine.state.level,
            level_index=self._machine.state.raised_index,
            supported=self._levels.supported,
        )

    async def raise_level(self, level: int, *, dry_run: bool, without: Sequence[int] = ()) -> LevelReport:
        """See ``Broker``."""
        self._check_running()
        return await self._levels.raise_level(level, dry_run=dry_run, without=without)

    def replicas(self) -> list[ReplicaStatus]:
        """See ``Broker``."""
        return [self._machine.status(self._node_id), *self.moves.renewals.explain(self._replicas.statuses())]

    def storage_usage(self) -> StorageUsage:
        """See ``Broker``."""
        return self._store.usage()

    async def propose_here(self, wish: pb.MetadataCommand) -> pb.ProposeAnswer:
        """Another node's metadata command, where this one leads group 0; see ``MetadataCalls.propose_here``."""
        return await self._metadata.propose_here(wish)

    # Inside.

    def _place(self, tp: TopicPartition, direct: bool) -> Partition | int:
        self._check_running()
        place = self._router.route(tp)
        if direct and not isinstance(place, Partition):
            raise self._router.elsewhere(tp, self._router.find(tp).group_id)
        return place

    @contextlib.contextmanager
    def _fetching(self) -> Iterator[None]:
        if self._fetches_waiting >= self._config.fetches_waiting_max:
            raise OverloadedError(f"{self._fetches_waiting} fetches wait on this node already; try again later")
        self._fetches_waiting += 1
        try:
            yield
        finally:
            self._fetches_waiting -= 1

    async def _fetch_there(self, node_id: int, tp: TopicPartition, offset: int, bytes_max: int, wait_s: float) -> Fetched:
        return await self._remote.fetch(node_id, tp, offset, bytes_max=bytes_max, wait_s=wait_s)

    def _own_cluster_id(self) -> str:
        return self._cluster_id if isinstance(self._cluster_id, str) else self._cluster_id()

    def _is_alive(self, node_id: int) -> bool:
        return node_id == self._node_id or self._peers.connected(node_id)

    def _check_running(self) -> None:
        if self._stopping:
            raise _stopping()

    def _open_replicas(self) -> None:
        """Open this node's replicas, as soon as the metadata knows this very disk of it.

        Older metadata, which a node that came back is told first, names the replicas of the disk before: under their names it
        would vote with empty logs.
        """
        if self._replicas_open or self._stopping:
            return
        if self._node_info.incarnation == FOUNDERS_INCARNATION or self.knows_itself():
            self._replicas_open = True
            self._replicas.start(self._machine.state)
            self._catching_up.begin()

    def _on_effects(self, effects: Effects) -> None:
        if self._replicas_open:
            self._replicas.note(effects)
        elif effects.nodes or effects.restored:
            asyncio.get_running_loop().call_soon(self._replicas.or_fail, self._open_replicas)
        if effects.deleted or effects.restored:
            self._group_retention.topics_deleted()
        if effects.nodes or effects.restored:
            self._members.wake()
            self._announce_nodes()

    def _announce_nodes(self) -> None:
        if self._on_nodes is not None:
            state = self._machine.state
            asyncio.get_running_loop().call_soon(self._on_nodes, state.nodes | state.removed)

    async def _allocate_producer_ids(self, count: int) -> int:
        command = pb.AllocateProducerIds(node_id=self._node_id, count=count)
        answer = await self._metadata.call(pb.MetadataCommand(allocate_producer_ids=command), again=True)
        return answer.first_producer_id


def _stopping() -> ShuttingDownError:
    return ShuttingDownError("this node is stopping; another one will serve this")


def _partition_of(item: tuple[int, tuple[TopicPartition, Batch]]) -> TopicPartition:
    return item[1][0]
