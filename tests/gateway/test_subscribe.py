"""Subscribe: positions, tailing, going on after a failure, fairness, forms."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

import grpc
import pytest

from raftlog.broker.port import ListedOffset, Published
from raftlog.errors import (
    DataLossError,
    LeaderNotAvailableError,
    NotLeaderError,
    OffsetOutOfRangeError,
    RaftlogError,
    UnavailableError,
)
from raftlog.gateway import subscribe
from raftlog.model import Acks, TopicPartition
from raftlog.pb.raftlog.v1 import log_service_pb2 as pb
from raftlog.pb.raftlog.v1 import records_pb2 as r
from raftlog.records.batch import Record, decode
from tests.gateway.helpers import Door, make_batch, open_door, told_by_call, until

Subscribed: TypeAlias = "grpc.aio.UnaryStreamCall[pb.SubscribeRequest, pb.SubscribeResponse]"
BEGINNING, END = r.Position(edge=r.EDGE_BEGINNING), r.Position(edge=r.EDGE_END)


def one(start: r.Position, partition: int = 0, topic: str = "t") -> pb.SubscribePartition:
    """A partition to follow; its field is called ``from``."""
    return pb.SubscribePartition(topic=topic, partition=partition, **{"from": start})


def follow(door: Door, *partitions: pb.SubscribePartition, **options: object) -> Subscribed:
    """A subscription."""
    return door.log.Subscribe(pb.SubscribeRequest(partitions=partitions, **options))  # type: ignore[arg-type]


async def take(call: Subscribed) -> pb.SubscribeResponse:
    """The next response."""
    response = await call.read()
    assert isinstance(response, pb.SubscribeResponse)
    return response


async def publish(door: Door, *values: bytes, partition: int = 0, timestamp_ms: int = 1_000) -> None:
    """One batch, straight into the broker."""
    batch = make_batch(*values, timestamp_ms=timestamp_ms)
    (outcome,) = await door.broker.publish([(TopicPartition("t", partition), batch)], acks=Acks.ALL, timeout_s=1)
    assert isinstance(outcome, Published)


async def next_records(call: Subscribed) -> list[Record]:
    """The records of the next response."""
    response = await take(call)
    return decode(response.record_batches)


@pytest.mark.parametrize(
    ("start", "first"),
    [
        (BEGINNING, 0),
        (r.Position(edge=r.EDGE_UNSPECIFIED), 0),
        (r.Position(offset=2), 2),
        (r.Position(timestamp_ms=3_000), 2),
        (END, 4),
        (r.Position(timestamp_ms=9_000), 4),
    ],
)
async def test_it_begins_where_it_is_told(start: r.Position, first: int) -> None:
    """Beginning, end, an offset, a time, and a time that no record has reached yet."""
    async with open_door() as door:
        for n in range(4):
            await publish(door, b"%d" % n, timestamp_ms=1_000 + 1_000 * n)
        call = follow(door, one(start))
        await call.initial_metadata()
        await publish(door, b"4", timestamp_ms=9_500)
        response = await take(call)
        assert decode(response.record_batches)[0].offset == first
        call.cancel()


async def test_a_record_that_comes_while_its_time_is_looked_up_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting from a time takes more than one question; whatever of that time arrives between two of them is not passed over."""
    async with open_door() as door:
        answer = door.broker.list_offset

        async def and_one_comes(tp: TopicPartition, timestamp_ms: int, *, direct: bool) -> ListedOffset:
            listed = await answer(tp, timestamp_ms, direct=direct)
            await publish(door, b"in between", timestamp_ms=9_000)
            return listed

        monkeypatch.setattr(door.broker, "list_offset", and_one_comes)
        await publish(door, b"before")
        call = follow(door, one(r.Position(timestamp_ms=9_000)))
        await call.initial_metadata()
        await publish(door, b"after", timestamp_ms=9_500)
        assert (await next_records(call))[0].offset == 1
        call.cancel()


async def test_initial_metadata_is_the_sign_that_positions_are_known() -> None:
    """What is published after it is seen from EDGE_END on, though nothing was read yet."""
    async with open_door() as door:
        call = follow(door, one(END))
        await call.initial_metadata()
        await publish(door, b"a")
        response = await take(call)
        assert (response.topic, response.partition, response.next_offset, response.high_watermark) == ("t", 0, 1, 1)
        call.cancel()


