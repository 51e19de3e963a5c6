"""Group 0's values as rows and back. Rows of older versions are read: what they lack has a meaning for each field."""

from __future__ import annotations

from collections.abc import Iterable

from raftlog.core.features import Level, check_form
from raftlog.core.metadata_values import PartitionMeta, Replica, TopicMeta
from raftlog.model import NodeInfo, NodeStatus
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb

TABLE_NODES = 1
"""Key: node id as 4 bytes, big endian; value: ``NodeRow``."""
TABLE_TOPICS = 2
"""Key: the topic's UUID; value: ``TopicRow``."""
TABLE_COUNTERS = 3
"""One row; value: ``CountersRow``."""
TABLE_FEATURES = 4
"""One row; value: ``FeaturesRow``. Only at levels above the first."""
TABLES = (TABLE_NODES, TABLE_TOPICS, TABLE_COUNTERS, TABLE_FEATURES)
_COUNTERS_KEY = b"counters"
_FEATURES_KEY = b"features"
FIRST_REPLICA = 1
"""Replica id of all members of a group of the first level: it never has others than it was created with."""

Row = tuple[int, bytes, bytes]

_STATUSES = {
    pb.NODE_STATUS_UNSPECIFIED: NodeStatus.ACTIVE,
    pb.NODE_STATUS_ACTIVE: NodeStatus.ACTIVE,
    pb.NODE_STATUS_DRAINING: NodeStatus.DRAINING,
    pb.NODE_STATUS_REMOVED: NodeStatus.REMOVED,
}
STATUSES = {
    NodeStatus.ACTIVE: pb.NODE_STATUS_ACTIVE,
    NodeStatus.DRAINING: pb.NODE_STATUS_DRAINING,
    NodeStatus.REMOVED: pb.NODE_STATUS_REMOVED,
}
"""A node's status as the protocol has it."""


def status_of(status: pb.NodeStatus.ValueType) -> NodeStatus | None:
    """A status of a command or row, None where a newer version made it up."""
    return _STATUSES.get(status)


def register_command(node: NodeInfo) -> pb.RegisterNode:
    """The command that registers a node's addresses."""
    return pb.RegisterNode(
        node_id=node.node_id,
        peer_address=node.peer_address,
        grpc_address=node.grpc_address,
        kafka_address=node.kafka_address,
        admin_address=node.admin_address,
        rack=node.rack,
        kafka_listeners=[pb.KafkaListener(name=name, address=address) for name, address in node.kafka_listeners],
        incarnation=node.incarnation,
        level_min=node.level_min,
        level_max=node.level_max,
    )


def node_of(row: pb.RegisterNode | pb.NodeRow, status: NodeStatus = NodeStatus.ACTIVE) -> NodeInfo:
    """The node that a command or row names."""
    return NodeInfo(
        node_id=row.node_id,
        peer_address=row.peer_address,
        grpc_address=row.grpc_address,
        kafka_address=row.kafka_address,
        admin_address=row.admin_address,
        rack=row.rack,
        kafka_listeners=tuple((listener.name, listener.address) for listener in row.kafka_listeners),
        incarnation=row.incarnation or 1,
        status=status,
        level_min=row.level_min or Level.FIRST,
        level_max=row.level_max or Level.FIRST,
    )


def node_row(node: NodeInfo, join_id: bytes, *, level: int) -> Row:
    """The row of a node, and of the join that made it a member; ``level`` is the cluster's."""
    row = pb.NodeRow(
        node_id=node.node_id,
        peer_address=node.peer_address,
        grpc_address=node.grpc_address,
        kafka_address=node.kafka_address,
        admin_address=node.admin_address,
        rack=node.rack,
        kafka_listeners=[pb.KafkaListener(name=name, address=address) for name, address in node.kafka_listeners],
        incarnation=node.incarnation,
        status=STATUSES[node.status],
        join_id=join_id,
        level_min=node.level_min,
        level_max=node.level_max,
        level=_form(level),
    )
    return TABLE_NODES, node.node_id.to_bytes(4, "big"), row.SerializeToString(deterministic=True)


def node_of_row(value: bytes) -> tuple[NodeInfo, bytes]:
    """A node and the id of its join. A status of a newer version counts as draining: nothing is placed on such a node."""
    row = pb.NodeRow.FromString(value)
    check_form(row.level, f"the row of node {row.node_id}")
    return node_of(row, status_of(row.status) or NodeStatus.DRAINING), row.join_id


