"""Members come and go: whole nodes in the small world, with links, disks and time in the test's hand."""

from __future__ import annotations

import pytest

from raftlog.consensus.journal import CONFIG_ROW, RAFT_TABLE
from raftlog.consensus.quiescence import HEARTBEATS
from raftlog.core.configuration import UNKNOWN, Configuration, decode_row, member_id
from raftlog.core.features import Features, Level
from raftlog.errors import InvalidReplicaAssignmentError, NotLeaderError, ReassignmentInProgressError, RequestTimedOutError
from raftlog.model import Role
from tests.consensus.nodes import group_of, led, others, turns_of
from tests.consensus.world import GROUP, TABLE, World, WorldNode


def at(*nodes: int, replica: int = 1) -> tuple[int, ...]:
    """Member ids on these nodes."""
    return tuple(member_id(node, replica) for node in nodes)


def join(node: WorldNode, replica: int = 1) -> int:
    """Give a node a replica that knows of no configuration; its member id."""
    node.replica = replica
    node.open()
    return node.member


async def change(world: World, new: Configuration) -> None:
    """Have the leader append a configuration, and wait until it is committed there."""
    leader = world.leader()
    assert leader is not None
    group = group_of(leader)
    group.reconfigure(new)
    await world.until(lambda: group.configuration_committed)
    assert group.configuration == new


async def caught_up(world: World, node: WorldNode) -> None:
    """Wait until a node has applied all that the leader has."""
    leader = world.leader()
    assert leader is not None
    await world.until(lambda: group_of(node).applied_index == group_of(leader).last_index)


async def grow(world: World, node: WorldNode, replica: int = 1) -> None:
    """Make a voter of a node, through being a learner."""
    leader = world.leader()
    assert leader is not None
    member = join(node, replica)
    await change(world, group_of(leader).configuration.with_learner(member))
    await caught_up(world, node)
    await change(world, group_of(leader).configuration.with_voter(member))


async def still_serves(world: World) -> None:
    """An entry is committed."""
    before = len(world.acknowledged)
    await world.until(lambda: world.leader() is not None)
    leader = world.leader()
    assert leader is not None
    assert world.publish(leader) is not None
    await world.until(lambda: len(world.acknowledged) > before)


# ---- growing and shrinking


def test_a_group_grows_from_one_to_three_and_survives_its_first_member() -> None:
    """Latecomers get all of the log from its beginning, become voters, and go on without the founder."""

    async def scenario(world: World) -> None:
        first = await led(world)
        for _ in range(20):
            world.publish(first)
        await grow(world, world.nodes[2])
        await grow(world, world.nodes[3])
        assert group_of(first).configuration == Configuration(at(1, 2, 3))
        assert group_of(first).members == (1, 2, 3)
        await world.until(world.converged)
        first.crash()
        await world.until(lambda: world.leader() not in (None, first))
        await still_serves(world)
        assert not world.missing()
        first.start()
        await world.until(world.converged)
        world.check_rest()

    World(3, 31, founders=1).run(scenario)


def test_a_latecomer_is_no_member_until_the_log_says_so() -> None:
    """Opened, it knows no configuration, has the log's first entry, and neither campaigns nor is sent anything."""

    async def scenario(world: World) -> None:
        leader, late = await led(world), world.nodes[3]
        join(late)
        await world.settle(3.0)
        group = group_of(late)
        assert (group.configuration, group.members, group.configuration_committed) == (UNKNOWN, (), True)
        assert (group.term, group.last_index, group.leader) == (0, 1, None)
        await change(world, Configuration(at(1, 2), at(3)))
        await caught_up(world, late)
        assert group.configuration == Configuration(at(1, 2), at(3))
        assert group.leader == leader.id

    World(3, 32, founders=2).run(scenario)


