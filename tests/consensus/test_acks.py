"""What followers answer while the leader's disk is busy."""

from __future__ import annotations

import pytest

from raftlog.consensus import acks as acks_module
from tests.consensus.nodes import group_of, led, others, turns_of
from tests.consensus.test_turns import record_commits
from tests.consensus.world import GROUP, World, WorldNode

SLOW_S = 0.3
"""A commit that is under way for long, but not for an election timeout; messages take milliseconds."""


async def busy(world: World) -> tuple[WorldNode, int]:
    """A leader whose commit is under way, and the index of an entry that came before it and is being written."""
    leader = await led(world)
    world.publish(leader)
    await world.until(world.converged)
    leader.disk_s = (SLOW_S, SLOW_S)
    entry = world.publish(leader)
    assert entry is not None
    await world.until(lambda: turns_of(leader)._in_flight is not None)
    return leader, entry.header.index


def test_a_majority_of_followers_commits_while_the_leader_still_writes() -> None:
    """Its own copy is not needed for that: who waits is told at once."""

    async def scenario(world: World) -> None:
        leader, index = await busy(world)
        await world.until(lambda: group_of(leader).applied_index == index, seconds=SLOW_S / 4)
        assert group_of(leader).commit_index == index
        assert group_of(leader).durable_index < index
        assert turns_of(leader)._in_flight is not None
        assert turns_of(leader).acks.counted == 2
        await world.until(world.converged)

    World().run(scenario)


def test_one_follower_of_two_is_no_majority_before_the_leader_has_written() -> None:
    """Its answer is counted, and waits for the leader's own copy."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        world.isolate(others(world, leader)[0].id)
        leader, index = await busy_without_rest(world, leader)
        await world.until(lambda: turns_of(leader).acks.counted == 1, seconds=SLOW_S / 4)
        assert group_of(leader).commit_index < index
        await world.until(lambda: group_of(leader).commit_index == index)
        assert group_of(leader).durable_index == index

    async def busy_without_rest(world: World, leader: WorldNode) -> tuple[WorldNode, int]:
        await world.settle(0.01)
        leader.disk_s = (SLOW_S, SLOW_S)
        entry = world.publish(leader)
        assert entry is not None
        return leader, entry.header.index

    World().run(scenario)


def test_what_is_applied_meanwhile_is_written_with_its_applied_index() -> None:
    """In one transaction, behind the one that was under way: a restart finds both or neither."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        commits = record_commits(world, leader)
        leader, index = await busy(world)
        await world.until(lambda: group_of(leader).applied_index == index, seconds=SLOW_S / 4)
        under_way = commits[-1][1]
        assert (GROUP, index) in under_way.entries
        await world.until(world.converged)
        await world.until(lambda: commits[-1][1] is not under_way)
        assert {key for _, _, key in commits[-1][1].rows} == {b"count", b"progress"}

    World().run(scenario)


def test_the_metadata_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """What applying it does to other groups belongs there."""

    async def scenario(world: World) -> None:
        leader, index = await busy(world)
        await world.settle(SLOW_S / 4)
        assert group_of(leader).commit_index < index
        await world.until(world.converged)

    monkeypatch.setattr(acks_module, "METADATA_GROUP", GROUP)
    World().run(scenario)
