"""Produce requests and answers, versions 3 to 9 (9 is flexible). Record batches stay views of the request's bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from raftlog.kafka.wire.primitives import HOT_ITEMS_MAX, Reader, Writer

_TOPIC_BYTES_MIN: Final = 2
_PARTITION_BYTES_MIN: Final = 5
FLEXIBLE_FROM: Final = 9


class ProducedPartition(NamedTuple):
    """One partition of a request; ``records`` None is an error of the client."""

    partition: int
    records: memoryview | None


class ProducedTopic(NamedTuple):
    """One topic of a request."""

    name: str
    partitions: list[ProducedPartition]


class ProduceRequest(NamedTuple):
    """A request. ``acks`` is −1, 0 or 1, or else an error of the client."""

    transactional_id: str | None
    acks: int
    timeout_ms: int
    topics: list[ProducedTopic]


class PartitionAnswer(NamedTuple):
    """What became of one partition's batch."""

    partition: int
    error_code: int = 0
    base_offset: int = -1
    log_append_time_ms: int = -1
    log_start_offset: int = -1
    error_message: str | None = None


def read_request(reader: Reader, version: int) -> ProduceRequest:
    """Read a request's body.

    Raises:
        MalformedRequestError
    """
    compact = version >= FLEXIBLE_FROM
    reader.bound_items(HOT_ITEMS_MAX)
    transactional_id = reader.nullable_string(compact)
    acks, timeout_ms = reader.int16(), reader.int32()
    topics = []
    for _ in range(reader.count(compact, _TOPIC_BYTES_MIN)):
        name = reader.string(compact)
        partitions = []
        for _ in range(reader.count(compact, _PARTITION_BYTES_MIN)):
            partitions.append(ProducedPartition(reader.int32(), reader.nullable_bytes(compact)))
            reader.skip_tags_if(compact)
        topics.append(ProducedTopic(name, partitions))
        reader.skip_tags_if(compact)
    reader.skip_tags_if(compact)
    return ProduceRequest(transactional_id, acks, timeout_ms, topics)


def write_answer(writer: Writer, version: int, topics: Sequence[tuple[str, Sequence[PartitionAnswer]]]) -> None:
    """Write an answer's body."""
    compact = version >= FLEXIBLE_FROM
    writer.count(len(topics), compact)
    for name, partitions in topics:
        writer.string(name, compact)
        writer.count(len(partitions), compact)
        for partition in partitions:
            writer.int32(partition.partition)
            writer.int16(partition.error_code)
            writer.int64(partition.base_offset)
            writer.int64(partition.log_append_time_ms)
            if version >= 5:
                writer.int64(partition.log_start_offset)
            if version >= 8:
                writer.count(0, compact)  # record errors: a batch is refused as a whole
                writer.string(partition.error_message, compact)
            writer.tags_if(compact)
        writer.tags_if(compact)
    writer.int32(0)  # throttle time
    writer.tags_if(compact)
