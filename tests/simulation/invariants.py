"""Raft's invariants over all nodes, looked at when a node's turn has ended: everything that turn did, and nothing half done.

* election safety: a term of a group has one leader;
* leader completeness: who begins to lead holds all that was committed before;
* state machine safety: all replicas commit the same entry at an index;
* commit index and high watermark never fall while a process lives, and first ≤ applied ≤ commit ≤ last;
* durability: at the moment a commit is first seen, a majority of the voters in force has the entry on its disks;
* what the newest leader counts a follower to hold is on its disk (sampled);
* log matching: two logs with the same term at an index have the same entry there (sampled);
* a leader lets go of nothing that a member which it waits for still lacks;
* with one fault that stays, leadership settles, and entries are not sent again and again (liveness);
* a node on an old or empty disk has no link to a healthy one (sampled).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raftlog.broker.partition import Partition
from raftlog.consensus.group import Group
from raftlog.consensus.journal import stored_replica
from raftlog.consensus.port import FollowerProgress
from raftlog.consensus.turns import Turns
from raftlog.core.configuration import Configuration, member_id, node_of
from raftlog.core.entry import EntryHeader, decode_header
from raftlog.errors import DataLossError
from raftlog.model import Role
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb

if TYPE_CHECKING:
    from tests.simulation.node import Machine
    from tests.simulation.world import World

FIRST_INDEX = 1
"""Every log begins with the same entry, by itself."""

Position = tuple[int, int]
"""Group and index."""

COPIES_MAX = 1.2
"""Copies of an entry that come to a node, on average over a run with one fault: 1.00 was the most in a hundred runs."""
LATE_ELECTIONS_MAX = 2
"""In all groups together, once leadership should have settled."""


class Invariants:
    """What is known of the whole cluster."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.dropped: set[int] = set()
        """Groups of deleted topics: a replica that drops one no longer has what it acknowledged."""
        self.leaders: dict[tuple[int, int], int] = {}
        """(group, term) → node."""
        self.committed: dict[Position, tuple[int, int]] = {}
        """Position → (term, CRC of the payload)."""
        self.committed_last: dict[int, int] = {}
        self.copies: dict[tuple[int, int, int, int], int] = {}
        """(node, group, index, term) → how often that entry has come there."""
        self._late_elections: int | None = None
        """Counted once leadership should have settled."""
        self.configurations: dict[int, dict[Configuration, None]] = {}
        """Group → those that a leader had."""
        self.batch_committed_s: dict[tuple[int, int], float] = {}
        """(group, base offset) → when its entry was first seen to be committed."""

    def watch(self, machine: Machine, turns: Turns) -> None:
        """Look at a process at the end of each of its turns."""
        watch = _Watch(self, machine, turns)
        arm = turns._arm

        def look_and_arm() -> None:
            arm_groups = turns._ticked
            if arm_groups:
                watch.turn_ended(arm_groups)
            arm()

        turns.__dict__["_arm"] = look_and_arm
        take = turns.acks.take

        def take_and_look(node_id: int, turn: pb.Turn) -> bool:
            """What is committed between turns is judged by the voters of that moment."""
            taken = take(node_id, turn)
            if taken:
                watch.turn_ended([turns.groups()[wire.group] for wire in turn.raft if wire.group in turns.groups()])
            return taken

        turns.acks.__dict__["take"] = take_and_look
        open_group = turns.open

        def open_and_watch(group: int, *args: Any, **kwargs: Any) -> Group:
            opened = open_group(group, *args, **kwargs)

            def min_match_index() -> int:
                index = type(opened).min_match_index(opened)
                self._check_held(machine, opened, index)
                return index

            opened.__dict__["min_match_index"] = min_match_index
            return opened

        turns.__dict__["open"] = open_and_watch
        if self.world.mode != "liveness":
            return
        receive = turns._receive

        def count_and_receive(node_id: int, wire: pb.RaftMessage, payloads: list[bytes], count: int) -> None:
            for payload in payloads:
                self._came(machine, payload)
            receive(node_id, wire, payloads, count)

        turns.__dict__["_receive"] = count_and_receive

    def found(self, text: str) -> None:
        """An invariant does not hold."""
        self.world.violated(text)

    def _check_held(self, machine: Machine, group: Group, index: int) -> None:
        """A leader says that every member which it waits for holds the log up to ``index``, so that what is before may go."""
        if group.role is not Role.LEADER or not self._newest(group):
            return
        for member, progress in group.followers().items():
            store = self.world.homes.store(group.group, member)
            bounds = None if store is None else store.bounds(group.group)
            if self._waits_for(group, member, progress) and bounds is not None and bounds[1] < index:
                self.found(
                    f"node {machine.id} lets go of group {group.group} below {index}, node {node_of(member)} ends at {bounds[1]}"
                )

    def _waits_for(self, group: Group, member: int, progress: FollowerProgress) -> bool:
        """Whether trims are to wait for a member: it answers, and takes something, or is being fed a snapshot."""
        lag_max_s = self.world.consensus_config.replica_lag_time_max_s
        stuck_s = group.member._now() - group.member.sender.followers[member].stuck_since_s
        fed = progress.snapshot_sent_bytes or progress.snapshot_total_bytes
        return progress.heard_s <= lag_max_s and bool(fed or stuck_s < lag_max_s)

    def _newest(self, group: Group) -> bool:
        """Nobody was elected since it was."""
        return group.term == max((term for number, term in self.leaders if number == group.group), default=0)

    def _came(self, machine: Machine, payload: bytes) -> None:
        """An entry has reached a node."""
        header = decode_header(payload)
        copy = machine.id, header.group, header.index, header.term
        self.copies[copy] = self.copies.get(copy, 0) + 1

    def check_copies(self) -> None:
        """Where links stay as they are, an entry comes to a node once, but for what a new leader or link sends again."""
        mean = sum(self.copies.values()) / max(len(self.copies), 1)
        if mean > COPIES_MAX:
            self.found(f"each entry came to each node {mean:.2f} times: what is under way is sent again")

    def settles(self) -> None:
        """From now on nobody should have to be elected: all that will go wrong has, and time enough has passed."""
        self._late_elections = 0

    def look_around(self) -> None:
        """What is sampled."""
        self.check_lost_disks()
        self.check_matches()
        self.check_matching()

    def check_lost_disks(self) -> None:
        """Every peer knows better, and refuses a node whose disk is not the one that it had."""
        for machine in self.world.machines.values():
            if machine.disk.lost and machine.run is not None and machine.run.core is not None:
                taken = [node for node in machine.run.core.turns._links if not self.world.machines[node].gone]
                if taken:
                    self.found(f"node {machine.id} is taken with {machine.disk.lost} by nodes {sorted(taken)}")

    def check_matches(self) -> None:
        """What the newest leader counts a follower to hold is on the follower's disk."""
        newest: dict[int, int] = {}
        for number, term in self.leaders:
            newest[number] = max(newest.get(number, 0), term)
        for machine in self.world.machines.values():
            for number, group in machine.groups.items():
                if group.damaged or group.role is not Role.LEADER or group.term != newest.get(number):
                    continue
                for other, match in group.member.matches().items():
                    store = self.world.homes.store(number, other)
                    bounds = None if store is None else store.bounds(number)
                    if match and bounds is not None and bounds[1] < match:
                        self.found(
                            f"leader {machine.id} of group {number} counts on entry {match} at node {node_of(other)},"
                            f" whose disk ends at {bounds[1]}"
                        )

    def check_matching(self) -> None:
        """Compare one random entry of each group between two random nodes."""
        rng = self.world.watch_rng
        running = [machine for machine in self.world.machines.values() if machine.groups]
        if len(running) < 2:
            return
        one, other = rng.sample(running, 2)
        for number, group in one.groups.items():
            twin = other.groups.get(number)
            if twin is None or group.damaged or twin.damaged:
                continue
            low, high = max(group.first_index, twin.first_index), min(group.last_index, twin.last_index)
            if low > high:
                continue
            index = rng.randint(low, high)
            try:
                mine, theirs = group.journal.header(index), twin.journal.header(index)
            except DataLossError:
                continue
            if mine is not None and theirs is not None and mine.term == theirs.term and mine != theirs:
                self.found(f"group {number} entry {index} of term {mine.term} differs between {one.id} and {other.id}")

    def commits(self, machine: Machine, group: Group, index: int, header: EntryHeader) -> None:
        """A node says that an entry is committed."""
        at, entry = (group.group, index), (header.term, header.payload_crc)
        known = self.committed.get(at)
        if known is None:
            self.committed[at] = entry
            if index > self.committed_last.get(group.group, 0):
                self.committed_last[group.group] = index
            if header.record_count:
                self.batch_committed_s[group.group, header.base_offset] = self.world.loop.now_s
            if index > FIRST_INDEX:
                self._check_majority(group, index, entry)
        elif known != entry:
            self.found(f"node {machine.id} commits another entry {index} of group {group.group}: {entry}, not {known}")

    def _check_majority(self, group: Group, index: int, entry: tuple[int, int]) -> None:
        """Of the voters in force where it was committed. That is seen where it leads, unless it died at once: then a follower
        says so, whose configuration may be the one before or behind."""
        if group.group in self.dropped:
            return
        known = [*self.world.mover.possible(group.group), *self.configurations.get(group.group, ())]
        possible = [] if group.role is Role.LEADER else known
        found = []
        for voters in dict.fromkeys(one.voters for one in (group.configuration, *possible)):
            holding = sum(self._holds(voter, group.group, index, entry) for voter in voters)
            if holding * 2 > len(voters):
                return
            found.append(f"{holding} disks of {len(voters)}")
        self.found(f"committed entry {index} of group {group.group} is on {' or '.join(found)}")

    def _holds(self, voter: int, group: int, index: int, entry: tuple[int, int]) -> bool:
        store = self.world.homes.store(group, voter)
        bounds = None if store is None else store.bounds(group)
        if store is None or bounds is None or index > bounds[1]:
            return False
        if index < bounds[0] or (group, index) in self.world.machines[node_of(voter)].disk.damaged:
            return True
        header = store.header(group, index)
        return header is not None and (header.term, header.payload_crc) == entry

    def removes(self, machine: Machine, number: int) -> None:
        """A node deletes its replica of a group that goes on: it must be a member no more, by the word of the newest leader."""
        replica = stored_replica(machine.disk.contents.store, number)
        leader = self.world.leader_of(number)
        if replica is None or leader is None or not self._newest(leader.groups[number]):
            return
        configuration = leader.groups[number].configuration
        if member_id(machine.id, replica) in configuration.members:
            self.found(f"node {machine.id} deletes replica {replica} of group {number}, which has {configuration}")

    def leads(self, machine: Machine, group: Group) -> None:
        """A node leads: is it the only one of its term, and does it hold what was committed?"""
        term = group.term
        known = self.leaders.get((group.group, term))
        if known is not None:
            if known != machine.id:
                self.found(f"term {term} of group {group.group} has leaders {known} and {machine.id}")
            return
        self.leaders[group.group, term] = machine.id
        self.world.covered("elections")
        if self._late_elections is not None:
            self._late_elections += 1
            if self._late_elections > LATE_ELECTIONS_MAX:
                self.found(
                    f"leadership does not settle: {self._late_elections} late elections, the last one of group {group.group}"
                )
        self.world.note(f"node {machine.id} leads group {group.group} in term {term}")
        newest = self.committed_last.get(group.group, 0)
        try:
            lacks = newest >= group.first_index and group.journal.term_at(newest) != self.committed[group.group, newest][0]
        except DataLossError:
            return  # it has the entry, on a disk that was damaged since: it takes no part from when it reads that itself
        if lacks and term == max(other for number, other in self.leaders if number == group.group):
            self.found(f"leader {machine.id} of term {term} of group {group.group} lacks committed entry {newest}")


