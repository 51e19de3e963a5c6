"""What the metrics page holds."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from prometheus_client.parser import text_string_to_metric_families

from raftlog.admin.metrics import NodeMetrics
from raftlog.broker.group_port import GroupState
from raftlog.broker.port import Broker
from raftlog.gateway.port import GatewayMetrics
from raftlog.model import ClusterInfo, Move, NodeInfo, ReplicaStatus, Role, TopicPartition
from raftlog.storage.port import StorageUsage

REPLICA = ReplicaStatus(
    topic="t",
    partition=2,
    group_id=7,
    node_id=1,
    role=Role.LEADER,
    term=5,
    leader=1,
    first_index=10,
    last_index=19,
    commit_index=18,
    applied_index=17,
    log_start_offset=100,
    high_watermark=200,
    log_end_offset=201,
    size_bytes=4096,
)
METADATA = dataclasses.replace(REPLICA, topic="", partition=-1, group_id=0, role=Role.FOLLOWER, leader=None)


class StateOnly:
    """The part of a broker that a scrape reads."""

    node_id = 1

    def replicas(self) -> list[ReplicaStatus]:
        return [METADATA, REPLICA]

    def storage_usage(self) -> StorageUsage:
        return StorageUsage(used_bytes=1, file_bytes=2, limit_bytes=3, disk_free_bytes=4, room_bytes=5, low=True, shortage="full")

    def cluster(self) -> ClusterInfo:
        nodes = tuple(NodeInfo(node_id=n, peer_address="", grpc_address="", alive=n != 3) for n in (1, 2, 3))
        return ClusterInfo(cluster_id="c1", controller=1, nodes=nodes, level=1, supported=(1, 2))


class Moves:
    """Two moves, one of them held up."""

    steps: ClassVar = {"add": 3, "remove": 1}
    renewed = 2

    def under_way(self) -> list[Move]:
        one = Move(
            tp=TopicPartition("t", 1), group_id=1, replicas=(1,), adding=(1,), removing=(), reason="", state="", started_at_ms=0,
            bytes_total=100, bytes_done=60, rate=8.0,
        )  # fmt: skip
        return [one, dataclasses.replace(one, bytes_done=0, rate=0.0, held_up=True)]


class Groups:
    """The figures of groups."""

    commits, commits_refused, rebalances = 3, 2, 1

    def states(self) -> dict[GroupState, int]:
        return {GroupState.STABLE: 4}


def scrape(metrics: NodeMetrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All samples by name and labels, as Prometheus would read them."""
    families = text_string_to_metric_families(metrics.page().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def node_metrics() -> NodeMetrics:
    """Metrics over the state above."""
    broker: Broker = StateOnly()  # type: ignore[assignment]
    return NodeMetrics(broker, version="1.2.3", groups=Groups(), moves=Moves())


def test_replicas_are_shown_with_their_labels() -> None:
    """Offsets, role, term and indexes; the metadata group has no topic."""
    samples = scrape(node_metrics())
    labels = (("group", "7"), ("partition", "2"), ("topic", "t"))
    expected = {
        "partition_log_start_offset": 100,
        "partition_high_watermark": 200,
        "partition_log_end_offset": 201,
        "partition_size_bytes": 4096,
        "replica_is_leader": 1,
        "replica_has_leader": 1,
        "replica_damaged": 0,
        "raft_term": 5,
        "raft_first_index": 10,
        "raft_last_index": 19,
        "raft_commit_index": 18,
        "raft_applied_index": 17,
    }
    assert {name: samples[f"raftlog_{name}", labels] for name in expected} == expected
    metadata = (("group", "0"), ("partition", ""), ("topic", ""))
    assert samples["raftlog_replica_is_leader", metadata] == samples["raftlog_replica_has_leader", metadata] == 0


def test_storage_and_peers_are_shown() -> None:
    """Bytes as they are, a flag as 0 or 1, peers without this node."""
    samples = scrape(node_metrics())
    expected = {
        "storage_used_bytes": 1,
        "storage_file_bytes": 2,
        "storage_limit_bytes": 3,
        "storage_disk_free_bytes": 4,
        "storage_room_bytes": 5,
        "storage_low": 1,
        "storage_full": 1,
        "peers_connected": 1,
        "peers_known": 2,
    }
    assert {name: samples[f"raftlog_{name}", ()] for name in expected} == expected
    info = (("cluster_id", "c1"), ("node_id", "1"), ("version", "1.2.3"))
    assert samples["raftlog_node_info", info] == 1


def test_traffic_is_counted() -> None:
    """What the gateway reports adds up, in base units."""
    metrics = node_metrics()
    gateway: GatewayMetrics = metrics
    gateway.published(3, 1_000, 0.004)
    gateway.published(1, 24, 0.2)
    gateway.fetched(500)
    gateway.failed("NOT_LEADER")
    gateway.failed("NOT_LEADER")
    samples = scrape(metrics)
    assert samples["raftlog_publish_batches_total", ()] == 4
    assert samples["raftlog_publish_bytes_total", ()] == 1_024
    assert samples["raftlog_fetch_bytes_total", ()] == 500
    assert samples["raftlog_grpc_errors_total", (("reason", "NOT_LEADER"),)] == 2
    assert samples["raftlog_publish_seconds_count", ()] == 2
    assert samples["raftlog_publish_seconds_bucket", (("le", "0.005"),)] == 1
    assert samples["raftlog_publish_seconds_sum", ()] == 0.004 + 0.2


def test_the_process_is_shown() -> None:
    """Memory, CPU and open files, under the names that dashboards know."""
    samples = scrape(node_metrics())
    assert samples["raftlog_process_resident_memory_bytes", ()] > 1_000_000
    assert ("raftlog_process_cpu_seconds_total", ()) in samples
    assert ("raftlog_process_open_fds", ()) in samples


def test_two_nodes_in_one_process_do_not_mix() -> None:
    """Each has a registry of its own."""
    first, second = node_metrics(), node_metrics()
    first.fetched(5)
    assert scrape(second)["raftlog_fetch_bytes_total", ()] == 0


def test_the_kafka_door_counts_requests_errors_connections_and_bytes() -> None:
    """Each under its own name, requests by API and errors by code."""
    metrics = node_metrics()
    metrics.kafka.request("Fetch", 0.003)
    metrics.kafka.request("Fetch", 0.004)
    metrics.kafka.error(6)
    metrics.kafka.connections(1)
    metrics.kafka.connections(1)
    metrics.kafka.connections(-1)
    metrics.kafka.produced(2, 300)
    metrics.kafka.fetched(7)
    page = metrics.page().decode()
    for line in (
        'raftlog_kafka_request_seconds_count{api="Fetch"} 2.0',
        'raftlog_kafka_errors_total{code="6"} 1.0',
        "raftlog_kafka_connections 1.0",
        "raftlog_kafka_produce_batches_total 2.0",
        "raftlog_kafka_produce_bytes_total 300.0",
        "raftlog_kafka_fetch_bytes_total 7.0",
    ):
        assert line in page


def test_groups_are_counted_by_state_and_what_became_of_their_commits() -> None:
    """Every state is there, so that a graph has no gaps."""
    samples = scrape(node_metrics())
    by_state = {dict(labels)["state"]: value for (name, labels), value in samples.items() if name == "raftlog_groups"}
    assert by_state == {"Empty": 0, "PreparingRebalance": 0, "CompletingRebalance": 0, "Stable": 4, "Dead": 0}
    assert samples["raftlog_group_commits_total", ()] == 3
    assert samples["raftlog_group_commits_refused_total", ()] == 2
    assert samples["raftlog_group_rebalances_total", ()] == 1


def test_what_is_on_the_move_is_shown() -> None:
    """How much, how fast, what is held up, which steps were taken, and how many nodes are being drained."""
    samples = scrape(node_metrics())
    expected = {"moves": 2, "moves_waiting": 1, "moves_bytes_left": 140, "moves_bytes_per_second": 8}
    assert {name: samples[f"raftlog_{name}", ()] for name in expected} == expected
    assert samples["raftlog_move_steps_total", (("step", "add"),)] == 3
    assert samples["raftlog_replicas_renewed_total", ()] == 2
    assert (samples["raftlog_feature_level", ()], samples["raftlog_feature_level_supported", ()]) == (1, 2)
    assert samples["raftlog_nodes", (("status", "active"),)] == 3
    assert samples["raftlog_nodes", (("status", "draining"),)] == 0
