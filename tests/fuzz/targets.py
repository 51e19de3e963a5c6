"""The decoders that face a socket: each takes bytes from a stranger and may do nothing but accept them or refuse them by name.

A target is a function of bytes: it returns, or it raises one of ``refusals``. To add one, write it here; its corpus is the
directory of its name below ``corpus``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

from google.protobuf.message import DecodeError

from raftlog.admin.http import parse_head
from raftlog.broker.calls import CallServer, DirectBroker
from raftlog.broker.port import Published
from raftlog.consensus.messages import MalformedMessageError, from_wire
from raftlog.core.clock import SystemClock
from raftlog.core.entry import decode as decode_entry
from raftlog.core.names import check_topic_name
from raftlog.errors import RaftlogError, UnavailableError
from raftlog.gateway.cluster_service import ClusterService
from raftlog.gateway.log_service import LogService
from raftlog.gateway.port import NoMetrics, describe_set_configs
from raftlog.gateway.publish_stream import read_request
from raftlog.gateway.topic_service import TopicService
from raftlog.kafka.connection import Closed
from raftlog.kafka.wire.primitives import MalformedRequestError
from raftlog.model import TopicInfo
from raftlog.pb.raftlog.internal.v1 import peer_pb2
from raftlog.pb.raftlog.v1 import cluster_service_pb2, log_service_pb2, topic_service_pb2
from raftlog.peers.frame import Frame, FrameDecoder, PeerProtocolError
from raftlog.peers.handshake import Handshake
from raftlog.records import batch
from tests.fuzz import kafka_targets
from tests.gateway.fake_broker import FakeBroker
from tests.gateway.fake_moves import FakeMoves

BATCH_BYTES_MAX: Final = 1 << 20
DECOMPRESSED_BYTES_MAX: Final = 8 << 20
"""Small, so that a bomb is one here, too."""


@dataclass(frozen=True, slots=True)
class Target:
    """A decoder: ``feed`` gives it bytes, ``refusals`` is how it may say no."""

    feed: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]

    def takes(self, data: bytes) -> bool:
        """Whether it accepted the bytes. Any other exception than a refusal goes on."""
        try:
            self.feed(data)
        except self.refusals:
            return False
        return True


def _frames(decoder: FrameDecoder, data: bytes) -> list[Frame]:
    frames, at = [], 0
    while True:
        while (frame := decoder.next_frame()) is not None:
            frames.append(frame)
        if at == len(data):
            return frames
        buffer = decoder.get_buffer()
        size = min(len(buffer), len(data) - at)
        buffer[:size] = data[at : at + size]
        decoder.received(size)
        at += size


def handshake(data: bytes) -> None:
    """What a stranger sends first: frames of a handshake, on the side that was dialled."""
    own = peer_pb2.Hello(cluster_id="c", node_id=1, boot_number=1, boot_nonce="n", voters=(1, 2))
    shaking = Handshake(own, dialled=None)
    shaking.begin()
    for frame in _frames(FrameDecoder(), data):
        shaking.received(frame.envelope)
        shaking.decided(None)


def peer_frames(data: bytes) -> None:
    """What an accepted peer sends: frames, the Raft messages in them, and their entries."""
    decoder = FrameDecoder()
    decoder.accept()
    for frame in _frames(decoder, data):
        at = 0
        for wire in frame.envelope.turn.raft:
            count = wire.append_entries.entry_count if wire.HasField("append_entries") else 0
            from_wire(wire, frame.payloads[at : at + count])
            at += count


class _TakesAll:
    """A broker that takes every batch, and has nothing."""

    async def publish(self, batches: list[object], **_: object) -> list[Published]:
        return [Published(base_offset=0) for _ in batches]

    def __getattr__(self, name: str) -> Any:
        async def unavailable(*_: object, **__: object) -> None:
            raise UnavailableError(f"{name}: there is nothing here")

        return unavailable


CALLS: Final = ("publish", "fetch", "list_offset", "partition_status", "propose", "nonsense")


def peer_call(data: bytes) -> None:
    """A call of a peer: the first byte chooses the method, the second says how many bytes at the end are a payload."""
    method, tail = CALLS[data[0] % len(CALLS)] if data else "", data[1] if len(data) > 1 else 0
    body, payload = (data[2:-tail], data[-tail:]) if tail else (data[2:], b"")
    asyncio.run(CallServer(cast(DirectBroker, _TakesAll())).answer(method, body, [payload] if tail else []))


def entry(data: bytes) -> None:
    """An entry of the Raft log, as it comes from a leader or a disk."""
    decode_entry(data)


def record_batch(data: bytes) -> None:
    """A record batch, checked as at the door, then read with its records."""
    batch.check(data, size_max=BATCH_BYTES_MAX)
    batch.decode(data, decompressed_bytes_max=DECOMPRESSED_BYTES_MAX)


def records_in_a_batch(data: bytes) -> None:
    """Batches one behind another as a client reads them, whatever their CRC says: what is inside is a stranger's, too."""
    batch.decode(data, decompressed_bytes_max=DECOMPRESSED_BYTES_MAX)


