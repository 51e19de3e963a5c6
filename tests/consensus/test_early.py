"""What a leader appends while its disk is busy."""

from __future__ import annotations

import pytest

from raftlog.consensus.config import SEND_EARLY_BYTES
from raftlog.core.entry import EntryHeader, EntryKind, encode
from raftlog.errors import DataLossError, IndeterminateError
from raftlog.model import Role
from tests.consensus.nodes import group_of, led
from tests.consensus.world import GROUP, World, WorldNode

SLOW_S = 0.3
"""A commit that is under way for long, but not for an election timeout; messages take milliseconds."""


async def busy(world: World) -> tuple[WorldNode, list[WorldNode], int]:
    """A leader whose commit is under way, its followers, and the index of an entry that came behind it."""
    leader = await led(world)
    world.publish(leader)
    await world.until(world.converged)
    leader.disk_s = (SLOW_S, SLOW_S)
    first = world.publish(leader)
    await world.settle(0.02)
    second = world.publish(leader)
    assert first is not None
    assert second is not None
    assert leader.group is not None
    assert leader.group.durable_index < first.header.index < second.header.index
    return leader, [node for node in world.nodes.values() if node is not leader], second.header.index


def durable(node: WorldNode) -> int:
    assert node.group is not None
    return node.group.durable_index


def test_entries_leave_while_a_commit_is_under_way() -> None:
    """The followers, a majority, have them on their disks before the leader has; committed they are by that alone (``acks``)."""

    async def scenario(world: World) -> None:
        leader, followers, index = await busy(world)
        await world.until(lambda: all(durable(follower) == index for follower in followers), seconds=SLOW_S / 4)
        assert leader.group is not None
        await world.until(lambda: leader.group is not None and leader.group.commit_index == index, seconds=SLOW_S / 4)
        assert durable(leader) < index - 1
        await world.until(world.converged)

    world = World()
    world.send_early_bytes = 1
    world.run(scenario)


def test_an_append_that_finds_its_replica_damaged_says_that_its_outcome_is_unknown() -> None:
    """What leaves early is read in the append itself. Whoever appended has nothing yet that could be told of the damage."""

    async def scenario(world: World) -> None:
        leader, _, index = await busy(world)
        group, leader.group = group_of(leader), None  # the checkers must not read it

        def unreadable() -> None:
            raise DataLossError("an entry that a follower needs is damaged")

        group.member.send_entries = unreadable  # type: ignore[method-assign]
        with pytest.raises(IndeterminateError, match="damaged"):
            group.append(
                lambda at, term, last: encode(EntryHeader(EntryKind.RECORDS, GROUP, at, term, last.next_offset, 1), b"x")
            )
        assert group.last_index == index + 1
        assert group.role is not Role.LEADER

    world = World()
    world.send_early_bytes = 1
    world.run(scenario)


def test_a_few_bytes_wait_for_the_next_turn() -> None:
    """They are not worth a frame of their own."""

    async def scenario(world: World) -> None:
        leader, followers, index = await busy(world)
        await world.settle(SLOW_S / 4)
        assert all(durable(follower) == index - 1 for follower in followers)
        assert durable(leader) < index - 1
        await world.until(lambda: all(durable(follower) == index for follower in followers))

    assert SEND_EARLY_BYTES > 1_000
    World().run(scenario)
