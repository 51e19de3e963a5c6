"""Members whose configurations differ: who is answered, and whose word counts. Single members, message by message."""

from __future__ import annotations

from raftlog.consensus.messages import PreVote, RequestPreVote, RequestVote, Vote
from raftlog.core.configuration import Configuration, member_id
from tests.consensus.bench import Bench


def at(*numbers: int) -> tuple[int, ...]:
    """Member ids."""
    return tuple(member_id(number, 1) for number in numbers)


def test_a_leader_that_is_not_in_the_own_configuration_is_followed() -> None:
    """A voter may be far behind: it learns of its leader's membership only from the log that this leader sends."""
    bench = Bench(4, founders=3)
    bench.elect(1, 2)
    bench.reconfigure(1, Configuration(at(1, 2, 3), at(4)))
    bench.exchange(1, 2, 4)
    bench.beat(1)
    bench.exchange(1, 2, 4)
    bench.reconfigure(1, Configuration(at(1, 2, 3, 4)))
    bench.exchange(1, 2, 4)
    assert bench.member(3).configuration == Configuration(at(1, 2, 3))
    bench.elect(4, 1, 2)
    bench.lose(1, 3)
    bench.beat(4)
    bench.exchange(3, 4)
    bench.beat(4)
    bench.exchange(3, 4)
    assert bench.log(3) == bench.log(4)
    assert bench.member(3).leader_member() == member_id(4, 1)
    assert bench.member(3).configuration == Configuration(at(1, 2, 3, 4))


def test_a_member_votes_for_a_candidate_that_it_does_not_know() -> None:
    """Who may ask is for the candidate's configuration to say; the logs decide as ever."""
    bench = Bench(3)
    bench.elect(1, 2)
    bench.now_s += 5.0
    stranger, last, term = member_id(9, 1), bench.journal(2).last, bench.member(2).term()
    bench.act(2, lambda member: member.receive(stranger, RequestPreVote(term + 1, last.index, last.term)))
    assert bench.wire[2, 9].pop() == PreVote(term + 1)
    bench.act(2, lambda member: member.receive(stranger, RequestVote(term + 1, last.index - 1, last.term, True)))
    assert not bench.wire[2, 9]
    bench.act(2, lambda member: member.receive(stranger, RequestVote(term + 2, last.index, last.term, True)))
    assert bench.wire[2, 9].pop() == Vote(term + 2)


def test_a_latecomer_votes_by_its_log() -> None:
    """It may be a voter already without knowing: who asks it counts it."""
    bench = Bench(2, founders=1)
    bench.act(2, lambda member: member.receive(member_id(1, 1), RequestVote(1, 1, 0)))
    assert bench.wire[2, 1].pop() == Vote(1)


def test_votes_of_learners_elect_nobody() -> None:
    """Nor do their pre-votes."""
    bench = Bench(5, founders=3)
    bench.elect(1, 2, 3)
    bench.reconfigure(1, Configuration(at(1, 2, 3), at(4)))
    bench.exchange(1, 2, 3, 4)
    bench.beat(1)
    bench.exchange(1, 2, 3, 4)
    bench.reconfigure(1, Configuration(at(1, 2, 3), at(4, 5)))
    bench.exchange(1, 2, 3, 4, 5)
    bench.now_s += 5.0
    bench.act(2, lambda member: member._seek_election())
    term = bench.member(2).term()
    for learner in (4, 5):
        bench.act(2, lambda member, of=learner: member.receive(member_id(of, 1), PreVote(term + 1)))  # type: ignore[misc]
    assert bench.member(2).term() == term
    bench.act(2, lambda member: member._campaign(disruptive=True))
    for learner in (4, 5):
        bench.act(2, lambda member, of=learner: member.receive(member_id(of, 1), Vote(term + 1)))  # type: ignore[misc]
    assert bench.member(2).state() == 1
    bench.act(2, lambda member: member.receive(member_id(3, 1), Vote(term + 1)))
    assert bench.member(2).state() == 2


def test_only_voters_are_asked_for_votes() -> None:
    """A learner's answer could not count."""
    bench = Bench(4, founders=3)
    bench.elect(1, 2, 3)
    bench.reconfigure(1, Configuration(at(1, 2, 3), at(4)))
    bench.exchange(1, 2, 3, 4)
    bench.now_s += 5.0
    bench.act(2, lambda member: member._seek_election())
    bench.act(2, lambda member: member._campaign(disruptive=True))
    asked = {to for sender, to, message in bench.sent if sender == 2 and isinstance(message, RequestPreVote | RequestVote)}
    assert asked == {1, 3}


def test_a_member_that_is_removed_is_sent_nothing_and_gives_back_its_window() -> None:
    """What was under way to it is not waited for."""
    bench = Bench(3)
    bench.elect(1, 2, 3)
    bench.publish(1, 3, size=1_000)
    bench.exchange(1, 2)
    assert bench.seats[1].windows.size_bytes > 3_000
    bench.reconfigure(1, Configuration(at(1, 2)))
    bench.exchange(1, 2)
    assert bench.seats[1].windows.size_bytes == 0
    before = len(bench.appends(1, 3))
    bench.publish(1)
    bench.beat(1)
    assert len(bench.appends(1, 3)) == before
    assert bench.member(1).on_node(3) == []


def test_a_follower_forgets_configurations_before_the_newest_committed_one() -> None:
    """The row stays small, however often members change."""
    bench = Bench(3)
    bench.elect(1, 2, 3)
    for number in range(9):
        with_it = bench.member(1).configuration.with_learner(member_id(9, number + 2))
        bench.reconfigure(1, with_it)
        bench.exchange(1, 2, 3)
        bench.beat(1)
        bench.exchange(1, 2, 3)
        bench.reconfigure(1, with_it.without(member_id(9, number + 2)))
        bench.exchange(1, 2, 3)
        bench.beat(1)
        bench.exchange(1, 2, 3)
    for number in (1, 2, 3):
        assert len(bench.journal(number)._configurations) <= 2
        assert bench.member(number).configuration == Configuration(at(1, 2, 3))


def test_a_configuration_is_in_force_while_it_is_in_the_log() -> None:
    """From the append on, committed or not, and again after a restart; who has not got the entry goes by the one before."""
    bench = Bench(3)
    bench.elect(1, 2, 3)
    bench.reconfigure(1, Configuration(at(1, 2)))
    bench.deliver(1, 2)
    for number in (1, 2):
        assert bench.member(number).configuration == Configuration(at(1, 2))
        assert not bench.journal(number).configuration_committed
    bench.restart(2)
    assert bench.member(2).configuration == Configuration(at(1, 2))
    assert bench.member(3).configuration == Configuration(at(1, 2, 3))
