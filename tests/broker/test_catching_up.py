"""What a node that has started still lacks: when another one may be stopped."""

from __future__ import annotations

from raftlog.broker.catching_up import LEADERLESS_S, CatchingUp
from raftlog.consensus.port import ReplicatedLog
from raftlog.core.configuration import member_id
from tests.broker.doubles import HandClock, HandLog
from tests.consensus.world import CountingMachine


class Replicas:
    """Some replicas of a node, and what they lack; that of group 1 is the metadata's."""

    def __init__(self, *groups: int) -> None:
        members = tuple(member_id(node, 1) for node in (1, 2, 3))
        self.held = {group: HandLog(group, members, CountingMachine()) for group in groups}
        self.clock = HandClock()
        self.bad: set[int] = set()
        self.empty: set[int] = set()
        self.renews = True
        self.leaders: dict[int, int] = {}
        self.catching_up = CatchingUp(lambda: self.held[1], self, lambda group: (self.leaders.get(group), 1), self.clock)

    def logs(self) -> list[ReplicatedLog]:
        """See ``Held``."""
        return [log for group, log in self.held.items() if group != 1]

    def damaged(self) -> set[int]:
        """See ``Held``."""
        return self.bad

    def unfilled(self) -> set[int]:
        """See ``Held``."""
        return self.empty


def test_a_node_waits_for_each_of_its_replicas_to_hear_what_is_committed() -> None:
    """One that has heard of no leader yet does not know what it lacks; one that leads and serves lacks nothing."""
    node = Replicas(1, 2, 3)
    assert node.catching_up.lacking() == "its replicas are not open yet"
    node.catching_up.begin()
    assert node.catching_up.lacking() == "3 of its replicas have to catch up, that of group 1 first"
    node.held[1].told_commit = 1
    node.held[2].told_commit = 9
    node.held[3].ready = True
    for group in (1, 2):
        node.leaders[group] = 2
    assert node.catching_up.lacking() == "1 of its replicas have to catch up, that of group 2 first"
    node.held[2].commit_index = 9
    assert node.catching_up.lacking() is None


def test_a_replica_that_lags_later_does_not_take_a_node_out_of_service() -> None:
    """Rule 1: it counts once. Nor do replicas that come later, or those that go."""
    node = Replicas(1, 2)
    node.catching_up.begin()
    node.held[1].told_commit = 1
    assert node.catching_up.lacking() is not None
    del node.held[2]
    assert node.catching_up.lacking() is None
    node.held[1].told_commit = 100
    node.held[5] = Replicas(1, 5).held[5]
    assert node.catching_up.lacking() is None


def test_a_group_that_nobody_leads_is_not_waited_for_without_end() -> None:
    """Rule 2: an election is waited for; where a majority is lost, this node cannot mend it by not being ready."""
    node = Replicas(1, 2)
    node.catching_up.begin()
    node.leaders[1] = 2
    node.clock.now_ms += int(LEADERLESS_S - 1) * 1_000
    assert node.catching_up.lacking() == "2 of its replicas have to catch up, that of group 1 first"
    node.clock.now_ms += 1_000
    assert node.catching_up.lacking() == "1 of its replicas have to catch up, that of group 1 first"
    node.held[1].told_commit = 1
    assert node.catching_up.lacking() is None


def test_an_empty_replica_is_waited_for_until_it_is_filled() -> None:
    """Rule 3: however long that takes, and though a replica that does not vote lacks nothing by its own word."""
    node = Replicas(1, 2)
    node.catching_up.begin()
    for group in (1, 2):
        node.held[group].told_commit, node.leaders[group] = 1, 3
    node.empty = {2}
    node.clock.now_ms += int(LEADERLESS_S + 1) * 1_000
    assert node.catching_up.lacking() == "1 of its replicas have to catch up, that of group 2 first"
    node.empty = set()
    assert node.catching_up.lacking() is None


def test_an_empty_replica_whose_group_nobody_leads_is_not_waited_for_without_end() -> None:
    """Rule 2: where its only replica, or a majority, is lost, there is nobody to fill it."""
    node = Replicas(1, 2)
    node.catching_up.begin()
    node.held[1].told_commit, node.leaders[1] = 1, 3
    node.empty = {2}
    node.clock.now_ms += int(LEADERLESS_S - 1) * 1_000
    assert node.catching_up.lacking() is not None
    node.clock.now_ms += 1_000
    assert node.catching_up.lacking() is None


def test_a_damaged_replica_is_waited_for_until_another_one_votes() -> None:
    """Rule 3: it may not even be open."""
    node = Replicas(1)
    node.bad = {2}
    node.held[1].told_commit, node.leaders = 1, {1: 3, 2: 3}
    node.catching_up.begin()
    assert node.catching_up.lacking() == "1 of its replicas have to catch up, that of group 2 first"
    node.bad, node.empty = set(), {2}
    node.held[2] = Replicas(1, 2).held[2]
    assert node.catching_up.lacking() is not None
    node.empty, node.held[2].told_commit = set(), 1
    assert node.catching_up.lacking() is None


def test_a_damaged_replica_that_nobody_will_renew_is_not_waited_for() -> None:
    """Rule 3: below the level that renews it, it would be waited for for ever, and a rolling upgrade to that level with it."""
    node = Replicas(1)
    node.bad, node.renews = {2}, False
    node.held[1].told_commit, node.leaders = 1, {1: 3, 2: 3}
    node.catching_up.begin()
    assert node.catching_up.lacking() is None


def test_a_replica_that_waits_to_take_the_place_of_a_lost_one_is_waited_for() -> None:
    """Rule 3: it cannot be opened before the old one's data is deleted, and is missing meanwhile."""
    node = Replicas(1)
    node.empty = {2}
    node.held[1].told_commit, node.leaders = 1, {1: 3, 2: 3}
    node.catching_up.begin()
    assert node.catching_up.lacking() == "1 of its replicas have to catch up, that of group 2 first"
    node.held[2] = Replicas(1, 2).held[2]
    node.held[2].told_commit = 1
    assert node.catching_up.lacking() is not None
    node.empty = set()
    assert node.catching_up.lacking() is None
