"""A cluster of several gRPC servers in one process over one truth in memory: leaders, epochs, producers, and faults on demand."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from raftlog.errors import (
    InvalidRecordError,
    LeaderHint,
    LeaderNotAvailableError,
    NotLeaderError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceError,
    RaftlogError,
    TopicExistsError,
    UnknownTopicOrPartitionError,
)
from raftlog.gateway.status import DETAILS_KEY, to_status
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1 import cluster_service_pb2 as cluster_pb
from raftlog.pb.raftlog.v1 import log_service_pb2 as log_pb
from raftlog.pb.raftlog.v1 import records_pb2
from raftlog.pb.raftlog.v1 import topic_service_pb2 as topic_pb
from raftlog.pb.raftlog.v1.cluster_service_pb2_grpc import ClusterServiceServicer, add_ClusterServiceServicer_to_server
from raftlog.pb.raftlog.v1.log_service_pb2_grpc import LogServiceServicer, add_LogServiceServicer_to_server
from raftlog.pb.raftlog.v1.records_pb2 import NewBatch, PublishResult
from raftlog.pb.raftlog.v1.topic_service_pb2_grpc import TopicServiceServicer, add_TopicServiceServicer_to_server
from raftlog.records.batch import Record, assign, check, decode, read_header

REMEMBERED = 5
"""Batches of a producer that a partition recognises."""

Fault = Callable[["FakeNode", "FakePartition", bytes], Awaitable[RaftlogError | None]]
"""Runs before a batch is looked at; an error refuses it. May change leaders, or wait."""


@dataclass
class FakePartition:
    """One partition's truth; ``leader`` is 0 during an election."""

    tp: TopicPartition
    leader: int
    epoch: int = 1
    size_max: int = 1_000_000
    log_start: int = 0
    batches: list[bytes] = field(default_factory=list)
    next_offset: int = 0
    producers: dict[int, deque[tuple[int, int, int]]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=REMEMBERED))
    )
    """By producer: (first sequence, next sequence, offset) of its last batches."""
    duplicates: int = 0
    deposed: bool = False
    """Its leader leads no longer, and everybody goes on naming it."""
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    def append(self, data: bytes) -> int:
        """Check, deduplicate and store a batch; its offset."""
        header = check(data, size_max=self.size_max)
        if header.producer_id >= 0:
            seen = self.producers[header.producer_id]
            following = header.base_sequence + header.record_count
            for first, after, offset in seen:
                if (first, after) == (header.base_sequence, following):
                    self.duplicates += 1
                    return offset
            expected = seen[-1][1] if seen else 0
            if header.base_sequence != expected:
                raise OutOfOrderSequenceError(f"sequence {header.base_sequence}, expected {expected}")
            seen.append((header.base_sequence, following, self.next_offset))
        offset = self.next_offset
        self.batches.append(b"".join(assign(data, base_offset=offset, leader_epoch=self.epoch)))
        self.next_offset += header.record_count
        self.grown.set()
        self.grown = asyncio.Event()
        return offset

    def read(self, offset: int, bytes_max: int) -> tuple[bytes, int]:
        """Whole batches from the one that holds ``offset`` on, and where to go on."""
        out: list[bytes] = []
        size, after = 0, offset
        for batch in self.batches:
            header = read_header(batch)
            if header.next_offset <= offset or (out and size + len(batch) > bytes_max):
                if out:
                    break
                continue
            out.append(batch)
            size += len(batch)
            after = header.next_offset
        return b"".join(out), after

    def records(self) -> list[Record]:
        """All that is stored."""
        return decode(b"".join(self.batches))


