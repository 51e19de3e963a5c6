"""A gateway over the fake broker with a channel to it, batches, and what an error says on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from raftlog.core.clock import SystemClock
from raftlog.gateway.port import GatewayMetrics
from raftlog.gateway.server import Gateway, GatewayOptions
from raftlog.pb.raftlog.v1.cluster_service_pb2_grpc import ClusterServiceStub
from raftlog.pb.raftlog.v1.group_service_pb2_grpc import GroupServiceStub
from raftlog.pb.raftlog.v1.log_service_pb2_grpc import LogServiceStub
from raftlog.pb.raftlog.v1.records_pb2 import LeaderHint, NewBatch
from raftlog.pb.raftlog.v1.topic_service_pb2_grpc import TopicServiceStub
from raftlog.records.batch import BatchBuilder
from tests.gateway.fake_broker import FakeBroker
from tests.gateway.fake_groups import FakeGroups
from tests.gateway.fake_moves import FakeMoves

TIMEOUT_S = 20.0
"""Ends a call that hangs; nothing here takes a second."""


class Door:
    """The fake broker, the gateway in front of it, and stubs of its services."""

    def __init__(
        self, broker: FakeBroker, fake_groups: FakeGroups, fake_moves: FakeMoves, gateway: Gateway, channel: grpc.aio.Channel
    ) -> None:
        self.broker = broker
        self.fake_groups = fake_groups
        self.fake_moves = fake_moves
        self.gateway = gateway
        self.channel = channel
        self.log = LogServiceStub(channel)
        self.topics = TopicServiceStub(channel)
        self.cluster = ClusterServiceStub(channel)
        self.groups = GroupServiceStub(channel)


@asynccontextmanager
async def open_door(options: GatewayOptions | None = None, metrics: GatewayMetrics | None = None) -> AsyncIterator[Door]:
    """A started gateway with topic ``t`` of three partitions, and a channel to it."""
    broker = FakeBroker()
    broker.add_topic("t", 3)
    groups, moves = FakeGroups(), FakeMoves()
    gateway = Gateway(broker, groups, moves, options=options or GatewayOptions(), clock=SystemClock(), metrics=metrics)
    await gateway.start()
    try:
        async with grpc.aio.insecure_channel(gateway.address) as channel:
            yield Door(broker, groups, moves, gateway, channel)
    finally:
        await gateway.stop(0)


def make_batch(*values: bytes, timestamp_ms: int = 1_000) -> bytes:
    """A record batch of these values; record n is n milliseconds younger than the first."""
    builder = BatchBuilder(size_bytes_max=1 << 20)
    for delta, value in enumerate(values):
        builder.append(None, value, timestamp_ms=timestamp_ms + delta)
    return builder.build()


def new_batch(*values: bytes, partition: int = 0, topic: str = "t") -> NewBatch:
    """The same for a publish request."""
    return NewBatch(topic=topic, partition=partition, record_batch=make_batch(*values))


@dataclass(frozen=True)
class Told:
    """What a ``google.rpc.Status`` of ours says."""

    code: int
    message: str
    reason: str
    metadata: dict[str, str]
    hint: LeaderHint | None
    retry_ms: int | None


def told(status: Status) -> Told:
    """Take a status apart; its first detail is an ErrorInfo of our domain."""
    info, hint, retry_ms = ErrorInfo(), None, None
    assert status.details[0].Unpack(info)
    assert info.domain == "raftlog"
    for detail in status.details[1:]:
        if detail.Is(LeaderHint.DESCRIPTOR):
            hint = LeaderHint()
            detail.Unpack(hint)
        else:
            retry = RetryInfo()
            assert detail.Unpack(retry)
            retry_ms = retry.retry_delay.ToMilliseconds()
    return Told(status.code, status.message, info.reason, dict(info.metadata), hint, retry_ms)


def told_by_call(error: grpc.aio.AioRpcError) -> Told:
    """What a failed call says in its trailing metadata, which must agree with its status."""
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    status = Status.FromString(details)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    return told(status)


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop turns until the condition holds."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():
            await asyncio.sleep(0.001)
