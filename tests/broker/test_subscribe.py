"""Reading a partition: at every boundary, at its tail, and by time."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Coroutine
from typing import Any

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from raftlog.broker import subscribe
from raftlog.broker.port import EARLIEST, LATEST, MAX_TIMESTAMP, Fetched, ListedOffset
from raftlog.broker.trim import append_trim
from raftlog.core.tasks import TaskScope
from raftlog.errors import DataLossError, InvalidRequestError, NotLeaderError, OffsetOutOfRangeError
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb
from raftlog.records import batch
from raftlog.records.batch import HEADER_SIZE
from tests.broker.doubles import NOW_MS, Leader, records


async def _fetch(leader: Leader, offset: int, *, bytes_max: int = 1 << 20, wait_s: float = 0.0) -> Fetched:
    return await subscribe.fetch(leader.partition, offset, bytes_max=bytes_max, wait_s=wait_s, check_leader=leader.check_leader)


async def _list(leader: Leader, timestamp_ms: int) -> ListedOffset:
    return await subscribe.list_offset(leader.partition, timestamp_ms, timeout_s=1, check_leader=leader.check_leader)


def _offsets(fetched: Fetched) -> list[int]:
    return [record.offset for payload in fetched.batches for record in batch.decode(payload)]


async def _settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def _waiting(scope: TaskScope, coro: Coroutine[Any, Any, Fetched]) -> asyncio.Task[Fetched]:
    task = scope.start(coro, name="fetch")
    await _settled()
    assert not task.done()
    return task


async def test_every_offset_is_found_across_entries_without_records() -> None:
    """From each offset, also in the middle of a batch, the batch that holds it comes first and whole."""
    leader = Leader()
    for _ in range(4):
        leader.fill(3)
        leader.log.lead(leader.log.term + 1)
    for offset in range(24):
        fetched = await _fetch(leader, offset, bytes_max=1)
        assert _offsets(fetched) == [offset // 2 * 2, offset // 2 * 2 + 1]
        assert fetched.next_offset == offset // 2 * 2 + 2
        assert fetched.high_watermark == 24


async def test_all_that_fits_is_read_and_nothing_twice() -> None:
    """Going on at ``next_offset`` gives every record once, whatever the limit."""
    leader = Leader()
    leader.fill(20)
    for bytes_max in (1, 150, 400, 1 << 20):
        offset, seen = 0, []
        while offset < 40:
            fetched = await _fetch(leader, offset, bytes_max=bytes_max)
            assert len(fetched.batches) == 1 or fetched.size_bytes <= bytes_max
            seen += _offsets(fetched)
            offset = fetched.next_offset
        assert seen == list(range(40))


async def test_a_tailing_reader_is_not_searched_for() -> None:
    """Going on where it stopped reads no header."""
    leader = Leader()
    leader.fill(50)
    offset = (await _fetch(leader, 0, bytes_max=1)).next_offset
    leader.log.headers_read = 0
    for _ in range(20):
        offset = (await _fetch(leader, offset, bytes_max=1)).next_offset
    assert leader.log.headers_read == 0


async def test_what_is_not_committed_is_not_read() -> None:
    """Durable on the leader is not enough (I5)."""
    leader = Leader()
    leader.fill(1)
    leader.fill(2, committed=False)
    leader.log.persist()
    assert _offsets(await _fetch(leader, 0)) == [0, 1]
    empty = await _fetch(leader, 2)
    assert (empty.batches, empty.next_offset, empty.high_watermark) == ([], 2, 2)


async def test_out_of_range_says_where_the_range_is() -> None:
    """Below the log start, and above the high watermark though below the log's end."""
    leader = Leader()
    leader.fill(3)
    append_trim(leader.log, pb.Trim(log_start_offset=3, keep_from_index=4), NOW_MS)
    leader.log.commit()
    leader.fill(2, committed=False)
    for offset in (2, 7, -1):
        with pytest.raises(OffsetOutOfRangeError) as caught:
            await _fetch(leader, offset)
        assert (caught.value.earliest, caught.value.latest) == (3, 6)
    assert _offsets(await _fetch(leader, 3)) == [2, 3, 4, 5], "a batch is given whole, also over the log start"
    assert leader.log.first_index == 4


async def test_a_waiting_fetch_is_woken_by_the_commit() -> None:
    """Appending wakes nobody, committing does, and the fetch has the records."""
    leader = Leader()
    scope = TaskScope(lambda _: None)
    task = await _waiting(scope, _fetch(leader, 0, wait_s=60))
    leader.fill(1, committed=False)
    await _settled()
    assert not task.done()
    leader.log.commit()
    assert _offsets(await task) == [0, 1]
    await scope.close()


