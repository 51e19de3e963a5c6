"""Publishing on a leader: what is refused, where a batch lands, and what each acknowledgement waits for."""

from __future__ import annotations

import pytest

from raftlog.broker.pending import PublishCall
from raftlog.broker.port import Published
from raftlog.broker.trim import append_trim
from raftlog.errors import (
    CorruptMessageError,
    IndeterminateError,
    InvalidProducerEpochError,
    InvalidRequestError,
    InvalidTimestampError,
    LeaderNotAvailableError,
    MessageTooLargeError,
    NotLeaderError,
    OutOfOrderSequenceError,
    OverloadedError,
    StorageFullError,
    UnknownProducerIdError,
)
from raftlog.model import NO_PRODUCER, Acks
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb
from raftlog.records import batch
from tests.broker.doubles import NOW_MS, HandLog, Leader, error_of, records


def _published(call: PublishCall) -> Published:
    outcome = call.outcomes[0]
    assert isinstance(outcome, Published), outcome
    return outcome


async def test_a_batch_is_acknowledged_when_it_is_committed_and_not_before() -> None:
    """acks=all: durable on the leader is not enough."""
    leader = Leader()
    call = leader.publish(records(3))
    leader.log.persist()
    assert call.outcomes == [None]
    leader.log.commit()
    assert _published(call).base_offset == 0
    assert leader.partition.high_watermark == 3
    second = leader.publish(records(1))
    leader.log.commit()
    assert _published(second).base_offset == 3


async def test_acks_leader_waits_for_the_own_disk_only() -> None:
    """acks=1: durable here, committed or not."""
    leader = Leader()
    call = leader.publish(records(), acks=Acks.LEADER)
    assert call.outcomes == [None]
    leader.log.persist()
    assert _published(call).base_offset == 0
    assert leader.partition.high_watermark == 0


async def test_acks_none_is_answered_after_the_check() -> None:
    """acks=0: no offset; a bad batch is still refused."""
    leader = Leader()
    assert _published(leader.publish(records(), acks=Acks.NONE)).base_offset == -1
    broken = bytearray(records())
    broken[-1] ^= 1
    assert isinstance(error_of(leader.publish(bytes(broken), acks=Acks.NONE).outcomes[0]), CorruptMessageError)
    assert leader.log.last_index == 3
    assert leader.budget.used_bytes == 0


async def test_the_stored_batch_has_its_offset_and_the_term_as_epoch_and_a_valid_crc() -> None:
    """Only the two fields outside of the CRC change; the entry's header says what the batch says."""
    leader = Leader()
    leader.fill(2)
    sent = records(2, producer=5, epoch=3, sequence=0)
    leader.publish(sent)
    entry = leader.log.kept[leader.log.last_index]
    stored = batch.check(entry.payload, size_max=1 << 20)
    assert (stored.base_offset, stored.leader_epoch) == (4, 1)
    assert bytes(entry.payload[16:]) == sent[16:]
    header = entry.header
    assert (header.base_offset, header.record_count, header.producer_id, header.producer_epoch) == (4, 2, 5, 3)
    assert header.max_timestamp == header.running_max_timestamp == NOW_MS


async def test_the_running_maximum_never_falls() -> None:
    """A batch older than the one before it leaves the running maximum as it is."""
    leader = Leader()
    leader.publish(records(at_ms=NOW_MS))
    leader.publish(records(at_ms=NOW_MS - 5))
    header = leader.log.kept[leader.log.last_index].header
    assert (header.max_timestamp, header.running_max_timestamp) == (NOW_MS - 5, NOW_MS)


async def test_log_append_time_is_the_leaders_and_is_answered() -> None:
    """With LogAppendTime the producer's times do not matter, not even senseless ones."""
    leader = Leader(configs={"message.timestamp.type": "LogAppendTime"})
    call = leader.publish(records(at_ms=NOW_MS * 2))
    leader.log.commit()
    assert _published(call).log_append_time_ms == NOW_MS
    (record,) = batch.decode(leader.log.kept[leader.log.last_index].payload)
    assert record.timestamp_ms == NOW_MS


