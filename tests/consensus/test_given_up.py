"""A replica that was given up for a new one: the disk remembers it, whatever comes before the new one does."""

from __future__ import annotations

from raftlog.consensus.damage import GIVEN_UP
from raftlog.core.configuration import replica_of
from tests.consensus.nodes import group_of, led, others, turns_of
from tests.consensus.test_snapshots import keeping, publish, trim
from tests.consensus.world import GROUP, World


def test_that_a_replica_was_given_up_stays_with_its_data() -> None:
    """Whoever starts again over it can tell it from an old copy, also when its damage is forgotten; it goes with the data."""

    async def scenario(world: World) -> None:
        node = await led(world)
        own = replica_of(group_of(node).member.id)
        assert turns_of(node).held(GROUP) == (own, False)
        turns_of(node).give_up(GROUP)
        await world.settle(0.2)
        node.crash()
        node.start()
        assert turns_of(node).held(GROUP) == (own, True)
        assert turns_of(node).held(GROUP + 1) is None
        turns_of(node).drop(GROUP)
        assert turns_of(node).held(GROUP) is None
        node.group = None
        await world.settle(0.2)
        assert turns_of(node).held(GROUP) is None

    world = World(1, 33)
    world.run(scenario)
    assert not world.failures


def test_that_a_replica_was_given_up_is_known_after_a_snapshot_too() -> None:
    """All that it held is replaced but for that: a start would take it for an old copy, and its group may need its vote."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        other = others(world, leader)[0]
        turns_of(other).give_up(GROUP)
        await world.settle(0.2)
        other.crash()
        await publish(world, 20)
        await trim(world)
        other.start()
        assert group_of(other).damaged is not None
        await world.until(lambda: other.snapshots is not None and other.snapshots.installed == 1)
        await world.until(world.converged)
        for _ in range(2):
            own = replica_of(group_of(other).member.id)
            assert turns_of(other).held(GROUP) == (own, True)
            assert group_of(other).damaged is not None
            other.crash()
            other.start()

    keeping(World(3, 75)).run(scenario)


def test_a_replica_that_is_given_up_while_a_snapshot_is_installed_stays_so() -> None:
    """The snapshot's transaction takes all marks away, and is under way when this one comes."""

    async def scenario(world: World) -> None:
        await led(world)
        other = next(node for node in world.nodes.values() if node is not world.leader())
        other.crash()
        await publish(world, 20)
        await trim(world)
        other.start()
        await world.until(lambda: group_of(other).suspended)
        turns_of(other).give_up(GROUP)
        await world.until(lambda: other.snapshots is not None and other.snapshots.installed == 1)
        assert group_of(other).damaged == GIVEN_UP
        await world.until(world.converged)
        await world.settle(0.2)
        assert group_of(other).journal.given_up
        assert turns_of(other).held(GROUP) == (replica_of(group_of(other).member.id), True)

    keeping(World(3, 76)).run(scenario)
