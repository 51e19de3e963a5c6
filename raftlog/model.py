"""Values that several layers speak of: ids, topics, partitions, nodes. No behaviour beyond their own checks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum

METADATA_GROUP = 0
"""Group id of the cluster's metadata; data partitions have ids from 1, never reused."""

METADATA_REPLICA = 1
"""Replica id of the metadata group's founders, each on its own node."""

NO_PRODUCER = -1
"""Producer id of a batch that is not idempotent (Kafka's batch v2)."""


class Acks(IntEnum):
    """What an acknowledgement means; the numbers are Kafka's."""

    NONE = 0
    """Answered once the batch is checked; may be lost."""
    LEADER = 1
    """Durable on the leader; may be lost with it."""
    ALL = -1
    """Durable on a majority; never lost."""


class Role(Enum):
    """What a replica is in its Raft group right now."""

    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"


class NodeStatus(Enum):
    """Whether replicas are placed on a node."""

    ACTIVE = "active"
    DRAINING = "draining"
    """Its replicas go elsewhere, and none come."""
    REMOVED = "removed"
    """Not part of the cluster any more."""


@dataclass(frozen=True, slots=True, order=True)
class TopicPartition:
    """A partition by topic name and number (from 0)."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """A node as registered with the cluster. Addresses are advertised ``host:port``, empty where there is no such door.

    ``kafka_listeners`` are (name, address) of all Kafka listeners; ``kafka_address`` is the first one's address.
    """

    node_id: int
    peer_address: str
    grpc_address: str
    kafka_address: str = ""
    admin_address: str = ""
    rack: str = ""
    alive: bool = True
    kafka_listeners: tuple[tuple[str, str], ...] = ()
    status: NodeStatus = NodeStatus.ACTIVE
    incarnation: int = 1
    """Which disk of the node this is: it rises each time the node comes back empty. Also its replica id in group 0."""
    level_min: int = 1
    level_max: int = 1
    """The feature levels that it supports (``raftlog.core.features``)."""

    def registers_as(self, other: NodeInfo) -> bool:
        """Whether both have the same addresses, disk and version, whatever the node's state."""
        return self == replace(other, alive=self.alive, status=self.status)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionInfo:
    """One partition as the answering node sees it. ``leader`` is a node id, or None while there is none known."""

    topic: str
    partition: int
    group_id: int
    replicas: tuple[int, ...]
    leader: int | None
    leader_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicInfo:
    """A topic: its UUID (hex, no dashes), its partitions by number, and the configs that were set on it."""

    name: str
    topic_id: str
    partitions: tuple[PartitionInfo, ...]
    replication_factor: int
    configs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterInfo:
    """The cluster as the answering node sees it. ``controller`` is the node that leads the metadata group."""

    cluster_id: str
    controller: int | None
    nodes: tuple[NodeInfo, ...]
    level: int = 1
    """The feature level that it is at."""
    level_index: int = 0
    """The entry of the metadata group that made it so; 0 where it was never raised."""
    supported: tuple[int, int] = (1, 1)
    """The lowest and the highest level that the answering node supports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSupport:
    """The feature levels that a node says its version supports; both 0 where it did not say. ``version`` is raftlog's."""

    node_id: int
    level_min: int = 0
    level_max: int = 0
    version: str = ""
    problem: str = ""
    """Why it holds the cluster back; empty where it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelReport:
    """What came of raising the cluster's feature level, or would come of it."""

    level: int
    """The cluster's before."""
    target: int
    raised: bool
    nodes: tuple[NodeSupport, ...]

    @property
    def held_back(self) -> str:
        """Who holds the cluster back, and why; empty where nobody does."""
        return "; ".join(f"node {node.node_id}: {node.problem}" for node in self.nodes if node.problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """A replica as its own node sees it: for ``partition describe``, metrics and health."""

    topic: str
    partition: int
    group_id: int
    node_id: int
    role: Role
    term: int
    leader: int | None
    first_index: int
    last_index: int
    commit_index: int
    applied_index: int
    log_start_offset: int
    high_watermark: int
    log_end_offset: int
    size_bytes: int
    damaged: bool = False
    waits_for: str = ""
    """Of a damaged one: what it waits for before it is filled again, in words."""
    unclean_at_ms: int = 0
    """When this replica was made the group's only voter by force, milliseconds since the epoch; 0 where it was not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A partition whose replicas are not yet what is wanted. Nodes are ids."""

    tp: TopicPartition
    group_id: int
    replicas: tuple[int, ...]
    """Wanted, the preferred leader first."""
    adding: tuple[int, ...]
    """Wanted, and no voters yet."""
    removing: tuple[int, ...]
    """Not wanted any more, and still there."""
    reason: str
    state: str
    """What it does, or waits for, in words."""
    started_at_ms: int
    held_up: bool = False
    """It waits for a node that is down, or a leader."""
    bytes_total: int = 0
    """To be copied to the one that catches up; 0 while there is none."""
    bytes_done: int = 0
    rate: float = 0.0
    """Bytes a second lately; 0 while it is not known."""
    seconds_left: float | None = None
    """Until that one has caught up; None while it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """Other replicas for a partition, or another order of them. Nodes are ids, the preferred leader first."""

    tp: TopicPartition
    before: tuple[int, ...]
    replicas: tuple[int, ...]
    reason: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Balanced:
    """What balancing changes, or would change; ``stuck`` says in words what could not be placed anywhere."""

    replacements: tuple[Replacement, ...]
    stuck: tuple[str, ...] = ()
