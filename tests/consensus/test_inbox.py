"""What waits for a turn, and how much of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from raftlog.consensus import inbox as inbox_module
from raftlog.consensus.inbox import Inbox, Item
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from tests.consensus.nodes import group_of, led, others, turns_of
from tests.consensus.world import World, WorldNode

Bounds = Callable[..., None]


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> Bounds:
    """Sets the inbox's bounds."""

    def change(**values: int) -> None:
        for name, value in values.items():
            monkeypatch.setattr(inbox_module, name, value)

    return change


def heartbeats(*groups: int) -> pb.Turn:
    """A peer's turn with one message for each group."""
    return pb.Turn(raft=[pb.RaftMessage(group=group, append_entries=pb.AppendEntries(term=1)) for group in groups])


def taken(inbox: Inbox, batch_bytes: int = 0) -> list[tuple[int, Item, list[bytes]]]:
    """What one turn hears."""
    return list(inbox.take(lambda: batch_bytes))


def said(item: Item) -> Any:
    """What is told apart here: the group of a message, the state of a link, the rest of a turn."""
    return item.group if isinstance(item, pb.RaftMessage) else item if isinstance(item, bool) else "turn"


def waiting(inbox: Inbox) -> int:
    """Messages of members that wait."""
    return sum(len(item.raft) for _, item, _ in inbox._waiting if isinstance(item, pb.Turn))


def test_what_one_peer_sent_is_heard_in_its_order_over_several_turns(bounds: Bounds) -> None:
    """A turn ends within a frame, and the next goes on there; the rest of a frame is heard behind the last of its messages."""
    bounds(TURN_MESSAGES_MAX=3)
    inbox = Inbox()
    inbox.link(1, up=True)
    inbox.turn(1, heartbeats(1, 2, 3, 4), [])
    inbox.turn(2, heartbeats(5), [])
    inbox.link(1, up=False)
    turns = []
    while inbox:
        turns.append([(node_id, said(item)) for node_id, item, _ in taken(inbox)])
    assert turns == [[(1, True), (1, 1), (1, 2)], [(1, 3), (1, 4), (1, "turn")], [(2, 5), (2, "turn"), (1, False)]]


def test_payloads_stay_with_their_messages(bounds: Bounds) -> None:
    """Also where the turn ends between two of one frame, and where fewer came than were announced."""
    bounds(TURN_MESSAGES_MAX=2)
    inbox, turn = Inbox(), pb.Turn()
    for group, count in ((1, 2), (2, 0), (3, 1), (4, 2)):
        turn.raft.add(group=group).append_entries.entry_count = count
    inbox.turn(1, turn, [b"a", b"b", b"c", b"d"])
    found = []
    while inbox:
        found += [(said(item), payloads) for _, item, payloads in taken(inbox)]
    assert found == [(1, [b"a", b"b"]), (2, []), (3, [b"c"]), (4, [b"d"]), ("turn", [])]


def test_a_turn_whose_batch_is_full_hears_nothing() -> None:
    """What waits is the next one's."""
    inbox = Inbox()
    inbox.turn(1, heartbeats(1), [])
    assert taken(inbox, inbox_module.TURN_BYTES_MAX) == []
    assert inbox
    assert len(taken(inbox)) == 2


def test_of_each_peer_so_much_waits_and_what_comes_beyond_that_is_lost(bounds: Bounds) -> None:
    """One that says more than is heard takes no room from the others, and is heard again when what waited has been."""
    bounds(PEER_MESSAGES_MAX=20)
    inbox = Inbox()
    for _ in range(1_000):
        inbox.turn(1, heartbeats(1, 2, 3), [])
    inbox.turn(2, heartbeats(4), [])
    assert waiting(inbox) == 15 + 1
    assert inbox.lost == 3_000 - 15
    assert [said(item) for node_id, item, _ in taken(inbox) if node_id == 2] == [4, "turn"]
    assert not inbox
    inbox.turn(1, heartbeats(5), [])
    assert [said(item) for _, item, _ in taken(inbox)] == [5, "turn"]


def test_payloads_that_wait_are_bounded_in_bytes(bounds: Bounds) -> None:
    """One frame is taken however large it is, for links bound it; then no other until it has been heard."""
    bounds(PEER_BYTES_MAX=100)
    inbox = Inbox()
    inbox.turn(1, heartbeats(1), [bytes(200)])
    inbox.turn(1, heartbeats(2), [bytes(1)])
    assert [said(item) for _, item, _ in taken(inbox)] == [1, "turn", "turn"]
    inbox.turn(1, heartbeats(3), [bytes(100)])
    assert [said(item) for _, item, _ in taken(inbox)] == [3, "turn"]


