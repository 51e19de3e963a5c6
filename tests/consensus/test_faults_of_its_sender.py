"""Faults 4 and 5 of PySyncObj, its own ways of sending: entries in pickled chunks, and a pickled snapshot.

Neither has a form on raftlog's wire; here the wire carries whatever PySyncObj sends, so that its faults can be seen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from raftlog.consensus.guard import Guards
from raftlog.consensus.journal import GroupJournal
from raftlog.consensus.member import Member
from raftlog.core.entry import Entry
from tests.consensus.bench import Bench, Violation

ALL = Guards()
NO_SENDER = replace(ALL, sender=False)


class Shown(Entry):
    """An entry as PySyncObj expects a command: with a length."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self.data)


class ShowingJournal(GroupJournal):
    """Shows PySyncObj the entries themselves, which its own sender needs."""

    def __getitem__(self, item: int | slice) -> Any:
        if isinstance(item, int):
            return super().__getitem__(item)
        stop = len(self) if item.stop is None else item.stop
        entries = self.read(self.first_index + (item.start or 0), self.first_index + stop, 1 << 30)
        return [(Shown(entry.header, entry.data), entry.header.index, entry.header.term) for entry in entries]


class Raw:
    """A message of PySyncObj's that has no other form: a chunk, or a part of its snapshot."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body


class StockWire(Member):
    """A member whose wire carries all that PySyncObj sends, also what raftlog's cannot."""

    def _from_pysyncobj(self, recipient: int, message: dict[str, Any]) -> None:
        if "transmission" in message or "serialized" in message:
            self.outbox.append((recipient, Raw(message)))  # type: ignore[arg-type]
        else:
            super()._from_pysyncobj(recipient, message)

    def receive(self, sender: int, message: Any) -> None:
        if isinstance(message, Raw):
            self._ambience.enter()
            self._outlet._onMessageReceived(self._nodes[sender], message.body)
        else:
            super().receive(sender, message)


def one_large_entry(guards: Guards, size: int) -> Bench:
    """Two of three members, and an entry of ``size`` bytes where PySyncObj would cut at 1,000."""
    bench = Bench(3, guards, member_class=StockWire, journal_class=ShowingJournal)
    for seat in bench.seats.values():
        seat.member.conf.appendEntriesBatchSizeBytes = 1_000
    bench.elect(1, 2)
    bench.publish(1, size=size)
    bench.now_s += 0.2
    bench.tick(1)
    bench.exchange(1, 2)
    return bench


def test_a_large_entry_travels_whole() -> None:
    """However large an entry is, it is one message, not chunks of a pickle."""
    bench = one_large_entry(ALL, 1_880)
    assert bench.log(1) == bench.log(2)
    assert not [message for _, _, message in bench.sent if isinstance(message, Raw)]


def test_without_the_guard_a_large_entry_travels_as_a_broken_pickle() -> None:
    """The stock sender compares the length of the pickle with that of the entry, and ends the transmission too early."""
    with pytest.raises(EOFError):
        one_large_entry(NO_SENDER, 1_880)


def follower_that_needs_what_was_trimmed(guards: Guards) -> Bench:
    """3 led once and has a tail of its own; meanwhile 1 has committed others, and trimmed the start of its log."""
    bench = Bench(3, guards, member_class=StockWire, journal_class=ShowingJournal)
    bench.elect(3, 1, 2)
    bench.publish(3, 6)
    bench.lose(3, 2)
    bench.lose(3, 1)
    bench.elect(1, 2)
    bench.publish(1, 12)
    for _ in range(3):
        bench.now_s += 0.2
        bench.tick(1)
        bench.exchange(1, 2)
    bench.act(1, lambda member: member.journal.trim(10))
    bench.act(1, lambda member: member.journal.trim_step())
    assert bench.journal(1).first_index == 10
    bench.reconnect(1, 3)
    bench.look_s = 0.001
    for _ in range(6):
        bench.now_s += 0.2
        bench.tick(1)
        bench.exchange(1, 3)
    return bench


def test_a_follower_below_the_start_of_the_leaders_log_commits_nothing() -> None:
    """It needs a snapshot; until it gets one it is told nothing that it could take for its own log, and is not flooded."""
    bench = follower_that_needs_what_was_trimmed(ALL)
    assert bench.journal(3).commit_index < 3
    assert not [message for _, _, message in bench.sent if isinstance(message, Raw)]
    assert sum(bench.copies(1, 3).values()) < 40


def test_without_the_guards_a_snapshot_message_commits_what_does_not_match() -> None:
    """The stock sender turns to its pickled snapshot, and the stock handler takes the commit index from it unchecked.

    Two guards stand before it: a reset never points below the start of the log, and the sender never sends it.
    """
    with pytest.raises(Violation, match="commits"):
        follower_that_needs_what_was_trimmed(replace(NO_SENDER, probes=False))


def follower_that_was_away_while_the_leader_trimmed(guards: Guards) -> Bench:
    """2 has acknowledged the start of the leader's log, and that start is trimmed while it is away."""
    bench = Bench(3, guards, member_class=StockWire, journal_class=ShowingJournal)
    bench.elect(1, 2, 3)
    bench.publish(1, 12)
    for _ in range(3):
        bench.now_s += 0.2
        bench.tick(1)
        bench.exchange(1, 3)
    bench.act(1, lambda member: member.journal.trim(10))
    bench.act(1, lambda member: member.journal.trim_step())
    bench.reconnect(1, 2)
    bench.look_s = 0.001
    bench.now_s += 0.2
    bench.tick(1)
    return bench


def test_no_snapshot_of_pysyncobj_is_ever_sent() -> None:
    """Where the next entry was trimmed, the leader goes on from the start of its log."""
    bench = follower_that_was_away_while_the_leader_trimmed(ALL)
    assert not [message for _, _, message in bench.sent if isinstance(message, Raw)]
    assert bench.wire[1, 2][-1].prev_index == 10


def test_without_the_guard_a_snapshot_of_pysyncobj_is_sent() -> None:
    """The stock sender leaves the log for its snapshot."""
    bench = follower_that_was_away_while_the_leader_trimmed(NO_SENDER)
    assert [message for _, _, message in bench.sent if isinstance(message, Raw)]
