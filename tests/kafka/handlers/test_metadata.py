"""Metadata and the cluster: who leads what, where clients reach it, and topics that are made on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from raftlog.errors import InvalidTopicError
from raftlog.kafka.handlers.topic_cache import TopicCache
from raftlog.kafka.wire.api import ApiKey
from tests.kafka.handlers.helpers import Handlers, versions


@pytest.mark.parametrize("version", versions(ApiKey.METADATA))
async def test_topics_are_shown_with_leaders_epochs_and_replicas(version: int) -> None:
    """In every version what it has room for."""
    handlers = Handlers()
    info = handlers.broker.topic("t")
    first = replace(info.partitions[0], replicas=(1, 2, 3), leader=1, leader_epoch=7)
    second = replace(info.partitions[1], leader=None, leader_epoch=8)
    handlers.broker.infos["t"] = replace(info, partitions=(first, second))
    answer = await handlers.ask(ApiKey.METADATA, version, topics=[] if version == 0 else None)
    (topic,) = answer.topics
    led, not_led = topic.partitions
    assert (led.error_code.value, led.leader_id, led.replica_nodes, led.isr_nodes) == (0, 1, (1, 2, 3), (1, 2))
    assert (not_led.error_code.value, not_led.leader_id) == (5, -1)
    if version >= 1:
        assert (answer.controller_id, topic.is_internal, answer.brokers[0].rack) == (2, False, "a")
    if version >= 2:
        assert answer.cluster_id == "c1"
    if version >= 5:
        assert led.offline_replicas == (3,)
    if version >= 7:
        assert (led.leader_epoch, not_led.leader_epoch) == (7, 8)
    if version >= 10:
        assert topic.topic_id is None or topic.topic_id.hex == info.topic_id


async def test_a_leader_that_is_not_among_the_nodes_told_is_not_told_either() -> None:
    """A client cannot look up its address: some go round for ever; one that hears of no leader asks again."""
    handlers = Handlers()
    info = handlers.broker.topic("t")
    handlers.broker.infos["t"] = replace(info, partitions=(replace(info.partitions[0], replicas=(1, 2, 3), leader=3),))
    answer = await handlers.ask(ApiKey.METADATA, topics=None)
    assert 3 not in [broker.node_id for broker in answer.brokers]
    (partition,) = answer.topics[0].partitions
    assert (partition.error_code.value, partition.leader_id) == (5, -1)


async def test_no_topics_is_not_all_topics() -> None:
    """But for version 0, where the empty list is the only way to say all."""
    handlers = Handlers()
    assert (await handlers.ask(ApiKey.METADATA, 1, topics=[])).topics == ()
    assert len((await handlers.ask(ApiKey.METADATA, 0, topics=[])).topics) == 1


@pytest.mark.parametrize(("asked", "enabled", "code"), [(True, True, 0), (False, True, 3), (True, False, 3), (False, False, 3)])
async def test_a_topic_is_made_where_the_client_asks_and_the_node_allows(asked: bool, enabled: bool, code: int) -> None:
    """Its answer is the topic, and not an error to be retried."""
    handlers = Handlers(auto_create_topics=enabled)
    answer = await handlers.ask(ApiKey.METADATA, topics=[{"name": "new"}], allow_auto_topic_creation=asked)
    assert answer.topics[0].error_code.value == code
    assert len(answer.topics[0].partitions) == (1 if code == 0 else 0)


async def test_a_name_that_cannot_be_made_is_told_and_the_others_are_shown() -> None:
    """Each topic has its own outcome, in the order asked for."""
    handlers = Handlers()

    async def refuse(name: str, **_: Any) -> Any:
        raise InvalidTopicError(f"{name} cannot be")

    handlers.broker.create_topic = refuse  # type: ignore[method-assign]
    answer = await handlers.ask(ApiKey.METADATA, topics=[{"name": "a b"}, {"name": "t"}], allow_auto_topic_creation=True)
    assert [(topic.name, topic.error_code.value) for topic in answer.topics] == [("a b", 17), ("t", 0)]


async def test_topics_are_found_by_their_ids() -> None:
    """From version 12 on without a name; an id that no topic has is told as such."""
    handlers = Handlers()
    handlers.broker.add_topic("u")
    topic_id = bytes.fromhex(handlers.broker.topic("u").topic_id)
    wanted = [{"name": None, "topic_id": topic_id}, {"name": None, "topic_id": b"\xff" * 16}]
    answer = await handlers.ask(ApiKey.METADATA, 12, topics=wanted)
    assert [(topic.name, topic.error_code.value) for topic in answer.topics] == [("u", 0), (None, 100)]


async def test_what_was_encoded_is_used_again_until_it_looks_different() -> None:
    """A new leader, or a node that went down, is seen at once."""
    handlers = Handlers()
    cache = TopicCache()
    info = handlers.broker.topic("t")
    first = cache.get(9, info, frozenset({1}))
    assert cache.get(9, replace(info), frozenset({1})) is first
    assert cache.get(9, info, frozenset()) != first
    moved = replace(info, partitions=tuple(replace(one, leader=2) for one in info.partitions))
    assert cache.get(9, moved, frozenset({1})) != first
    assert cache.get(8, info, frozenset({1})) != first


@pytest.mark.parametrize("version", versions(ApiKey.DESCRIBE_CLUSTER))
async def test_the_cluster_is_described_by_this_listeners_addresses(version: int) -> None:
    """Nodes that are down are left out."""
    answer = await Handlers().ask(ApiKey.DESCRIBE_CLUSTER, version, endpoint_type=1)
    assert (answer.cluster_id, answer.controller_id) == ("c1", 2)
    assert [(one.broker_id, one.host, one.port, one.rack) for one in answer.brokers] == [
        (1, "127.0.0.1", 9001, "a"), (2, "b.example", 9002, None),
    ]  # fmt: skip


async def test_there_are_no_controllers_beside_the_nodes() -> None:
    """Who asks for them is told so."""
    assert (await Handlers().ask(ApiKey.DESCRIBE_CLUSTER, endpoint_type=2)).error_code.value == 115


@pytest.mark.parametrize("version", versions(ApiKey.DESCRIBE_LOG_DIRS))
async def test_the_log_directory_has_this_nodes_replicas(version: int) -> None:
    """All of them, or those asked for."""
    handlers = Handlers()
    handlers.broker.add_topic("u")
    (directory,) = (await handlers.ask(ApiKey.DESCRIBE_LOG_DIRS, version, topics=None)).results
    assert directory.log_dir == "/d"
    assert {topic.name: len(topic.partitions) for topic in directory.topics} == {"t": 3, "u": 1}
    some = [{"topic": "t", "partitions": [2]}]
    (directory,) = (await handlers.ask(ApiKey.DESCRIBE_LOG_DIRS, version, topics=some)).results
    assert [(topic.name, [part.partition_index for part in topic.partitions]) for topic in directory.topics] == [("t", [2])]


@pytest.mark.parametrize(("leads", "told"), [(2, 2), (3, 1), (9, 1), (None, 1)])
async def test_the_controller_is_always_a_node_that_is_told(leads: int | None, told: int) -> None:
    """Not one that is down, unknown, or not there: clients would wait for its address."""
    handlers = Handlers()
    cluster = replace(handlers.broker.cluster(), controller=leads)
    handlers.broker.cluster = lambda: cluster  # type: ignore[method-assign]
    assert (await handlers.ask(ApiKey.METADATA, topics=[])).controller_id == told
    assert (await handlers.ask(ApiKey.DESCRIBE_CLUSTER, endpoint_type=1)).controller_id == told