def thinned(turns: Sequence[pb.Turn | bool], bounds: Bounds) -> list[pb.Turn | bool]:
    """What is left of what came beyond the bound."""
    bounds(PEER_MESSAGES_MAX=1)
    inbox = Inbox()
    inbox.turn(1, heartbeats(), [])
    for turn in turns:
        if isinstance(turn, bool):
            inbox.link(1, up=turn)
        else:
            inbox.turn(1, turn, [])
    _, *rest = taken(inbox)
    return [item for _, item, _ in rest if not isinstance(item, pb.RaftMessage)]


def leads(group: int, term: int, node_id: int = 1) -> pb.Leadership:
    """An announcement."""
    return pb.Leadership(group=group, term=term, leader_node_id=node_id)


def test_what_nobody_would_say_again_is_kept_once(bounds: Bounds) -> None:
    """Who leads, by the highest term; who woke; the newest heartbeat of the sleepers, and whether theirs was refused."""
    first = pb.Turn(raft=heartbeats(1).raft, leaderships=[leads(1, 4), leads(2, 5)], woken=[7, 8])
    first.sleepers.epoch, first.sleepers.count, first.sleepers.digest = 1, 3, 99
    first.sleepers_heard.epoch, first.sleepers_heard.refused = 6, True
    second = pb.Turn(leaderships=[leads(1, 3, 9), leads(2, 6, 3)], woken=[8, 9])
    second.sleepers.epoch, second.sleepers.count, second.sleepers.digest = 2, 4, 77
    second.sleepers_heard.epoch = 6
    (left,) = thinned([first, second], bounds)
    expected = pb.Turn(leaderships=[leads(1, 4), leads(2, 6, 3)], woken=[7, 8, 9], sleepers=second.sleepers)
    expected.sleepers_heard.CopyFrom(first.sleepers_heard)
    assert left == expected


def test_an_answer_of_a_later_epoch_takes_the_place_of_a_refusal(bounds: Bounds) -> None:
    """The refused one is over."""
    first, second = pb.Turn(), pb.Turn()
    first.sleepers_heard.epoch, first.sleepers_heard.refused = 6, True
    second.sleepers_heard.epoch = 7
    assert thinned([first, second], bounds) == [second]


def test_of_a_link_that_went_down_nothing_is_left_but_that(bounds: Bounds) -> None:
    """However often it came and went: it is down once, and up again if it is, with what was said since."""
    turn, later = pb.Turn(leaderships=[leads(1, 4)], woken=[7]), pb.Turn(woken=[8])
    assert thinned([turn, False, True, turn, False], bounds) == [False, pb.Turn()]
    assert thinned([turn, False, True, turn, False, True, later], bounds) == [False, True, later]


# ---- in the turn loop


def delivered(node: WorldNode) -> list[int]:
    """How many messages each turn of a node will have heard."""
    turns, counts = turns_of(node), list[int]()
    deliver, receive = turns._deliver, turns._receive

    def counting() -> None:
        counts.append(0)
        deliver()

    def counted(*args: Any) -> None:
        counts[-1] += 1
        receive(*args)

    turns.__dict__.update(_deliver=counting, _receive=counted)
    return counts


async def stalled(world: World) -> WorldNode:
    """A follower whose commit does not end."""
    leader = await led(world)
    node = others(world, leader)[0]
    world.publish(leader)
    await world.until(world.converged)
    node.store.set_full(True)
    world.publish(leader)
    await world.until(lambda: turns_of(node)._in_flight is not None)
    return node


def test_the_inbox_of_a_node_whose_commit_does_not_end_is_bounded(bounds: Bounds) -> None:
    """However long it takes, with links that come and go; then the node takes its place again, and nothing is missing."""
    bounds(PEER_MESSAGES_MAX=40)

    async def scenario(world: World) -> None:
        node = await stalled(world)
        for _ in range(20):
            leader = world.leader()
            assert leader is not None
            world.publish(leader)
            await world.settle(1.0)
            world.cut(leader.id, node.id)
        inbox = turns_of(node)._inbox
        assert waiting(inbox) <= 2 * 40
        assert len(inbox._waiting) <= 2 * 41
        assert inbox.lost > 100
        node.store.set_full(False)
        await world.until(world.converged)
        assert world.missing() == set()

    World(3, 61).run(scenario)


def test_what_has_gathered_is_worked_off_in_several_turns(bounds: Bounds) -> None:
    """Each hears no more than a bound, and the loop is free in between; it does not wait for anything else to go on."""
    bounds(TURN_MESSAGES_MAX=7)

    async def scenario(world: World) -> None:
        node = await stalled(world)
        await world.settle(10.0)
        gathered = waiting(turns_of(node)._inbox)
        assert gathered > 60
        counts = delivered(node)
        node.store.set_full(False)
        await world.until(lambda: not turns_of(node)._inbox, seconds=0.05)
        assert max(counts) <= 7
        assert sum(counts) >= gathered
        await world.until(world.converged)
        assert group_of(node).commit_index == group_of(node).last_index

    World(3, 62).run(scenario)
