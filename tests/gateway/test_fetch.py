"""Fetch and ListOffsets."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from raftlog.broker.port import FetchPart
from raftlog.errors import OffsetOutOfRangeError, RaftlogError
from raftlog.gateway.requests import MIB
from raftlog.model import Acks, TopicPartition
from raftlog.pb.raftlog.v1 import log_service_pb2 as pb
from raftlog.pb.raftlog.v1 import records_pb2 as r
from raftlog.records.batch import decode
from tests.gateway.helpers import Door, make_batch, open_door, told, told_by_call, until


async def publish(door: Door, *values: bytes, partition: int = 0) -> None:
    """One batch, straight into the broker."""
    await door.broker.publish([(TopicPartition("t", partition), make_batch(*values))], acks=Acks.ALL, timeout_s=1)


def part(offset: int = 0, partition: int = 0, max_bytes: int = 0, topic: str = "t") -> pb.FetchPartition:
    """A partition to fetch."""
    return pb.FetchPartition(topic=topic, partition=partition, offset=offset, max_bytes=max_bytes)


def values(fetched: pb.FetchedPartition) -> list[bytes | None]:
    """The values in an answer's partition."""
    return [record.value for record in decode(fetched.record_batches)]


async def test_batches_of_several_partitions_come_in_one_answer() -> None:
    """Each with its watermark, its log start and where to go on."""
    async with open_door() as door:
        await publish(door, b"a")
        await publish(door, b"b")
        await publish(door, b"c", partition=1)
        answer = await door.log.Fetch(pb.FetchRequest(partitions=[part(), part(partition=1), part(partition=2)]))
    assert [values(x) for x in answer.partitions] == [[b"a", b"b"], [b"c"], []]
    assert [(x.high_watermark, x.log_start_offset, x.next_offset) for x in answer.partitions] == [(2, 0, 2), (1, 0, 1), (0, 0, 0)]


async def test_the_requests_limits_reach_the_broker() -> None:
    """With their defaults where they are not given; what the broker makes of them is its own matter (tests/broker)."""
    async with open_door() as door:
        given = pb.FetchRequest(partitions=[part(max_bytes=700)], max_bytes=500, min_bytes=9, max_wait_ms=3, direct=True)
        await door.log.Fetch(given)
        await door.log.Fetch(pb.FetchRequest(partitions=[part(7)]))
        calls = [facts for name, facts in door.broker.calls if name == "fetch_many"]
    tp = TopicPartition("t", 0)
    assert calls == [
        ((FetchPart(tp=tp, offset=0, bytes_max=700),), 500, 9, 0.003, True, False, ""),
        ((FetchPart(tp=tp, offset=7, bytes_max=MIB),), MIB, 1, 0.0, False, False, ""),
    ]


async def test_it_waits_for_the_first_record_of_any_partition() -> None:
    """A publish ends the wait, long before its time is over."""
    async with open_door() as door:
        fetch = asyncio.gather(door.log.Fetch(pb.FetchRequest(partitions=[part(), part(partition=1)], max_wait_ms=50_000)))
        await until(lambda: door.broker.fetches_waiting == 1)
        await publish(door, b"a", partition=1)
        async with asyncio.timeout(10):
            (answer,) = await fetch
    assert [values(x) for x in answer.partitions] == [[], [b"a"]]


async def test_it_waits_for_min_bytes() -> None:
    """What came first is kept, and the answer has both."""
    async with open_door() as door:
        await publish(door, b"v" * 100)
        fetch = asyncio.gather(door.log.Fetch(pb.FetchRequest(partitions=[part()], min_bytes=200, max_wait_ms=50_000)))
        await until(lambda: door.broker.fetches_waiting == 1)
        await publish(door, b"w" * 100)
        async with asyncio.timeout(10):
            (answer,) = await fetch
    assert values(answer.partitions[0]) == [b"v" * 100, b"w" * 100]


async def test_its_wait_ends() -> None:
    """With nothing there, an empty answer comes after ``max_wait_ms``; without a wait, at once."""
    async with open_door() as door:
        for wait_ms in (0, 20):
            answer = await door.log.Fetch(pb.FetchRequest(partitions=[part()], max_wait_ms=wait_ms))
            assert values(answer.partitions[0]) == []
        assert door.broker.fetches_waiting == 0


