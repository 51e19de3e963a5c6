"""What a replica remembers of having been made its group's only voter by force (``raftlog.consensus.forcing``)."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from raftlog.consensus.journal import RAFT_TABLE
from raftlog.core.features import check_form
from raftlog.errors import DataLossError
from raftlog.pb.raftlog.internal.v1 import membership_pb2 as pb
from raftlog.storage.port import StoreReader, WriteBatch

UNCLEAN_ROW = b"unclean"
"""``Unclean`` of the last time; there is none where it never happened, or was forgotten."""


@dataclass(frozen=True, slots=True)
class Unclean:
    """When it was, the index of the entry that did it, and the voters (member ids) that were lost."""

    at_ms: int
    index: int
    lost: tuple[int, ...]


def encode(unclean: Unclean) -> bytes:
    """The row."""
    row = pb.UncleanRow(at_ms=unclean.at_ms, index=unclean.index, lost=unclean.lost)
    return row.SerializeToString(deterministic=True)


def unclean_of(store: StoreReader, group: int) -> Unclean | None:
    """What the replica's disk remembers.

    Raises:
        DataLossError: the row is damaged.
        NewerFormatError: a newer version wrote it.
    """
    row = store.row(group, RAFT_TABLE, UNCLEAN_ROW)
    if row is None:
        return None
    try:
        found = pb.UncleanRow.FromString(row)
    except DecodeError as error:
        raise DataLossError(f"group {group}: the row of its unclean configuration cannot be read: {error}") from error
    check_form(found.level, f"the row of the unclean configuration of group {group}")
    return Unclean(found.at_ms, found.index, tuple(found.lost))


def forget(store: StoreReader, group: int, batch: WriteBatch) -> bool:
    """Remove the row, if there is one; whether there is."""
    held = store.row(group, RAFT_TABLE, UNCLEAN_ROW) is not None
    if held:
        batch.rows[group, RAFT_TABLE, UNCLEAN_ROW] = None
    return held
