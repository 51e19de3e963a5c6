"""The cluster's metadata: the pure state machine of group 0 (nodes, topics, placements, counters).

Theory of operation. The state is a function of the group's log. ``apply`` takes one committed command and answers with
effects: the rows to write, and what changed. The rows alone rebuild the state (``load``), so the log may be trimmed.

Rules:

1. ``check`` decides whether a command may pass. The proposer asks it for an early, clear answer; ``apply`` asks it again,
   and that answer counts, for commands may have been committed in between.
2. Group ids start at 1 and are never reused; nor are producer ids. Both counters are rows, and only rise.
3. A topic is its UUID: a command that names another UUID than the one that bears the name now is refused. Creating a topic
   again under its own UUID changes nothing and is no error, so a creator who lost the answer may repeat itself.
4. A node is its id and its incarnation. Who lost its disk joins as the next one: what it promised with the disk before is
   lost, so its replicas are lost with it, and new ones are wanted in their place. A removed node stays known, so that no
   incarnation ever comes twice.
5. Placements name the wanted replicas that their proposer saw, and all pass or none (``raftlog.core.moving``). Renewals name
   the placement (``raftlog.core.metadata_renewal``).
6. Where commands may be lost (``SkipIds``), what they may have given out is given to nobody: group, producer and replica ids
   and incarnations leap. And whether a group that no topic has was deleted is not known from then on, so its data stays.
7. What depends on this version's opinion (config keys, names) is checked by the proposer alone: replicas of different
   versions must agree on the state.
8. At a feature level the state changes as in every version that supports that level, whatever this version could do besides
   (``raftlog.core.features``). What nodes say that they support counts from the second level on: the first version drops it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from raftlog.core.features import Level, check_form
from raftlog.core.metadata_levels import after_raise, check_command, check_join, check_node, check_raise
from raftlog.core.metadata_renewal import after_renewal, check_renewal
from raftlog.core.metadata_rows import (
    FIRST_REPLICA,
    TABLE_COUNTERS,
    TABLE_FEATURES,
    TABLE_NODES,
    TABLE_TOPICS,
    Row,
    counters_of_row,
    counters_row,
    features_of_row,
    features_row,
    node_of,
    node_of_row,
    node_row,
    replicas_of,
    status_of,
    topic_of_row,
    topic_row,
)
from raftlog.core.metadata_values import NOTHING, Effects, PartitionMeta, RowWrite, TopicMeta
from raftlog.core.moving import placed, removed, renewed
from raftlog.errors import (
    InvalidPartitionsError,
    InvalidReplicaAssignmentError,
    InvalidReplicationFactorError,
    InvalidRequestError,
    NewerFormatError,
    NodeInUseError,
    NodeRemovedError,
    RaftlogError,
    StalePlacementError,
    TopicExistsError,
    UnknownNodeError,
    UnknownTopicOrPartitionError,
)
from raftlog.model import NodeInfo, NodeStatus
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb

TOPIC_ID_BYTES = 16
JOIN_ID_BYTES = 16
REASON_CHARS_MAX = 200
"""Longest reason of a placement: it stands in the topic's row."""
PRODUCER_IDS_BLOCK = 1_000
"""Producer ids that a node takes at once (Kafka's ProducerIdManager takes as many)."""
PRODUCER_IDS_MAX_COUNT = 1_000_000
"""Most ids of one command: a wrong count must not burn the 63-bit space."""
SKIPPED_MAX = 1 << 40
SKIPPED_REPLICAS_MAX = 1 << 20
"""Most ids that are skipped at once; the same."""