async def test_bad_batches_are_refused_before_anything_is_appended() -> None:
    """Too large, a far future time, a time too long ago, idempotent without acks=all."""
    leader = Leader(configs={"max.message.bytes": "200", "message.timestamp.before.max.ms": "1000"})
    last = leader.log.last_index
    for data, acks, kind in (
        (records(size=500), Acks.ALL, MessageTooLargeError),
        (records(at_ms=NOW_MS + 3_600_001), Acks.ALL, InvalidTimestampError),
        (records(at_ms=NOW_MS - 1_001), Acks.ALL, InvalidTimestampError),
        (records(producer=1), Acks.LEADER, InvalidRequestError),
        (records(producer=1), Acks.NONE, InvalidRequestError),
    ):
        assert isinstance(error_of(leader.publish(data, acks=acks).outcomes[0]), kind)
    assert leader.log.last_index == last
    assert leader.budget.used_bytes == 0


async def test_a_duplicate_of_a_committed_batch_is_answered_with_its_first_offset() -> None:
    """Nothing is appended, nothing waits."""
    leader = Leader()
    leader.fill(1)
    leader.publish(records(2, producer=7))
    leader.log.commit()
    last = leader.log.last_index
    assert _published(leader.publish(records(2, producer=7))).base_offset == 2
    assert leader.log.last_index == last


async def test_a_duplicate_of_a_committed_but_unapplied_batch_is_answered_at_once() -> None:
    """The overlay knows the batch, the commit index says that it is safe."""
    leader = Leader()
    leader.publish(records(2, producer=7))
    leader.log.commit(apply=False)
    assert _published(leader.publish(records(2, producer=7))).base_offset == 0


async def test_a_duplicate_of_an_uncommitted_batch_waits_for_the_original() -> None:
    """Both are answered with the same offset when the one entry is committed."""
    leader = Leader()
    first = leader.publish(records(2, producer=7))
    second, third = (leader.publish(records(2, producer=7)) for _ in range(2))
    assert leader.log.last_index == 3
    assert [call.outcomes for call in (first, second, third)] == [[None]] * 3
    leader.log.commit()
    assert [_published(call).base_offset for call in (first, second, third)] == [0, 0, 0]
    assert leader.budget.used_bytes == 0


async def test_while_leadership_is_handed_over_every_batch_is_told_so() -> None:
    """A batch behind one that was refused is not told that it is out of order: a producer would give up its place for that."""
    leader = Leader()
    leader.publish(records(2, producer=7))
    leader.log.handing_over = True
    calls = [leader.publish(records(1, producer=7, sequence=sequence)) for sequence in (2, 3, 0)]
    assert [type(call.outcomes[0]) for call in calls] == [LeaderNotAvailableError] * 3
    assert leader.budget.used_bytes == len(records(2, producer=7))
    leader.log.handing_over = False
    assert leader.publish(records(1, producer=7, sequence=2)).outcomes == [None]


async def test_a_sequence_gap_and_an_old_epoch_are_refused() -> None:
    """The order is judged on what was appended, committed or not."""
    leader = Leader()
    leader.publish(records(2, producer=7, epoch=1))
    assert isinstance(error_of(leader.publish(records(1, producer=7, epoch=1, sequence=3)).outcomes[0]), OutOfOrderSequenceError)
    assert leader.publish(records(1, producer=7, epoch=1, sequence=2)).outcomes == [None]
    fenced = leader.publish(records(1, producer=7, epoch=0, sequence=3))
    assert isinstance(error_of(fenced.outcomes[0]), InvalidProducerEpochError)


async def test_a_forgotten_producer_is_told_where_the_log_starts() -> None:
    """Java's client takes a new epoch where it knows that, and else sends the same batch again until its time is over."""
    leader = Leader()
    leader.publish(records(3, producer=7))
    append_trim(leader.log, pb.Trim(log_start_offset=2, keep_from_index=0, expired_producers=[7]), NOW_MS)
    leader.log.commit()
    error = error_of(leader.publish(records(1, producer=7, sequence=3)).outcomes[0])
    assert isinstance(error, UnknownProducerIdError)
    assert error.log_start_offset == 2


