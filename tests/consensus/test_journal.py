"""A group's log against a model: any interleaving of adding, truncating, trimming, committing, crashing and reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raftlog.consensus.journal import CONFIG_ROW, HARD_ROW, PROGRESS_ROW, RAFT_TABLE, GroupJournal, stored_replica
from raftlog.consensus.tail import TailCache
from raftlog.core.entry import Entry, EntryHeader, EntryKind, encode
from raftlog.core.features import Level
from raftlog.errors import DataLossError
from raftlog.storage.memory_store import MemoryStore
from raftlog.storage.port import WriteBatch

GROUP = 7
NOOP = b"\x01"
TINY_TAIL_BYTES = 400
"""Room for three or four entries: what is read comes from all three places."""


class Node:
    """What a journal needs: a store whose commits end when told, and the transaction that is being gathered."""

    def __init__(self, tail_bytes: int = TINY_TAIL_BYTES) -> None:
        self.finish: Callable[[], None] | None = None
        self.store = MemoryStore(schedule=self._scheduled)
        self.tail_bytes = tail_bytes
        self.open()

    def _scheduled(self, finish: Callable[[], None]) -> None:
        self.finish = finish

    def open(self) -> None:
        """Start, or start again, over what the store holds."""
        self.batch = WriteBatch()
        self.tail = TailCache(self.tail_bytes)
        self.journal = GroupJournal(GROUP, self.store, self.tail, self, replica=1, founders=(1 << 32 | 1,))
        if self.journal.last_index == 0:
            self.journal.add(NOOP, 1, 0)

    def be_in(self, term: int) -> None:
        """Take over a term, which comes before any entry of it."""
        if term > self.journal.getCurrentTerm():
            self.journal.setCurrentTerm(term, None)

    def add(self, size: int = 20, term: int = 1) -> Entry:
        """Append an entry of a payload of ``size`` bytes."""
        self.be_in(term)
        last = self.journal.last
        header = EntryHeader(EntryKind.RECORDS, GROUP, last.index + 1, term, last.next_offset, 1)
        entry = encode(header, bytes(size))
        self.journal.add(entry, last.index + 1, term)
        return entry

    def begin_commit(self) -> None:
        """Hand the batch over, as the turn loop does, with the lazy row."""
        self.batch.rows[GROUP, 0, b"progress"] = self.journal.progress_row()
        self.journal.taken()
        self.journal.hard_dirty = self.journal.progress_dirty = False
        batch, self.batch = self.batch, WriteBatch()
        self.store.commit(batch, self.journal.durable)

    def end_commit(self) -> None:
        """The disk has it."""
        assert self.finish is not None
        finish, self.finish = self.finish, None
        finish()

    def commit(self) -> None:
        """One whole commit."""
        self.begin_commit()
        self.end_commit()


class JournalMachine(RuleBasedStateMachine):
    """The model is a list of entries, what of it is durable, and the four indices."""

    @initialize()
    def begin(self) -> None:
        self.node = Node()
        self.log = dict[int, Entry]()
        self.log[1] = self.node.journal.read(1, 2, 1)[0]
        self.commit_index, self.term, self.first = 1, 1, 1
        self.durable: tuple[dict[int, Entry], int, int] | None = None  # log, commit index, first index
        self.in_flight: tuple[dict[int, Entry], int, int] | None = None
        self.durable_index = 0

    @property
    def last(self) -> int:
        return max(self.log)

    @rule(sizes=st.lists(st.integers(0, 250), min_size=1, max_size=5))
    def add(self, sizes: list[int]) -> None:
        for size in sizes:
            entry = self.node.add(size, self.term)
            self.log[entry.header.index] = entry

    @rule()
    def add_no_op(self) -> None:
        index = self.last + 1
        self.node.be_in(self.term)
        self.node.journal.add(NOOP, index, self.term)
        self.log[index] = self.node.journal.read(index, index + 1, 1)[0]
        assert self.log[index].header.kind is EntryKind.NOOP

    @precondition(lambda self: self.in_flight is None and self.last > self.commit_index)
    @rule(share=st.floats(0, 1))
    def truncate(self, share: float) -> None:
        index = self.commit_index + 1 + round(share * (self.last - self.commit_index - 1))
        self.node.journal.truncated_at = None
        self.node.journal.deleteEntriesFrom(index - self.node.journal.first_index)
        assert self.node.journal.truncated_at == index
        self.log = {at: entry for at, entry in self.log.items() if at < index}
        self.durable_index = min(self.durable_index, index - 1)
        self.term += 1

    @rule(share=st.floats(0, 1))
    def learn_commit(self, share: float) -> None:
        durable = max(self.commit_index, min(self.last, self.durable_index))
        self.commit_index += round(share * (durable - self.commit_index))
        self.node.journal.setRaftCommitIndex(self.commit_index)
        self.node.journal.applied_index = self.commit_index

    @precondition(lambda self: self.in_flight is None)
    @rule()
    def begin_commit(self) -> None:
        self.node.begin_commit()
        self.in_flight = (dict(self.log), self.commit_index, self.first)

    @precondition(lambda self: self.in_flight is not None)
    @rule()
    def end_commit(self) -> None:
        assert self.in_flight is not None
        self.node.end_commit()
        self.durable, self.in_flight = self.in_flight, None
        self.durable_index = max(self.durable[0])

    @rule(share=st.floats(0, 1))
    def trim(self, share: float) -> None:
        keep = self.first + round(share * (min(self.commit_index, self.durable_index) - self.first))
        self.node.journal.trim(keep)
        stepped = self.node.journal.trim_step()
        assert stepped == (keep > self.first)
        self.first = max(keep, self.first)
        self.log = {at: entry for at, entry in self.log.items() if at >= self.first}

    @precondition(lambda self: self.durable is not None)
    @rule(keep_in_flight=st.booleans())
    def crash(self, keep_in_flight: bool) -> None:
        self.node.store = self.node.store.crash(keep_in_flight=keep_in_flight)
        self.node.finish = None
        self.node.open()
        if keep_in_flight and self.in_flight is not None:
            self.durable = self.in_flight
        assert self.durable is not None
        log, self.commit_index, self.first = self.durable
        self.log, self.in_flight = dict(log), None
        self.durable_index = self.last
        self.term += 1

    @rule(start=st.integers(0, 30), count=st.integers(0, 12), bytes_max=st.integers(0, 1_500))
    def read(self, start: int, count: int, bytes_max: int) -> None:
        found = self.node.journal.read(start, start + count, bytes_max)
        expected: list[bytes] = []
        for index in range(start, start + count):
            if index not in self.log or (expected and sum(map(len, expected)) + len(self.log[index].data) > bytes_max):
                break
            expected.append(self.log[index].data)
        assert [entry.data for entry in found] == expected

    @invariant()
    def the_log_is_the_models(self) -> None:
        if not hasattr(self, "log"):
            return
        journal = self.node.journal
        assert (journal.first_index, journal.last_index, len(journal)) == (self.first, self.last, len(self.log))
        assert (journal.commit_index, journal.durable_index) == (self.commit_index, self.durable_index)
        assert journal.size_bytes == sum(len(entry.data) for entry in self.log.values())
        assert self.node.batch.size_bytes == sum(map(len, self.node.batch.entries.values()))
        assert self.node.tail.size_bytes <= TINY_TAIL_BYTES
        for index in range(self.first - 1, self.last + 2):
            expected = self.log[index].header if index in self.log else None
            assert journal.header(index) == expected

    @invariant()
    def positions_are_what_pysyncobj_expects(self) -> None:
        if not hasattr(self, "log"):
            return
        journal = self.node.journal
        positions: list[Any] = [(None, index, entry.header.term) for index, entry in sorted(self.log.items())]
        assert journal[-1] == positions[-1]
        assert journal[0][:2] == positions[0][:2]
        for at in range(len(positions)):
            assert journal[at:] == positions[at : at + 2]
            assert journal[at : at + 1] == positions[at : at + 1]


TestJournal = JournalMachine.TestCase
TestJournal.settings = settings(max_examples=80, stateful_step_count=50)


def test_term_and_vote_survive_a_restart() -> None:
    """They join the batch at once, mark the turn, and are read back."""
    node = Node()
    node.journal.setCurrentTerm(5, 1 << 32)
    assert node.journal.hard_dirty
    node.commit()
    node.open()
    assert (node.journal.getCurrentTerm(), node.journal.getVotedForNodeId()) == (5, 1 << 32)
    node.journal.setCurrentTerm(6, None)
    node.commit()
    node.open()
    assert (node.journal.getCurrentTerm(), node.journal.getVotedForNodeId()) == (6, None)


def test_the_same_term_and_vote_are_not_written_again() -> None:
    """A heartbeat that sets what is set costs no commit."""
    node = Node()
    node.journal.setCurrentTerm(5, None)
    node.commit()
    node.journal.setCurrentTerm(5, None)
    assert not node.journal.hard_dirty
    assert not node.batch


def test_the_commit_index_starts_no_commit() -> None:
    """Every heartbeat sets it; it waits for the next batch."""
    node = Node()
    node.add()
    node.commit()
    node.journal.setRaftCommitIndex(2)
    assert not node.batch
    assert node.journal.progress_dirty


def test_what_is_committed_is_never_truncated() -> None:
    """Not even when PySyncObj asks for it."""
    node = Node()
    node.add()
    node.add()
    node.journal.setRaftCommitIndex(2)
    with pytest.raises(AssertionError, match="truncating 2 with 2 committed"):
        node.journal.deleteEntriesFrom(1)


def test_an_entry_that_does_not_follow_is_refused() -> None:
    """The log has no gaps and nothing twice."""
    node = Node()
    with pytest.raises(AssertionError, match="entry 3 behind 1"):
        node.journal.add(NOOP, 3, 1)


def test_the_durable_index_does_not_count_what_was_added_during_a_commit() -> None:
    """It joins the next batch, and is durable with that one."""
    node = Node()
    node.begin_commit()
    node.add()
    node.end_commit()
    assert node.journal.durable_index == 1
    node.commit()
    assert node.journal.durable_index == 2


def test_a_trim_goes_in_steps_and_keeps_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delete costs pages, so one transaction deletes a bounded number; what is not applied stays."""
    monkeypatch.setattr("raftlog.consensus.journal.TRIM_STEP_ENTRIES", 4)
    node = Node()
    for _ in range(9):
        node.add()
    node.commit()
    node.journal.setRaftCommitIndex(10)
    node.journal.applied_index = 10
    node.journal.trim(1_000)
    steps = []
    while node.journal.trim_step():
        steps.append(node.journal.first_index)
        node.commit()
    assert steps == [5, 9, 10]
    assert node.store.bounds(GROUP) == (10, 10)
    node.journal.trim(3)
    assert not node.journal.trim_step()


