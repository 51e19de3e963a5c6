"""Snapshots: replicas that lack what the leader's log no longer holds, in the small world."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raftlog.consensus import snapshot_pull, snapshot_source
from raftlog.consensus.port import Rows
from raftlog.consensus.snapshot import STAGED, staging_id
from raftlog.consensus.snapshot_pull import OPEN, READ
from raftlog.core.configuration import member_id
from raftlog.core.entry import EntryHeader
from raftlog.errors import InvalidRequestError, NotLeaderError, OverloadedError, UnavailableError
from raftlog.model import Role
from raftlog.pb.raftlog.internal.v1 import snapshot_pb2 as pb
from tests.consensus.nodes import group_of, led, others, turns_of
from tests.consensus.test_membership import caught_up, change, join
from tests.consensus.test_random_faults import mixed_faults
from tests.consensus.world import GROUP, TABLE, CountingMachine, World, WorldNode

KEPT = TABLE + 1


class KeepingMachine(CountingMachine):
    """Writes a row for each entry, too."""

    def apply(self, entry: EntryHeader, payload: Callable[[], memoryview], rows: Rows) -> None:
        super().apply(entry, payload, rows)
        rows.put(KEPT, entry.index.to_bytes(8, "big"), b"%d" % entry.term)


async def publish(world: World, count: int, size: int = 20) -> None:
    """Entries, committed and applied by all members that are up."""
    leader = world.leader()
    assert leader is not None
    for _ in range(count):
        world.publish(leader, size)
        await world.step(0.003)
    await world.until(lambda: group_of(leader).applied_index == group_of(leader).last_index)


async def trim(world: World, keep: int = 5) -> None:
    """All members delete all but the last few entries, whoever lacks them."""
    for node in world.member_nodes():
        if node.group is not None:
            node.group.trim(node.group.applied_index - keep)
    await world.until(
        lambda: all(
            node.group.applied_index - node.group.first_index <= keep for node in world.member_nodes() if node.group is not None
        )
    )
    await world.settle(0.2)


def kept(node: WorldNode) -> dict[bytes, bytes]:
    """The rows of a node's state machine, as stored."""
    return dict(node.store.rows(GROUP, KEPT))


def staged(node: WorldNode) -> list[int]:
    """What is staged on a node's disk."""
    return [group for group in node.store.groups() if group >= STAGED]


async def trimmed_world(world: World, entries: int = 30) -> WorldNode:
    """A leader whose log begins late."""
    leader = await led(world)
    await publish(world, entries)
    await trim(world)
    assert group_of(leader).first_index > entries - 5
    return leader


def keeping(world: World) -> World:
    """The same world, its machines keeping rows."""
    world.machine_class = KeepingMachine
    return world


def test_a_latecomer_gets_what_was_trimmed_as_a_snapshot() -> None:
    """State and log are then those of the others, across a restart too, and nothing is left staged."""

    async def scenario(world: World) -> None:
        leader, late = await trimmed_world(world), world.nodes[3]
        await change(world, group_of(leader).configuration.with_learner(join(late)))
        await publish(world, 3)
        await caught_up(world, late)
        assert group_of(late).first_index >= group_of(leader).first_index
        assert late.snapshots is not None
        assert late.snapshots.installed == 1
        await world.until(world.converged)
        world.check_rest()
        await change(world, group_of(leader).configuration.with_voter(late.member))
        await publish(world, 3)
        await world.settle(0.3)
        assert kept(late) == kept(leader)
        assert not staged(late)
        late.crash()
        late.start()
        await world.until(world.converged)
        world.check_rest()
        assert kept(late) == kept(leader)

    keeping(World(3, 71, founders=2)).run(scenario)