class FakeCluster:
    """Several nodes; use in an ``async with``."""

    def __init__(self, nodes: int = 3) -> None:
        self.partitions: dict[TopicPartition, FakePartition] = {}
        self.nodes = {number: FakeNode(self, number) for number in range(1, nodes + 1)}
        self.next_producer = 1_000
        self.fault: Fault | None = None
        self.hints = True
        self.messages: list[list[tuple[TopicPartition, bytes]]] = []
        self.subscriptions: list[log_pb.SubscribeRequest] = []
        self.unknown_lookups = 0
        self.wishes: list[object] = []
        self.moves: list[cluster_pb.Move] = []

    async def __aenter__(self) -> FakeCluster:
        for node in self.nodes.values():
            await node.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes.values():
            await node.stop()

    @property
    def brokers(self) -> list[str]:
        """All addresses."""
        return [node.address for node in self.nodes.values()]

    def topic(self, name: str, partitions: int = 1) -> list[FakePartition]:
        """Make a topic, or add partitions to it; leaders go round."""
        for number in range(partitions):
            tp = TopicPartition(name, number)
            if tp not in self.partitions:
                self.partitions[tp] = FakePartition(tp, leader=number % len(self.nodes) + 1)
        return [self.partitions[TopicPartition(name, number)] for number in range(partitions)]

    def elect(self, partition: FakePartition, node: int) -> None:
        """``node`` leads from now on; 0: nobody does."""
        partition.leader = node
        partition.epoch += 1
        for one in self.nodes.values():
            one.changed()

    def describe(self, name: str) -> topic_pb.Topic:
        mine = sorted((p for tp, p in self.partitions.items() if tp.topic == name), key=lambda p: p.tp.partition)
        if not mine:
            self.unknown_lookups += 1
            raise UnknownTopicOrPartitionError(f"no topic {name}")
        return topic_pb.Topic(
            name=name,
            topic_id=name.encode().hex(),
            replication_factor=len(self.nodes),
            partitions=[
                topic_pb.Partition(
                    partition=p.tp.partition,
                    leader=p.leader,
                    leader_address=self.nodes[p.leader].address if p.leader else "",
                    leader_epoch=p.epoch,
                    replicas=list(self.nodes),
                )
                for p in mine
            ],
        )