def test_reading_stops_before_a_damaged_entry_and_fails_at_it() -> None:
    """What is good is served; what is damaged never."""
    node = Node(tail_bytes=0)
    for _ in range(4):
        node.add()
    node.commit()
    node.store.damage_entry(GROUP, 3)
    assert [entry.header.index for entry in node.journal.read(1, 6, 1 << 20)] == [1, 2]
    with pytest.raises(DataLossError):
        node.journal.read(3, 6, 1 << 20)


def test_a_log_whose_end_is_missing_is_not_opened() -> None:
    """The last header must be there: without it neither term nor offset are known."""
    node = Node()
    node.add()
    node.commit()
    node.store.damage_entry(GROUP, 2, at=20)
    with pytest.raises(DataLossError):
        node.open()


@pytest.mark.parametrize(("row", "what"), [(HARD_ROW, "term and vote"), (PROGRESS_ROW, "progress")])
def test_a_log_without_a_row_that_belongs_to_it_is_not_opened(row: bytes, what: str) -> None:
    """A flipped bit in a key makes a row one that is not there. Its replica must not begin anew, and vote in a term again."""
    node = Node()
    for _ in range(3):
        node.add(term=5)
    node.commit()
    node.open()
    lose_row(node, row)
    with pytest.raises(DataLossError, match=f"the row of its {what} is missing"):
        node.open()


