"""Members that answer nothing any more, and what they cost the others."""

from __future__ import annotations

from raftlog.consensus.sender import UNANSWERED_S
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from tests.consensus.nodes import group_of, led, others, turns_of
from tests.consensus.test_membership import caught_up, change, join
from tests.consensus.world import GROUP, World


def test_a_member_that_is_no_more_starves_nobody_on_its_node() -> None:
    """A node has lost a voter's disk and is given a new replica, while the voter still counts: its window is given back."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        node = others(world, leader)[0]
        await world.until(world.converged)
        lost = node.member
        turns_of(node).drop(GROUP)
        learner = join(node, replica=2)
        await change(world, group_of(leader).configuration.with_learner(learner))
        for _ in range(100):
            world.publish(leader, 4_000)
            await world.step(0.003)
        await caught_up(world, node)
        progress = group_of(leader).followers()
        assert progress[lost].match_index < progress[learner].match_index
        sent = 0

        def watch(_: int, __: int, wire: pb.RaftMessage) -> bool:
            nonlocal sent
            sent += wire.recipient == lost and wire.append_entries.entry_count
            return True

        await world.settle(UNANSWERED_S + 0.5)
        world.filter = watch
        for _ in range(20):
            world.publish(leader, 4_000)
            await world.step(0.02)
        assert sent == 0
        await world.until(lambda: turns_of(leader)._windows._bytes[node.id] == 0)
        await change(world, group_of(leader).configuration.without(lost))
        await change(world, group_of(leader).configuration.with_voter(learner))
        await world.until(world.converged)

    world = World(3, 66)
    world.window_bytes = 100_000
    world.run(scenario)


def test_a_member_that_answers_again_is_sent_all_again() -> None:
    """Its node was hung for longer than anybody waits: bare heartbeats find it, and entries follow."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        hung = others(world, leader)[0]
        await world.until(world.converged)
        world.filter = lambda sender, *_: sender != hung.id
        for _ in range(10):
            world.publish(leader)
            await world.step(0.01)
        await world.settle(UNANSWERED_S + 1.0)
        assert group_of(leader).member.sender.followers[hung.member].mute
        world.filter = lambda *_: True
        await world.until(lambda: not group_of(leader).member.sender.followers[hung.member].mute)
        world.publish(leader)
        await world.until(world.converged)
        world.check_rest()

    World(3, 67).run(scenario)
