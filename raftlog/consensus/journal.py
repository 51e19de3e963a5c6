"""A group's log as PySyncObj and the group see it, over storage and the transaction that is being gathered.

Theory of operation. An entry lives first in ``_pending`` and in the node's next ``WriteBatch``; when that batch is durable
it moves to the tail cache, and from then on storage has it. So a read looks at the pending, the cache, the store, in this
order. Terms and votes go into the same batch; commit and applied index are kept in memory and ride on the next batch.

Rules:

1. first ≤ applied ≤ commit ≤ last, in memory and in every transaction; but for a replica that is being *filled*: a snapshot has
   given it the state after an entry that its log does not reach yet, first ≤ commit < applied, until its commit index has
   passed that.
2. ``durable_index`` is the last index up to which storage has *this* log: truncation lowers it.
3. PySyncObj is shown positions only (index and term): it never touches a payload.
4. The configurations that may still matter, the newest committed one and those behind it, are a row that changes in the
   transaction of the entry or truncation that changes them. A new group's founders are its configuration from index 1 on.
"""

from __future__ import annotations

import struct
from typing import Any, Protocol

from raftlog.consensus.door import Journal
from raftlog.consensus.tail import TailCache
from raftlog.core import configuration as codec
from raftlog.core.configuration import UNKNOWN, Configuration
from raftlog.core.entry import HEADER_SIZE, Entry, EntryHeader, EntryKind, decode_header, encode
from raftlog.core.features import Level
from raftlog.errors import DataLossError, NewerFormatError
from raftlog.storage.port import StoreReader, WriteBatch

RAFT_TABLE = 0
HARD_ROW = b"hard"
"""Term and vote: always in the transaction of the turn that changed them."""
PROGRESS_ROW = b"progress"
"""Commit index, applied index, bytes of entries held: lazy."""
CONFIG_ROW = b"config"
"""The replica's id, and configurations by index: always in the transaction of the entry or truncation that changed them."""
GIVEN_UP_ROW = b"given up"
"""There where the replica was given up for a new one, and its group has not been seen to be without it."""
FOUNDERS_INDEX = 1
_HARD = struct.Struct(">Qq")
_PROGRESS = struct.Struct(">QQQ")
_NO_VOTE = -1
TRIM_STEP_ENTRIES = 1_000
"""Entries deleted in one transaction: a delete costs pages too, and must fit into the reserve of a full disk."""

Position = tuple[None, int, int]


class Gathering(Protocol):
    """Who gathers the next transaction."""

    batch: WriteBatch
    """Replaced by a fresh one whenever it is handed to storage."""


