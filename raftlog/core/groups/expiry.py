"""Which committed offsets and groups have served their time (KIP-211): decided here for the leader, which proposes it."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from itertools import islice
from typing import Final

from raftlog.core.groups.records import GroupRecord, StoredOffset
from raftlog.core.groups.state import GroupsState
from raftlog.core.groups.subscription import subscribed_topics
from raftlog.core.groups.values import GroupState
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.internal.v1 import groups_pb2 as pb

OFFSETS_MAX: Final = 1_000
"""Most offsets that one command forgets, so that it stays a small entry."""
GROUPS_MAX: Final = 100
"""Most groups that one pass forgets: each is a command."""

Gone = Callable[[TopicPartition, int], bool]


def expired_offsets(
    state: GroupsState, group_id: str, *, now_ms: int, retention_ms: int, state_of: Callable[[str], GroupState], gone: Gone
) -> list[pb.OffsetRef]:
    """Offsets of a group to forget now.

    Those of deleted partitions; those of a group that has been empty for ``retention_ms``, or never had members and did not
    commit for so long; those of topics that no member of a stable group of consumers subscribes to, when they are so old.

    Args:
        state_of: the state of a group, as its coordinator leads it.
        gone: whether the partition that had this Raft group was deleted.
    """
    record, offsets = state.groups.get(group_id), state.offsets.get(group_id)
    if record is None or offsets is None:
        return []
    return [
        pb.OffsetRef(group_id=group_id, topic=tp.topic, partition=tp.partition, commit_index=stored.commit_index)
        for tp, stored in _expired(record, offsets, now_ms - retention_ms, state_of, gone)
    ]


def unused_groups(
    state: GroupsState, *, before_ms: int, state_of: Callable[[str], GroupState], but: Container[str] = ()
) -> list[GroupRecord]:
    """Groups without offsets, and without members since ``before_ms``, those of ``but`` left out; ``GROUPS_MAX`` at most."""
    unused = (
        record
        for group_id, record in state.groups.items()
        if not record.members
        and group_id not in but
        and record.empty_since_ms <= before_ms
        and group_id not in state.offsets
        and state_of(group_id) is GroupState.EMPTY
    )
    return list(islice(unused, GROUPS_MAX))


def _expired(
    record: GroupRecord, offsets: dict[TopicPartition, StoredOffset], before_ms: int,
    state_of: Callable[[str], GroupState], gone: Gone,
) -> Iterator[tuple[TopicPartition, StoredOffset]]:  # fmt: skip
    now = state_of(record.group_id)
    topics = subscribed_topics(record) if now is GroupState.STABLE else None
    for tp, stored in offsets.items():
        if now is GroupState.EMPTY:
            # A group whose last member goes is empty here before its record says so, and since when.
            old = not record.members and max(stored.commit_time_ms, record.empty_since_ms) <= before_ms
        else:
            old = topics is not None and tp.topic not in topics and stored.commit_time_ms <= before_ms
        if old or gone(tp, stored.raft_group):
            yield tp, stored