def test_a_log_without_the_row_of_its_members_is_damaged_where_every_version_writes_it() -> None:
    """The founders would be taken for the members, who may have gone long ago."""
    node = Node()
    node.add()
    node.commit()
    assert stored_replica(node.store, GROUP, Level.MEMBERSHIP) == 1
    lose_row(node, CONFIG_ROW)
    assert stored_replica(node.store, GROUP, Level.FIRST) is None
    assert stored_replica(node.store, GROUP + 1, Level.MEMBERSHIP) is None
    with pytest.raises(DataLossError, match="members is missing"):
        stored_replica(node.store, GROUP, Level.MEMBERSHIP)


def test_an_entry_that_is_not_found_within_the_log_is_damage() -> None:
    """Its key is damaged: that there is nothing would be told of no other entry."""
    node = Node(tail_bytes=0)
    for _ in range(4):
        node.add()
    node.commit()
    find = node.store._entry
    node.store._entry = lambda group, index: None if index == 3 else find(group, index)  # type: ignore[method-assign]
    assert [entry.header.index for entry in node.journal.read(1, 6, 1 << 20)] == [1, 2]
    for look in (lambda: node.journal.read(3, 6, 1 << 20), lambda: node.journal.header(3)):
        with pytest.raises(DataLossError, match="entry 3 of group 7 is missing from its log, 1 to 5"):
            look()
    assert node.journal.header(6) is None


def lose_row(node: Node, row: bytes) -> None:
    """Let a row of consensus be found no more."""
    batch = WriteBatch()
    batch.rows[GROUP, RAFT_TABLE, row] = None
    node.store.commit(batch, lambda: None)
    assert node.finish is not None
    node.finish()
