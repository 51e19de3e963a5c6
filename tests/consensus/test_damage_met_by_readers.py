"""What happens when a reader, rather than consensus itself, is the first to meet a damaged entry."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raftlog.consensus.damage import DAMAGED_ROW
from raftlog.consensus.journal import RAFT_TABLE
from raftlog.consensus.port import SILENT_S
from raftlog.core.features import Features, Level
from raftlog.errors import DataLossError
from tests.consensus.nodes import group_of, led, others, turns_of
from tests.consensus.test_forcing import forced, lose
from tests.consensus.test_membership import change, join
from tests.consensus.test_snapshots import KEPT, keeping, kept, trimmed_world
from tests.consensus.world import GROUP, World, WorldNode


async def damaged_leader(world: World) -> tuple[WorldNode, int]:
    """A leader whose first published entry is damaged on its disk and in no cache, and that entry's index."""
    leader = await led(world)
    entries = [world.publish(leader) for _ in range(3)]
    assert entries[0] is not None
    await world.until(lambda: len(world.acknowledged) == 3)
    await world.settle(0.2)
    index = entries[0].header.index
    leader.store.damage_entry(GROUP, index)
    turns_of(leader)._tail.forget(GROUP, 1, 100)
    return leader, index


def test_a_leader_that_cannot_serve_its_log_makes_way() -> None:
    """Nobody would be led elsewhere by a leader that is well but for one entry, and nobody would see the damage."""

    async def scenario(world: World) -> None:
        leader, index = await damaged_leader(world)
        group, leader.group = group_of(leader), None  # the checkers must not read it
        world._check_majority = lambda index: None  # type: ignore[method-assign]
        with pytest.raises(DataLossError):
            group.read(index, index + 1, 1)
        assert group.damaged is not None
        assert not group.ready
        await world.until(lambda: world.leader() is not None and world.leader() is not leader)
        for node in others(world, leader):
            assert group_of(node).read(index, index + 1, 1)

    world = World(3, 41)
    world.run(scenario)
    assert not world.failures


def test_the_only_replica_stays_and_serves_the_rest() -> None:
    """There is nobody to make way for."""

    async def scenario(world: World) -> None:
        leader, index = await damaged_leader(world)
        group = group_of(leader)
        world.check = lambda: None  # type: ignore[method-assign]  # it reads what is damaged
        with pytest.raises(DataLossError):
            group.read(index, index + 1, 1)
        assert group.damaged is None
        assert group.ready
        assert group.read(index + 1, index + 2, 1)

    World(1, 42).run(scenario)


def test_damage_in_what_is_trimmed_ends_nothing() -> None:
    """Nobody needs such an entry any more; that its size cannot be read is no reason to end a node, or its replica."""

    async def scenario(world: World) -> None:
        leader, index = await damaged_leader(world)
        for _ in range(10):
            world.publish(leader)
            await world.step(0.004)
        await world.until(world.converged)
        follower = others(world, leader)[0]
        follower.store.damage_entry(GROUP, index, 20)  # within its header
        turns_of(follower)._tail.forget(GROUP, 1, 100)
        before = group_of(follower).size_bytes
        for node in (leader, follower):
            group_of(node).trim(index + 5)
        await world.until(lambda: group_of(follower).first_index == index + 5 == group_of(leader).first_index)
        assert group_of(follower).damaged is None
        assert 0 < group_of(leader).size_bytes <= group_of(follower).size_bytes < before

    World(3, 44).run(scenario)


