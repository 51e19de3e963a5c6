"""Retention: what the leader proposes, what applying it does, and what it waits for."""

from __future__ import annotations

import asyncio
import random

from raftlog.broker import trim
from raftlog.broker.config import BrokerConfig
from raftlog.broker.metadata_machine import MetadataMachine
from raftlog.broker.retention import Retention
from raftlog.core.entry import EntryKind, encode
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb
from tests.broker.doubles import FOUNDERS, NOW_MS, HandLog, Leader, records

_DAY_MS = 86_400_000


def _job(leader: Leader) -> Retention:
    machine = MetadataMachine(lambda _: None)
    machine.bind(HandLog(0, FOUNDERS[:1], machine))
    return Retention(
        {1: leader.partition}, machine, clock=leader.clock, rng=random.Random(1), config=BrokerConfig(), store=leader.store
    )


def _check(leader: Leader, job: Retention, *, held: bool = True) -> None:
    """One pass, committed; all replicas hold everything unless ``held`` is false."""
    if held:
        leader.log.matched = leader.log.last_index
    job.check(leader.partition)
    leader.log.commit()


async def test_old_batches_go_by_time() -> None:
    """The batches whose newest record is too old are gone for readers, and deleted."""
    leader = Leader(configs={"retention.ms": "50000"})
    leader.fill(10, step_ms=10_000)
    leader.clock.now_ms = NOW_MS - 1_000_000 + 100_000
    _check(leader, _job(leader))
    assert leader.partition.log_start_offset == 10
    assert leader.log.first_index == 8
    assert leader.partition.high_watermark == 20


async def test_old_batches_go_by_size_also_where_deleted_ones_are_still_held() -> None:
    """The size counts from the log start; what a dead follower holds back is not counted again."""
    leader = Leader()
    leader.fill(10, size=100)
    one = len(leader.log.kept[5].data)
    leader.partition.config = type(leader.config).of({"retention.bytes": str(one * 4 + 300)})
    job = _job(leader)
    leader.log.matched = 3
    _check(leader, job, held=False)
    assert leader.partition.log_start_offset == 12
    assert leader.log.first_index == 3, "the slowest replica still needs the rest"
    _check(leader, job, held=False)
    _check(leader, job, held=False)
    assert leader.partition.log_start_offset == 12
    _check(leader, job)
    assert leader.log.first_index == 9, "the space goes when the follower is back"


async def test_an_idle_partition_is_trimmed_once() -> None:
    """With all records gone, no pass adds another entry."""
    leader = Leader(configs={"retention.ms": "1"})
    leader.fill(3)
    leader.clock.now_ms += _DAY_MS
    job = _job(leader)
    _check(leader, job)
    assert leader.partition.log_start_offset == 6
    last = leader.log.last_index
    _check(leader, job)
    _check(leader, job)
    assert leader.log.last_index <= last + 1
    assert leader.partition.high_watermark == 6
    again = leader.new_partition()
    again.bind(leader.log.restarted(again))
    assert (again.log_start_offset, again.high_watermark) == (6, 6)


async def test_only_one_trim_is_under_way() -> None:
    """The next is decided when the last is applied, or was truncated."""
    leader = Leader(configs={"retention.ms": "1"})
    leader.fill(3)
    leader.clock.now_ms += _DAY_MS
    job = _job(leader)
    leader.log.matched = leader.log.last_index
    job.check(leader.partition)
    last = leader.log.last_index
    job.check(leader.partition)
    assert leader.log.last_index == last
    leader.log.follow(2)
    leader.log.truncate(last)
    leader.log.lead(3)
    job.check(leader.partition)
    assert leader.log.kept[leader.log.last_index].header.kind is EntryKind.TRIM


async def test_nothing_goes_without_the_delete_policy_or_within_the_limits() -> None:
    """cleanup.policy=compact keeps everything; so do limits that are not reached."""
    for configs in ({"cleanup.policy": "compact", "retention.ms": "1"}, {"retention.ms": "-1", "retention.bytes": "-1"}):
        leader = Leader(configs=configs)
        leader.fill(3)
        leader.clock.now_ms += 1_000 * _DAY_MS
        last = leader.log.last_index
        _check(leader, _job(leader))
        assert leader.log.last_index == last


async def test_silent_producers_are_forgotten_by_all_alike() -> None:
    """Expiry is proposed by the leader and applied from the log; the row goes with it."""
    leader = Leader(configs={"retention.ms": "-1"})
    leader.publish(records(1, producer=7))
    leader.log.commit()
    leader.clock.now_ms += _DAY_MS + 1
    leader.publish(records(1, producer=8))
    leader.log.commit()
    _check(leader, _job(leader))
    assert 7 not in leader.partition.producers
    assert 8 in leader.partition.producers
    assert leader.log.rows.get(1, (7).to_bytes(8, "big")) is None


async def test_uncommitted_batches_do_not_go() -> None:
    """However old: the log start stays at or below the high watermark."""
    leader = Leader(configs={"retention.ms": "1"})
    leader.fill(2)
    leader.fill(2, committed=False)
    leader.clock.now_ms += _DAY_MS
    leader.log.matched = leader.log.last_index
    _job(leader).check(leader.partition)
    trim = pb.Trim.FromString(bytes(leader.log.kept[leader.log.last_index].payload))
    assert trim.log_start_offset == 4
    assert trim.keep_from_index <= leader.log.applied_index


async def test_the_metadata_log_is_cut_once_it_is_long() -> None:
    """Its state is in rows; the entries behind them go."""
    leader = Leader()
    job = _job(leader)
    machine = job._machine
    log = machine.log
    assert isinstance(log, HandLog)
    log.lead(1)
    for _ in range(trim.ENTRIES_KEPT + 5):
        log.append(lambda index, term, before: encode(before._replace(index=index, term=term)))
    log.commit()
    log.matched = log.last_index
    await job.check_all()
    last = log.last_index
    log.commit()
    assert log.first_index == last - 1
    await asyncio.sleep(0)
    await job.check_all()
    assert log.last_index == last