class GroupJournal(Journal):  # type: ignore[misc]  # PySyncObj is untyped
    """One group's log; what changes joins ``gathering.batch``.

    Args:
        replica: whose log it is. The store holds no other's (``stored_replica``).
        founders: the group's first voters, if this replica is one of them.
    """

    def __init__(
        self, group: int, store: StoreReader, tail: TailCache, gathering: Gathering, *, replica: int, founders: tuple[int, ...]
    ) -> None:
        self.group = group
        self._gathering = gathering
        self.truncated_at: int | None = None
        """Lowest index truncated since the turn loop last looked."""
        self._store = store
        self._tail = tail
        self._pending: dict[int, Entry] = {}
        self.hard_dirty = False
        """Term or vote changed in the turn under way: nothing may leave before they are durable."""
        self.progress_dirty = False
        self.told_commit = 0
        """The highest commit index that a leader has told since the start."""
        hard = store.row(group, RAFT_TABLE, HARD_ROW)
        self._term: int
        self._vote: int
        self.commit_index: int
        self.applied_index: int
        self.size_bytes: int
        self.first_index: int
        self.last_index: int
        self._term, self._vote = self._unpacked(_HARD, hard) if hard else (0, _NO_VOTE)
        progress = store.row(group, RAFT_TABLE, PROGRESS_ROW)
        self.commit_index, self.applied_index, self.size_bytes = self._unpacked(_PROGRESS, progress) if progress else (1, 1, 0)
        self.first_index, self.last_index = store.bounds(group) or (1, 0)
        self.durable_index = self._in_flight_index = self.last_index
        self._last = self._stored_last()
        self._trim_target = self.first_index
        self.given_up = store.row(group, RAFT_TABLE, GIVEN_UP_ROW) is not None
        self.replica = replica
        self._configurations: list[tuple[int, Configuration]]
        configurations = store.row(group, RAFT_TABLE, CONFIG_ROW)
        if configurations is None:
            self._put_configurations([(FOUNDERS_INDEX, Configuration.of(founders))] if founders else [])
        else:
            self._configurations = codec.decode_row(configurations)[1]
        if self.last_index > 1:
            self._check_rows(lost="progress" if progress is None else "")

    def _check_rows(self, *, lost: str) -> None:
        """Rows are in the transaction of what they belong to, so they fit the log. No checksum tells that one is not found any
        more because its key is damaged; without its term and vote a replica would vote again.

        Raises:
            DataLossError
        """
        if self.last.term > self._term:
            lost = "term and vote"
        if not self.first_index <= self.commit_index <= self.last_index:
            lost = lost or "progress"
        if lost:
            raise DataLossError(
                f"group {self.group} has entries {self.first_index} to {self.last_index}, the last one of term {self.last.term},"
                f" but the row of its {lost} is missing or of another log"
            )

    def _unpacked(self, layout: struct.Struct, row: bytes) -> tuple[Any, ...]:
        """A row of ours; its size is all that tells versions apart, for storage has checked its bytes."""
        if len(row) != layout.size:
            raise NewerFormatError(f"group {self.group} has a row of {len(row)} bytes where this version writes {layout.size}")
        return layout.unpack(row)

    def _stored_last(self) -> EntryHeader | None:
        if self.last_index == 0:
            return None
        header = self._store.header(self.group, self.last_index)
        if header is None:
            raise DataLossError(f"group {self.group} has no entry {self.last_index}, where its log ends")
        return header

    # ---- what PySyncObj calls

    def add(self, command: Entry | bytes, idx: int, term: int) -> None:
        """Append an entry; PySyncObj's own no-op comes as one byte and gets its header here."""
        assert idx == self.last_index + 1, f"group {self.group}: entry {idx} behind {self.last_index}"
        entry = command if isinstance(command, Entry) else self._noop(idx, term)
        self._pending[idx] = entry
        batch = self._gathering.batch
        batch.entries[self.group, idx] = entry.data
        size = len(entry.data)
        batch.size_bytes += size
        self.size_bytes += size
        self.last_index = idx
        self._last = entry.header
        self.progress_dirty = True
        if entry.header.kind is EntryKind.CONFIGURATION:
            self._configure(idx, codec.decode(bytes(entry.payload)))

    def _configure(self, index: int, configuration: Configuration) -> None:
        """An entry brings another configuration; those before the newest committed one matter no more."""
        known = self._configurations
        if known and known[-1][0] >= index:
            return  # a snapshot has told it before the log did
        while len(known) > 1 and known[1][0] <= self.commit_index:
            known = known[1:]
        self._put_configurations([*known, (index, configuration)])

    def _put_configurations(self, configurations: list[tuple[int, Configuration]]) -> None:
        self._configurations = configurations
        row = codec.encode_row(self.replica, configurations)
        self._gathering.batch.rows[self.group, RAFT_TABLE, CONFIG_ROW] = row

    def _noop(self, index: int, term: int) -> Entry:
        last = self._last
        header = EntryHeader(
            kind=EntryKind.NOOP,
            group=self.group,
            index=index,
            term=term,
            base_offset=last.next_offset if last else 0,
            running_max_timestamp=last.running_max_timestamp if last else -1,
        )
        return encode(header)

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803 - PySyncObj's names
        """Truncate: delete from the position (not index) ``entryFrom`` to the end."""
        index = self.first_index + entryFrom
        assert index > self.commit_index, f"group {self.group}: truncating {index} with {self.commit_index} committed"
        batch = self._gathering.batch
        for gone in range(index, self.last_index + 1):
            self.size_bytes -= self._size_of(gone)
            self._pending.pop(gone, None)
            data = batch.entries.pop((self.group, gone), None)
            batch.size_bytes -= len(data) if data else 0
        self._tail.forget(self.group, index, self.last_index + 1)
        if index <= self.durable_index:
            batch.truncate[self.group] = min(index, batch.truncate.get(self.group, index))
        self.last_index = index - 1
        self.durable_index = self._in_flight_index = min(self.durable_index, self.last_index)
        self._last = None
        self._last = self.header(self.last_index)
        self.truncated_at = index if self.truncated_at is None else min(index, self.truncated_at)
        self.progress_dirty = True
        if self._configurations and self._configurations[-1][0] >= index:
            self._put_configurations([known for known in self._configurations if known[0] < index])

    def __getitem__(self, item: int | slice) -> Any:
        """Positions ``(None, index, term)``; an open slice gives two, which is all that PySyncObj looks at. It asks for the first
        one to know where the log begins, and for its term never, which is at each message: that entry need not be readable."""
        if item == 0:
            return (None, self.first_index, None)
        if isinstance(item, int):
            return self._position(self.last_index if item == -1 else self.first_index + item)
        start = self.first_index + (item.start or 0)
        stop = start + 2 if item.stop is None else self.first_index + item.stop
        return [self._position(index) for index in range(max(start, self.first_index), min(stop, self.last_index + 1))]

    def _position(self, index: int) -> Position:
        term = self.term_at(index)
        if term is None:
            raise IndexError(index)
        return (None, index, term)

    def __len__(self) -> int:
        return self.last_index - self.first_index + 1

    def _destroy(self) -> None:
        """Nothing to release: storage belongs to the node."""

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803
        """Kept in memory; every heartbeat sets it."""
        if raftCommitIndex != self.commit_index:
            self.commit_index = raftCommitIndex
            self.progress_dirty = True

    def getRaftCommitIndex(self) -> int:  # noqa: N802
        """The commit index as last persisted."""
        return self.commit_index

    def setCurrentTerm(self, term: int, votedForNodeId: int | None) -> None:  # noqa: N802, N803
        """Term and vote join the batch; see ``hard_dirty``."""
        vote = _NO_VOTE if votedForNodeId is None else votedForNodeId
        if (term, vote) != (self._term, self._vote):
            self._term, self._vote = term, vote
            self._gathering.batch.rows[self.group, RAFT_TABLE, HARD_ROW] = _HARD.pack(term, vote)
            self.hard_dirty = True

    def getCurrentTerm(self) -> int:  # noqa: N802
        """The current term."""
        return int(self._term)

    def getVotedForNodeId(self) -> int | None:  # noqa: N802
        """The member voted for in the current term."""
        return None if self._vote == _NO_VOTE else int(self._vote)

    def was_voter(self, member: int) -> bool:
        """Whether a member that the configuration in force leaves out may be needed yet: that is not committed, and an earlier
        one has it as a voter."""
        return not self.configuration_committed and any(member in known.voters for _, known in self._configurations[:-1])

    # ---- what the group calls

    def give_up(self) -> None:
        """This replica was given up for a new one: its data says so from now on."""
        self.given_up = True
        self._gathering.batch.rows[self.group, RAFT_TABLE, GIVEN_UP_ROW] = b"1"

    @property
    def filling(self) -> bool:
        """The state is ahead of the log, see rule 1."""
        return self.applied_index > self.commit_index

    @property
    def configuration(self) -> Configuration:
        """The one in force: the last of the log, committed or not. The same object until it changes."""
        return self._configurations[-1][1] if self._configurations else UNKNOWN

    @property
    def configuration_committed(self) -> bool:
        """Whether the configuration in force is known to be committed."""
        return not self._configurations or self._configurations[-1][0] <= self.commit_index

    @property
    def last(self) -> EntryHeader:
        """Header of the last entry; a log is never empty once PySyncObj has begun it."""
        assert self._last is not None
        return self._last

    def term_at(self, index: int) -> int | None:
        """Term of an entry, None outside of the log."""
        header = self.header(index)
        return None if header is None else header.term

    def header(self, index: int) -> EntryHeader | None:
        """Header of an entry, None outside of the log.

        Raises:
            DataLossError: it is damaged, or missing.
        """
        if self._last is not None and index == self._last.index:
            return self._last
        if not self.first_index <= index <= self.last_index:
            return None
        entry = self._pending.get(index) or self._tail.get(self.group, index)
        header = entry.header if entry else self._store.header(self.group, index)
        if header is None:
            raise self._missing(index)
        return header

    def _missing(self, index: int) -> DataLossError:
        return DataLossError(
            f"entry {index} of group {self.group} is missing from its log, {self.first_index} to {self.last_index}"
        )

    def read(self, start: int, stop: int, bytes_max: int) -> list[Entry]:
        """Entries ``start <= index < stop``: one at least where ``start`` exists, then up to ``bytes_max``."""
        if not self.first_index <= start <= self.last_index:
            return []
        found: list[Entry] = []
        size, index, stop = 0, start, min(stop, self.last_index + 1)
        while index < stop:
            entry = self._pending.get(index) or self._tail.get(self.group, index)
            if entry is None:
                in_store = min(stop, self.durable_index + 1)
                stored = self._stored(index, in_store, bytes_max - size, raises=not found)
                if not found and not stored:
                    raise self._missing(index)
                if found and stored and size + len(stored[0].data) > bytes_max:
                    break
                found += stored
                size += sum(len(entry.data) for entry in stored)
                index += len(stored)
                if not stored or index < in_store or size >= bytes_max:
                    break  # the store stopped at the limit, or before a damaged entry
                continue
            size += len(entry.data)
            if found and size > bytes_max:
                break
            found.append(entry)
            index += 1
        return found

    def _stored(self, start: int, stop: int, bytes_max: int, *, raises: bool) -> list[Entry]:
        """Entries from storage; a damaged one at ``start`` raises, or ends what was found before it."""
        try:
            return [decode_stored(data) for data in self._store.entries(self.group, start, stop, bytes_max)]
        except DataLossError:
            if raises:
                raise
            return []

    def _size_of(self, index: int) -> int:
        """Bytes of an entry that goes; 0 where they cannot be read, so that sizes are too high then, and nothing ends over it."""
        try:
            header = self.header(index)
        except DataLossError:
            return 0
        return 0 if header is None else header.payload_size + HEADER_SIZE

    def taken(self) -> None:
        """The turn loop hands the batch to storage: what was added so far is on its way."""
        self._in_flight_index = self.last_index

    def durable(self) -> None:
        """What was handed over is durable: its entries move to the tail cache. No truncation comes in between (port rule)."""
        # A list first: to ask a dict again and again for its first key walks over all that were deleted before it.
        for index in [index for index in self._pending if index <= self._in_flight_index]:
            self._tail.put(self._pending.pop(index))
        self.durable_index = self._in_flight_index

    def progress_row(self) -> bytes:
        """What the lazy row says now."""
        assert self.first_index <= self.commit_index <= self.last_index
        return progress(self.commit_index, self.applied_index, self.size_bytes)

    def hard_row(self) -> bytes:
        """Term and vote as they are now."""
        return _HARD.pack(self._term, self._vote)

    def trim(self, keep_from: int) -> None:
        """Aim to delete what stands below ``keep_from``; ``trim_step`` does it."""
        self._trim_target = max(self._trim_target, min(keep_from, self.applied_index, self.commit_index, self.durable_index))

    def trim_step(self) -> bool:
        """Put the next step of trimming into the batch; whether there was one."""
        keep = min(self._trim_target, self.first_index + TRIM_STEP_ENTRIES)
        if keep <= self.first_index:
            return False
        for index in range(self.first_index, keep):
            self.size_bytes -= self._size_of(index)
        self._tail.forget(self.group, self.first_index, keep)
        self.first_index = keep
        self._gathering.batch.trim[self.group] = keep
        self.progress_dirty = True
        return True


