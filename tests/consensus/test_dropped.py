"""Opening a group again that was dropped: who can wait does, until nothing is left of it."""

from __future__ import annotations

from raftlog.core.configuration import replica_of
from tests.consensus.nodes import group_of, led, turns_of
from tests.consensus.test_turns import record_commits
from tests.consensus.world import GROUP, World


def test_who_opens_a_replica_in_the_place_of_another_one_can_wait_for_its_place() -> None:
    """Until the drop of the old one is durable, and then until storage has deleted it. Its own data is nothing to wait for."""

    async def scenario(world: World) -> None:
        node = await led(world)
        world.publish(node)
        await world.settle(0.2)
        node.crash()
        node.replica = 0
        node.start()
        turns, commits, waits = turns_of(node), record_commits(world, node), 0
        told: list[bool] = []
        assert turns.vacant(GROUP, 1, lambda: told.append(False))
        assert node.store.groups() == [GROUP]
        while not turns.vacant(GROUP, 2, lambda: told.append(True)):
            waits += 1
            await world.until(lambda: bool(told))
            assert told == [True]
            told.clear()
        assert waits == 2
        assert node.store.groups() == []
        assert [batch.drop for _, batch in commits] == [{GROUP}]
        node.replica = 2
        node.open()
        await world.settle(0.2)
        assert [GROUP in batch.drop for _, batch in commits] == [True] + [False] * (len(commits) - 1)
        assert node.store.groups() == [GROUP]

    world = World(1, 32)
    world.run(scenario)
    assert not world.failures


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
