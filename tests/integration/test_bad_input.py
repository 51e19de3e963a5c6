"""Bad input over gRPC against running nodes: each its own status and reason, and afterwards publishing works."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import pytest

from raftlog import Client
from raftlog.pb.raftlog.v1 import log_service_pb2 as log_pb
from raftlog.pb.raftlog.v1 import topic_service_pb2 as topic_pb
from raftlog.pb.raftlog.v1.records_pb2 import ACKS_LEADER, Edge, NewBatch, NewRecord, Position
from raftlog.records.batch import BatchBuilder
from raftlog.testing import SyncLocalCluster
from tests.gateway.helpers import Told, told, told_by_call
from tests.integration.support import Stubs, stubs_of

TOPIC = "bad-input"
KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
async def stubs(cluster: SyncLocalCluster, client: Client) -> AsyncIterator[Stubs]:
    """Node 1, and a topic whose only partition may be led by any node; publishing works before and after the test."""
    if TOPIC not in {topic.name for topic in await client.admin.list_topics()}:
        await client.admin.create_topic(TOPIC, partitions=1, configs={"max.message.bytes": str(64 * KIB)})
    async with stubs_of(cluster.nodes[1]) as one:
        before = await publish(one, batch(b"good"))
        yield one
        assert await publish(one, batch(b"good")) > before


@pytest.fixture
async def untouched(stubs: Stubs) -> AsyncIterator[Stubs]:
    """The same; and the test appends nothing."""
    before = await publish(stubs, batch(b"good"))
    yield stubs
    assert await publish(stubs, batch(b"good")) == before + 1, "what was refused left no trace"


def batch(*values: bytes, producer_id: int = -1, epoch: int = -1, sequence: int = -1) -> bytes:
    """A record batch of now."""
    builder = BatchBuilder(size_bytes_max=64 * MIB)
    for value in values:
        builder.append(None, value, timestamp_ms=time.time_ns() // 1_000_000)
    return builder.build(producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence)


def request(data: bytes, *, topic: str = TOPIC, partition: int = 0, **fields: Any) -> log_pb.PublishRequest:
    """A publish of one batch."""
    return log_pb.PublishRequest(batches=[NewBatch(topic=topic, partition=partition, record_batch=data)], **fields)


def subscription(topic: str, start: Position) -> log_pb.SubscribeRequest:
    """A subscription of partition 0."""
    wish = log_pb.SubscribeRequest(partitions=[log_pb.SubscribePartition(topic=topic)])
    getattr(wish.partitions[0], "from").CopyFrom(start)
    return wish


async def publish(stubs: Stubs, data: bytes) -> int:
    """The offset of a batch."""
    answer = await stubs.log.Publish(request(data))
    return int(answer.results[0].offset)


async def refused(call: Awaitable[Any]) -> tuple[str, Told]:
    """The status and the details of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name, told_by_call(caught.value)


def damaged(data: bytes) -> bytes:
    """The same with its last byte changed."""
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (batch(b"x" * 65 * KIB), "MESSAGE_TOO_LARGE"),
        (batch(*[b"x" * KIB] * 70), "MESSAGE_TOO_LARGE"),
        (damaged(batch(b"bad crc")), "CORRUPT_MESSAGE"),
        (batch(b"truncated")[:-3], "CORRUPT_MESSAGE"),
        (batch(b"truncated")[:20], "CORRUPT_MESSAGE"),
        (b"", "CORRUPT_MESSAGE"),
        (batch(b"one") + batch(b"two"), "INVALID_RECORD"),
        (b"\xff" * 200, "INVALID_RECORD"),
    ],
    ids=["record too big", "batch too big", "bad crc", "truncated", "cut in the header", "nothing", "two batches", "garbage"],
)
async def test_a_bad_batch_is_refused(untouched: Stubs, data: bytes, reason: str) -> None:
    """INVALID_ARGUMENT; nothing is appended."""
    code, said = await refused(untouched.log.Publish(request(data)))
    assert (code, said.reason) == ("INVALID_ARGUMENT", reason), said


async def test_a_record_too_big_is_refused(untouched: Stubs) -> None:
    """Also where the node makes the batch."""
    record = NewRecord(topic=TOPIC, partition=0, value=b"x" * 65 * KIB)
    code, said = await refused(untouched.log.Publish(log_pb.PublishRequest(records=[record])))
    assert (code, said.reason) == ("INVALID_ARGUMENT", "MESSAGE_TOO_LARGE"), said


async def test_an_unknown_topic_or_partition_is_not_found(untouched: Stubs) -> None:
    """For every call that names one."""
    calls: list[Awaitable[Any]] = [
        untouched.log.Publish(request(batch(b"x"), topic="nobody")),
        untouched.log.Publish(request(batch(b"x"), partition=7)),
        untouched.topics.DescribeTopic(topic_pb.DescribeTopicRequest(name="nobody")),
        untouched.topics.AlterTopic(topic_pb.AlterTopicRequest(name="nobody", partitions=3)),
        untouched.topics.DeleteTopic(topic_pb.DeleteTopicRequest(name="nobody")),
        untouched.log.Subscribe(subscription("nobody", Position(edge=Edge.EDGE_END))).read(),
    ]
    for call in calls:
        code, said = await refused(call)
        assert (code, said.reason) == ("NOT_FOUND", "UNKNOWN_TOPIC_OR_PARTITION"), said


