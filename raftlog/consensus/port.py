"""What the broker sees of consensus: a replicated log for each group. Another engine could stand behind it.

Rules:

1. ``append`` decides index, term and offset in the call itself; there is no queue between the decision and the log.
2. An entry is *committed* when its index ≤ ``commit_index``: durable on a majority, and on this node too where it leads.
3. ``StateMachine.apply`` sees committed entries once each, in order, on every replica; it reads no clock and decides
   nothing that depends on one. Rows that it writes go into the transaction that carries the applied index.
4. A group's members are a part of its log: ``reconfigure`` appends another configuration, one step from the one before, and it
   is in force on each replica as soon as it is in its log, for as long as it is not truncated.
5. Callbacks run on the event loop within a turn; they must not block and must not await.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from raftlog.core.configuration import Configuration
from raftlog.core.entry import Entry, EntryHeader
from raftlog.model import Role

Build = Callable[[int, int, EntryHeader], Entry]
"""(index, term, header of the entry before it) → the entry. Called within ``append``; may raise to append nothing."""


SILENT_S = 5.0
"""A member that has answered nothing for so long is not counted on, though its node has a link: several elections. Where a group
sleeps, its node answers for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowerProgress:
    """What a leader knows of another member."""

    match_index: int
    """It is known to hold the log up to here; 0 where it has not answered yet."""
    heard_s: float
    """Seconds since its last answer; if it gave none, since this leader began to lead or the member was added."""
    snapshot_sent_bytes: int = 0
    """Of the snapshot that it pulls; the log behind that comes after it."""
    snapshot_total_bytes: int = 0
    """0 where it pulls none, or its size is not known."""
    damaged: bool = False
    """Something of what it holds fails its check, it says."""
    round: int = 0
    """The newest round of heartbeats of this term that it has answered (``ReplicatedLog.heartbeat_round``)."""


class Rows(Protocol):
    """A group's derived state: rows in step with its applied index. Reads see the writes of the turn under way."""

    def get(self, table: int, key: bytes) -> bytes | None:
        """One row."""
        ...

    def scan(self, table: int) -> Iterator[tuple[bytes, bytes]]:
        """All rows of a table in order of key. For start-up; during a turn use what you hold in memory."""
        ...

    def put(self, table: int, key: bytes, value: bytes | None) -> None:
        """Write a row, or delete it (None). Only within ``apply``."""
        ...


class StateMachine(Protocol):
    """What a group replicates. One for each group, made before the group starts."""

    def restore(self, rows: Rows) -> None:
        """Load the applied state, in the place of any other. Called before any other method, and again when a snapshot has
        taken the place of log and state: then what was appended is no more, and what became of it is not known."""

    def apply(self, entry: EntryHeader, payload: Callable[[], memoryview], rows: Rows) -> None:
        """Apply a committed entry. ``payload`` reads it (maybe from disk); record entries are not asked for theirs."""

    def appended(self, header: EntryHeader) -> None:
        """An entry joined the log, not committed yet (also called for the uncommitted or unapplied tail at start). After a
        snapshot the entries that its state holds already come too, and are not applied."""

    def truncated(self, index: int) -> None:
        """Entries from ``index`` on are gone, not having been committed."""

    def progressed(self) -> None:
        """Role, term, leader, commit, durable or applied index may have changed. At the end of a turn."""


