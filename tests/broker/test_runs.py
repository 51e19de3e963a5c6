"""Batches that come together share an entry; each keeps its own offset, outcome and identity."""

from __future__ import annotations

import pytest

from raftlog.broker import run, subscribe
from raftlog.broker.pending import PublishCall
from raftlog.broker.port import Published
from raftlog.core.entry import EntryKind
from raftlog.errors import CorruptMessageError, OutOfOrderSequenceError, OverloadedError, StorageFullError
from raftlog.model import Acks
from raftlog.records import batch
from tests.broker.doubles import NOW_MS, Leader, records


def offsets(call: PublishCall) -> list[object]:
    """Base offsets, or the classes of the errors."""
    return [outcome.base_offset if isinstance(outcome, Published) else type(outcome) for outcome in call.outcomes]


def record_counts(leader: Leader) -> list[int]:
    """Of the entries that hold records."""
    entries = [entry for _, entry in sorted(leader.log.kept.items()) if entry.header.kind is EntryKind.RECORDS]
    return [entry.header.record_count for entry in entries]


@pytest.mark.parametrize("acks", [Acks.ALL, Acks.LEADER])
async def test_batches_of_one_call_share_an_entry_and_are_told_their_own_offsets(acks: Acks) -> None:
    """One entry for all, and an outcome for each."""
    leader = Leader()
    call = leader.publish(records(1), records(3), records(2), acks=acks)
    assert record_counts(leader) == [6]
    leader.log.persist()
    leader.log.commit()
    assert offsets(call) == [0, 1, 4]
    assert leader.budget.used_bytes == 0
    entry = leader.log.kept[leader.log.last_index]
    assert [record.offset for record in batch.decode(entry.payload)] == [0, 1, 2, 3, 4, 5]
    assert {header.leader_epoch for header, _ in batch.split(entry.payload)} == {1}


async def test_a_producers_batches_share_an_entry_as_long_as_they_are_in_order() -> None:
    """What does not continue its sequence is refused alone; a batch of nobody stands in an entry of its own."""
    leader = Leader()
    call = leader.publish(
        records(2, producer=5, sequence=0),
        records(1, producer=5, sequence=2),
        records(1, producer=5, sequence=9),
        records(1, producer=5, sequence=3),
        records(1),
        records(1, producer=6, sequence=0),
    )
    leader.log.commit()
    assert offsets(call) == [0, 2, OutOfOrderSequenceError, 3, 4, 5]
    assert record_counts(leader) == [3, 1, 1, 1]


async def test_a_batch_sent_again_alone_is_known_by_the_entry_it_shared() -> None:
    """Before the commit it shares the outcome, behind it is answered at once, and at its own offset in both cases."""
    leader = Leader()
    batches = [records(2, producer=5, sequence=sequence) for sequence in (0, 2, 4)]
    first = leader.publish(*batches)
    again = leader.publish(batches[1])
    assert again.left == 1
    leader.log.commit()
    assert offsets(first) == [0, 2, 4]
    assert offsets(again) == [2]
    assert offsets(leader.publish(batches[2])) == [4]
    assert record_counts(leader) == [6]


async def test_a_refused_batch_does_not_take_its_neighbours_with_it() -> None:
    """The others are stored, in order."""
    leader = Leader()
    broken = bytearray(records(1))
    broken[-1] ^= 1
    call = leader.publish(records(1), bytes(broken), records(2))
    leader.log.commit()
    assert offsets(call) == [0, CorruptMessageError, 1]


async def test_what_waits_is_bounded_within_a_call_too() -> None:
    """Batches beyond the budget are refused, and only they; all of it comes back."""
    size = len(records(1))
    leader = Leader(budget_bytes=2 * size)
    call = leader.publish(records(1), records(1), records(1))
    assert offsets(call)[2] is OverloadedError
    leader.log.commit()
    assert offsets(call) == [0, 1, OverloadedError]
    assert leader.budget.used_bytes == 0


async def test_a_full_storage_refuses_all_that_would_share_the_entry() -> None:
    """Nothing is appended, and nothing stays counted as waiting."""
    leader = Leader()
    leader.store.full = True
    last = leader.log.last_index
    assert offsets(leader.publish(records(1), records(1))) == [StorageFullError, StorageFullError]
    assert (leader.log.last_index, leader.budget.used_bytes) == (last, 0)


async def test_an_entry_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run ends before the batch that would be too much."""
    monkeypatch.setattr(run, "RUN_BYTES_MAX", 2 * len(records(1)))
    leader = Leader()
    leader.publish(records(1), records(1), records(1), records(1), records(1))
    assert record_counts(leader) == [2, 2, 1]


async def test_log_append_time_is_set_in_every_batch_of_an_entry() -> None:
    """Each has the leader's time, and a CRC that fits."""
    leader = Leader(configs={"message.timestamp.type": "LogAppendTime"})
    call = leader.publish(records(1, at_ms=5), records(1, at_ms=7))
    leader.log.commit()
    assert [outcome.log_append_time_ms for outcome in call.outcomes if isinstance(outcome, Published)] == [NOW_MS, NOW_MS]
    entry = leader.log.kept[leader.log.last_index]
    assert [record.timestamp_ms for record in batch.decode(entry.payload)] == [NOW_MS, NOW_MS]


async def test_a_reader_gets_batches_of_an_entry_and_not_the_whole_of_it() -> None:
    """From the batch that holds the offset, as many as its limit allows, one at least; and goes on in the middle. An entry
    that is as large as the limit is the last one that is looked at."""
    leader = Leader()
    size = len(records(2))
    leader.publish(*[records(2) for _ in range(5)])
    leader.publish(records(2))
    leader.log.commit()

    def seen(offset: int, bytes_max: int) -> tuple[list[int], int]:
        fetched = subscribe.read(leader.partition, offset, bytes_max)
        return [record.offset for record in batch.decode(b"".join(fetched.batches))], fetched.next_offset

    assert seen(0, 1 << 20) == (list(range(12)), 12)
    assert seen(0, 2 * size) == ([0, 1, 2, 3], 4)
    assert seen(4, 2 * size) == ([4, 5, 6, 7], 8)
    assert seen(5, 1) == ([4, 5], 6)
    assert seen(7, 3 * size) == ([6, 7, 8, 9], 10)
    assert seen(9, 1 << 20) == ([8, 9, 10, 11], 12)


async def test_a_time_is_looked_up_within_an_entry() -> None:
    """The record, not just the entry."""
    leader = Leader()
    leader.publish(*[records(1, at_ms=NOW_MS - 1_000 + number) for number in range(5)])
    leader.log.commit()
    found = await subscribe.list_offset(leader.partition, NOW_MS - 997, timeout_s=1, check_leader=leader.check_leader)
    assert (found.offset, found.timestamp_ms) == (3, NOW_MS - 997)
