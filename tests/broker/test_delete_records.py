"""Deleting records: what is let go of, when it is answered, and what is refused."""

from __future__ import annotations

import asyncio

import pytest

from raftlog.broker.delete_records import delete_records
from raftlog.broker.port import ALL_COMMITTED
from raftlog.broker.trim import append_trim
from raftlog.errors import IndeterminateError, NotLeaderError, OffsetOutOfRangeError, RequestTimedOutError
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb
from tests.broker.doubles import NOW_MS, Leader


async def delete(leader: Leader, offset: int, timeout_s: float = 60) -> int:
    """Delete up to ``offset``."""
    return await delete_records(
        leader.partition, offset, timeout_s=timeout_s, clock=leader.clock, check_leader=leader.check_leader
    )


async def committing(leader: Leader, offset: int) -> int:
    """Delete, with everything committed as soon as it is appended."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(delete(leader, offset))
        while not task.done():
            await asyncio.sleep(0)
            leader.log.commit()
    return task.result()


async def test_the_log_begins_at_the_offset_asked_for() -> None:
    """Also in the middle of a batch; asking again, or for less, changes nothing and appends nothing."""
    leader = Leader()
    leader.fill(5)
    assert await committing(leader, 5) == 5
    last = leader.log.last_index
    assert await delete(leader, 5) == 5
    assert await delete(leader, 2) == 5
    assert leader.log.last_index == last


async def test_all_that_is_committed_goes_by_its_own_number() -> None:
    """And entries that every replica has are deleted with it."""
    leader = Leader()
    leader.fill(5)
    leader.log.matched = leader.log.last_index
    assert await committing(leader, ALL_COMMITTED) == 10
    assert leader.log.first_index > 1


@pytest.mark.parametrize("offset", [11, -2])
async def test_what_is_not_committed_cannot_be_deleted(offset: int) -> None:
    """The error says where the log begins and ends."""
    leader = Leader()
    leader.fill(5)
    with pytest.raises(OffsetOutOfRangeError) as caught:
        await delete(leader, offset)
    assert (caught.value.earliest, caught.value.latest) == (0, 10)


async def test_a_trim_under_way_is_waited_for() -> None:
    """There is never more than one."""
    leader = Leader()
    leader.fill(5)
    leader.partition.trim_index = append_trim(leader.log, pb.Trim(log_start_offset=2), NOW_MS).header.index
    async with asyncio.TaskGroup() as group:
        task = group.create_task(delete(leader, 6))
        for _ in range(5):
            await asyncio.sleep(0)
        assert leader.log.last_index == leader.partition.trim_index
        while not task.done():
            leader.log.commit()
            await asyncio.sleep(0)
    assert task.result() == 6


async def test_a_leader_that_loses_its_place_cannot_say_what_became_of_it() -> None:
    """The entry may be committed by the next one."""
    leader = Leader()
    leader.fill(5)
    outcome = asyncio.gather(delete(leader, 6), return_exceptions=True)
    while leader.partition.trim_index == 0:
        await asyncio.sleep(0)
    leader.log.follow(2, 2)
    assert isinstance((await outcome)[0], IndeterminateError)


async def test_time_runs_out_without_a_majority() -> None:
    """Unknown, not failed."""
    leader = Leader()
    leader.fill(5)
    with pytest.raises(RequestTimedOutError):
        await delete(leader, 6, timeout_s=0.01)


async def test_only_the_leader_deletes() -> None:
    """Another node is told who leads by the caller's own check."""
    leader = Leader()
    leader.fill(5)
    leader.log.follow(2, 2)
    with pytest.raises(NotLeaderError):
        await delete(leader, 6)