def test_the_only_voter_stays_when_a_learner_needs_what_it_cannot_read() -> None:
    """It serves the rest of its log, which nobody else could; the learner waits, and can be taken away again."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        late = world.nodes[2]
        entry = world.publish(leader)
        assert entry is not None
        await world.settle(0.1)
        leader.store.damage_entry(GROUP, entry.header.index)
        turns_of(leader)._tail.forget(GROUP, 1, 100)
        world.check = lambda: None  # type: ignore[method-assign]  # the checkers must not read it
        learner = join(late, replica=1)
        group_of(leader).reconfigure(group_of(leader).configuration.with_learner(learner))
        await world.settle(1.0)
        assert group_of(leader).damaged is None
        assert group_of(leader).ready
        assert group_of(late).last_index < entry.header.index
        again = world.publish(leader)
        assert again is not None
        await world.until(lambda: group_of(leader).commit_index >= again.header.index)
        group_of(leader).reconfigure(group_of(leader).configuration.without(learner))
        await world.until(lambda: not group_of(leader).configuration.learners)

    World(2, 42, founders=1).run(scenario)


async def found_out(world: World, level: int) -> WorldNode:
    """A follower that has found its replica to be damaged, at a feature level of the cluster, and has died of something else."""
    world.features = Features(level=level)
    for node in world.nodes.values():
        turns_of(node).features = world.features
    leader = await led(world)
    for _ in range(3):
        world.publish(leader)
    await world.until(world.converged)
    node = others(world, leader)[0]
    group = group_of(node)
    node.store.damage_entry(GROUP, group.last_index)
    turns_of(node)._tail.forget(GROUP, 1, 100)
    with pytest.raises(DataLossError):
        group.read(group.last_index, group.last_index + 1, 1)
    assert group.damaged is not None
    node.group = None  # the checkers must not read it
    await world.settle(0.2)
    node.crash()
    return node


def test_a_damaged_replica_is_known_after_a_new_start_and_votes() -> None:
    """It may be needed: with another voter down, nobody leads without it. It need not lead itself, where the other one can."""

    async def scenario(world: World) -> None:
        node = await found_out(world, Level.RENEWAL)
        world.check = lambda: None  # type: ignore[method-assign]  # it reads what is damaged
        node.start()
        assert group_of(node).damaged == "payload of entry 5 of group 7 fails its CRC32C"
        assert [held[1] for each in world.nodes.values() if (held := turns_of(each).held(GROUP))] == [
            each is node for each in world.nodes.values()
        ]
        down, well = others(world, node)
        down.crash()
        await world.until(lambda: world.leader() is well and group_of(well).ready)
        entry = world.publish(well)
        assert entry is not None
        await world.until(lambda: group_of(node).commit_index >= entry.header.index)

    world = World(3, 43)
    world.run(scenario)
    assert not world.failures


def test_nothing_is_left_of_damage_when_another_replica_is_opened_instead() -> None:
    """The mark goes with the data that it belongs to."""

    async def scenario(world: World) -> None:
        node = await found_out(world, Level.RENEWAL)
        node.start()
        turns_of(node).drop(GROUP)
        fresh = turns_of(node).open(GROUP, node.machine, replica=9, founders=(), preferred=False)
        assert (fresh.last_index, fresh.damaged) == (1, None)
        node.group = None
        await world.settle(0.2)
        assert node.store.row(GROUP, RAFT_TABLE, DAMAGED_ROW) is None

    World(3, 43).run(scenario)


def test_the_last_replica_goes_on_by_force_with_what_can_be_read() -> None:
    """A person has decided that it is better than nothing."""

    async def scenario(world: World) -> None:
        node = await found_out(world, Level.RENEWAL)
        lose(*others(world, node))
        await forced(world, node)
        world.check = lambda: None  # type: ignore[method-assign]  # it reads what is damaged
        node.start()
        await world.until(lambda: group_of(node).ready)

    World(3, 45).run(scenario)


def test_below_its_level_damage_is_not_written_down() -> None:
    """The version before may be started again over the same data, and would not know the row."""

    async def scenario(world: World) -> None:
        node = await found_out(world, Level.MEMBERSHIP)
        assert node.store.row(GROUP, RAFT_TABLE, DAMAGED_ROW) is None

    world = World(3, 44)
    world.run(scenario)
    assert not world.failures


def test_a_leader_that_the_others_need_lets_another_lead_and_votes() -> None:
    """One of two voters, or of three where one is down: another can serve the whole log, but only with this one's vote."""

    async def of_two(world: World) -> None:
        await makes_way(world, *await damaged_leader(world))

    async def of_three(world: World) -> None:
        leader, index = await damaged_leader(world)
        others(world, leader)[0].crash()
        await world.settle(SILENT_S + 1.0)
        await makes_way(world, leader, index)

    async def makes_way(world: World, leader: WorldNode, index: int) -> None:
        world.check = lambda: None  # type: ignore[method-assign]  # it reads what is damaged
        group = group_of(leader)
        with pytest.raises(DataLossError):
            group.read(index, index + 1, 1)
        assert not group.ready  # readers ask again
        await world.until(lambda: world.leader() not in (None, leader))
        other = world.leader()
        assert other is not None
        assert group_of(other).read(index, index + 1, 1)
        entry = world.publish(other)
        assert entry is not None
        await world.until(lambda: group_of(other).commit_index >= entry.header.index)

    World(2, 46).run(of_two)
    World(3, 47).run(of_three)


def test_a_damaged_leader_that_nobody_can_relieve_serves_the_rest() -> None:
    """The only other voter that is there is damaged too, and says so: leading in turns would help nobody."""

    async def scenario(world: World) -> None:
        leader, index = await damaged_leader(world)
        down, other = others(world, leader)
        down.crash()
        await world.settle(SILENT_S + 1.0)
        world.check = lambda: None  # type: ignore[method-assign]  # it reads what is damaged
        other.store.damage_entry(GROUP, index + 1)
        turns_of(other)._tail.forget(GROUP, 1, 100)
        with pytest.raises(DataLossError):
            group_of(other).read(index + 1, index + 2, 1)
        await world.settle(1.0)
        with pytest.raises(DataLossError):
            group_of(leader).read(index, index + 1, 1)
        assert group_of(leader).damaged is not None
        for _ in range(20):
            await world.settle(0.5)
            assert world.leader() is leader
            assert group_of(leader).ready
        assert group_of(leader).read(index + 1, index + 2, 1)

    World(3, 48).run(scenario)


