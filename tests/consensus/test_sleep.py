"""Idle groups sleep, and wake when they must: whatever the leader, its followers and the links between them do."""

from __future__ import annotations

from statistics import median

from raftlog.consensus.group import Group
from raftlog.consensus.port import SILENT_S
from raftlog.core.configuration import Configuration, member_id
from raftlog.errors import DataLossError
from raftlog.model import Role
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from tests.consensus.nodes import group_of, led, others, turns_of
from tests.consensus.world import GROUP, World, WorldNode


async def asleep(world: World) -> WorldNode:
    """The leader, when all members sleep."""
    leader = await led(world)
    await world.until(lambda: all(sleeps(node) for node in world.nodes.values()))
    return leader


def sleeps(node: WorldNode) -> bool:
    """Whether a node's member sleeps."""
    return node.group is not None and node.group.member.asleep


def raft_messages(world: World) -> list[pb.RaftMessage]:
    """Where every message of a member will be found from now on."""
    seen: list[pb.RaftMessage] = []

    def look(sender: int, recipient: int, message: pb.RaftMessage) -> bool:
        seen.append(message)
        return True

    world.filter = look
    return seen


def test_an_idle_group_sleeps_on_all_nodes_and_its_members_say_nothing() -> None:
    """For many election timeouts: nobody campaigns, no message of a member leaves, and the leader stays what it was."""

    async def scenario(world: World) -> None:
        leader = await asleep(world)
        term, seen = group_of(leader).term, raft_messages(world)
        await world.settle(30 * world.times.election_max_s)
        assert seen == []
        assert all(sleeps(node) for node in world.nodes.values())
        assert (group_of(leader).role, group_of(leader).term) == (Role.LEADER, term)
        assert all(group_of(node).leader == leader.id for node in world.nodes.values())

    World().run(scenario)


def test_a_publish_wakes_the_group_and_it_sleeps_again() -> None:
    """The entry is committed on all members, in the same term."""

    async def scenario(world: World) -> None:
        leader = await asleep(world)
        term = group_of(leader).term
        entry = world.publish(leader)
        assert entry is not None
        await world.until(lambda: group_of(leader).commit_index >= entry.header.index, seconds=0.3)
        await world.until(lambda: all(sleeps(node) for node in world.nodes.values()))
        assert {group_of(node).commit_index for node in world.nodes.values()} == {entry.header.index}
        assert group_of(leader).term == term

    World().run(scenario)


def test_a_read_barrier_wakes_the_group_and_is_answered() -> None:
    """By a heartbeat round of its own: what stands for the heartbeats of sleeping groups proves nothing to a reader."""

    async def scenario(world: World) -> None:
        leader = await asleep(world)
        assert await group_of(leader).barrier(0.3) == group_of(leader).commit_index
        await world.until(lambda: all(sleeps(node) for node in world.nodes.values()))

    World().run(scenario)


def test_a_leader_that_is_busy_or_not_fully_followed_does_not_sleep() -> None:
    """A follower cannot take entries: the leader stays awake until it has, however long nothing else happens."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        behind = others(world, leader)[0]
        world.fill(behind.id, 5.0)
        world.publish(leader)
        await world.settle(20 * world.times.heartbeat_s)
        assert not sleeps(leader)
        assert not sleeps(behind)
        await world.until(lambda: all(sleeps(node) for node in world.nodes.values()))
        assert group_of(behind).last_index == group_of(leader).last_index

    World().run(scenario)


def test_a_follower_that_did_not_get_the_message_keeps_the_leader_awake() -> None:
    """And is heard: it does not campaign, and sleeps when the message comes through."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        deaf = others(world, leader)[0]

        def lose(sender: int, recipient: int, message: pb.RaftMessage) -> bool:
            return not (recipient == deaf.id and message.append_entries.sleep_epoch)

        world.filter = lose
        term = group_of(leader).term
        world.publish(leader)
        await world.settle(4 * world.times.election_min_s)
        assert not sleeps(leader)
        assert not sleeps(deaf)
        world.filter = lambda *_: True
        await world.until(lambda: all(sleeps(node) for node in world.nodes.values()))
        assert group_of(world.leader() or leader).term >= term

    World().run(scenario)


