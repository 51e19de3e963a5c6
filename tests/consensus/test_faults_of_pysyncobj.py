"""Each fault of PySyncObj 0.3.17 as a script: with all guards it is harmless, without its own guard it is seen to do damage.

The same scenario runs both ways, so a guard that no longer guards, and a guard that is no longer needed, both show.
Faults 4 and 5, of the sender, are in test_faults_of_its_sender.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from raftlog.consensus.guard import Guards
from raftlog.consensus.member import FOLLOWER, LEADER
from raftlog.consensus.messages import Ack, Append, PreVote, RequestVote, StaleTerm, TimeoutNow, Vote
from raftlog.core.configuration import member_id
from raftlog.core.entry import EntryKind
from tests.consensus.bench import Bench, Violation
from tests.consensus.world import Violation as WorldViolation
from tests.consensus.world import World

ALL = Guards()


def without(guard: str) -> Guards:
    """All guards but one."""
    return replace(ALL, **{guard: False})


# ---- 1. truncation of matching entries


def big_entries_sent_anew(guards: Guards) -> Bench:
    """Five members. 1, 2 and 3 hold two committed entries too large for one message; 3 leads next and sends 2 the first anew."""
    bench = Bench(5, guards)
    bench.elect(1, 2, 3)
    bench.publish(1, 2, size=700_000)
    bench.exchange(1, 2, 3)
    bench.publish(1)
    bench.exchange(1, 3)
    bench.lose(1, 2)
    bench.win(3, 4, 5)
    bench.exchange(2, 3)
    return bench


def test_a_follower_keeps_matching_entries() -> None:
    """An Append that covers only a part of what a follower holds deletes nothing behind it."""
    bench = big_entries_sent_anew(ALL)
    assert bench.log(2) == bench.log(3)


def test_without_the_guard_matching_entries_are_truncated() -> None:
    """Stock code drops a committed entry from a disk that its majority counts on."""
    with pytest.raises(Violation, match="is on the disks of 2 of 5"):
        big_entries_sent_anew(without("matching"))


def test_the_commit_index_is_clamped_to_what_a_message_covers() -> None:
    """A heartbeat that matches below a divergent tail commits nothing of the tail, and acknowledges nothing of it."""
    bench = Bench(3)
    bench.elect(3, 1, 2)
    bench.publish(3, 3)
    bench.elect(1, 2)
    bench.publish(1, 6)
    bench.exchange(1, 2)
    divergent, known = bench.log(3), bench.journal(3).commit_index
    heartbeat = Append(bench.member(1).term(), 2, bench.journal(1).term_at(2) or 0, bench.journal(1).commit_index)
    bench.act(3, lambda member: member.receive(member_id(1, 1), heartbeat))
    assert (bench.log(3), bench.journal(3).commit_index) == (divergent, known)
    ack = bench.wire[3, 1][-1]
    assert isinstance(ack, Ack)
    assert (ack.success, ack.next_index) == (True, 3)


# ---- 2. acknowledgements without a term


def acknowledgement_of_an_older_term(guards: Guards) -> Bench:
    """2's acknowledgement of what 1 sent in its first term is stuck, and arrives in 1's second, when 2 holds something else."""
    bench = Bench(5, guards)
    bench.elect(1, 2, 3)
    bench.publish(1, 8)
    bench.deliver(1, 2)
    stale = bench.wire.pop((2, 1))
    bench.lose(1, 3)
    bench.elect(3, 4, 5)
    bench.publish(3)
    bench.exchange(1, 3)
    bench.exchange(2, 3)
    bench.lose(2, 1)
    bench.elect(1, 4, 5)
    bench.publish(1, 8)
    bench.exchange(1, 4)
    bench.wire[2, 1] = stale
    bench.deliver(2, 1)
    return bench


def test_an_acknowledgement_counts_only_in_its_own_term() -> None:
    """What was acknowledged to an earlier leadership of the same member is not counted for the present one."""
    bench = acknowledgement_of_an_older_term(ALL)
    assert bench.journal(1).commit_index < bench.journal(1).last_index


def test_without_the_guard_an_old_acknowledgement_commits_what_is_not_replicated() -> None:
    """Stock acknowledgements carry no term: two of five hold the entries, and they count as committed."""
    with pytest.raises(Violation, match="is on the disks of 2 of 5"):
        acknowledgement_of_an_older_term(without("terms"))


def test_answers_of_strangers_change_nothing() -> None:
    """An acknowledgement, a vote or a higher term of a node that is no member does not count, and is not answered."""
    bench = Bench(3)
    bench.elect(1, 2)
    before = (bench.member(1).matches(), bench.member(1).term(), len(bench.sent))
    stranger = member_id(9, 1)
    term = before[1]
    for message in (Ack(term, 99, True, False), Vote(term), PreVote(term + 1), StaleTerm(term + 5), TimeoutNow(term + 5)):
        bench.act(1, lambda member, m=message: member.receive(stranger, m))  # type: ignore[misc]
    assert (bench.member(1).matches(), bench.member(1).term(), len(bench.sent)) == before


# ---- 3. probes and re-sending


def acknowledgements_behind_a_pipeline(guards: Guards) -> dict[int, int]:
    """Thirty entries are under way to a follower, each in its own message, when their acknowledgements come one by one."""
    bench = Bench(3, guards)
    bench.elect(1, 2)
    first = bench.journal(1).last_index + 1
    bench.publish(1, 30)
    bench.deliver(1, 2, 30)
    while bench.wire[2, 1]:
        bench.deliver(2, 1, 1)
    return {index: count for index, count in bench.copies(1, 2).items() if index >= first}


def test_each_entry_is_sent_once_to_a_healthy_follower() -> None:
    """An acknowledgement never moves the leader back over what is under way."""
    assert set(acknowledgements_behind_a_pipeline(ALL).values()) == {1}


def test_without_the_guard_each_acknowledgement_sends_the_pipeline_again() -> None:
    """Stock code moves nextIndex back to every acknowledgement, and sends all behind it anew."""
    assert max(acknowledgements_behind_a_pipeline(without("probes")).values()) > 20


def test_a_deposed_leader_with_a_long_divergent_tail_catches_up_in_a_few_messages() -> None:
    """One reset, to where the logs are known to agree, and then straight on."""
    bench = Bench(3)
    bench.elect(1, 2)
    bench.publish(1, 60)
    bench.elect(2, 3)
    bench.publish(2, 90)
    bench.exchange(2, 3)
    sent = len(bench.appends(2, 1))
    bench.reconnect(1, 2)
    bench.beat(2)
    bench.exchange(1, 2)
    bench.beat(2)
    bench.exchange(1, 2)
    assert bench.log(1) == bench.log(2)
    assert bench.journal(1).commit_index == bench.journal(2).commit_index
    assert len(bench.appends(2, 1)) - sent < 10


# ---- 6. pickled membership entries


def pickle_in_the_log(guards: Guards, mark: Path) -> Bench:
    """An entry of the kind that PySyncObj takes for a membership change; unpickling its payload makes a directory."""
    bench = Bench(3, guards)
    bench.elect(1, 2, 3)
    payload = b"cos\nmkdir\n(V" + str(mark).encode() + b"\ntR."
    bench.publish(1, kind=EntryKind.MEMBERSHIP, body=payload)
    bench.exchange(1, 2, 3)
    bench.beat(1)
    bench.exchange(1, 2, 3)
    return bench


def test_a_pickle_in_the_log_is_inert(tmp_path: Path) -> None:
    """A membership entry is replicated like any other, and nobody unpickles it."""
    bench = pickle_in_the_log(ALL, tmp_path / "mark")
    assert bench.journal(2).commit_index == bench.journal(2).last_index
    assert not (tmp_path / "mark").exists()


def test_without_the_guard_a_pickle_in_the_log_runs(tmp_path: Path) -> None:
    """The stock handler unpickles what a peer sent."""
    with pytest.raises(FileExistsError):  # the second follower runs it too
        pickle_in_the_log(without("membership"), tmp_path / "mark")
    assert (tmp_path / "mark").is_dir()


def removal_that_is_not_committed(guards: Guards) -> int:
    """1 logs a removal of member 3 that reaches only 2; how many others does 2 count in the quorum?"""
    bench = Bench(3, guards)
    bench.elect(1, 2, 3)
    body = b"(lVrem\naI%d\na." % member_id(3, 1)
    bench.publish(1, kind=EntryKind.MEMBERSHIP, body=body)
    bench.deliver(1, 2)
    return len(bench.member(2).otherNodes)


def test_a_membership_entry_changes_nothing_by_itself() -> None:
    """The quorum is what the group was opened with."""
    assert removal_that_is_not_committed(ALL) == 2


def test_without_the_guard_an_entry_changes_the_quorum_when_it_arrives() -> None:
    """The stock handler removes the member at once."""
    assert removal_that_is_not_committed(without("membership")) == 1


# ---- 7. no pre-vote, and leaders that do not know that they are deposed


def follower_returns_from_a_black_hole(guards: Guards) -> tuple[int, int]:
    """A follower's messages vanish for four seconds, its links staying up. The term before and after."""
    world, terms = World(3, 3, guards), []

    async def scenario(world: World) -> None:
        await world.until(lambda: world.leader() is not None)
        leader = world.leader()
        assert leader is not None
        terms.append(max(node.group.term for node in world.nodes.values() if node.group))
        lost = next(number for number in world.members if number != leader.id)
        world.filter = lambda sender, recipient, _: lost not in (sender, recipient)
        await world.settle(4.0)
        world.filter = lambda *_: True
        await world.settle(2.0)
        await world.until(world.converged)
        terms.append(max(node.group.term for node in world.nodes.values() if node.group))

    world.run(scenario)
    return terms[0], terms[1]


