"""A replica whose stored bytes fail their check takes no part any more; its disk remembers that for the next start.

Without the row a node that starts again would let the replica vote, and perhaps lead, on a log that it cannot read. The
metadata's own replica is not marked, nor is one without which its group has no majority: there, the rest is better than nothing.
"""

from __future__ import annotations

from typing import TypeVar

import structlog
from google.protobuf.message import DecodeError

from raftlog.consensus.group import Group
from raftlog.consensus.journal import RAFT_TABLE
from raftlog.core.features import Level
from raftlog.errors import DataLossError
from raftlog.model import METADATA_GROUP
from raftlog.pb.raftlog.internal.v1 import membership_pb2 as pb
from raftlog.storage.port import StoreReader, WriteBatch

log = structlog.get_logger()

DAMAGED_ROW = b"damaged"
"""``DamagedRow``. It goes with the replica's data, when that is made the only voter by force, or when a person says so."""
WHY_CHARS_MAX = 1_000
_R = TypeVar("_R", bound=StoreReader)


def note(group: Group, error: DataLossError, batch: WriteBatch, level: int) -> None:
    """Take note of damage, in memory and, by ``batch``, on the disk; ``level`` is the cluster's feature level."""
    dispensable = group.dispensable  # as long as it still leads, it knows of the others
    group.damaged = str(error)
    log.error("replica is damaged and no longer takes part", group=group.group, error=str(error))
    if level >= Level.RENEWAL and group.group != METADATA_GROUP and dispensable:
        row = pb.DamagedRow(why=group.damaged[:WHY_CHARS_MAX], level=Level.RENEWAL)
        batch.rows[group.group, RAFT_TABLE, DAMAGED_ROW] = row.SerializeToString(deterministic=True)


def damage_of(store: StoreReader, group: int) -> str:
    """What is remembered of a group's damage, in words; empty where nothing is. Whatever the row says, it is there for that."""
    row = store.row(group, RAFT_TABLE, DAMAGED_ROW)
    if row is None:
        return ""
    try:
        return pb.DamagedRow.FromString(row).why or "it does not say how"
    except DecodeError as error:
        return str(error)


def forget(store: StoreReader, group: int, batch: WriteBatch) -> bool:
    """Remove the row, if there is one; whether there is."""
    held = store.row(group, RAFT_TABLE, DAMAGED_ROW) is not None
    if held:
        batch.rows[group, RAFT_TABLE, DAMAGED_ROW] = None
    return held


def sound(store: _R, group: int) -> _R:
    """The same reader, where no damage of the group is remembered.

    Raises:
        DataLossError: there is; says what.
    """
    why = damage_of(store, group)
    if why:
        raise DataLossError(f"group {group} was found to be damaged before: {why}")
    return store