async def test_after_truncation_the_sequence_may_be_sent_again() -> None:
    """The overlay forgets what the log lost."""
    leader = Leader()
    leader.publish(records(1, producer=7))
    leader.log.truncate(3)
    leader.log.follow(2)
    leader.log.lead(3)
    call = leader.publish(records(1, producer=7))
    leader.log.commit()
    assert _published(call).base_offset == 0


async def test_a_batch_whose_place_another_entry_took_was_not_appended() -> None:
    """That is known once the other entry is committed there; the truncation alone proves nothing."""
    leader = Leader(lost_wait_s=60)
    calls = [leader.publish(records()), leader.publish(records(), acks=Acks.LEADER)]
    leader.log.follow(2, leader=2)
    leader.log.truncate(3)
    leader.log.receive_noop(2)
    leader.log.receive_noop(2)
    assert [call.outcomes for call in calls] == [[None], [None]]
    leader.log.commit()
    assert [type(error_of(call.outcomes[0])) for call in calls] == [NotLeaderError, NotLeaderError]
    assert leader.budget.used_bytes == 0


async def test_an_entry_truncated_here_and_committed_after_all_is_acknowledged() -> None:
    """A truncated entry may live on at another replica, which becomes leader and commits it (Raft, section 5.4.2)."""
    leader = Leader(lost_wait_s=60)
    call = leader.publish(records())
    entry = leader.log.kept[3]
    leader.log.follow(2, leader=2)
    leader.log.truncate(3)
    leader.log.receive(entry)
    leader.log.commit()
    assert _published(call).base_offset == 0


async def test_leadership_lost_with_the_entry_committed_by_the_next_leader_is_success() -> None:
    """A clean hand-over loses no acknowledgement."""
    leader = Leader(lost_wait_s=60)
    call = leader.publish(records())
    leader.log.follow(2, leader=2)
    assert call.outcomes == [None]
    leader.log.receive_noop(2)
    leader.log.commit()
    assert _published(call).base_offset == 0


async def test_leadership_lost_without_news_is_indeterminate() -> None:
    """After the bounded wait the honest answer is that nobody knows, with or without truncation."""
    leader = Leader(lost_wait_s=0.01)
    kept, cut, durable = leader.publish(records()), leader.publish(records()), leader.publish(records(), acks=Acks.LEADER)
    leader.log.follow(2)
    leader.log.truncate(4)
    for call in (kept, cut, durable):
        assert await call.wait(5)
        assert type(error_of(call.outcomes[0])) is IndeterminateError
    assert leader.budget.used_bytes == 0


async def test_a_wait_from_an_older_term_does_not_end_a_newer_ones() -> None:
    """Led again, the new term's batches wait for their own outcome."""
    leader = Leader(lost_wait_s=0.01)
    old = leader.publish(records())
    leader.log.follow(2)
    leader.log.truncate(3)
    leader.log.lead(3)
    new = leader.publish(records())
    assert await old.wait(5)
    assert new.outcomes == [None]
    leader.log.commit()
    assert _published(new).base_offset == 0


async def test_a_call_that_times_out_leaves_its_bytes_counted_until_the_entry_is_decided() -> None:
    """Memory that is still in use is not handed out again."""
    leader = Leader()
    call = leader.publish(records())
    assert not await call.wait(0.001)
    assert leader.budget.used_bytes > 0
    call.close(IndeterminateError("timed out"))
    (outcome,) = call.results()
    leader.log.commit()
    assert isinstance(outcome, IndeterminateError)
    assert call.outcomes == [outcome], "the first outcome counts"
    assert leader.budget.used_bytes == 0


async def test_too_many_waiting_bytes_are_refused_with_a_time_to_come_back() -> None:
    """Overload is an answer, not a growing queue; it ends when batches are decided."""
    leader = Leader(budget_bytes=250)
    first = leader.publish(records(size=100))
    error = error_of(leader.publish(records(size=100)).outcomes[0])
    assert isinstance(error, OverloadedError)
    assert error.retry_after_ms > 0
    leader.log.commit()
    assert leader.publish(records(size=100)).outcomes == [None]
    assert first.left == 0


