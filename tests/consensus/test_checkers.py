"""The checkers of the small world, tried on planted bugs: a checker that sees nothing proves nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from raftlog.storage.memory_store import MemoryStore
from raftlog.storage.port import WriteBatch
from tests.consensus.world import Violation, World, WorldNode


async def published(world: World) -> WorldNode:
    """The leader, when ten entries are committed everywhere."""
    await world.until(lambda: world.leader() is not None)
    leader = world.leader()
    assert leader is not None
    for _ in range(10):
        world.publish(leader)
    await world.until(lambda: world.converged() and len(world.acknowledged) == 10)
    return leader


async def skips_its_fsync(world: World) -> None:
    """Two disks say that they wrote, and did not."""
    leader = await published(world)
    for node in world.nodes.values():
        if node is not leader:
            node.store.commit = _lying(world, node.store)  # type: ignore[method-assign,assignment]
    world.publish(leader)
    await world.settle(0.5)


def _lying(world: World, store: MemoryStore) -> Callable[[WriteBatch, Callable[[], None]], None]:
    def commit(_: WriteBatch, done: Callable[[], None]) -> None:
        world.loop.call_later(0.001, done)

    return commit


async def forgets_its_log(world: World) -> None:
    """Two of three come back with an empty disk, and elect a leader among themselves."""
    leader = await published(world)
    for node in list(world.nodes.values()):
        node.crash()
        if node is not leader:
            node.store = MemoryStore(schedule=node._disk)
    for node in world.nodes.values():
        if node is not leader:
            node.start()
    await world.settle(5.0)


async def commits_what_only_it_holds(world: World) -> None:
    """A leader takes its own last entry for committed while the others hear nothing."""
    leader = await published(world)
    world.filter = lambda *_: False
    entry = world.publish(leader)
    assert entry is not None
    assert leader.group is not None
    leader.group.journal.commit_index = entry.header.index
    await world.settle(0.1)


async def goes_back(world: World) -> None:
    """A commit index falls."""
    leader = await published(world)
    assert leader.group is not None
    leader.group.journal.commit_index -= 1
    world.check()


async def leads_beside_another(world: World) -> None:
    """A second node believes that it leads in the same term."""
    leader = await published(world)
    other = next(node for node in world.nodes.values() if node is not leader)
    assert other.group is not None
    other.group.member._SyncObj__raftState = 2
    await world.step()


async def holds_something_else(world: World) -> None:
    """A replica applies another entry than the one that was committed."""
    leader = await published(world)
    index = max(world.committed)
    term, data = world.committed[index]
    world.committed[index] = (term, data[:-1] + bytes((data[-1] ^ 1,)))
    other = next(node for node in world.nodes.values() if node is not leader)
    other.commit_seen = index - 1
    await world.step()


@pytest.mark.parametrize(
    ("bug", "seen"),
    [
        (skips_its_fsync, "on the disks of only"),
        (forgets_its_log, "has leaders|lacks committed entry|on the disks of only"),
        (commits_what_only_it_holds, "on the disks of only"),
        (goes_back, "commit index of . fell"),
        (leads_beside_another, "has leaders"),
        (holds_something_else, "commits another entry"),
    ],
)
def test_a_planted_bug_is_seen(bug: Callable[[World], Awaitable[None]], seen: str) -> None:
    """Each checker names what it saw."""
    with pytest.raises(Violation, match=seen):
        World(3, 41).run(bug)


def test_without_a_bug_nothing_is_seen() -> None:
    """The same beginning passes."""

    async def scenario(world: World) -> None:
        await published(world)
        await world.settle(2.0)
        assert not world.missing()

    World(3, 41).run(scenario)


def test_a_lost_acknowledgement_is_missed() -> None:
    """What was acknowledged and is not in the leader's log is named."""

    async def scenario(world: World) -> None:
        await published(world)
        world.acknowledged[b"never written"] = 3
        assert world.missing() == {b"never written"}

    World(3, 42).run(scenario)