class ReplicatedLog(Protocol):
    """One group's log on this node."""

    @property
    def group(self) -> int:
        """The group's id."""
        ...

    @property
    def members(self) -> tuple[int, ...]:
        """Node ids of the voters and learners; none where this replica does not know them yet."""
        ...

    @property
    def configuration(self) -> Configuration:
        """Who is in the group, by the last configuration of this replica's log; ``UNKNOWN`` where it has none yet."""
        ...

    @property
    def configuration_committed(self) -> bool:
        """Whether that is known to be committed."""
        ...

    @property
    def role(self) -> Role:
        """What this replica is now."""
        ...

    @property
    def term(self) -> int:
        """The current term."""
        ...

    @property
    def leader(self) -> int | None:
        """Node id of the leader as far as known."""
        ...

    @property
    def ready(self) -> bool:
        """This node leads and has applied the no-op of its own term: it may serve."""
        ...

    @property
    def damaged(self) -> str | None:
        """Which stored bytes of this replica fail their check, in words, or None."""
        ...

    @property
    def caught_up(self) -> bool:
        """Whether others may be stopped as far as this replica goes: it serves, or holds all that a leader has told it to be
        committed since this node started. Also true of one that does not count: a learner, or one that takes no part any more."""
        ...

    @property
    def unclean_at_ms(self) -> int:
        """When this replica was made the only voter by force (``consensus.unclean``), milliseconds since the epoch; else 0."""
        ...

    @property
    def first_index(self) -> int:
        """First entry held. Always first ≤ applied ≤ commit ≤ last, and durable ≤ last."""
        ...

    @property
    def last_index(self) -> int:
        """Last entry."""
        ...

    @property
    def durable_index(self) -> int:
        """Last entry that is on this node's disk."""
        ...

    @property
    def commit_index(self) -> int:
        """Last entry known to be committed."""
        ...

    @property
    def applied_index(self) -> int:
        """Last entry that the state machine has applied."""
        ...

    @property
    def size_bytes(self) -> int:
        """Bytes of the entries held."""
        ...

    def check_append(self) -> None:
        """Pass where ``append`` would; what is judged by the log's contents need not be judged before that.

        Raises:
            NotLeaderError, LeaderNotAvailableError, OverloadedError: as ``append``.
        """
        ...

    def append(self, build: Build) -> Entry:
        """Append one entry as leader.

        Raises:
            NotLeaderError: this node does not lead.
            LeaderNotAvailableError: it leads, but may not serve yet, or is handing over.
            OverloadedError: too much is waiting for the disk (``APPEND_BYTES_WAITING_MAX``).
            IndeterminateError: the replica went out of service in this call; the entry may be in the log all the same.
        """
        ...

    async def barrier(self, timeout_s: float) -> int:
        """Confirm leadership by a heartbeat round begun after the call; the commit index that a linearizable read must see.

        Raises:
            NotLeaderError: not the leader, or no longer.
            RequestTimedOutError: no majority answered in time.
        """
        ...

    def header(self, index: int) -> EntryHeader | None:
        """The header of an entry of the log, None outside of it.

        Raises:
            DataLossError: it is damaged; see ``read``.
        """
        ...

    def read(self, start: int, stop: int, bytes_max: int) -> list[Entry]:
        """Entries ``start <= index < stop`` without a gap, at least one where ``start`` exists, then up to ``bytes_max``.

        Raises:
            DataLossError: the first of them is damaged. Where there are other voters, one of them is to lead from now on.
        """
        ...

    def min_match_index(self) -> int:
        """The highest index that every member is known to hold (leader only; else 0). One that has been silent, or taken
        nothing, for longer than ``replica.lag.time.max.ms`` is not waited for: it will be given a snapshot."""
        ...

    def reconfigure(self, new: Configuration) -> Entry:
        """Append another configuration as leader. A leader that is not in it leads until it is committed, and steps down.

        Raises:
            NotLeaderError, LeaderNotAvailableError, OverloadedError: as ``append``.
            FeatureLevelError: the cluster's feature level does not allow it.
            ReassignmentInProgressError: the configuration in force is not committed yet.
            InvalidReplicaAssignmentError: it is more than one step from there (``core.configuration``).
        """
        ...

    @property
    def heartbeat_round(self) -> int:
        """Number of the newest round of heartbeats that this leader has begun in its term; ``barrier`` begins one."""
        ...

    def followers(self) -> Mapping[int, FollowerProgress]:
        """What this leader knows of the other members, by member id; empty where it does not lead."""
        ...

    def trim(self, keep_from: int) -> None:
        """Delete the entries below ``keep_from``, in steps. Only what is applied goes; one entry always stays."""
        ...

    def transfer(self, to: int | None = None) -> bool:
        """Hand leadership to a voter (member id), or to any; False where there is none to take it."""
        ...


class Consensus(Protocol):
    """All groups of this node."""

    def open(
        self, group: int, machine: StateMachine, *, replica: int, founders: tuple[int, ...], preferred: bool
    ) -> ReplicatedLog:
        """Start this node's replica. Data that a replica of another id has left here is deleted: it is not this one's. Where it
        may be much, ask ``vacant`` first.

        Args:
            replica: its replica id.
            founders: the members that the group was created with, where this replica is one of them; () where it came later.
            preferred: campaign at once where the log is new.
        """
        ...

    def vacant(self, group: int, replica: int, ended: Callable[[], None]) -> bool:
        """Whether a replica that is not open can be opened at once: no data of another one is left here. Where there is some, its
        deletion begins, or goes on, in steps between the turns. If the replica were opened before that has ended, all the rest
        would be deleted in one transaction, and no group would have a turn meanwhile.

        Args:
            ended: called on the loop, once, when it is time to ask again. The last of those who asked about a group is told.

        Raises:
            DataLossError: what says whose data it is cannot be read.
        """
        ...

    def held(self, group: int) -> tuple[int, bool] | None:
        """Whose data there is of a group that is not open: the replica's id, and whether the data says that it was given up, or
        that it is damaged, for which it may just have been. None where there is no data.

        Raises:
            DataLossError: that cannot be read.
        """
        ...

    def give_up(self, group: int) -> None:
        """Remember on the disk that an open replica was given up for a new one: see ``held``."""
        ...

    def close(self, group: int) -> None:
        """Stop a replica; its data stays."""
        ...

    def drop(self, group: int) -> None:
        """Stop a replica and delete its data."""
        ...

    def leader_of(self, group: int) -> tuple[int | None, int]:
        """(node id of the leader or None, its term) of any group, from announcements."""
        ...
