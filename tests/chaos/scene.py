"""Where faults are played: the cluster, who leads in it, and what a fault finds that must not be."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from random import Random

from tests.chaos.cluster import ChaosCluster, ChaosNode
from tests.chaos.network import Cut
from tests.chaos.observer import Observer
from tests.chaos.plan import Target
from tests.chaos.preload import Preload
from tests.chaos.proxy import Way
from tests.chaos.recorder import Recorder

_LOOK_S = 0.05


class Scene:
    """See the module."""

    def __init__(self, cluster: ChaosCluster, observer: Observer, recorder: Recorder, partitions: int) -> None:
        self.cluster, self.recorder = cluster, recorder
        self._observer, self._partitions = observer, partitions

    @property
    def node_ids(self) -> list[int]:
        """All nodes, rising."""
        return sorted(self.cluster.nodes)

    def node(self, node_id: int) -> ChaosNode:
        """One node."""
        return self.cluster.nodes[node_id]

    def preload(self, node_id: int) -> Preload:
        """What steers a node's disk and clock; only where the cluster has it."""
        preload = self.node(node_id).preload
        assert preload is not None
        return preload

    def found(self, text: str) -> None:
        """Something that must not be."""
        self.recorder.found(text)

    def choose(self, target: Target, rng: Random) -> int:
        """A node in this role now; any where nobody is known to lead."""
        leader = self._observer.leaders.get(rng.randrange(self._partitions), 0)
        others = [node_id for node_id in self.node_ids if node_id != leader]
        return leader if target is Target.LEADER and leader else rng.choice(others)

    async def ended(self, node_id: int, within_s: float) -> bool:
        """Wait for a process to end by itself."""
        return await self.node(node_id).ended(within_s)

    async def cut(self, directions: Iterable[tuple[int, int]], way: Way = Way.STALLED) -> None:
        """Exactly these directions between nodes are cut."""
        await self.cluster.network.cut(list(directions), way)

    async def mend(self) -> None:
        """All links work."""
        await self.cluster.network.cut([], Way.OPEN)

    def both_ways(self, node_id: int) -> Cut:
        """All directions from and to a node."""
        return [*self.outward(node_id), *self.inward(node_id)]

    def outward(self, node_id: int) -> Cut:
        """All directions from a node."""
        return [(node_id, other) for other in self.node_ids if other != node_id]

    def inward(self, node_id: int) -> Cut:
        """All directions to a node."""
        return [(other, node_id) for other in self.node_ids if other != node_id]

    async def acknowledged_since(self, topic: str, since_us: int, within_s: float) -> bool:
        """Wait until every partition has acknowledged a record after a moment."""
        # By looks rather than by the clock: a run that stood still itself has not waited.
        for _ in range(round(within_s / _LOOK_S)):
            if all(self.recorder.acknowledged_us.get((topic, at), -1) > since_us for at in range(self._partitions)):
                return True
            await asyncio.sleep(_LOOK_S)
        return False
