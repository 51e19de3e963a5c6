"""Faults that never heal: with a majority healthy and connected, publishing works again within ten seconds and goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.consensus.nodes import led
from tests.consensus.world import World

Fault = Callable[[int, int, int], set[tuple[int, int]]]
"""(leader, second, third) → the ways on which everything is lost. Two at least can always talk both ways."""

FAULTS: dict[str, Fault] = {
    "leader to one": lambda a, b, c: {(a, b)},
    "one to leader": lambda a, b, c: {(b, a)},
    "leader to all": lambda a, b, c: {(a, b), (a, c)},
    "all to leader": lambda a, b, c: {(b, a), (c, a)},
    "leader and one": lambda a, b, c: {(a, b), (b, a)},
    "two followers": lambda a, b, c: {(b, c), (c, b)},
    "leader and all": lambda a, b, c: {(a, b), (b, a), (a, c), (c, a)},
    "one follower and all": lambda a, b, c: {(a, b), (b, a), (b, c), (c, b)},
    "follower cannot send": lambda a, b, c: {(b, a), (b, c)},
    "follower cannot hear": lambda a, b, c: {(a, b), (c, b)},
}


async def commits_within(world: World, seconds: float) -> float:
    """Publish on whoever leads until something is acknowledged; how long it took."""
    began_s, known = world.loop.now_s, len(world.acknowledged)

    def tried() -> bool:
        leader = world.leader()
        if leader is not None:
            world.publish(leader)
        return len(world.acknowledged) > known

    await world.until(tried, seconds)
    return world.loop.now_s - began_s


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("silent", [True, False], ids=["links stay up", "links break"])
def test_publishing_goes_on_under_a_permanent_fault(fault: str, silent: bool) -> None:
    """One-way losses, a bridge, an isolated node: publishing resumes within 10 s, and then never stops for that long."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        second, third = (number for number in world.members if number != leader.id)
        lost = FAULTS[fault](leader.id, second, third)
        world.filter = lambda sender, recipient, _: (sender, recipient) not in lost
        if not silent:
            for a, b in lost:
                world.cut(a, b)
        for _ in range(12):
            await commits_within(world, 10.0)
            await world.settle(0.5)
        terms = max(node.group.term for node in world.nodes.values() if node.group)
        await world.settle(5.0)
        for _ in range(3):
            assert await commits_within(world, 10.0) < 10.0
        after = max(node.group.term for node in world.nodes.values() if node.group)
        assert after - terms <= 1, "leadership goes round and round"

    World(3, 51).run(scenario)
