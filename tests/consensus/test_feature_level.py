"""At the first feature level no group writes, or needs of another, what the first version does not know."""

from __future__ import annotations

import pytest

from raftlog.core.configuration import member_id
from raftlog.core.features import THIS_VERSION, Features, Level
from raftlog.errors import FeatureLevelError
from raftlog.pb.raftlog.internal.v1 import snapshot_pb2 as pb
from tests.consensus.nodes import group_of, led, others
from tests.consensus.test_membership import caught_up, change, join
from tests.consensus.test_snapshots import publish, staged, trimmed_world
from tests.consensus.world import World


def first_level(count: int, seed: int) -> World:
    """A world of nodes that work beside some of the first version."""
    world = World(count, seed)
    world.features = Features()
    return world


def test_members_change_only_when_all_nodes_know_of_it() -> None:
    """A configuration in the log is what the first version cannot read."""
    world = first_level(4, 81)
    world.founders = (1, 2, 3)
    for node in world.nodes.values():
        node.replica = 1 if node.id in world.founders else 0

    async def scenario(world: World) -> None:
        leader = group_of(await led(world))
        wanted = leader.configuration.with_learner(member_id(4, 4))
        with pytest.raises(FeatureLevelError, match="changing the members of group 7 needs feature level 2"):
            leader.reconfigure(wanted)
        world.features.raised(Level.MEMBERSHIP)
        leader.reconfigure(wanted)
        assert leader.configuration == wanted

    world.run(scenario)


def test_a_snapshot_of_a_newer_form_is_not_taken() -> None:
    """Its rows could not be read. It is asked for again later; nothing of it stays on this disk."""

    async def scenario(world: World) -> None:
        leader, late = await trimmed_world(world), world.nodes[3]
        assert leader.snapshots is not None
        assert late.snapshots is not None
        source = leader.snapshots.source
        levels = {2: THIS_VERSION.high + 1}

        def newer(node_id: int, ask: pb.SnapshotOpen) -> tuple[pb.SnapshotOpened, bytes]:
            opened, base = type(source).open(source, node_id, ask)
            opened.level = levels.get(2, opened.level)
            return opened, base

        source.open = newer  # type: ignore[method-assign,assignment]
        await change(world, group_of(leader).configuration.with_learner(join(late)))
        pulls = late.snapshots
        await world.until(lambda: pulls._attempts >= 3)
        assert pulls.installed == 0
        assert not staged(late)
        levels.clear()
        await caught_up(world, late)
        assert pulls.installed == 1

    World(3, 83, founders=2).run(scenario)


def test_trims_wait_for_whoever_could_not_be_given_a_snapshot() -> None:
    """However long a member is silent: the first version goes on by appends alone. Once the level is raised, nobody waits."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        down = others(world, leader)[0]
        await publish(world, 10)
        await world.until(world.converged)
        held = group_of(down).last_index
        down.crash()
        await publish(world, 30)
        await world.settle(20.0)
        assert group_of(leader).min_match_index() <= held
        world.features.raised(Level.MEMBERSHIP)
        assert group_of(leader).min_match_index() > held
        down.start()
        await world.until(world.converged)

    world = first_level(3, 82)
    world.lag_max_s = 5.0
    world.run(scenario)