async def test_it_follows_the_tail_without_spinning() -> None:
    """One waiting fetch for each partition, and one more after each batch."""
    async with open_door() as door:
        call = follow(door, one(END))
        await call.initial_metadata()
        for n in range(3):
            await until(lambda n=n: len(door.broker.calls) == 2 * n + 1)  # type: ignore[misc]
            await publish(door, b"%d" % n)
            assert [x.value for x in await next_records(call)] == [b"%d" % n]
        await until(lambda: len(door.broker.calls) == 7)
        assert [name for name, _ in door.broker.calls] == ["fetch"] + ["publish", "fetch"] * 3
        call.cancel()


async def test_it_resumes_where_another_ended() -> None:
    """A second subscription from ``next_offset`` on sees the rest, each record once."""
    async with open_door() as door:
        for n in range(6):
            await publish(door, b"%d" % n)
        first = follow(door, one(BEGINNING), max_bytes=200)
        response = await take(first)
        seen = decode(response.record_batches)
        first.cancel()
        second = follow(door, one(r.Position(offset=response.next_offset)))
        seen += await next_records(second)
        second.cancel()
    assert [x.value for x in seen] == [b"%d" % n for n in range(6)]


@pytest.mark.parametrize(
    "error", [NotLeaderError("moved"), LeaderNotAvailableError("election"), UnavailableError("later")], ids=lambda e: e.reason
)
async def test_what_passes_by_itself_is_waited_for(monkeypatch: pytest.MonkeyPatch, error: RaftlogError) -> None:
    """An election in mid-stream is seen by the subscriber as a pause."""
    monkeypatch.setattr(subscribe, "RETRY_PAUSE_S_MIN", 0.001)
    async with open_door() as door:
        door.broker.failures["list_offset"] += [error]
        door.broker.failures["fetch"] += [error, error]
        await publish(door, b"a")
        call = follow(door, one(BEGINNING))
        assert [x.value for x in await next_records(call)] == [b"a"]
        call.cancel()


@pytest.mark.parametrize(
    ("error", "direct", "code"),
    [
        (OffsetOutOfRangeError("gone", earliest=5, latest=9), False, grpc.StatusCode.OUT_OF_RANGE),
        (DataLossError("damaged"), False, grpc.StatusCode.DATA_LOSS),
        (NotLeaderError("not here"), True, grpc.StatusCode.FAILED_PRECONDITION),
        (LeaderNotAvailableError("election"), True, grpc.StatusCode.UNAVAILABLE),
    ],
    ids=lambda x: getattr(x, "reason", str(x)),
)
async def test_what_does_not_pass_ends_the_call(error: RaftlogError, direct: bool, code: grpc.StatusCode) -> None:
    """Where going on cannot help, or the client routes by itself, the error is the call's."""
    async with open_door() as door:
        door.broker.failures["fetch"].append(error)
        call = follow(door, one(BEGINNING), one(BEGINNING, 1), direct=direct)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await take(call)
    assert caught.value.code() is code
    assert told_by_call(caught.value).reason == error.reason


async def test_an_unknown_topic_ends_the_call() -> None:
    """NOT_FOUND, at once."""
    async with open_door() as door:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await take(follow(door, one(BEGINNING, topic="nope")))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_busy_partition_does_not_starve_the_others() -> None:
    """With a backlog in one partition, the other's record is among the first responses."""
    async with open_door() as door:
        for n in range(200):
            await publish(door, b"%d" % n)
        await publish(door, b"x", partition=1)
        call = follow(door, one(BEGINNING), one(BEGINNING, 1), max_bytes=100)
        seen = [(await take(call)).partition for _ in range(6)]
        assert 1 in seen
        call.cancel()


async def test_a_slow_reader_stops_the_fetching() -> None:
    """With gRPC's window full, fetches stop: memory does not grow with the backlog."""
    async with open_door() as door:
        value = b"v" * 100_000
        for _ in range(200):
            await publish(door, value)
        door.broker.calls.clear()
        call = follow(door, one(BEGINNING), max_bytes=100_000)
        await until(lambda: len(door.broker.calls) > 1)
        before = -1
        while len(door.broker.calls) != before:  # until it stands still over many round trips
            before = len(door.broker.calls)
            for _ in range(20):
                await door.log.InitProducer(pb.InitProducerRequest())
        assert before < 150
        total = 0
        while total < 200:
            total += len(await next_records(call))
        call.cancel()