async def test_an_offset_out_of_range_says_what_is_there(stubs: Stubs) -> None:
    """Earliest and latest stand in the error, of a fetch and of a subscription."""
    latest = await publish(stubs, batch(b"x")) + 1
    wish = log_pb.FetchRequest(partitions=[log_pb.FetchPartition(topic=TOPIC, partition=0, offset=10_000_000)])
    fetched = told((await stubs.log.Fetch(wish)).partitions[0].error)
    code, subscribed = await refused(stubs.log.Subscribe(subscription(TOPIC, Position(offset=10_000_000))).read())
    assert code == "OUT_OF_RANGE"
    for said in (fetched, subscribed):
        assert said.code == grpc.StatusCode.OUT_OF_RANGE.value[0]
        assert said.reason == "OFFSET_OUT_OF_RANGE"
        assert said.metadata == {"earliest": "0", "latest": str(latest)}


async def test_a_negative_offset_is_no_offset(untouched: Stubs) -> None:
    """Not a place in Kafka's sense either."""
    wish = log_pb.FetchRequest(partitions=[log_pb.FetchPartition(topic=TOPIC, partition=0, offset=-5)])
    calls: list[Awaitable[Any]] = [
        untouched.log.Fetch(wish),
        untouched.log.Subscribe(subscription(TOPIC, Position(offset=-5))).read(),
    ]
    for call in calls:
        code, said = await refused(call)
        assert (code, said.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST"), said


async def test_a_wrong_sequence_or_epoch_is_refused(stubs: Stubs) -> None:
    """Each by its own reason; a repeated batch is the same one."""
    producer = await stubs.log.InitProducer(log_pb.InitProducerRequest())
    known = {"producer_id": producer.producer_id, "epoch": producer.producer_epoch}
    offset = await publish(stubs, batch(b"0", **known, sequence=0))
    assert await publish(stubs, batch(b"0", **known, sequence=0)) == offset
    code, said = await refused(stubs.log.Publish(request(batch(b"2", **known, sequence=2))))
    assert (code, said.reason) == ("FAILED_PRECONDITION", "OUT_OF_ORDER_SEQUENCE_NUMBER"), said
    code, said = await refused(stubs.log.Publish(request(batch(b"1", **known, sequence=1), acks=ACKS_LEADER)))
    assert (code, said.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST"), said
    newer = {**known, "epoch": producer.producer_epoch + 1}
    await publish(stubs, batch(b"0", **newer, sequence=0))
    code, said = await refused(stubs.log.Publish(request(batch(b"1", **known, sequence=1))))
    assert (code, said.reason) == ("FAILED_PRECONDITION", "INVALID_PRODUCER_EPOCH"), said


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        (topic_pb.CreateTopicRequest(name=""), "INVALID_REQUEST"),
        (topic_pb.CreateTopicRequest(name=".."), "INVALID_TOPIC"),
        (topic_pb.CreateTopicRequest(name="a/b"), "INVALID_TOPIC"),
        (topic_pb.CreateTopicRequest(name="ü"), "INVALID_TOPIC"),
        (topic_pb.CreateTopicRequest(name="x" * 250), "INVALID_TOPIC"),
        (topic_pb.CreateTopicRequest(name="ok", configs={"retention.sm": "1"}), "INVALID_CONFIG"),
        (topic_pb.CreateTopicRequest(name="ok", configs={"retention.ms": "long"}), "INVALID_CONFIG"),
        (topic_pb.CreateTopicRequest(name="ok", partitions=1_000_000), "INVALID_PARTITIONS"),
        (topic_pb.CreateTopicRequest(name="ok", replication_factor=9), "INVALID_REPLICATION_FACTOR"),
    ],
)
async def test_a_topic_that_cannot_be_is_refused(untouched: Stubs, wish: topic_pb.CreateTopicRequest, reason: str) -> None:
    """By its name, its configs or its numbers; a misspelt key gets a suggestion."""
    code, said = await refused(untouched.topics.CreateTopic(wish))
    assert (code, said.reason) == ("INVALID_ARGUMENT", reason), said
    assert "retention.sm" not in wish.configs or "retention.ms" in said.message


async def test_a_topic_that_exists_is_refused(untouched: Stubs) -> None:
    """Whatever its configs."""
    code, said = await refused(untouched.topics.CreateTopic(topic_pb.CreateTopicRequest(name=TOPIC)))
    assert (code, said.reason) == ("ALREADY_EXISTS", "TOPIC_ALREADY_EXISTS"), said


async def test_fewer_partitions_are_refused(stubs: Stubs) -> None:
    """Partitions are never taken away."""
    await stubs.topics.CreateTopic(topic_pb.CreateTopicRequest(name="two-partitions", partitions=2))
    code, said = await refused(stubs.topics.AlterTopic(topic_pb.AlterTopicRequest(name="two-partitions", partitions=1)))
    assert (code, said.reason) == ("INVALID_ARGUMENT", "INVALID_PARTITIONS"), said


async def test_one_bad_item_does_not_harm_the_others(stubs: Stubs) -> None:
    """Each result has its own error."""
    answer = await stubs.log.Publish(
        log_pb.PublishRequest(
            batches=[
                NewBatch(topic=TOPIC, record_batch=batch(b"first")),
                NewBatch(topic=TOPIC, record_batch=damaged(batch(b"bad"))),
                NewBatch(topic="nobody", record_batch=batch(b"bad")),
                NewBatch(topic=TOPIC, record_batch=batch(b"second")),
            ]
        )
    )
    first, bad, nobody, second = answer.results
    assert second.offset == first.offset + 1
    assert (bad.error.code, nobody.error.code) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], grpc.StatusCode.NOT_FOUND.value[0])
    await publish(stubs, batch(b"x"))
