"""Requests that are right, small, and ask for as much as one can: answers stay in proportion, and the loop is not held up."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest

from raftlog.broker.group_port import CommittedOffset
from raftlog.kafka.handlers import topics as topic_handlers
from raftlog.kafka.handlers.call import in_parallel
from raftlog.kafka.wire import fetch, produce
from raftlog.kafka.wire.api import ApiKey
from raftlog.kafka.wire.primitives import HOT_ITEMS_MAX, MalformedRequestError, Reader
from raftlog.model import TopicInfo, TopicPartition
from tests.kafka.handlers.fake_groups import FakeGroups
from tests.kafka.handlers.helpers import Handlers

TOPIC, BROKER = 2, 4


def counted(handlers: Handlers) -> list[str]:
    """Whenever all topics are listed, something is added to this."""
    listed: list[str] = []
    original = handlers.broker.topics

    def topics() -> list[TopicInfo]:
        listed.append("topics")
        return original()

    handlers.broker.topics = topics  # type: ignore[method-assign]
    return listed


async def test_a_topic_that_is_named_a_thousand_times_is_shown_once() -> None:
    """As Kafka does: an answer is never larger than that for all topics."""
    answer = await Handlers().ask(ApiKey.METADATA, topics=[{"name": "t"}, {"name": "u"}] * 1_000)
    assert [topic.name for topic in answer.topics] == ["t", "u"]


async def test_a_resource_that_is_named_a_thousand_times_is_described_once() -> None:
    """In full; and once more for each list of keys, which is answered by those keys alone."""
    full = {"resource_type": TOPIC, "resource_name": "t", "configuration_keys": None}
    some = {"resource_type": TOPIC, "resource_name": "t", "configuration_keys": ["retention.ms"]}
    node = {"resource_type": BROKER, "resource_name": "1", "configuration_keys": []}
    answer = await Handlers().ask(ApiKey.DESCRIBE_CONFIGS, resources=[full, some, node] * 1_000)
    assert [(one.resource_name, len(one.configs) > 1) for one in answer.results] == [("t", True), ("t", False), ("1", True)]


async def test_a_group_that_is_named_a_thousand_times_is_described_once() -> None:
    """What its members say of themselves may be megabytes."""
    answer = await Handlers(FakeGroups()).ask(ApiKey.DESCRIBE_GROUPS, groups=["g", "h"] * 1_000)
    assert [group.group_id for group in answer.groups] == ["g", "h"]


@pytest.mark.parametrize("version", [7, 8])
async def test_an_offset_that_is_asked_for_a_thousand_times_is_told_once(version: int) -> None:
    """With its words, of which each may be four kilobytes; a group that is named twice is asked for all of it."""
    groups = FakeGroups()
    groups.committed = {TopicPartition("t", number): CommittedOffset(offset=5, metadata="words" * 800) for number in (0, 1)}
    handlers = Handlers(groups)
    asked: dict[str, Any] = {"group_id": "g", "topics": [{"name": "t", "partition_indexes": [0, 0, 1] * 1_000}]}
    if version >= 8:
        more = {"group_id": "g", "topics": [{"name": "t", "partition_indexes": [2]}, {"name": "t", "partition_indexes": [0]}]}
        asked = {"groups": [asked, more, asked]}
    answer = await handlers.ask(ApiKey.OFFSET_FETCH, version, **asked)
    (found,) = answer.groups if version >= 8 else [answer]
    (topic,) = found.topics
    offsets = [(one.partition_index, one.committed_offset) for one in topic.partitions]
    assert offsets == [(0, 5), (1, 5), *([(2, -1)] if version >= 8 else [])]


async def test_a_group_that_is_asked_for_some_offsets_and_for_all_tells_all() -> None:
    """Once."""
    groups = FakeGroups()
    groups.committed = {TopicPartition("t", number): CommittedOffset(offset=5) for number in (0, 1)}
    some, whole = {"group_id": "g", "topics": [{"name": "t", "partition_indexes": [0]}]}, {"group_id": "g", "topics": None}
    answer = await Handlers(groups).ask(ApiKey.OFFSET_FETCH, 8, groups=[some, whole])
    assert [len(group.topics[0].partitions) for group in answer.groups] == [2]


async def test_more_topics_than_may_be_made_at_once_are_refused_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is answered with all its configs, also where it is only tried."""
    monkeypatch.setattr(topic_handlers, "CREATED_AT_ONCE_MAX", 3)
    handlers = Handlers()
    wanted = [{"name": f"n{number}", "num_partitions": 1, "replication_factor": 1} for number in range(4)]
    answer = await handlers.ask(ApiKey.CREATE_TOPICS, topics=wanted, validate_only=True)
    assert [topic.error_code.value for topic in answer.topics] == [42] * 4
    assert "at most 3" in answer.topics[0].error_message
    answer = await handlers.ask(ApiKey.CREATE_TOPICS, topics=wanted[:3])
    assert [topic.error_code.value for topic in answer.topics] == [0] * 3


@pytest.mark.parametrize("key", [ApiKey.METADATA, ApiKey.DELETE_TOPICS])
async def test_topics_are_looked_up_by_id_without_a_look_at_all_of_them_for_each(key: int) -> None:
    """That would take time in the square."""
    handlers = Handlers()
    listed = counted(handlers)
    wanted = [{"name": None, "topic_id": struct.pack(">qq", 9, number)} for number in range(50)]
    answer = await handlers.ask(key, topics=wanted)
    found = answer.topics if key == ApiKey.METADATA else answer.responses
    assert [topic.error_code.value for topic in found] == [100] * 50
    assert len(listed) == 1


async def test_work_on_many_parts_lets_others_have_their_turn() -> None:
    """Also where no part waits for anything."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def double(number: int) -> int:
        return 2 * number

    async with asyncio.TaskGroup() as group:
        task = group.create_task(other())
        assert await in_parallel(range(10_000), double) == list(range(0, 20_000, 2))
        task.cancel()
    assert turns > 10


def test_partitions_of_the_hot_requests_are_bounded_for_they_are_worked_on_in_one_go() -> None:
    """A thousand partitions are a few milliseconds of the node's loop."""
    many = HOT_ITEMS_MAX + 1
    fetched = struct.pack(">iiiibi", -1, 0, 1, 1, 0, 1) + b"\0\1t" + struct.pack(">i", many) + bytes(16 * many)
    produced = struct.pack(">hhii", -1, -1, 1, 1) + b"\0\1t" + struct.pack(">i", many) + bytes(8 * many)
    with pytest.raises(MalformedRequestError, match=f"more than {HOT_ITEMS_MAX} items"):
        fetch.read_request(Reader(memoryview(fetched)), 4)
    with pytest.raises(MalformedRequestError, match=f"more than {HOT_ITEMS_MAX} items"):
        produce.read_request(Reader(memoryview(produced)), 3)