def test_two_damaged_voters_fill_a_third_together() -> None:
    """What one of them cannot read the other can: they lead in turns, as far as each can give."""

    async def scenario(world: World) -> None:
        leader, lost = await with_one_voter_replaced(world, lambda node: node.store.damage_entry(GROUP, 4))
        well = next(node for node in others(world, leader) if node is not lost)
        well.store.damage_entry(GROUP, 6)
        turns_of(well)._tail.forget(GROUP, 1, 100)
        await world.until(lambda: group_of(lost).last_index >= max(group_of(leader).last_index, group_of(well).last_index) > 6)
        assert len(group_of(lost).read(4, 7, 1 << 20)) == 3

    World(3, 7).run(scenario)


def test_what_lies_behind_a_damaged_entry_is_given_to_who_holds_that_entry() -> None:
    """The entry is the last of a follower's log, the third disk is gone: all that is acknowledged is there yet, between the two.
    Also where the damaged entry is the last of its term, so that no other one tells its term."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        for _ in range(3):
            world.publish(leader, 200)
        await world.until(world.converged)
        await world.settle(1.0)  # the commit index reaches the disks
        behind, other = others(world, leader)
        index = group_of(behind).last_index
        behind.crash()
        assert group_of(leader).transfer()
        await world.until(lambda: world.leader() is other)
        world.publish(other, 200)
        await world.until(lambda: len(world.acknowledged) == 4)
        await world.until(lambda: group_of(leader).commit_index == group_of(other).commit_index)
        world.check = lambda: None  # type: ignore[method-assign]  # it reads what is damaged
        other.crash()
        leader.store.damage_entry(GROUP, index, 20)  # within its header
        turns_of(leader)._tail.forget(GROUP, 1, 100)
        acknowledged = group_of(leader).last_index
        assert acknowledged == index + 2
        behind.start()
        await world.until(lambda: world.leader() is behind)  # it is well, and can serve all of the log
        assert len(group_of(behind).read(index, acknowledged + 1, 1 << 20)) == 3

    World(3, 49).run(scenario)


@pytest.mark.parametrize("trimmed", [False, True])
def test_a_follower_need_not_know_that_what_it_holds_is_committed(trimmed: bool) -> None:
    """Its commit index reached no disk before it stopped: by its own word it lacks the entry that the leader cannot give. Also
    where that is right behind where the log begins, and nothing that was trimmed is missing."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        for _ in range(2):
            world.publish(leader, 200)
        await world.until(lambda: world.converged() and len(world.acknowledged) == 2)
        await world.settle(1.0)  # the commit index reaches the disks
        for node in world.nodes.values() if trimmed else ():
            group_of(node).trim(group_of(leader).last_index)
        await world.until(lambda: all((group_of(node).first_index > 1) == trimmed for node in world.nodes.values()))
        world.publish(leader, 200)
        index = group_of(leader).last_index
        assert not trimmed or index == group_of(leader).first_index + 1
        behind, other = others(world, leader)
        await world.until(lambda: group_of(behind).journal.durable_index == index)
        behind.crash()
        await world.until(lambda: len(world.acknowledged) == 3)
        assert group_of(leader).transfer()
        await world.until(lambda: world.leader() is other)
        world.publish(other, 200)
        await world.until(lambda: len(world.acknowledged) == 4)
        await world.until(lambda: group_of(leader).commit_index == group_of(other).commit_index)
        world.check = lambda: None  # type: ignore[method-assign]  # it reads what is damaged
        other.crash()
        leader.store.damage_entry(GROUP, index, 20)  # within its header
        turns_of(leader)._tail.forget(GROUP, 1, 100)
        acknowledged = group_of(leader).last_index
        behind.start()
        assert group_of(behind).last_index == index > group_of(behind).commit_index
        await world.until(lambda: world.leader() is behind)
        assert len(group_of(behind).read(index, acknowledged + 1, 1 << 20)) == 3

    keeping(World(3, 50)).run(scenario)


