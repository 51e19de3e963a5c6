"""The composition root: builds a node, starts its parts in order, stops them in reverse.

::

    data directory → storage → admin port → core (links → consensus → broker) → gRPC door → Kafka door

The admin port starts early, so that a node which waits for its founders, or joins, can say so.

A node that finds its data unusable (an old copy, a log that cannot be read) marks it and stops; where it knows other nodes it
starts once more, which sets the data aside (``storage.data_directory``), and joins its cluster anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import structlog

from raftlog.admin.metrics import NodeMetrics
from raftlog.admin.server import AdminServer
from raftlog.broker.config import BrokerConfig
from raftlog.config.node import NodeConfig
from raftlog.consensus.config import ConsensusConfig
from raftlog.consensus.door import RaftTimes
from raftlog.core.clock import Clock
from raftlog.core.features import THIS_VERSION, Supported
from raftlog.core.groups.limits import GroupLimits
from raftlog.errors import (
    DataDirectoryError,
    DataLossError,
    FatalError,
    RaftlogError,
    StaleDataDirectoryError,
    UnreadableLogError,
)
from raftlog.gateway.server import Gateway, GatewayOptions
from raftlog.kafka.listener import KafkaListener
from raftlog.model import NodeInfo
from raftlog.node.configs import describe_configs, kafka_options
from raftlog.node.core import NodeCore
from raftlog.node.credentials import gateway_credentials, peer_contexts
from raftlog.storage.data_directory import DataDirectory
from raftlog.storage.lmdb_store import LmdbOptions, LmdbStore

log = structlog.get_logger()

DRAIN_GRACE_S = 5.0
"""How long calls under way may take to end when the node stops."""


class Node:
    """One node. ``run`` is its whole life; ``stop_soon`` ends it from a signal handler. ``supported`` are the feature levels that
    it understands, ``version`` is raftlog's."""

    def __init__(
        self, config: NodeConfig, *, clock: Clock, rng: Random, version: str, supported: Supported = THIS_VERSION
    ) -> None:
        self.config = config
        self._clock, self._rng, self._version, self._supported = clock, rng, version, supported
        self._failure: BaseException | None = None
        self._emptied = False
        self._may_join = False
        """Other nodes are known, from which this one can get its data again."""
        self._stop = asyncio.Event()
        self._asked_to_stop = False
        self._core: NodeCore | None = None
        self._metrics: NodeMetrics | None = None
        self._gateway: Gateway
        self._grpc = "", 0
        """Where the gRPC door opens."""

    async def run(self, started: Callable[[], object] | None = None) -> None:
        """Start, serve until asked to stop, stop. ``started`` is called once the doors are open.

        Raises:
            FatalError: the node could not start, or could not go on.
        """
        while True:
            async with contextlib.AsyncExitStack() as stack:
                core = await self._start(stack)
                if core is not None:
                    if started is not None:
                        started()
                    await self._stop.wait()
                    if self._failure is None:
                        await self._gateway.set_serving(False)
                        handed = await core.hand_over()
                        log.info(
                            "leadership handed over; draining" if handed else "nobody took over what this node leads; draining"
                        )
            if not self._starts_again():
                break
        if self._failure is not None:
            raise self._failure

    def _starts_again(self) -> bool:
        """Whether this process goes on without the data that it found unusable. Once: who finds so again is a second node."""
        unusable = isinstance(self._failure, StaleDataDirectoryError | UnreadableLogError)
        if not unusable or self._emptied or not self._may_join or self._asked_to_stop:
            return False
        log.error("the data directory is of no use; its data is set aside, and this node joins anew", error=str(self._failure))
        self._emptied, self._failure, self._core, self._metrics = True, None, None, None
        self._stop.clear()
        return True

    def stop_soon(self) -> None:
        """Ask the node to stop: hand over leadership, finish calls, end."""
        self._asked_to_stop = True
        self._stop.set()

    def fail(self, error: BaseException) -> None:
        """Something is broken that the node cannot go on with."""
        if self._failure is None:
            self._failure = error
        self._stop.set()

    async def _start(self, stack: contextlib.AsyncExitStack) -> NodeCore | None:
        """Start everything; None where the node was asked to stop, or failed, before it was a member."""
        config = self.config
        directory = self._open_directory(stack)
        try:
            store = LmdbStore(
                config.data_dir, lambda error: self._fail_over_data(directory, error), options=_storage_options(config)
            )
        except UnreadableLogError as error:
            if not self._may_join:
                raise
            self._fail_over_data(directory, error)
            return None
        stack.callback(store.close)
        admin = AdminServer(*config.listen("admin"), ready=self._why_not_ready, metrics=self._page)
        await admin.start()
        stack.push_async_callback(admin.stop)
        core = self._core = NodeCore(
            directory=directory, store=store, peer_listen=config.peer_listen, clock=self._clock, rng=self._rng,
            consensus=_consensus_config(config), broker=_broker_config(config), fail=self.fail, tls=peer_contexts(config),
            told=config.peer_addresses, join=config.join, supported=self._supported, version=self._version,
        )  # fmt: skip
        stack.push_async_callback(core.stop)
        await core.listen()
        kafka = KafkaListener(kafka_options(config), clock=self._clock)
        await kafka.bind()  # its ports are registered before it opens
        stack.push_async_callback(kafka.stop, 0.0)
        info = self._info(core, admin, kafka)
        if not await self._unless_stopped(self._become_member(core, info, directory)):
            return None
        await self._open_doors(stack, core, kafka, info)
        return core

    def _open_directory(self, stack: contextlib.AsyncExitStack) -> DataDirectory:
        config = self.config
        directory = DataDirectory.open(
            config.data_dir,
            node_id=config.node_id,
            boot_nonce=self._rng.randbytes(8).hex(),
            voters=config.peer_addresses,
            may_join=config.knows_others,
            supported=self._supported,
        )
        stack.callback(directory.close)
        identity = directory.identity
        self._may_join = config.knows_others or identity.joined or len(identity.voters) > 1
        if identity.rejoin:
            log.warning("this node has set its data aside and joins anew", why=identity.rejoin)
        return directory

    async def _become_member(self, core: NodeCore, info: NodeInfo, directory: DataDirectory) -> None:
        if not core.gate.sealed.is_set():
            log.info("not a member of a cluster yet", voters=self.config.peer_addresses, join=self.config.join)
        try:
            await core.become_member(info)
            await core.serve(info)
        except DataLossError as error:
            # The metadata's own replica is what makes this node a node: without it, the rest is of no use here.
            self._fail_over_data(directory, UnreadableLogError(f"this node cannot begin with what it has: {error}"))
        except RaftlogError as error:
            self.fail(error)

    def _fail_over_data(self, directory: DataDirectory, error: FatalError) -> None:
        """Something is wrong with the data; where it is of no use, and can be got again, it is never used again."""
        if isinstance(error, UnreadableLogError) and self._may_join:
            with contextlib.suppress(DataDirectoryError):  # without the mark it is found out again
                directory.update(damaged=str(error))
        self.fail(error)

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do something that may take for ever, unless the node is to stop; whether it was done."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work), group.create_task(self._stop.wait())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        return not self._stop.is_set()

    def _info(self, core: NodeCore, admin: AdminServer, kafka: KafkaListener) -> NodeInfo:
        """What this node registers with the cluster."""
        config = self.config
        grpc_host, grpc_port = config.listen("grpc")
        self._grpc = grpc_host, grpc_port or _free_port(grpc_host)
        listeners = config.kafka_advertised(kafka.ports)
        return NodeInfo(
            node_id=config.node_id,
            peer_address=config.advertised("peer", _port_of(core.mesh.address)),
            grpc_address=config.advertised("grpc", self._grpc[1]),
            admin_address=config.advertised("admin", _port_of(admin.address)),
            rack=config.rack,
            kafka_address=listeners[0][1] if listeners else "",
            kafka_listeners=listeners,
        )

    async def _open_doors(self, stack: contextlib.AsyncExitStack, core: NodeCore, kafka: KafkaListener, info: NodeInfo) -> None:
        config = self.config
        self._metrics = NodeMetrics(
            core.broker, version=self._version, groups=core.broker.groups, moves=core.broker.moves,
            sleeping=lambda: len(core.turns.quiescence.asleep),
        )  # fmt: skip
        self._gateway = Gateway(
            core.broker, core.broker.groups, core.broker.moves,
            clock=self._clock, metrics=self._metrics, describe_configs=describe_configs,
            options=GatewayOptions(host=self._grpc[0], port=self._grpc[1], credentials=gateway_credentials(config)),
        )  # fmt: skip
        await self._gateway.start()
        stack.push_async_callback(self._gateway.stop, DRAIN_GRACE_S)
        await self._gateway.set_serving(True)
        await kafka.start(core.broker, groups=core.broker.groups, moves=core.broker.moves, metrics=self._metrics.kafka)
        stack.push_async_callback(kafka.stop, DRAIN_GRACE_S)
        log.info(
            "node is serving", grpc=info.grpc_address, kafka=dict(info.kafka_listeners), peer=info.peer_address,
            admin=info.admin_address,
        )  # fmt: skip

    # ---- what the admin port asks

    def _why_not_ready(self) -> str | None:
        if self._stop.is_set():
            return "stopping"
        return "starting" if self._core is None else self._core.why_not_ready()

    def _page(self) -> bytes:
        return b"" if self._metrics is None else self._metrics.page()


