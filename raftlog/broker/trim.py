"""TRIM entries: how a leader tells all replicas what goes."""

from __future__ import annotations

from raftlog.consensus.port import ReplicatedLog
from raftlog.core.entry import Entry, EntryHeader, EntryKind, encode
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb

ENTRIES_KEPT = 1_000
"""The log of a group whose state is in rows is cut when it is longer: some hundred kilobytes."""


def append_trim(log: ReplicatedLog, trim: pb.Trim, now_ms: int) -> Entry:
    """Append a TRIM entry as leader; errors as ``ReplicatedLog.append``."""
    payload = trim.SerializeToString(deterministic=True)

    def build(index: int, term: int, before: EntryHeader) -> Entry:
        header = EntryHeader(
            kind=EntryKind.TRIM,
            group=log.group,
            index=index,
            term=term,
            base_offset=before.next_offset,
            running_max_timestamp=before.running_max_timestamp,
            append_time=now_ms,
        )
        return encode(header, payload)

    return log.append(build)


def cut_applied(log: ReplicatedLog, trim_index: int, now_ms: int) -> int:
    """Cut the log of a group whose state is in rows behind what is applied, once it is long enough to be worth it.

    ``trim_index`` is what the last call returned, 0 at first: at most one TRIM is under way.

    Raises:
        NotLeaderError, LeaderNotAvailableError, OverloadedError
    """
    if not log.ready or trim_index > log.applied_index:
        return trim_index
    keep_from = min(log.min_match_index(), log.applied_index)
    if keep_from - log.first_index <= ENTRIES_KEPT:
        return trim_index
    return append_trim(log, pb.Trim(keep_from_index=keep_from), now_ms).header.index
