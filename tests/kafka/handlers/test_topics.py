"""Creating, deleting and widening topics."""

from __future__ import annotations

from typing import Any

import pytest

from raftlog.kafka.wire.api import ApiKey
from tests.kafka.handlers.helpers import Handlers, versions


def wish(name: str = "n", partitions: int = 2, replicas: int = 1, **more: Any) -> dict[str, Any]:
    """A topic to be created."""
    return {"name": name, "num_partitions": partitions, "replication_factor": replicas, **more}


@pytest.mark.parametrize("version", versions(ApiKey.CREATE_TOPICS))
async def test_a_topic_is_created_with_what_was_asked_for(version: int) -> None:
    """And answered with its numbers and configs where the version has room for them."""
    handlers = Handlers()
    wanted = wish(configs=[{"name": "retention.ms", "value": "5"}, {"name": "segment.ms", "value": None}])
    answer = await handlers.ask(ApiKey.CREATE_TOPICS, version, topics=[wanted])
    (topic,) = answer.topics
    assert (topic.name, topic.error_code.value) == ("n", 0)
    made = handlers.broker.topic("n")
    assert (len(made.partitions), made.configs) == (2, {"retention.ms": "5"})
    if version >= 5:
        assert (topic.num_partitions, topic.replication_factor) == (2, 1)
        shown = {config.name: (config.value, config.config_source) for config in topic.configs}
        assert shown["retention.ms"] == ("5", 1)
        assert shown["cleanup.policy"] == ("delete", 5)
    if version >= 7:
        assert topic.topic_id.hex == made.topic_id


async def test_minus_one_leaves_numbers_to_the_cluster() -> None:
    """As KIP-464 has it; 0 is nobody's default."""
    handlers = Handlers()
    answer = await handlers.ask(
        ApiKey.CREATE_TOPICS, topics=[wish("a", -1, -1), wish("b", 0, 1), wish("c", 1, 0), wish("d", -2, 1)]
    )
    assert [topic.error_code.value for topic in answer.topics] == [0, 37, 38, 37]


async def test_each_topic_has_its_own_outcome_and_its_own_words() -> None:
    """One that exists, one named twice, one with places of its own."""
    handlers = Handlers()
    placed = wish("p", -1, -1, assignments=[{"partition_index": 0, "broker_ids": [1]}])
    answer = await handlers.ask(ApiKey.CREATE_TOPICS, topics=[wish("t"), wish("x"), wish("x"), placed, wish("ok")])
    assert [topic.error_code.value for topic in answer.topics] == [36, 42, 42, 39, 0]
    assert "exists" in answer.topics[0].error_message
    assert [topic.name for topic in handlers.broker.topics()] == ["ok", "t"]
    assert handlers.figures.errors == {36: 1, 42: 2, 39: 1}


async def test_validating_makes_nothing() -> None:
    """The same answers otherwise."""
    handlers = Handlers()
    answer = await handlers.ask(ApiKey.CREATE_TOPICS, topics=[wish("t"), wish("n")], validate_only=True)
    assert [topic.error_code.value for topic in answer.topics] == [36, 0]
    assert [topic.name for topic in handlers.broker.topics()] == ["t"]


@pytest.mark.parametrize("version", versions(ApiKey.DELETE_TOPICS))
async def test_topics_are_deleted_by_name(version: int) -> None:
    """An unknown one is told as such."""
    handlers = Handlers()
    names = ("t", "nope")
    wanted: dict[str, Any] = {"topic_names": names} if version < 6 else {"topics": [{"name": name} for name in names]}
    answer = await handlers.ask(ApiKey.DELETE_TOPICS, version, **wanted)
    assert [(one.name, one.error_code.value) for one in answer.responses] == [("t", 0), ("nope", 3)]
    assert handlers.broker.topics() == []


async def test_topics_are_deleted_by_id() -> None:
    """An id that no topic has is told as such."""
    handlers = Handlers()
    topic_id = bytes.fromhex(handlers.broker.topic("t").topic_id)
    handlers.broker.add_topic("u")
    other = bytes.fromhex(handlers.broker.topic("u").topic_id)
    answer = await handlers.ask(ApiKey.DELETE_TOPICS, topics=[{"topic_id": other}, {"topic_id": b"\xff" * 16}])
    assert [(one.name, one.error_code.value) for one in answer.responses] == [("u", 0), (None, 100)]
    assert [topic.topic_id for topic in handlers.broker.topics()] == [topic_id.hex()]


@pytest.mark.parametrize("version", versions(ApiKey.CREATE_PARTITIONS))
async def test_partitions_are_only_ever_added(version: int) -> None:
    """The same number, fewer, places of one's own, an unknown topic: each with its code."""
    handlers = Handlers()
    handlers.broker.add_topic("u")
    handlers.broker.add_topic("v")
    topics = [
        {"name": "t", "count": 5},
        {"name": "u", "count": 1},
        {"name": "v", "count": 3, "assignments": [{"broker_ids": [1]}]},
        {"name": "nope", "count": 3},
    ]
    answer = await handlers.ask(ApiKey.CREATE_PARTITIONS, version, topics=topics)
    assert [(one.name, one.error_code.value) for one in answer.results] == [("t", 0), ("u", 37), ("v", 39), ("nope", 3)]
    assert len(handlers.broker.topic("t").partitions) == 5
    await handlers.ask(ApiKey.CREATE_PARTITIONS, version, topics=[{"name": "t", "count": 9}], validate_only=True)
    assert len(handlers.broker.topic("t").partitions) == 5
