"""Some whole brokers over doubles, in one process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from raftlog.broker.broker import NodeBroker
from raftlog.broker.config import BrokerConfig
from raftlog.broker.feature_levels import Mark, NoMark, OwnLevels
from raftlog.core.clock import Clock
from raftlog.model import NodeInfo, TopicPartition
from tests.broker.doubles import HandClock, HandConsensus, HandNetwork, HandPeers
from tests.broker.hand_store import HandStore

FAST = BrokerConfig(leader_wait_s=0.2, topic_leaders_wait_s=0.2, metadata_timeout_s=2.0, stop_wait_s=0.05, call_timeout_s=1.0)


class Cluster:
    """Some brokers over one network of doubles; node 1 leads group 0. ``marks`` are those of their data directories."""

    def __init__(
        self, count: int, config: BrokerConfig = FAST, clock: Clock | None = None, marks: Mapping[int, Mark] | None = None
    ) -> None:
        self.marks = marks or {}
        self.network = HandNetwork()
        self.config = config
        self.clock = clock
        self.brokers: dict[int, NodeBroker] = {}
        self.stores: dict[int, HandStore] = {}
        self.clocks: dict[int, HandClock] = {}
        self.seen_nodes: dict[int, list[int]] = {}
        for node_id in range(1, count + 1):
            HandConsensus(node_id, self.network)
        for node_id in range(1, count + 1):
            self.make(node_id, range(1, count + 1))

    def make(self, node_id: int, voters: Sequence[int], incarnation: int = 1) -> NodeBroker:
        """A broker over the node's disk as it is."""
        consensus = self.network.nodes[node_id]
        self.stores[node_id] = HandStore(lambda: sorted(consensus.logs))
        mark = self.marks.get(node_id, NoMark())
        info = NodeInfo(
            node_id=node_id,
            peer_address=f"peer:{node_id}",
            grpc_address=f"grpc:{node_id}",
            kafka_listeners=(("default", f"kafka:{9_000 + node_id}"),),
            incarnation=incarnation,
        )
        broker = self.brokers[node_id] = NodeBroker(
            node_id=node_id,
            node_info=replace(info, level_min=mark.supported.low, level_max=mark.supported.high),
            own_levels=OwnLevels(mark, version=f"v{node_id}"),
            cluster_id=lambda: "cluster",
            voters=voters,
            consensus=consensus,
            peers=HandPeers(node_id, self.network),
            store=self.stores[node_id],
            clock=self.clock or self.clocks.setdefault(node_id, HandClock()),
            rng=random.Random(node_id),
            config=self.config,
            on_nodes=lambda nodes: self.seen_nodes.__setitem__(node_id, sorted(nodes)),
        )
        self.network.handlers[node_id] = broker.on_call
        return broker

    async def leave(self, node_id: int, broker: NodeBroker) -> None:
        """Stop a broker and close its groups, as a node does."""
        await broker.stop()
        del self.network.handlers[node_id]

    def follower_of(self, tp: TopicPartition) -> NodeBroker:
        """A broker that does not lead."""
        leader = self.brokers[1].topic(tp.topic).partitions[tp.partition].leader
        return next(broker for node_id, broker in self.brokers.items() if node_id != leader)

    def leader_of(self, tp: TopicPartition) -> NodeBroker:
        """The broker that leads."""
        leader = self.brokers[1].topic(tp.topic).partitions[tp.partition].leader
        assert leader is not None
        return self.brokers[leader]


@asynccontextmanager
async def cluster(count: int, config: BrokerConfig = FAST, clock: Clock | None = None) -> AsyncIterator[Cluster]:
    """Brokers that have started and know of each other; stopped at the end. Without a ``clock`` time stands still for them."""
    made = Cluster(count, config, clock)
    try:
        for broker in made.brokers.values():
            await broker.start()
        await until(lambda: all(len(broker.cluster().nodes) == count for broker in made.brokers.values()))
        yield made
    finally:
        for broker in made.brokers.values():
            await broker.stop()


async def until(true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.001)
