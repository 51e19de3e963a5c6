"""Consumer groups of a node's broker: finds each group's coordinator, and asks it here or on the node where it is.

Rules:

1. A call is answered by the coordinator that serves the group or not at all. Where there is none just now, a call waits for
   ``coordinator_wait_s`` and is tried again; only what said that nothing was done is tried again.
2. Join, sync, heartbeat and the reads do no harm when they happen twice, so where their outcome is lost the caller hears
   that the coordinator is not available, as it would of a coordinator that went: it asks again. A commit, a leave or a
   deletion of which the outcome is lost says so.
3. The internal topic is made by whoever needs it first. A node that does not know it yet asks the metadata group, so it never
   takes its own ignorance for the absence of offsets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from raftlog.broker import group_admin
from raftlog.broker.config import BrokerConfig
from raftlog.broker.coordinator import Coordinator
from raftlog.broker.group_calls import RemoteGroups
from raftlog.broker.group_port import (
    CommittedOffset,
    DescribedGroup,
    GroupMember,
    GroupState,
    JoinedGroup,
    JoinGroup,
    Leaver,
    ListedGroup,
    SyncedGroup,
)
from raftlog.broker.group_routing import GroupRouter
from raftlog.core.metadata import MetadataState
from raftlog.core.metadata_values import PartitionMeta
from raftlog.errors import (
    CoordinatorNotAvailableError,
    GroupIdNotFoundError,
    InvalidRequestError,
    MessageTooLargeError,
    OffsetMetadataTooLargeError,
    RaftlogError,
    UnknownTopicOrPartitionError,
)
from raftlog.model import NodeInfo, TopicPartition

OFFSET_BYTES = 40
"""What an offset takes in an entry beside its texts, about."""
PARTITION_MAX = (1 << 31) - 1
"""The highest number that a partition may have in the Kafka protocol."""


class Groups:
    """A node's groups; see ``GroupBroker`` for what its methods promise.

    Args:
        node_id: this node.
        state: the applied metadata.
        routing: finds coordinators.
        find: the partition of a name.
        coordinators: Raft group → this node's replicas of coordinators.
        remote: those of others.
        config: limits.
    """

    def __init__(
        self, node_id: int, *, state: MetadataState, routing: GroupRouter, find: Callable[[TopicPartition], PartitionMeta],
        coordinators: Mapping[int, Coordinator], remote: RemoteGroups, config: BrokerConfig,
    ) -> None:  # fmt: skip
        self._node_id = node_id
        self._state = state
        self._routing = routing
        self._find = find
        self._coordinators = coordinators
        self._remote = remote
        self._config = config

    # Members.

    async def find_coordinator(self, group_id: str) -> NodeInfo:
        """See ``GroupBroker``."""

        async def here(_: Coordinator) -> int:
            return self._node_id

        async def there(node_id: int) -> int:
            return node_id

        node_id = await self._routing.call(group_id, here, there)
        node = self._state.nodes.get(node_id)
        if node is None:
            raise CoordinatorNotAvailableError(f"node {node_id} coordinates group {group_id!r}, but has not registered yet")
        return node

    async def join_group(self, wish: JoinGroup, *, direct: bool = False) -> JoinedGroup:
        """See ``GroupBroker``."""
        return await self._routing.call(
            wish.group_id, lambda coordinator: coordinator.join(wish), lambda node: self._remote.join(node, wish), direct=direct
        )

    async def sync_group(
        self, member: GroupMember, assignments: Mapping[str, bytes], *, protocol_type: str = "", protocol: str = "",
        direct: bool = False,
    ) -> SyncedGroup:  # fmt: skip
        """See ``GroupBroker``."""
        return await self._routing.call(
            member.group_id,
            lambda coordinator: coordinator.sync(member, assignments, protocol_type=protocol_type, protocol=protocol),
            lambda node: self._remote.sync(node, member, assignments, protocol_type=protocol_type, protocol=protocol),
            direct=direct,
        )

    async def heartbeat(self, member: GroupMember, *, direct: bool = False) -> None:
        """See ``GroupBroker``."""

        async def here(coordinator: Coordinator) -> None:
            coordinator.heartbeat(member)

        await self._routing.call(member.group_id, here, lambda node: self._remote.heartbeat(node, member), direct=direct)

    async def leave_group(self, group_id: str, leavers: Sequence[Leaver], *, direct: bool = False) -> list[RaftlogError | None]:
        """See ``GroupBroker``."""

        async def here(coordinator: Coordinator) -> list[RaftlogError | None]:
            return coordinator.leave(group_id, leavers)

        return await self._routing.call(
            group_id, here, lambda node: self._remote.leave(node, group_id, leavers), direct=direct, harmless=False
        )

    # Offsets.

    async def commit_offsets(
        self, member: GroupMember, offsets: Mapping[TopicPartition, CommittedOffset], *, direct: bool = False
    ) -> dict[TopicPartition, RaftlogError | None]:
        """See ``GroupBroker``."""

        async def here(coordinator: Coordinator) -> dict[TopicPartition, RaftlogError | None]:
            outcomes, known = self._check_offsets(named)
            if known:
                await coordinator.commit(member, known)
            return outcomes

        named = {tp: committed for tp, committed in offsets.items() if _may_exist(tp)}
        outcomes = await self._routing.call(
            member.group_id, here, lambda node: self._remote.commit(node, member, named), direct=direct, harmless=False
        )
        return {tp: outcomes[tp] if tp in named else _no_partition(tp) for tp in offsets}

    async def fetch_offsets(
        self, group_id: str, partitions: Sequence[TopicPartition] | None, *, direct: bool = False
    ) -> dict[TopicPartition, CommittedOffset]:
        """See ``GroupBroker``."""

        async def here(coordinator: Coordinator) -> dict[TopicPartition, CommittedOffset]:
            stored = await coordinator.offsets(group_id)
            wanted = stored if named is None else [tp for tp in named if tp in stored]
            return {tp: stored[tp].committed for tp in wanted if not self.gone(tp, stored[tp].raft_group)}

        named = None if partitions is None else list(filter(_may_exist, partitions))
        return await self._routing.call(
            group_id, here, lambda node: self._remote.fetch_offsets(node, group_id, named), direct=direct
        )

    def gone(self, tp: TopicPartition, raft_group: int) -> bool:
        """Whether the partition that had this Raft group was deleted: the counter is past it, and the name is another's now.

        A node whose metadata is behind may not know of the partition yet; then the counter is not past it either.
        """
        topic = self._state.topics.get(tp.topic)
        there = topic is not None and tp.partition < len(topic.partitions)
        if topic is not None and there and topic.partitions[tp.partition].group_id == raft_group:
            return False
        return raft_group < self._state.next_group_id

    def _check_offsets(
        self, offsets: Mapping[TopicPartition, CommittedOffset]
    ) -> tuple[dict[TopicPartition, RaftlogError | None], dict[TopicPartition, tuple[CommittedOffset, int]]]:
        """An outcome for each, and those that may be committed, each with the Raft group of its partition."""
        outcomes: dict[TopicPartition, RaftlogError | None] = {}
        known: dict[TopicPartition, tuple[CommittedOffset, int]] = {}
        size_bytes = 0
        for tp, committed in offsets.items():
            outcomes[tp] = None
            try:
                size_bytes += self._check_offset(committed) + len(tp.topic)
                known[tp] = committed, self._find(tp).group_id
            except RaftlogError as error:
                outcomes[tp] = error
        if size_bytes > self._config.offset_commit_max_bytes:
            raise MessageTooLargeError(
                f"{len(offsets)} offsets take {size_bytes} bytes, more than {self._config.offset_commit_max_bytes}; "
                "commit them in several calls"
            )
        return outcomes, known

    def _check_offset(self, committed: CommittedOffset) -> int:
        """About what it takes, in bytes."""
        if committed.offset < 0:
            raise InvalidRequestError(f"offset {committed.offset} cannot be committed; offsets begin at 0")
        size_bytes, most = len(committed.metadata.encode()), self._config.offset_metadata_max_bytes
        if size_bytes > most:
            raise OffsetMetadataTooLargeError(f"the text beside an offset may have {most} bytes, not {size_bytes}")
        return size_bytes + OFFSET_BYTES

    # Administration.

    async def list_groups(self, *, direct: bool = False) -> list[ListedGroup]:
        """See ``GroupBroker``."""
        if direct:
            serving = [coordinator for coordinator in self._coordinators.values() if coordinator.machine.serving]
            return [group for coordinator in serving for group in await group_admin.list_groups(coordinator)]
        topic = self._routing.topic
        if topic is None:
            return []

        async def everywhere() -> list[ListedGroup]:
            groups = []
            for node_id in sorted({self._routing.leader(meta) for meta in topic.partitions}):
                here = node_id == self._node_id
                groups += await self.list_groups(direct=True) if here else await self._remote.list(node_id)
            return sorted(groups, key=lambda group: group.group_id)

        return await self._routing.patiently(everywhere)

    async def describe_group(self, group_id: str, *, direct: bool = False) -> DescribedGroup:
        """See ``GroupBroker``."""
        if self._routing.topic is None:
            return DescribedGroup(group_id=group_id, state=GroupState.DEAD)
        return await self._routing.call(
            group_id,
            lambda coordinator: group_admin.describe(coordinator, group_id),
            lambda node: self._remote.describe(node, group_id),
            direct=direct,
        )

    async def delete_group(self, group_id: str, *, direct: bool = False) -> None:
        """See ``GroupBroker``."""
        if self._routing.topic is None:
            raise GroupIdNotFoundError(f"there is no group {group_id!r}")
        await self._routing.call(
            group_id,
            lambda coordinator: coordinator.delete_group(group_id),
            lambda node: self._remote.delete(node, group_id),
            direct=direct,
            harmless=False,
        )

    async def delete_offsets(
        self, group_id: str, partitions: Sequence[TopicPartition], *, direct: bool = False
    ) -> dict[TopicPartition, RaftlogError | None]:
        """See ``GroupBroker``."""
        named = list(filter(_may_exist, partitions))
        outcomes = await self._routing.call(
            group_id,
            lambda coordinator: group_admin.delete_offsets(coordinator, group_id, named),
            lambda node: self._remote.delete_offsets(node, group_id, named),
            direct=direct,
            harmless=False,
        )
        return {tp: outcomes[tp] if _may_exist(tp) else _no_partition(tp) for tp in partitions}

    # Figures.

    def states(self) -> Counter[GroupState]:
        """How many of the groups that this node coordinates are in each state."""
        total: Counter[GroupState] = Counter()
        for coordinator in self._coordinators.values():
            total += coordinator.states()
        return total

    @property
    def commits(self) -> int:
        """Commits that this node's coordinators acknowledged since its start."""
        return sum(coordinator.tally.commits for coordinator in self._coordinators.values())

    @property
    def commits_refused(self) -> int:
        """Commits that they refused, of members that are none, or not of this generation."""
        return sum(coordinator.tally.commits_refused for coordinator in self._coordinators.values())

    @property
    def rebalances(self) -> int:
        """Generations with members that they made."""
        return sum(coordinator.tally.rebalances for coordinator in self._coordinators.values())


def _may_exist(tp: TopicPartition) -> bool:
    """Whether there may be such a partition: its number is one, so that it can be sent on."""
    return 0 <= tp.partition <= PARTITION_MAX


def _no_partition(tp: TopicPartition) -> RaftlogError:
    return UnknownTopicOrPartitionError(f"there is no partition {tp.partition} of any topic; they are numbered from 0")