def progress(commit_index: int, applied_index: int, size_bytes: int) -> bytes:
    """The row of commit index, applied index and bytes held."""
    return _PROGRESS.pack(commit_index, applied_index, size_bytes)


def stored_progress(reader: StoreReader, group: int) -> tuple[int, int]:
    """Commit and applied index as they are stored."""
    row = reader.row(group, RAFT_TABLE, PROGRESS_ROW)
    commit_index, applied_index, _ = _PROGRESS.unpack(row) if row else (1, 1, 0)
    return commit_index, applied_index


def stored_replica(store: StoreReader, group: int, level: int = 0) -> int | None:
    """Whose data of a group the store holds; None where it holds none, or a version wrote it that is from before ``MEMBERSHIP``,
    as far as the cluster's feature level is known (0: it is not).

    Raises:
        DataLossError: the row that says so is damaged, or lost.
    """
    row = store.row(group, RAFT_TABLE, CONFIG_ROW)
    if row is None and level >= Level.MEMBERSHIP and store.bounds(group) is not None:
        raise DataLossError(f"group {group} has a log, but the row of its replica and members is missing")
    return None if row is None else codec.decode_row(row)[0]


def decode_stored(data: bytes) -> Entry:
    """An entry that storage has checked already."""
    return Entry(decode_header(data), data)
