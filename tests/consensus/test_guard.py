"""The pure functions of the guard, alone: against a model of the receiver rules of Raft (section 5.3), and case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from raftlog.consensus import guard
from raftlog.consensus.guard import Guards, Receivable
from raftlog.consensus.messages import Ack, Append, RequestPreVote, RequestVote
from raftlog.core.entry import Entry, EntryHeader, EntryKind
from raftlog.errors import ConsensusFailedError, DataLossError


def entry(index: int, term: int) -> Entry:
    """An entry of which only its place counts."""
    return Entry(EntryHeader(EntryKind.NOOP, 7, index, term, 0), b"")


class Log:
    """A log of terms; the first of them stands at ``first_index``."""

    def __init__(self, terms: list[int], first_index: int = 1) -> None:
        self.terms = terms
        self.first_index = first_index
        self.last_index = first_index + len(terms) - 1

    def term_at(self, index: int) -> int | None:
        return self.terms[index - self.first_index] if self.first_index <= index <= self.last_index else None

    def slice(self, prev: int, count: int) -> list[Entry]:
        """``count`` entries behind ``prev``."""
        return [entry(index, self.terms[index - self.first_index]) for index in range(prev + 1, prev + 1 + count)]


def stock(log: Log, message: Append) -> tuple[Log, int | None]:
    """What PySyncObj's handler makes of an Append: the log after it, and the ``next_index`` it would acknowledge."""
    if log.term_at(message.prev_index) != message.prev_term:
        return log, None
    kept = log.terms[: message.prev_index - log.first_index + 1]
    return Log(kept + [e.header.term for e in message.entries], log.first_index), message.end_index + 1


def model(log: Log, message: Append) -> Log:
    """What the paper says (section 5.3, AppendEntries, receiver 3 and 4): delete only from the first conflict on."""
    terms = list(log.terms)
    for new in message.entries:
        at = new.header.index - log.first_index
        if at < 0:
            continue
        if at < len(terms) and terms[at] != new.header.term:
            del terms[at:]
        if at == len(terms):
            terms.append(new.header.term)
    return Log(terms, log.first_index)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Log, Log, int, Append]:
    """A leader's log, a follower's that shares a committed prefix with it, the commit index there, and an Append.

    Both logs are legal: terms rise, and where index and term agree all before agrees too.
    """
    common = sorted(draw(st.lists(st.integers(1, 3), min_size=1, max_size=8)))
    ours = [2 * term for term in sorted(draw(st.lists(st.integers(2, 4), max_size=6)))]  # even terms: the leader's
    theirs = [2 * term + 1 for term in sorted(draw(st.lists(st.integers(1, 3), max_size=6)))]  # odd: another leader's
    leader = Log([*common, *ours])
    trimmed = draw(st.integers(0, len(common) - 1))
    behind = draw(st.integers(trimmed + 1, len(leader.terms)))
    tail = theirs if behind <= len(common) else []
    follower = Log([*leader.terms[:behind], *tail][trimmed:], trimmed + 1)
    commit = draw(st.integers(follower.first_index, min(behind, follower.last_index)))
    prev = draw(st.integers(1, leader.last_index))
    count = draw(st.integers(0, leader.last_index - prev))
    leader_commit = draw(st.integers(commit if draw(st.booleans()) else 0, leader.last_index))
    prev_term = leader.terms[prev - 1]
    return leader, follower, commit, Append(9, prev, prev_term, leader_commit, leader.slice(prev, count))


def matches(follower: Log, message: Append) -> bool:
    """Whether the logs are known to agree at ``prev``; what is trimmed was committed."""
    return message.prev_index < follower.first_index or follower.term_at(message.prev_index) == message.prev_term


@given(situations())
def test_a_reduced_append_leaves_the_log_that_the_paper_says(situation: tuple[Log, Log, int, Append]) -> None:
    """The guard before the stock handler gives the log of the receiver rules, for any logs and any Append."""
    _, follower, commit, message = situation
    assume(matches(follower, message))
    reduced = guard.receivable(message, follower, commit)
    after, _ = stock(follower, reduced.message)
    assert after.terms == model(follower, message).terms


@given(situations())
def test_nothing_that_matches_is_truncated(situation: tuple[Log, Log, int, Append]) -> None:
    """All entries that agree with the leader's log are still there after any of its messages."""
    leader, follower, commit, message = situation
    reduced = guard.receivable(message, follower, commit)
    after, _ = stock(follower, reduced.message)
    for index in range(follower.first_index, follower.last_index + 1):
        if leader.term_at(index) == follower.term_at(index):
            assert after.term_at(index) == follower.term_at(index)


