"""The rules of the turn loop, one by one, in the small world: real loops, virtual time, disks and links in the test's hand."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from raftlog.consensus import group as group_module
from raftlog.consensus import sender as sender_module
from raftlog.consensus.messages import Append, Message
from raftlog.consensus.port import Rows
from raftlog.consensus.turns import LAZY_FLUSH_S
from raftlog.core.configuration import member_id, node_of
from raftlog.core.entry import EntryHeader
from raftlog.errors import OverloadedError
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.storage.port import WriteBatch
from tests.consensus.nodes import group_of, led, others, turns_of
from tests.consensus.test_random_faults import mixed_faults
from tests.consensus.world import GROUP, TABLE, CountingMachine, World, WorldNode, founding

HARD = struct.Struct(">Qq")


def record_commits(world: World, node: WorldNode) -> list[tuple[float, WriteBatch]]:
    """What a node commits from now on, and when."""
    commits: list[tuple[float, WriteBatch]] = []
    commit = node.store.commit

    def recording(batch: WriteBatch, done: Callable[[], None]) -> None:
        commits.append((world.loop.now_s, batch))
        commit(batch, done)

    node.store.commit = recording  # type: ignore[method-assign]
    return commits


# ---- rule 1: what leaves when


def durable(node: WorldNode) -> tuple[int, int, int]:
    """Term, vote and last index on a node's disk."""
    hard = node.store.row(GROUP, 0, b"hard")
    term, vote = HARD.unpack(hard) if hard else (0, -1)
    return term, vote, (node.store.bounds(GROUP) or (1, 0))[1]


def check_covered(node: WorldNode, wire: pb.RaftMessage) -> None:
    """Rule 1, for one message that leaves a node. A later message of the same turn may have moved the node on."""
    term, vote, last = durable(node)
    match wire.WhichOneof("body"):
        case "vote":
            assert (wire.vote.term, wire.recipient) <= (term, vote), "a vote left before it was durable"
            assert wire.vote.term < term or wire.recipient == vote, "two votes in one term"
        case "request_vote":
            assert (wire.request_vote.term, wire.sender) <= (term, vote), "a vote request left before the own vote was durable"
        case "append_ack":
            assert wire.append_ack.term <= term, "an acknowledgement left before its term was durable"
            if wire.append_ack.success and wire.append_ack.term == term:
                assert wire.append_ack.next_index - 1 <= last, "an acknowledgement left before the entry was durable"
        case "append_entries":
            assert wire.append_entries.term <= term, "an append left before the leader's term was durable"


@pytest.mark.parametrize("seed", [501, 502])
def test_nothing_leaves_before_what_it_depends_on_is_durable(seed: int) -> None:
    """Under any faults: votes, vote requests and acknowledgements wait for the disk, and appends for their term."""
    world, seen = World(3, seed), set[str | None]()

    def watch(sender: int, _: int, wire: pb.RaftMessage) -> bool:
        seen.add(wire.WhichOneof("body"))
        check_covered(world.nodes[sender], wire)
        return True

    world.filter = watch
    world.run(lambda world: mixed_faults(world, 4.0))
    assert seen >= {"vote", "request_vote", "append_ack", "append_entries", "pre_vote", "request_pre_vote"}


def test_appends_leave_before_the_leaders_own_fsync() -> None:
    """One fsync in series on leader and follower, not two: the entry is under way while the leader's disk still writes."""

    async def scenario(world: World) -> None:
        leader, early = await led(world), list[int]()

        def watch(sender: int, _: int, wire: pb.RaftMessage) -> bool:
            if sender == leader.id and wire.append_entries.entry_count:
                early.append(wire.append_entries.prev_index + wire.append_entries.entry_count - durable(leader)[2])
            return True

        world.filter = watch
        leader.disk_s = (0.2, 0.2)
        entry = world.publish(leader)
        assert entry is not None
        await world.until(lambda: all(durable(node)[2] >= entry.header.index for node in others(world, leader)))
        assert early == [1, 1]
        assert durable(leader)[2] < entry.header.index
        assert group_of(leader).commit_index < entry.header.index
        await world.until(lambda: group_of(leader).commit_index >= entry.header.index)

    World(3, 11).run(scenario)


# ---- rule 2: turns and commits


