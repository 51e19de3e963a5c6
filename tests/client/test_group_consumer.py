"""Consumers that share a group: rebalances, commits, callbacks, and what breaks in between."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from raftlog.client.client import Client
from raftlog.client.group_consumer import GroupConsumer
from raftlog.client.group_session import Revoked
from raftlog.errors import (
    CoordinatorNotAvailableError,
    FencedInstanceError,
    IllegalGenerationError,
    InvalidConfigError,
    InvalidRequestError,
    InvalidSessionTimeoutError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
)
from raftlog.model import TopicPartition

from .group_cluster import GroupCluster, Worker
from .helpers import until

T0, T1, T2 = (TopicPartition("t", number) for number in range(3))


@asynccontextmanager
async def connected(nodes: int = 2) -> AsyncIterator[tuple[GroupCluster, Client]]:
    """A cluster and a client of it."""
    async with GroupCluster(nodes) as cluster, Client(cluster.brokers, request_timeout_s=5.0) as client:
        yield cluster, client


def member(client: Client, **options: Any) -> GroupConsumer:
    """One more consumer of topic ``t`` in group ``g``; it commits only when it gives partitions up or closes."""
    return client.consumer("t", group="g", **{"auto_commit_interval_s": 3_600, **options})


async def take(consumer: GroupConsumer, count: int) -> list[int]:
    """Offsets of the next records."""
    return [(await anext(consumer)).offset for _ in range(count)]


async def test_what_the_iteration_has_moved_past_is_committed_on_closing() -> None:
    """The record in hand is not: whoever goes on gets it again."""
    async with connected() as (cluster, client):
        await cluster.publish(10)
        async with member(client) as consumer:
            assert await take(consumer, 4) == [0, 1, 2, 3]
        assert cluster.committed() == {0: 3, 1: 0, 2: 0}
        async with member(client) as consumer:
            assert await take(consumer, 2) == [3, 4]


async def test_a_consumer_that_does_not_follow_ends_and_commits_all_of_it() -> None:
    """And the next one finds nothing left."""
    async with connected() as (cluster, client):
        for number in range(3):
            await cluster.publish(10, number)
        async with member(client, follow=False) as consumer:
            assert len([record async for record in consumer]) == 30
        assert cluster.committed() == {0: 10, 1: 10, 2: 10}
        async with member(client, follow=False) as consumer:
            assert [record async for record in consumer] == []


async def test_commits_come_by_themselves_at_intervals() -> None:
    """Nothing has to be closed or called for it."""
    async with connected() as (cluster, client):
        await cluster.publish(10)
        async with member(client, auto_commit_interval_s=0.01) as consumer:
            await take(consumer, 4)
            await until(lambda: cluster.committed().get(0) == 3)
            await take(consumer, 1)
            await until(lambda: cluster.committed()[0] == 4)


async def test_batches_are_committed_when_the_next_one_is_asked_for() -> None:
    """A list of records is in hand as a whole."""
    async with connected() as (cluster, client):
        await cluster.publish(10)
        async with member(client, auto_commit_interval_s=0.01) as consumer:
            batches = consumer.batches()
            batch = await anext(batches)
            assert (len(batch.records), batch.next_offset) == (10, 10)
            await until(lambda: cluster.committed() == {0: 0, 1: 0, 2: 0})
            await cluster.publish(1)
            await anext(batches)
            await until(lambda: cluster.committed()[0] == 10)


async def test_by_hand_the_record_in_hand_is_committed_too() -> None:
    """``commit()`` means: done so far. Offsets can be given as well, and without auto_commit nothing else is committed."""
    async with connected() as (cluster, client):
        await cluster.publish(10)
        async with member(client, auto_commit=False) as consumer:
            await take(consumer, 4)
            await consumer.commit()
            assert cluster.committed() == {0: 4, 1: 0, 2: 0}
            await consumer.commit({T0: 2}, metadata="by hand")
            assert cluster.groups.group("g").offsets[T0].metadata == "by hand"
            assert await consumer.committed() == {T0: 2, T1: 0, T2: 0}
            await take(consumer, 3)
        assert cluster.committed()[0] == 2


async def test_offsets_that_cannot_be_committed_are_refused() -> None:
    """Of a partition that is not this member's, and below 0."""
    async with connected() as (_cluster, client), member(client, follow=False) as consumer:
        assert [record async for record in consumer] == []
        with pytest.raises(IllegalGenerationError):
            await consumer.commit({TopicPartition("t", 9): 1})
        with pytest.raises(InvalidRequestError):
            await consumer.commit({T0: -1})


