"""A group on this node: the replicated log that the broker sees, over one member and one journal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from raftlog.consensus.damage import GIVEN_UP, damage_of
from raftlog.consensus.journal import PROGRESS_ROW, RAFT_TABLE, GroupJournal
from raftlog.consensus.member import FOLLOWER, LEADER
from raftlog.consensus.port import SILENT_S, Build, FollowerProgress, StateMachine
from raftlog.consensus.sleeper import Sleeper
from raftlog.consensus.unclean import unclean_of
from raftlog.core import configuration as codec
from raftlog.core.clock import Clock
from raftlog.core.configuration import Configuration, check_step, node_of
from raftlog.core.entry import HEADER_SIZE, Entry, EntryHeader, EntryKind, encode
from raftlog.core.features import FeatureLevel, Level, check_allowed
from raftlog.errors import (
    DataLossError,
    IndeterminateError,
    LeaderNotAvailableError,
    NotLeaderError,
    OverloadedError,
    RaftlogError,
    ReassignmentInProgressError,
    RequestTimedOutError,
)
from raftlog.model import Role
from raftlog.storage.port import StoreReader, WriteBatch

APPEND_BYTES_WAITING_MAX = 64 << 20
"""Bytes appended on this node and not yet durable, over all groups; beyond it producers are refused."""
APPLY_BYTES_MAX = 1 << 20
"""Entries read at once while applying commands that have left the tail cache."""
MAKE_WAY_PAUSE_S = 5.0
"""Between a damaged leader's attempts to hand over."""
HAND_OVER_S = 1.0
"""How long a leader that is to hand over refuses appends, waiting for a follower to hold all of its log and to take over."""
_ROLES = (Role.FOLLOWER, Role.CANDIDATE, Role.LEADER)


class Shell(Protocol):
    """What a group needs of the turn loop."""

    batch: WriteBatch
    lazy_rows: dict[tuple[int, int, bytes], bytes | None]

    @property
    def features(self) -> FeatureLevel:
        """What the cluster allows."""
        ...

    def touch(self, group: Group) -> None:
        """Let the next turn tick this group."""
        ...

    def waiting_bytes(self) -> int:
        """Bytes in batches that are not durable yet."""
        ...

    def damage(self, group: Group, error: DataLossError) -> None:
        """Take note that this replica's data is damaged."""
        ...

    def snapshot_progress(self, group: int, member: int) -> tuple[int, int]:
        """Bytes of a snapshot that a member pulls here: read so far, and in all."""
        ...


class GroupRows:
    """A group's rows: written rows are held until a batch takes them along."""

    def __init__(self, group: int, store: StoreReader, shell: Shell) -> None:
        self._group, self._store, self._shell = group, store, shell
        self._held: dict[tuple[int, int, bytes], bytes | None] = {}

    def get(self, table: int, key: bytes) -> bytes | None:
        """See ``port.Rows``."""
        full = (self._group, table, key)
        if full in self._held:
            return self._held[full]
        return self._store.row(self._group, table, key)

    def scan(self, table: int) -> Iterator[tuple[bytes, bytes]]:
        """See ``port.Rows``."""
        return self._store.rows(self._group, table)

    def put(self, table: int, key: bytes, value: bytes | None) -> None:
        """See ``port.Rows``."""
        assert table != RAFT_TABLE, "table 0 is consensus' own"
        self._held[self._group, table, key] = value
        self._shell.lazy_rows[self._group, table, key] = value

    def durable(self, rows: dict[tuple[int, int, bytes], bytes | None]) -> None:
        """Those rows are in storage now."""
        for key in [key for key, value in self._held.items() if key in rows and rows[key] is value]:
            del self._held[key]


