"""Calls between brokers: what one node asks of the leader on behalf of its own callers. Batches travel as payloads.

A call is answered by the node that gets it or not at all: where that node does not lead, it says ``NotLeaderError`` and does
not pass the call on, so a call crosses one link at most.

Publishes of one partition reach its leader in the order in which they came: a call is sent before its first await, links keep
their order, and those that take several calls are not overtaken (``in_line``).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Protocol

from google.protobuf.message import DecodeError

from raftlog.broker.in_line import Lines
from raftlog.broker.port import NO_EPOCH, Batch, EpochEnd, Fetched, ListedOffset, PartitionStatus, Published
from raftlog.core import error_codec
from raftlog.errors import InvalidRequestError, OverloadedError, RaftlogError, UnavailableError
from raftlog.model import Acks, TopicPartition
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb
from raftlog.peers.port import Payloads, Peers

TIMEOUT_MS_MAX = (1 << 32) - 1
FORWARD_BYTES_MAX = 8 * 1024 * 1024
"""Batches of one call, unless a single one is larger: a frame between nodes holds them four times over (the largest batch is
16 MB), and other traffic need not wait long behind it."""
FORWARDED_WAITS_MAX = 128
"""Fetches that may wait on one other node: half of the calls that a link takes, so that publishing always finds room."""

Answer = tuple[bytes, Payloads]


class DirectBroker(Protocol):
    """What a broker does for another: itself, or not at all."""

    async def publish(
        self, batches: Sequence[tuple[TopicPartition, Batch]], *, acks: Acks, timeout_s: float, direct: bool = False
    ) -> list[Published | RaftlogError]:
        """See ``Broker``."""
        ...

    async def fetch(
        self, tp: TopicPartition, offset: int, *, bytes_max: int, wait_s: float = 0.0, direct: bool = False
    ) -> Fetched:
        """See ``Broker``."""
        ...

    async def list_offset(
        self, tp: TopicPartition, timestamp_ms: int, *, leader_epoch: int = NO_EPOCH, direct: bool = False
    ) -> ListedOffset:
        """See ``Broker``."""
        ...

    async def epoch_end(
        self, tp: TopicPartition, leader_epoch: int, *, current_epoch: int = NO_EPOCH, direct: bool = False
    ) -> EpochEnd:
        """See ``Broker``."""
        ...

    async def delete_records(self, tp: TopicPartition, offset: int, *, timeout_s: float, direct: bool = False) -> int:
        """See ``Broker``."""
        ...

    async def partition_status(self, tp: TopicPartition, *, direct: bool = False) -> PartitionStatus:
        """See ``Broker``."""
        ...

    async def propose_here(self, wish: pb.MetadataCommand) -> pb.ProposeAnswer:
        """Complete and propose a metadata command as the metadata group's leader."""
        ...