def test_a_follower_that_returns_does_not_depose_the_leader() -> None:
    """It asked before campaigning, nobody agreed, and so no term has passed."""
    before, after = follower_returns_from_a_black_hole(ALL)
    assert before == after


def test_without_the_guard_a_follower_that_returns_deposes_the_leader() -> None:
    """Each election timeout in the dark raised its term."""
    before, after = follower_returns_from_a_black_hole(without("pre_vote"))
    assert after > before


def vote_request_while_the_leader_is_heard(guards: Guards) -> tuple[int, int]:
    """A vote request of a higher term reaches a follower that has just heard its leader. Its term before and after."""
    bench = Bench(3, guards)
    bench.elect(1, 2, 3)
    before = bench.member(2).term()
    bench.act(2, lambda member: member.receive(member_id(3, 1), RequestVote(before + 3, 99, before)))
    return before, bench.member(2).term()


def test_a_higher_term_alone_does_not_move_a_follower_that_hears_its_leader() -> None:
    """The request is ignored (dissertation section 4.2.3)."""
    before, after = vote_request_while_the_leader_is_heard(ALL)
    assert before == after


def test_without_the_guard_a_higher_term_moves_any_follower() -> None:
    """The stock handler adopts it."""
    before, after = vote_request_while_the_leader_is_heard(without("pre_vote"))
    assert after == before + 3


