"""Publish: one call, batches and records."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from raftlog.errors import LeaderHint, NotLeaderError, OverloadedError
from raftlog.gateway.group_records import RECORD_BATCH_BYTES_MAX
from raftlog.model import Acks, TopicPartition
from raftlog.pb.raftlog.v1 import records_pb2 as r
from raftlog.pb.raftlog.v1.log_service_pb2 import PublishRequest, PublishResponse
from raftlog.records.batch import Record, decode
from raftlog.records.partitioner import partition_of
from tests.gateway.fake_broker import FakeBroker
from tests.gateway.helpers import new_batch, open_door, told, told_by_call, until


def stored(broker: FakeBroker, partition: int = 0) -> list[Record]:
    """All records of a partition of ``t``."""
    return [record for _, data in broker.logs[TopicPartition("t", partition)].batches for record in decode(data)]


async def test_batches_are_published_and_answered_in_their_order() -> None:
    """Each batch has its own result, with the offset of its first record."""
    async with open_door() as door:
        answer = await door.log.Publish(
            PublishRequest(batches=[new_batch(b"a", b"b"), new_batch(b"c", partition=1), new_batch(b"d")])
        )
    assert [(x.topic, x.partition, x.offset) for x in answer.results] == [("t", 0, 0), ("t", 1, 0), ("t", 0, 2)]
    assert not any(x.HasField("error") for x in answer.results)


@pytest.mark.parametrize(
    ("wire", "meant"),
    [(r.ACKS_UNSPECIFIED, Acks.ALL), (r.ACKS_ALL, Acks.ALL), (r.ACKS_LEADER, Acks.LEADER), (r.ACKS_NONE, Acks.NONE)],
)
async def test_acks_and_timeout_reach_the_broker(wire: r.Acks.ValueType, meant: Acks) -> None:
    """Acks are the broker's, milliseconds become seconds, and the default timeout is thirty of them."""
    async with open_door() as door:
        await door.log.Publish(PublishRequest(batches=[new_batch(b"a")], acks=wire, timeout_ms=1_500, direct=True))
        await door.log.Publish(PublishRequest(batches=[new_batch(b"a")], acks=wire))
        assert [call[1] for call in door.broker.calls] == [(meant, 1.5, True), (meant, 30.0, False)]


async def test_records_go_where_their_keys_say() -> None:
    """A key's partition is Kafka's; order within a partition is that of the request; results are in the request's order."""
    keys = [b"k%d" % n for n in range(20)]
    async with open_door() as door:
        answer = await door.log.Publish(
            PublishRequest(records=[r.NewRecord(topic="t", key=key, value=key, timestamp_ms=5) for key in keys])
        )
        parts = [partition_of(key, 3) for key in keys]
        for partition in range(3):
            mine = [key for key, p in zip(keys, parts, strict=True) if p == partition]
            assert [x.value for x in stored(door.broker, partition)] == mine
        assert len(door.broker.calls) == 1
    counts = [0, 0, 0]
    for result, partition in zip(answer.results, parts, strict=True):
        assert (result.partition, result.offset) == (partition, counts[partition])
        counts[partition] += 1


async def test_a_record_keeps_its_fields() -> None:
    """Missing and empty differ, for keys, values and headers; the time is the client's or that of arrival."""
    headers = [r.Header(key="h", value=b""), r.Header(key="n")]
    async with open_door() as door:
        await door.log.Publish(
            PublishRequest(
                records=[
                    r.NewRecord(topic="t", partition=1, key=b"", value=b"v", headers=headers, timestamp_ms=77),
                    r.NewRecord(topic="t", partition=1),
                ]
            )
        )
        first, second = stored(door.broker, 1)
    assert first == Record(0, 77, b"", b"v", (("h", b""), ("n", None)))
    assert (second.key, second.value) == (None, None)
    assert second.timestamp_ms > 1_600_000_000_000


async def test_keyless_records_take_turns_by_request() -> None:
    """A request's keyless records stay together, the next request's go to the next partition."""
    async with open_door() as door:
        request = PublishRequest(records=[r.NewRecord(topic="t", value=b"v")] * 2)
        answers = [await door.log.Publish(request) for _ in range(3)]
    assert sorted([result.partition for result in answer.results] for answer in answers) == [[0, 0], [1, 1], [2, 2]]


