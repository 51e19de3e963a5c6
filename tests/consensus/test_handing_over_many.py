"""Handing over more groups at once than seek an election at a time."""

from __future__ import annotations

from raftlog.consensus.elections import ELECTIONS_MAX
from raftlog.consensus.group import HAND_OVER_S, Group
from raftlog.consensus.sleeper import CALLED_S
from raftlog.model import Role
from tests.consensus.nodes import group_of, led, others, turns_of
from tests.consensus.world import CountingMachine, World, WorldNode, founding

FIRST = 100
"""The id of the first of many groups."""


async def leads_many(world: World, count: int) -> tuple[WorldNode, list[Group]]:
    """A node that leads so many groups, and these."""
    await world.until(lambda: len(world.up) == 3)
    opened = {node_id: _open(world, node, count) for node_id, node in world.nodes.items()}
    await world.until(lambda: all(group.ready for group in opened[1]), seconds=60)
    await world.settle(0.5)
    return world.nodes[1], opened[1]


def _open(world: World, node: WorldNode, count: int) -> list[Group]:
    first, founders = node.id == 1, founding(*world.members)
    return [
        turns_of(node).open(FIRST + at, CountingMachine(), replica=1, founders=founders, preferred=first) for at in range(count)
    ]


def elsewhere(world: World, node: WorldNode, groups: list[Group]) -> int:
    """How many of the groups are led, and served, by another node."""
    return sum(any(turns_of(other).groups()[group.group].ready for other in others(world, node)) for group in groups)


def test_all_groups_that_are_handed_over_at_once_are_taken_at_once() -> None:
    """The taker lets them seek one after the other, and those that wait in its line are not forgotten because the leader that
    wants to be rid of them still sends heartbeats."""

    async def scenario(world: World) -> None:
        leader, groups = await leads_many(world, 4 * ELECTIONS_MAX)
        for group in groups:
            assert group.transfer()
        await world.until(lambda: elsewhere(world, leader, groups) == len(groups), seconds=HAND_OVER_S / 2)

    World(3, 5).run(scenario)


def test_who_was_asked_to_take_over_and_had_no_turn_leaves_a_leader_that_goes_on_alone() -> None:
    """The hand-over is over for its leader, which appends again: what was asked for then must not end its term later."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        group, term = group_of(leader), group_of(leader).term
        for node in others(world, leader):
            turns_of(node)._elections._max = 0  # nobody's turn comes
        assert group.transfer()
        await world.settle(HAND_OVER_S + 0.1)
        assert world.publish(leader) is not None
        for node in others(world, leader):
            turns_of(node)._elections._max = ELECTIONS_MAX
        end_s = world.loop.now_s + 5 * world.times.election_max_s
        while world.loop.now_s < end_s:
            world.publish(leader)
            await world.step(0.02)
        assert (group.role, group.term) == (Role.LEADER, term)

    assert CALLED_S <= HAND_OVER_S
    World(3, 6).run(scenario)


def test_a_call_to_take_over_counts_for_its_leader_only() -> None:
    """Another leader, of a later term, came before the turn of who was asked: that one is left in peace."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        for node in others(world, leader):
            turns_of(node)._elections._max = 0
        assert group_of(leader).transfer()
        await world.until(lambda: any(group_of(node).member._SyncObj__transferInProgress for node in others(world, leader)))
        asked = next(node for node in others(world, leader) if group_of(node).member._SyncObj__transferInProgress)
        (third,) = (node for node in others(world, leader) if node is not asked)
        turns_of(third)._elections._max = ELECTIONS_MAX
        group_of(third).member._campaign(disruptive=True)
        turns_of(third).touch(group_of(third))
        await world.until(lambda: group_of(third).ready)
        await world.until(lambda: group_of(asked).leader == third.id)
        term = group_of(third).term
        turns_of(asked)._elections._max = ELECTIONS_MAX
        end_s = world.loop.now_s + 5 * world.times.election_max_s
        while world.loop.now_s < end_s:
            world.publish(third)
            await world.step(0.02)
        assert (group_of(third).role, group_of(third).term) == (Role.LEADER, term)

    World(3, 7).run(scenario)