def test_no_turn_runs_while_a_commit_is_under_way() -> None:
    """What arrives and what is proposed meanwhile is the next turn's, in one transaction."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        for node in world.nodes.values():
            refuse_ticks(node)
            node.disk_s = (0.02, 0.05)
        commits = record_commits(world, leader)
        for _ in range(200):
            world.publish(leader)
            await world.step(0.001)
        await world.settle(0.5)
        assert 3 <= len(commits) < 25
        assert max(len(batch.entries) for _, batch in commits) >= 15

    World(3, 12).run(scenario)


def refuse_ticks(node: WorldNode) -> None:
    """A tick while a commit is under way ends the node."""
    member = group_of(node).member
    tick = member.tick

    def refusing() -> None:
        assert turns_of(node)._in_flight is None, "a group was ticked during a commit"
        tick()

    member.__dict__["tick"] = refusing


# ---- rule 3: lazy rows


def test_rows_follow_within_the_lazy_time_when_nothing_takes_them_along() -> None:
    """Applying starts no commit; 50 ms later its rows and the applied index reach the disk by themselves, once."""

    async def scenario(world: World) -> None:
        node = await led(world)
        await world.settle(0.2)
        commits = record_commits(world, node)
        entry = world.publish(node)
        assert entry is not None
        await world.until(lambda: group_of(node).applied_index == entry.header.index)
        applied_s = world.loop.now_s
        await world.settle(0.3)
        (_, first), (lazy_s, second) = commits
        assert list(first.entries) == [(GROUP, entry.header.index)]
        assert not second.entries
        assert {key for _, _, key in second.rows} == {b"count", b"progress"}
        assert lazy_s - applied_s == pytest.approx(LAZY_FLUSH_S, abs=0.005)
        assert node.store.row(GROUP, TABLE, b"count") == str(entry.header.index - 1).encode()

    World(1, 13).run(scenario)


def test_rows_ride_on_the_next_batch() -> None:
    """Where there is a next batch in time, no transaction of their own is made."""

    async def scenario(world: World) -> None:
        node = await led(world)
        await world.settle(0.2)
        commits = record_commits(world, node)
        for _ in range(20):
            world.publish(node)
            await world.settle(0.01)
        assert all(batch.entries for _, batch in commits)
        assert all(any(key == b"count" for _, _, key in batch.rows) for _, batch in commits[2:])

    World(1, 14).run(scenario)


def test_the_rows_of_a_transaction_are_in_step_with_its_applied_index() -> None:
    """At any crash, the number of entries counted in the row is the number applied; so nothing is applied twice or skipped."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        for _ in range(40):
            world.publish(leader)
            await world.step(0.004)
            for node in world.nodes.values():
                progress = node.store.row(GROUP, 0, b"progress")
                applied = struct.unpack(">QQQ", progress)[1] if progress else 1
                assert int(node.store.row(GROUP, TABLE, b"count") or b"0") == applied - 1

    World(3, 15).run(scenario)


# ---- rule 4: links and frames in one order


def test_links_and_frames_are_handled_in_the_order_they_came() -> None:
    """A frame of the old link is not taken for one of the new, even when all waited for one commit."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        node = others(world, leader)[0]
        turns, member, calls = turns_of(node), group_of(node).member, list[tuple[str, int]]()
        receive, connected, disconnected = member.receive, member.connected, member.disconnected

        def received(sender: int, message: Message) -> None:
            assert isinstance(message, Append)
            calls.append(("frame", message.round))
            receive(sender, message)

        def came_up(other: int) -> None:
            calls.append(("up", node_of(other)))
            connected(other)

        def went_down(other: int) -> None:
            calls.append(("down", node_of(other)))
            disconnected(other)

        world.filter = lambda *_: False
        await world.settle(0.05)
        member.receive, member.connected, member.disconnected = received, came_up, went_down  # type: ignore[method-assign]

        def frame(round_: int) -> pb.Turn:
            group = group_of(leader)
            heartbeat = pb.AppendEntries(term=group.term, prev_index=1, prev_term=0, commit_index=1, round=round_)
            return pb.Turn(
                raft=[pb.RaftMessage(group=GROUP, sender=member_id(leader.id, 1), recipient=member.id, append_entries=heartbeat)]
            )

        turns.on_turn(leader.id, frame(901), [])
        turns.on_disconnected(leader.id)
        turns.on_connected(leader.id)
        turns.on_turn(leader.id, frame(902), [])
        await world.settle(0.02)
        assert calls == [("frame", 901), ("down", leader.id), ("up", leader.id), ("frame", 902)]

    World(3, 16).run(scenario)


def test_frames_that_do_not_concern_this_replica_are_dropped() -> None:
    """An unknown group, a sender that is not on that node, another replica, a malformed message: none reaches the member."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        node = others(world, leader)[0]
        member, received = group_of(node).member, list[Any]()
        member.receive = lambda sender, message: received.append(message)  # type: ignore[method-assign]
        world.filter = lambda *_: False
        await world.settle(0.05)
        received.clear()
        sender = member_id(leader.id, 1)
        vote = pb.Vote(term=1)
        messages = [
            pb.RaftMessage(group=GROUP + 1, sender=sender, recipient=member.id, vote=vote),
            pb.RaftMessage(group=GROUP, sender=member_id(99, 1), recipient=member.id, vote=vote),
            pb.RaftMessage(group=GROUP, sender=sender, recipient=member_id(node.id, 2), vote=vote),
            pb.RaftMessage(group=GROUP, sender=sender, recipient=member.id),
            pb.RaftMessage(group=GROUP, sender=sender, recipient=member.id, append_entries=pb.AppendEntries(entry_count=2)),
        ]
        turns_of(node).on_turn(leader.id, pb.Turn(raft=messages), [])
        await world.settle(0.02)
        assert received == []
        good = pb.RaftMessage(group=GROUP, sender=sender, recipient=member.id, vote=vote)
        turns_of(node).on_turn(leader.id, pb.Turn(raft=[good]), [])
        await world.settle(0.02)
        assert len(received) == 1

    World(3, 17).run(scenario)


