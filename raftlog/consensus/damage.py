"""A replica whose stored bytes fail their check takes no part any more; its disk remembers that for the next start.

Without the row a node that starts again would let the replica vote, and perhaps lead, on a log that it cannot read. The
metadata's own replica, and one that is its group's only voter, are not marked: there, the rest is better than nothing.
"""

from __future__ import annotations

from typing import TypeVar

import structlog

from raftlog.consensus.group import Group
from raftlog.consensus.journal import RAFT_TABLE
from raftlog.core.features import Level
from raftlog.errors import DataLossError
from raftlog.model import METADATA_GROUP
from raftlog.pb.raftlog.internal.v1 import membership_pb2 as pb
from raftlog.storage.port import StoreReader, WriteBatch

log = structlog.get_logger()

DAMAGED_ROW = b"damaged"
"""``DamagedRow``. It goes with the replica's data, or when that is made the only voter by force."""
WHY_CHARS_MAX = 1_000
_R = TypeVar("_R", bound=StoreReader)


def note(group: Group, error: DataLossError, batch: WriteBatch, level: int) -> None:
    """Take note of damage, in memory and, by ``batch``, on the disk; ``level`` is the cluster's feature level."""
    group.damaged = str(error)
    log.error("replica is damaged and no longer takes part", group=group.group, error=str(error))
    if level >= Level.RENEWAL and group.group != METADATA_GROUP and group.has_successor:
        row = pb.DamagedRow(why=group.damaged[:WHY_CHARS_MAX], level=Level.RENEWAL)
        batch.rows[group.group, RAFT_TABLE, DAMAGED_ROW] = row.SerializeToString(deterministic=True)


def sound(store: _R, group: int) -> _R:
    """The same reader, where no damage of the group is remembered. Whatever stands in the row, it is there for that.

    Raises:
        DataLossError: there is; says what.
    """
    row = store.row(group, RAFT_TABLE, DAMAGED_ROW)
    if row is not None:
        raise DataLossError(f"group {group} was found to be damaged before: {pb.DamagedRow.FromString(row).why}")
    return store