@given(situations())
def test_only_what_agrees_is_committed_and_acknowledged(situation: tuple[Log, Log, int, Append]) -> None:
    """Neither the commit index nor the acknowledgement covers an entry that the message did not show to agree."""
    leader, follower, commit, message = situation
    reduced = guard.receivable(message, follower, commit)
    after, next_index = stock(follower, reduced.message)
    if next_index is None:
        assert reduced.message.commit_index == 0
        return
    if reduced.ack_next_max is not None:
        next_index = min(next_index, reduced.ack_next_max)
    assert next_index - 1 <= message.end_index
    assert reduced.message.commit_index <= message.end_index
    for index in range(after.first_index, min(next_index, after.last_index + 1)):
        assert after.term_at(index) == leader.term_at(index)


@given(situations())
def test_a_message_that_matches_is_acknowledged_to_its_end(situation: tuple[Log, Log, int, Append]) -> None:
    """No entry is asked for twice: what the message covers is acknowledged, whatever of it was new."""
    _, follower, commit, message = situation
    assume(matches(follower, message))
    reduced = guard.receivable(message, follower, commit)
    _, next_index = stock(follower, reduced.message)
    assert next_index is not None
    acknowledged = next_index if reduced.ack_next_max is None else min(next_index, reduced.ack_next_max)
    assert acknowledged == message.end_index + 1


@given(situations())
def test_a_message_that_does_not_match_reaches_the_handler_as_it_is(situation: tuple[Log, Log, int, Append]) -> None:
    """The stock handler refuses it by itself; only its commit index is taken away."""
    _, follower, commit, message = situation
    assume(not matches(follower, message))
    assert guard.receivable(message, follower, commit) == Receivable(replace(message, commit_index=0))


def test_a_conflict_with_a_committed_entry_is_fatal() -> None:
    """A leader that would replace what is committed shows that Raft itself was broken: stop at once."""
    log = Log([1, 1, 1, 1])
    with pytest.raises(ConsensusFailedError, match="would replace entry 3"):
        guard.receivable(Append(2, 2, 1, 0, [entry(3, 2)]), log, commit_index=3)
    with pytest.raises(ConsensusFailedError, match="conflicts with committed"):
        guard.receivable(Append(2, 3, 2, 0, []), log, commit_index=3)


def test_a_message_wholly_below_the_start_of_the_log_is_acknowledged_only_to_its_end() -> None:
    """What was trimmed was committed; nothing behind the message is promised."""
    reduced = guard.receivable(Append(2, 1, 1, 9, [entry(2, 1)]), Log([1, 1, 1], first_index=5), commit_index=5)
    assert reduced.message == Append(2, 7, 1, 2, [])
    assert reduced.ack_next_max == 3


# ---- acknowledgements


class DamagedLog(Log):
    """None of its entries can be read."""

    def term_at(self, index: int) -> int | None:
        raise DataLossError(f"entry {index} is damaged")


def test_an_outgoing_acknowledgement_is_capped() -> None:
    """A success promises at most what the message covered; a reset points where the logs are known to agree, and names the term
    there, if that can be read."""
    log = Log([1, 1, 1, 2, 2])
    ack = guard.outgoing_ack(Ack(3, 20, True, False), log, commit_index=4, ack_next_max=9, answering=(2, 5), damaged=True)
    assert ack == Ack(3, 9, True, False, 2, 5, damaged=True)
    reset = guard.outgoing_ack(Ack(3, 20, False, True), log, commit_index=4, ack_next_max=None, answering=(2, 5), damaged=False)
    assert reset == Ack(3, 5, False, True, 2, 5, agreed_term=2)
    unread = guard.outgoing_ack(
        Ack(3, 20, False, True), DamagedLog([1, 1, 1, 2, 2]), commit_index=4, ack_next_max=None, answering=(2, 5), damaged=True
    )
    assert unread == Ack(3, 5, False, True, 2, 5, damaged=True)
    usual = guard.outgoing_ack(Ack(3, 8, True, False), log, commit_index=4, ack_next_max=9, answering=(0, 0), damaged=False)
    assert usual == Ack(3, 8, True, False)