async def test_an_error_in_one_partition_ends_the_wait_and_spares_the_others() -> None:
    """The caller learns of it at once, beside the others' batches."""
    async with open_door() as door:
        await publish(door, b"a", partition=1)
        request = pb.FetchRequest(partitions=[part(99), part(partition=1)], min_bytes=1_000_000, max_wait_ms=50_000)
        async with asyncio.timeout(10):
            answer = await door.log.Fetch(request)
    said = told(answer.partitions[0].error)
    assert (said.reason, said.metadata) == ("OFFSET_OUT_OF_RANGE", {"earliest": "0", "latest": "0"})
    assert values(answer.partitions[1]) == [b"a"]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.FetchRequest(), "partitions"),
        (pb.FetchRequest(partitions=[part(-1)]), "partitions[0].offset"),
        (pb.FetchRequest(partitions=[part(), part(topic="")]), "partitions[1].topic"),
        (pb.FetchRequest(partitions=[part()] * 1_001), "1001 items"),
    ],
)
async def test_a_wrong_fetch_is_refused_by_its_fields_name(request_: pb.FetchRequest, field: str) -> None:
    """INVALID_ARGUMENT, with the name of what to change."""
    async with open_door() as door:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await door.log.Fetch(request_)
    assert field in told_by_call(caught.value).message


def at(position: r.Position, topic: str = "t") -> pb.ListOffsetsPartition:
    """A lookup."""
    return pb.ListOffsetsPartition(topic=topic, partition=0, at=position)


async def test_offsets_are_listed_by_edge_and_time() -> None:
    """Both edges, a time, a time that no record has, an unknown topic: each with its own answer, in their order."""
    async with open_door() as door:
        await publish(door, b"a", b"b")
        lookups = [
            at(r.Position(edge=r.EDGE_BEGINNING)),
            at(r.Position(edge=r.EDGE_END)),
            at(r.Position(timestamp_ms=1_001)),
            at(r.Position(timestamp_ms=9_000)),
            at(r.Position(offset=5)),
            at(r.Position(edge=r.EDGE_END), topic="nope"),
        ]
        answer = await door.log.ListOffsets(pb.ListOffsetsRequest(partitions=lookups))
    assert [(x.offset, x.timestamp_ms) for x in answer.offsets] == [(0, -1), (2, -1), (1, 1_001), (-1, -1), (5, -1), (-1, -1)]
    assert [x.leader_epoch for x in answer.offsets[:3]] == [3, 3, 3]
    assert told(answer.offsets[5].error).reason == "UNKNOWN_TOPIC_OR_PARTITION"


async def test_a_lookup_without_a_position_is_refused() -> None:
    """The field's name is in the message."""
    async with open_door() as door:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await door.log.ListOffsets(pb.ListOffsetsRequest(partitions=[pb.ListOffsetsPartition(topic="t")]))
    assert "partitions[0].at is missing" in told_by_call(caught.value).message


async def test_producer_ids_are_the_brokers() -> None:
    """Two calls, two ids."""
    async with open_door() as door:
        ids = [(await door.log.InitProducer(pb.InitProducerRequest())).producer_id for _ in range(2)]
    assert ids == [1_001, 1_002]


async def test_errors_are_counted_by_reason() -> None:
    """Calls, items and partitions that fail reach the metrics; so do bytes."""

    class Counting:
        """Remembers what it is told."""

        def __init__(self) -> None:
            self.reasons: list[str] = []
            self.published_: list[tuple[int, int]] = []
            self.fetched_ = 0

        def published(self, batches: int, size_bytes: int, seconds: float) -> None:
            assert 0 <= seconds < 60
            self.published_.append((batches, size_bytes))

        def fetched(self, size_bytes: int) -> None:
            self.fetched_ += size_bytes

        def failed(self, reason: str) -> None:
            self.reasons.append(reason)

    counting = Counting()
    batch = make_batch(b"a")
    async with open_door(metrics=counting) as door:
        new = r.NewBatch(topic="t", partition=0, record_batch=batch)
        bad = r.NewBatch(topic="nope", partition=0, record_batch=batch)
        await door.log.Publish(pb.PublishRequest(batches=[new, bad]))
        answer = await door.log.Fetch(pb.FetchRequest(partitions=[part(), part(partition=9)]))
        error: RaftlogError = OffsetOutOfRangeError("x", earliest=0, latest=0)
        door.broker.failures["fetch"].append(error)
        call = door.log.Subscribe(
            pb.SubscribeRequest(partitions=[pb.SubscribePartition(topic="t", **{"from": r.Position(offset=0)})])  # type: ignore[arg-type]
        )
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
    assert counting.published_ == [(2, 2 * len(batch))]
    assert counting.fetched_ == len(answer.partitions[0].record_batches)
    assert counting.reasons == ["UNKNOWN_TOPIC_OR_PARTITION", "UNKNOWN_TOPIC_OR_PARTITION", "OFFSET_OUT_OF_RANGE"]
