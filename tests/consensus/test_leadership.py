"""Leadership as the broker sees it: read barriers, handing over, and who is said to lead."""

from __future__ import annotations

import pytest

from raftlog.errors import NotLeaderError, RequestTimedOutError
from raftlog.model import Role
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from tests.consensus.nodes import group_of, led, others, turns_of
from tests.consensus.world import GROUP, World

# ---- barriers


def test_a_barrier_is_confirmed_by_a_round_begun_after_it() -> None:
    """It returns the commit index of the call, when a majority has answered."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        entry = world.publish(leader)
        assert entry is not None
        await world.until(lambda: group_of(leader).commit_index == entry.header.index)
        began_s = world.loop.now_s
        assert await group_of(leader).barrier(1.0) == entry.header.index
        assert world.loop.now_s - began_s < world.times.heartbeat_s

    World(3, 18).run(scenario)


def test_an_echo_of_an_earlier_round_confirms_nothing() -> None:
    """Acknowledgements that were on the way before the barrier arrive after it, and do not count."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        group = group_of(leader)
        for node in others(world, leader):
            world.stall(node.id, leader.id, 0.15)
        assert group.member.begin_round()
        turns_of(leader).touch(group)
        await world.settle(0.03)
        answered = [follower.round for follower in group.member.sender.followers.values()]
        world.filter = lambda sender, *_: sender != leader.id
        with pytest.raises(RequestTimedOutError):
            await group.barrier(0.4)
        after = [follower.round for follower in group.member.sender.followers.values()]
        assert after > answered, "the earlier echoes should have come"
        assert group.role is Role.LEADER

    World(3, 19).run(scenario)


def test_a_deposed_leader_answers_no_barrier() -> None:
    """Cut off, it may still believe that it leads; its barrier is refused or times out, and a new leader serves."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        world.filter = lambda sender, recipient, _: leader.id not in (sender, recipient)
        with pytest.raises((NotLeaderError, RequestTimedOutError)):
            await group_of(leader).barrier(5.0)
        await world.until(lambda: world.leader() not in (None, leader))
        with pytest.raises(NotLeaderError):
            await group_of(leader).barrier(1.0)

    World(3, 20).run(scenario)


# ---- transfer, leadership elsewhere


def test_a_transfer_hands_over_without_waiting_for_an_election_timeout() -> None:
    """The follower that is furthest along campaigns at once, and has everything."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        for _ in range(10):
            world.publish(leader)
        began_s = world.loop.now_s
        assert group_of(leader).transfer()
        await world.until(lambda: world.leader() not in (None, leader))
        assert world.loop.now_s - began_s < world.times.election_min_s / 2
        await world.until(world.converged)
        assert len(world.acknowledged) == 10

    World(3, 21).run(scenario)


def test_only_a_leader_with_others_has_something_to_hand_over() -> None:
    """A follower and a group of one answer False."""

    async def follower(world: World) -> None:
        leader = await led(world)
        assert not group_of(others(world, leader)[0]).transfer()

    async def alone(world: World) -> None:
        assert not group_of(await led(world)).transfer()

    World(3, 22).run(follower)
    World(1, 22).run(alone)


def test_every_node_learns_who_leads() -> None:
    """From the group itself, or, without a replica that knows, from what leaders announce."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        for node in world.nodes.values():
            assert turns_of(node).leader_of(GROUP) == (leader.id, group_of(leader).term)
        assert turns_of(leader).leader_of(GROUP + 1) == (None, 0)
        bystander = others(world, leader)[0]
        turns_of(bystander).close(GROUP)
        bystander.group = None
        assert turns_of(bystander).leader_of(GROUP) == (leader.id, group_of(leader).term)

    World(3, 23).run(scenario)


def test_a_replica_that_its_group_forgot_believes_who_is_announced() -> None:
    """It hears no heartbeats any more and keeps the leader of its last term in mind; a leader of a later term counts for more."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        forgotten, newer = others(world, leader)
        term = group_of(leader).term + 1
        world.filter = lambda _, recipient, __: recipient != forgotten.id
        announced = pb.Leadership(group=GROUP, term=term, leader_node_id=newer.id)
        turns_of(forgotten).on_turn(newer.id, pb.Turn(leaderships=[announced]), [])
        await world.until(lambda: turns_of(forgotten).leader_of(GROUP) == (newer.id, term), seconds=0.1)
        assert (group_of(forgotten).leader, group_of(forgotten).term) == (leader.id, term - 1)

    World(3, 21).run(scenario)


def test_an_announcement_that_a_link_did_not_take_is_made_again() -> None:
    """A full buffer loses a frame. Who has no replica of the group hears of its leader in no other way, as long as it leads."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        await world.until(world.converged)
        stranger = world.nodes[4]
        await world.until(lambda: turns_of(stranger).leader_of(GROUP)[0] == leader.id)
        send = world.send
        world.send = lambda sender, recipient, turn, payloads: (  # type: ignore[method-assign]
            recipient != stranger.id and send(sender, recipient, turn, payloads)
        )
        assert group_of(leader).transfer()
        await world.until(lambda: world.leader() not in (None, leader))
        await world.settle(0.1)
        world.send = send  # type: ignore[method-assign]
        new = world.leader()
        assert new is not None
        await world.until(lambda: turns_of(stranger).leader_of(GROUP)[0] == new.id)

    World(4, 5, founders=3).run(scenario)
