"""The table of idempotent producers: no batch twice, none out of order, the same on every replica."""

from __future__ import annotations

import copy
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raftlog.core.entry import EntryHeader, EntryKind
from raftlog.core.producers import Duplicate, New, ProducerTable, row_key
from raftlog.errors import (
    DataLossError,
    InvalidProducerEpochError,
    OutOfOrderSequenceError,
    RaftlogError,
    UnknownProducerIdError,
)

PRODUCERS_MAX = 3
LAST = (1 << 31) - 1


def header(index: int, producer_id: int, sequence: int, count: int = 1, epoch: int = 0, time: int = 0) -> EntryHeader:
    """An entry whose first offset is ten times its index."""
    return EntryHeader(
        EntryKind.RECORDS, 1, index, 1, index * 10, count,
        producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence, append_time=time,
    )  # fmt: skip


def applied(*headers: EntryHeader, producers_max: int = 100) -> ProducerTable:
    """A table that has applied the entries."""
    table = ProducerTable(producers_max=producers_max)
    for one in headers:
        table.append(one)
        table.apply(one)
    return table


def test_a_batch_without_a_producer_is_always_new() -> None:
    """Producer id −1 asks for no guarantee and leaves no trace."""
    table = applied(header(1, -1, -1))
    assert table.check(-1, -1, -1, 5) == New()
    assert len(table) == 0


def test_a_batch_that_continues_the_sequence_is_new() -> None:
    """Sequences count records, not batches."""
    table = applied(header(1, 7, 0, count=3))
    assert table.check(7, 0, 3, 1) == New()


@pytest.mark.parametrize("is_applied", [True, False])
def test_one_of_the_last_five_batches_is_a_duplicate(is_applied: bool) -> None:
    """It is answered with its own offset and index, whether or not it is committed; the sixth last is out of order."""
    table = ProducerTable()
    for i in range(6):
        entry = header(i + 1, 7, i * 2, count=2)
        table.append(entry)
        if is_applied:
            table.apply(entry)
    for i in range(1, 6):
        assert table.check(7, 0, i * 2, 2) == Duplicate(base_offset=(i + 1) * 10, index=i + 1)
    with pytest.raises(OutOfOrderSequenceError):
        table.check(7, 0, 0, 2)


def test_the_last_five_may_be_partly_applied() -> None:
    """Applied batches and those of the overlay are seen as one sequence."""
    table = applied(header(1, 7, 0), header(2, 7, 1), header(3, 7, 2))
    table.append(header(4, 7, 3))
    assert [table.check(7, 0, i, 1) for i in range(4)] == [Duplicate((i + 1) * 10, i + 1) for i in range(4)]
    assert table.check(7, 0, 4, 1) == New()


@pytest.mark.parametrize(("sequence", "count"), [(5, 1), (0, 5), (3, 2)])
def test_a_gap_or_an_overlap_is_out_of_order(sequence: int, count: int) -> None:
    """Nothing is a duplicate that has a record which is not in the log."""
    with pytest.raises(OutOfOrderSequenceError):
        applied(header(1, 7, 0, count=4)).check(7, 0, sequence, count)


@pytest.mark.parametrize(("sequence", "count"), [(0, 4), (0, 2), (1, 1), (2, 2)])
def test_a_batch_within_an_entry_is_a_duplicate_at_its_own_offset(sequence: int, count: int) -> None:
    """Batches that came together share an entry; one of them sent again alone is recognised, and where it stands is known."""
    assert applied(header(1, 7, 0, count=4)).check(7, 0, sequence, count) == Duplicate(10 + sequence, 1)


def test_a_batch_within_an_entry_is_recognised_where_sequences_wrap() -> None:
    """Behind 2**31 − 1 comes 0, in the middle of an entry too."""
    table = applied(header(1, 7, LAST - 1, count=5))
    assert table.check(7, 0, 0, 2) == Duplicate(12, 1)
    assert table.check(7, 0, LAST, 2) == Duplicate(11, 1)


def test_sequences_wrap_to_zero() -> None:
    """After 2**31 − 1 comes 0, also inside a batch."""
    table = applied(header(1, 7, LAST - 1, count=2))
    assert table.check(7, 0, 0, 1) == New()
    table = applied(header(1, 7, LAST, count=3))
    assert table.check(7, 0, LAST, 3) == Duplicate(10, 1)
    assert table.check(7, 0, 2, 1) == New()


def test_an_older_epoch_is_fenced_and_a_newer_one_begins_at_zero() -> None:
    """KIP-360: the epoch rises, sequences start again, the old instance is refused even for what it wrote."""
    table = applied(header(1, 7, 0, epoch=1))
    with pytest.raises(InvalidProducerEpochError):
        table.check(7, 0, 0, 1)
    with pytest.raises(OutOfOrderSequenceError):
        table.check(7, 2, 1, 1)
    assert table.check(7, 2, 0, 1) == New()
    table.append(header(2, 7, 0, epoch=2))
    with pytest.raises(InvalidProducerEpochError):
        table.check(7, 1, 1, 1)
    assert table.check(7, 2, 0, 1) == Duplicate(20, 2)
    table.truncate(2)
    assert table.check(7, 1, 1, 1) == New()