async def test_many_records_become_several_batches() -> None:
    """A batch stays below its limit, and offsets go on from one to the next."""
    async with open_door() as door:
        value = b"v" * (RECORD_BATCH_BYTES_MAX // 3)
        answer = await door.log.Publish(PublishRequest(records=[r.NewRecord(topic="t", partition=0, value=value)] * 5))
        log = door.broker.logs[TopicPartition("t", 0)]
        assert [len(decode(data)) for _, data in log.batches] == [2, 2, 1]
    assert [x.offset for x in answer.results] == [0, 1, 2, 3, 4]


async def test_grouping_heeds_a_topic_with_small_messages() -> None:
    """Records that are small enough each must not be refused for what the node made of them."""
    async with open_door() as door:
        door.broker.add_topic("t", 1, max_message_bytes="1000")
        await door.log.Publish(PublishRequest(records=[r.NewRecord(topic="t", value=b"v" * 300)] * 10))
        assert all(len(data) <= 1_000 for _, data in door.broker.logs[TopicPartition("t", 0)].batches)


async def test_a_single_items_failure_fails_the_call() -> None:
    """One item: its error is the call's."""
    async with open_door() as door:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await door.log.Publish(PublishRequest(batches=[new_batch(b"a", topic="nope")]))
    assert told_by_call(caught.value).reason == "UNKNOWN_TOPIC_OR_PARTITION"
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_among_several_items_each_has_its_own_error() -> None:
    """Bad items do not stop the good ones."""
    async with open_door() as door:
        answer = await door.log.Publish(
            PublishRequest(
                batches=[new_batch(b"a", topic="nope"), new_batch(b"b"), new_batch(b"c", topic="")],
                records=[r.NewRecord(topic="nope"), r.NewRecord(topic="t", partition=0), r.NewRecord(topic="t", timestamp_ms=-5)],
            )
        )
    reasons = [told(x.error).reason if x.HasField("error") else "" for x in answer.results]
    unknown = "UNKNOWN_TOPIC_OR_PARTITION"
    assert reasons == [unknown, "", "INVALID_REQUEST", unknown, "", "INVALID_TIMESTAMP"]
    assert [x.offset for x in answer.results] == [-1, 0, -1, -1, 1, -1]
    assert "batches[2].topic" in answer.results[2].error.message


async def test_with_no_acks_there_is_no_offset() -> None:
    """ACKS_NONE is answered with −1, for a record in mid-batch too."""
    async with open_door() as door:
        answer = await door.log.Publish(PublishRequest(acks=r.ACKS_NONE, records=[r.NewRecord(topic="t")] * 2))
    assert [x.offset for x in answer.results] == [-1, -1]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (PublishRequest(), "batches and records"),
        (PublishRequest(batches=[new_batch(b"a")], acks=9), "acks"),  # type: ignore[arg-type]
        (PublishRequest(batches=[new_batch(b"a")], timeout_ms=10_000_000), "timeout_ms"),
        (PublishRequest(batches=[new_batch(b"a", topic="")]), "batches[0].topic"),
        (PublishRequest(records=[r.NewRecord(topic="t")] * 10_001), "10001 items"),
    ],
)
async def test_a_wrong_request_is_refused_by_its_fields_name(request_: PublishRequest, field: str) -> None:
    """INVALID_ARGUMENT, with the name of what to change."""
    async with open_door() as door:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await door.log.Publish(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in told_by_call(caught.value).message


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotLeaderError("no", hint=LeaderHint(node_id=2, address="h:1", term=4)), grpc.StatusCode.FAILED_PRECONDITION),
        (OverloadedError("full", retry_after_ms=5), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (ValueError("a bug"), grpc.StatusCode.INTERNAL),
    ],
)
async def test_the_brokers_error_ends_the_call_with_its_details(error: Exception, code: grpc.StatusCode) -> None:
    """Trailers carry the same status with its details; the server lives on."""
    async with open_door() as door:
        door.broker.failures["publish"].append(error)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await door.log.Publish(PublishRequest(batches=[new_batch(b"a")]))
        said = told_by_call(caught.value)
        assert caught.value.code() is code
        assert (said.hint is not None) == isinstance(error, NotLeaderError)
        assert said.retry_ms == (5 if isinstance(error, OverloadedError) else None)
        assert (await door.log.Publish(PublishRequest(batches=[new_batch(b"a")]))).results[0].offset == 0


async def test_a_caller_that_leaves_cancels_its_call() -> None:
    """Nothing waits at the broker for a client that is gone."""
    async with open_door() as door:
        door.broker.gate.clear()
        call = door.log.Publish(PublishRequest(batches=[new_batch(b"a")]))
        waiting = asyncio.gather(call, return_exceptions=True)
        await until(lambda: door.broker.publishing == 1)
        call.cancel()
        await waiting
        await door.gateway._make.wait_until_idle()


async def test_a_call_that_ends_before_its_request_is_refused() -> None:
    """A client may close its side without a message: there is nothing to publish, and the door says so."""
    async with open_door() as door:
        empty = door.channel.stream_unary(
            "/raftlog.v1.LogService/Publish", request_serializer=bytes, response_deserializer=PublishResponse.FromString
        )
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await empty(iter(()), timeout=20)
        assert told_by_call(raised.value).reason == "INVALID_REQUEST"
        await door.log.Publish(PublishRequest(batches=[new_batch(b"a")]))