def incoming(ack: Ack, *, probe: int = 0, match: int | None = 5, guards: Guards | None = None) -> guard.AckOutcome | None:
    """What a leader of term 3 with the log 2 … 20 makes of an acknowledgement."""
    return guard.incoming_ack(
        ack, term=3, probe=probe, match_index=match, first_index=2, last_index=20, guards=guards or Guards()
    )


@pytest.mark.parametrize(
    ("ack", "match"), [(Ack(2, 9, True, False), 5), (Ack(4, 9, True, False), 5), (Ack(3, 9, True, False), None)]
)
def test_acknowledgements_of_other_terms_and_of_strangers_are_dropped(ack: Ack, match: int | None) -> None:
    """Only a member's answer to this term counts."""
    assert incoming(ack, match=match) is None


def test_without_the_guard_acknowledgements_of_other_terms_pass() -> None:
    """The switch does what it says."""
    assert incoming(Ack(2, 9, True, False), guards=Guards(terms=False)) is not None


def test_a_success_beyond_the_leaders_log_is_capped() -> None:
    """A follower cannot have acknowledged what this leader does not have."""
    assert incoming(Ack(3, 99, True, True)) == guard.AckOutcome(Ack(3, 21, True, False))


def test_a_reset_counts_once_for_each_probe() -> None:
    """The first reset of a probe is followed; the others, answers to what was under way, are not."""
    assert incoming(Ack(3, 8, False, True, probe=1), probe=1) == guard.AckOutcome(Ack(3, 8, False, True, 1), probe_again=True)
    assert incoming(Ack(3, 8, False, True, probe=1), probe=2) == guard.AckOutcome(Ack(3, 8, False, False, 1))


@pytest.mark.parametrize(("asked", "match", "next_index"), [(3, 5, 6), (1, 0, 3), (9, 5, 9), (1, None, 3)])
def test_a_reset_never_points_below_what_matches_or_what_is_held(asked: int, match: int | None, next_index: int) -> None:
    """Behind the match index, and behind the log's first entry, which only serves as the one before."""
    outcome = incoming(Ack(3, asked, False, True), match=match, guards=Guards(terms=False))
    assert outcome is not None
    assert outcome.ack.next_index == next_index


def test_a_reset_that_was_moved_says_no_term() -> None:
    """What the follower said was of another entry."""
    stays, moved = (incoming(Ack(3, asked, False, True, agreed_term=2)) for asked in (9, 3))
    assert stays is not None
    assert moved is not None
    assert (stays.ack.agreed_term, moved.ack.agreed_term) == (2, 0)


# ---- votes and commit


@pytest.mark.parametrize(
    ("ask", "alive", "granted"),
    [
        (RequestPreVote(4, 7, 2), False, True),
        (RequestPreVote(4, 8, 2), False, True),
        (RequestPreVote(4, 1, 3), False, True),
        (RequestPreVote(4, 6, 2), False, False),
        (RequestPreVote(4, 9, 1), False, False),
        (RequestPreVote(3, 7, 2), False, False),
        (RequestPreVote(4, 7, 2), True, False),
    ],
)
def test_a_pre_vote_is_granted_as_a_vote_would_be(ask: RequestPreVote, alive: bool, granted: bool) -> None:
    """To a log at least as new (section 5.4.1), for a higher term, and by none that hears a leader."""
    assert guard.grants_pre_vote(ask, term=3, last_index=7, last_term=2, leader_alive=alive) is granted


@pytest.mark.parametrize(
    ("ask", "alive", "ignored"),
    [
        (RequestVote(4, 7, 2), True, True),
        (RequestVote(4, 7, 2), False, False),
        (RequestVote(4, 7, 2, True), True, False),
        (RequestVote(3, 7, 2), True, False),
    ],
)
def test_a_vote_request_is_ignored_while_the_leader_is_heard(ask: RequestVote, alive: bool, ignored: bool) -> None:
    """But not one that the leader itself asked for (dissertation section 4.2.3)."""
    assert guard.ignores_vote_request(ask, term=3, leader_alive=alive) is ignored


@given(st.integers(0, 50), st.lists(st.integers(0, 50), max_size=6))
def test_the_commit_candidate_is_the_highest_index_that_a_majority_holds(own: int, others: list[int]) -> None:
    """At least that many hold it, and the next is held by too few."""
    candidate, size = guard.commit_candidate([own, *others]), len(others) + 1
    assert sum(held >= candidate for held in (own, *others)) > size / 2
    assert sum(held >= candidate + 1 for held in (own, *others)) <= size / 2
