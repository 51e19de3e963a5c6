"""Damaged replicas in group 0's state: each is lost to its group, and a new one is wanted on the same node.

A renewal names the placement under which its proposer saw that the group does without the replica. Another renewal, or a move,
makes another placement: so no two replicas of a group are given up on the word of one and the same look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from raftlog.core.metadata_values import PartitionMeta, TopicMeta
from raftlog.core.moving import renewed
from raftlog.errors import InvalidRequestError, RaftlogError, StalePlacementError, UnknownTopicOrPartitionError
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb


def check_renewal(topics: Mapping[bytes, TopicMeta], renew: pb.RenewReplicas) -> RaftlogError | None:
    """Whether all these replicas may be renewed, with the topics by their ids."""
    seen = set()
    for one in renew.replicas:
        topic = topics.get(one.topic_id)
        if topic is None or one.partition >= len(topic.partitions):
            return UnknownTopicOrPartitionError(f"there is no partition {one.partition} of topic {one.topic_id.hex()}")
        name, partition = f"{topic.name}-{one.partition}", topic.partitions[one.partition]
        if name in seen:
            return InvalidRequestError(f"two replicas of {name} are renewed in one command")
        seen.add(name)
        replica = (one.replica.node_id, one.replica.replica_id)
        if partition.placed_index != one.placed_index or replica not in partition.replicas + partition.leaving:
            return StalePlacementError(f"{name} was placed anew meanwhile; look at it again")
    return None if seen else InvalidRequestError("no replica is renewed")


def after_renewal(topics: Mapping[bytes, TopicMeta], index: int, renew: pb.RenewReplicas) -> list[TopicMeta]:
    """The topics that a renewal changes, as they are then; ``index`` is the metadata entry's."""
    altered: dict[bytes, list[PartitionMeta]] = {}
    for one in renew.replicas:
        partitions = altered.setdefault(one.topic_id, list(topics[one.topic_id].partitions))
        node = one.replica.node_id
        partitions[one.partition] = renewed(
            partitions[one.partition], node,
            index=index, at_ms=renew.renewed_at_ms, reason=f"the replica on node {node} was damaged",
        )  # fmt: skip
    return [replace(topics[topic_id], partitions=tuple(partitions)) for topic_id, partitions in altered.items()]