def test_a_learner_counts_in_no_quorum() -> None:
    """With one of two voters silent nothing is committed, no barrier is confirmed and nobody is elected, however many learn."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        other = others(world, leader)[0]
        for late in (world.nodes[3], world.nodes[4]):
            member = join(late)
            await change(world, group_of(leader).configuration.with_learner(member))
            await caught_up(world, late)
        world.filter = lambda sender, recipient, _: other.id not in (sender, recipient)
        entry = world.publish(leader)
        assert entry is not None
        with pytest.raises((RequestTimedOutError, NotLeaderError)):
            await group_of(leader).barrier(0.3)
        await world.until(lambda: group_of(leader).role is not Role.LEADER)
        assert group_of(world.nodes[3]).last_index == entry.header.index
        await world.settle(4.0)
        assert world.leader() is None
        assert group_of(leader).commit_index < entry.header.index
        world.filter = lambda *_: True
        await world.until(lambda: entry.header.index in world.committed)

    World(4, 33, founders=2).run(scenario)


def test_learners_never_campaign() -> None:
    """All voters are gone: a learner's term stays, and it still serves what it has."""

    async def scenario(world: World) -> None:
        leader, late = await led(world), world.nodes[2]
        member = join(late)
        await change(world, Configuration(at(1), (member,)))
        await caught_up(world, late)
        leader.crash()
        before = group_of(late).term
        await world.settle(5.0)
        assert (group_of(late).role, group_of(late).term) == (Role.FOLLOWER, before)

    World(2, 34, founders=1).run(scenario)


def test_a_single_voter_is_elected_without_its_learners() -> None:
    """It need not reach anybody."""

    async def scenario(world: World) -> None:
        leader, late = await led(world), world.nodes[2]
        await change(world, Configuration(at(1), (join(late),)))
        late.crash()
        leader.crash()
        leader.start()
        await still_serves(world)

    World(2, 35, founders=1).run(scenario)


def test_a_leader_that_is_removed_steps_down_after_the_commit() -> None:
    """It commits its own removal by the others' disks, asks one of them to take over, and never campaigns again."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        for _ in range(5):
            world.publish(leader)
        await world.until(world.converged)
        group, began_s = group_of(leader), world.loop.now_s
        entry = group.reconfigure(group.configuration.without(leader.member))
        await world.until(lambda: world.leader() not in (None, leader))
        assert world.loop.now_s - began_s < world.times.election_min_s / 2
        assert world.committed[entry.header.index][0] == entry.header.term
        assert group.role is Role.FOLLOWER
        await world.settle(3.0)
        assert group.term <= group_of(world.leader() or leader).term
        await still_serves(world)
        assert len(group_of(world.leader() or leader).configuration.voters) == 2

    World(3, 36).run(scenario)


def test_a_leader_that_is_not_a_voter_does_not_count_itself() -> None:
    """Its own disk is no part of the majority for its removal."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        other = others(world, leader)[0]
        world.filter = lambda sender, recipient, _: other.id not in (sender, recipient)
        group = group_of(leader)
        entry = group.reconfigure(group.configuration.without(leader.member))
        await world.settle(0.4)
        assert group.commit_index < entry.header.index
        world.filter = lambda *_: True
        await world.until(lambda: entry.header.index in world.committed)

    World(3, 37).run(scenario)


def test_a_leader_that_restarts_before_its_removal_is_committed_comes_back_to_commit_it() -> None:
    """Of two voters it alone has the newest log: the other one cannot be elected. It leads once more, and then steps down."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        (other,) = others(world, leader)
        world.filter = lambda sender, recipient, _: other.id not in (sender, recipient)
        entry = group_of(leader).reconfigure(Configuration((other.member,)))
        await world.until(lambda: group_of(leader).durable_index == entry.header.index)
        leader.crash()
        world.filter = lambda *_: True
        leader.start()
        await world.until(lambda: world.leader() is other)
        assert group_of(other).configuration == Configuration((other.member,))
        assert group_of(other).configuration_committed
        await world.settle(2.0)
        assert world.leader() is other
        assert group_of(leader).role is Role.FOLLOWER
        await still_serves(world)

    World(2, 65).run(scenario)


def test_a_removed_follower_disturbs_nobody() -> None:
    """It is told nothing more, asks for votes in vain, and costs no election."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        removed = others(world, leader)[0]
        world.filter = lambda sender, recipient, _: removed.id not in (sender, recipient)
        await change(world, group_of(leader).configuration.without(removed.member))
        world.filter = lambda *_: True
        term = group_of(leader).term
        await world.settle(5.0)
        assert world.leader() is leader
        assert group_of(leader).term == term
        assert removed.member in group_of(removed).configuration.voters

    World(3, 38).run(scenario)


