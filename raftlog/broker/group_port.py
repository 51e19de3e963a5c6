"""What a door sees of consumer groups. Semantics live once, in the broker; doors decode, call and encode.

The words and the protocol are those of Kafka's classic group protocol (KIP-62, KIP-345, KIP-394): members join, the leader of
the group assigns, all sync, then heartbeat until something changes. The coordinator never reads what members say of
themselves (``metadata``) nor what they are assigned (``assignment``): both are bytes, opaque between the members.

A group's coordinator is whoever leads its partition of the internal topic. Any node takes any call and forwards it once over
the peer links, unless ``direct``; then a node that does not coordinate raises ``NotCoordinatorError`` with a hint. Every
method raises errors of ``raftlog.errors`` only. A first commit or join makes the internal topic where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from raftlog.core.groups.values import (
    GROUPS_TOPIC,
    NO_GENERATION,
    CommittedOffset,
    DescribedGroup,
    DescribedMember,
    GroupMember,
    GroupState,
    JoinedGroup,
    JoinedMember,
    JoinGroup,
    Leaver,
    ListedGroup,
    SyncedGroup,
)
from raftlog.errors import RaftlogError
from raftlog.model import NodeInfo, TopicPartition

__all__ = [
    "GROUPS_TOPIC",
    "NO_GENERATION",
    "CommittedOffset",
    "DescribedGroup",
    "DescribedMember",
    "GroupBroker",
    "GroupMember",
    "GroupState",
    "JoinGroup",
    "JoinedGroup",
    "JoinedMember",
    "Leaver",
    "ListedGroup",
    "SyncedGroup",
]


class GroupBroker(Protocol):
    """All that a door may ask of groups."""

    async def find_coordinator(self, group_id: str) -> NodeInfo:
        """The node that coordinates the group.

        Raises:
            InvalidGroupIdError: an empty id.
            CoordinatorNotAvailableError: there is none just now.
        """
        ...

    async def join_group(self, wish: JoinGroup, *, direct: bool = False) -> JoinedGroup:
        """Join; answers when the rebalance is over, at most the members' largest rebalance timeout later.

        Cancelling the call leaves the member joined, as a lost connection would.

        Raises:
            MemberIdRequiredError, UnknownMemberError, FencedInstanceError, InconsistentGroupProtocolError,
            InvalidSessionTimeoutError, InvalidGroupIdError, GroupFullError, NotCoordinatorError, CoordinatorNotAvailableError
        """
        ...

    async def sync_group(
        self, member: GroupMember, assignments: Mapping[str, bytes], *, protocol_type: str = "", protocol: str = "",
        direct: bool = False,
    ) -> SyncedGroup:  # fmt: skip
        """Wait for the generation's assignment; the leader brings it (member id → assignment).

        Raises:
            IllegalGenerationError, UnknownMemberError, RebalanceInProgressError, FencedInstanceError,
            InconsistentGroupProtocolError, NotCoordinatorError, CoordinatorNotAvailableError
        """
        ...

    async def heartbeat(self, member: GroupMember, *, direct: bool = False) -> None:
        """Say that the member lives.

        Raises:
            RebalanceInProgressError: join again; and as ``sync_group``.
        """
        ...

    async def leave_group(self, group_id: str, leavers: Sequence[Leaver], *, direct: bool = False) -> list[RaftlogError | None]:
        """Remove members; an outcome for each."""
        ...

    async def commit_offsets(
        self, member: GroupMember, offsets: Mapping[TopicPartition, CommittedOffset], *, direct: bool = False
    ) -> dict[TopicPartition, RaftlogError | None]:
        """Commit offsets; durable on a majority when this returns. An outcome for each partition.

        Raises:
            IllegalGenerationError, UnknownMemberError, FencedInstanceError, RebalanceInProgressError: nothing was committed.
            IndeterminateError: some may be committed.
        """
        ...

    async def fetch_offsets(
        self, group_id: str, partitions: Sequence[TopicPartition] | None, *, direct: bool = False
    ) -> dict[TopicPartition, CommittedOffset]:
        """Committed offsets (linearizable) of these partitions, or of all where ``None``; those without are left out."""
        ...

    async def list_groups(self, *, direct: bool = False) -> list[ListedGroup]:
        """The groups of the cluster; with ``direct`` those that this node coordinates."""
        ...

    async def describe_group(self, group_id: str, *, direct: bool = False) -> DescribedGroup:
        """One group."""
        ...

    async def delete_group(self, group_id: str, *, direct: bool = False) -> None:
        """Forget a group without members, and its offsets.

        Raises:
            GroupIdNotFoundError, GroupNotEmptyError
        """
        ...

    async def delete_offsets(
        self, group_id: str, partitions: Sequence[TopicPartition], *, direct: bool = False
    ) -> dict[TopicPartition, RaftlogError | None]:
        """Forget offsets of partitions that no member subscribes to; an outcome for each (KIP-496).

        Raises:
            GroupIdNotFoundError
        """
        ...
