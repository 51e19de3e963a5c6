"""Giving snapshots: what a leader answers to a follower that pulls one.

Rules:

1. A snapshot is one moment of the store: base, rows, applied index and configurations fit together.
2. Holding a moment keeps pages from reuse, so snapshots are few (``VIEWS_MAX``), and each ends after ``VIEW_LIFE_S``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from raftlog.consensus.group import Group
from raftlog.consensus.journal import CONFIG_ROW, RAFT_TABLE, stored_progress
from raftlog.core import configuration as codec
from raftlog.core.configuration import node_of
from raftlog.errors import DataLossError, NotLeaderError, OverloadedError, UnavailableError
from raftlog.model import Role
from raftlog.pb.raftlog.internal.v1 import snapshot_pb2 as pb
from raftlog.storage.port import GroupView, Store

VIEWS_MAX = 4
"""Snapshots that a node gives at a time."""
VIEW_LIFE_S = 60.0
"""However slowly it is read. At the pace of a reader (``snapshot_pull.BYTES_PER_S``) that is far more than any state."""
PAGE_BYTES_MAX = 1 << 20
"""Rows of one answer, unless a single one is larger."""
COUNTED_BYTES_MAX = 4 << 20
"""State up to this is counted beforehand, so that one can say how far a snapshot is."""
FIRST_ROW = (RAFT_TABLE + 1, b"")
"""Table 0 is consensus' own: the receiver writes it itself."""


class _Given:
    """One snapshot that is being read."""

    __slots__ = ("group", "member", "sent_bytes", "timer", "total_bytes", "view")

    def __init__(self, group: int, member: int, view: GroupView, timer: asyncio.TimerHandle) -> None:
        self.group, self.member, self.view, self.timer = group, member, view, timer
        self.sent_bytes = self.total_bytes = 0


class SnapshotSource:
    """A node's snapshots for others; ``groups`` are its open groups."""

    def __init__(self, groups: Callable[[], Mapping[int, Group]], store: Store) -> None:
        self._groups, self._store = groups, store
        self._given: dict[int, _Given] = {}
        self._last_id = 0

    def open(self, node_id: int, call: pb.SnapshotOpen) -> tuple[pb.SnapshotOpened, bytes]:
        """Begin a snapshot for a follower on ``node_id``; the base entry goes with the answer.

        Raises:
            NotLeaderError: this node does not lead that group in that term, or the asker is no member of it.
            OverloadedError: it gives as many as it may.
            UnavailableError: the store does not hold enough of the group yet.
            DataLossError: it is damaged; the replica makes way, where it can (``Group.met_damage``).
        """
        group = self._groups().get(call.group)
        leads = group is not None and group.role is Role.LEADER and group.term == call.term
        if group is None or not leads or node_of(call.member) != node_id or call.member not in group.configuration.members:
            raise NotLeaderError(f"this node does not lead group {call.group} in term {call.term} with member {call.member}")
        for known in [known for known, given in self._given.items() if (given.group, given.member) == (call.group, call.member)]:
            self._close(known)
        if len(self._given) >= VIEWS_MAX:
            raise OverloadedError(f"this node gives {VIEWS_MAX} snapshots already; ask again later")
        view = self._store.view(call.group)
        try:
            answer, base = _describe(view, call.group)
        except BaseException as error:
            view.close()
            if isinstance(error, DataLossError):
                group.met_damage(error)
            raise
        self._last_id += 1
        timer = asyncio.get_running_loop().call_later(VIEW_LIFE_S, self._close, self._last_id)
        given = self._given[self._last_id] = _Given(call.group, call.member, view, timer)
        given.total_bytes = answer.total_bytes
        answer.snapshot_id = self._last_id
        return answer, base

    def read(self, node_id: int, call: pb.SnapshotRead) -> pb.SnapshotPage:
        """The next rows; with the last of them the snapshot ends.

        Raises:
            UnavailableError: there is no such snapshot, or not any more.
            DataLossError: a row is damaged; as above.
        """
        given = self._given.get(call.snapshot_id)
        if given is None or node_of(given.member) != node_id:
            raise UnavailableError(f"snapshot {call.snapshot_id} has ended; begin another one")
        try:
            rows = given.view.page((call.table, call.key), PAGE_BYTES_MAX)
            last = not rows or not given.view.page(_behind(rows), 1)
        except DataLossError as error:
            self._close(call.snapshot_id)
            if given.group in self._groups():
                self._groups()[given.group].met_damage(error)
            raise
        given.sent_bytes += _size(rows)
        if last:
            self._close(call.snapshot_id)
        return pb.SnapshotPage(rows=[pb.SnapshotRow(table=table, key=key, value=value) for table, key, value in rows], last=last)

    def progress(self, group: int, member: int) -> tuple[int, int]:
        """Bytes sent and in all (0: not known) of the snapshot that a member reads, zeros where there is none."""
        for given in self._given.values():
            if (given.group, given.member) == (group, member):
                return given.sent_bytes, given.total_bytes
        return 0, 0

    def close(self) -> None:
        """End all."""
        for known in list(self._given):
            self._close(known)

    def _close(self, snapshot_id: int) -> None:
        given = self._given.pop(snapshot_id, None)
        if given is not None:
            given.timer.cancel()
            given.view.close()


def _describe(view: GroupView, group: int) -> tuple[pb.SnapshotOpened, bytes]:
    bounds, row = view.bounds(group), view.row(group, RAFT_TABLE, CONFIG_ROW)
    commit_index, applied_index = stored_progress(view, group)
    if bounds is None or row is None or not bounds[0] <= applied_index <= commit_index:
        raise UnavailableError(f"the log of group {group} is not stored that far yet; ask again")
    (base,) = view.entries(group, bounds[0], bounds[0] + 1, 1)
    replica, configurations = codec.decode_row(row)
    known = codec.encode_row(replica, [one for one in configurations if one[0] <= applied_index])
    rows = view.page(FIRST_ROW, COUNTED_BYTES_MAX)
    total = 0 if rows and view.page(_behind(rows), 1) else _size(rows)
    return pb.SnapshotOpened(applied_index=applied_index, configurations=known, total_bytes=total), base


def _behind(rows: list[tuple[int, bytes, bytes]]) -> tuple[int, bytes]:
    """Where the rows behind these begin."""
    table, key, _ = rows[-1]
    return table, key + b"\0"


def _size(rows: list[tuple[int, bytes, bytes]]) -> int:
    return sum(len(key) + len(value) for _, key, value in rows)
