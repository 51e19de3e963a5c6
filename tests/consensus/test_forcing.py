"""A majority is lost for good, and one replica is made the only voter: what stays, who may come back, who may not."""

from __future__ import annotations

from raftlog.consensus.forcing import TERM_LEAP, force
from raftlog.consensus.journal import CONFIG_ROW, RAFT_TABLE, GroupJournal
from raftlog.consensus.tail import TailCache
from raftlog.consensus.unclean import Unclean, forget, unclean_of
from raftlog.core.configuration import Configuration, decode_row, member_id
from raftlog.storage.memory_store import MemoryStore
from raftlog.storage.port import WriteBatch
from tests.consensus.nodes import group_of, led, turns_of
from tests.consensus.test_membership import at, caught_up, change, grow, still_serves
from tests.consensus.world import GROUP, World, WorldNode

NOW_MS = 1_700_000_000_000


class Gathered:
    """What the journal gathers into."""

    def __init__(self) -> None:
        self.batch = WriteBatch()


async def written(world: World, store: MemoryStore, batch: WriteBatch) -> None:
    """Commit to a stopped node's store."""
    done: list[bool] = []
    store.commit(batch, lambda: done.append(True))
    await world.until(lambda: bool(done))


async def forced(world: World, node: WorldNode, learners: tuple[int, ...] = (), lost: tuple[int, ...] = ()) -> GroupJournal:
    """Make a stopped node's replica the only voter; the journal that did it."""
    assert node.turns is None
    gathered = Gathered()
    journal = GroupJournal(GROUP, node.store, TailCache(0), gathered, replica=node.replica, founders=())
    force(journal, gathered.batch, member=node.member, learners=learners, lost=lost, now_ms=NOW_MS)
    await written(world, node.store, gathered.batch)
    return journal


def lose(*nodes: WorldNode) -> None:
    """Their disks are gone for good."""
    for node in nodes:
        if node.turns is not None:
            node.crash()
        node.store = MemoryStore(schedule=node._disk)
        node.replica = 0


def test_a_survivor_goes_on_alone_with_all_that_it_holds() -> None:
    """Every entry is in its place, new ones are committed, and other nodes become voters as always."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        for _ in range(30):
            world.publish(leader)
        await world.until(world.converged)
        survivor = next(node for node in world.nodes.values() if node is not leader)
        term, last = group_of(survivor).term, group_of(survivor).last_index
        survivor.crash()
        gone = [node for node in world.nodes.values() if node is not survivor]
        lose(*gone)
        await forced(world, survivor, lost=tuple(member_id(node.id, 1) for node in gone))
        survivor.start()
        await still_serves(world)
        group = group_of(survivor)
        assert group.term > term + TERM_LEAP
        assert group.configuration == Configuration((survivor.member,))
        assert group.journal.term_at(last) is not None
        assert world.missing() == set()
        for node in gone:
            node.start()
            await grow(world, node, replica=2)
        await world.until(world.converged)
        survivor.crash()
        await still_serves(world)
        assert world.missing() == set()

    World().run(scenario)


def test_what_was_not_known_to_be_committed_stays_too() -> None:
    """It may have been acknowledged by those that are lost."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        await world.until(world.converged)
        world.isolate(leader.id)
        for _ in range(5):
            assert world.publish(leader) is not None
        await world.until(lambda: group_of(leader).durable_index == group_of(leader).last_index)
        last, committed = group_of(leader).last_index, group_of(leader).commit_index
        assert committed < last
        leader.crash()
        lose(*(node for node in world.nodes.values() if node is not leader))
        world.heal()
        await forced(world, leader)
        leader.start()
        await still_serves(world)
        stayed = {payload[:8]: index for payload, index in world.acknowledged.items() if index <= last}
        assert stayed == {b"%08d" % number: committed + number for number in range(1, 6)}

    World(seed=3).run(scenario)


def test_survivors_go_on_as_learners_and_count_again_when_promoted() -> None:
    """Of five, three are lost: the two that are left do not have to copy anything anew."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        for _ in range(10):
            world.publish(leader)
        await world.until(world.converged)
        chosen, other = [node for node in world.nodes.values() if node is not leader][:2]
        lose(*(node for node in world.nodes.values() if node not in (chosen, other)))
        chosen.crash()
        other.crash()
        await forced(world, chosen, learners=(other.member,))
        chosen.start()
        other.start()
        await world.until(lambda: world.leader() is chosen)
        await caught_up(world, other)
        assert group_of(other).configuration == Configuration((chosen.member,), (other.member,))
        await change(world, group_of(chosen).configuration.with_voter(other.member))
        await still_serves(world)
        assert world.missing() == set()

    World(5).run(scenario)


def test_a_lost_replica_that_comes_back_deposes_nobody() -> None:
    """Its old disk knows the old voters; it asks for votes, and gets none, however often."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        await world.until(world.converged)
        back, survivor = (node for node in world.nodes.values() if node is not leader)
        lose(leader)
        back.crash()
        survivor.crash()
        await forced(world, survivor)
        survivor.start()
        await still_serves(world)
        term = group_of(survivor).term
        back.start()
        await world.settle(10)
        assert world.leader() is survivor
        assert group_of(survivor).term == term
        assert group_of(back).last_index < group_of(survivor).last_index
        await still_serves(world)

    World(seed=5).run(scenario)


def test_a_crash_before_it_leads_changes_nothing() -> None:
    """What was written is the node's own log and term from then on."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        await world.until(world.converged)
        leader.crash()
        lose(*(node for node in world.nodes.values() if node is not leader))
        journal = await forced(world, leader, lost=at(2, 3))
        for _ in range(3):
            leader.start()
            leader.crash()
        row = leader.store.row(GROUP, RAFT_TABLE, CONFIG_ROW)
        assert row is not None
        assert decode_row(row)[1][-1] == (journal.last_index, Configuration((leader.member,)))
        leader.start()
        await still_serves(world)

    World().run(scenario)


def test_it_is_remembered_until_it_is_forgotten() -> None:
    """With its time, its entry and the lost; through restarts."""

    async def scenario(world: World) -> None:
        leader = await led(world)
        assert group_of(leader).unclean_at_ms == 0
        leader.crash()
        lose(*(node for node in world.nodes.values() if node is not leader))
        journal = await forced(world, leader, lost=at(2, 3))
        assert unclean_of(leader.store, GROUP) == Unclean(NOW_MS, journal.last_index, at(2, 3))
        leader.start()
        await still_serves(world)
        assert group_of(leader).unclean_at_ms == NOW_MS
        assert turns_of(leader) is not None
        leader.crash()
        batch = WriteBatch()
        assert forget(leader.store, GROUP, batch)
        await written(world, leader.store, batch)
        assert not forget(leader.store, GROUP, WriteBatch())
        leader.start()
        assert group_of(leader).unclean_at_ms == 0
        await still_serves(world)

    World().run(scenario)
