"""What the groups of a node share: one transaction a turn, bounded frames, bounded turns; and a hand-over that fails."""

from __future__ import annotations

import pytest

from raftlog.consensus import inbox as inbox_module
from raftlog.consensus.group import HAND_OVER_S, Group
from raftlog.consensus.turns import Turns
from raftlog.core.entry import Entry, EntryHeader, EntryKind, encode
from raftlog.model import Role
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.storage.port import WriteBatch
from tests.consensus.world import GROUP, CountingMachine, Links, World, WorldNode, founding


async def led(world: World) -> tuple[WorldNode, Turns, Group]:
    """The first leader, when all agree."""
    await world.until(lambda: world.leader() is not None and world.converged())
    leader = world.leader()
    assert leader is not None
    assert leader.turns is not None
    assert leader.group is not None
    return leader, leader.turns, leader.group


def append(group: Group, size: int) -> Entry:
    """Append an entry to any group."""

    def build(index: int, term: int, last: EntryHeader) -> Entry:
        return encode(EntryHeader(EntryKind.RECORDS, group.group, index, term, last.next_offset, 1), bytes(size))

    return group.append(build)


def test_all_groups_of_a_node_share_one_transaction() -> None:
    """Twenty groups that are written to between two turns cost one commit."""

    async def scenario(world: World) -> None:
        node, turns, _ = await led(world)
        groups = [
            turns.open(GROUP + 1 + number, CountingMachine(), replica=1, founders=founding(1), preferred=True)
            for number in range(20)
        ]
        await world.until(lambda: all(group.ready for group in groups))
        await world.settle(0.2)
        batches: list[WriteBatch] = []
        commit = node.store.commit
        node.store.commit = lambda batch, done: (batches.append(batch), commit(batch, done))[1]  # type: ignore[method-assign,func-returns-value]
        entries = [append(group, 100) for group in groups]
        await world.until(lambda: all(group.applied_index == group.last_index for group in groups))
        await world.settle(0.2)
        assert set(batches[0].entries) == {(entry.header.group, entry.header.index) for entry in entries}
        assert len(batches) == 2
        assert not batches[1].entries

    World(1, 61).run(scenario)


def test_frames_are_bounded_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower that lacks much is sent several frames, each within the limit, and gets every entry once."""
    monkeypatch.setattr("raftlog.consensus.outgoing.FRAME_PAYLOAD_BYTES_MAX", 20_000)
    monkeypatch.setattr("raftlog.consensus.sender.APPEND_BYTES_MAX", 8_000)
    frames: list[tuple[int, int]] = []
    send_turn = Links.send_turn

    def watching(links: Links, node_id: int, turn: pb.Turn, payloads: list[bytes]) -> bool:
        frames.append((sum(map(len, payloads)), len(turn.raft)))
        return send_turn(links, node_id, turn, payloads)

    async def scenario(world: World) -> None:
        leader, _, group = await led(world)
        late = next(node for node in world.nodes.values() if node is not leader)
        late.crash()
        for _ in range(60):
            append(group, 1_000)
        last = append(group, 30_000).header.index
        await world.until(lambda: group.commit_index == last)
        monkeypatch.setattr(Links, "send_turn", watching)
        late.start()
        await world.until(world.converged)

    World(3, 62).run(scenario)
    large = [(size, messages) for size, messages in frames if size]
    assert len(large) > 3
    assert all(size <= 20_000 or messages == 1 for size, messages in large)


def test_a_turn_delivers_a_bounded_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrives while the disk is slow becomes several transactions, none much above the limit, and nothing is lost."""
    monkeypatch.setattr(inbox_module, "TURN_BYTES_MAX", 10_000)

    async def scenario(world: World) -> None:
        leader, _, group = await led(world)
        slow = next(node for node in world.nodes.values() if node is not leader)
        sizes: list[int] = []
        commit = slow.store.commit

        def recording(batch: WriteBatch, done: object) -> None:
            sizes.append(batch.size_bytes)
            commit(batch, done)  # type: ignore[arg-type]

        slow.store.commit = recording  # type: ignore[method-assign]
        slow.disk_s = (0.1, 0.1)
        for _ in range(60):
            append(group, 1_000)
            await world.step(0.003)
        await world.until(world.converged)
        assert max(sizes) <= 10_000 + 2 * 1_100
        assert sum(size > 5_000 for size in sizes) >= 3

    World(3, 63).run(scenario)


def test_a_hand_over_that_nobody_takes_ends_by_itself() -> None:
    """Appends are refused while a follower is asked; where it does not answer, the leader goes on."""

    async def scenario(world: World) -> None:
        leader, _, group = await led(world)
        world.filter = lambda _, __, wire: wire.WhichOneof("body") != "timeout_now"
        assert group.transfer()
        await world.step()
        assert world.publish(leader) is None
        await world.settle(HAND_OVER_S)
        assert group.role is Role.LEADER
        entry = world.publish(leader)
        assert entry is not None
        await world.until(lambda: group.commit_index == entry.header.index)

    World(3, 64).run(scenario)