class FakeNode(LogServiceServicer, TopicServiceServicer, ClusterServiceServicer):
    """One server. ``hold`` stops it from answering publishes, as SIGSTOP would."""

    def __init__(self, cluster: FakeCluster, number: int) -> None:
        self.cluster = cluster
        self.number = number
        self.address = ""
        self.server: Any = None
        self.hold: asyncio.Event | None = None
        self.closing = False
        self.first_version = False
        """It knows no call that came later."""
        """It is about to stop: its publish streams read no more, and say so."""
        self.stale: dict[str, topic_pb.Topic] = {}
        """What it says of these topics, whatever has become of them."""
        self._changed = asyncio.Event()

    async def start(self) -> None:
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_LogServiceServicer_to_server(self, self.server)
        add_TopicServiceServicer_to_server(self, self.server)
        add_ClusterServiceServicer_to_server(self, self.server)
        port = self.server.add_insecure_port(self.address or "127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        await self.server.start()

    async def stop(self) -> None:
        """Die: streams break, nothing more is answered."""
        if self.server is not None:
            server, self.server = self.server, None
            await server.stop(None)

    def changed(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _led(self, topic: str, number: int, *, direct: bool = True) -> FakePartition:
        partition = self.cluster.partitions.get(TopicPartition(topic, number))
        if partition is None:
            raise UnknownTopicOrPartitionError(f"no partition {topic}-{number}")
        if partition.leader == 0 or partition.deposed:
            raise LeaderNotAvailableError("an election is under way")
        if partition.leader != self.number and direct:
            leader = self.cluster.nodes[partition.leader]
            hint = LeaderHint(node_id=leader.number, address=leader.address, term=partition.epoch)
            raise NotLeaderError("not here", hint=hint if self.cluster.hints else None)
        return partition

    # LogService

    async def PublishStream(self, request_iterator: AsyncIterator[log_pb.PublishStreamRequest], context: Any) -> Any:
        async for request in request_iterator:
            batches = request.publish.batches
            self.cluster.messages.append([(TopicPartition(b.topic, b.partition), b.record_batch) for b in batches])
            if self.closing:
                yield log_pb.PublishStreamResponse(closing=True)
                await asyncio.Event().wait()  # whatever its end looks like to the client, it has said all that counts
            if self.hold is not None:
                await self.hold.wait()
            results = [await self._publish(batch) for batch in batches]
            ack = log_pb.PublishStreamAck(correlation_id=request.correlation_id, results=results)
            yield log_pb.PublishStreamResponse(acks=[ack])

    async def _publish(self, batch: NewBatch) -> PublishResult:
        result = PublishResult(topic=batch.topic, partition=batch.partition, log_append_time_ms=-1, offset=-1)
        try:
            partition = self._led(batch.topic, batch.partition)
            if self.cluster.fault is not None:
                error = await self.cluster.fault(self, partition, batch.record_batch)
                if error is not None:
                    raise error
            result.offset = self._led(batch.topic, batch.partition).append(batch.record_batch)
        except RaftlogError as error:
            result.error.CopyFrom(to_status(error))
        return result

    async def Publish(self, request: log_pb.PublishRequest, context: Any) -> log_pb.PublishResponse:
        return log_pb.PublishResponse(results=[await self._publish(batch) for batch in request.batches])

    async def Fetch(self, request: log_pb.FetchRequest, context: Any) -> log_pb.FetchResponse:
        raise InvalidRecordError("the client subscribes")

    async def Subscribe(self, request: log_pb.SubscribeRequest, context: Any) -> AsyncIterator[log_pb.SubscribeResponse]:
        self.cluster.subscriptions.append(request)
        await context.send_initial_metadata(())
        try:
            at = {(p.topic, p.partition): getattr(p, "from").offset for p in request.partitions}
            while True:
                changed = self._changed
                waits = [changed]
                quiet = True
                for (topic, number), offset in list(at.items()):
                    partition = self.cluster.partitions[TopicPartition(topic, number)]
                    waits.append(partition.grown)
                    if not request.direct and (partition.deposed or not partition.leader):
                        continue
                    self._led(topic, number, direct=request.direct)
                    if not partition.log_start <= offset <= partition.next_offset:
                        low, high = partition.log_start, partition.next_offset
                        raise OffsetOutOfRangeError(f"{offset} not in {low}..{high}", earliest=low, latest=high)
                    data, after = partition.read(offset, request.max_bytes)
                    if data:
                        quiet = False
                        at[topic, number] = after
                        yield log_pb.SubscribeResponse(
                            topic=topic,
                            partition=number,
                            high_watermark=partition.next_offset,
                            log_start_offset=partition.log_start,
                            record_batches=data,
                            next_offset=after,
                        )
                if quiet:
                    tasks = [asyncio.get_running_loop().create_task(event.wait()) for event in waits]
                    try:
                        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        for task in tasks:
                            task.cancel()
        except RaftlogError as error:
            await _abort(context, error)

    async def ListOffsets(self, request: log_pb.ListOffsetsRequest, context: Any) -> log_pb.ListOffsetsResponse:
        return log_pb.ListOffsetsResponse(offsets=[self._list_offset(p) for p in request.partitions])

    def _list_offset(self, asked: log_pb.ListOffsetsPartition) -> log_pb.ListedOffset:
        listed = log_pb.ListedOffset(topic=asked.topic, partition=asked.partition, offset=-1, timestamp_ms=-1)
        try:
            partition = self._led(asked.topic, asked.partition, direct=False)
            listed.leader_epoch = partition.epoch
            if asked.at.WhichOneof("at") == "timestamp_ms":
                for record in partition.records():
                    if record.timestamp_ms >= asked.at.timestamp_ms:
                        listed.offset, listed.timestamp_ms = record.offset, record.timestamp_ms
                        break
            else:
                end = asked.at.edge == records_pb2.EDGE_END
                listed.offset = partition.next_offset if end else partition.log_start
        except RaftlogError as error:
            listed.error.CopyFrom(to_status(error))
        return listed

    async def InitProducer(self, request: log_pb.InitProducerRequest, context: Any) -> log_pb.InitProducerResponse:
        self.cluster.next_producer += 1
        return log_pb.InitProducerResponse(producer_id=self.cluster.next_producer, producer_epoch=0)

    # TopicService and ClusterService

    async def DescribeTopic(self, request: topic_pb.DescribeTopicRequest, context: Any) -> topic_pb.DescribeTopicResponse:
        try:
            answer = topic_pb.DescribeTopicResponse(topic=self.stale.get(request.name) or self.cluster.describe(request.name))
        except RaftlogError as error:
            await _abort(context, error)
        if request.offsets:
            for tp, p in self.cluster.partitions.items():
                if tp.topic == request.name:
                    answer.offsets.add(partition=tp.partition, high_watermark=p.next_offset)
        return answer

    async def CreateTopic(self, request: topic_pb.CreateTopicRequest, context: Any) -> topic_pb.CreateTopicResponse:
        if any(tp.topic == request.name for tp in self.cluster.partitions):
            await _abort(context, TopicExistsError(f"{request.name} exists"))
        self.cluster.topic(request.name, request.partitions or 1)
        return topic_pb.CreateTopicResponse(topic=self.cluster.describe(request.name))

    async def ListTopics(self, request: topic_pb.ListTopicsRequest, context: Any) -> topic_pb.ListTopicsResponse:
        names = sorted({tp.topic for tp in self.cluster.partitions})
        return topic_pb.ListTopicsResponse(topics=[self.cluster.describe(name) for name in names])

    async def AlterTopic(self, request: topic_pb.AlterTopicRequest, context: Any) -> topic_pb.AlterTopicResponse:
        self.cluster.topic(request.name, request.partitions)
        return topic_pb.AlterTopicResponse(topic=self.cluster.describe(request.name))

    async def DeleteTopic(self, request: topic_pb.DeleteTopicRequest, context: Any) -> topic_pb.DeleteTopicResponse:
        gone = [tp for tp in self.cluster.partitions if tp.topic == request.name]
        if not gone:
            await _abort(context, UnknownTopicOrPartitionError(f"no topic {request.name}"))
        for tp in gone:
            del self.cluster.partitions[tp]
        return topic_pb.DeleteTopicResponse()

    async def RaiseLevel(self, request: cluster_pb.RaiseLevelRequest, context: Any) -> cluster_pb.RaiseLevelResponse:
        if self.first_version:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        nodes = [cluster_pb.NodeSupport(node_id=number, level_min=1, level_max=2, version="9.9") for number in self.cluster.nodes]
        if 2 not in request.without:
            nodes[1] = cluster_pb.NodeSupport(node_id=2, problem="it is down")
        raised = not request.dry_run and not nodes[1].problem
        return cluster_pb.RaiseLevelResponse(level=1, target=request.level or 2, raised=raised, nodes=nodes)

    async def DescribeCluster(
        self, request: cluster_pb.DescribeClusterRequest, context: Any
    ) -> cluster_pb.DescribeClusterResponse:
        nodes = [cluster_pb.Node(node_id=n.number, grpc_address=n.address, alive=True) for n in self.cluster.nodes.values()]
        return cluster_pb.DescribeClusterResponse(cluster_id="fake", controller=1, node_id=self.number, nodes=nodes)

    async def DescribeReplicas(
        self, request: cluster_pb.DescribeReplicasRequest, context: Any
    ) -> cluster_pb.DescribeReplicasResponse:
        mine = [
            cluster_pb.Replica(topic=tp.topic, partition=tp.partition, role=cluster_pb.ROLE_LEADER, high_watermark=p.next_offset)
            for tp, p in self.cluster.partitions.items()
            if p.leader == self.number
        ]
        return cluster_pb.DescribeReplicasResponse(node_id=self.number, replicas=mine)

    async def MovePartition(self, request: cluster_pb.MovePartitionRequest, context: Any) -> cluster_pb.MovePartitionResponse:
        self.cluster.wishes.append(request)
        return cluster_pb.MovePartitionResponse()

    async def DrainNode(self, request: cluster_pb.DrainNodeRequest, context: Any) -> cluster_pb.DrainNodeResponse:
        self.cluster.wishes.append(request)
        return cluster_pb.DrainNodeResponse(partitions=3)

    async def RemoveNode(self, request: cluster_pb.RemoveNodeRequest, context: Any) -> cluster_pb.RemoveNodeResponse:
        self.cluster.wishes.append(request)
        return cluster_pb.RemoveNodeResponse()

    async def Balance(self, request: cluster_pb.BalanceRequest, context: Any) -> cluster_pb.BalanceResponse:
        self.cluster.wishes.append(request)
        one = cluster_pb.Replacement(topic="t", partition=1, before=[1, 2], replicas=[3, 2], reason="why", size_bytes=9)
        return cluster_pb.BalanceResponse(replacements=[one], stuck=["no room"])

    async def ListMoves(self, request: cluster_pb.ListMovesRequest, context: Any) -> cluster_pb.ListMovesResponse:
        return cluster_pb.ListMovesResponse(moves=self.cluster.moves)


async def _abort(context: Any, error: RaftlogError) -> None:
    status = to_status(error)
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    await context.abort(code, status.message, ((DETAILS_KEY, status.SerializeToString()),))
