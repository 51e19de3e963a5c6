"""Leaders whose own disk stands still: what they go on to believe, and what becomes of what they have appended."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from raftlog.consensus import inbox as inbox_module
from raftlog.consensus.patience import SLACK_MAX_S
from raftlog.consensus.standstill import LOOK_S, Standstill
from raftlog.core.entry import Entry
from raftlog.errors import NotLeaderError
from raftlog.model import Role
from tests.consensus.nodes import group_of, led, others, turns_of
from tests.consensus.world import GROUP, CountingMachine, World, WorldNode, founding


async def standing(world: World, *, reached: bool = True) -> tuple[WorldNode, Entry]:
    """A leader whose commit does not end, and the entry that is in it, got by its followers where it has ``reached`` them."""
    leader = await led(world)
    world.publish(leader)
    await world.until(world.converged)
    leader.store.set_full(True)
    if not reached:
        world.filter = lambda sender, _, wire: not (sender == leader.id and wire.append_entries.entry_count)
    entry = world.publish(leader)
    assert entry is not None
    await world.until(lambda: turns_of(leader)._in_flight is not None)
    return leader, entry


def elected(world: World, old: WorldNode) -> bool:
    """Whether another node leads."""
    return any(group_of(node).ready for node in others(world, old))


def test_a_leader_whose_disk_stands_still_hears_at_once_that_another_was_elected() -> None:
    """It leads no more in its own eyes, says who does, takes nothing, and who waits on it is told; its term is what it was."""

    async def scenario(world: World) -> None:
        old, _ = await standing(world)
        group, term = group_of(old), group_of(old).term
        barrier = asyncio.get_running_loop().create_task(group.barrier(60.0))
        await world.until(lambda: elected(world, old))
        await world.until(lambda: group.role is Role.FOLLOWER, seconds=0.05)
        new = world.leader()
        assert new is not None
        assert turns_of(old)._in_flight is not None
        assert turns_of(old).leader_of(GROUP) == (new.id, group_of(new).term)
        assert (group.ready, group.term, group.leader) == (False, term, None)
        assert world.publish(old) is None
        with pytest.raises(NotLeaderError):
            await barrier
        progress = old.machine.progress
        await world.settle(5.0)
        assert old.machine.progress == progress, "it is told once"

    World(3, 71).run(scenario)


def test_the_machine_is_told_when_leadership_ends_outside_of_a_turn() -> None:
    """Subscribers and producers wait on it, and would wait for as long as the disk."""

    async def scenario(world: World) -> None:
        old, _ = await standing(world)
        roles: list[Role] = []
        progressed = old.machine.progressed

        def watch() -> None:
            roles.append(group_of(old).role)
            progressed()

        old.machine.__dict__["progressed"] = watch
        await world.until(lambda: elected(world, old))
        await world.until(lambda: roles[-1:] == [Role.FOLLOWER], seconds=0.05)

    World(3, 72).run(scenario)


@pytest.mark.parametrize("reached", [True, False])
@pytest.mark.parametrize("seed", [73, 74, 75])
def test_what_it_had_appended_is_kept_or_replaced_as_the_next_leader_says(seed: int, reached: bool) -> None:
    """Entries of the commit under way and of the batch behind it; the log goes on from there when the disk does."""

    async def scenario(world: World) -> None:
        old, first = await standing(world, reached=reached)
        behind = [world.publish(old) for _ in range(3)]
        await world.until(lambda: elected(world, old))
        new = world.leader()
        assert new is not None
        await world.until(lambda: group_of(old).role is Role.FOLLOWER, seconds=0.1)
        for _ in range(5):
            world.publish(new)
        await world.settle(2.0)
        assert group_of(old).last_index == first.header.index + len(behind)
        world.filter = lambda *_: True
        old.store.set_full(False)
        await world.until(world.converged)
        world.check_rest()
        assert world.missing() == set()
        assert len(world.acknowledged) == (1 + 1 + 5 if reached else 1 + 5)
        assert {entry.header.term for entry in group_of(old).read(first.header.index, first.header.index + 1, 1)} == (
            {first.header.term} if reached else {group_of(old).term}
        )
        await world.until(lambda: world.publish(world.leader() or old) is not None)
        await world.until(world.converged)

    World(3, seed).run(scenario)


def test_a_leader_that_is_cut_off_besides_doubts_by_itself() -> None:
    """Nobody can tell it; it waits as long as a leader does after so slow a turn. Then it says that nobody is known to lead."""

    async def scenario(world: World) -> None:
        old, _ = await standing(world)
        world.isolate(old.id)
        group, term = group_of(old), group_of(old).term
        patience_s = world.times.fallback_s + SLACK_MAX_S
        await world.settle(patience_s - 0.2)
        assert group.role is Role.LEADER
        await world.until(lambda: group.role is Role.FOLLOWER, seconds=LOOK_S + 0.3)
        assert turns_of(old).leader_of(GROUP) == (None, term)
        assert world.publish(old) is None
        world.heal()
        old.store.set_full(False)
        await world.until(world.converged)

    World(3, 80).run(scenario)


def test_a_leader_whose_followers_answer_goes_on_without_its_disk() -> None:
    """What leaves early they answer, so that nobody else is elected; they are a majority, and what it publishes is committed."""

    async def scenario(world: World) -> None:
        leader, _ = await standing(world)
        group, term = group_of(leader), group_of(leader).term
        for _ in range(60):
            assert world.publish(leader) is not None
            await world.settle(0.1)
            assert (group.role, group.term) == (Role.LEADER, term)
        assert turns_of(leader)._in_flight is not None
        assert group.commit_index >= group.last_index - 2
        leader.store.set_full(False)
        await world.until(world.converged)
        assert group.term == term

    world = World(3, 81)
    world.send_early_bytes = 1
    world.run(scenario)


def test_a_leader_that_nobody_else_could_follow_goes_on_however_long_its_disk_stands_still() -> None:
    """The only voter of its group has a majority whatever happens."""

    async def scenario(world: World) -> None:
        leader, entry = await standing(world)
        await world.settle(20.0)
        assert group_of(leader).ready
        leader.store.set_full(False)
        await world.until(lambda: group_of(leader).commit_index == entry.header.index)

    World(1, 82).run(scenario)


def test_where_all_disks_stand_still_together_the_leader_leads_on() -> None:
    """For as long as their patience is: nobody was elected meanwhile, and an election would only make it longer."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        term = group_of(leader).term
        for node in world.nodes.values():
            node.disk_s = (2.0, 2.0)
        entry = world.publish(leader)
        assert entry is not None
        await world.until(lambda: group_of(leader).commit_index >= entry.header.index)
        assert (group_of(leader).role, group_of(leader).term) == (Role.LEADER, term)

    World(3, 83).run(scenario)


