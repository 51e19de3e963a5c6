"""A node that stops hands over what it leads."""

from __future__ import annotations

import asyncio

from raftlog.consensus.group import HAND_OVER_S, Group
from raftlog.model import Role
from raftlog.node.handing_over import TRANSFER_WAIT_MAX_S, TRANSFER_WAIT_S, TRANSFERS_MAX, hand_over
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from tests.consensus.nodes import turns_of
from tests.consensus.test_handing_over_many import FIRST, elsewhere, leads_many
from tests.consensus.world import World
from tests.simulation.loop import VirtualClock

MANY = 3 * TRANSFERS_MAX


def refusing(groups: list[Group]) -> int:
    """How many of a node's groups take no appends because they are being handed over."""
    return sum(group.handing_over and group.role is Role.LEADER for group in groups)


def test_a_group_refuses_appends_only_when_its_turn_to_be_handed_over_has_come() -> None:
    """All are taken over in the end, and at no time do more refuse than the others can take."""

    async def scenario(world: World) -> None:
        leader, groups = await leads_many(world, MANY)
        most = 0
        async with asyncio.TaskGroup() as tasks:
            handing = tasks.create_task(hand_over(turns_of(leader).groups, VirtualClock(world.loop)))
            while not handing.done():
                most = max(most, refusing(groups))
                await world.step()
        assert handing.result()
        assert 0 < most <= TRANSFERS_MAX
        await world.until(lambda: elsewhere(world, leader, groups) == MANY, seconds=0.1)

    World(3, 5).run(scenario)


def test_groups_that_nobody_takes_do_not_keep_the_others() -> None:
    """They make room after a while, and the node's end does not wait for them for ever."""

    async def scenario(world: World) -> None:
        leader, groups = await leads_many(world, MANY)
        stuck = {group.group for group in groups[: TRANSFERS_MAX + 1]}
        world.filter = lambda _, __, wire: not lost(wire, stuck)
        assert not await hand_over(turns_of(leader).groups, VirtualClock(world.loop))
        await world.settle(0.1)
        assert {FIRST + at for at, group in enumerate(groups) if group.role is Role.LEADER} == stuck
        assert elsewhere(world, leader, groups) == MANY - len(stuck)

    def lost(wire: pb.RaftMessage, stuck: set[int]) -> bool:
        return wire.group in stuck and wire.WhichOneof("body") == "timeout_now"

    World(3, 5).run(scenario)


def test_a_node_waits_as_long_as_the_others_take_over_one_group_after_the_other() -> None:
    """A node that leads thousands needs more than the time in which one is missed; but it does not wait for ever."""

    async def scenario(world: World) -> None:
        leader, groups = await leads_many(world, 14)
        clock, let_through, ended_s = VirtualClock(world.loop), set[int](), list[float]()
        world.filter = lambda _, __, wire: wire.WhichOneof("body") != "timeout_now" or wire.group in let_through
        async with asyncio.TaskGroup() as tasks:
            begun_s = clock.monotonic_s()
            handing = tasks.create_task(hand_over(turns_of(leader).groups, clock))
            handing.add_done_callback(lambda _: ended_s.append(clock.monotonic_s()))
            for at in range(len(groups)):
                await world.settle(TRANSFER_WAIT_S - HAND_OVER_S - 0.2)
                let_through.add(FIRST + at)
        assert TRANSFER_WAIT_MAX_S <= ended_s[0] - begun_s < TRANSFER_WAIT_MAX_S + 0.1
        assert not handing.result()
        assert elsewhere(world, leader, groups) >= 7

    World(3, 5).run(scenario)