class RemoteBroker:
    """Another node's broker, at the other end of a peer link.

    Args:
        peers: the links.
        margin_s: what a call gets beyond the wait that it asks for, so that the other node's answer wins over the timeout.
        timeout_s: for calls that wait for nothing.
    """

    def __init__(self, peers: Peers, *, margin_s: float, timeout_s: float) -> None:
        self._peers = peers
        self._margin_s = margin_s
        self._timeout_s = timeout_s
        self._waits: Counter[int] = Counter()
        """Node id → fetches that wait there."""
        self._lines = Lines()

    async def publish(
        self, node_id: int, batches: Sequence[tuple[TopicPartition, Batch]], *, acks: Acks, timeout_s: float
    ) -> list[Published | RaftlogError]:
        """Publish on ``node_id``; an outcome for each batch. What is too much for one call goes in several, one after another,
        for as long as there is time. Of two publishes of one partition the first is sent first."""
        parts = list(_parts(batches))
        if len(parts) == 1 and self._lines.free(tp for tp, _ in batches):
            return await self._publish(node_id, batches, acks, timeout_s)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        outcomes: list[Published | RaftlogError] = []
        place = self._lines.join(tp for tp, _ in batches)
        try:
            in_time = await place.turn(timeout_s)
            for part in parts:
                left_s = deadline_s - loop.time()
                if not in_time or (outcomes and left_s <= 0):
                    late = UnavailableError(f"not sent to node {node_id} within {timeout_s:g} s; nothing was done, send it again")
                    outcomes += [late] * len(part)
                    continue
                if part is parts[-1]:
                    place.leave()  # this last call is sent before anybody else runs
                outcomes += await self._publish(node_id, part, acks, left_s)
        finally:
            place.leave()
        return outcomes

    async def _publish(
        self, node_id: int, batches: Sequence[tuple[TopicPartition, Batch]], acks: Acks, timeout_s: float
    ) -> list[Published | RaftlogError]:
        """One call. When it fails as a whole, each batch gets its error."""
        body = pb.PublishCall(
            acks=int(acks),
            timeout_ms=_ms(timeout_s),
            partitions=[pb.PartitionRef(topic=tp.topic, partition=tp.partition) for tp, _ in batches],
        )
        try:
            answer, _ = await self._peers.call(
                node_id, "publish", body.SerializeToString(), [data for _, data in batches],
                timeout_s=timeout_s + self._margin_s,
            )  # fmt: skip
        except RaftlogError as error:
            return [error] * len(batches)
        outcomes = pb.PublishAnswer.FromString(answer).outcomes
        if len(outcomes) != len(batches):
            return [RaftlogError(f"node {node_id} answered {len(outcomes)} outcomes for {len(batches)} batches")] * len(batches)
        return [_outcome_of(outcome) for outcome in outcomes]

    async def fetch(self, node_id: int, tp: TopicPartition, offset: int, *, bytes_max: int, wait_s: float) -> Fetched:
        """Fetch from ``node_id``; errors as ``Broker.fetch``, and ``OverloadedError`` where too many wait there already."""
        body = pb.FetchCall(
            topic=tp.topic, partition=tp.partition, offset=offset,
            max_bytes=min(bytes_max, FORWARD_BYTES_MAX), max_wait_ms=_ms(wait_s),
        )  # fmt: skip
        waits = int(wait_s > 0)
        if waits and self._waits[node_id] >= FORWARDED_WAITS_MAX:
            raise OverloadedError(f"{FORWARDED_WAITS_MAX} readers wait on node {node_id} through this one; ask it directly")
        self._waits[node_id] += waits
        try:
            answer, batches = await self._peers.call(
                node_id, "fetch", body.SerializeToString(), timeout_s=max(wait_s, self._timeout_s) + self._margin_s
            )
        finally:
            self._waits[node_id] -= waits
        fetched = pb.FetchAnswer.FromString(answer)
        return Fetched(
            batches=batches,
            high_watermark=fetched.high_watermark,
            log_start_offset=fetched.log_start_offset,
            next_offset=fetched.next_offset,
        )

    async def list_offset(self, node_id: int, tp: TopicPartition, timestamp_ms: int) -> ListedOffset:
        """List an offset on ``node_id``; errors as ``Broker.list_offset``."""
        body = pb.ListOffsetCall(topic=tp.topic, partition=tp.partition, timestamp_ms=timestamp_ms)
        answer, _ = await self._peers.call(node_id, "list_offset", body.SerializeToString(), timeout_s=self._later())
        listed = pb.ListOffsetAnswer.FromString(answer)
        epoch = listed.leader_epoch if listed.offset >= 0 else -1
        return ListedOffset(offset=listed.offset, timestamp_ms=listed.timestamp_ms, leader_epoch=epoch)

    async def epoch_end(self, node_id: int, tp: TopicPartition, leader_epoch: int) -> EpochEnd:
        """Ask ``node_id`` where a leader epoch ends."""
        body = pb.EpochEndCall(topic=tp.topic, partition=tp.partition, leader_epoch=leader_epoch)
        answer, _ = await self._peers.call(node_id, "epoch_end", body.SerializeToString(), timeout_s=self._later())
        end = pb.EpochEndAnswer.FromString(answer)
        return EpochEnd(leader_epoch=end.leader_epoch, end_offset=end.end_offset)

    async def delete_records(self, node_id: int, tp: TopicPartition, offset: int, *, timeout_s: float) -> int:
        """Have ``node_id`` delete records; the new log start offset."""
        body = pb.DeleteRecordsCall(topic=tp.topic, partition=tp.partition, offset=offset, timeout_ms=_ms(timeout_s))
        answer, _ = await self._peers.call(
            node_id, "delete_records", body.SerializeToString(), timeout_s=timeout_s + self._margin_s
        )
        return pb.DeleteRecordsAnswer.FromString(answer).log_start_offset

    async def partition_status(self, node_id: int, tp: TopicPartition) -> PartitionStatus:
        """Ask ``node_id`` for a partition's status."""
        body = pb.PartitionStatusCall(topic=tp.topic, partition=tp.partition)
        answer, _ = await self._peers.call(node_id, "partition_status", body.SerializeToString(), timeout_s=self._later())
        status = pb.PartitionStatusAnswer.FromString(answer)
        return PartitionStatus(
            log_start_offset=status.log_start_offset, high_watermark=status.high_watermark, size_bytes=status.size_bytes
        )

    async def propose(self, node_id: int, wish: pb.MetadataCommand, *, timeout_s: float) -> pb.ProposeAnswer:
        """Have ``node_id`` propose a metadata command; answered when it is applied there."""
        answer, _ = await self._peers.call(node_id, "propose", wish.SerializeToString(), timeout_s=timeout_s + self._margin_s)
        return pb.ProposeAnswer.FromString(answer)

    def _later(self) -> float:
        return self._timeout_s + self._margin_s


