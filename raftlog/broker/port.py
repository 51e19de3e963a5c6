"""What a door (gRPC, later Kafka) sees of the broker. Semantics live here once; doors decode, call and encode.

Every method raises errors of ``raftlog.errors`` only. A batch is the bytes of one Kafka record batch v2.
Any node takes any call: where it does not lead, the broker forwards it once over the peer links, unless ``direct``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from raftlog.errors import RaftlogError
from raftlog.model import Acks, ClusterInfo, LevelReport, ReplicaStatus, TopicInfo, TopicPartition
from raftlog.storage.port import StorageUsage

EARLIEST = -2
"""``list_offset``'s timestamp for the log start offset (Kafka's ListOffsets)."""
LATEST = -1
"""``list_offset``'s timestamp for the high watermark."""
MAX_TIMESTAMP = -3
"""``list_offset``'s timestamp for the record with the highest timestamp (KIP-734)."""
ALL_COMMITTED = -1
"""``delete_records``' offset for the high watermark."""
NO_EPOCH = -1
"""A leader epoch that is not known, or not asked about."""


Batch = bytes | memoryview
"""One record batch; a memoryview's bytes must not change any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Where a batch stands. ``base_offset`` is −1 with acks none; ``log_append_time_ms`` −1 where the producer stamps."""

    base_offset: int
    log_append_time_ms: int = -1
    log_start_offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Batches from a partition, verbatim: the first may begin before the offset asked for, and a part may hold several.

    ``next_offset`` is where to go on; with no batches it is the offset asked for.
    """

    batches: Sequence[bytes | memoryview]
    high_watermark: int
    log_start_offset: int
    next_offset: int
    preferred_replica: int = -1
    """Node id of a replica nearer to the reader, who should ask that one (KIP-392); then there are no batches."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the batches."""
        return sum(map(len, self.batches))


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPart:
    """One partition of a fetch over many. ``leader_epoch`` is what the reader knows (KIP-320), ``NO_EPOCH`` where nothing."""

    tp: TopicPartition
    offset: int
    bytes_max: int
    leader_epoch: int = NO_EPOCH


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochEnd:
    """Where a leader epoch ends: the offset after its last record. Both are −1 where nothing is known of it."""

    leader_epoch: int
    end_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedOffset:
    """Answer to a lookup: −1 for an offset that does not exist (no record that young)."""

    offset: int
    timestamp_ms: int
    leader_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionStatus:
    """A partition as its leader knows it; sizes in bytes of stored entries."""

    log_start_offset: int
    high_watermark: int
    size_bytes: int


Share = Callable[[int], int]
"""See ``Broker.fetch_many``."""