def test_a_voter_takes_entries_though_the_first_of_its_log_is_damaged() -> None:
    """Nobody needs that entry but who is given all of the log: the voter may be needed for what comes."""

    async def scenario(world: World) -> None:
        leader = await trimmed_world(world)
        await world.settle(0.2)
        world.check = lambda: None  # type: ignore[method-assign]  # it reads what is damaged
        voter, down = others(world, leader)
        down.crash()
        group = group_of(voter)
        voter.store.damage_entry(GROUP, group.first_index, 20)  # within its header
        turns_of(voter)._tail.forget(GROUP, 1, 100)
        entry = world.publish(leader)
        assert entry is not None
        await world.until(lambda: group.commit_index >= entry.header.index)
        assert not group.excluded

    keeping(World(3, 51)).run(scenario)


async def with_one_voter_replaced(world: World, damage: Callable[[WorldNode], None]) -> tuple[WorldNode, WorldNode]:
    """A leader that something is damaged on, found out only as it fills the new replica of a node whose old one is lost; and that
    node. Nobody but the leader and one more voter are left to vote."""
    leader = await led(world)
    for _ in range(5):
        world.publish(leader, 200)
    await world.until(world.converged)
    world.check = lambda: None  # type: ignore[method-assign]  # it reads what is damaged
    lost = others(world, leader)[0]
    turns_of(lost).drop(GROUP)
    member = join(lost, replica=9)
    damage(leader)
    turns_of(leader)._tail.forget(GROUP, 1, 100)
    group_of(leader).reconfigure(group_of(leader).configuration.with_learner(member))
    return leader, lost


@pytest.mark.parametrize("place", [20, 90], ids=["header", "payload"])
def test_damage_that_is_met_while_another_replica_is_made_anew_costs_no_leader(place: int) -> None:
    """The lost voter answers nothing any more, the new one does not count yet: without the damaged one there is no majority."""

    async def scenario(world: World) -> None:
        leader, lost = await with_one_voter_replaced(world, lambda node: node.store.damage_entry(GROUP, 4, place))
        group = group_of(leader)
        await world.until(lambda: group.damaged is not None)
        await world.until(lambda: world.leader() not in (None, leader))
        await world.until(lambda: group_of(lost).last_index == group.last_index)
        assert group_of(lost).read(4, 5, 1)
        assert leader.store.row(GROUP, RAFT_TABLE, DAMAGED_ROW) is not None

    World(3, 7).run(scenario)


@pytest.mark.parametrize("what", ["row", "base"])
def test_a_leader_that_cannot_give_a_snapshot_makes_way(what: str) -> None:
    """Nobody but a replica that comes reads this; it is filled by another leader."""

    async def scenario(world: World) -> None:
        leader, late = await trimmed_world(world), world.nodes[4]
        world.check = lambda: None  # type: ignore[method-assign]  # it reads what is damaged
        group = group_of(leader)
        if what == "row":
            leader.store.damage_row(GROUP, KEPT, next(iter(kept(leader))))
        else:
            leader.store.damage_entry(GROUP, group.first_index)
            turns_of(leader)._tail.forget(GROUP, 1, 100)
        await change(world, group.configuration.with_learner(join(late)))
        await world.until(lambda: group.damaged is not None)
        await world.until(lambda: group_of(late).last_index > 1 and group_of(late).commit_index > 1)

    keeping(World(4, 7, founders=3)).run(scenario)


def test_a_leader_that_cannot_give_a_snapshot_makes_way_without_losing_its_vote() -> None:
    """Here too the one voter that is well cannot lead alone."""

    async def scenario(world: World) -> None:
        leader = await trimmed_world(world)
        world.check = lambda: None  # type: ignore[method-assign]  # it reads what is damaged
        lost = others(world, leader)[0]
        turns_of(lost).drop(GROUP)
        member = join(lost, replica=9)
        await world.settle(SILENT_S + 1.0)
        leader.store.damage_row(GROUP, KEPT, next(iter(kept(leader))))
        group = group_of(leader)
        group.reconfigure(group.configuration.with_learner(member))
        await world.until(lambda: group_of(lost).commit_index > 1 and group_of(lost).last_index == group.last_index)
        assert group.damaged is not None
        assert world.leader() not in (None, leader)

    keeping(World(3, 7)).run(scenario)


def test_an_excluded_leader_gives_back_what_was_under_way() -> None:
    """All groups of a node share a window for each peer: one that sends no more must not hold any of it."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        world.check = lambda: None  # type: ignore[method-assign]  # it reads what is damaged
        slow = others(world, leader)[0]
        turns, group = turns_of(leader), group_of(leader)
        world.stall(slow.id, leader.id, 3.0)
        for _ in range(20):
            world.publish(leader, 20_000)
        await world.settle(0.3)
        assert not turns._windows.room(slow.id)
        turns._exclude(group, DataLossError("met while applying"))
        await world.settle(2.0)
        assert group.damaged == "met while applying"
        assert turns._windows.room(slow.id)
        assert world.leader() not in (None, leader)

    world = World(3, 7)
    world.window_bytes = 200_000
    world.run(scenario)
