"""Commits that are refused: in some partitions, for want of an answer, or because they come too late."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raftlog.client.group_consumer import GroupConsumer
from raftlog.errors import CoordinatorNotAvailableError, IllegalGenerationError, RaftlogError, RequestTimedOutError
from raftlog.model import TopicPartition

from .helpers import until
from .test_group_consumer import connected, member, take

ONE, TWO, THREE = (TopicPartition("t", partition) for partition in range(3))


class Session:
    """Answers by partition, each answer once; then all is well. Says nothing at all where it is ``mute``."""

    def __init__(self, *, mute: bool = False, **answers: RaftlogError) -> None:
        self.mute = mute
        self._answers = {TopicPartition("t", int(name[1:])): error for name, error in answers.items()}
        self.asked: list[set[TopicPartition]] = []

    async def commit(
        self, offsets: Mapping[TopicPartition, int], _metadata: str, _generation: int
    ) -> dict[TopicPartition, RaftlogError | None]:
        """See ``GroupSession``."""
        self.asked.append(set(offsets))
        if self.mute:
            await asyncio.Event().wait()
        return {tp: self._answers.pop(tp, None) for tp in offsets}


def consumer_of(session: Session) -> Any:
    """As much of a consumer as commits need."""
    return SimpleNamespace(
        _session=session, _rng=random.Random(1), _states=dict.fromkeys((ONE, TWO, THREE)), _committed={}, _generation=3
    )


async def commit(consumer: Any, timeout_s: float = 5.0) -> None:
    """Offset 7 of all three."""
    await GroupConsumer._commit(cast(GroupConsumer, consumer), dict.fromkeys((ONE, TWO, THREE), 7), timeout_s)


async def test_a_refused_partition_does_not_keep_the_others_from_being_committed() -> None:
    """What passes is tried again; then it is told what was refused."""
    session = Session(p0=IllegalGenerationError("not yours"), p1=CoordinatorNotAvailableError("an election"))
    consumer = consumer_of(session)
    with pytest.raises(IllegalGenerationError):
        await commit(consumer)
    assert session.asked == [{ONE, TWO, THREE}, {TWO}]
    assert consumer._committed == {TWO: 7, THREE: 7}


async def test_a_commit_that_nobody_answers_ends_in_time() -> None:
    """It may have happened; a node that stands still must not hold up the rebalance, or the end, for longer."""
    with pytest.raises(RequestTimedOutError, match="may be committed or not"):
        await commit(consumer_of(Session(mute=True)), 0.05)


async def test_what_was_read_before_partitions_were_lost_is_not_committed_when_they_come_again() -> None:
    """Between two records the user does not hear yet that they were lost. Another member may have gone on with them."""
    async with connected() as (cluster, client):
        await cluster.publish(10)
        async with member(client, auto_commit=False) as consumer:
            assert len(await take(consumer, 10)) == 10
            before, generation = consumer.member_id, consumer.generation
            session = consumer._session
            assert session is not None
            cluster.groups.expire("g", before)
            await until(lambda: session.generation > generation)
            with pytest.raises(IllegalGenerationError):
                await consumer.commit({TopicPartition("t", 0): 1})
            assert len(await take(consumer, 10)) == 10
            await consumer.commit()