class CallServer:
    """Answers other nodes' calls out of this node's broker."""

    def __init__(self, broker: DirectBroker) -> None:
        self._broker = broker
        self._methods: dict[str, Callable[[bytes, list[bytes]], Awaitable[Answer]]] = {
            "publish": self._publish,
            "fetch": self._fetch,
            "list_offset": self._list_offset,
            "epoch_end": self._epoch_end,
            "delete_records": self._delete_records,
            "partition_status": self._partition_status,
            "propose": self._propose,
        }

    async def answer(self, method: str, body: bytes, payloads: list[bytes]) -> Answer:
        """Answer one call.

        Raises:
            InvalidRequestError: an unknown method, or a body that is not the method's.
            RaftlogError: what the method itself raises.
        """
        handler = self._methods.get(method)
        if handler is None:
            raise InvalidRequestError(f"this node knows no call {method!r}; its version may be older than the caller's")
        try:
            return await handler(body, payloads)
        except DecodeError as error:
            raise InvalidRequestError(f"the body of a {method} call cannot be read: {error}") from error

    async def _publish(self, body: bytes, payloads: list[bytes]) -> Answer:
        call = pb.PublishCall.FromString(body)
        if len(call.partitions) != len(payloads):
            raise InvalidRequestError(f"a publish call names {len(call.partitions)} partitions for {len(payloads)} batches")
        try:
            acks = Acks(call.acks)
        except ValueError:
            raise InvalidRequestError(f"acks {call.acks} is none of -1, 0 and 1") from None
        names = (TopicPartition(ref.topic, ref.partition) for ref in call.partitions)
        outcomes = await self._broker.publish(
            list(zip(names, payloads, strict=True)), acks=acks, timeout_s=call.timeout_ms / 1000, direct=True
        )
        return pb.PublishAnswer(outcomes=map(_outcome, outcomes)).SerializeToString(), ()

    async def _fetch(self, body: bytes, _: list[bytes]) -> Answer:
        call = pb.FetchCall.FromString(body)
        fetched = await self._broker.fetch(
            TopicPartition(call.topic, call.partition), call.offset,
            bytes_max=call.max_bytes, wait_s=call.max_wait_ms / 1000, direct=True,
        )  # fmt: skip
        answer = pb.FetchAnswer(
            high_watermark=fetched.high_watermark,
            log_start_offset=fetched.log_start_offset,
            next_offset=fetched.next_offset,
        )
        return answer.SerializeToString(), fetched.batches

    async def _list_offset(self, body: bytes, _: list[bytes]) -> Answer:
        call = pb.ListOffsetCall.FromString(body)
        listed = await self._broker.list_offset(TopicPartition(call.topic, call.partition), call.timestamp_ms, direct=True)
        answer = pb.ListOffsetAnswer(
            offset=listed.offset, timestamp_ms=listed.timestamp_ms, leader_epoch=max(listed.leader_epoch, 0)
        )
        return answer.SerializeToString(), ()

    async def _epoch_end(self, body: bytes, _: list[bytes]) -> Answer:
        call = pb.EpochEndCall.FromString(body)
        end = await self._broker.epoch_end(TopicPartition(call.topic, call.partition), call.leader_epoch, direct=True)
        return pb.EpochEndAnswer(leader_epoch=end.leader_epoch, end_offset=end.end_offset).SerializeToString(), ()

    async def _delete_records(self, body: bytes, _: list[bytes]) -> Answer:
        call = pb.DeleteRecordsCall.FromString(body)
        start = await self._broker.delete_records(
            TopicPartition(call.topic, call.partition), call.offset, timeout_s=call.timeout_ms / 1000, direct=True
        )
        return pb.DeleteRecordsAnswer(log_start_offset=start).SerializeToString(), ()

    async def _partition_status(self, body: bytes, _: list[bytes]) -> Answer:
        call = pb.PartitionStatusCall.FromString(body)
        status = await self._broker.partition_status(TopicPartition(call.topic, call.partition), direct=True)
        answer = pb.PartitionStatusAnswer(
            log_start_offset=status.log_start_offset, high_watermark=status.high_watermark, size_bytes=status.size_bytes
        )
        return answer.SerializeToString(), ()

    async def _propose(self, body: bytes, _: list[bytes]) -> Answer:
        answer = await self._broker.propose_here(pb.MetadataCommand.FromString(body))
        return answer.SerializeToString(), ()


