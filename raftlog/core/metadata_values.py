"""What group 0 knows, as values: partitions, topics, and what a command did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from raftlog.errors import RaftlogError

Replica = tuple[int, int]
"""(node id, replica id). A replica id is unique among all that its group ever had."""
RowWrite = tuple[int, bytes, bytes | None]
"""(table, key, value or None to delete)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionMeta:
    """One partition.

    ``replicas`` are the *wanted* ones, the preferred leader first. The group's own log is the authority on who is a member
    now, and follows the wish step by step. ``leaving`` are those that were wanted before and have not been seen to leave the
    group; ``lost`` those of them whose disk is gone, so that they never come back. The three are disjoint.
    """

    group_id: int
    replicas: tuple[Replica, ...]
    created_index: int
    """Index of the metadata entry that created it."""
    founders: tuple[Replica, ...]
    """The replicas at its creation, which begin with each other as configuration; who came later begins without one."""
    next_replica_id: int
    leaving: tuple[Replica, ...] = ()
    lost: tuple[Replica, ...] = ()
    placed_index: int = 0
    """Index of the metadata entry that placed it as it is."""
    reason: str = ""
    """Why it was placed as it is; empty since its creation."""
    placed_at_ms: int = 0
    before: tuple[int, ...] = ()
    """Nodes of the wanted replicas before what is leaving began to leave: where a move that is taken back goes back to."""

    @property
    def nodes(self) -> tuple[int, ...]:
        """Node ids of the wanted replicas."""
        return tuple(node for node, _ in self.replicas)

    def replica_on(self, node_id: int) -> int | None:
        """The id of the replica that ``node_id`` has to hold: a wanted one, or one that is leaving and not lost."""
        return next((replica for node, replica in self.replicas + self.leaving if node == node_id), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicMeta:
    """One topic; ``topic_id`` has 16 bytes, ``configs`` are those that were set, ``partitions`` are by number."""

    name: str
    topic_id: bytes
    replication_factor: int
    partitions: tuple[PartitionMeta, ...]
    configs: Mapping[str, str]
    created_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What one command did. With an ``error`` nothing changed and there are no rows."""

    error: RaftlogError | None = None
    rows: tuple[RowWrite, ...] = ()
    nodes: tuple[int, ...] = ()
    """Node ids registered, registered anew, or of another status."""
    created: tuple[TopicMeta, ...] = ()
    altered: tuple[TopicMeta, ...] = ()
    deleted: tuple[TopicMeta, ...] = ()
    first_producer_id: int = 0
    """First id of the allocated block."""
    incarnation: int = 0
    """Of the node that joined."""
    level: int = 0
    """What the cluster's feature level was raised to."""
    restored: bool = False
    """Not a command's: a snapshot has taken the place of the whole state, and nobody tells what changed."""


NOTHING = Effects()