def test_a_replica_is_replaced_on_its_own_node_under_a_new_id() -> None:
    """Dropped and opened again at once, it begins empty, whatever the disk still holds, and what the old one said is void."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        for _ in range(10):
            world.publish(leader)
        await world.until(world.converged)
        node = others(world, leader)[0]
        await change(world, group_of(leader).configuration.without(node.member))
        for _ in range(3):
            world.publish(leader)
        turns_of(node).drop(GROUP)
        member = join(node, replica=2)
        assert (group_of(node).last_index, group_of(node).configuration, node.machine.applied) == (1, UNKNOWN, 0)
        await change(world, group_of(leader).configuration.with_learner(member))
        await caught_up(world, node)
        await change(world, group_of(leader).configuration.with_voter(member))
        await world.until(world.converged)
        world.check_rest()
        await world.settle(0.2)
        assert int(node.store.row(GROUP, TABLE, b"count") or b"0") == group_of(node).applied_index - 1
        node.crash()
        node.start()
        await world.until(world.converged)
        world.check_rest()

    World(3, 39).run(scenario)


def test_data_of_a_replica_that_is_no_more_is_not_the_next_ones() -> None:
    """A node that was down while its replica was replaced opens the new one empty, without being told to drop the old one."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        world.publish(leader)
        await world.until(world.converged)
        node = others(world, leader)[0]
        await world.settle(0.2)
        node.crash()
        await change(world, group_of(leader).configuration.without(node.member))
        node.replica = 2
        node.start()
        assert (group_of(node).last_index, group_of(node).configuration, node.machine.applied) == (1, UNKNOWN, 0)
        await change(world, group_of(leader).configuration.with_learner(node.member))
        await caught_up(world, node)
        await world.settle(0.2)
        node.crash()
        node.start()
        assert group_of(node).last_index > 3
        await world.until(world.converged)
        world.check_rest()

    World(3, 64).run(scenario)


# ---- what is refused


def test_changes_come_one_at_a_time_and_in_steps() -> None:
    """By the leader only, only when the last one is committed, and never two voters at once."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        group, follower = group_of(leader), group_of(others(world, leader)[0])
        with pytest.raises(NotLeaderError):
            follower.reconfigure(follower.configuration.with_learner(member_id(9, 1)))
        with pytest.raises(InvalidReplicaAssignmentError, match="one voter at a time"):
            group.reconfigure(Configuration((leader.member,)))
        first = group.reconfigure(group.configuration.with_learner(member_id(9, 1)))
        assert not group.configuration_committed
        with pytest.raises(ReassignmentInProgressError):
            group.reconfigure(group.configuration.without(member_id(9, 1)))
        await world.until(lambda: group.commit_index >= first.header.index)
        assert group.configuration_committed
        await change(world, group.configuration.without(member_id(9, 1)))

    World(3, 40).run(scenario)


# ---- configurations that are not committed, and restarts


def test_a_configuration_that_is_truncated_is_withdrawn() -> None:
    """A cut off leader appends one; when it follows another leader, it is in the group that it was in."""

    async def scenario(world: World) -> None:
        old = await led(world)
        group, before = group_of(old), group_of(old).configuration
        world.isolate(old.id)
        group.reconfigure(before.without(others(world, old)[0].member))
        assert group.configuration != before
        await world.until(lambda: world.leader() not in (None, old))
        leader = world.leader()
        assert leader is not None
        world.publish(leader)
        world.heal()
        await world.until(world.converged)
        assert group.configuration == before
        assert group_of(leader).configuration == before
        await world.settle(0.2)
        row = old.store.row(GROUP, RAFT_TABLE, CONFIG_ROW)
        assert row is not None
        assert decode_row(row) == (1, [(1, before)])

    World(3, 41).run(scenario)


def test_a_leader_that_is_elected_with_an_open_change_finishes_it() -> None:
    """The old leader's change reached one follower, which is elected and commits it with its own no-op."""

    async def scenario(world: World) -> None:
        old = await led(world)
        heir, deaf = others(world, old)[:2]
        late = world.nodes[4]
        new = group_of(old).configuration.with_learner(join(late))
        world.filter = lambda sender, recipient, _: deaf.id not in (sender, recipient)
        world.stall(heir.id, old.id, 0.5)
        entry = group_of(old).reconfigure(new)
        await world.until(lambda: group_of(heir).last_index == entry.header.index)
        assert group_of(heir).configuration == new
        assert not group_of(heir).configuration_committed
        old.crash()
        world.filter = lambda *_: True
        await world.until(lambda: world.leader() is heir)
        await world.until(lambda: group_of(heir).configuration_committed)
        assert group_of(heir).configuration == new
        await caught_up(world, late)

    World(4, 42, founders=3).run(scenario)


