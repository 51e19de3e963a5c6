"""A replica whose stored bytes fail their check: what becomes of it until another takes its place.

Theory of operation. Damage that is met by reading takes nothing from what the replica is as a voter: its term, its vote and where
its log ends are as before, and what it takes from now on it holds. So it goes on voting and acknowledging, for it may be needed:
where another replica is just being filled again, there is no majority without it, and nobody but the leader knows that. But it
does not lead where another voter can, for a leader must be able to give every entry to whoever lacks it (``Group.met_damage``),
and nobody reads from it. Its node asks for a new replica in its place (``broker.renewals``).

Damage that is met in the middle of a change, by taking an entry or applying one, may leave memory and disk out of step. Such a
replica is *excluded*: it neither sends nor takes anything until its node starts again.

The disk remembers either (``DAMAGED_ROW``), so that a replica is not taken for sound after a new start. The metadata's own
replica is not marked, for it is not renewed, nor is one without which its group has no majority.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from google.protobuf.message import DecodeError

from raftlog.consensus.journal import GIVEN_UP_ROW, RAFT_TABLE
from raftlog.core.features import Level
from raftlog.errors import DataLossError
from raftlog.model import METADATA_GROUP
from raftlog.pb.raftlog.internal.v1 import membership_pb2 as pb
from raftlog.storage.port import StoreReader, WriteBatch

if TYPE_CHECKING:
    from raftlog.consensus.group import Group

log = structlog.get_logger()

DAMAGED_ROW = b"damaged"
"""``DamagedRow``. It goes with the replica's data, when that is made the only voter by force, or when a person says so."""
GIVEN_UP = "it was given up for a new one"
"""What is damaged of a replica that was given up and is sound again, by a snapshot or a person's word."""
WHY_CHARS_MAX = 1_000


def note(group: Group, error: DataLossError, batch: WriteBatch, level: int) -> None:
    """Take note of damage, in memory and, by ``batch``, on the disk; ``level`` is the cluster's feature level."""
    if group.damaged is not None:
        return
    group.note_damage(str(error))
    log.error("replica is damaged", group=group.group, error=str(error))
    voters = len(group.configuration.voters)
    if level >= Level.RENEWAL and group.group != METADATA_GROUP and 2 * (voters - 1) > voters:
        row = pb.DamagedRow(why=str(error)[:WHY_CHARS_MAX], level=Level.RENEWAL)
        batch.rows[group.group, RAFT_TABLE, DAMAGED_ROW] = row.SerializeToString(deterministic=True)


def damage_of(store: StoreReader, group: int) -> str:
    """What is remembered of a group's damage, in words; empty where nothing is. Whatever the row says, it is there for that. One
    that was given up says so in the same way: it must not lead, and its peers count it for what it is."""
    row = store.row(group, RAFT_TABLE, DAMAGED_ROW)
    if row is None:
        return GIVEN_UP if store.row(group, RAFT_TABLE, GIVEN_UP_ROW) is not None else ""
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