def _parts(batches: Sequence[tuple[TopicPartition, Batch]]) -> Iterator[Sequence[tuple[TopicPartition, Batch]]]:
    """The batches in runs that fit into one call each."""
    begin = size = 0
    for at, (_, data) in enumerate(batches):
        if at > begin and size + len(data) > FORWARD_BYTES_MAX:
            yield batches[begin:at]
            begin, size = at, 0
        size += len(data)
    yield batches[begin:]


def _outcome(outcome: Published | RaftlogError) -> pb.PublishOutcome:
    if isinstance(outcome, RaftlogError):
        reason, message, metadata = error_codec.to_parts(outcome)
        return pb.PublishOutcome(error=pb.CallError(reason=reason, message=message, metadata=metadata))
    return pb.PublishOutcome(
        base_offset=outcome.base_offset,
        log_append_time_ms=outcome.log_append_time_ms,
        log_start_offset=outcome.log_start_offset,
    )


def _outcome_of(outcome: pb.PublishOutcome) -> Published | RaftlogError:
    if outcome.HasField("error"):
        return error_codec.from_parts(outcome.error.reason, outcome.error.message, outcome.error.metadata)
    return Published(
        base_offset=outcome.base_offset,
        log_append_time_ms=outcome.log_append_time_ms,
        log_start_offset=outcome.log_start_offset,
    )


def _ms(seconds: float) -> int:
    return min(max(int(seconds * 1000), 0), TIMEOUT_MS_MAX)