class _Watch:
    """One process."""

    def __init__(self, invariants: Invariants, machine: Machine, turns: Turns) -> None:
        self._invariants, self._machine, self._turns = invariants, machine, turns
        self._seen_of: dict[int, Group] = {}
        self._commit_seen: dict[int, int] = {}
        self._watermark_seen: dict[int, tuple[int, int]] = {}

    def turn_ended(self, ticked: list[Group]) -> None:
        for group in ticked:
            if group.damaged or self._turns.groups().get(group.group) is not group:
                continue
            if self._seen_of.get(group.group) is not group:  # its replica has begun anew
                self._seen_of[group.group] = group
                self._commit_seen.pop(group.group, None)
                self._watermark_seen.pop(group.group, None)
            if group.role is Role.LEADER:
                self._invariants.leads(self._machine, group)
                self._invariants.configurations.setdefault(group.group, {})[group.configuration] = None
            journal = group.journal
            applied = min(journal.applied_index, journal.commit_index) if journal.filling else journal.applied_index
            if not journal.first_index <= applied <= journal.commit_index <= journal.last_index:
                self._invariants.found(
                    f"node {self._machine.id} group {group.group}: first {journal.first_index}, applied {journal.applied_index},"
                    f" commit {journal.commit_index}, last {journal.last_index} are out of order"
                )
            if journal.commit_index != self._commit_seen.get(group.group, 0):
                self._look_at_commits(group)
                self._look_at_watermark(group)

    def _look_at_commits(self, group: Group) -> None:
        seen, commit = self._commit_seen.get(group.group, 0), group.commit_index
        if commit < seen:
            self._invariants.found(f"node {self._machine.id} group {group.group}: commit index fell from {seen} to {commit}")
        self._commit_seen[group.group] = commit
        for index in range(max(seen + 1, group.first_index), commit + 1):
            try:
                header = group.journal.header(index)
            except DataLossError:
                continue
            if header is None:
                self._invariants.found(f"node {self._machine.id} group {group.group}: committed entry {index} is not there")
                return
            self._invariants.commits(self._machine, group, index, header)

    def _look_at_watermark(self, group: Group) -> None:
        partition = group.machine
        if not isinstance(partition, Partition):
            return
        now = (partition.high_watermark, partition.log_start_offset)
        before = self._watermark_seen.get(group.group, (0, 0))
        if now[0] < before[0] or now[1] < before[1] or now[1] > now[0]:
            self._invariants.found(f"node {self._machine.id} {partition.name}: watermark and start went from {before} to {now}")
        self._watermark_seen[group.group] = now
