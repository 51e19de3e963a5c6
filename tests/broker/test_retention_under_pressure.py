"""Retention when room is low: passes come at once, and decide what they would have decided later. On virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine

import pytest

from raftlog.broker.config import BrokerConfig
from raftlog.broker.metadata_machine import MetadataMachine
from raftlog.broker.retention import PRESSURE_LOOK_S, PRESSURE_PAUSE_S, Retention
from tests.broker.doubles import NOW_MS, HandLog, Leader
from tests.simulation.loop import VirtualLoop, run

INTERVAL_S = BrokerConfig().retention_check_interval_ms / 1_000
_DAY_MS = 86_400_000


class Watched(Retention):
    """Notes when its passes come."""

    passes: list[float]

    async def check_all(self) -> bool:
        """As it is, and noted."""
        self.passes.append(asyncio.get_running_loop().time())
        return await super().check_all()


def watched(leader: Leader) -> Watched:
    """The job over one partition."""
    machine = MetadataMachine(lambda _: None)
    machine.bind(HandLog(0, (1,), machine))
    job = Watched(
        {1: leader.partition}, machine, clock=leader.clock, rng=random.Random(1), config=BrokerConfig(), store=leader.store
    )
    job.passes = []
    return job


def on_virtual_time(leader: Leader, scene: Callable[[Watched], Coroutine[None, None, None]]) -> None:
    """Run ``scene`` beside the job."""

    async def main() -> None:
        job = watched(leader)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(job.run())
            with contextlib.ExitStack() as stack:
                stack.callback(running.cancel)
                await scene(job)

    run(main(), VirtualLoop(random.Random(1)))


def test_a_pass_comes_at_once_when_room_gets_low() -> None:
    """What is too old goes then, not at the next check."""
    leader = Leader(configs={"retention.ms": "50000"})
    leader.fill(10, step_ms=10_000)
    leader.clock.now_ms = NOW_MS - 1_000_000 + 100_000
    leader.log.matched = leader.log.last_index

    async def scene(job: Watched) -> None:
        await asyncio.sleep(100)
        assert job.passes == []
        leader.store.low = True
        await asyncio.sleep(PRESSURE_LOOK_S + 0.1)
        assert len(job.passes) == 1
        leader.log.commit()
        assert leader.partition.log_start_offset == 10

    on_virtual_time(leader, scene)


def test_passes_go_on_while_room_stays_low_and_no_longer() -> None:
    """At a pause that costs little; afterwards the interval counts again."""
    leader = Leader()

    async def scene(job: Watched) -> None:
        leader.store.low = True
        await asyncio.sleep(PRESSURE_LOOK_S + 3 * PRESSURE_PAUSE_S + 0.5)
        assert len(job.passes) == 4
        leader.store.low = False
        await asyncio.sleep(2 * PRESSURE_PAUSE_S)
        assert len(job.passes) == 4
        await asyncio.sleep(1.1 * INTERVAL_S)
        assert len(job.passes) == 5

    on_virtual_time(leader, scene)


@pytest.mark.parametrize(
    "configs",
    [{"retention.ms": "-1", "retention.bytes": "-1"}, {"cleanup.policy": "compact", "retention.ms": "1"}, {}],
    ids=["no limits", "no delete policy", "the defaults"],
)
def test_a_topic_whose_rules_keep_a_record_keeps_it_whatever_the_pressure(configs: dict[str, str]) -> None:
    """Low, or full: not one TRIM is proposed, and every record stays. (By default records stay for seven days.)"""
    leader = Leader(configs=configs)
    leader.fill(20)
    leader.clock.now_ms += (1_000 if configs else 6) * _DAY_MS
    leader.log.matched = leader.log.last_index
    last = leader.log.last_index

    async def scene(job: Watched) -> None:
        leader.store.low = True
        await asyncio.sleep(60)
        leader.store.full = True
        await asyncio.sleep(60)
        assert len(job.passes) > 20
        assert leader.log.last_index == last
        assert leader.log.first_index == 1
        assert leader.partition.log_start_offset == 0

    on_virtual_time(leader, scene)