class _Strict(FakeBroker):
    """As the real one with names."""

    async def create_topic(self, name: str, **wishes: Any) -> TopicInfo:
        check_topic_name(name)
        return await super().create_topic(name, **wishes)


def grpc_request(data: bytes) -> None:
    """A gRPC request: the first byte chooses the call, the rest is its message."""
    broker, clock = _Strict(), SystemClock()
    broker.add_topic("t", 3)
    log = LogService(broker, clock, NoMetrics(), asyncio.Event())
    topics, cluster = TopicService(broker, describe_set_configs), ClusterService(broker, FakeMoves())
    calls: list[tuple[Any, Any]] = [
        (log_service_pb2.PublishRequest.FromString, log.publish),
        (lambda raw: read_request(raw)[0].publish, log.publish),
        (log_service_pb2.FetchRequest.FromString, log.fetch),
        (log_service_pb2.ListOffsetsRequest.FromString, log.list_offsets),
        (log_service_pb2.InitProducerRequest.FromString, log.init_producer),
        (topic_service_pb2.CreateTopicRequest.FromString, topics.create_topic),
        (topic_service_pb2.ListTopicsRequest.FromString, topics.list_topics),
        (topic_service_pb2.DescribeTopicRequest.FromString, topics.describe_topic),
        (topic_service_pb2.AlterTopicRequest.FromString, topics.alter_topic),
        (topic_service_pb2.DeleteTopicRequest.FromString, topics.delete_topic),
        (cluster_service_pb2.DescribeReplicasRequest.FromString, cluster.describe_replicas),
        (cluster_service_pb2.MovePartitionRequest.FromString, cluster.move_partition),
        (cluster_service_pb2.DrainNodeRequest.FromString, cluster.drain_node),
    ]
    parse, call = calls[data[0] % len(calls)] if data else calls[0]
    asyncio.run(_within(call(parse(data[1:]))))


async def _within(call: Any) -> None:
    try:
        async with asyncio.timeout(0):  # what it waits for is nothing that bytes decide
            await call
    except TimeoutError:
        return


def admin_http(data: bytes) -> None:
    """The head of an HTTP request to the admin port."""
    if parse_head(data) is None:
        raise ValueError("400")


TARGETS: Final[dict[str, Target]] = {
    "handshake": Target(handshake, (PeerProtocolError,)),
    "peer-frames": Target(peer_frames, (PeerProtocolError, MalformedMessageError)),
    "peer-call": Target(peer_call, (RaftlogError,)),
    "entry": Target(entry, (RaftlogError,)),
    "record-batch": Target(record_batch, (RaftlogError,)),
    "records-in-a-batch": Target(records_in_a_batch, (RaftlogError,)),
    "grpc-request": Target(grpc_request, (RaftlogError, DecodeError)),
    "admin-http": Target(admin_http, (ValueError,)),
    "kafka-frames": Target(kafka_targets.frames, (MalformedRequestError,)),
    "kafka-request": Target(kafka_targets.request, (MalformedRequestError, Closed)),
    "kafka-connection": Target(kafka_targets.connection, (kafka_targets.RefusedError,)),
    "kafka-batch": Target(kafka_targets.batch, (kafka_targets.RefusedError,)),
    "member-metadata": Target(kafka_targets.member_metadata, (RaftlogError,)),
}
"""By the name of its corpus."""
