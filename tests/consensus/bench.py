"""Members on a bench: real members over stores in memory, with every message and every fsync in the test's hand.

What a member sends waits in ``wire`` until it is delivered; time moves only when told; a disk syncs after every act unless
it is held. ``check`` looks at what must hold between any two acts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from raftlog.consensus.door import Ambience, RaftTimes
from raftlog.consensus.group import configuration_entry
from raftlog.consensus.guard import Guards
from raftlog.consensus.journal import PROGRESS_ROW, RAFT_TABLE, GroupJournal
from raftlog.consensus.member import LEADER, Member
from raftlog.consensus.messages import Append
from raftlog.consensus.pace import Pace
from raftlog.consensus.tail import TailCache
from raftlog.core.configuration import Configuration, member_id, node_of
from raftlog.core.entry import Entry, EntryHeader, EntryKind, encode
from raftlog.storage.memory_store import MemoryStore
from raftlog.storage.port import WriteBatch

GROUP = 7
ACTS_MAX = 2_000
"""An exchange that has not come to rest after so many deliveries never will."""


class Violation(AssertionError):
    """An invariant of Raft was broken."""


class Unlimited:
    """Windows that never close, and count (``sender.Windows``)."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self.pace = Pace(0)

    def room(self, node_id: int) -> bool:
        return True

    def sent(self, node_id: int, size_bytes: int) -> None:
        self.size_bytes += size_bytes


class Seat:
    """One member of the bench, its disk, and the transaction that is being gathered."""

    def __init__(self, bench: Bench, number: int, store: MemoryStore) -> None:
        self.batch = WriteBatch()
        self.store = store
        self.slow = False
        """Nothing becomes durable while this is set."""
        self.windows = Unlimited()
        self.commit_seen = 1
        self.applied: list[int] = []
        founders = tuple(member_id(other, 1) for other in bench.founders) if number in bench.founders else ()
        self.journal = bench.journal_class(GROUP, store, TailCache(1 << 20), self, replica=1, founders=founders)
        self.member = bench.member_class(
            member_id(number, 1),
            self.journal,
            linked=dict.fromkeys(bench.numbers, 0.0),
            ambience=bench.ambience,
            times=bench.times,
            windows=self.windows,
            apply=self._apply,
            guards=bench.guards,
        )

    def _apply(self, start: int, stop: int) -> None:
        self.applied += range(start, stop + 1)
        self.journal.applied_index = stop

    def sync(self) -> None:
        """One commit of storage, unless the disk is held."""
        if self.slow:
            return
        self.journal.taken()
        self.journal.hard_dirty = False
        batch, self.batch = self.batch, WriteBatch()
        if batch:
            batch.rows[GROUP, RAFT_TABLE, PROGRESS_ROW] = self.journal.progress_row()
            self.store.commit(batch, lambda: None)
        self.journal.durable()


