"""What doors see of moving replicas: wishes, and what has come of them. Any node takes any call.

A wish is durable when its call returns, and is carried out from then on, whoever leads and whatever fails: there is no
session to keep open. ``moves`` tells how far it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from raftlog.errors import RaftlogError
from raftlog.model import Balanced, Move, TopicPartition


@dataclass(frozen=True, slots=True, kw_only=True)
class Placing:
    """A wish for one partition: node ids of its replicas, the preferred leader first; None takes a move back."""

    tp: TopicPartition
    replicas: tuple[int, ...] | None


class MoveBroker(Protocol):
    """All that a door may ask."""

    async def place(self, wishes: Sequence[Placing], *, reason: str) -> None:
        """Want other replicas for partitions; all or none of them.

        Raises:
            UnknownTopicOrPartitionError, InvalidReplicaAssignmentError: why it is refused.
            StalePlacementError: they were placed anew meanwhile.
            NoMoveInProgressError: a move was to be taken back where there is none.
        """
        ...

    async def drain_node(self, node_id: int, *, cancel: bool = False) -> int:
        """Let all replicas leave a node, and none come; ``cancel`` lets them come again. How many partitions have to leave.

        Raises:
            UnknownNodeError: there is no such node.
            NodeInUseError: there is no room elsewhere.
        """
        ...

    async def remove_node(self, node_id: int) -> None:
        """Take a drained node out of the cluster, the metadata's group included: afterwards its process may end.

        Raises:
            UnknownNodeError: there is no such node.
            NodeInUseError: it holds replicas.
            UnavailableError: it is removed, but the metadata's group has not let it go yet; a second call looks again.
        """
        ...

    async def balance(self, *, dry_run: bool) -> Balanced:
        """Spread replicas and leaders evenly over racks and nodes; with ``dry_run`` only say how."""
        ...

    async def moves(self) -> list[Move]:
        """All that is on the move, by topic and partition."""
        ...

    async def elect_leaders(self, tps: Sequence[TopicPartition]) -> list[RaftlogError | None]:
        """Have the preferred replica of each of these partitions lead; what came of each, in this order.

        Raises:
            LeaderNotAvailableError: nobody leads the cluster just now.
        """
        ...