class Broker(Protocol):
    """All that a door may ask."""

    @property
    def node_id(self) -> int:
        """This node."""
        ...

    async def publish(
        self, batches: Sequence[tuple[TopicPartition, Batch]], *, acks: Acks, timeout_s: float, direct: bool = False
    ) -> list[Published | RaftlogError]:
        """Publish batches, each with its own outcome, in their order. Batches for one partition are appended in order.

        The decision of offset and sequence for the local partitions is taken before the first await, so two calls made
        one after the other keep their order.
        """
        ...

    async def fetch(
        self, tp: TopicPartition, offset: int, *, bytes_max: int, wait_s: float = 0.0, direct: bool = False
    ) -> Fetched:
        """Read committed batches from ``offset`` on, at least one if there is any; waits up to ``wait_s`` for the first.

        Raises:
            OffsetOutOfRangeError: below the log start offset or above the high watermark of the leader.
            NotLeaderError, LeaderNotAvailableError, UnknownTopicOrPartitionError, DataLossError
        """
        ...

    async def fetch_many(
        self, parts: Sequence[FetchPart], *, bytes_max: int, bytes_min: int = 1, wait_s: float = 0.0, direct: bool = False,
        follower: bool = False, rack: str = "", share: Share | None = None,
    ) -> list[Fetched | RaftlogError]:  # fmt: skip
        """Read several partitions, in this order, until ``bytes_max`` is reached; each part has its own outcome.

        While there are fewer than ``bytes_min`` bytes and no part has anything else to tell (an error, a nearer replica),
        waits up to ``wait_s`` for more.

        Args:
            follower: whether this node's replica may answer though it does not lead; it never goes beyond its own high
                watermark, and waits where it is asked for more.
            rack: where the reader is: the leader names a replica there, if there is one that has all of the log and it is itself
                elsewhere (KIP-392).
            share: says how many of so many bytes may be read just now; asked at each look, for others are answered meanwhile.
        """
        ...

    async def list_offset(
        self, tp: TopicPartition, timestamp_ms: int, *, leader_epoch: int = NO_EPOCH, direct: bool = False
    ) -> ListedOffset:
        """``EARLIEST``, ``LATEST`` (linearizable), ``MAX_TIMESTAMP``, or the first record at or after a time.

        Raises:
            FencedLeaderEpochError, UnknownLeaderEpochError: the caller's ``leader_epoch`` is not this node's.
        """
        ...

    async def epoch_end(
        self, tp: TopicPartition, leader_epoch: int, *, current_epoch: int = NO_EPOCH, direct: bool = False
    ) -> EpochEnd:
        """Where the largest leader epoch that is not above ``leader_epoch`` ends (KIP-320).

        Raises:
            FencedLeaderEpochError, UnknownLeaderEpochError: the caller's ``current_epoch`` is not this node's.
        """
        ...

    async def delete_records(self, tp: TopicPartition, offset: int, *, timeout_s: float, direct: bool = False) -> int:
        """Let go of the records below ``offset`` (``ALL_COMMITTED`` for all); the new log start offset. Never goes back.

        Raises:
            OffsetOutOfRangeError: above the high watermark.
            IndeterminateError: leadership went, or the time ran out; it may happen yet.
        """
        ...

    async def partition_status(self, tp: TopicPartition) -> PartitionStatus:
        """Offsets and size, asked of the leader."""
        ...

    async def init_producer(self) -> tuple[int, int]:
        """A fresh (producer id, epoch); ids are never reused."""
        ...

    async def create_topic(self, name: str, *, partitions: int, replication_factor: int, configs: dict[str, str]) -> TopicInfo:
        """Create a topic (0 for a default number). Answers when it is durable on a majority and applied here."""
        ...

    def check_new_topic(self, name: str, *, partitions: int, replication_factor: int, configs: dict[str, str]) -> TopicInfo:
        """What ``create_topic`` would make, as far as this node knows; nothing is made, and nobody is asked.

        Raises:
            InvalidRequestError, TopicExistsError: why it would be refused.
        """
        ...

    async def alter_topic(
        self, name: str, *, set_configs: dict[str, str], unset_configs: Sequence[str], partitions: int = 0
    ) -> TopicInfo:
        """Change configs, or raise the number of partitions."""
        ...

    async def delete_topic(self, name: str) -> None:
        """Delete a topic and, on every node, its data."""
        ...

    def topics(self) -> list[TopicInfo]:
        """All topics this node knows, by name."""
        ...

    def topic(self, name: str) -> TopicInfo:
        """One topic.

        Raises:
            UnknownTopicOrPartitionError
        """
        ...

    def cluster(self) -> ClusterInfo:
        """Nodes, cluster id and controller."""
        ...

    async def raise_level(self, level: int, *, dry_run: bool, without: Sequence[int] = ()) -> LevelReport:
        """Raise the cluster's feature level (0: to the newest that all nodes support), or say what would come of it.

        Args:
            without: nodes that do not count, though they are part of the cluster.

        Raises:
            FeatureLevelError: some node holds the cluster back.
            UnavailableError, NotLeaderError: nobody leads group 0; nothing was done.
            IndeterminateError: the outcome is unknown; it may be done again.
        """
        ...

    def replicas(self) -> list[ReplicaStatus]:
        """This node's replicas, the metadata group's first."""
        ...

    def storage_usage(self) -> StorageUsage:
        """This node's storage."""
        ...
