"""PublishStream: order, independence, packing, backpressure, the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc
import pytest

from raftlog.errors import OverloadedError
from raftlog.gateway import gathering, publish_stream
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1.log_service_pb2 import (
    InitProducerRequest,
    PublishRequest,
    PublishStreamAck,
    PublishStreamRequest,
    PublishStreamResponse,
)
from raftlog.pb.raftlog.v1.records_pb2 import NewBatch, NewRecord
from raftlog.records.batch import decode
from tests.gateway.fake_broker import FakeBroker
from tests.gateway.helpers import Door, new_batch, open_door, told, told_by_call, until

Stream: TypeAlias = "grpc.aio.StreamStreamCall[PublishStreamRequest, PublishStreamResponse]"


def request(correlation_id: int, *batches: NewBatch) -> PublishStreamRequest:
    """One message of the stream."""
    return PublishStreamRequest(correlation_id=correlation_id, publish=PublishRequest(batches=batches))


async def acks(stream: Stream) -> AsyncIterator[PublishStreamAck]:
    """The acks as they come, whatever their packing."""
    async for response in stream:
        for ack in response.acks:
            yield ack


async def send(door: Door, *messages: PublishStreamRequest) -> list[PublishStreamAck]:
    """All acks of a stream of these messages."""
    stream = door.log.PublishStream()
    for message in messages:
        await stream.write(message)
    await stream.done_writing()
    return [ack async for ack in acks(stream)]


async def test_order_of_requests_is_order_of_offsets() -> None:
    """Three hundred requests written without waiting get offsets in their order, and an ack each."""
    async with open_door() as door:
        got = await send(door, *(request(n, new_batch(b"%d" % n)) for n in range(300)))
        values = [record.value for _, data in door.broker.logs[TopicPartition("t", 0)].batches for record in decode(data)]
    assert values == [b"%d" % n for n in range(300)]
    assert {ack.correlation_id: ack.results[0].offset for ack in got} == {n: n for n in range(300)}


async def test_requests_do_not_wait_for_each_others_acks() -> None:
    """All of them are at the broker before the first is answered; then their acks share messages."""
    async with open_door() as door:
        door.broker.gate.clear()
        stream = door.log.PublishStream()
        for n in range(50):
            await stream.write(request(n, new_batch(b"v")))
        await until(lambda: door.broker.batches_waiting == 50)
        door.broker.gate.set()
        await stream.done_writing()
        responses = [response async for response in stream]
    assert sum(len(response.acks) for response in responses) == 50
    assert len(responses) < 10


class SlowFirst(FakeBroker):
    """Answers the first request only once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer_first = asyncio.Event()

    async def publish(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        outcomes = await super().publish(*args, **kwargs)
        if outcomes[0].base_offset == 0:  # type: ignore[union-attr]
            await self.may_answer_first.wait()
        return outcomes


async def test_a_slow_request_does_not_hold_back_the_acks_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Acks come in the order of completion."""
    monkeypatch.setattr("tests.gateway.helpers.FakeBroker", SlowFirst)
    async with open_door() as door:
        assert isinstance(door.broker, SlowFirst)
        stream = door.log.PublishStream()
        incoming = acks(stream)
        for n in (1, 2):
            await stream.write(request(n, new_batch(b"v")))
        assert (await anext(incoming)).correlation_id == 2
        door.broker.may_answer_first.set()
        assert (await anext(incoming)).correlation_id == 1
        await stream.done_writing()


async def test_a_request_that_fails_fails_alone() -> None:
    """The broker's refusal, a fault of ours and a request without sense are told in acks; the stream goes on."""
    async with open_door() as door:
        door.broker.failures["publish"] += [OverloadedError("full"), RuntimeError("a bug")]
        stream = door.log.PublishStream()
        incoming, got = acks(stream), []
        for message in (
            request(1, new_batch(b"a"), new_batch(b"b")),
            request(2, new_batch(b"a")),
            request(3),
            request(4, new_batch(b"a", topic="nope")),
            PublishStreamRequest(correlation_id=5, publish=PublishRequest(records=[NewRecord(topic="t", partition=0)])),
        ):
            await stream.write(message)
            got.append(await anext(incoming))
    by_id = {ack.correlation_id: [told(x.error).reason if x.HasField("error") else "" for x in ack.results] for ack in got}
    assert by_id == {
        1: ["OVERLOADED", "OVERLOADED"],
        2: ["INTERNAL"],
        3: ["INVALID_REQUEST"],
        4: ["UNKNOWN_TOPIC_OR_PARTITION"],
        5: [""],
    }


@pytest.mark.parametrize(
    ("limit", "value", "size"), [("PUBLISH_IN_FLIGHT_MAX", 4, 10), ("PUBLISH_IN_FLIGHT_BYTES_MAX", 40_000, 10_000)]
)
async def test_what_is_in_flight_is_bounded(monkeypatch: pytest.MonkeyPatch, limit: str, value: int, size: int) -> None:
    """At the limit the stream is not read; it goes on once acks are written, and nothing is lost."""
    monkeypatch.setattr(publish_stream, limit, value)
    monkeypatch.setattr(gathering, "GATHERED_BYTES", 0)  # so that what was read is at the broker at once
    async with open_door() as door:
        door.broker.gate.clear()
        sending = asyncio.gather(send(door, *(request(n, new_batch(b"v" * size)) for n in range(20))))
        await until(lambda: door.broker.batches_waiting == 4)
        await door.log.InitProducer(InitProducerRequest())  # a round trip, in which a fifth could have come
        assert door.broker.batches_waiting == 4
        door.broker.gate.set()
        (got,) = await sending
    assert sorted(ack.correlation_id for ack in got) == list(range(20))


async def test_a_response_holds_no_more_results_than_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    """Acks that are ready together are still split over messages that a client can take."""
    monkeypatch.setattr(publish_stream, "RESULTS_PER_RESPONSE", 3)
    async with open_door() as door:
        door.broker.gate.clear()
        stream = door.log.PublishStream()
        for n in range(9):
            await stream.write(request(n, new_batch(b"v"), new_batch(b"w")))
        await until(lambda: door.broker.batches_waiting == 18)
        door.broker.gate.set()
        await stream.done_writing()
        sizes = [len(response.acks) async for response in stream]
    assert sum(sizes) == 9
    assert max(sizes) <= 2


async def test_a_stopping_node_answers_what_it_has_read_and_ends_the_stream() -> None:
    """The ack of what is in flight comes first, then a response which says that no more is read, then SHUTTING_DOWN."""
    async with open_door() as door:
        door.broker.gate.clear()
        stream = door.log.PublishStream()
        await stream.write(request(7, new_batch(b"v")))
        await until(lambda: door.broker.publishing == 1)
        stopping = asyncio.gather(door.gateway.stop(10.0))
        await until(door.gateway._stopping.is_set)
        door.broker.gate.set()
        answer, last = await stream.read(), await stream.read()
        assert isinstance(answer, PublishStreamResponse)
        assert isinstance(last, PublishStreamResponse)
        assert [ack.correlation_id for ack in answer.acks] == [7]
        assert (answer.closing, last.closing, len(last.acks)) == (False, True, 0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert told_by_call(caught.value).reason == "SHUTTING_DOWN"
        await stopping


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The requests that streams have brought, by their ids; those behind another one wait until that is answered."""
    ids: list[int] = []
    take = gathering.Gathering.take

    def noted(self: gathering.Gathering, request: gathering.Request) -> None:
        ids.append(request.correlation_id)
        take(self, request)

    monkeypatch.setattr(gathering, "GATHERED_S", 1_000.0)
    monkeypatch.setattr(gathering.Gathering, "take", noted)
    return ids


async def stalled(door: Door, taken: list[int], count: int) -> Stream:
    """A stream that has brought so many requests, the first of which is not answered before the broker's gate opens."""
    door.broker.gate.clear()
    stream = door.log.PublishStream()
    for n in range(count):
        await stream.write(request(n, new_batch(b"v")))
    await until(lambda: len(taken) == count)
    return stream


async def test_what_comes_while_a_call_is_under_way_shares_the_next_one(taken: list[int]) -> None:
    """An entry costs nearly the same for one batch as for many; each request has its own ack all the same, with its own place."""
    async with open_door() as door:
        stream = await stalled(door, taken, 50)
        assert door.broker.batches_waiting == 1
        door.broker.gate.set()
        await stream.done_writing()
        got = {ack.correlation_id: [result.offset for result in ack.results] async for ack in acks(stream)}
        assert [call for call, _ in door.broker.calls] == ["publish", "publish"]
    assert got == {n: [n] for n in range(50)}


async def test_a_call_of_several_requests_that_fails_is_told_to_each() -> None:
    """As many acks as requests, as many results as batches."""
    async with open_door() as door:
        door.broker.gate.clear()
        stream = door.log.PublishStream()
        await stream.write(request(0, new_batch(b"v")))
        await until(lambda: door.broker.publishing == 1)
        door.broker.failures["publish"] += [OverloadedError("full")] * 50  # whatever the number of calls
        for n in range(1, 50):
            await stream.write(request(n, *[new_batch(b"v")] * (1 + n % 2)))
        await until(lambda: len(door.broker.failures["publish"]) < 50)
        door.broker.gate.set()
        await stream.done_writing()
        got = {
            ack.correlation_id: [told(x.error).reason for x in ack.results if x.HasField("error")] async for ack in acks(stream)
        }
    assert got == {0: []} | {n: ["OVERLOADED"] * (1 + n % 2) for n in range(1, 50)}


async def test_a_stopping_node_answers_what_it_has_gathered(taken: list[int]) -> None:
    """What was read is published, though nothing of it was when the node was told to stop."""
    async with open_door() as door:
        stream = await stalled(door, taken, 10)
        assert door.broker.batches_waiting == 1
        stopping = asyncio.gather(door.gateway.stop(10.0))
        await until(door.gateway._stopping.is_set)
        door.broker.gate.set()
        got, closing = [], False
        while not closing:
            response = await stream.read()
            assert isinstance(response, PublishStreamResponse)
            got += [ack.correlation_id for ack in response.acks]
            closing = response.closing
        assert sorted(got) == list(range(10))
        await stopping


async def test_what_a_client_that_leaves_had_gathered_is_not_published(taken: list[int]) -> None:
    """Nobody waits for it; and the stream ends all the same."""
    async with open_door() as door:
        stream = await stalled(door, taken, 10)
        stream.cancel()
        await door.gateway._make.wait_until_idle()
        assert [call for call, _ in door.broker.calls] == ["publish"]


async def test_a_client_that_leaves_ends_its_stream() -> None:
    """Its tasks end with it."""
    async with open_door() as door:
        door.broker.gate.clear()
        stream = door.log.PublishStream()
        await stream.write(request(1, new_batch(b"v")))
        await until(lambda: door.broker.publishing == 1)
        stream.cancel()
        await door.gateway._make.wait_until_idle()