def test_a_producers_second_batch_is_not_taken_before_its_first() -> None:
    """A producer that never wrote here begins at sequence 0, even if a later batch arrives first."""
    with pytest.raises(OutOfOrderSequenceError):
        ProducerTable().check(7, 0, 1, 1)


def test_a_forgotten_producer_is_told_to_begin_anew() -> None:
    """After it expired, a later sequence is refused with an error of its own, also after a restart; sequence 0 is new."""
    table = applied(header(1, 7, 0))
    table.expire([7])
    reloaded = ProducerTable()
    reloaded.load([(key, value) for key, value in table.take_changes().items() if value is not None])
    for one in (table, reloaded):
        assert 7 not in one
        with pytest.raises(UnknownProducerIdError):
            one.check(7, 0, 1, 1)
        with pytest.raises(OutOfOrderSequenceError):
            one.check(8, 0, 1, 1)
        assert one.check(7, 1, 0, 1) == New()


def test_only_idle_producers_expire() -> None:
    """One with a batch under way, or with a recent one, is not proposed."""
    table = applied(header(1, 7, 0, time=100), header(2, 8, 0, time=200), header(3, 9, 0, time=100))
    table.append(header(4, 9, 1, time=300))
    assert table.expirable(before_ms=150) == [7]
    assert table.expirable(before_ms=201) == [7, 8]


def test_the_producer_that_wrote_longest_ago_makes_room() -> None:
    """The limit holds, and it is the last write that counts, also after a restart."""
    table = applied(header(1, 7, 0), header(2, 8, 0), header(3, 7, 1), producers_max=2)
    reloaded = ProducerTable(producers_max=2)
    reloaded.load((key, value) for key, value in sorted(table.take_changes().items()) if value is not None)
    for one in (table, reloaded):
        one.apply(header(4, 9, 0))
        assert [producer for producer in (7, 8, 9) if producer in one] == [7, 9]
        assert one.take_changes()[row_key(8)] is None


@pytest.mark.parametrize("row", [b"", b"\x01\x00\x00\x02" + bytes(32), b"\x01\x00\x00\x00"])
def test_a_row_that_is_not_whole_is_not_loaded(row: bytes) -> None:
    """A row of another length is data loss, not a guess."""
    with pytest.raises(DataLossError):
        ProducerTable().load([(row_key(1), row)])
    with pytest.raises(DataLossError):
        ProducerTable().load([(b"key", row)])


class Expire(NamedTuple):
    """An entry that forgets producers."""

    number: int
    producers: tuple[int, ...]


class Model:
    """The table's meaning, in the plainest way: replay the whole log for every question."""

    def __init__(self) -> None:
        self.log: list[EntryHeader | Expire] = []
        self.applied = 0

    def replay(self) -> tuple[dict[int, list[EntryHeader]], int, dict[int, list[EntryHeader]]]:
        """Producers after the applied entries with their batches, the highest id forgotten, and producers after all."""
        state: dict[int, list[EntryHeader]] = {}
        forgotten = -1
        for entry in self.log[: self.applied]:
            if isinstance(entry, Expire):
                gone = [producer for producer in set(entry.producers) if producer in state]
            else:
                self._take(state, entry)
                by_age = sorted(state, key=lambda producer: state[producer][-1].index)
                gone = by_age[: max(0, len(state) - PRODUCERS_MAX)]
            for producer in gone:
                del state[producer]
                forgotten = max(forgotten, producer)
        everything = copy.deepcopy(state)
        for entry in self.log[self.applied :]:
            if isinstance(entry, EntryHeader):
                self._take(everything, entry)
        return state, forgotten, everything

    @staticmethod
    def _take(state: dict[int, list[EntryHeader]], entry: EntryHeader) -> None:
        if entry.producer_id >= 0:
            before = [one for one in state.get(entry.producer_id, []) if one.producer_epoch == entry.producer_epoch]
            state[entry.producer_id] = [*before, entry][-5:]

    def check(self, producer: int, epoch: int, sequence: int, count: int) -> object:
        """What the table must answer: a value, or the class of an error."""
        _, forgotten, everything = self.replay()
        batches = everything.get(producer)
        if batches is None:
            if sequence == 0:
                return New()
            return UnknownProducerIdError if producer <= forgotten else OutOfOrderSequenceError
        last = batches[-1]
        if epoch != last.producer_epoch:
            if epoch < last.producer_epoch:
                return InvalidProducerEpochError
            return New() if sequence == 0 else OutOfOrderSequenceError
        for one in batches:
            ahead = sequence - one.base_sequence
            if ahead >= 0 and ahead + count <= one.record_count:
                return Duplicate(one.base_offset + ahead, one.index)
        return New() if sequence == (last.base_sequence + last.record_count) % (1 << 31) else OutOfOrderSequenceError