def test_a_large_state_is_pulled_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page is durable before the next is asked for, and the leader tells how far it is."""
    monkeypatch.setattr(snapshot_source, "PAGE_BYTES_MAX", 40)
    monkeypatch.setattr(snapshot_pull, "BYTES_PER_S", 2_000)

    async def scenario(world: World) -> None:
        leader, late = await trimmed_world(world), world.nodes[3]
        member = join(late)
        await change(world, group_of(leader).configuration.with_learner(member))
        seen: list[tuple[int, int]] = []
        pages: list[int] = []

        def look() -> bool:
            progress = group_of(leader).followers()[member]
            seen.append((progress.snapshot_sent_bytes, progress.snapshot_total_bytes))
            pages.append(sum(1 for group in staged(late) for _ in late.store.rows(group, KEPT)))
            return group_of(late).applied_index > 1

        await world.until(look)
        totals = {total for _, total in seen if total}
        assert len(totals) == 1
        assert sorted(set(seen))[-1][0] <= max(totals)
        assert len({sent for sent, _ in seen}) > 5
        assert len(set(pages)) > 5
        await caught_up(world, late)
        assert group_of(leader).followers()[member].snapshot_total_bytes == 0
        await world.settle(0.2)
        assert kept(late) == kept(leader)

    keeping(World(3, 72, founders=2)).run(scenario)


def test_a_replica_that_is_filled_follows_and_does_nothing_else() -> None:
    """Its state is ahead of its log: until the log has come it neither campaigns nor applies nor serves, across restarts too."""

    async def filled(world: World) -> None:
        leader, late = await trimmed_world(world), world.nodes[2]
        member = join(late)
        await change(world, group_of(leader).configuration.with_learner(member))
        world.filter = lambda _, recipient, wire: not (recipient == late.id and wire.append_entries.entry_count)
        await world.until(lambda: late.snapshots is not None and late.snapshots.installed == 1)
        await world.until(lambda: group_of(late).applied_index > 20)
        group = group_of(late)
        assert group.journal.filling
        assert group.leader is None
        assert group.commit_index == group.last_index == group.first_index
        before = late.machine.applied
        late.crash()
        late.start()
        group = group_of(late)
        assert group.journal.filling, "it is filled across a restart"
        term = group.term
        leader.crash()
        await world.settle(3.0)
        assert (group.term, group.role) == (term, Role.FOLLOWER)
        leader.start()
        await world.until(lambda: world.leader() is leader)
        assert late.machine.applied == before
        world.filter = lambda *_: True
        await caught_up(world, late)
        assert not group.journal.filling
        assert group.leader == leader.id
        world.check_rest()

    keeping(World(2, 73, founders=1)).run(filled)


def test_a_voter_that_is_filled_elects_the_leader_that_fills_it() -> None:
    """One of three is down, one is being filled; the third restarts and needs its vote. Without it nobody would come back."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        other, third = others(world, leader)
        await publish(world, 5)
        await world.until(world.converged)
        other.crash()
        await publish(world, 20)
        await trim(world)
        world.filter = lambda _, recipient, wire: not (recipient == other.id and wire.append_entries.entry_count)
        other.start()
        await world.until(lambda: group_of(other).journal.filling)
        third.crash()
        leader.crash()
        leader.start()
        await world.until(lambda: group_of(leader).role is Role.LEADER)
        assert group_of(other).journal.filling
        world.filter = lambda *_: True
        await world.until(lambda: world.leader() is leader)
        await caught_up(world, other)
        third.start()
        await world.until(world.converged)

    World(3, 74).run(scenario)


def test_trims_do_not_wait_for_a_member_that_is_silent_for_long() -> None:
    """It is waited for as long as it may come back soon; later it gets a snapshot."""

    async def scenario(world: World) -> None:
        world.lag_max_s = 30.0
        leader = await led(world)
        down = others(world, leader)[0]
        await publish(world, 10)
        await world.until(world.converged)
        held = group_of(down).last_index
        down.crash()
        await publish(world, 30)
        assert group_of(leader).min_match_index() <= held
        await world.settle(25.0)
        assert group_of(leader).min_match_index() <= held
        await world.settle(6.0)
        assert group_of(leader).min_match_index() > held
        world.trim()
        await world.until(lambda: group_of(leader).first_index > held)
        down.start()
        await world.until(world.converged)
        assert down.snapshots is not None
        assert down.snapshots.installed == 1
        world.check_rest()
        assert not world.missing()

    World(3, 75).run(scenario)


