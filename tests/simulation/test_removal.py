"""A node that is removed while the metadata cannot do without it."""

from __future__ import annotations

import asyncio

import pytest

from raftlog.errors import UnavailableError
from raftlog.node.core import LINGER_S
from tests.simulation.node import Machine
from tests.simulation.world import World


class OneFounder(World):
    """It begins with one node, and notes who ends."""

    sizes = (1,)

    def __init__(self, seed: int) -> None:
        super().__init__(seed, mode="returns")
        self.ended: list[int] = []

    def on_failure(self, machine: Machine, error: BaseException) -> None:
        """Removed nodes end: no violation here."""

    def on_exit(self, machine: Machine, failure: BaseException | None) -> None:
        """See ``World``."""
        self.ended.append(machine.id)


def test_a_removed_node_that_leads_the_metadata_stays_until_another_takes_over() -> None:
    """It is the only voter, and the other node is down: were it to end, nobody could ever lead the cluster again. With the other
    node back, the vote goes there, and the removed one ends."""

    async def scenario(world: World) -> None:
        assert isinstance(world, OneFounder)
        first = world.machines[1]
        first.start()
        await world.until(world.sealed, "sealed")
        second = world.machines[2] = Machine(world, 2, founder=False)
        second.start()

        def joined() -> bool:
            run, leader = second.run, world.leader_of(0)
            return run is not None and run.broker is not None and leader is not None and run.broker.knows_itself()

        await world.until(joined, "joined", 20)
        await asyncio.sleep(2)
        second.kill()
        with pytest.raises(UnavailableError, match="keep it running"):
            await first.ask(lambda broker: broker.moves.remove_node(1), timeout_s=30)
        await asyncio.sleep(2 * LINGER_S)
        assert 1 not in world.ended
        second.start()
        await world.until(lambda: 1 in world.ended, "the removed node has ended", 30)
        await world.until(lambda: world.leader_of(0) is second, "the other node leads", 30)

    outcome = OneFounder(3).run(scenario)
    assert not outcome.violations