class Replicas(RuleBasedStateMachine):
    """A leader's table with its overlay, and a follower's without, through appends, truncations, applying and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.leader = ProducerTable(producers_max=PRODUCERS_MAX)
        self.follower = ProducerTable(producers_max=PRODUCERS_MAX)
        self.rows: dict[bytes, bytes] = {}

    def send(self, producer: int, epoch: int, sequence: int, count: int) -> None:
        """Ask the table, compare with the model, and append what is new."""
        expected: object = New() if producer < 0 else self.model.check(producer, epoch, sequence, count)
        try:
            answer: object = self.leader.check(producer, epoch, sequence, count)
        except RaftlogError as error:
            answer = type(error)
        assert answer == expected
        if answer == New():
            entry = header(len(self.model.log) + 1, producer, sequence, count, epoch)
            self.model.log.append(entry)
            self.leader.append(entry)

    @rule(producer=st.sampled_from([0, 1, 2, 3, 4, -1]), batches=st.integers(1, 6), new_epoch=st.sampled_from([0, 0, 0, 1]))
    def produce(self, producer: int, batches: int, new_epoch: int) -> None:
        """Send batches in order; sometimes under a new epoch."""
        for i in range(batches):
            known = self.model.replay()[2].get(producer)
            if producer < 0:
                self.send(-1, -1, -1, 1)
            elif not known:
                self.send(producer, new_epoch, 0, 2)
            elif i == 0 and new_epoch:
                self.send(producer, known[-1].producer_epoch + 1, 0, 2)
            else:
                self.send(producer, known[-1].producer_epoch, known[-1].base_sequence + known[-1].record_count, 2)

    @rule(producer=st.integers(0, 4), epoch=st.integers(-1, 1), step=st.integers(-14, 4), count=st.sampled_from([2, 2, 2, 1, 3]))
    def produce_anything(self, producer: int, epoch: int, step: int, count: int) -> None:
        """Send a batch near the end of the producer's sequence, and one of any epoch near its own."""
        known = self.model.replay()[2].get(producer)
        if known:
            self.send(producer, known[-1].producer_epoch + epoch, max(0, known[-1].base_sequence + step), count)
        else:
            self.send(producer, max(epoch, 0), max(0, step), count)

    @rule()
    def repeat_everything(self) -> None:
        """Send again all that is in the log, also under its producer's present epoch, and a gap for each producer."""
        for entry in [entry for entry in self.model.log if isinstance(entry, EntryHeader) and entry.producer_id >= 0]:
            known = self.model.replay()[2].get(entry.producer_id, [entry])
            for epoch in {entry.producer_epoch, known[-1].producer_epoch}:
                sent = (entry.producer_id, epoch, entry.base_sequence, entry.record_count)
                if self.model.check(*sent) != New():
                    self.send(*sent)
        for producer in range(5):
            if self.model.check(producer, 0, 77, 1) != New():
                self.send(producer, 0, 77, 1)

    @rule(producers=st.lists(st.integers(0, 4), min_size=1, max_size=2))
    def propose_expiry(self, producers: list[int]) -> None:
        """Append an entry that forgets producers when it is applied."""
        self.model.log.append(Expire(len(self.model.log) + 1, tuple(producers)))

    @precondition(lambda self: self.model.applied < len(self.model.log))
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        """Cut the log anywhere beyond the applied index."""
        keep = data.draw(st.integers(self.model.applied, len(self.model.log)))
        del self.model.log[keep:]
        self.leader.truncate(keep + 1)

    @precondition(lambda self: self.model.applied < len(self.model.log))
    @rule(count=st.integers(1, 6))
    def apply_some(self, count: int) -> None:
        """Apply entries on both; their row changes are the same."""
        for _ in range(min(count, len(self.model.log) - self.model.applied)):
            self.apply_one()

    def apply_one(self) -> None:
        entry = self.model.log[self.model.applied]
        self.model.applied += 1
        for table in (self.leader, self.follower):
            if isinstance(entry, Expire):
                table.expire(entry.producers)
            else:
                table.apply(entry)
        changes = self.leader.take_changes()
        assert changes == self.follower.take_changes()
        for key, value in changes.items():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value

    @rule()
    def restart(self) -> None:
        """Build the leader's table anew from its rows and the log beyond them."""
        self.leader = ProducerTable(producers_max=PRODUCERS_MAX)
        self.leader.load(sorted(self.rows.items()))
        for entry in self.model.log[self.model.applied :]:
            if isinstance(entry, EntryHeader):
                self.leader.append(entry)

    @invariant()
    def the_rows_are_the_applied_state(self) -> None:
        """Rows, tables and the replayed log know the same producers, within the limit."""
        state, _, everything = self.model.replay()
        assert {key for key in self.rows if key != row_key(-1)} == {row_key(producer) for producer in state}
        assert len(self.leader) == len(state) <= PRODUCERS_MAX
        for producer in state:
            assert self.rows[row_key(producer)] == self.leader.encode_row(producer) == self.follower.encode_row(producer)
        assert {producer for producer in range(6) if producer in self.leader} == set(everything)


TestReplicas = Replicas.TestCase
TestReplicas.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