class Group:
    """One group's replicated log on this node (``port.ReplicatedLog``)."""

    def __init__(
        self, member: Sleeper, machine: StateMachine, *, store: StoreReader, shell: Shell, clock: Clock, lag_max_s: float
    ) -> None:
        self.member = member
        self.journal: GroupJournal = member.journal
        self.group = self.journal.group
        self.machine = machine
        self.rows = GroupRows(self.group, store, shell)
        self.suspended = False
        """A snapshot takes the place of everything here, and is not durable yet."""
        self.damaged: str | None = None
        """What is damaged of this replica's data, or None. It votes all the same, see ``damage``."""
        self.excluded = False
        """It takes no part any more: damage has struck in the middle of a change."""
        unclean = unclean_of(store, self.group)
        self.unclean_at_ms = 0 if unclean is None else unclean.at_ms
        """See ``port.ReplicatedLog``."""
        self.armed_s = float("inf")
        """When the turn loop will next tick this group by itself."""
        self._store = store
        self._shell = shell
        self._clock = clock
        self._lag_max_s = lag_max_s
        self._handing_until_s = 0.0
        self._handing_to: int | None = None
        self._asked = False
        self._makes_way_s = 0.0
        self._barriers: list[tuple[int, int, asyncio.Future[int]]] = []  # (round, term, waiter), rounds rising
        self.note_damage(damage_of(store, self.group))

    def begin(self) -> None:
        """Restore the state machine and show it the tail that is not applied yet."""
        self.machine.restore(self.rows)
        for index in range(min(self.journal.applied_index, self.journal.commit_index) + 1, self.journal.last_index + 1):
            header = self.journal.header(index)
            assert header is not None
            self.machine.appended(header)

    def begin_again(self, member: Sleeper) -> None:
        """A snapshot has taken the place of what was here: go on from it, as a member that starts."""
        given_up = self.journal.given_up
        self.member.stop()
        self.member, self.journal = member, member.journal
        self.note_damage(damage_of(self._store, self.group))
        if given_up:
            self.give_up()
        self.rows = GroupRows(self.group, self._store, self._shell)
        self.suspended = False
        self.armed_s = float("inf")
        self.begin()

    # ---- port.ReplicatedLog

    @property
    def members(self) -> tuple[int, ...]:
        """Node ids of the voters and learners."""
        return self.member.node_ids

    @property
    def configuration(self) -> Configuration:
        """The configuration in force."""
        return self.member.configuration

    @property
    def configuration_committed(self) -> bool:
        """Whether it is known to be committed."""
        return self.journal.configuration_committed

    @property
    def role(self) -> Role:
        """What this replica is now; an excluded one follows nobody, but leads nobody either."""
        return Role.FOLLOWER if self.excluded else _ROLES[self.member.state()]

    @property
    def term(self) -> int:
        """The current term."""
        return self.member.term()

    @property
    def leader(self) -> int | None:
        """Node id of the leader as far as known; a replica that is being filled serves nobody, and knows of none."""
        member = self.member.leader_member()
        return None if member is None or self.excluded or self.journal.filling else node_of(member)

    @property
    def ready(self) -> bool:
        """This node leads and may serve. Readers of a damaged leader are to ask again, where another is about to lead."""
        return not self.excluded and self.member.serves() and not (self.damaged and self.handing_over)

    @property
    def caught_up(self) -> bool:
        """See ``port.ReplicatedLog``."""
        if self.excluded or self.member.id not in self.configuration.voters:
            return True
        return self.member.serves() or 0 < self.journal.told_commit <= self.journal.commit_index

    @property
    def first_index(self) -> int:
        """Index of the first entry held."""
        return self.journal.first_index

    @property
    def last_index(self) -> int:
        """Index of the last entry."""
        return self.journal.last_index

    @property
    def durable_index(self) -> int:
        """Last index that is on this node's disk."""
        return self.journal.durable_index

    @property
    def commit_index(self) -> int:
        """Last index known to be committed."""
        return self.journal.commit_index

    @property
    def applied_index(self) -> int:
        """Last index applied to the state machine."""
        return self.journal.applied_index

    @property
    def size_bytes(self) -> int:
        """Bytes of the entries held."""
        return self.journal.size_bytes

    def check_append(self) -> None:
        """See ``port.ReplicatedLog``."""
        self._check_serves()
        if self._shell.waiting_bytes() > APPEND_BYTES_WAITING_MAX:
            raise OverloadedError(f"{self._shell.waiting_bytes()} bytes are waiting for the disk; slow down and try again")

    def append(self, build: Build) -> Entry:
        """See ``port.ReplicatedLog``."""
        self.check_append()
        entry = build(self.journal.last_index + 1, self.member.term(), self.journal.last)
        self.member.append(entry)
        self.machine.appended(entry.header)
        self._shell.touch(self)
        if self.role is not Role.LEADER:  # entries may have left at once (``early``), and one of them could not be read
            raise IndeterminateError(f"group {self.group}: this replica is damaged; the entry may or may not be kept")
        return entry

    def _check_serves(self) -> None:
        if self.member.state() != LEADER or self.excluded:
            raise NotLeaderError(f"this node does not lead group {self.group}")
        if not self.member.serves() or self.handing_over:
            raise LeaderNotAvailableError(f"the leader of group {self.group} is changing; try again")

    async def barrier(self, timeout_s: float) -> int:
        """See ``port.ReplicatedLog``."""
        if not self.ready:
            raise NotLeaderError(f"this node does not lead group {self.group}")
        commit = self.journal.commit_index
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._barriers.append((self.member.begin_round(), self.term, waiter))
        self._shell.touch(self)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            raise RequestTimedOutError(f"group {self.group}: no majority confirmed the leader in {timeout_s} s") from None
        return commit

    def header(self, index: int) -> EntryHeader | None:
        """See ``port.ReplicatedLog``."""
        try:
            return self.journal.header(index)
        except DataLossError as error:
            self.met_damage(error)
            raise

    def read(self, start: int, stop: int, bytes_max: int) -> list[Entry]:
        """See ``port.ReplicatedLog``."""
        try:
            return self.journal.read(start, stop, bytes_max)
        except DataLossError as error:
            self.met_damage(error)
            raise

    def met_damage(self, error: DataLossError) -> None:
        """Something could not be read. Where there are other voters one of them shall lead, for this one cannot serve its log."""
        if self.has_successor and self.damaged is None:
            self._shell.damage(self, error)
            self._make_way()

    def min_match_index(self) -> int:
        """See ``port.ReplicatedLog``."""
        if self.member.state() != LEADER:
            return 0
        # Who is left behind needs a snapshot; as long as versions may be there that know none, nobody is.
        snapshots = self._shell.features.level >= Level.MEMBERSHIP
        fed = {other for other in self.member.matches() if any(self._shell.snapshot_progress(self.group, other))}
        return self.member.slowest_match(self._lag_max_s if snapshots else float("inf"), fed)

    def trim(self, keep_from: int) -> None:
        """See ``port.ReplicatedLog``."""
        self.journal.trim(keep_from)
        self._shell.touch(self)

    def reconfigure(self, new: Configuration) -> Entry:
        """See ``port.ReplicatedLog``. Serving, this leader has committed an entry of its own term: without that, a change of the
        term before could be committed by other voters than this one's (Ongaro, raft-dev, July 2015)."""
        check_allowed(self._shell.features.level, Level.MEMBERSHIP, f"changing the members of group {self.group}")
        self._check_serves()
        self._check_settled()
        check_step(self.configuration, new)

        return self.append(lambda index, term, before: configuration_entry(self.group, new, index, term, before))

    def _check_settled(self) -> None:
        if not self.configuration_committed:
            raise ReassignmentInProgressError(f"the members of group {self.group} are changing just now; try again")

    @property
    def heartbeat_round(self) -> int:
        """See ``port.ReplicatedLog``."""
        return self.member.sender.round

    def followers(self) -> Mapping[int, FollowerProgress]:
        """See ``port.ReplicatedLog``."""
        if self.role is not Role.LEADER:
            return {}
        heard_s, found = self.member.heard_s(), {}
        for other, match_index in self.member.matches().items():
            sent, total = self._shell.snapshot_progress(self.group, other)
            found[other] = FollowerProgress(
                match_index=match_index, heard_s=heard_s[other], snapshot_sent_bytes=sent, snapshot_total_bytes=total,
                damaged=self.member.sender.followers[other].damaged, round=self.member.sender.followers[other].round,
            )  # fmt: skip
        return found

    def transfer(self, to: int | None = None) -> bool:
        """See ``port.ReplicatedLog``. Appends are refused meanwhile, so that a follower can catch up with the whole log."""
        takers = [voter for voter in self.configuration.voters if voter != self.member.id and to in (None, voter)]
        if self.member.state() != LEADER or not takers:
            return False
        self._handing_until_s = self._clock.monotonic_s() + HAND_OVER_S
        self._handing_to = to
        self._asked = False
        self._shell.touch(self)
        return True

    # ---- what the turn loop does

    def show_changes(self, settled: int) -> None:
        """Tell the state machine which entries behind ``settled`` went and came."""
        first = settled + 1
        if self.journal.truncated_at is not None:
            first, self.journal.truncated_at = self.journal.truncated_at, None
            self.machine.truncated(first)
        for index in range(first, self.journal.last_index + 1):
            header = self.journal.header(index)
            assert header is not None
            self.machine.appended(header)

    @property
    def waits_for_disk(self) -> bool:
        """A follower with entries that this turn's commit carries is ticked when they are durable, not before as well."""
        return self.member.state() == FOLLOWER and self.journal.last_index > self.journal.durable_index

    @property
    def settled(self) -> bool:
        """A leader that a tick would do nothing for: the second of two acknowledgements, or its own commit before the first."""
        return self.member.settled() and not self._barriers and not self.handing_over

    def may_sleep(self) -> bool:
        """At the end of a tick: whether nothing happens here until something new does."""
        return self.member.may_sleep() and not self._barriers and not self.handing_over

    def apply(self, start: int, stop: int) -> None:
        """Apply the committed entries ``start <= index <= stop``; the member calls it within a tick."""
        for index in range(start, stop + 1):
            header = self.journal.header(index)
            assert header is not None, f"group {self.group}: committed entry {index} is not in the log"
            self.machine.apply(header, self._payload(index), self.rows)
            self.journal.applied_index = index
        self.journal.progress_dirty = True

    def _payload(self, index: int) -> Callable[[], memoryview]:
        return lambda: memoryview(self.journal.read(index, index + 1, APPLY_BYTES_MAX)[0].data)[HEADER_SIZE:]

    @property
    def has_successor(self) -> bool:
        """There is another voter, to whom leadership can be handed."""
        return any(voter != self.member.id for voter in self.configuration.voters)

    def _make_way(self) -> None:
        """As a leader with damaged data, let a voter lead that is there, and well. If all that are there are damaged, it helps
        where a follower lacks what cannot be read here. At times only, for it may be that nobody can take over."""
        if self.damaged is None or self.role is not Role.LEADER or not self.member.serves():
            return
        now_s = self._clock.monotonic_s()
        if now_s < self._makes_way_s:
            return
        known, lacking = self.followers(), self.member.sender.lacking()
        voters = [voter for voter in self.configuration.voters if voter in known]
        able = [voter for voter in voters if known[voter].heard_s <= SILENT_S and voter not in lacking]
        well = [voter for voter in able if not known[voter].damaged]
        if not well and not lacking:
            return
        if takers := well or able:
            self._makes_way_s = now_s + MAKE_WAY_PAUSE_S
            self.transfer(max(takers, key=lambda one: known[one].match_index))

    @property
    def handing_over(self) -> bool:
        """A transfer was asked for, and its time is not up."""
        return self._clock.monotonic_s() < self._handing_until_s

    def hand_over(self) -> None:
        """Where leadership is to be transferred: ask the follower that is furthest along, once it holds the whole log."""
        met, self.member.sender.met = self.member.sender.met, None
        if met is not None:
            self.met_damage(met)
        self._make_way()
        if self.member.state() != LEADER:
            self._handing_until_s = 0.0
        elif not self._asked and self.handing_over:
            self._asked = self.member.transfer(self._handing_to)

    def settle_barriers(self) -> None:
        """Answer the barriers that a majority has confirmed, and refuse all when leadership is gone."""
        while self._barriers:
            round_, term, waiter = self._barriers[0]
            if not waiter.done():
                if self.member.state() != LEADER or self.term != term:
                    waiter.set_exception(NotLeaderError(f"this node no longer leads group {self.group}"))
                elif self.member.confirmed(round_):
                    waiter.set_result(round_)
                else:
                    return
            del self._barriers[0]

    def stop_leading(self) -> None:
        """End its leadership outside of a turn (``standstill``): tell who waits for it, and let the next turn go on."""
        self.member.stop_leading()
        self.settle_barriers()
        self.machine.progressed()
        self._shell.touch(self)

    def take_progress(self) -> tuple[tuple[int, int, bytes], bytes] | None:
        """The lazy row to write, if it changed."""
        if not self.journal.progress_dirty:
            return None
        self.journal.progress_dirty = False
        return (self.group, RAFT_TABLE, PROGRESS_ROW), self.journal.progress_row()

    def note_damage(self, why: str) -> None:
        """From now on this replica's data is known to be damaged; empty: it is not."""
        self.damaged = why or None
        self.member.damaged = bool(why)

    def give_up(self) -> None:
        """This replica was given up for a new one: its data says so from now on, and it says of itself that it is damaged."""
        self.journal.give_up()
        if self.damaged is None:
            self.note_damage(GIVEN_UP)

    def takes(self, recipient: int) -> bool:
        """Whether a message is for this replica, and it is in a state to take it."""
        return recipient == self.member.id and not self.excluded and not self.suspended

    def exclude(self, error: DataLossError) -> None:
        """Take no part any more, see ``damage``."""
        self.excluded = True
        self.stop(error)
        self.machine.progressed()

    def stop(self, error: RaftlogError) -> None:
        """End what waits here."""
        for _, _, waiter in self._barriers:
            if not waiter.done():
                waiter.set_exception(error)
        self._barriers.clear()
        self.member.stop()


def configuration_entry(group: int, configuration: Configuration, index: int, term: int, before: EntryHeader) -> Entry:
    """The entry that brings a configuration, behind the entry ``before``."""
    header = EntryHeader(
        kind=EntryKind.CONFIGURATION,
        group=group,
        index=index,
        term=term,
        base_offset=before.next_offset,
        running_max_timestamp=before.running_max_timestamp,
    )
    return encode(header, codec.encode(configuration))
