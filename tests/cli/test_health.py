"""Health in plain words, from what the nodes say."""

from __future__ import annotations

from dataclasses import replace

from raftlog.cli.health import LAG_ENTRIES_MAX, findings
from raftlog.client.values import NodeReplicas, Partition, StorageInfo
from raftlog.model import METADATA_GROUP, NodeInfo, ReplicaStatus, Role

NODES = [NodeInfo(node_id=n, peer_address=f"h:{n}", grpc_address=f"h:10{n}") for n in (1, 2, 3)]
PARTITIONS = [Partition(topic="t", partition=0, leader=1, leader_address="h:101", leader_epoch=3, replicas=(1, 2, 3))]
STORAGE = StorageInfo(
    used_bytes=1 << 20, file_bytes=1 << 21, limit_bytes=0, disk_free_bytes=1 << 30,
    full=False, room_bytes=1 << 30, low=False, shortage="",
)  # fmt: skip


def replica(node_id: int) -> ReplicaStatus:
    """A healthy replica of t-0; node 1 leads."""
    return ReplicaStatus(
        topic="t",
        partition=0,
        group_id=5,
        node_id=node_id,
        role=Role.LEADER if node_id == 1 else Role.FOLLOWER,
        term=3,
        leader=1,
        first_index=1,
        last_index=1_000,
        commit_index=1_000,
        applied_index=1_000,
        log_start_offset=0,
        high_watermark=900,
        log_end_offset=900,
        size_bytes=1,
    )


def healthy() -> dict[int, NodeReplicas | str]:
    """Three nodes that answer."""
    return {n: NodeReplicas(node_id=n, replicas=(replica(n),), storage=STORAGE) for n in (1, 2, 3)}


def kinds(answers: dict[int, NodeReplicas | str]) -> list[str]:
    """What is found."""
    return [finding.kind for finding in findings(NODES, PARTITIONS, answers)]


def with_replica(node_id: int, **changes: object) -> dict[int, NodeReplicas | str]:
    """Three nodes that answer, and one replica that is not well."""
    changed = replace(replica(node_id), **changes)  # type: ignore[arg-type]
    return {**healthy(), node_id: NodeReplicas(node_id=node_id, replicas=(changed,), storage=STORAGE)}


def test_a_healthy_cluster_has_no_findings() -> None:
    """Nothing is invented."""
    assert kinds(healthy()) == []


def test_a_node_that_does_not_answer_is_down() -> None:
    """With the reason."""
    found = findings(NODES, PARTITIONS, {**healthy(), 2: "connection refused"})
    assert [(finding.kind, "connection refused" in finding.text) for finding in found] == [("node_down", True)]


def test_a_partition_whose_leader_is_down_has_no_leader() -> None:
    """As long as no other leads."""
    assert kinds({**healthy(), 1: "gone"}) == ["node_down", "no_leader"]


def test_a_partition_that_nobody_holds_is_found() -> None:
    """By the list of topics."""
    assert kinds(dict.fromkeys((1, 2, 3), "gone")) == ["node_down", "node_down", "node_down", "no_replica"]


def test_a_replica_far_behind_lags() -> None:
    """A few entries are normal."""
    assert kinds(with_replica(3, last_index=1_000 - LAG_ENTRIES_MAX)) == []
    assert kinds(with_replica(3, last_index=999 - LAG_ENTRIES_MAX)) == ["replica_lagging"]


def test_damage_is_found() -> None:
    """Of one replica, with what becomes of it."""
    assert kinds(with_replica(2, damaged=True)) == ["replica_damaged"]
    [now] = findings(NODES, PARTITIONS, with_replica(2, damaged=True))
    assert now.text.endswith("a new one takes its place in a moment, and is filled from the others")
    [waits] = findings(NODES, PARTITIONS, with_replica(2, damaged=True, waits_for="nobody leads"))
    assert waits.text.endswith("a new one will be filled from the others, but waits (nobody leads)")
    [metadata, *_] = findings(NODES, PARTITIONS, with_replica(2, damaged=True, group_id=METADATA_GROUP))
    assert "move `log` out of its data directory" in metadata.text


def test_a_full_storage_is_found_and_one_that_soon_will_be() -> None:
    """With the reason, or with the room that is left."""
    full = replace(STORAGE, full=True, low=True, room_bytes=0, shortage="the disk is too small")
    low = replace(STORAGE, low=True, room_bytes=5 << 20)
    answers = {
        **healthy(),
        2: NodeReplicas(node_id=2, replicas=(replica(2),), storage=full),
        3: NodeReplicas(node_id=3, replicas=(replica(3),), storage=low),
    }
    assert kinds(answers) == ["storage_full", "storage_low"]
    texts = [finding.text for finding in findings(NODES, PARTITIONS, answers)]
    assert "the disk is too small" in texts[0]
    assert "5.0 MiB" in texts[1]


def test_a_group_that_went_on_without_its_majority_is_found() -> None:
    """With the node and the time, for as long as its disk remembers."""
    answers = with_replica(1, unclean_at_ms=1_700_000_000_000)
    assert kinds(answers) == ["unclean"]
    (found,) = findings(NODES, PARTITIONS, answers)
    assert "t-0 lost its majority, and goes on from the replica on node 1 since 2023-11-14 22:13:20Z" in found.text


def test_an_old_leader_does_not_hide_lag() -> None:
    """The leader of the highest term counts."""
    assert kinds(with_replica(2, role=Role.LEADER, term=2, last_index=10)) == ["replica_lagging"]
