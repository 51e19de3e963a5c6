"""The broker's limits, in one value. Each says why it is there; Kafka's name of the key stands beside it where it has one."""

from __future__ import annotations

from dataclasses import dataclass, field

from raftlog.core.groups.limits import GroupLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """What a node may choose for its broker. ``_s`` are seconds, for timers; ``_ms`` milliseconds, as users see them."""

    queued_bytes_max: int = 64 * 1024 * 1024
    """Bytes of publishes appended and not yet resolved on this node; more are refused. (Kafka: queued.max.request.bytes)"""
    fetch_bytes_max: int = 55 * 1024 * 1024
    """Most bytes that one fetch reads, whatever it asks for. (Kafka: fetch.max.bytes)"""
    fetches_waiting_max: int = 10_000
    """Fetches that may wait for new records at a time: each holds a future and a timer."""
    retention_check_interval_ms: int = 300_000
    """(Kafka: log.retention.check.interval.ms)"""
    producer_id_expiration_ms: int = 86_400_000
    """A producer that was silent so long is forgotten. (Kafka: producer.id.expiration.ms)"""
    num_partitions: int = 1
    """Partitions of a topic whose creator named none. (Kafka: num.partitions)"""
    default_replication_factor: int = 3
    """Replicas of a topic whose creator named no number, or as many as there are nodes. (Kafka: default.replication.factor)"""
    partitions_per_topic_max: int = 1_000
    """Each partition is a Raft group with a few kilobytes of state on every replica, and a topic is one row."""
    leader_wait_s: float = 1.0
    """How long metadata calls wait for a leader before they say that there is none: an election takes about that."""
    topic_leaders_wait_s: float = 2.0
    """How long creating a topic waits for its partitions' leaders; it succeeds without them too."""
    leadership_lost_wait_s: float = 1.0
    """After leadership is lost, how long publishes wait to learn what became of their batches."""
    metadata_timeout_s: float = 10.0
    """A metadata command that is not decided by then has an unknown outcome."""
    metadata_calls_max: int = 1_000
    """Metadata commands that may wait for their turn on the leader: they are decided one at a time."""
    call_timeout_s: float = 10.0
    """Calls to another broker that wait for nothing: lookups and statuses."""
    call_margin_s: float = 0.5
    """What a forwarded call gets beyond the wait that its sender asked for, so that the other node's answer wins."""
    stop_wait_s: float = 5.0
    """How long a stopping node lets waiting publishes finish."""

    moves_catching_up_max: int = 16
    """Replicas of the whole cluster that catch up at a time: each is read by a leader and written by another node."""
    moves_catching_up_per_node_max: int = 4
    """Replicas of one node that catch up at a time: its disk is one."""
    replica_replacement_delay_ms: int = 30 * 60_000
    """A node that was down for so long is dead: its replicas are made anew elsewhere."""
    balance_moves_max: int = 200
    """Replicas that one call to balance moves: what is left needs another call."""
    auto_replica_rebalance_enable: bool = True
    """Whether replicas are spread evenly without being told."""
    rebalance_moves_max: int = 4
    """Replicas that move at a time when nobody asked for it."""
    auto_leader_rebalance_enable: bool = True
    """Whether leaders go back to their preferred replicas without being told. (Kafka: auto.leader.rebalance.enable)"""
    leader_imbalance_check_interval_ms: int = 300_000
    """How often balance is looked at. (Kafka: leader.imbalance.check.interval.seconds)"""
    leader_imbalance_per_broker_percentage: int = 10
    """A node may lead so much less of what it is preferred for. (Kafka: leader.imbalance.per.broker.percentage)"""

    offsets_topic_num_partitions: int = 8
    """Coordinators of the cluster: each is a Raft group, and a group of consumers belongs to one. Fixed once the internal topic
    is there. (Kafka: offsets.topic.num.partitions)"""
    offsets_topic_replication_factor: int = 3
    """Replicas of each, or as many as there are nodes. (Kafka: offsets.topic.replication.factor)"""
    groups: GroupLimits = field(default_factory=GroupLimits)
    """What a group may be."""
    groups_per_coordinator_max: int = 10_000
    """Groups of one coordinator: it holds them in memory, some kilobytes for each with members."""
    offsets_per_coordinator_max: int = 200_000
    """Committed offsets of one coordinator: it holds them in memory, some hundred bytes each."""
    offset_metadata_max_bytes: int = 4_096
    """Longest text beside a committed offset. (Kafka: offset.metadata.max.bytes)"""
    offset_commit_max_bytes: int = 4 * 1024 * 1024
    """Offsets of one commit: it is one entry."""
    offsets_retention_ms: int = 7 * 86_400_000
    """How long offsets outlive the last member of their group. (Kafka: offsets.retention.minutes)"""
    offsets_retention_check_interval_ms: int = 600_000
    """(Kafka: offsets.retention.check.interval.ms)"""
    offsets_commit_timeout_s: float = 5.0
    """A commit that is not decided by then has an unknown outcome. (Kafka: offsets.commit.timeout.ms)"""
    coordinator_wait_s: float = 2.0
    """How long calls of groups wait for their coordinator's election before they say that there is none."""
    group_wait_max_s: float = 3_600.0
    """How long a join or sync waits in any case: groups end their rebalances by their members' own timeouts long before."""
    group_forwarded_waits_max: int = 96
    """Joins and syncs that may wait on one other node: with the fetches that may, they leave some of a link's calls to others."""