async def test_lag_is_what_lies_behind_the_position() -> None:
    """By partition, asked of the leaders."""
    async with connected() as (cluster, client), member(client) as consumer:
        await cluster.publish(10)
        await take(consumer, 4)
        assert await consumer.lag() == {T0: 6, T1: 0, T2: 0}


@pytest.mark.parametrize("assignors", [["cooperative-sticky", "range"], ["range"], ["sticky"], ["roundrobin"]])
async def test_partitions_are_shared_among_those_that_are_there(assignors: list[str]) -> None:
    """Members come and go, every record is read, and in order only once: commits are handed over with the partitions."""
    async with connected() as (cluster, client):
        workers = [Worker(member(client, assignors=assignors))]
        await cluster.publish(10)
        await until(lambda: len(workers[0].seen) == 10)
        workers += [Worker(member(client, assignors=assignors)) for _ in range(2)]
        await until(lambda: [len(worker.has()) for worker in workers] == [1, 1, 1])
        for number in range(3):
            await cluster.publish(10, number)
        await until(lambda: sum(len(worker.seen) for worker in workers) == 40)
        await workers[0].stop()
        await until(lambda: sorted(len(worker.has()) for worker in workers[1:]) == [1, 2])
        for number in range(3):
            await cluster.publish(10, number)
        await until(lambda: sum(len(worker.seen) for worker in workers) == 70)
        for worker in workers[1:]:
            await worker.stop()
        counted = Counter(place for worker in workers for place in worker.seen)
        assert set(counted.values()) == {1}
        assert cluster.committed() == {0: 30, 1: 20, 2: 20}


async def test_a_member_that_vanishes_is_replaced_from_its_last_commit_on() -> None:
    """Its session times out; nothing is lost, and what it had not committed comes again."""
    async with connected() as (cluster, client):
        first = Worker(member(client, session_timeout_s=1.0))
        await cluster.publish(10)
        await until(lambda: len(first.seen) == 10)
        await first.vanish()
        second = Worker(member(client))
        await until(lambda: len(second.seen) == 10)
        assert second.has() == {0, 1, 2}
        await second.stop()


async def test_callbacks_are_told_what_comes_and_what_goes() -> None:
    """Before a partition goes it can still be committed; closing gives up all."""
    said: list[tuple[str, set[int]]] = []

    def assigned(tps: frozenset[TopicPartition]) -> None:
        said.append(("assigned", {tp.partition for tp in tps}))

    async with connected() as (cluster, client):
        await cluster.publish(3, 2)

        async def revoked(tps: frozenset[TopicPartition]) -> None:
            said.append(("revoked", {tp.partition for tp in tps}))
            await consumer.commit()

        consumer = member(client, auto_commit=False, on_assigned=assigned, on_revoked=revoked)
        first = Worker(consumer)
        await until(lambda: len(first.seen) == 3)
        second = Worker(member(client))
        await until(lambda: sorted((len(first.has()), len(second.has()))) == [1, 2])
        assert cluster.committed()[2] == 3
        await first.stop()
        assert said == [("assigned", {0, 1, 2}), ("revoked", {2}), ("revoked", {0, 1})]
        await second.stop()