@dataclass(slots=True)
class MetadataState:
    """Everything that group 0 knows. Change it by ``load`` and ``apply`` only."""

    nodes: dict[int, NodeInfo] = field(default_factory=dict)
    """Those that are part of the cluster."""
    removed: dict[int, NodeInfo] = field(default_factory=dict)
    """Those that were."""
    joins: dict[int, bytes] = field(default_factory=dict)
    """Node id → the join that its incarnation came by; founders have none."""
    topics: dict[str, TopicMeta] = field(default_factory=dict)
    next_group_id: int = 1
    next_producer_id: int = 0
    unknown_below: int = 0
    """Of groups below that no topic has, it is not known whether they were deleted: rule 6."""
    incarnation_min: int = 0
    """The least incarnation that a node which joins gets: rule 6."""
    level: int = Level.FIRST
    """The cluster's feature level."""
    raised_index: int = 0
    """Index of the entry that raised it; 0 at the first."""

    def deleted(self, group: int) -> bool:
        """Whether a group that no topic has (or none has on the node that asks) once had one."""
        return self.unknown_below <= group < self.next_group_id

    def load(self, rows: Iterable[tuple[int, bytes, bytes]]) -> None:
        """Rebuild from rows (table, key, value), in any order.

        Raises:
            NewerFormatError: a newer version wrote one of them.
        """
        self.nodes, self.removed, self.joins, self.topics = {}, {}, {}, {}
        self._set_counters(1, 0, 0, 0)
        self.level, self.raised_index = Level.FIRST, 0
        for table, _, value in rows:
            if table == TABLE_NODES:
                node, join_id = node_of_row(value)
                self._keep_node(node, join_id)
            elif table == TABLE_TOPICS:
                topic = topic_of_row(value)
                self.topics[topic.name] = topic
            elif table == TABLE_COUNTERS:
                self._set_counters(*counters_of_row(value))
            elif table == TABLE_FEATURES:
                self.level, self.raised_index = features_of_row(value)

    @property
    def pristine(self) -> bool:
        """No command has changed anything yet: the cluster begins."""
        return self == MetadataState()

    def check(self, command: pb.MetadataCommand) -> RaftlogError | None:  # noqa: PLR0911, PLR0912 - one for each kind
        """Whether the command may pass as things stand: None, or the error that its proposer gets."""
        early = check_command(self.level, command)
        if early is not None:
            return early
        match command.WhichOneof("command"):
            case "register_node":
                return self._check_register(command.register_node)
            case "create_topic":
                return self._check_create(command.create_topic)
            case "alter_topic":
                return self._check_alter(command.alter_topic)
            case "delete_topic":
                return self._find(command.delete_topic.name, command.delete_topic.topic_id)[1]
            case "allocate_producer_ids":
                count = command.allocate_producer_ids.count
                allowed = 1 <= count <= PRODUCER_IDS_MAX_COUNT
                return None if allowed else InvalidRequestError(f"take 1 to {PRODUCER_IDS_MAX_COUNT} producer ids, not {count}")
            case "add_node":
                return self._check_add(command.add_node)
            case "set_node_status":
                return self._check_status(command.set_node_status)
            case "place_partitions":
                return self._check_placements(command.place_partitions)
            case "remove_replicas":
                return None  # what does not fit is passed over
            case "renew_replicas":
                return check_renewal(self._topics_by_id(), command.renew_replicas)
            case "raise_level":
                return check_raise(self.level, self.nodes.values(), command.raise_level)
            case "skip_ids":
                return _check_skip(command.skip_ids)
        return InvalidRequestError("a metadata command of an unknown kind; the node that sent it may be newer than this one")

    def apply(self, index: int, command: pb.MetadataCommand) -> Effects:  # noqa: PLR0911, PLR0912 - as above
        """Apply the committed command at ``index``; the outcome depends on nothing but the state and the two arguments.

        Raises:
            NewerFormatError: a newer version proposed it. To pass it over would be to lose what the others know.
        """
        check_form(command.level, f"the metadata command at index {index}")
        if command.WhichOneof("command") is None:
            raise NewerFormatError(
                f"the metadata command at index {index} is of a kind that this version of raftlog does not know"
            )
        error = self.check(command)
        if error is not None:
            return Effects(error=error)
        match command.WhichOneof("command"):
            case "register_node":
                return self._register(command.register_node)
            case "create_topic":
                return self._create(index, command.create_topic)
            case "alter_topic":
                return self._alter(index, command.alter_topic)
            case "delete_topic":
                topic = self.topics.pop(command.delete_topic.name)
                return Effects(rows=((TABLE_TOPICS, topic.topic_id, None),), deleted=(topic,))
            case "add_node":
                return self._add(index, command.add_node)
            case "set_node_status":
                return self._set_status(command.set_node_status)
            case "place_partitions":
                return self._place(index, command.place_partitions)
            case "remove_replicas":
                return self._remove(command.remove_replicas)
            case "renew_replicas":
                return self._set_topics(after_renewal(self._topics_by_id(), index, command.renew_replicas))
            case "raise_level":
                return self._raise(index, command.raise_level)
            case "skip_ids":
                return self._skip(command.skip_ids)
        first = self.next_producer_id
        self.next_producer_id += command.allocate_producer_ids.count
        return Effects(rows=(self._counters_row(),), first_producer_id=first)

    def rows(self) -> list[tuple[int, bytes, bytes]]:
        """All rows that hold this state: what ``load`` takes."""
        rows = [self._node_row(node) for node in (self.nodes | self.removed).values()]
        rows += [self._topic_row(topic) for topic in self.topics.values()]
        rows += [features_row(self.level, self.raised_index)] if self.level > Level.FIRST else []
        return [*rows, self._counters_row()]

    def _find(self, name: str, topic_id: bytes) -> tuple[TopicMeta | None, RaftlogError | None]:
        topic = self.topics.get(name)
        if topic is None:
            return None, UnknownTopicOrPartitionError(f"there is no topic {name!r}; create it first")
        if topic_id != topic.topic_id:
            return None, UnknownTopicOrPartitionError(f"topic {name!r} was deleted and created anew meanwhile; look at it again")
        return topic, None

    def _check_create(self, create: pb.CreateTopic) -> RaftlogError | None:
        if not create.name or len(create.topic_id) != TOPIC_ID_BYTES:
            return InvalidRequestError(f"a topic needs a name and an id of {TOPIC_ID_BYTES} bytes")
        existing = self.topics.get(create.name)
        if existing is not None:
            if existing.topic_id == create.topic_id:
                return None
            return TopicExistsError(f"topic {create.name!r} exists already; choose another name or delete it first")
        if not create.partitions:
            return InvalidPartitionsError("a topic needs at least one partition")
        return self._check_assignments(create.partitions, create.replication_factor)

    def _check_alter(self, alter: pb.AlterTopic) -> RaftlogError | None:
        topic, error = self._find(alter.name, alter.topic_id)
        if topic is None:
            return error
        return self._check_assignments(alter.more_partitions, topic.replication_factor)

    def _check_assignments(self, assignments: Iterable[pb.Assignment], factor: int) -> RaftlogError | None:
        for assignment in assignments:
            nodes = set(assignment.replicas)
            if len(nodes) != factor or len(assignment.replicas) != factor or factor < 1:
                return InvalidReplicationFactorError(f"a partition with {factor} replicas was placed on nodes {sorted(nodes)}")
            if not nodes <= self.nodes.keys():
                return InvalidReplicationFactorError(f"nodes {sorted(nodes - self.nodes.keys())} are not part of the cluster")
        return None

    def _check_register(self, register: pb.RegisterNode) -> RaftlogError | None:
        if not register.node_id:
            return InvalidRequestError("node ids start at 1; register one")
        early = check_node(self.level, register)
        if early is not None:
            return early
        node_id, incarnation = register.node_id, register.incarnation or 1
        if node_id in self.removed:
            return NodeRemovedError(f"node {node_id} was removed from the cluster; empty its directory and join again")
        known = self.nodes[node_id].incarnation if node_id in self.nodes else 1
        if incarnation < known:
            return NodeRemovedError(
                f"node {node_id} has come back with another disk since (incarnation {known}, this one is {incarnation}); "
                "empty this directory and join again"
            )
        if incarnation > known:
            return InvalidRequestError(f"node {node_id} has not joined as incarnation {incarnation}; join first")
        return None

    def _register(self, register: pb.RegisterNode) -> Effects:
        node = node_of(register)
        known = self.nodes.get(node.node_id)
        if known is not None:
            node = replace(node, status=known.status)
        if known == node:
            return NOTHING
        return self._set_node(node, self.joins.get(node.node_id, b""))

    def _check_add(self, add: pb.AddNode) -> RaftlogError | None:
        if not add.node.node_id or len(add.join_id) != JOIN_ID_BYTES:
            return InvalidRequestError(f"a node joins with an id from 1 on and a join id of {JOIN_ID_BYTES} bytes")
        early = check_node(self.level, add.node)
        if early is not None:
            return early
        if add.node.node_id in self.removed and self.joins.get(add.node.node_id) == add.join_id:
            return NodeRemovedError(f"node {add.node.node_id} was removed from the cluster; empty its directory and join again")
        again = self.joins.get(add.node.node_id) == add.join_id
        return None if again else check_join(self.level, (self.nodes | self.removed).get(add.node.node_id), add)

    def _add(self, index: int, add: pb.AddNode) -> Effects:
        node_id = add.node.node_id
        known = self.nodes.get(node_id) or self.removed.get(node_id)
        if known is not None and self.joins.get(node_id) == add.join_id:
            return Effects(incarnation=known.incarnation)
        # Never 1: a founder of group 0 has that, and votes before it is registered; it may be the one that lost its disk.
        incarnation = max(2 if known is None else known.incarnation + 1, self.incarnation_min)
        draining = known is not None and known.status is NodeStatus.DRAINING
        node = replace(node_of(add.node), incarnation=incarnation, status=NodeStatus.DRAINING if draining else NodeStatus.ACTIVE)
        effects = self._set_node(node, add.join_id)
        altered = []
        for topic in self.topics.values():
            partitions = tuple(
                renewed(one, node_id, index=index, at_ms=add.joined_at_ms, reason=f"node {node_id} came back with an empty disk")
                for one in topic.partitions
            )
            if partitions != topic.partitions:
                altered.append(replace(topic, partitions=partitions))
        return replace(self._set_topics(altered, effects.rows), nodes=(node_id,), incarnation=incarnation)

    def _check_status(self, change: pb.SetNodeStatus) -> RaftlogError | None:
        status = status_of(change.status) if change.status else None
        if status is None:
            return InvalidRequestError("a node is active, draining or removed; this status is none of them")
        if change.node_id in self.removed:
            if status is NodeStatus.REMOVED:
                return None
            return NodeRemovedError(f"node {change.node_id} was removed from the cluster; empty its directory and join again")
        if change.node_id not in self.nodes:
            return UnknownNodeError(f"the cluster has no node {change.node_id}; there are {sorted(self.nodes)}")
        held = self._held_by(change.node_id) if status is NodeStatus.REMOVED else []
        if held:
            return NodeInUseError(f"node {change.node_id} holds replicas of {len(held)} partitions, {held[0]} first; drain it")
        return None

    def _set_status(self, change: pb.SetNodeStatus) -> Effects:
        status, known = status_of(change.status), self.nodes.get(change.node_id)
        if status is None or known is None or known.status is status:
            return NOTHING
        return self._set_node(replace(known, status=status), self.joins.get(change.node_id, b""))

    def _held_by(self, node_id: int) -> list[str]:
        """The partitions that have a replica on a node, or may have one."""
        return [
            f"{topic.name}-{number}"
            for topic in self.topics.values()
            for number, one in enumerate(topic.partitions)
            if any(node == node_id for node, _ in one.replicas + one.leaving + one.lost)
        ]

    def _check_placements(self, place: pb.PlacePartitions) -> RaftlogError | None:
        topics = self._topics_by_id()
        seen = set()
        for one in place.placements:
            topic = topics.get(one.topic_id)
            if topic is None or one.partition >= len(topic.partitions):
                return UnknownTopicOrPartitionError(f"there is no partition {one.partition} of topic {one.topic_id.hex()}")
            name, partition = f"{topic.name}-{one.partition}", topic.partitions[one.partition]
            if name in seen:
                return InvalidReplicaAssignmentError(f"{name} is placed twice in one command")
            seen.add(name)
            if replicas_of(one.expected) != partition.replicas:
                return StalePlacementError(f"{name} was placed anew meanwhile; look at it again")
            error = self._check_replicas(name, one.replicas, partition)
            if error is not None:
                return error
        return None if seen else InvalidRequestError("no partition is placed")

    def _check_replicas(self, name: str, nodes: Sequence[int], partition: PartitionMeta) -> RaftlogError | None:
        if not nodes or len(set(nodes)) != len(nodes):
            return InvalidReplicaAssignmentError(f"{name} was placed on {list(nodes)}: it needs one node or more, each once")
        unknown = [node for node in nodes if node not in self.nodes]
        if unknown:
            return InvalidReplicaAssignmentError(f"{name} was placed on nodes {unknown}, which the cluster does not have")
        draining = [n for n in nodes if n not in partition.nodes and self.nodes[n].status is not NodeStatus.ACTIVE]
        if draining:
            return InvalidReplicaAssignmentError(f"{name} was placed on nodes {draining}, which are being drained")
        return None

    def _place(self, index: int, place: pb.PlacePartitions) -> Effects:
        topics = self._topics_by_id()
        altered: dict[bytes, TopicMeta] = {}
        for one in place.placements:
            topic = altered.get(one.topic_id) or topics[one.topic_id]
            partitions = list(topic.partitions)
            partitions[one.partition] = placed(
                partitions[one.partition], one.replicas,
                index=index, reason=one.reason[:REASON_CHARS_MAX], at_ms=one.placed_at_ms,
            )  # fmt: skip
            factor = max(len(partition.replicas) for partition in partitions)
            altered[one.topic_id] = replace(topic, partitions=tuple(partitions), replication_factor=factor)
        return self._set_topics(altered.values())

    def _remove(self, remove: pb.RemoveReplicas) -> Effects:
        topics = self._topics_by_id()
        altered: dict[bytes, TopicMeta] = {}
        for one in remove.replicas:
            topic = altered.get(one.topic_id) or topics.get(one.topic_id)
            if topic is None or one.partition >= len(topic.partitions):
                continue
            partitions = list(topic.partitions)
            replica = (one.replica.node_id, one.replica.replica_id)
            partitions[one.partition] = removed(partitions[one.partition], replica, placed_index=one.placed_index)
            if partitions[one.partition] != topic.partitions[one.partition]:
                altered[one.topic_id] = replace(topic, partitions=tuple(partitions))
        return self._set_topics(altered.values())

    def _topics_by_id(self) -> dict[bytes, TopicMeta]:
        return {topic.topic_id: topic for topic in self.topics.values()}

    def _set_topics(self, altered: Iterable[TopicMeta], rows: tuple[RowWrite, ...] = ()) -> Effects:
        topics = tuple(altered)
        self.topics.update((topic.name, topic) for topic in topics)
        return Effects(rows=(*rows, *(self._topic_row(topic) for topic in topics)), altered=topics)

    def _set_node(self, node: NodeInfo, join_id: bytes) -> Effects:
        self._keep_node(node, join_id)
        return Effects(rows=(self._node_row(node),), nodes=(node.node_id,))

    def _keep_node(self, node: NodeInfo, join_id: bytes) -> None:
        self.nodes.pop(node.node_id, None)
        self.removed.pop(node.node_id, None)
        (self.removed if node.status is NodeStatus.REMOVED else self.nodes)[node.node_id] = node
        self.joins.pop(node.node_id, None)
        if join_id:
            self.joins[node.node_id] = join_id

    def _create(self, index: int, create: pb.CreateTopic) -> Effects:
        if create.name in self.topics:
            return NOTHING
        topic = TopicMeta(
            name=create.name,
            topic_id=create.topic_id,
            replication_factor=create.replication_factor,
            partitions=self._new_partitions(index, create.partitions),
            configs=dict(create.configs),
            created_at_ms=create.created_at_ms,
        )
        self.topics[topic.name] = topic
        return Effects(rows=(self._topic_row(topic), self._counters_row()), created=(topic,))

    def _alter(self, index: int, alter: pb.AlterTopic) -> Effects:
        topic = self.topics[alter.name]
        configs = {key: value for key, value in topic.configs.items() if key not in alter.unset_configs}
        configs.update(alter.set_configs)
        partitions = topic.partitions + self._new_partitions(index, alter.more_partitions)
        altered = replace(topic, configs=configs, partitions=partitions)
        if altered == topic:
            return NOTHING
        self.topics[topic.name] = altered
        return Effects(rows=(self._topic_row(altered), self._counters_row()), altered=(altered,))

    def _skip(self, skip: pb.SkipIds) -> Effects:
        newest = max((node.incarnation for node in (self.nodes | self.removed).values()), default=1)
        self.next_group_id += skip.groups
        self.unknown_below = self.next_group_id
        self.next_producer_id += skip.producers
        self.incarnation_min = max(newest, self.incarnation_min) + skip.incarnations
        altered = []
        for topic in self.topics.values():
            leapt = (replace(one, next_replica_id=one.next_replica_id + skip.replicas) for one in topic.partitions)
            altered.append(replace(topic, partitions=tuple(leapt)))
        return self._set_topics(altered, (self._counters_row(),))

    def _new_partitions(self, index: int, assignments: Iterable[pb.Assignment]) -> tuple[PartitionMeta, ...]:
        made = []
        for assignment in assignments:
            replicas = tuple((node, replica) for replica, node in enumerate(assignment.replicas, start=1))
            if self.level < Level.MEMBERSHIP:
                replicas = tuple((node, FIRST_REPLICA) for node, _ in replicas)
            meta = PartitionMeta(
                group_id=self.next_group_id, replicas=replicas, created_index=index,
                founders=replicas, next_replica_id=len(replicas) + 1, placed_index=index,
            )  # fmt: skip
            made.append(meta)
            self.next_group_id += 1
        return tuple(made)

    def _counters_row(self) -> Row:
        return counters_row(self.next_group_id, self.next_producer_id, self.unknown_below, self.incarnation_min)

    def _set_counters(self, next_group_id: int, next_producer_id: int, unknown_below: int, incarnation_min: int) -> None:
        self.next_group_id, self.next_producer_id = next_group_id, next_producer_id
        self.unknown_below, self.incarnation_min = unknown_below, incarnation_min

    def _node_row(self, node: NodeInfo) -> Row:
        return node_row(node, self.joins.get(node.node_id, b""), level=self.level)

    def _topic_row(self, topic: TopicMeta) -> Row:
        return topic_row(topic, level=self.level)

    def _raise(self, index: int, raising: pb.RaiseLevel) -> Effects:
        check_form(raising.level, "the cluster")
        if raising.level == self.level:
            return NOTHING
        self.level, self.raised_index = raising.level, index
        self.nodes.update((node.node_id, node) for node in after_raise(self.nodes.values(), raising))
        rows = tuple(self._node_row(node) for node in self.nodes.values())
        return Effects(rows=(features_row(self.level, index), *rows), nodes=tuple(self.nodes), level=self.level)


def _check_skip(skip: pb.SkipIds) -> RaftlogError | None:
    if max(skip.groups, skip.producers) > SKIPPED_MAX or max(skip.replicas, skip.incarnations) > SKIPPED_REPLICAS_MAX:
        return InvalidRequestError(f"skip at most {SKIPPED_MAX} groups and producers, {SKIPPED_REPLICAS_MAX} replicas")
    return None
