"""Who leads what, from memory: this node's own role first, else what leaders announced; addresses from the metadata."""

from __future__ import annotations

from collections.abc import Callable

from raftlog.broker.partition import Partition
from raftlog.broker.replicas import Replicas
from raftlog.broker.subscribe import check_epoch
from raftlog.consensus.port import SILENT_S, Consensus, FollowerProgress, ReplicatedLog
from raftlog.core.configuration import node_of
from raftlog.core.metadata import MetadataState
from raftlog.core.metadata_values import PartitionMeta, TopicMeta
from raftlog.core.names import is_internal
from raftlog.errors import (
    InvalidTopicError,
    LeaderHint,
    LeaderNotAvailableError,
    NotLeaderError,
    RaftlogError,
    UnknownTopicOrPartitionError,
)
from raftlog.model import METADATA_GROUP, PartitionInfo, Role, TopicInfo, TopicPartition

ELECTION_RETRY_AFTER_MS = 100
"""What callers are asked to wait while an election runs: a fraction of what one takes."""


class Router:
    """Answers where a call belongs.

    Args:
        node_id: this node.
        consensus: for the groups that have no replica here.
        state: the applied metadata.
        partitions: this node's replicas, coordinators among them.
        alive: whether a node is up as far as this one knows.
    """

    def __init__(
        self, node_id: int, consensus: Consensus, state: MetadataState, partitions: Replicas,
        alive: Callable[[int], bool] = lambda _: True,
    ) -> None:  # fmt: skip
        self._node_id = node_id
        self._consensus = consensus
        self._state = state
        self._partitions = partitions
        self._alive = alive

    def find_topic(self, name: str) -> TopicMeta:
        """A topic by name.

        Raises:
            UnknownTopicOrPartitionError: there is none as far as this node knows.
        """
        topic = self._state.topics.get(name)
        if topic is None:
            raise UnknownTopicOrPartitionError(f"node {self._node_id} knows no topic {name!r}; create it first")
        return topic

    def find(self, tp: TopicPartition) -> PartitionMeta:
        """A partition by name and number.

        Raises:
            UnknownTopicOrPartitionError: no such topic, or not so many partitions, as far as this node knows.
        """
        topic = self.find_topic(tp.topic)
        if not 0 <= tp.partition < len(topic.partitions):
            raise UnknownTopicOrPartitionError(
                f"topic {tp.topic!r} has partitions 0 to {len(topic.partitions) - 1}; there is no {tp.partition}"
            )
        return topic.partitions[tp.partition]

    def route(self, tp: TopicPartition) -> Partition | int:
        """The local replica where this node leads and may serve, else the node that leads.

        Raises:
            InvalidTopicError: an internal topic has no records.
            UnknownTopicOrPartitionError, LeaderNotAvailableError
        """
        check_not_internal(tp.topic)
        meta = self.find(tp)
        partition = self._partitions.get(meta.group_id)
        if partition is not None and partition.log.ready:
            return partition
        leader, _ = self.leader(meta.group_id)
        if leader is None or leader == self._node_id:
            raise _no_leader(str(tp))
        return leader

    def replica(self, tp: TopicPartition) -> Partition:
        """This node's replica where it may be read: it leads, or follows a leader that it knows.

        Raises:
            UnknownTopicOrPartitionError, NotLeaderError, LeaderNotAvailableError
        """
        meta = self.find(tp)
        partition = self._partitions.get(meta.group_id)
        if partition is not None and not partition.closed:
            log = partition.log
            if log.ready or (log.damaged is None and log.leader not in (None, self._node_id)):
                return partition
        raise self.elsewhere(tp, meta.group_id)

    def replica_in_rack(self, partition: Partition, rack: str) -> int | None:
        """A node that is up, in the same rack as a reader, and has a replica with all that is committed; None where this node is
        there itself (KIP-392). One that lags would let its readers wait, and one that is damaged serves nobody."""
        nodes, log = self._state.nodes, partition.log
        followers = {node_of(member): progress for member, progress in log.followers().items()}
        near = [
            node_id
            for node_id in log.members
            if (node := nodes.get(node_id)) is not None and node.rack == rack and self._alive(node_id)
        ]
        if self._node_id in near:
            return None
        near = [node_id for node_id in near if _keeps_up(followers.get(node_id), log.commit_index)]
        return near[partition.group % len(near)] if near else None

    def check_epoch(self, tp: TopicPartition, leader_epoch: int) -> None:
        """Compare a caller's leader epoch with what this node knows; see ``subscribe.check_epoch``."""
        partition = self._partitions.get(self.find(tp).group_id)
        if partition is not None:
            check_epoch(partition, leader_epoch)

    def leader(self, group: int, log: ReplicatedLog | None = None) -> tuple[int | None, int]:
        """(node id of the leader or None, its term) of a group, the highest term known here."""
        if log is None:
            log = self._partitions.log(group)
        announced, announced_term = self._consensus.leader_of(group)
        if log is None:
            return announced, announced_term
        own = self._node_id if log.role is Role.LEADER else log.leader
        if own is not None and log.term >= announced_term:
            return own, log.term
        # A replica that has moved on to a higher term knows that the announced leader is none any more.
        return (announced, announced_term) if announced_term >= log.term else (None, log.term)

    def serves(self, group: int) -> bool:
        """Whether somebody leads the group and, where it is this node, may serve it."""
        leader, _ = self.leader(group)
        if leader == self._node_id:
            log = self._partitions.log(group)
            return log is not None and log.ready
        return leader is not None

    def check_leader(self, partition: Partition) -> None:
        """Pass where this node leads the partition and may serve it.

        Raises:
            UnknownTopicOrPartitionError: the partition was deleted.
            NotLeaderError: another node leads.
            LeaderNotAvailableError: nobody does, as far as known.
        """
        if partition.closed:
            raise UnknownTopicOrPartitionError(f"partition {partition.name} was deleted")
        if not partition.log.ready:
            raise self.elsewhere(partition.name, partition.group)

    def elsewhere(self, name: TopicPartition | str, group: int, log: ReplicatedLog | None = None) -> RaftlogError:
        """The error for a call that this node cannot take: who leads, or that nobody does."""
        leader, term = self.leader(group, log)
        if leader is None or leader == self._node_id:
            return _no_leader(str(name))
        node = self._state.nodes.get(leader)
        hint = LeaderHint(node_id=leader, address="" if node is None else node.grpc_address, term=term)
        return NotLeaderError(f"node {self._node_id} does not lead {name}; node {leader} does", hint=hint)

    def topic_info(self, topic: TopicMeta) -> TopicInfo:
        """A topic as this node sees it now."""
        return TopicInfo(
            name=topic.name,
            topic_id=topic.topic_id.hex(),
            partitions=tuple(self._partition_info(topic, number) for number in range(len(topic.partitions))),
            replication_factor=topic.replication_factor,
            configs=dict(topic.configs),
        )

    def _partition_info(self, topic: TopicMeta, number: int) -> PartitionInfo:
        meta = topic.partitions[number]
        leader, term = self.leader(meta.group_id)
        return PartitionInfo(
            topic=topic.name, partition=number, group_id=meta.group_id, replicas=meta.nodes, leader=leader, leader_epoch=term
        )


def _keeps_up(progress: FollowerProgress | None, commit_index: int) -> bool:
    if progress is None or progress.damaged:
        return False
    return progress.match_index >= commit_index and progress.heard_s <= SILENT_S


def check_not_internal(topic: str) -> None:
    """Pass for topics of users.

    Raises:
        InvalidTopicError: the topic belongs to the cluster itself.
    """
    if is_internal(topic):
        raise InvalidTopicError(
            f"topic {topic!r} belongs to the cluster itself: it is not read, written or changed as others are; "
            "groups are what it holds, ask for those"
        )


def _no_leader(name: str) -> LeaderNotAvailableError:
    return LeaderNotAvailableError(f"{name} has no leader just now; try again", retry_after_ms=ELECTION_RETRY_AFTER_MS)


METADATA_NAME = f"the metadata group ({METADATA_GROUP})"
