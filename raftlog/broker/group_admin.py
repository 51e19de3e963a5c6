"""What administrators ask of a coordinator: lists, descriptions, and what is to be forgotten."""

from __future__ import annotations

from collections.abc import Sequence

from raftlog.broker.coordinator import Coordinator
from raftlog.core.groups.describing import described, listed
from raftlog.core.groups.records import CONSUMER_PROTOCOL
from raftlog.core.groups.subscription import subscribed_topics
from raftlog.core.groups.values import DescribedGroup, GroupState, ListedGroup
from raftlog.errors import GroupIdNotFoundError, GroupNotEmptyError, GroupSubscribedToTopicError, RaftlogError
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.internal.v1 import groups_pb2 as pb


async def list_groups(coordinator: Coordinator) -> list[ListedGroup]:
    """The groups of a coordinator, linearizable."""
    await coordinator.barrier()
    groups = coordinator.machine.state.groups
    return [listed(group_id, groups.get(group_id), coordinator.live(group_id)) for group_id in coordinator.group_ids()]


async def describe(coordinator: Coordinator, group_id: str) -> DescribedGroup:
    """One group, linearizable."""
    await coordinator.barrier()
    return described(group_id, coordinator.machine.state.groups.get(group_id), coordinator.live(group_id))


async def delete_offsets(
    coordinator: Coordinator, group_id: str, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, RaftlogError | None]:
    """Forget offsets of partitions that no member subscribes to (KIP-496); an outcome for each.

    Raises:
        GroupIdNotFoundError: there is no such group.
        GroupNotEmptyError: it has members of which it cannot be told what they subscribe to.
    """
    await coordinator.barrier()
    record = coordinator.machine.state.groups.get(group_id)
    state = coordinator.state_of(group_id)
    if record is None or state is GroupState.DEAD:
        raise GroupIdNotFoundError(f"there is no group {group_id!r}")
    topics: frozenset[str] | None = frozenset()
    if state is not GroupState.EMPTY:
        if record.protocol_type not in ("", CONSUMER_PROTOCOL):
            raise GroupNotEmptyError(f"group {group_id!r} has members that are no consumers; stop them first")
        topics = subscribed_topics(record) if record.members else None
    outcomes: dict[TopicPartition, RaftlogError | None] = {}
    for tp in partitions:
        taken = topics is None or tp.topic in topics
        outcomes[tp] = GroupSubscribedToTopicError(f"group {group_id!r} subscribes to {tp.topic!r}") if taken else None
    refs = [
        pb.OffsetRef(group_id=group_id, topic=tp.topic, partition=tp.partition) for tp, error in outcomes.items() if error is None
    ]
    if refs:
        await coordinator.delete_offsets(refs)
    return outcomes