async def test_a_waiting_fetch_ends_empty_when_its_time_is_over() -> None:
    """An empty answer is no error, and goes on at the same offset."""
    leader = Leader()
    leader.fill(1)
    fetched = await _fetch(leader, 2, wait_s=0.001)
    assert (fetched.batches, fetched.next_offset) == ([], 2)


async def test_a_waiting_fetch_hears_that_leadership_is_gone() -> None:
    """It is told at once, and does not wait for its time."""
    leader = Leader()
    scope = TaskScope(lambda _: None)
    task = await _waiting(scope, _fetch(leader, 0, wait_s=60))
    leader.log.follow(2, leader=3)
    with pytest.raises(NotLeaderError):
        await task
    await scope.close()


async def test_a_cancelled_fetch_leaves_nothing_behind() -> None:
    """The next commit does not stumble over it."""
    leader = Leader()
    scope = TaskScope(lambda _: None)
    task = await _waiting(scope, _fetch(leader, 0, wait_s=60))
    task.cancel()
    await _settled()
    assert not leader.partition._watchers
    leader.fill(1)
    await scope.close()


async def test_a_follower_asked_above_its_high_watermark_waits_and_answers_empty() -> None:
    """Only the leader knows that an offset does not exist."""
    leader = Leader()
    leader.fill(1)
    leader.log.follow(2, leader=2)
    fetched = await subscribe.fetch(leader.partition, 9, bytes_max=1, wait_s=0.001, check_leader=None)
    assert (fetched.batches, fetched.next_offset, fetched.high_watermark) == ([], 9, 2)


async def test_a_missing_entry_is_data_loss_and_not_an_empty_answer() -> None:
    """A hole in the log is never passed over."""
    leader = Leader()
    leader.fill(3)
    offset = (await _fetch(leader, 0, bytes_max=1)).next_offset
    del leader.log.kept[4]
    with pytest.raises(DataLossError):
        await _fetch(leader, offset)


async def _listed(leader: Leader, timestamp_ms: int) -> tuple[int, int]:
    listed = await subscribe.list_offset(leader.partition, timestamp_ms, timeout_s=1, check_leader=leader.check_leader)
    return listed.offset, listed.timestamp_ms


async def test_the_earliest_and_the_latest_offset() -> None:
    """The latest is behind a read barrier; the earliest needs none."""
    leader = Leader()
    leader.fill(3)
    append_trim(leader.log, pb.Trim(log_start_offset=2, keep_from_index=4), NOW_MS)
    leader.log.commit()
    assert await _listed(leader, EARLIEST) == (2, -1)
    assert leader.log.barriers == 0
    assert await _listed(leader, LATEST) == (6, -1)
    assert leader.log.barriers == 1
    with pytest.raises(InvalidRequestError):
        await _listed(leader, -7)


async def test_that_there_is_no_record_so_young_is_behind_a_read_barrier() -> None:
    """A deposed leader would say it, too; what is found needs none, for it is committed (I5)."""
    leader = Leader()
    leader.publish(records(1, at_ms=NOW_MS))
    leader.log.commit()
    assert await _listed(leader, NOW_MS) == (0, NOW_MS)
    assert leader.log.barriers == 0
    assert await _listed(leader, NOW_MS + 1) == (-1, -1)
    assert leader.log.barriers == 1
    leader.log.ready = False
    with pytest.raises(NotLeaderError):
        await _listed(leader, NOW_MS + 1)


async def test_the_latest_offset_is_not_given_by_a_leader_that_was_deposed_meanwhile() -> None:
    """The barrier fails, and so does the call (I5)."""
    leader = Leader()
    scope = TaskScope(lambda _: None)
    task = scope.start(_listed(leader, LATEST), name="latest")
    await asyncio.sleep(0)
    leader.log.ready = False
    with pytest.raises(NotLeaderError):
        await task
    await scope.close()


async def test_a_time_is_found_inside_a_batch_and_behind_the_log_start() -> None:
    """The first record at or after the time; none when all are older."""
    leader = Leader()
    leader.publish(records(4, at_ms=NOW_MS - 100, step_ms=10))
    leader.publish(records(2, at_ms=NOW_MS - 500))
    leader.publish(records(1, at_ms=NOW_MS))
    leader.log.commit()
    assert await _listed(leader, 0) == (0, NOW_MS - 100)
    assert await _listed(leader, NOW_MS - 85) == (2, NOW_MS - 80)
    assert await _listed(leader, NOW_MS - 60) == (6, NOW_MS)
    assert await _listed(leader, NOW_MS + 1) == (-1, -1)
    append_trim(leader.log, pb.Trim(log_start_offset=4), NOW_MS)
    leader.log.commit()
    assert await _listed(leader, 0) == (4, NOW_MS - 500)


