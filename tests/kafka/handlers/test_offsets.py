"""ListOffsets, OffsetForLeaderEpoch, DeleteRecords and InitProducerId."""

from __future__ import annotations

from typing import Any

import pytest

from raftlog.errors import FencedLeaderEpochError, IndeterminateError, LeaderNotAvailableError
from raftlog.kafka.wire.api import ApiKey
from raftlog.model import Acks, TopicPartition
from tests.gateway.helpers import make_batch
from tests.kafka.handlers.helpers import Handlers, versions

T0 = TopicPartition("t", 0)


async def filled() -> Handlers:
    """Two records in the first partition, of times 1000 and 1001."""
    handlers = Handlers()
    await handlers.broker.publish([(T0, make_batch(b"a", b"b"))], acks=Acks.ALL, timeout_s=1)
    return handlers


@pytest.mark.parametrize("version", versions(ApiKey.LIST_OFFSETS))
async def test_offsets_are_listed_by_time_and_edge(version: int) -> None:
    """Both ends, a time, a time that no record has, and a partition that is not there."""
    handlers = await filled()
    parts: list[dict[str, Any]] = [{"partition_index": 0, "timestamp": at} for at in (-1, -2, 1_001, 9_000)]
    topics = [{"name": "t", "partitions": parts}, {"name": "nope", "partitions": [{"partition_index": 1, "timestamp": -1}]}]
    answer = await handlers.ask(ApiKey.LIST_OFFSETS, version, topics=topics)
    known, unknown = answer.topics
    assert [(one.offset, one.error_code.value) for one in known.partitions] == [(2, 0), (0, 0), (1, 0), (-1, 0)]
    assert [(one.partition_index, one.offset, one.error_code.value) for one in unknown.partitions] == [(1, -1, 3)]
    if version >= 4:
        assert [one.leader_epoch for one in known.partitions] == [3, 3, 3, -1]


async def test_a_fenced_epoch_is_told_with_its_code() -> None:
    """So that the consumer looks up the leader."""
    handlers = Handlers()
    handlers.broker.failures["list_offset"].append(FencedLeaderEpochError("over"))
    topics = [{"name": "t", "partitions": [{"partition_index": 0, "timestamp": -1}]}]
    (topic,) = (await handlers.ask(ApiKey.LIST_OFFSETS, topics=topics)).topics
    assert topic.partitions[0].error_code.value == 74


@pytest.mark.parametrize("version", versions(ApiKey.OFFSET_FOR_LEADER_EPOCH))
async def test_ends_of_epochs_are_asked_of_the_broker(version: int) -> None:
    """With what the client believes to be the present one."""
    handlers = await filled()
    parts = [{"partition": 0, "current_leader_epoch": 3, "leader_epoch": 2}, {"partition": 9, "leader_epoch": 2}]
    answer = await handlers.ask(ApiKey.OFFSET_FOR_LEADER_EPOCH, version, topics=[{"topic": "t", "partitions": parts}])
    first, second = answer.topics[0].partitions
    assert (first.error_code.value, first.partition, first.leader_epoch, first.end_offset) == (0, 0, 2, 2)
    assert (second.error_code.value, second.leader_epoch, second.end_offset) == (3, -1, -1)
    assert ("epoch_end", (T0, 2, 3, True)) in handlers.broker.calls


@pytest.mark.parametrize("version", versions(ApiKey.DELETE_RECORDS))
async def test_records_are_deleted_up_to_an_offset(version: int) -> None:
    """−1 is all; beyond the end is out of range."""
    handlers = await filled()
    parts = [{"partition_index": 0, "offset": at} for at in (1, 5, -1)]
    answer = await handlers.ask(ApiKey.DELETE_RECORDS, version, topics=[{"name": "t", "partitions": parts}], timeout_ms=1_500)
    found = [(one.low_watermark, one.error_code.value) for one in answer.topics[0].partitions]
    assert found == [(1, 0), (-1, 1), (2, 0)]
    assert ("delete_records", (T0, 1, 1.5, True)) in handlers.broker.calls


async def test_a_fault_of_ours_is_an_unknown_server_error_of_one_partition(caplog: pytest.LogCaptureFixture) -> None:
    """Logged in full; the others have their answers."""
    handlers = await filled()
    handlers.broker.failures["list_offset"].append(ZeroDivisionError("a fault"))
    parts = [{"partition_index": 0, "timestamp": -1}, {"partition_index": 0, "timestamp": -1}]
    (topic,) = (await handlers.ask(ApiKey.LIST_OFFSETS, topics=[{"name": "t", "partitions": parts}])).topics
    assert sorted(one.error_code.value for one in topic.partitions) == [-1, 0]
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("version", versions(ApiKey.INIT_PRODUCER_ID))
async def test_an_idempotent_producer_gets_an_id(version: int) -> None:
    """A fresh one each time; also where it comes back with one (KIP-360)."""
    handlers = Handlers()
    first = await handlers.ask(ApiKey.INIT_PRODUCER_ID, version, transactional_id=None)
    again = await handlers.ask(ApiKey.INIT_PRODUCER_ID, version, transactional_id=None, producer_id=5, producer_epoch=1)
    assert (first.error_code.value, first.producer_id, first.producer_epoch) == (0, 1_001, 0)
    assert (again.error_code.value, again.producer_id, again.producer_epoch) == (0, 1_002, 0)


async def test_a_transactional_id_is_refused_for_good_and_a_missing_leader_for_now() -> None:
    """Clients give up on the first code, and try again on the second."""
    handlers = Handlers()
    assert (await handlers.ask(ApiKey.INIT_PRODUCER_ID, transactional_id="x")).error_code.value == 53
    for error in (LeaderNotAvailableError("none"), IndeterminateError("who knows")):

        async def fail(error: Exception = error) -> tuple[int, int]:
            raise error

        handlers.broker.init_producer = fail  # type: ignore[method-assign]
        assert (await handlers.ask(ApiKey.INIT_PRODUCER_ID, transactional_id=None)).error_code.value == 15
