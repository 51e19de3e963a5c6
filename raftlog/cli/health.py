"""What is wrong with a cluster, in plain words: a pure function of what its nodes say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raftlog.cli.output import human_bytes, utc
from raftlog.client.values import NodeReplicas, Partition
from raftlog.model import METADATA_GROUP, Move, NodeInfo, ReplicaStatus, Role

LAG_ENTRIES_MAX = 100
"""A healthy replica is a few entries behind its leader; one that is this far behind is catching up, or cannot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong. ``kind`` is a stable name for scripts, ``text`` what a person reads."""

    kind: str
    text: str


def findings(
    nodes: Sequence[NodeInfo],
    partitions: Sequence[Partition],
    answers: Mapping[int, NodeReplicas | str],
    moves: Sequence[Move] = (),
) -> list[Finding]:
    """Everything that is wrong.

    Args:
        nodes: all nodes that ever joined.
        partitions: those of all topics.
        answers: for each node, its replicas, or why it did not answer.
        moves: what is on the move: a replica that comes is behind, and nothing is wrong with that.
    """
    heard = {node_id: answer for node_id, answer in answers.items() if isinstance(answer, NodeReplicas)}
    found = [
        Finding(kind="node_down", text=f"node {node.node_id} ({node.grpc_address}) does not answer: {answers.get(node.node_id)}")
        for node in nodes
        if node.node_id not in heard
    ]
    found += _storage(heard)
    groups: dict[int, dict[int, ReplicaStatus]] = {}
    for node_id, answer in heard.items():
        for replica in answer.replicas:
            groups.setdefault(replica.group_id, {})[node_id] = replica
    coming = {move.group_id: move.adding for move in moves}
    for group, replicas in sorted(groups.items()):
        found += _group(replicas, coming.get(group, ()))
    held = {(replica.topic, replica.partition) for replicas in groups.values() for replica in replicas.values()}
    found += [
        Finding(kind="no_replica", text=f"{partition.topic}-{partition.partition} is on no node that answers")
        for partition in partitions
        if (partition.topic, partition.partition) not in held
    ]
    return found


def _storage(heard: Mapping[int, NodeReplicas]) -> list[Finding]:
    found = []
    for node_id, storage in ((node_id, answer.storage) for node_id, answer in sorted(heard.items())):
        if storage.full:
            found.append(Finding(kind="storage_full", text=f"node {node_id} refuses to publish: {storage.shortage}"))
        elif storage.low:
            left = human_bytes(storage.room_bytes)
            text = f"node {node_id} is short of room: after some {left} more it will refuse to publish"
            found.append(Finding(kind="storage_low", text=text))
    return found


def _group(replicas: Mapping[int, ReplicaStatus], coming: Sequence[int]) -> list[Finding]:
    sample = next(iter(replicas.values()))
    name = "the cluster's metadata" if sample.group_id == METADATA_GROUP else f"{sample.topic}-{sample.partition}"
    found = [_damaged(name, node_id, replica) for node_id, replica in sorted(replicas.items()) if replica.damaged]
    found += [_unclean(name, node_id, replica) for node_id, replica in sorted(replicas.items()) if replica.unclean_at_ms]
    leaders = [replica for replica in replicas.values() if replica.role is Role.LEADER]
    if not leaders:
        found.append(Finding(kind="no_leader", text=f"{name} has no leader: nothing can be published there"))
        return found
    leader = max(leaders, key=lambda replica: replica.term)
    for node_id, replica in sorted(replicas.items()):
        behind = leader.last_index - replica.last_index
        if behind > LAG_ENTRIES_MAX and node_id not in coming:
            text = f"the replica of {name} on node {node_id} is {behind} entries behind its leader, node {leader.node_id}"
            found.append(Finding(kind="replica_lagging", text=text))
    return found


def _damaged(name: str, node_id: int, replica: ReplicaStatus) -> Finding:
    text = f"the replica of {name} on node {node_id} is damaged, some stored bytes fail their check: "
    if replica.group_id == METADATA_GROUP:
        text += "stop that node, move `log` out of its data directory and start it again, and it is filled from the others"
    elif replica.waits_for:
        text += f"a new one will be filled from the others, but waits ({replica.waits_for})"
    else:
        text += "a new one takes its place in a moment, and is filled from the others"
    return Finding(kind="replica_damaged", text=text)


def _unclean(name: str, node_id: int, replica: ReplicaStatus) -> Finding:
    text = (
        f"{name} lost its majority, and goes on from the replica on node {node_id} since {utc(replica.unclean_at_ms)}: records"
        " that were acknowledged before may be missing (once that is dealt with: raftlog storage forget-unclean)"
    )
    return Finding(kind="unclean", text=text)
