"""Requests that mean harm or make no sense, and calls that wait when the node stops: typed errors, no memory, no time."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import grpc
import pytest
from crc32c import crc32c

from raftlog.core.clock import SystemClock
from raftlog.gateway.port import NoMetrics
from raftlog.gateway.publish import Publisher
from raftlog.gateway.publish_stream import FAILED_RESULT_BYTES, PUBLISH_IN_FLIGHT_BYTES_MAX
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1 import group_service_pb2 as group_pb
from raftlog.pb.raftlog.v1 import log_service_pb2 as pb
from raftlog.pb.raftlog.v1.records_pb2 import NewBatch, NewRecord
from tests.gateway.fake_broker import FakeBroker
from tests.gateway.helpers import Door, make_batch, open_door, told_by_call, until
from tests.gateway.test_group_session import crowd


def impossible_times() -> bytes:
    """A batch that passes every check, and whose second record is younger than any record can be."""
    data = bytearray(make_batch(b"one", b"two", timestamp_ms=0))
    struct.pack_into(">qq", data, 27, (1 << 63) - 1, SystemClock().wall_ms())
    struct.pack_into(">I", data, 17, crc32c(bytes(data[21:])))
    return bytes(data)


async def test_a_batch_that_no_record_can_be_of_is_data_loss_and_says_where_to_go_on() -> None:
    """To its readers as records: they can step over it. Those of batches take it apart themselves."""
    async with open_door() as door:
        await door.log.Publish(pb.PublishRequest(batches=[NewBatch(topic="t", partition=1, record_batch=impossible_times())]))
        partition = pb.SubscribePartition(topic="t", partition=1)
        getattr(partition, "from").offset = 0
        call = door.log.Subscribe(pb.SubscribeRequest(partitions=[partition], form=pb.FORM_RECORDS))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        said = told_by_call(caught.value)
        assert said.reason == "DATA_LOSS"
        assert "batch of t-1 with offsets 0 to 1 cannot be decoded" in said.message
        assert said.message.endswith("go on behind it, from 2")


@pytest.mark.parametrize("method", ["LogService/Fetch", "LogService/Publish", "LogService/Subscribe", "TopicService/CreateTopic"])
async def test_bytes_that_are_no_message_are_an_invalid_request(method: str) -> None:
    """Whatever the kind of the call; and nothing of it is logged as a fault of ours."""
    async with open_door() as door:
        path = f"/raftlog.v1.{method}"
        stream = method.endswith("Subscribe")
        make: Any = door.channel.unary_stream if stream else door.channel.unary_unary
        call = make(path)(b"\xff\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await (call.read() if stream else call)
        assert told_by_call(caught.value).reason == "INVALID_REQUEST"


async def test_bytes_that_are_no_message_end_a_stream_as_an_invalid_request() -> None:
    """Of publishes, and of a session."""
    async with open_door() as door:
        for method in ("LogService/PublishStream", "GroupService/Session"):
            call: Any = door.channel.stream_stream(f"/raftlog.v1.{method}")()
            await call.write(b"\xff\xff\xff")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert told_by_call(caught.value).reason == "INVALID_REQUEST"


async def test_many_records_that_fail_alike_cost_one_error() -> None:
    """And count for what they take until their ack is written."""
    broker = FakeBroker()
    publisher = Publisher(broker, SystemClock(), NoMetrics())
    request = pb.PublishRequest(records=[NewRecord(topic="nowhere")] * 3_000)
    [results] = await publisher.publish(publisher.prepare(request))
    assert len(results) == 3_000
    assert {result.error.message for result in results} == {results[0].error.message}
    assert results[0].HasField("error")


async def test_a_reader_of_no_acks_stops_itself_by_its_errors_too() -> None:
    """Small requests whose acks are large: the stream is not read any more when they take as much as requests may."""
    async with open_door() as door:
        call: Any = door.log.PublishStream()
        count, per_request = 0, 2_000
        request = pb.PublishStreamRequest(publish=pb.PublishRequest(records=[NewRecord(topic="nowhere")] * per_request))
        limit = PUBLISH_IN_FLIGHT_BYTES_MAX // (FAILED_RESULT_BYTES * per_request)
        try:
            async with asyncio.timeout(3.0):
                while count < 100 * limit:
                    count += 1
                    request.correlation_id = count
                    await call.write(request)
        except TimeoutError:
            pass
        assert count < 100 * limit
        call.cancel()


async def ends_soon(door: Door, call: Any) -> grpc.aio.AioRpcError:
    """How a waiting call ends when the node stops, which does not wait for it."""
    async with asyncio.timeout(3.0):
        await door.gateway.stop(30.0)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_fetch_that_waits_ends_when_the_node_stops() -> None:
    """At once, and says why: another node goes on."""
    async with open_door() as door:
        request = pb.FetchRequest(partitions=[pb.FetchPartition(topic="t", partition=0)], max_wait_ms=30_000)
        call = door.log.Fetch(request)
        waiting = asyncio.ensure_future(call)  # noqa: TID251 - of the client's side
        await until(lambda: door.broker.fetches_waiting == 1)
        assert told_by_call(await ends_soon(door, waiting)).reason == "SHUTTING_DOWN"
        assert door.broker.fetches_waiting == 0


async def test_a_session_that_has_not_begun_ends_when_the_node_stops() -> None:
    """As those that have."""
    async with open_door() as door:
        call: Any = door.groups.Session()
        await call.wait_for_connection()
        await asyncio.sleep(0.05)
        assert told_by_call(await ends_soon(door, call.read())).reason == "SHUTTING_DOWN"


async def test_outcomes_of_commits_are_in_the_order_of_the_request() -> None:
    """Those that were refused before they were sent among them."""
    async with crowd() as those:
        member = those.add()
        await those.settled(3)
        offsets = [group_pb.NewOffset(topic="t", partition=partition, offset=5) for partition in (0, 9, 1)]
        await member._write(group_pb.SessionRequest(commit=group_pb.CommitSession(commit_id=77, offsets=offsets)))
        await until(lambda: 77 in member.commits)
        assert [(one.partition, one.HasField("error")) for one in member.commits[77]] == [(0, False), (9, True), (1, False)]


async def test_describing_a_group_that_is_not_there_makes_no_topic_for_it() -> None:
    """To look for its coordinator would."""
    async with open_door() as door:
        described = await door.groups.DescribeGroup(group_pb.DescribeGroupRequest(group_id="nobody"))
        assert described.state == group_pb.GROUP_STATE_DEAD
        assert "find_coordinator" not in door.fake_groups.calls


async def test_a_pattern_that_matches_too_many_topics_ends_the_session() -> None:
    """To subscribe to some of them in silence would leave the rest unread."""
    async with crowd() as those:
        for number in range(1_001):
            those.door.broker.add_topic(f"many-{number:04}", 1)
        member = those.add(topics=[], topic_pattern="many-.*")
        await until(lambda: member.error is not None)
        assert member.error is not None
        assert told_by_call(member.error).reason == "INVALID_REQUEST"
        assert "matches 1001 topics" in str(member.error.details())
        assert TopicPartition("many-0000", 0) not in those.door.fake_groups.group("g").offsets