def stale_leader_speaks(guards: Guards) -> Bench:
    """1 leads on and does not know that 2 was elected; then its heartbeat reaches 3."""
    bench = Bench(3, guards)
    bench.elect(1, 2, 3)
    bench.now_s += 2.0
    bench.elect(2, 3)
    bench.lose(2, 1)
    bench.act(1, lambda member: member.begin_round())
    bench.member(1)._SyncObj__lastResponseTime = dict.fromkeys(bench.member(1)._nodes.values(), bench.now_s)
    bench.tick(1)
    bench.deliver(1, 3)
    bench.deliver(3, 1)
    return bench


def test_a_stale_leader_learns_at_once_that_it_is_deposed() -> None:
    """A message of a lower term is answered with the term that made it stale."""
    bench = stale_leader_speaks(ALL)
    assert any(isinstance(message, StaleTerm) for _, _, message in bench.sent)
    assert (bench.member(1).state(), bench.member(1).term()) == (FOLLOWER, bench.member(2).term())


def test_without_the_guard_a_stale_leader_is_left_in_the_dark() -> None:
    """The stock handler drops what is of a lower term without a word."""
    assert stale_leader_speaks(without("pre_vote")).member(1).state() == LEADER


def isolated_leader(guards: Guards) -> list[bool]:
    """Whether a leader whose messages vanish still believes that it leads, after 1.2 s."""
    world, leads = World(3, 5, guards), []

    async def scenario(world: World) -> None:
        await world.until(lambda: world.leader() is not None)
        leader = world.leader()
        assert leader is not None
        world.filter = lambda sender, recipient, _: leader.id not in (sender, recipient)
        await world.settle(world.times.fallback_s + 2 * world.times.heartbeat_s)
        assert leader.group is not None
        leads.append(leader.group.ready)

    world.run(scenario)
    return leads