def test_an_older_node_that_knows_nothing_of_sleep_just_goes_on() -> None:
    """It never answers that it sleeps; the group lives by its own heartbeats, under one leader."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        older = others(world, leader)[0]

        def strip(sender: int, recipient: int, message: pb.RaftMessage) -> bool:
            if recipient == older.id:
                message.append_entries.ClearField("sleep_epoch") if message.HasField("append_entries") else None
            return True

        world.filter = strip
        term = group_of(leader).term
        world.publish(leader)
        await world.settle(10 * world.times.election_max_s)
        assert not sleeps(leader)
        assert (group_of(leader).role, group_of(leader).term) == (Role.LEADER, term)
        assert world.publish(leader) is not None

    World().run(scenario)


def test_when_the_leader_dies_a_sleeping_group_elects_within_the_usual_time() -> None:
    """Its links break: nobody waits for a silence."""

    async def scenario(world: World) -> None:
        leader = await asleep(world)
        leader.crash()
        begun_s = world.loop.now_s
        await world.until(lambda: world.leader() is not None, seconds=2 * world.times.election_max_s)
        took_s.append(world.loop.now_s - begun_s)

    took_s: list[float] = []
    for seed in range(1, 8):
        World(seed=seed).run(scenario)
    assert median(took_s) < World().times.election_min_s, "but for split votes, it takes less than a silence"


def test_when_the_leader_falls_silent_a_sleeping_group_elects_within_the_usual_time() -> None:
    """Its links stay up, and nothing comes: after an election timeout its followers look for another."""

    async def scenario(world: World) -> None:
        leader = await asleep(world)
        for other in others(world, leader):
            world.stall(leader.id, other.id, 60.0)
            world.stall(other.id, leader.id, 60.0)
        await world.until(
            lambda: any(group_of(other).ready for other in others(world, leader)), seconds=2 * world.times.election_max_s
        )
        await world.until(lambda: group_of(leader).role is not Role.LEADER, seconds=2 * world.times.fallback_s)

    for seed in range(1, 8):
        World(seed=seed).run(scenario)


def test_a_leader_that_hears_nothing_wakes_and_steps_down() -> None:
    """One way is dead: its followers hear it and sleep on, but it cannot know that it still leads."""

    async def scenario(world: World) -> None:
        leader = await asleep(world)
        for other in others(world, leader):
            world.stall(other.id, leader.id, 60.0)
        await world.until(lambda: group_of(leader).role is not Role.LEADER, seconds=4 * world.times.fallback_s)
        await world.until(lambda: any(group_of(other).ready for other in others(world, leader)))

    World().run(scenario)


def test_a_follower_that_hears_nothing_wakes_its_leader() -> None:
    """One way to one follower is dead: it asks for votes, which wakes the others, who still hear their leader."""

    async def scenario(world: World) -> None:
        leader = await asleep(world)
        deaf = others(world, leader)[0]
        term = group_of(leader).term
        world.stall(leader.id, deaf.id, 3.0)
        await world.until(lambda: not sleeps(deaf) and not sleeps(leader), seconds=2 * world.times.election_max_s)
        await world.until(lambda: all(sleeps(node) for node in world.nodes.values()))
        assert (group_of(leader).role, group_of(leader).term) == (Role.LEADER, term)

    World().run(scenario)


def test_a_short_silence_wakes_nobody_who_still_slept_at_its_end() -> None:
    """A heartbeat that matches proves that what was told still counts."""

    async def scenario(world: World) -> None:
        leader = await asleep(world)
        world.stall(leader.id, others(world, leader)[0].id, 0.3)
        await world.settle(3.0)
        assert all(sleeps(node) for node in world.nodes.values())

    World().run(scenario)


def test_a_restarted_follower_wakes_the_group_and_it_sleeps_again() -> None:
    """Its link is another, and what was told over the old one counts no more."""

    async def scenario(world: World) -> None:
        leader = await asleep(world)
        other, bystander = others(world, leader)
        other.crash()
        await world.until(lambda: not sleeps(leader))
        await world.settle(1.0)
        other.start()
        await world.until(lambda: all(sleeps(node) for node in (leader, other, bystander)))
        assert group_of(other).leader == leader.id

    World().run(scenario)


def test_a_restarted_leader_does_not_lead_sleepers() -> None:
    """They have woken by its lost links; it comes back as a follower, or is elected anew in a higher term."""

    async def scenario(world: World) -> None:
        leader = await asleep(world)
        term = group_of(leader).term
        leader.crash()
        leader.start()
        await world.until(lambda: world.leader() is not None and all(sleeps(node) for node in world.nodes.values()))
        assert group_of(leader).term > term

    World().run(scenario)


def test_the_followers_of_a_leader_that_takes_part_no_more_hear_of_it() -> None:
    """Its node lives on, and its links; the replica is closed. The others are told, and elect."""

    async def scenario(world: World) -> None:
        leader = await asleep(world)
        turns_of(leader).close(GROUP)
        leader.group = None
        await world.until(lambda: world.leader() is not None, seconds=2 * world.times.election_max_s)

    World().run(scenario)


def test_a_frame_that_was_lost_is_noticed() -> None:
    """The leader's node forgets what it has told: the heartbeat does not match, the followers wake, and all sleep again."""

    async def scenario(world: World) -> None:
        leader = await asleep(world)
        follower = others(world, leader)[0]
        told = turns_of(follower).quiescence._told[leader.id]
        told._groups.add(GROUP + 1, 1)  # as if the message that this one woke had been lost
        woken = turns_of(follower).quiescence.woken
        await world.until(lambda: turns_of(follower).quiescence.woken > woken, seconds=2 * world.times.election_max_s)
        await world.until(lambda: all(sleeps(node) for node in world.nodes.values()))
        await world.settle(3.0)
        assert all(sleeps(node) for node in world.nodes.values())

    World().run(scenario)