# ---- bounds


def test_a_stalled_follower_is_sent_a_window_and_catches_up_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has not acknowledged is bounded in bytes, the others go on, and nothing is lost for it."""
    monkeypatch.setattr(sender_module, "APPEND_BYTES_MAX", 16 << 10)

    async def scenario(world: World) -> None:
        leader = await led(world)
        stalled = others(world, leader)[0]
        sent = 0

        def watch(sender: int, recipient: int, wire: pb.RaftMessage) -> bool:
            nonlocal sent
            if (sender, recipient) == (leader.id, stalled.id):
                sent += wire.append_entries.entry_count * 4_000
            return True

        world.filter = watch
        world.stall(stalled.id, leader.id, 0.9)
        for _ in range(100):
            world.publish(leader, 4_000)
            await world.step(0.004)
        assert sent <= (64 + 16) << 10
        assert turns_of(leader)._windows._bytes[stalled.id] <= (64 + 16) << 10
        assert group_of(leader).commit_index > group_of(leader).last_index - 10
        await world.until(world.converged)
        await world.until(lambda: turns_of(leader)._windows._bytes[stalled.id] == 0)

    world = World(3, 24)
    world.window_bytes = 64 << 10
    world.run(scenario)


def test_producers_are_refused_when_too_much_waits_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays bounded under a slow disk, nothing is appended, and it goes on when the disk has caught up."""
    monkeypatch.setattr(group_module, "APPEND_BYTES_WAITING_MAX", 20_000)

    async def scenario(world: World) -> None:
        leader = await led(world)
        leader.disk_s = (0.5, 0.5)

        async def publish_many(count: int) -> None:
            for _ in range(count):
                world.publish(leader, 1_000)
                await world.step(0.001)

        with pytest.raises(OverloadedError):
            await publish_many(30)
        last = group_of(leader).last_index
        assert turns_of(leader).waiting_bytes() <= 20_000 + 2_000
        assert last < 30
        await world.until(lambda: group_of(leader).commit_index == last)
        assert world.publish(leader) is not None

    World(3, 25).run(scenario)


# ---- closing, dropping, damage, restart


def test_dropping_a_group_deletes_its_data_and_no_others() -> None:
    """Entries and rows go, also those that were still waiting; another group of the same node stays."""

    async def scenario(world: World) -> None:
        node = await led(world)
        turns = turns_of(node)
        other = turns.open(GROUP + 1, CountingMachine(), replica=1, founders=founding(1), preferred=True)
        await world.until(lambda: other.ready)
        world.publish(node)
        await world.settle(0.2)
        world.publish(node)
        turns.drop(GROUP)
        node.group = None
        await world.settle(0.3)
        assert node.store.groups() == [GROUP + 1]
        assert node.store.row(GROUP, TABLE, b"count") is None
        assert other.ready

    world = World(1, 26)
    world.run(scenario)
    assert not world.failures


def test_closing_a_group_keeps_its_data() -> None:
    """It can be opened again, and goes on where it was."""

    async def scenario(world: World) -> None:
        node = await led(world)
        world.publish(node)
        await world.settle(0.2)
        last = group_of(node).last_index
        turns_of(node).close(GROUP)
        machine = CountingMachine()
        node.group = turns_of(node).open(GROUP, machine, replica=1, founders=founding(1), preferred=False)
        assert (node.group.last_index, machine.applied) == (last, last - 1)
        await world.until(lambda: world.leader() is not None)

    World(1, 27).run(scenario)


