"""Short ways to the nodes of the small world."""

from __future__ import annotations

from raftlog.consensus.group import Group
from raftlog.consensus.turns import Turns
from tests.consensus.world import World, WorldNode


async def led(world: World) -> WorldNode:
    """The first leader, when it serves and all followers have answered it."""
    await world.until(lambda: world.leader() is not None and world.converged())
    leader = world.leader()
    assert leader is not None
    return leader


def group_of(node: WorldNode) -> Group:
    """A running node's group."""
    assert node.group is not None
    return node.group


def turns_of(node: WorldNode) -> Turns:
    """A running node's turn loop."""
    assert node.turns is not None
    return node.turns


def others(world: World, node: WorldNode) -> list[WorldNode]:
    """All nodes but one."""
    return [other for other in world.nodes.values() if other is not node]
