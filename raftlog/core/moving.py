"""How a partition's wanted replicas change: placed elsewhere, seen to have left, or lost with their disk.

Rules:

1. A replica id is given out once. A replica that comes back to its node before it has left gets its own id again, for it
   has kept all that it ever promised; one whose disk is lost never does.
2. What leaves stays in ``leaving`` until the group's configuration is known not to hold it: until then it may be needed for
   a majority, so its node keeps it open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raftlog.core.metadata_values import PartitionMeta, Replica


def placed(partition: PartitionMeta, nodes: Sequence[int], *, index: int, reason: str, at_ms: int) -> PartitionMeta:
    """The partition with replicas wanted on ``nodes``, the preferred leader first; ``index`` is the metadata entry's."""
    known = dict(partition.leaving + partition.replicas)
    next_id = partition.next_replica_id
    wanted: list[Replica] = []
    for node in nodes:
        if node in known:
            wanted.append((node, known[node]))
        else:
            wanted.append((node, next_id))
            next_id += 1
    leaving = tuple(one for one in partition.replicas + partition.leaving if one not in wanted)
    return replace(
        partition, replicas=tuple(wanted), leaving=leaving, next_replica_id=next_id,
        placed_index=index, reason=reason, placed_at_ms=at_ms, before=partition.before if partition.leaving else partition.nodes,
    )  # fmt: skip


def removed(partition: PartitionMeta, replica: Replica, *, placed_index: int) -> PartitionMeta:
    """The partition without a replica that has left its group; the same where that was seen under another placement."""
    if placed_index != partition.placed_index:
        return partition
    return replace(
        partition,
        leaving=tuple(one for one in partition.leaving if one != replica),
        lost=tuple(one for one in partition.lost if one != replica),
    )


def renewed(partition: PartitionMeta, node_id: int, *, index: int, at_ms: int, reason: str) -> PartitionMeta:
    """The partition once what ``node_id`` held of it is lost: a new replica is wanted there instead. ``reason`` is in words."""
    gone = tuple(one for one in partition.replicas + partition.leaving if one[0] == node_id)
    if not gone:
        return partition
    wanted = tuple((node, partition.next_replica_id if node == node_id else replica) for node, replica in partition.replicas)
    return replace(
        partition,
        replicas=wanted,
        leaving=tuple(one for one in partition.leaving if one not in gone),
        lost=partition.lost + gone,
        next_replica_id=partition.next_replica_id + (node_id in partition.nodes),
        placed_index=index,
        reason=reason,
        placed_at_ms=at_ms,
    )