class Bench:
    """Members 1 to ``count`` of one group. It is the clock of all of them."""

    def __init__(
        self,
        count: int = 3,
        guards: Guards | None = None,
        *,
        founders: int | None = None,
        member_class: type[Member] = Member,
        journal_class: type[GroupJournal] = GroupJournal,
    ) -> None:
        self.now_s = 1_000.0
        self.look_s = 0.0
        """How long it takes to look at the clock."""
        self.guards, self.times = guards or Guards(), RaftTimes()
        self.ambience = Ambience(self, Random(1))
        self.member_class, self.journal_class = member_class, journal_class
        self.numbers = tuple(range(1, count + 1))
        self.founders = self.numbers[:founders]
        """The others come later: they know of no configuration."""
        self.wire: dict[tuple[int, int], deque[Any]] = {}
        self.sent: list[tuple[int, int, Any]] = []
        """Every message that was ever sent: (from, to, message)."""
        self.committed: dict[int, Entry] = {}
        self.sequence = 0
        self.seats = {number: Seat(self, number, self._disk()) for number in self.numbers}
        for number, seat in self.seats.items():
            for other in self.numbers:
                if other != number:
                    seat.member.connected(member_id(other, 1))
            self._settle(number)

    @staticmethod
    def _disk() -> MemoryStore:
        return MemoryStore(schedule=lambda finish: finish())

    def monotonic_s(self) -> float:
        """The bench is its members' clock."""
        self.now_s += self.look_s
        return self.now_s

    def wall_ms(self) -> int:
        """See ``Clock``."""
        return int(self.now_s * 1_000)

    def member(self, number: int) -> Member:
        """A member by its number."""
        return self.seats[number].member

    def journal(self, number: int) -> GroupJournal:
        """A member's log."""
        return self.seats[number].journal

    # ---- acts

    def act(self, number: int, what: Callable[[Member], object]) -> None:
        """Let a member do something; what it sends goes onto the wire, what it writes to its disk."""
        what(self.member(number))
        self._settle(number)
        self.check()

    def tick(self, number: int) -> None:
        """Tick a member twice: what becomes durable by the first may be committed by the second."""
        self.act(number, lambda member: member.tick())
        self.act(number, lambda member: member.tick())

    def beat(self, number: int) -> None:
        """Let a leader send a heartbeat round."""
        self.act(number, lambda member: member.begin_round())
        self.tick(number)

    def deliver(self, sender: int, recipient: int, count: int = ACTS_MAX) -> int:
        """Deliver up to ``count`` of the messages on the way, and tick the recipient; how many there were."""
        queue, done = self.wire.get((sender, recipient), deque()), 0
        while queue and done < count:
            message = queue.popleft()
            self.act(recipient, lambda member, m=message: member.receive(member_id(sender, 1), m))  # type: ignore[misc]
            self.tick(recipient)
            done += 1
        return done

    def exchange(self, *numbers: int) -> None:
        """Deliver among these members until nothing is on the way between them."""
        acts = 0
        while moved := sum(self.deliver(a, b, 1) for a in numbers for b in numbers if a != b):
            acts += moved
            assert acts < ACTS_MAX, "the members never stop talking"

    def lose(self, sender: int, recipient: int) -> None:
        """Drop what is on the way."""
        self.wire.pop((sender, recipient), None)

    def elect(self, number: int, *voters: int) -> None:
        """Make a member leader by the votes of ``voters``, and let them replicate. Others hear nothing."""
        self.win(number, *voters)
        self.exchange(number, *voters)

    def reconnect(self, a: int, b: int) -> None:
        """Break the link between two members and make it anew; what was on the way is lost."""
        for number, other in ((a, b), (b, a)):
            self.lose(number, other)
            self.act(number, lambda member, o=other: member.disconnected(member_id(o, 1)))  # type: ignore[misc]
            self.act(number, lambda member, o=other: member.connected(member_id(o, 1)))  # type: ignore[misc]

    def win(self, number: int, *voters: int) -> None:
        """Make a member leader by votes alone: what it sends to its voters as a leader is still on the way."""
        self.now_s += 2.0
        for voter in voters:
            self.lose(number, voter)
            self.lose(voter, number)
        self.act(number, lambda member: member._campaign(disruptive=True))
        for voter in voters:
            self.deliver(number, voter, 1)
            self.deliver(voter, number)
        assert self.member(number).state() == LEADER, f"member {number} was not elected"

    def publish(
        self, number: int, count: int = 1, *, size: int = 20, kind: EntryKind = EntryKind.RECORDS, body: bytes = b""
    ) -> None:
        """Append entries on a leader, each in a tick of its own, so that each leaves in a message of its own."""
        for _ in range(count):
            self.sequence += 1
            last = self.journal(number).last
            header = EntryHeader(kind, GROUP, last.index + 1, self.member(number).term(), last.next_offset, 1)
            entry = encode(header, body or f"{self.sequence:08d}".encode().ljust(size, b"."))
            self.act(number, lambda member, e=entry: member.append(e))  # type: ignore[misc]
            self.tick(number)

    def reconfigure(self, number: int, configuration: Configuration) -> None:
        """Append a configuration on a leader."""
        before, term = self.journal(number).last, self.member(number).term()
        entry = configuration_entry(GROUP, configuration, before.index + 1, term, before)
        self.act(number, lambda member: member.append(entry))
        self.tick(number)

    def restart(self, number: int) -> None:
        """Begin again from what is on the member's disk; its links are new, and what was on the way is lost."""
        for other in self.numbers:
            self.lose(number, other)
            self.lose(other, number)
        seat = self.seats[number] = Seat(self, number, self.seats[number].store)
        seat.commit_seen = seat.journal.commit_index
        for other in self.numbers:
            if other != number:
                self.act(other, lambda member: member.disconnected(member_id(number, 1)))
                self.act(other, lambda member: member.connected(member_id(number, 1)))

    def _settle(self, number: int) -> None:
        seat = self.seats[number]
        seat.sync()
        outbox, seat.member.outbox = seat.member.outbox, []
        for recipient, message in outbox:
            self.sent.append((number, node_of(recipient), message))
            self.wire.setdefault((number, node_of(recipient)), deque()).append(message)

    # ---- looking

    def appends(self, sender: int, recipient: int) -> list[Append]:
        """All Appends ever sent from one member to another."""
        return [m for a, b, m in self.sent if (a, b) == (sender, recipient) and isinstance(m, Append)]

    def copies(self, sender: int, recipient: int) -> dict[int, int]:
        """index → how often that entry was sent."""
        found: dict[int, int] = {}
        for message in self.appends(sender, recipient):
            for entry in message.entries:
                found[entry.header.index] = found.get(entry.header.index, 0) + 1
        return found

    def log(self, number: int) -> list[tuple[int, int]]:
        """(index, term) of a member's log."""
        journal = self.journal(number)
        return [(index, journal.term_at(index) or 0) for index in range(journal.first_index, journal.last_index + 1)]

    def check(self) -> None:
        """One leader a term; one committed entry an index, on the disks of a majority; no commit index falls."""
        leading = [seat.member.term() for seat in self.seats.values() if seat.member.state() == LEADER]
        if len(leading) != len(set(leading)):
            raise Violation(f"two leaders in one of the terms {leading}")
        for number, seat in self.seats.items():
            commit = min(seat.journal.commit_index, seat.journal.last_index)
            if commit < seat.commit_seen:
                raise Violation(f"commit index of {number} fell from {seat.commit_seen} to {commit}")
            for index in range(max(seat.commit_seen + 1, seat.journal.first_index), commit + 1):
                (entry,) = seat.journal.read(index, index + 1, 1)
                if self.committed.setdefault(index, entry).data != entry.data:
                    raise Violation(f"{number} commits {entry!r}, but {self.committed[index]!r} was committed")
            seat.commit_seen = commit
        electorates = {seat.member.configuration.voters for seat in self.seats.values()} - {()}
        for index, entry in self.committed.items():
            held = [self._held_by(voters, index, entry) for voters in electorates]
            if all(holding * 2 <= size for holding, size in held):
                raise Violation(f"committed {entry!r} is on the disks of " + " and ".join(f"{on} of {size}" for on, size in held))

    def _held_by(self, voters: tuple[int, ...], index: int, entry: Entry) -> tuple[int, int]:
        return sum(self._holds(self.seats[node_of(voter)].store, index, entry) for voter in voters), len(voters)

    @staticmethod
    def _holds(store: MemoryStore, index: int, entry: Entry) -> bool:
        first, _ = store.bounds(GROUP) or (1, 0)
        return index < first or store.entries(GROUP, index, index + 1, 1) == [entry.data]


def numbers(entries: Iterable[Entry]) -> list[int]:
    """The indices of entries."""
    return [entry.header.index for entry in entries]
