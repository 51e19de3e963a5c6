"""What the client gives its user: acknowledgements, records, and the answers of the admin calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from raftlog.model import ReplicaStatus, TopicPartition
from raftlog.records.batch import Headers


class RecordMetadata(NamedTuple):
    """Where an acknowledged record stands (a tuple, for one is made for every record).

    ``offset`` is −1 with acks none. ``timestamp_ms`` is the record's own, or the time of its arrival where the topic says so.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class ConsumedRecord(NamedTuple):
    """A record as it was read. ``value`` is None for a tombstone; ``timestamp_ms`` is milliseconds since the epoch."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class AtTime(NamedTuple):
    """A place to begin: the first record at or after this time, in milliseconds since the epoch."""

    timestamp_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumedBatch:
    """Records of one partition that came together, in their order; ``next_offset`` is where to go on behind them."""

    tp: TopicPartition
    records: list[ConsumedRecord]
    next_offset: int
    high_watermark: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition as the answering node knows it. ``leader`` is a node id and ``leader_address`` its gRPC ``host:port``; None
    and empty while there is no leader known."""

    topic: str
    partition: int
    leader: int | None
    leader_address: str
    leader_epoch: int
    replicas: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic: its UUID (32 hex digits), its partitions by number, and the configs that were set on it."""

    name: str
    topic_id: str
    replication_factor: int
    partitions: tuple[Partition, ...]
    configs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicConfig:
    """A config in force on a topic. ``is_set`` tells a value set on the topic from a default; ``effective`` is False for keys
    that raftlog keeps without acting on them."""

    key: str
    value: str
    is_set: bool
    effective: bool
    documentation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionOffsets:
    """Offsets and size of a partition, from its leader."""

    partition: int
    log_start_offset: int
    high_watermark: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicDescription:
    """A topic with all its configs, and its partitions' offsets where they were asked for."""

    topic: Topic
    configs: tuple[TopicConfig, ...]
    offsets: tuple[PartitionOffsets, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedOffset:
    """An offset that was looked up: −1 where no record is that young. ``timestamp_ms`` is −1 but for lookups by time."""

    offset: int
    timestamp_ms: int
    leader_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageInfo:
    """A node's storage in bytes; ``limit_bytes`` is 0 where there is none. While ``full``, publishing is refused, for
    ``shortage``; about ``room_bytes`` may be stored until then, and when that is little, it is ``low``."""

    used_bytes: int
    file_bytes: int
    limit_bytes: int
    disk_free_bytes: int
    full: bool
    room_bytes: int
    low: bool
    shortage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReplicas:
    """A node's replicas and storage, as it sees them itself."""

    node_id: int
    replicas: tuple[ReplicaStatus, ...]
    storage: StorageInfo