def test_learners_sleep_too_and_wake_with_the_group() -> None:
    """A member that counts nowhere holds the whole log as well before anybody sleeps."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        newcomer = world.nodes[4]
        newcomer.replica = 4
        newcomer.open()
        group: Group = group_of(leader)
        group.reconfigure(Configuration(voters=group.configuration.voters, learners=(member_id(4, 4),)))
        await world.until(lambda: all(sleeps(node) for node in world.nodes.values()))
        entry = world.publish(leader)
        assert entry is not None
        await world.until(lambda: group_of(newcomer).commit_index >= entry.header.index)
        await world.until(lambda: all(sleeps(node) for node in world.nodes.values()))

    World(4, founders=3).run(scenario)


def test_a_group_of_one_sleeps() -> None:
    """Nobody has to be told, and a publish is taken as before."""

    async def scenario(world: World) -> None:
        leader = await asleep(world)
        entry = world.publish(leader)
        assert entry is not None
        await world.until(lambda: group_of(leader).commit_index >= entry.header.index, seconds=0.2)

    World(1).run(scenario)


def test_a_sleeping_leader_tells_how_long_ago_its_followers_were_heard() -> None:
    """By their nodes' answers: trims and moves do not take them for gone."""

    async def scenario(world: World) -> None:
        leader = await asleep(world)
        await world.settle(5.0)
        assert sleeps(leader)
        assert all(progress.heard_s < 0.5 for progress in group_of(leader).followers().values())

    World().run(scenario)


def test_leadership_of_a_sleeping_group_can_be_handed_over() -> None:
    """The transfer wakes it."""

    async def scenario(world: World) -> None:
        leader = await asleep(world)
        assert group_of(leader).transfer()
        await world.until(lambda: any(group_of(node).ready for node in others(world, leader)), seconds=1.0)

    World().run(scenario)


def test_a_word_that_came_just_before_its_link_was_lost_lets_nobody_sleep() -> None:
    """A turn finds both the leader's word and the loss of the link that brought it: a follower that slept now would sleep for
    ever, for nobody is left whose silence could wake it."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        for node in others(world, leader):
            lose_links_behind_the_word(node)
        world.publish(leader)
        await world.until(lambda: all(lost(node) for node in others(world, leader)))
        leader.crash()
        await world.until(lambda: world.leader() not in (None, leader), seconds=5 * world.times.election_max_s)

    def lose_links_behind_the_word(node: WorldNode) -> None:
        turns = turns_of(node)
        on_turn = turns.on_turn

        def take(node_id: int, turn: pb.Turn, payloads: list[bytes]) -> None:
            on_turn(node_id, turn, payloads)
            if any(message.append_entries.sleep_epoch for message in turn.raft):
                turns.on_disconnected(node_id)

        turns.__dict__["on_turn"] = take

    def lost(node: WorldNode) -> bool:
        return len(turns_of(node)._links) < 2

    World().run(scenario)


def test_nobody_speaks_for_a_replica_that_takes_no_part() -> None:
    """Damage has excluded a follower of a group that sleeps: its node does not answer for it any more, and the leader wakes and
    hears that it is silent."""

    async def scenario(world: World) -> None:
        world.check = lambda: None  # type: ignore[method-assign]  # the checkers must not read it
        leader = await led(world)
        world.publish(leader)
        await world.until(world.converged)
        await world.until(lambda: group_of(leader).member.asleep)
        damaged = others(world, leader)[0]
        turns_of(damaged)._exclude(group_of(damaged), DataLossError("flipped bit"))
        await world.until(lambda: group_of(leader).followers()[damaged.member].heard_s > SILENT_S)
        assert not group_of(leader).member.asleep

    World(3, 5).run(scenario)


def test_the_leader_of_a_sleeping_group_hears_of_a_damaged_follower() -> None:
    """It must send no reader there."""

    async def scenario(world: World) -> None:
        world.check = lambda: None  # type: ignore[method-assign]  # the checkers must not read it
        leader = await led(world)
        world.publish(leader)
        await world.until(world.converged)
        await world.until(lambda: group_of(leader).member.asleep)
        damaged = others(world, leader)[0]
        turns_of(damaged).damage(group_of(damaged), DataLossError("flipped bit"))
        await world.until(lambda: group_of(leader).followers()[damaged.member].damaged)
        assert group_of(leader).followers()[damaged.member].heard_s < SILENT_S
        await world.until(lambda: group_of(leader).member.asleep)

    World(3, 5).run(scenario)
