"""Opening a group again that was dropped: who can wait does, until nothing is left of it."""

from __future__ import annotations

from tests.consensus.nodes import led, turns_of
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