def test_closing_a_group_leaves_its_rows_in_step_with_its_applied_index() -> None:
    """Rows that no transaction took along are forgotten with the progress they belong to; they are applied again."""

    async def scenario(world: World) -> None:
        node = await led(world)
        await world.settle(0.2)
        entry = world.publish(node)
        assert entry is not None
        await world.until(lambda: group_of(node).applied_index == entry.header.index)
        assert turns_of(node).lazy_rows
        turns_of(node).close(GROUP)
        node.group = None
        await world.settle(0.2)
        machine = CountingMachine()
        group = turns_of(node).open(GROUP, machine, replica=1, founders=founding(1), preferred=False)
        assert machine.applied == group.applied_index - 1

    World(1, 30).run(scenario)


def test_a_leader_that_cannot_read_what_a_follower_lacks_makes_way() -> None:
    """Another one fills the follower; the node and its other group go on."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        turns = turns_of(leader)
        other = turns.open(GROUP + 1, CountingMachine(), replica=1, founders=founding(leader.id), preferred=True)
        late = others(world, leader)[0]
        late.crash()
        entries = [world.publish(leader) for _ in range(3)]
        assert entries[0] is not None
        damaged = entries[0].header.index
        await world.until(lambda: len(world.acknowledged) == 3)
        leader.store.damage_entry(GROUP, damaged)
        turns._tail.forget(GROUP, 1, 100)
        group, leader.group = group_of(leader), None  # the checkers must not read it
        world._check_majority = lambda index: None  # type: ignore[method-assign]
        late.start()
        await world.until(lambda: group.damaged is not None)
        assert not group.ready
        await world.until(lambda: world.leader() not in (None, leader))
        assert other.ready
        survivors = others(world, leader)
        await world.until(lambda: len({group_of(node).commit_index for node in survivors}) == 1)
        for node in survivors:
            (entry,) = group_of(node).read(damaged, damaged + 1, 1)
            assert entry.data == entries[0].data

    world = World(3, 28)
    world.run(scenario)
    assert not world.failures


class ReadingMachine(CountingMachine):
    """Reads every payload that it applies, before it counts it."""

    def apply(self, entry: EntryHeader, payload: Callable[[], memoryview], rows: Rows) -> None:
        payload()
        super().apply(entry, payload, rows)


def test_damage_met_while_applying_leaves_the_rows_in_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was applied before the damaged entry is written with its index, so that it is not applied twice."""

    async def scenario(world: World) -> None:
        node = await led(world)
        await world.settle(0.2)
        entries = [world.publish(node) for _ in range(5)]
        assert entries[2] is not None
        await world.until(lambda: group_of(node).applied_index == group_of(node).last_index)
        node.crash()
        node.store.damage_entry(GROUP, entries[2].header.index)
        world.machine_class = ReadingMachine
        monkeypatch.setattr(world, "check", lambda: None)  # it reads what is damaged
        node.start()
        await world.until(lambda: group_of(node).damaged is not None)
        await world.settle(0.2)
        progress = node.store.row(GROUP, 0, b"progress")
        assert progress is not None
        _, applied, _ = struct.unpack(">QQQ", progress)
        assert applied == entries[2].header.index - 1
        assert int(node.store.row(GROUP, TABLE, b"count") or b"0") == applied - 1

    World(1, 31).run(scenario)


def test_a_restart_restores_the_machine_from_its_rows() -> None:
    """Only what is behind the durable applied index is applied again, and the count is right in the end."""

    async def scenario(world: World) -> None:
        node = await led(world)
        for _ in range(60):
            world.publish(node)
            await world.step(0.003)
        await world.settle(0.2)
        last = group_of(node).last_index
        world.publish(node)
        await world.settle(0.02)
        node.crash()
        applied: list[int] = []
        apply = CountingMachine.apply

        class Watching(CountingMachine):
            def apply(self, entry: Any, payload: Any, rows: Any) -> None:
                applied.append(entry.index)
                apply(self, entry, payload, rows)

        world.machine_class = Watching
        node.start()
        await world.until(lambda: world.leader() is not None and world.converged())
        assert applied[0] > last
        assert applied == list(range(applied[0], group_of(node).last_index + 1))
        assert node.machine.applied == group_of(node).last_index - 1

    World(1, 29).run(scenario)