async def test_a_full_storage_refuses_before_anything_is_appended() -> None:
    """Publishing stops, reading goes on."""
    leader = Leader()
    leader.store.full = True
    assert isinstance(error_of(leader.publish(records()).outcomes[0]), StorageFullError)
    assert leader.log.last_index == 2
    leader.store.full = False
    leader.clock.now_ms += 1_000
    assert leader.publish(records()).outcomes == [None]


async def test_an_append_that_is_refused_gives_its_bytes_back() -> None:
    """The log itself may say no after the budget was taken."""
    leader = Leader()
    leader.log.ready = False
    assert isinstance(error_of(leader.publish(records()).outcomes[0]), NotLeaderError)
    assert leader.budget.used_bytes == 0


async def test_an_append_whose_outcome_is_unknown_ends_and_gives_its_bytes_back() -> None:
    """The replica went out of service in the append itself: nobody would tell the batches that came with it."""
    leader = Leader()

    def damaged(*_: object) -> None:
        leader.log.follow(1)
        raise IndeterminateError("the replica is damaged")

    leader.log.on_append = damaged
    call = leader.publish(records(), records(2))
    assert [type(outcome) for outcome in call.outcomes] == [IndeterminateError, IndeterminateError]
    assert leader.budget.used_bytes == 0
    assert not leader.partition.outstanding


async def test_the_high_watermark_never_goes_back() -> None:
    """Not by truncation, not by a change of leader, not by a restart from rows."""
    leader = Leader()
    leader.fill(3)
    marks = [leader.partition.high_watermark]
    leader.fill(2, committed=False)
    leader.log.follow(2)
    marks.append(leader.partition.high_watermark)
    leader.log.truncate(6)
    marks.append(leader.partition.high_watermark)
    leader.log.receive_noop(2)
    leader.log.commit()
    marks.append(leader.partition.high_watermark)
    again = leader.new_partition()
    log = leader.log.restarted(again)
    again.bind(log)
    marks.append(again.high_watermark)
    assert marks == [6, 6, 6, 6, 6]


async def test_a_restarted_replica_knows_its_producers_and_its_uncommitted_tail() -> None:
    """Applied rows and the overlay of (applied, last] together give the answers that were given before (I4)."""
    leader = Leader()
    leader.publish(records(2, producer=7))
    leader.log.commit()
    leader.publish(records(1, producer=7, sequence=2))
    again = leader.new_partition()
    log = leader.log.restarted(again)
    again.bind(log)
    assert again.log_end_offset == 3
    assert again.high_watermark == 2
    leader.partition, leader.log = again, log
    log.lead(2)
    assert _published(leader.publish(records(2, producer=7))).base_offset == 0
    assert _published(leader.publish(records(1, producer=7, sequence=2))).base_offset == 2
    assert isinstance(error_of(leader.publish(records(1, producer=7, sequence=9)).outcomes[0]), OutOfOrderSequenceError)


@pytest.mark.parametrize("applied", [2, 4, 6])
async def test_state_from_the_log_is_state_from_rows(applied: int) -> None:
    """A replica that applied everything live and one that restarted half way agree on producers and log start (I8)."""
    leader = Leader()
    for sequence in range(4):
        leader.publish(records(1, producer=7, sequence=sequence))
    leader.log.commit(applied)
    trim = pb.Trim(log_start_offset=2, keep_from_index=0, expired_producers=[99])
    append_trim(leader.log, trim, NOW_MS)
    again = leader.new_partition()
    log = leader.log.restarted(again)
    again.bind(log)
    for each in (leader.log, log):
        assert isinstance(each, HandLog)
        each.commit()
    assert again.log_start_offset == leader.partition.log_start_offset == 2
    assert again.producers.encode_row(7) == leader.partition.producers.encode_row(7)
    assert log.rows.get(1, (7).to_bytes(8, "big")) == leader.log.rows.get(1, (7).to_bytes(8, "big"))
    assert NO_PRODUCER not in again.producers
