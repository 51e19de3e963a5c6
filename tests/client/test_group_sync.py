"""Group consumers without asyncio: the same, from ordinary threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from raftlog import sync
from raftlog.errors import GroupNotEmptyError
from raftlog.model import TopicPartition

from .group_cluster import GroupCluster

T0, T1, T2 = (TopicPartition("t", number) for number in range(3))


@pytest.fixture
def brokers() -> Iterator[list[str]]:
    """A cluster with ten records in partition 0, on a loop in a thread of its own."""
    ready, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    found: list[str] = []

    async def serve() -> None:
        async with GroupCluster() as cluster:
            await cluster.publish(10)
            found.extend(cluster.brokers)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait()
    yield found
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


def test_consume_in_a_group_without_asyncio(brokers: list[str]) -> None:
    """Iteration, commits, lag; and the group's administration."""
    with sync.Client(brokers) as client:
        with client.consumer("t", group="g", auto_commit=False) as consumer:
            assert [next(consumer).offset for _ in range(3)] == [0, 1, 2]
            consumer.commit()
            assert consumer.committed() == {T0: 3, T1: 0, T2: 0}
            assert consumer.lag() == {T0: 7, T1: 0, T2: 0}
            assert consumer.generation == 1
            with pytest.raises(GroupNotEmptyError):
                client.admin.delete_group("g")
            [member] = client.admin.describe_group("g").members
            assert member.member_id == consumer.member_id
        assert [one.group_id for one in client.admin.list_groups()] == ["g"]
        assert client.admin.group_offsets("g", [T0], lag=True)[T0].lag == 7
        client.admin.commit_group_offsets("g", {T0: 4})
        assert client.admin.seek_group("g", {T0: "-2"})[T0].new_offset == 2
        with client.consumer("t", group="g", follow=False) as consumer:
            assert [record.offset for record in consumer] == list(range(2, 10))
        client.admin.delete_group_offsets("g", [T1])
        assert client.admin.group_offsets("g").keys() == {T0, T2}
        client.admin.delete_group("g")
        assert client.admin.list_groups() == []


def test_callbacks_may_use_the_consumer(brokers: list[str]) -> None:
    """They run beside its loop: to commit before a partition goes, to seek where one comes."""
    with sync.Client(brokers) as client:
        assigned: list[frozenset[TopicPartition]] = []

        def begin(tps: frozenset[TopicPartition]) -> None:
            assigned.append(tps)
            consumer.seek(T0, 5)

        def end(_tps: frozenset[TopicPartition]) -> None:
            consumer.commit()

        with client.consumer("t", group="g", auto_commit=False, on_assigned=begin, on_revoked=end) as consumer:
            assert next(consumer).offset == 5
        assert assigned == [frozenset((T0, T1, T2))]
        assert client.admin.group_offsets("g")[T0].committed == 6