def topic_row(topic: TopicMeta, *, level: int) -> Row:
    """The row of a topic with its partitions; ``level`` is the cluster's."""
    row = pb.TopicRow(
        name=topic.name,
        topic_id=topic.topic_id,
        replication_factor=topic.replication_factor,
        partitions=[_partition_row(partition, level) for partition in topic.partitions],
        configs=dict(topic.configs),
        created_at_ms=topic.created_at_ms,
        level=_form(level),
    )
    return TABLE_TOPICS, topic.topic_id, row.SerializeToString(deterministic=True)


def topic_of_row(value: bytes) -> TopicMeta:
    """A topic with its partitions."""
    row = pb.TopicRow.FromString(value)
    check_form(row.level, f"the row of topic {row.name!r}")
    return TopicMeta(
        name=row.name,
        topic_id=row.topic_id,
        replication_factor=row.replication_factor,
        partitions=tuple(_partition_of(partition) for partition in row.partitions),
        configs=dict(row.configs),
        created_at_ms=row.created_at_ms,
    )


def counters_row(next_group_id: int, next_producer_id: int, unknown_below: int, incarnation_min: int) -> Row:
    """The row of the counters."""
    row = pb.CountersRow(
        next_group_id=next_group_id,
        next_producer_id=next_producer_id,
        unknown_below=unknown_below,
        incarnation_min=incarnation_min,
    )
    return TABLE_COUNTERS, _COUNTERS_KEY, row.SerializeToString(deterministic=True)


def counters_of_row(value: bytes) -> tuple[int, int, int, int]:
    """What ``counters_row`` was given."""
    row = pb.CountersRow.FromString(value)
    check_form(row.level, "the row of the metadata's counters")
    return row.next_group_id, row.next_producer_id, row.unknown_below, row.incarnation_min


def features_row(level: int, raised_index: int) -> Row:
    """The row of the cluster's feature level."""
    row = pb.FeaturesRow(cluster_level=level, raised_index=raised_index)
    return TABLE_FEATURES, _FEATURES_KEY, row.SerializeToString(deterministic=True)


def features_of_row(value: bytes) -> tuple[int, int]:
    """(the cluster's feature level, index of the entry that raised it)."""
    row = pb.FeaturesRow.FromString(value)
    check_form(row.level, "the row of the cluster's feature level")
    check_form(row.cluster_level, "the cluster")
    return row.cluster_level, row.raised_index


def replica_rows(replicas: Iterable[Replica]) -> list[pb.ReplicaRow]:
    """Replicas as the protocol has them."""
    return [pb.ReplicaRow(node_id=node, replica_id=replica) for node, replica in replicas]


def replicas_of(rows: Iterable[pb.ReplicaRow]) -> tuple[Replica, ...]:
    """Replicas as values."""
    return tuple((row.node_id, row.replica_id) for row in rows)


def _form(level: int) -> int:
    """What a row says of its form at a level of the cluster: the first version says nothing."""
    return level if level > Level.FIRST else 0


def _partition_row(partition: PartitionMeta, level: int) -> pb.PartitionRow:
    if level < Level.MEMBERSHIP:
        replicas = [pb.ReplicaRow(node_id=node, replica_id=number) for number, node in enumerate(partition.nodes, start=1)]
        return pb.PartitionRow(group_id=partition.group_id, replicas=replicas, created_index=partition.created_index)
    return pb.PartitionRow(
        group_id=partition.group_id,
        replicas=replica_rows(partition.replicas),
        created_index=partition.created_index,
        founders=replica_rows(partition.founders),
        next_replica_id=partition.next_replica_id,
        leaving=replica_rows(partition.leaving),
        lost=replica_rows(partition.lost),
        placed_index=partition.placed_index,
        reason=partition.reason,
        placed_at_ms=partition.placed_at_ms,
        before=partition.before,
    )


def _partition_of(row: pb.PartitionRow) -> PartitionMeta:
    replicas = replicas_of(row.replicas)
    if not row.founders:
        replicas = tuple((node, FIRST_REPLICA) for node, _ in replicas)
    return PartitionMeta(
        group_id=row.group_id,
        replicas=replicas,
        created_index=row.created_index,
        founders=replicas_of(row.founders) or replicas,
        next_replica_id=row.next_replica_id or len(replicas) + 1,
        leaving=replicas_of(row.leaving),
        lost=replicas_of(row.lost),
        placed_index=row.placed_index or row.created_index,
        reason=row.reason,
        placed_at_ms=row.placed_at_ms,
        before=tuple(row.before),
    )
