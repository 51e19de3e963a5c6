"""Moving replicas and electing preferred leaders through the Kafka door."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raftlog.broker.move_port import Placing
from raftlog.errors import LeaderNotAvailableError, NoMoveInProgressError, UnavailableError
from raftlog.kafka.wire.api import ApiKey
from raftlog.model import Move, TopicPartition
from tests.kafka.handlers.helpers import Handlers, versions

T1 = TopicPartition("t", 1)


def _wish(*partitions: tuple[int, list[int] | None]) -> list[dict[str, object]]:
    return [{"name": "t", "partitions": [{"partition_index": number, "replicas": nodes} for number, nodes in partitions]}]


@pytest.mark.parametrize("version", versions(ApiKey.ALTER_PARTITION_REASSIGNMENTS))
async def test_each_partition_is_placed_by_itself(version: int) -> None:
    """Null takes a move back; senseless replicas are refused, and do not hold up the others."""
    handlers = Handlers()
    answer = await handlers.ask(
        ApiKey.ALTER_PARTITION_REASSIGNMENTS, version, topics=_wish((0, [2, 1]), (1, None), (2, []), (0, [-1]))
    )
    (topic,) = answer.responses
    assert [(one.partition_index, one.error_code.value) for one in topic.partitions] == [(0, 0), (1, 0), (2, 39), (0, 39)]
    assert [call for _, call in handlers.moves.calls] == [
        ((Placing(tp=TopicPartition("t", 0), replicas=(2, 1)),), "by a Kafka client's request"),
        ((Placing(tp=T1, replicas=None),), "by a Kafka client's request"),
    ]


async def test_a_refusal_has_kafkas_code_and_our_words() -> None:
    """Where there is no move to take back."""
    handlers = Handlers()
    handlers.moves.failure = NoMoveInProgressError("the replicas of t-1 are not being moved")
    answer = await handlers.ask(ApiKey.ALTER_PARTITION_REASSIGNMENTS, topics=_wish((1, None)))
    (one,) = answer.responses[0].partitions
    assert (one.error_code.value, one.error_message) == (85, "the replicas of t-1 are not being moved")


async def test_another_number_of_replicas_is_refused_where_the_client_says_so() -> None:
    """Version 1's option; topic t has one replica a partition."""
    handlers = Handlers()
    answer = await handlers.ask(
        ApiKey.ALTER_PARTITION_REASSIGNMENTS, topics=_wish((0, [2, 1]), (1, [2])), allow_replication_factor_change=False
    )
    assert [one.error_code.value for one in answer.responses[0].partitions] == [38, 0]


def _without_leader(handlers: Handlers) -> None:
    """Partition 1 has none."""
    topic = handlers.broker.infos["t"]
    partitions = tuple(replace(one, leader=None) if one.partition == 1 else one for one in topic.partitions)
    handlers.broker.infos["t"] = replace(topic, partitions=partitions)


def _move(partition: int) -> Move:
    return Move(
        tp=TopicPartition("t", partition), group_id=1, replicas=(4, 2), adding=(4,), removing=(1,), reason="", state="",
        started_at_ms=0,
    )  # fmt: skip


async def test_moves_are_listed_with_all_nodes_that_have_a_replica_now() -> None:
    """All of them, or of the partitions asked for."""
    handlers = Handlers()
    handlers.moves.under_way = [_move(0), _move(1)]
    for topics, found in ((None, [0, 1]), ([{"name": "t", "partition_indexes": [1, 2]}], [1])):
        answer = await handlers.ask(ApiKey.LIST_PARTITION_REASSIGNMENTS, topics=topics)
        (topic,) = answer.topics
        assert [one.partition_index for one in topic.partitions] == found
        one = topic.partitions[0]
        assert (one.replicas, one.adding_replicas, one.removing_replicas) == ((4, 2, 1), (4,), (1,))
    handlers.moves.failure = UnavailableError("nobody leads the cluster")
    answer = await handlers.ask(ApiKey.LIST_PARTITION_REASSIGNMENTS)
    assert (answer.error_code.value, answer.topics) == (5, ())


@pytest.mark.parametrize("version", versions(ApiKey.ELECT_LEADERS))
async def test_a_preferred_leader_is_elected_where_it_does_not_lead(version: int) -> None:
    """Where it leads already no election is needed; of all partitions those are not told of."""
    handlers = Handlers()
    _without_leader(handlers)
    answer = await handlers.ask(ApiKey.ELECT_LEADERS, version, topic_partitions=[{"topic": "t", "partitions": [0, 1]}])
    (topic,) = answer.replica_election_results
    assert [(one.partition_id, one.error_code.value) for one in topic.partition_result] == [(0, 84), (1, 0)]
    assert handlers.moves.calls == [("elect", (T1,))]
    everywhere = await handlers.ask(ApiKey.ELECT_LEADERS, version, topic_partitions=None)
    assert [one.partition_id for one in everywhere.replica_election_results[0].partition_result] == [1]


async def test_an_election_that_fails_says_why_and_an_unclean_one_is_refused() -> None:
    """The preferred replica is down; nobody leads the cluster; or records could be lost."""
    handlers = Handlers()
    _without_leader(handlers)
    handlers.moves.outcome = LeaderNotAvailableError("node 1 is behind, or down")
    asked = [{"topic": "t", "partitions": [1]}]
    answer = await handlers.ask(ApiKey.ELECT_LEADERS, topic_partitions=asked)
    (one,) = answer.replica_election_results[0].partition_result
    assert (one.error_code.value, one.error_message) == (80, "node 1 is behind, or down")
    handlers.moves.failure = UnavailableError("nobody leads the cluster")
    answer = await handlers.ask(ApiKey.ELECT_LEADERS, topic_partitions=asked)
    assert answer.error_code.value == 5
    assert answer.replica_election_results[0].partition_result[0].error_code.value == 5
    answer = await handlers.ask(ApiKey.ELECT_LEADERS, election_type=1, topic_partitions=asked)
    assert (answer.error_code.value, answer.replica_election_results) == (42, ())