def test_a_sleeping_leader_wakes_to_lead_no_more() -> None:
    """Its group said nothing; another group's commit does not end. When it does, the group sleeps under its new leader."""

    async def scenario(world: World) -> None:
        old = await led(world)
        await world.until(lambda: all(group_of(node).member.asleep for node in world.nodes.values()))
        alone = turns_of(old).open(GROUP + 1, CountingMachine(), replica=1, founders=founding(old.id), preferred=True)
        await world.until(lambda: alone.ready)
        await world.settle(0.5)
        group = group_of(old)
        assert group.member.asleep
        old.store.set_full(True)
        alone.trim(alone.last_index)
        turns_of(old).batch.rows[GROUP + 1, 1, b"any"] = b"row"
        turns_of(old).touch(alone)
        await world.until(lambda: turns_of(old)._in_flight is not None)
        await world.until(lambda: elected(world, old))
        await world.until(lambda: group.role is Role.FOLLOWER, seconds=0.05)
        assert not group.member.asleep
        assert GROUP not in turns_of(old).quiescence.asleep
        old.store.set_full(False)
        await world.until(lambda: all(group_of(node).member.asleep for node in world.nodes.values()))
        assert world.converged()
        assert alone.ready

    World(3, 84).run(scenario)


def test_one_timer_serves_all_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are hundreds in a second; what is set twice in it costs nothing."""
    looks: list[int] = []
    look = Standstill._look

    def counted(self: Standstill) -> None:
        looks.append(1)
        look(self)

    monkeypatch.setattr(Standstill, "_look", counted)

    async def scenario(world: World) -> None:
        node = await led(world)
        began_s = world.loop.now_s
        for _ in range(400):
            world.publish(node)
            await world.settle(0.005)
        assert len(looks) <= (world.loop.now_s - began_s) / LOOK_S + 2
        await world.settle(5.0)
        count = len(looks)
        await world.settle(5.0)
        assert len(looks) == count, "it rings while nothing is written"

    World(1, 85).run(scenario)


@pytest.mark.parametrize("seed", range(91, 95))
def test_disks_that_stand_still_again_and_again_lose_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One node after the other, mostly the leader, for up to some election timeouts, with an inbox that thins at once."""
    monkeypatch.setattr(inbox_module, "PEER_MESSAGES_MAX", 12)
    monkeypatch.setattr(inbox_module, "TURN_MESSAGES_MAX", 4)

    async def scenario(world: World) -> None:
        rng = Random(seed)
        await led(world)
        for _ in range(12):
            node = rng.choice([world.leader() or world.nodes[1], world.nodes[rng.randint(1, 3)]])
            node.store.set_full(True)
            end_s = world.loop.now_s + rng.uniform(0.1, 6.0)
            while world.loop.now_s < end_s:
                publisher: Any = rng.choice([world.leader(), node])
                if publisher is not None:
                    world.publish(publisher, rng.choice([20, 2_000]))
                await world.settle(rng.uniform(0.002, 0.05))
            node.store.set_full(False)
            if rng.random() < 0.3:
                world.cut(*rng.sample(world.members, 2))
            await world.settle(rng.uniform(0.0, 2.0))
        await world.until(world.converged)
        world.check_rest()
        assert world.missing() == set()
        assert len(world.acknowledged) > 100

    world = World(3, seed)
    world.send_early_bytes = rng_early(seed)
    world.run(scenario)


def rng_early(seed: int) -> int:
    """Half of the worlds send early."""
    return 1 if seed % 2 else 1 << 20