async def test_many_partitions_share_the_memory_of_a_subscription() -> None:
    """Fetches ask for less each, the more there are; never for less than the least share."""
    async with open_door() as door:
        door.broker.add_topic("t", 1_000)
        call = follow(door, *(one(r.Position(offset=0), p) for p in range(1_000)), max_bytes=1 << 24)
        await until(lambda: len(door.broker.calls) == 1_000)
        assert {args[2] for _, args in door.broker.calls} == {subscribe.SUBSCRIBE_SHARE_BYTES_MIN}  # type: ignore[index]
        call.cancel()


async def test_records_come_decoded_from_the_offset_on() -> None:
    """FORM_RECORDS leaves out what lies in the first batch before the position, and keeps every field."""
    async with open_door() as door:
        await publish(door, b"a", b"b", b"c")
        call = follow(door, one(r.Position(offset=1)), form=pb.FORM_RECORDS)
        response = await take(call)
        assert [(x.offset, x.timestamp_ms, x.value, x.HasField("key")) for x in response.records] == [
            (1, 1_001, b"b", False),
            (2, 1_002, b"c", False),
        ]
        assert (response.next_offset, response.record_batches) == (3, b"")
        call.cancel()


async def test_decoded_records_are_split_over_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each response says where to go on after it; a batch decoded beside the loop is the same."""
    monkeypatch.setattr(subscribe, "RECORDS_PER_RESPONSE", 2)
    monkeypatch.setattr(subscribe, "DECODE_INLINE_BYTES_MAX", 0)
    async with open_door() as door:
        await publish(door, *(b"%d" % n for n in range(5)))
        call = follow(door, one(BEGINNING), form=pb.FORM_RECORDS)
        responses = [await take(call) for _ in range(3)]
        assert [[x.offset for x in response.records] for response in responses] == [[0, 1], [2, 3], [4]]
        assert [response.next_offset for response in responses] == [2, 4, 5]
        call.cancel()


async def test_a_stored_batch_that_cannot_be_decoded_is_data_loss() -> None:
    """The client must not take it for its own bad request."""
    async with open_door() as door:
        await publish(door, b"a")
        log = door.broker.logs[TopicPartition("t", 0)]
        log.batches[0] = (0, log.batches[0][1][:-1] + b"?")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await take(follow(door, one(BEGINNING), form=pb.FORM_RECORDS))
    assert told_by_call(caught.value).reason == "DATA_LOSS"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.SubscribeRequest(), "partitions"),
        (pb.SubscribeRequest(partitions=[one(BEGINNING)] * 1_001), "1001 items"),
        (pb.SubscribeRequest(partitions=[one(BEGINNING, topic="")]), "partitions[0].topic"),
        (pb.SubscribeRequest(partitions=[pb.SubscribePartition(topic="t")]), "partitions[0].from"),
        (pb.SubscribeRequest(partitions=[one(r.Position(offset=-1))]), "partitions[0].from.offset"),
        (pb.SubscribeRequest(partitions=[one(r.Position(timestamp_ms=-2))]), "partitions[0].from.timestamp_ms"),
        (pb.SubscribeRequest(partitions=[one(r.Position(edge=7))]), "partitions[0].from.edge"),  # type: ignore[arg-type]
        (pb.SubscribeRequest(partitions=[one(BEGINNING)], form=7), "form"),  # type: ignore[arg-type]
    ],
)
async def test_a_wrong_request_is_refused_by_its_fields_name(request_: pb.SubscribeRequest, field: str) -> None:
    """INVALID_ARGUMENT, with the name of what to change."""
    async with open_door() as door:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await door.log.Subscribe(request_).read()
    assert told_by_call(caught.value).reason == "INVALID_REQUEST"
    assert field in told_by_call(caught.value).message


async def test_a_stopping_node_ends_its_subscriptions() -> None:
    """SHUTTING_DOWN at once, long before the grace is over."""
    async with open_door() as door:
        call = follow(door, one(END))
        await call.initial_metadata()
        async with asyncio.timeout(10):
            await door.gateway.stop(60.0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await take(call)
    assert told_by_call(caught.value).reason == "SHUTTING_DOWN"


async def test_a_client_that_leaves_ends_its_fetches() -> None:
    """Nothing waits at the broker for it."""
    async with open_door() as door:
        call = follow(door, one(END))
        await until(lambda: bool(door.broker.calls))
        call.cancel()
        await door.gateway._make.wait_until_idle()
