"""Plays a plan: each episode's fault, its companion, and then the wait until all is well again, which must not be long."""

from __future__ import annotations

import asyncio
from random import Random

from tests.chaos.cluster import SMALL_DISK
from tests.chaos.faults import FAULTS
from tests.chaos.plan import KINDS, Episode
from tests.chaos.scene import Scene

RECOVERY_S = 10.0
"""With all nodes ready, every partition takes records within this time."""


class Nemesis:
    """Plays on ``scene``; ``topic`` is the one that must recover."""

    def __init__(self, scene: Scene, topic: str) -> None:
        self._scene, self._topic = scene, topic
        self.played: dict[str, int] = {}
        """Kind → how often."""

    async def run(self, episodes: list[Episode]) -> None:
        """All episodes in order."""
        for number, episode in enumerate(episodes):
            await asyncio.sleep(episode.quiet_s)
            await self._play(number, episode)

    async def _play(self, number: int, episode: Episode) -> None:
        scene, rng = self._scene, Random(episode.draw)
        node_id = scene.choose(episode.target, rng)
        if KINDS[episode.kind].needs == SMALL_DISK:
            node_id = scene.node_ids[-1]
        other = rng.choice([each for each in scene.node_ids if each != node_id])
        facts = {"number": number, "kind": episode.kind, "node": node_id, "spares_majority": episode.spares_majority}
        scene.recorder.note("begin", **facts, companion=episode.companion, other=other if episode.companion else 0)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._first(episode.kind, node_id, episode.hold_s, rng))
            if episode.companion:
                group.create_task(self._one(episode.companion, other, episode.hold_s / 2, Random(episode.draw + 1)))
        scene.recorder.note("healed", number=number)
        await self._recover(number, episode)
        scene.recorder.note("end", number=number)

    async def _first(self, kind: str, node_id: int, hold_s: float, rng: Random) -> None:
        """The links are mended when this fault is over: its companion waits for a node to be ready, and that may be cut off."""
        try:
            await self._one(kind, node_id, hold_s, rng)
        finally:
            await self._scene.mend()

    async def _one(self, kind: str, node_id: int, hold_s: float, rng: Random) -> None:
        self.played[kind] = self.played.get(kind, 0) + 1
        await FAULTS[kind](self._scene, node_id, hold_s, rng)

    async def _recover(self, number: int, episode: Episode) -> None:
        scene = self._scene
        for node in scene.cluster.nodes.values():
            if not node.alive:
                scene.found(f"node {node.node_id} ended with {node.exit_code} during {episode.kind} (episode {number})")
                await scene.cluster.start(node.node_id)
        await scene.cluster.ready()
        since_us = scene.recorder.now_us()
        if not await scene.acknowledged_since(self._topic, since_us, RECOVERY_S):
            scene.found(f"no publishing to every partition within {RECOVERY_S:g} s after {episode.kind} (episode {number})")