async def test_lost_partitions_are_told_as_lost_and_not_committed() -> None:
    """The coordinator has forgotten the member: somebody else may read them."""
    said: list[str] = []
    async with connected() as (cluster, client):
        await cluster.publish(10)
        consumer = member(
            client, on_lost=lambda tps: said.append(f"lost {len(tps)}"), on_revoked=lambda tps: said.append("revoked")
        )
        worker = Worker(consumer)
        await until(lambda: len(worker.seen) == 10)
        cluster.groups.expire("g", consumer.member_id)
        await until(lambda: len(worker.seen) == 20)
        assert said == ["lost 3"]
        await worker.stop()


async def test_an_error_of_a_callback_is_the_iterations() -> None:
    """It is not swallowed, and the consumer can go on."""

    def failing(tps: frozenset[TopicPartition]) -> None:
        raise ValueError("mine")

    async with connected() as (cluster, client), member(client, on_assigned=failing) as consumer:
        await cluster.publish(1)
        with pytest.raises(ValueError, match="mine"):
            await anext(consumer)
        assert await take(consumer, 1) == [0]


async def test_the_death_of_the_node_with_the_session_is_not_noticed_by_the_group() -> None:
    """The member goes on at another node, under its id, with its partitions; no record comes twice."""
    lost: list[object] = []
    async with connected(3) as (cluster, client):
        consumer = member(client, on_lost=lost.append)
        worker = Worker(consumer)
        await cluster.publish(10)
        await until(lambda: len(worker.seen) == 10)
        member_id = consumer.member_id
        session = consumer._session
        assert session is not None
        address = session.address
        await cluster.kill(next(number for number, one in cluster.broker.addresses.items() if one == address))
        await cluster.publish(10)
        await until(lambda: len(worker.seen) == 20)
        await consumer.commit()
        assert consumer.member_id == member_id
        assert len(set(worker.seen)) == 20
        assert lost == []
        await worker.stop()


async def test_a_member_goes_to_the_node_that_coordinates_its_group() -> None:
    """And follows it where it moves, with the next rebalance; where it cannot be reached, any other node will do."""
    async with connected(3) as (cluster, client):
        cluster.coordinate(3)
        worker = Worker(member(client))
        await until(lambda: len(worker.has()) == 3)
        session = worker.consumer._session
        assert session is not None
        assert session.address == cluster.broker.addresses[3]
        member_id = session.member_id
        cluster.coordinate(2)
        cluster.broker.add_topic("t", 4)
        await until(lambda: len(worker.has()) == 4)
        assert session.address == cluster.broker.addresses[2]
        assert session.member_id == member_id
        unreachable = replace(cluster.groups.coordinator, node_id=9, grpc_address="127.0.0.1:1")
        cluster.groups.coordinator = unreachable
        cluster.broker.add_topic("t", 5)
        await until(lambda: len(worker.has()) == 5)
        assert session.member_id == member_id
        await worker.stop()


async def test_when_no_node_answers_for_a_session_timeout_the_partitions_are_lost() -> None:
    """Others may have them by then; the user is told."""
    lost: list[object] = []
    async with connected(1) as (cluster, client):
        worker = Worker(member(client, session_timeout_s=0.5, on_lost=lost.append))
        await until(lambda: len(worker.has()) == 3)
        await cluster.kill(1)
        await until(lambda: lost == [frozenset((T0, T1, T2))])
        await worker.stop()


async def test_a_coordinator_that_is_away_delays_commits_and_nothing_else() -> None:
    """They are made again until they arrive."""
    async with connected() as (cluster, client):
        await cluster.publish(10)
        async with member(client) as consumer:
            await take(consumer, 4)
            cluster.groups.failures["commit_offsets"] = [CoordinatorNotAvailableError("an election")] * 3
            await consumer.commit()
            assert cluster.committed()[0] == 4


async def test_a_user_that_takes_too_long_loses_its_place_and_gets_it_back_when_it_comes() -> None:
    """The others go on meanwhile: max.poll.interval in Kafka's words."""
    async with connected() as (cluster, client):
        await cluster.publish(10)
        async with member(client, max_poll_interval_s=0.3) as consumer:
            await take(consumer, 2)
            before = consumer.member_id
            await until(lambda: cluster.groups.left == [before] and consumer._interrupted)
            assert await take(consumer, 2) == [0, 1]
            assert consumer.member_id != before