def _storage_options(config: NodeConfig) -> LmdbOptions:
    return LmdbOptions(
        limit_bytes=config.storage_bytes_max,
        disk_free_min_bytes=config.storage_disk_free_min_bytes,
        ballast_bytes=config.storage_ballast_bytes,
    )


def _consensus_config(config: NodeConfig) -> ConsensusConfig:
    times = RaftTimes(
        heartbeat_s=config.heartbeat_interval_ms / 1_000,
        election_min_s=config.election_timeout_min_ms / 1_000,
        election_max_s=config.election_timeout_max_ms / 1_000,
    )
    return ConsensusConfig(
        times=times,
        tail_cache_bytes=config.tail_cache_bytes,
        replica_lag_time_max_s=config.replica_lag_time_max_ms / 1000,
        catch_up_bytes_per_s=config.leader_replication_throttled_rate,
    )


def _broker_config(config: NodeConfig) -> BrokerConfig:
    groups = GroupLimits(
        members_max=config.group_max_size,
        session_timeout_min_ms=config.group_min_session_timeout_ms,
        session_timeout_max_ms=config.group_max_session_timeout_ms,
        initial_rebalance_delay_ms=config.group_initial_rebalance_delay_ms,
    )
    return BrokerConfig(
        retention_check_interval_ms=config.log_retention_check_interval_ms,
        offsets_topic_num_partitions=config.offsets_topic_num_partitions,
        offsets_topic_replication_factor=config.offsets_topic_replication_factor,
        offsets_retention_ms=config.offsets_retention_minutes * 60_000,
        replica_replacement_delay_ms=config.replica_replacement_delay_ms,
        auto_replica_rebalance_enable=config.auto_replica_rebalance_enable,
        auto_leader_rebalance_enable=config.auto_leader_rebalance_enable,
        leader_imbalance_check_interval_ms=config.leader_imbalance_check_interval_seconds * 1_000,
        leader_imbalance_per_broker_percentage=config.leader_imbalance_per_broker_percentage,
        groups=groups,
    )


def _port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def _free_port(host: str) -> int:
    """A port to bind: gRPC binds by itself, and the address is registered before its door opens."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return _port_of(f":{probe.getsockname()[1]}")