@pytest.mark.parametrize(("limit", "value"), [("LOOKUP_RECORDS_MAX", 3), ("LOOKUP_BYTES_MAX", 20)])
async def test_a_batch_too_large_to_look_into_is_found_as_a_whole(
    limit: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bomb, or one of very many records: its first record is not too late for anybody, and the loop goes on."""
    leader = Leader()
    leader.publish(records(4, at_ms=NOW_MS - 100, step_ms=10))
    leader.log.commit()
    assert await _listed(leader, NOW_MS - 85) == (2, NOW_MS - 80)
    monkeypatch.setattr(subscribe, limit, value)
    assert await _listed(leader, NOW_MS - 85) == (0, NOW_MS - 70)


async def test_nonsense_in_a_batch_does_not_keep_others_from_looking_up() -> None:
    """Its CRC is right, its records are none: it stands for itself, and what lies behind it is found."""
    leader = Leader()
    leader.publish(nonsense(at_ms=NOW_MS - 50))
    leader.publish(records(2, at_ms=NOW_MS))
    leader.log.commit()
    assert await _listed(leader, NOW_MS - 60) == (0, NOW_MS - 50)
    assert await _listed(leader, NOW_MS - 40) == (1, NOW_MS)


def nonsense(*, at_ms: int) -> bytes:
    """A batch of one record that is not one."""
    data = bytearray(records(1, at_ms=at_ms))
    data[HEADER_SIZE:] = b"\xff" * (len(data) - HEADER_SIZE)
    struct.pack_into(">I", data, 17, crc32c(bytes(data[21:])))
    return bytes(data)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=25), st.integers(0, 31), st.integers(0, 10))
def test_a_lookup_by_time_agrees_with_reading_everything(times: list[int], asked: int, start: int) -> None:
    """Whatever order the times come in, the answer is the first record in offset order that is young enough."""

    async def run() -> None:
        leader = Leader()
        for each in times:
            leader.publish(records(1, at_ms=NOW_MS + each))
        begin = min(start, len(times))
        append_trim(leader.log, pb.Trim(log_start_offset=begin, keep_from_index=3 + begin), NOW_MS)
        leader.log.commit()
        wanted = [(at, NOW_MS + each) for at, each in enumerate(times) if at >= begin and each >= asked]
        assert await _listed(leader, NOW_MS + asked) == (wanted[0] if wanted else (-1, -1))

    asyncio.run(run())


async def test_the_youngest_record_is_found_wherever_it_stands() -> None:
    """Not the last one: the one with the highest timestamp; among what is still there."""
    leader = Leader()
    for at_ms in (5_000, 9_000, 7_000, 8_000):
        leader.publish(records(2, at_ms=NOW_MS - 100_000 + at_ms, step_ms=1))
    leader.log.commit()
    found = await _list(leader, MAX_TIMESTAMP)
    assert (found.offset, found.timestamp_ms, found.leader_epoch) == (3, NOW_MS - 100_000 + 9_001, 1)
    append_trim(leader.log, pb.Trim(log_start_offset=4), NOW_MS)
    leader.log.commit()
    found = await _list(leader, MAX_TIMESTAMP)
    assert (found.offset, found.timestamp_ms) == (7, NOW_MS - 100_000 + 8_001)
    append_trim(leader.log, pb.Trim(log_start_offset=8), NOW_MS)
    leader.log.commit()
    assert (await _list(leader, MAX_TIMESTAMP)).offset == -1


async def test_an_empty_log_has_no_youngest_record() -> None:
    """Neither offset nor time."""
    found = await _list(Leader(), MAX_TIMESTAMP)
    assert (found.offset, found.timestamp_ms, found.leader_epoch) == (-1, -1, -1)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_an_epoch_ends_where_the_next_one_begins(history: list[tuple[int, int]]) -> None:
    """By the plain reading of the log: the largest term not above the one asked for, and the first offset behind it."""
    leader = Leader()
    entries: list[tuple[int, int]] = [(1, 0)]
    end = 0
    for batches, terms in history:
        for _ in range(batches):
            leader.publish(records(2))
            entries.append((leader.log.term, end))
            end += 2
        leader.log.commit()
        leader.log.lead(leader.log.term + terms)
        entries.append((leader.log.term, end))
    for epoch in range(leader.log.term + 1):
        floor = [term for term, _ in entries if term <= epoch]
        after = [offset for term, offset in entries if term > epoch]
        found = subscribe.epoch_end(leader.partition, epoch)
        assert found.end_offset == (after[0] if after else end)
        assert found.leader_epoch == (max(floor) if floor else 0)


def test_nothing_is_known_of_an_epoch_to_come_or_of_none() -> None:
    """−1 and −1."""
    leader = Leader()
    for epoch in (2, 99, -1):
        assert subscribe.epoch_end(leader.partition, epoch) == subscribe.NO_EPOCH_END
