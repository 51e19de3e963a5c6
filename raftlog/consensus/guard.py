"""What PySyncObj's handler must be kept from: pure functions between the wire and it.

PySyncObj 0.3.17 as it comes loses acknowledged data. Each guard below mends one fault, sees one message and a view of the
log, and returns what to do; none has state of its own. ``Guards`` names them, so that a test can show that each is needed.

1. ``matching``: a follower truncates only where an entry conflicts (Raft section 5.3, rule 3); stock code truncates
   everything behind ``prev_index`` on every message. A matching prefix is dropped and ``prev`` advanced over it; where
   nothing conflicts, ``prev`` becomes the own last entry and the acknowledgement is capped at what the message covered. The
   commit index is clamped to that too (rule 5: "index of last *new* entry").
2. ``terms``: an acknowledgement counts only in the term it answers, and only from a member.
3. ``probes``: an acknowledgement never moves ``nextIndex`` backwards. Only a *reset* does, once for each probe, and to the
   follower's commit index + 1, where the logs are known to agree.
4. ``sender``: entries leave in messages bounded in bytes, never as pickled chunks, never as a pickled snapshot.
5. ``pre_vote``: a candidate asks first (dissertation section 9.6); a member that hears its leader does not answer
   (section 4.2.3); a message of a lower term is answered, so that a deposed leader learns of it at once.
6. ``durable``: the leader counts itself only up to its durable index (dissertation section 10.2.1).
7. ``votes_once``: a voter counts once a term, however often its vote arrives.
8. ``membership``: a membership entry in the log changes nothing by itself (PySyncObj would unpickle it).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from raftlog.consensus.messages import Ack, Append, RequestPreVote, RequestVote
from raftlog.errors import ConsensusFailedError, DataLossError


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """Which guards are on. In use, all of them."""

    matching: bool = True
    terms: bool = True
    probes: bool = True
    sender: bool = True
    pre_vote: bool = True
    durable: bool = True
    votes_once: bool = True
    membership: bool = True


class LogView(Protocol):
    """What a guard may know of the log. ``first_index`` ≤ ``commit_index`` ≤ ``last_index`` on any settled log."""

    first_index: int
    last_index: int

    def term_at(self, index: int) -> int | None:
        """Term of an entry, None outside of the log."""


class Receivable(NamedTuple):
    """An Append that PySyncObj may see, and the highest ``next_index`` that may be acknowledged for it (None: as it says)."""

    message: Append
    ack_next_max: int | None = None


def receivable(message: Append, log: LogView, commit_index: int) -> Receivable:
    """Guard 1: reduce an Append to what is new in it.

    Raises:
        ConsensusFailedError: it conflicts with what this replica knows to be committed.
    """
    cap: int | None = None
    prev, prev_term, entries = message.prev_index, message.prev_term, message.entries
    end = message.end_index
    commit = min(message.commit_index, end)
    if prev == log.last_index and log.term_at(prev) == prev_term and commit == message.commit_index:
        return Receivable(message)  # the usual case: all of it is new
    if prev < log.first_index:
        # Entries before the log's start were committed and trimmed: they match.
        if end < log.first_index:
            cap, entries = end + 1, []
        else:
            entries = entries[log.first_index - prev :]
        prev, base_term = log.first_index, log.term_at(log.first_index)
        assert base_term is not None
        prev_term = base_term
    if prev > log.last_index or log.term_at(prev) != prev_term:
        if prev <= commit_index:
            raise ConsensusFailedError(f"entry {prev} of term {prev_term} conflicts with committed term {log.term_at(prev)}")
        return Receivable(replace(message, prev_index=prev, prev_term=prev_term, entries=entries, commit_index=0))
    matching = _matching(entries, log)
    fresh, prev = entries[matching:], prev + matching
    if not fresh and log.last_index > prev:
        cap, prev = (end + 1 if cap is None else cap), log.last_index
    elif fresh and prev < min(commit_index, log.last_index):
        raise ConsensusFailedError(f"a leader would replace entry {prev + 1}, but {commit_index} is committed")
    last_term = log.term_at(prev)
    assert last_term is not None
    return Receivable(replace(message, prev_index=prev, prev_term=last_term, entries=fresh, commit_index=commit), cap)


def _matching(entries: Sequence[object], log: LogView) -> int:
    count = 0
    for entry in entries:
        header = entry.header  # type: ignore[attr-defined]
        if log.term_at(header.index) != header.term:
            break
        count += 1
    return count


def outgoing_ack(
    ack: Ack, log: LogView, *, commit_index: int, ack_next_max: int | None, answering: tuple[int, int], damaged: bool
) -> Ack:
    """Guards 1 and 3 on the follower: cap what is acknowledged, and let a reset point where the logs agree, and say the term
    there. ``answering``: probe and round of the Append."""
    next_index = ack.next_index
    if ack.success and ack_next_max is not None:
        next_index = min(next_index, ack_next_max)
    agreed_term = 0
    if ack.reset:
        next_index = min(next_index, commit_index + 1)
        with suppress(DataLossError):
            agreed_term = log.term_at(next_index - 1) or 0
    return Ack(ack.term, next_index, ack.success, ack.reset, *answering, damaged, agreed_term)


class AckOutcome(NamedTuple):
    """An acknowledgement that PySyncObj may see; ``probe_again``: it was the one reset of its probe."""

    ack: Ack
    probe_again: bool = False


def incoming_ack(
    ack: Ack, *, term: int, probe: int, match_index: int | None, first_index: int, last_index: int, guards: Guards
) -> AckOutcome | None:
    """Guards 2 and 3 on the leader. ``match_index`` is None for a non-member. None: drop it."""
    if guards.terms and (ack.term != term or match_index is None):
        return None
    if not guards.probes:
        return AckOutcome(ack)
    if ack.success:
        usual = ack.next_index <= last_index + 1 and not ack.reset
        return AckOutcome(ack if usual else replace(ack, next_index=min(ack.next_index, last_index + 1), reset=False))
    if not ack.reset or ack.probe != probe:
        return AckOutcome(replace(ack, reset=False))
    next_index = max(ack.next_index, (match_index or 0) + 1, first_index + 1)
    agreed_term = ack.agreed_term if next_index == ack.next_index else 0
    return AckOutcome(replace(ack, next_index=next_index, agreed_term=agreed_term), probe_again=True)


def grants_pre_vote(ask: RequestPreVote, *, term: int, last_index: int, last_term: int, leader_alive: bool) -> bool:
    """Guard 5: whether this member would vote for the asker, were it to campaign."""
    return ask.term > term and not leader_alive and (ask.last_term, ask.last_index) >= (last_term, last_index)


def ignores_vote_request(ask: RequestVote, *, term: int, leader_alive: bool) -> bool:
    """Guard 5: a higher term alone does not depose a leader that is heard."""
    return ask.term > term and not ask.disruptive and leader_alive


def commit_candidate(held: Sequence[int]) -> int:
    """Guard 6: the highest index that a majority of the voters holds: what each of them is known to have, and where the leader
    is one of them, what is durable on it."""
    return sorted(held, reverse=True)[len(held) // 2]