def test_an_isolated_leader_steps_down_within_the_fallback_time() -> None:
    """A leader that no majority answers stops serving after one election timeout."""
    assert isolated_leader(ALL) == [False]


def test_without_the_guard_an_isolated_leader_leads_on() -> None:
    """Nothing tells it otherwise."""
    assert isolated_leader(without("pre_vote")) == [True]


# ---- 8. the leader counts itself before its own fsync


def group_of_one(guards: Guards) -> None:
    """A single member with a slow disk publishes; the checkers look at what is durable."""

    async def scenario(world: World) -> None:
        await world.until(lambda: world.leader() is not None)
        node = world.nodes[1]
        node.disk_s = (0.3, 0.3)
        entry = world.publish(node)
        assert entry is not None
        assert node.group is not None
        await world.settle(0.1)
        assert node.group.commit_index < entry.header.index
        await world.until(lambda: node.group is not None and node.group.commit_index >= entry.header.index)

    World(1, 1, guards).run(scenario)


def test_a_group_of_one_waits_for_its_own_fsync() -> None:
    """It is its own majority, but only for what is on its disk."""
    group_of_one(ALL)


def test_without_the_guard_a_group_of_one_commits_what_it_may_lose() -> None:
    """The stock leader counts itself at once."""
    with pytest.raises(WorldViolation, match="on the disks of only 0 of 1"):
        group_of_one(without("durable"))


def leader_with_a_slow_disk(guards: Guards) -> Bench:
    """One of two followers acknowledges before the leader's own disk has synced."""
    bench = Bench(3, guards)
    bench.elect(1, 2)
    bench.seats[1].slow = True
    bench.publish(1)
    bench.exchange(1, 2)
    return bench


def test_a_leader_counts_itself_only_up_to_what_is_durable() -> None:
    """One follower and an unsynced leader are no majority; they are one when its disk has synced."""
    bench = leader_with_a_slow_disk(ALL)
    last = bench.journal(1).last_index
    assert bench.journal(1).commit_index < last
    bench.seats[1].slow = False
    bench.tick(1)
    assert bench.journal(1).commit_index == last


def test_without_the_guard_one_disk_of_three_is_a_majority() -> None:
    """The stock leader counts itself before its fsync."""
    with pytest.raises(Violation, match="is on the disks of 1 of 3"):
        leader_with_a_slow_disk(without("durable"))


# ---- 9. duplicated votes


def vote_that_arrives_twice(guards: Guards) -> Bench:
    """Of five members one votes, and its vote is delivered twice."""
    bench = Bench(5, guards)
    bench.now_s += 2.0
    bench.act(1, lambda member: member._campaign(disruptive=True))
    bench.deliver(1, 2)
    (vote,) = bench.wire[2, 1]
    bench.wire[2, 1].append(vote)
    bench.deliver(2, 1)
    return bench


def test_a_vote_counts_once() -> None:
    """Two of five do not elect a leader, however often one of them says so."""
    assert vote_that_arrives_twice(ALL).member(1).state() != LEADER


def test_without_the_guard_a_vote_that_arrives_twice_elects() -> None:
    """The stock handler counts messages, not voters."""
    assert vote_that_arrives_twice(without("votes_once")).member(1).state() == LEADER
