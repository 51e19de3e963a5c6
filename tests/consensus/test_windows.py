"""What is under way to a follower that refuses it: given back, so that it and its neighbours are sent more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raftlog.consensus import sender as sender_module
from raftlog.model import Role
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from tests.consensus.nodes import group_of, led, others, turns_of
from tests.consensus.test_snapshots import trim
from tests.consensus.world import World, WorldNode

WINDOW_BYTES = 64 << 10


@pytest.fixture(autouse=True)
def _small_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "APPEND_BYTES_MAX", WINDOW_BYTES // 4)


def under_way(leader: WorldNode, node: WorldNode) -> int:
    """Bytes that a leader counts as under way to a node."""
    return turns_of(leader)._windows._bytes.get(node.id, 0)


def small_world(seed: int) -> World:
    """Three nodes with small windows."""
    world = World(3, seed)
    world.window_bytes = WINDOW_BYTES
    world.lag_max_s = 1.0
    return world


def test_who_was_trimmed_away_is_filled_and_then_sent_the_rest() -> None:
    """Behind the snapshot lies more of the log than a window holds, and the leader has sent it before it knew: for nothing."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        await world.until(world.converged)
        away = others(world, leader)[0]
        away.crash()
        for _ in range(60):
            world.publish(leader, 4_000)
            await world.step(0.005)
        await world.settle(2.0)
        await trim(world, 40)
        away.start()
        await world.until(world.converged)
        assert group_of(away).first_index > 1, "the test has seen nothing if no snapshot was needed"
        await world.until(lambda: under_way(leader, away) == 0)
        world.check_rest()

    small_world(68).run(scenario)


def test_who_drops_entries_for_want_of_room_is_sent_them_once_there_is_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full follower answers every heartbeat. What it has dropped does not fill the window, and it is not flooded meanwhile."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        await world.until(world.converged)
        full = others(world, leader)[0]
        sent = 0

        def watch(sender: int, recipient: int, wire: pb.RaftMessage) -> bool:
            nonlocal sent
            if (sender, recipient) == (leader.id, full.id):
                sent += wire.append_entries.entry_count * 4_000
            return True

        usage = replace(full.store.usage(), shortage="it is full", disk_free_bytes=0)
        assert usage.takes_no_copies
        with monkeypatch.context() as patch:
            patch.setattr(full.store, "recent_usage", lambda: usage)
            for _ in range(60):
                world.publish(leader, 4_000)
                await world.step(0.005)
            await world.settle(sender_module.STALLED_S + 1.0)
            world.filter = watch
            await world.settle(10.0)
            world.filter = lambda *_: True
        heartbeats = 10.0 / world.times.heartbeat_s
        assert 0 < sent <= heartbeats * WINDOW_BYTES / 4
        assert leader.group is not None
        assert leader.group.role is Role.LEADER
        await world.until(world.converged)
        await world.until(lambda: under_way(leader, full) == 0)
        world.check_rest()

    small_world(69).run(scenario)