async def test_without_following_a_lost_place_is_not_the_end() -> None:
    """A member that was too slow joins anew and goes on from its commit, to the end."""
    async with connected() as (cluster, client):
        await cluster.publish(10)
        async with member(client, follow=False, max_poll_interval_s=0.3) as consumer:
            await take(consumer, 2)
            before = consumer.member_id
            await until(lambda: cluster.groups.left == [before] and consumer._interrupted)
            assert [record.offset async for record in consumer] == list(range(10))


async def test_without_following_a_rebalance_is_not_the_end() -> None:
    """With an assignor that takes all away before it gives, a member has nothing for a moment; it reads what it is given then."""
    async with connected() as (cluster, client):
        for number in range(3):
            await cluster.publish(10, number)
        given: list[frozenset[TopicPartition]] = []
        one = member(client, follow=False, assignors=["range"], on_assigned=given.append)
        two = member(client, follow=False, assignors=["range"])
        async with one:
            seen = {(record.partition, record.offset) for record in [await anext(one), await anext(one)]}
            joining = asyncio.get_running_loop().create_task(two.start())
            await until(lambda: one._interrupted)
            seen |= {(record.partition, record.offset) async for record in one}
            await joining
            assert len(given) == 2
            assert len(given[1]) in {1, 2}
            assert seen >= {(tp.partition, offset) for tp in given[1] for offset in range(10)}
        await two.close()


async def test_a_user_that_waits_for_records_is_no_idler() -> None:
    """However long nothing comes."""
    async with connected() as (cluster, client):
        worker = Worker(member(client, max_poll_interval_s=0.6))
        await until(lambda: len(worker.has()) == 3)
        beats = cluster.groups.calls.count("heartbeat")
        await until(lambda: cluster.groups.calls.count("heartbeat") > beats + 3)
        assert cluster.groups.left == []
        await worker.stop()