@pytest.mark.parametrize("moment", range(12))
def test_a_crash_at_any_moment_leaves_the_old_or_the_new(moment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of the transaction under way was kept: the node starts, nothing stays staged, and in the end it has it all."""
    monkeypatch.setattr(snapshot_source, "PAGE_BYTES_MAX", 150)

    async def scenario(world: World) -> None:
        leader, late = await trimmed_world(world), world.nodes[3]
        await change(world, group_of(leader).configuration.with_learner(join(late)))
        await world.until(lambda: bool(staged(late)))
        await world.settle(0.002 * moment)
        late.crash()
        applied = late.store.row(GROUP, 0, b"progress")
        late.start()
        if applied is None:
            assert late.machine.applied == 0
        await world.until(world.converged)
        await world.settle(0.3)
        assert not staged(late)
        assert kept(late) == kept(leader)
        world.check_rest()

    keeping(World(3, 76 + moment, founders=2)).run(scenario)


def test_a_pull_whose_leader_dies_is_given_up_and_begun_at_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was staged is dropped."""
    monkeypatch.setattr(snapshot_source, "PAGE_BYTES_MAX", 60)
    monkeypatch.setattr(snapshot_pull, "BYTES_PER_S", 500)

    async def scenario(world: World) -> None:
        leader, late = await trimmed_world(world), world.nodes[4]
        await change(world, group_of(leader).configuration.with_learner(join(late)))
        await world.until(lambda: bool(staged(late)))
        (first,) = staged(late)
        leader.crash()
        await world.until(lambda: world.leader() not in (None, leader))
        await caught_up(world, late)
        await world.settle(0.3)
        assert not staged(late)
        assert late.snapshots is not None
        assert first != staging_id(GROUP, late.snapshots._attempts)
        leader.start()
        await world.until(world.converged)

    keeping(World(4, 90, founders=3)).run(scenario)


def test_a_staged_row_that_is_damaged_gives_up_the_pull_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is met before anything is installed: the pull starts again, and the replica gets a sound state."""
    monkeypatch.setattr(snapshot_source, "PAGE_BYTES_MAX", 60)
    monkeypatch.setattr(snapshot_pull, "BYTES_PER_S", 500)

    async def scenario(world: World) -> None:
        leader, late = await trimmed_world(world), world.nodes[3]
        await change(world, group_of(leader).configuration.with_learner(join(late)))
        await world.until(lambda: bool(staged(late)))
        (first,) = staged(late)
        late.store.damage_row(first, KEPT, next(iter(late.store.rows(first, KEPT)))[0])
        await caught_up(world, late)
        await world.until(lambda: not staged(late))
        assert late.snapshots is not None
        assert (late.snapshots.installed, first != staging_id(GROUP, late.snapshots._attempts)) == (1, True)
        assert not group_of(late).damaged
        assert kept(late) == kept(leader)
        await world.until(world.converged)

    keeping(World(3, 92, founders=2)).run(scenario)


def test_a_snapshot_that_comes_too_late_changes_nothing() -> None:
    """The log has passed its base meanwhile, or the replica is another one."""

    async def scenario(world: World) -> None:
        leader = await trimmed_world(world)
        other = others(world, leader)[0]
        assert other.snapshots is not None
        before = (group_of(other).last_index, group_of(other).commit_index)
        other.snapshots.offered(group_of(other), leader.member)
        await world.settle(0.3)
        assert other.snapshots.installed == 0
        assert (group_of(other).last_index, group_of(other).commit_index) == before
        assert not staged(other)

    keeping(World(3, 91)).run(scenario)


def test_a_leader_gives_few_snapshots_to_its_members_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are refused, a reader that is slow for too long is ended, and what is read is the leader's own affair."""
    monkeypatch.setattr(snapshot_source, "VIEWS_MAX", 1)
    monkeypatch.setattr(snapshot_source, "PAGE_BYTES_MAX", 60)

    async def scenario(world: World) -> None:
        leader = await trimmed_world(world)
        one, two = others(world, leader)
        assert leader.snapshots is not None
        source, term = leader.snapshots.source, group_of(leader).term

        def ask(node: WorldNode, **changed: int) -> pb.SnapshotOpen:
            return pb.SnapshotOpen(**{"group": GROUP, "member": node.member, "term": term, **changed})

        opened, base = source.open(one.id, ask(one))
        assert (opened.applied_index, len(base) > 0) == (group_of(leader).applied_index, True)
        with pytest.raises(OverloadedError):
            source.open(two.id, ask(two))
        again, _ = source.open(one.id, ask(one))
        read = pb.SnapshotRead(snapshot_id=opened.snapshot_id, table=1)
        with pytest.raises(UnavailableError, match="has ended"):
            source.read(one.id, read)
        read.snapshot_id = again.snapshot_id
        with pytest.raises(UnavailableError, match="has ended"):
            source.read(two.id, read)
        assert not source.read(one.id, read).last
        for wrong in (ask(one, term=term + 1), ask(one, group=GROUP + 1), ask(one, member=member_id(one.id, 9)), ask(two)):
            with pytest.raises(NotLeaderError):
                source.open(one.id, wrong)
        await world.settle(snapshot_source.VIEW_LIFE_S + 1.0)
        with pytest.raises(UnavailableError, match="has ended"):
            source.read(one.id, read)
        source.open(two.id, ask(two, term=group_of(leader).term))

    keeping(World(3, 92)).run(scenario)


def test_calls_that_are_none_are_refused() -> None:
    """An unknown method, and a body of another kind."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        assert leader.snapshots is not None
        for method, body in (("snapshot-what", b""), (OPEN, b"\xff\xff"), (READ, b"\xff\xff")):
            with pytest.raises(InvalidRequestError):
                await leader.snapshots.on_call(2, method, body)

    World(3, 93).run(scenario)


def test_a_dropped_group_takes_its_snapshot_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the snapshot is being installed at that very moment."""
    monkeypatch.setattr(snapshot_source, "PAGE_BYTES_MAX", 150)

    async def scenario(world: World) -> None:
        leader, late = await trimmed_world(world), world.nodes[3]
        turns_install: list[bool] = []
        await change(world, group_of(leader).configuration.with_learner(join(late)))
        turns = turns_of(late)
        install = turns.install

        def install_and_drop(group: Any, image: Any) -> bool:
            turns_install.append(install(group, image))
            turns.drop(GROUP)
            late.group = None
            return True

        turns.install = install_and_drop  # type: ignore[method-assign]
        await world.until(lambda: bool(turns_install))
        await world.settle(0.3)
        assert turns_install == [True]
        assert late.store.groups() == []

    keeping(World(3, 94, founders=2)).run(scenario)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_lost_under_random_faults_where_trims_wait_for_nobody(seed: int) -> None:
    """Followers that were away for half a second need a snapshot when they come back, again and again."""
    world = World(3, 700 + seed)
    world.lag_max_s = 0.5
    world.run(lambda world: mixed_faults(world, 6.0))
    assert len(world.acknowledged) > 20
    assert not world.missing()


def test_trims_do_not_wait_for_a_member_that_takes_nothing_for_long() -> None:
    """Its disk is full: it answers, and cannot go on. Space is not kept for it for ever, and the snapshot frees some of its own;
    one that only comes on slowly is waited for."""

    async def scenario(world: World) -> None:
        world.lag_max_s = 30.0
        leader = await led(world)
        full, slow = others(world, leader)
        await publish(world, 10)
        await world.until(world.converged)
        held = group_of(full).last_index
        world.fill(full.id, 1_000)
        slow.disk_s = (0.5, 1.0)
        await publish(world, 30)
        assert group_of(leader).min_match_index() <= held
        await world.settle(25.0)
        assert group_of(leader).min_match_index() <= held
        await world.settle(7.0)
        await world.until(lambda: group_of(slow).durable_index == group_of(leader).last_index)
        assert group_of(leader).min_match_index() == group_of(leader).last_index
        world.publish(leader)
        await world.step(0.05)
        assert group_of(leader).min_match_index() == group_of(leader).last_index - 1, "the slow one is waited for"
        world.trim()
        await world.until(lambda: group_of(full).first_index > held)
        assert full.snapshots is not None
        assert full.snapshots.installed == 1
        world.heal()
        await world.until(world.converged)
        world.check_rest()
        assert not world.missing()

    World(3, 77).run(scenario)


def test_a_quiet_group_waits_for_all_that_answer() -> None:
    """Hours after the last entry, the next one is not trimmed before the others have had a moment to take it."""

    async def scenario(world: World) -> None:
        world.lag_max_s = 30.0
        leader = await led(world)
        await publish(world, 10)
        await world.until(world.converged)
        await world.settle(100.0)
        before = group_of(leader).last_index
        world.publish(leader)
        await world.until(lambda: group_of(leader).durable_index > before)
        assert group_of(leader).min_match_index() in (before, before + 1)
        await world.until(world.converged)
        assert group_of(leader).min_match_index() == before + 1

    World(3, 78).run(scenario)
