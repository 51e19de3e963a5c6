"""Fetch requests and answers, versions 4 to 12 (12 is flexible). Record batches are handed through, never copied or looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from raftlog.kafka.wire.primitives import HOT_ITEMS_MAX, Buffer, Reader, Writer

FLEXIBLE_FROM: Final = 12
_TOPIC_BYTES_MIN: Final = 2
_PARTITION_BYTES_MIN: Final = 16


class FetchedPartition(NamedTuple):
    """One partition of a request."""

    partition: int
    current_leader_epoch: int
    offset: int
    bytes_max: int


class FetchRequest(NamedTuple):
    """A request. Sessions (KIP-227) are not kept, which a client is told by session id 0."""

    max_wait_ms: int
    min_bytes: int
    max_bytes: int
    session_id: int
    session_epoch: int
    topics: list[tuple[str, list[FetchedPartition]]]
    rack: str


class PartitionAnswer(NamedTuple):
    """One partition of an answer."""

    partition: int
    error_code: int = 0
    high_watermark: int = -1
    log_start_offset: int = -1
    preferred_read_replica: int = -1
    batches: Sequence[Buffer] = ()


def read_request(reader: Reader, version: int) -> FetchRequest:
    """Read a request's body.

    Raises:
        MalformedRequestError
    """
    compact = version >= FLEXIBLE_FROM
    reader.bound_items(HOT_ITEMS_MAX)
    reader.int32()  # replica id: nodes do not replicate through this door
    max_wait_ms, min_bytes, max_bytes = reader.int32(), reader.int32(), reader.int32()
    reader.int8()  # isolation level: nothing is ever uncommitted here
    session_id, session_epoch = (reader.int32(), reader.int32()) if version >= 7 else (0, -1)
    topics = []
    for _ in range(reader.count(compact, _TOPIC_BYTES_MIN)):
        name = reader.string(compact)
        count = reader.count(compact, _PARTITION_BYTES_MIN)
        topics.append((name, [_read_partition(reader, version, compact) for _ in range(count)]))
        reader.skip_tags_if(compact)
    if version >= 7:
        _skip_forgotten(reader, compact)
    rack = reader.string(compact) if version >= 11 else ""
    reader.skip_tags_if(compact)
    return FetchRequest(max_wait_ms, min_bytes, max_bytes, session_id, session_epoch, topics, rack)


def _read_partition(reader: Reader, version: int, compact: bool) -> FetchedPartition:
    partition = reader.int32()
    leader_epoch = reader.int32() if version >= 9 else -1
    offset = reader.int64()
    if version >= 12:
        reader.int32()  # last fetched epoch: a follower's question
    if version >= 5:
        reader.int64()  # log start offset: a follower's
    bytes_max = reader.int32()
    reader.skip_tags_if(compact)
    return FetchedPartition(partition, leader_epoch, offset, bytes_max)


def _skip_forgotten(reader: Reader, compact: bool) -> None:
    for _ in range(reader.count(compact, _TOPIC_BYTES_MIN)):
        reader.string(compact)
        reader.raw(4 * reader.count(compact, 4))
        reader.skip_tags_if(compact)


def write_answer(
    writer: Writer, version: int, topics: Sequence[tuple[str, Sequence[PartitionAnswer]]], *, error_code: int = 0
) -> None:
    """Write an answer's body."""
    compact = version >= FLEXIBLE_FROM
    writer.int32(0)  # throttle time
    if version >= 7:
        writer.int16(error_code)
        writer.int32(0)  # session id: none is kept
    writer.count(len(topics), compact)
    for name, partitions in topics:
        writer.string(name, compact)
        writer.count(len(partitions), compact)
        for partition in partitions:
            _write_partition(writer, version, compact, partition)
        writer.tags_if(compact)
    writer.tags_if(compact)


def _write_partition(writer: Writer, version: int, compact: bool, partition: PartitionAnswer) -> None:
    writer.int32(partition.partition)
    writer.int16(partition.error_code)
    writer.int64(partition.high_watermark)
    writer.int64(partition.high_watermark)  # last stable offset: there are no transactions
    if version >= 5:
        writer.int64(partition.log_start_offset)
    writer.count(0, compact)  # aborted transactions: an empty list, for clients that trip over none
    if version >= 11:
        writer.int32(partition.preferred_read_replica)
    writer.batches(tuple(partition.batches), sum(map(len, partition.batches)), compact)
    writer.tags_if(compact)