async def test_closing_does_not_wait_for_where_to_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lookup in a partition that nobody leads takes long. Who leaves needs no answer, and the group hears of it at once."""
    async with connected() as (cluster, client):
        consumer = member(client)
        asked = asyncio.Event()

        async def never(_: object) -> dict[TopicPartition, int]:
            asked.set()
            await asyncio.Event().wait()
            return {}

        monkeypatch.setattr(consumer, "_list", never)
        worker = Worker(consumer)
        await asked.wait()
        name = consumer.member_id
        await worker.stop()
        assert worker.error is None
        assert cluster.groups.left == [name]


async def test_a_static_member_comes_back_to_its_partitions_without_a_rebalance() -> None:
    """Closing does not leave the group."""
    async with connected() as (cluster, client):
        worker = Worker(member(client, instance_id="one"))
        await until(lambda: len(worker.has()) == 3)
        generation = cluster.groups.group("g").generation
        await worker.stop()
        again = Worker(member(client, instance_id="one"))
        await until(lambda: len(again.has()) == 3)
        assert cluster.groups.group("g").generation == generation
        other = member(client, instance_id="one")
        async with other:
            await until(lambda: isinstance(again.error, FencedInstanceError))


async def test_a_member_that_was_replaced_cannot_commit() -> None:
    """It is told so at once, and closes without waiting for what cannot be."""
    async with connected() as (cluster, client):
        await cluster.publish(2)
        async with member(client, instance_id="one") as fenced, member(client, instance_id="one", follow=False) as other:
            await take(fenced, 1)
            assert [record.offset async for record in other] == [0, 1]
            with pytest.raises(FencedInstanceError):
                _ = [record async for record in fenced]
            with pytest.raises(FencedInstanceError):
                await fenced.commit({T0: 1})
            await other.commit()
            assert cluster.committed()[0] == 2


async def test_topics_that_match_a_pattern_are_read_as_they_come() -> None:
    """And no others."""
    async with connected() as (cluster, client), client.consumer(group="g", topic_pattern="more-.*") as consumer:
        waiting = asyncio.get_running_loop().create_task(take(consumer, 1))
        cluster.broker.add_topic("more-1", 1)
        await cluster.publish(1, topic="more-1")
        assert await waiting == [0]
        assert consumer.assignment() == {TopicPartition("more-1", 0)}


@pytest.mark.parametrize(("reset", "first"), [(None, 0), ("earliest", 0), ("latest", 10)])
async def test_without_a_commit_it_begins_where_the_reset_says(reset: Any, first: int) -> None:
    """And that place is committed, so that what comes before the first record is not passed over next time."""
    async with connected() as (cluster, client):
        await cluster.publish(10)
        worker = Worker(member(client, auto_offset_reset=reset, auto_commit_interval_s=0.01))
        await until(lambda: cluster.committed().keys() == {0, 1, 2})
        await cluster.publish(1)
        await until(lambda: (0, 10) in worker.seen)
        assert worker.seen[0] == (0, first)
        await worker.stop()


async def test_without_a_commit_and_a_reset_the_user_has_to_say() -> None:
    """An error that knows what there is; it comes again for as long as nothing changes."""
    async with connected() as (cluster, client), member(client, auto_offset_reset="error") as consumer:
        await cluster.publish(10)
        for _ in range(2):
            with pytest.raises(OffsetOutOfRangeError):
                await anext(consumer)


async def test_a_group_that_does_not_take_the_member_says_so_at_once() -> None:
    """Before the first record is asked for."""
    async with connected() as (_cluster, client):
        with pytest.raises(InvalidSessionTimeoutError):
            async with member(client, session_timeout_s=1_000_000):
                pass
        with pytest.raises(UnknownTopicOrPartitionError):
            async with client.consumer("none", group="g"):
                pass


def test_options_that_make_no_sense_are_refused() -> None:
    """By name, before anything is asked of the cluster."""

    async def main() -> None:
        async with Client("127.0.0.1:1") as client:
            make: Any = client.consumer
            for wrong in (
                {"group": ""},
                {"group": "g", "from_": "end"},
                {"group": "g", "assignors": ["best"]},
                {"group": "g", "session_timeout_s": 0},
                {"group": "g", "nonsense": 1},
                {"auto_commit": False},
            ):
                with pytest.raises(InvalidConfigError):
                    make("t", **wrong)
            with pytest.raises(InvalidConfigError):
                make(T0, group="g")
            with pytest.raises(InvalidConfigError):
                make(group="g")

    asyncio.run(main())


async def test_the_generation_is_that_of_what_is_read() -> None:
    """Not the one that the node has told while a record is worked on: what that changes is carried out with the next one."""
    async with connected() as (cluster, client):
        await cluster.publish(10)
        told: list[int] = []
        first: GroupConsumer
        async with member(client, on_assigned=lambda _: told.append(first.generation)) as first:
            await take(first, 1)
            assert (first.generation, told) == (1, [1])
            other = Worker(member(client))
            assert first._session is not None
            await until(lambda: first._session is not None and first._session.generation == 2)
            assert first.generation == 1
            following = asyncio.get_running_loop().create_task(take(first, 1))
            await until(lambda: first.generation >= 2)
            following.cancel()
            await asyncio.wait((following,))
            await other.stop()


async def test_news_that_become_void_before_they_are_carried_out_are_passed_over() -> None:
    """The stream may break in the moment between: what it said no longer holds, and the next one says what does."""
    async with connected() as (cluster, client):
        await cluster.publish(10)
        async with member(client) as consumer:
            assert await take(consumer, 1) == [0]
            session = consumer._session
            assert session is not None
            session.news.append(Revoked(None, lost=False))
            consumer._told()
            asyncio.get_running_loop().call_soon(session.news.clear)
            assert await take(consumer, 3) == [1, 2, 3]