@pytest.mark.parametrize("seed", range(6))
def test_a_configuration_survives_restarts(seed: int) -> None:
    """Committed or not, whatever of the last transaction was kept: the row and the log say the same."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        late = world.nodes[4]
        new = group_of(leader).configuration.with_learner(join(late))
        group_of(leader).reconfigure(new)
        await world.settle(0.001 * seed)
        for node in world.nodes.values():
            node.crash()
        for node in world.nodes.values():
            node.start()
        for node in world.nodes.values():
            entries = group_of(node).read(1, group_of(node).last_index + 1, 1 << 20)
            in_log = any(entry.header.kind.name == "CONFIGURATION" for entry in entries)
            begun = Configuration(at(1, 2, 3)) if node is not late else UNKNOWN
            assert group_of(node).configuration == (new if in_log else begun)
        await still_serves(world)
        settled = group_of(world.leader() or leader).configuration
        assert settled in (new, Configuration(at(1, 2, 3)))
        await world.until(world.converged)

    World(4, 50 + seed, founders=3).run(scenario)


def test_a_data_directory_without_the_row_takes_the_founders() -> None:
    """As an older version left it."""

    async def scenario(world: World) -> None:
        world.features = Features(level=Level.FIRST)
        leader = await led(world)
        world.publish(leader)
        await world.until(world.converged)
        await world.settle(0.2)
        for node in world.nodes.values():
            node.crash()
            node.store._put_row(GROUP, RAFT_TABLE, CONFIG_ROW, None)
            node.start()
        await still_serves(world)
        assert group_of(world.leader() or leader).configuration == Configuration(at(1, 2, 3))
        await world.settle(0.2)
        assert all(node.store.row(GROUP, RAFT_TABLE, CONFIG_ROW) for node in world.nodes.values())

    World(3, 60).run(scenario)


# ---- handing over


def test_leadership_is_handed_to_the_voter_that_is_named() -> None:
    """Not to another one, and never to a learner."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        group, wanted = group_of(leader), others(world, leader)[0]
        learner = join(world.nodes[4])
        await change(world, group.configuration.with_learner(learner))
        assert not group.transfer(learner)
        assert not group.transfer(leader.member)
        assert group.transfer(wanted.member)
        await world.until(lambda: world.leader() is wanted)

    World(4, 61, founders=3).run(scenario)


def test_a_group_of_one_voter_has_nobody_to_hand_over_to() -> None:
    """Its learners do not count."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        await change(world, group_of(leader).configuration.with_learner(join(world.nodes[2])))
        assert not group_of(leader).has_successor
        assert not group_of(leader).transfer()

    World(2, 62, founders=1).run(scenario)


# ---- what a leader knows of the others


def test_a_leader_tells_how_far_its_followers_are() -> None:
    """What they hold, and how long ago they were heard; trims wait for the slowest, learners included."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        group, late = group_of(leader), world.nodes[3]
        await change(world, group.configuration.with_learner(join(late)))
        await caught_up(world, late)
        world.publish(leader)
        await world.until(world.converged)
        await world.settle(0.3)
        progress = group.followers()
        assert set(progress) == {*at(1, 2, 3)} - {leader.member}
        assert {one.match_index for one in progress.values()} == {group.last_index}
        # Asleep by now: a node's beat, and the answer that may wait for the next frame.
        two_beats_s = 2 * HEARTBEATS * world.times.heartbeat_s
        assert max(one.heard_s for one in progress.values()) < two_beats_s + 0.05
        late.crash()
        world.publish(leader)
        await world.settle(0.5)
        assert group.followers()[late.member].heard_s > 0.4
        assert group.min_match_index() == group.followers()[late.member].match_index < group.last_index
        assert group_of(others(world, leader)[0]).followers() == {}

    World(3, 63, founders=2).run(scenario)
