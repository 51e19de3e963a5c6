"""A small world for consensus: real turn loops over stores in memory, links that delay, stall and break, and checkers.

Everything happens on one virtual loop and one seeded randomness, so a seed is a history. Messages cross a link as bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random

from raftlog.consensus.config import SEND_EARLY_BYTES, WINDOW_BYTES_MAX, ConsensusConfig
from raftlog.consensus.door import RaftTimes
from raftlog.consensus.group import Group
from raftlog.consensus.guard import Guards
from raftlog.consensus.port import Rows
from raftlog.consensus.snapshot_pull import Snapshots
from raftlog.consensus.snapshot_source import SnapshotSource
from raftlog.consensus.turns import Turns
from raftlog.core.configuration import member_id, node_of
from raftlog.core.entry import Entry, EntryHeader, EntryKind, decode, encode
from raftlog.core.features import NEWEST, Features
from raftlog.errors import IndeterminateError, LeaderNotAvailableError, NotLeaderError, UnavailableError
from raftlog.model import Role
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.storage.memory_store import MemoryStore
from tests.simulation.loop import VirtualClock, VirtualLoop

GROUP = 7
TABLE = 1


def founding(*nodes: int) -> tuple[int, ...]:
    """The members of a new group on these nodes."""
    return tuple(member_id(node, 1) for node in nodes)


class Violation(AssertionError):
    """An invariant of tests/consensus was broken."""


class CountingMachine:
    """A state machine that counts: rows hold the number of entries applied, memory holds the tail it was shown."""

    def __init__(self) -> None:
        self.applied = 0
        self.tail: list[tuple[int, int]] = []
        self.progress = 0

    def restore(self, rows: Rows) -> None:
        self.applied = int(rows.get(TABLE, b"count") or b"0")
        self.tail = []

    def apply(self, entry: EntryHeader, payload: Callable[[], memoryview], rows: Rows) -> None:
        assert self.tail, f"entry {entry.index} is applied but was never shown"
        assert self.tail[0] == (entry.index, entry.term), f"{self.tail[0]} was shown, {entry} is applied"
        del self.tail[0]
        self.applied += 1
        rows.put(TABLE, b"count", str(self.applied).encode())

    def appended(self, header: EntryHeader) -> None:
        if header.index > self.applied + 1:  # what a snapshot has brought is shown, too
            self.tail.append((header.index, header.term))

    def truncated(self, index: int) -> None:
        assert self.tail, f"nothing is shown, {index} is truncated"
        assert self.tail[0][0] <= index <= self.tail[-1][0]
        self.tail = [shown for shown in self.tail if shown[0] < index]

    def progressed(self) -> None:
        self.progress += 1


class Links:
    """One node's links in the world (``peers.port.Peers``, but for calls)."""

    def __init__(self, world: World, node_id: int) -> None:
        self.world, self.node_id = world, node_id

    def send_turn(self, node_id: int, turn: pb.Turn, payloads: Sequence[bytes | memoryview]) -> bool:
        return self.world.send(self.node_id, node_id, turn.SerializeToString(), [bytes(data) for data in payloads])

    def connected(self, node_id: int) -> bool:
        return frozenset((self.node_id, node_id)) in self.world.up

    def writable(self, node_id: int) -> bool:
        return frozenset((self.node_id, node_id)) in self.world.up

    async def call(
        self, node_id: int, method: str, body: bytes, payloads: Sequence[bytes | memoryview] = (), *, timeout_s: float
    ) -> tuple[bytes, list[bytes]]:
        return await self.world.call(self.node_id, node_id, method, body)

    def set_peers(self, addresses: dict[int, str]) -> None: ...


class WorldNode:
    """A node: its disk outlives its turns."""

    def __init__(self, world: World, node_id: int) -> None:
        self.world, self.id = world, node_id
        self.disk_s = (0.0005, 0.004)
        self.store = MemoryStore(schedule=self._disk)
        self.turns: Turns | None = None
        self.snapshots: Snapshots | None = None
        self.group: Group | None = None
        self.machine = CountingMachine()
        self.boot = 0
        self.commit_seen = 1
        self.replica = 1 if node_id in world.founders else 0
        """Id of the replica that it has, 0 for none."""

    def _disk(self, finish: Callable[[], None]) -> object:
        return self.world.loop.call_later(self.world.rng.uniform(*self.disk_s), finish)

    def start(self) -> None:
        assert self.turns is None
        self.boot += 1
        self.turns = Turns(
            node_id=self.id,
            store=self.store,
            peers=Links(self.world, self.id),
            clock=VirtualClock(self.world.loop),
            rng=Random(self.world.rng.random()),
            config=ConsensusConfig(
                times=self.world.times,
                guards=self.world.guards,
                replica_lag_time_max_s=self.world.lag_max_s,
                send_early_bytes=self.world.send_early_bytes,
                window_bytes=self.world.window_bytes,
            ),
            fail=self.world.failed,
            features=self.world.features,
        )
        source = SnapshotSource(self.turns.groups, self.store)
        links = Links(self.world, self.id)
        clock = VirtualClock(self.world.loop)
        self.snapshots = Snapshots(self.turns, source, peers=links, store=self.store, clock=clock, fail=self.world.died)
        self.turns.on_offer, self.turns.snapshot_progress = self.snapshots.offered, source.progress
        self.snapshots.begin()
        if self.replica:
            self.open()
        for other in self.world.members:
            self.world.connect_soon(self.id, other)

    def open(self) -> None:
        """Open the replica that this node is to have."""
        assert self.turns is not None
        self.machine = self.world.machine_class()
        self.commit_seen = 1
        first = self.id in self.world.founders and self.replica == 1
        founders = founding(*self.world.founders) if first else ()
        self.group = self.turns.open(GROUP, self.machine, replica=self.replica, founders=founders, preferred=False)

    @property
    def member(self) -> int:
        """Its member id."""
        return member_id(self.id, self.replica)

    def crash(self) -> None:
        assert self.turns is not None
        assert self.snapshots is not None
        self.turns.stop()
        for task in self.snapshots._scope._tasks:
            task.cancel()
        self.snapshots.source.close()
        self.snapshots = None
        self.turns = self.group = None
        self.store = self.store.crash(keep_in_flight=self.world.rng.random() < 0.5)
        for other in self.world.members:
            self.world.cut(self.id, other)


class World:
    """``count`` nodes with one group. Faults are methods; ``check`` looks at the invariants."""

    def __init__(
        self,
        count: int = 3,
        seed: int = 1,
        guards: Guards | None = None,
        times: RaftTimes | None = None,
        *,
        founders: int | None = None,
    ) -> None:
        self.loop = VirtualLoop()
        self.rng = Random(seed)
        self.guards, self.times = guards or Guards(), times or RaftTimes()
        self.members = tuple(range(1, count + 1))
        self.founders = self.members[:founders]
        """The nodes that the group begins on; the others have no replica until they are given one."""
        self.nodes = {node_id: WorldNode(self, node_id) for node_id in self.members}
        self.up: set[frozenset[int]] = set()
        self.stalled_until: dict[tuple[int, int], float] = {}
        self.partition: set[int] = set()
        self.full_until: dict[int, float] = {}
        self.arrival: dict[tuple[int, int], float] = {}
        self.epoch: dict[frozenset[int], int] = {}
        self.delay_s = (0.0001, 0.003)
        self.filter: Callable[[int, int, pb.RaftMessage], bool] = lambda *_: True
        self.failures: list[BaseException] = []
        self.lag_max_s = 30.0
        self.send_early_bytes = SEND_EARLY_BYTES
        self.window_bytes = WINDOW_BYTES_MAX
        self.features = Features(level=NEWEST)
        """What all nodes take the cluster's feature level to be."""
        self.machine_class: type[CountingMachine] = CountingMachine
        self.leaders: dict[int, int] = {}
        self.committed: dict[int, tuple[int, bytes]] = {}
        self.acknowledged: dict[bytes, int] = {}
        self.majority_seen: set[int] = set()
        self.sequence = 0

    def run(self, scenario: Callable[[World], object]) -> None:
        """Run an async scenario on the virtual loop."""

        async def main() -> None:
            for node in self.nodes.values():
                node.start()
            await scenario(self)  # type: ignore[misc]
            for node in self.nodes.values():
                if node.turns is not None and node.snapshots is not None:
                    await node.snapshots.close()
                    node.turns.stop()

        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(main())
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()

    def failed(self, error: Exception) -> None:
        self.failures.append(error)

    def died(self, error: BaseException) -> None:
        self.failures.append(error)

    # ---- links

    def send(self, sender: int, recipient: int, turn: bytes, payloads: list[bytes]) -> bool:
        pair = frozenset((sender, recipient))
        if pair not in self.up:
            return False
        parsed = pb.Turn.FromString(turn)
        kept, kept_payloads, at = pb.Turn.FromString(turn), [], 0
        del kept.raft[:]
        for message in parsed.raft:
            count = message.append_entries.entry_count
            refused = count and self.full_until.get(recipient, 0.0) > self.loop.now_s
            if not refused and self.filter(sender, recipient, message):
                kept.raft.append(message)
                kept_payloads += payloads[at : at + count]
            at += count
        way = (sender, recipient)
        moment = self.loop.now_s + self.rng.uniform(*self.delay_s)
        moment = max(moment, self.arrival.get(way, 0.0), self.stalled_until.get(way, 0.0))
        self.arrival[way] = moment
        self.loop.call_at(moment, self._arrive, sender, recipient, self.epoch[pair], kept, kept_payloads)
        return True

    def _arrive(self, sender: int, recipient: int, epoch: int, turn: pb.Turn, payloads: list[bytes]) -> None:
        pair, node = frozenset((sender, recipient)), self.nodes[recipient]
        if pair in self.up and self.epoch[pair] == epoch and node.turns is not None:
            until = self.stalled_until.get((sender, recipient), 0.0)
            if until > self.loop.now_s:
                self.loop.call_at(until, self._arrive, sender, recipient, epoch, turn, payloads)
                return
            node.turns.on_turn(sender, turn, payloads)

    async def call(self, sender: int, recipient: int, method: str, body: bytes) -> tuple[bytes, list[bytes]]:
        """A call over a link; the answer of one that is cut meanwhile is lost."""
        pair = frozenset((sender, recipient))
        if pair not in self.up:
            raise UnavailableError(f"no link to node {recipient}")
        epoch = self.epoch[pair]
        await asyncio.sleep(self.rng.uniform(*self.delay_s))
        snapshots = self.nodes[recipient].snapshots
        if pair not in self.up or snapshots is None:
            raise IndeterminateError("the link broke")
        answer, payloads = await snapshots.on_call(sender, method, body)
        await asyncio.sleep(self.rng.uniform(*self.delay_s))
        if pair not in self.up or self.epoch[pair] != epoch:
            raise IndeterminateError("the link broke")
        return answer, [bytes(payload) for payload in payloads]

    def connect_soon(self, a: int, b: int) -> None:
        if a != b:
            self.loop.call_later(self.rng.uniform(0.001, 0.05), self.connect, a, b)

    def connect(self, a: int, b: int) -> None:
        pair = frozenset((a, b))
        one, two = self.nodes[a].turns, self.nodes[b].turns
        if pair in self.up or one is None or two is None:
            return
        if (a in self.partition) != (b in self.partition):
            self.loop.call_later(0.1, self.connect, a, b)
            return
        self.up.add(pair)
        self.epoch[pair] = self.epoch.get(pair, 0) + 1
        for way in ((a, b), (b, a)):
            self.stalled_until.pop(way, None)
            self.arrival.pop(way, None)
        one.on_connected(b)
        two.on_connected(a)

    def cut(self, a: int, b: int) -> None:
        pair = frozenset((a, b))
        if pair not in self.up:
            return
        self.up.discard(pair)
        for one, other in ((a, b), (b, a)):
            turns = self.nodes[one].turns
            if turns is not None:
                turns.on_disconnected(other)
        self.connect_soon(a, b)

    def stall(self, a: int, b: int, seconds: float) -> None:
        """Hold what a sends to b; nothing is lost."""
        self.stalled_until[a, b] = self.loop.now_s + seconds

    def fill(self, node_id: int, seconds: float) -> None:
        """Let a node take no entries for some time: they are lost on a link that stays up, as with a full disk."""
        self.full_until[node_id] = self.loop.now_s + seconds

    def trim(self) -> None:
        """Let all nodes delete what every one of them is known to hold, as retention does."""
        leader = self.leader()
        keep_from = leader.group.min_match_index() if leader and leader.group else 0
        for node in self.nodes.values():
            if node.group is not None:
                node.group.trim(keep_from)

    def isolate(self, *nodes: int) -> None:
        """Partition these from the others; links across break."""
        self.partition = set(nodes)
        for pair in list(self.up):
            a, b = sorted(pair)
            if (a in self.partition) != (b in self.partition):
                self.cut(a, b)

    def heal(self) -> None:
        """End the partition, and empty the full disks."""
        self.partition = set()
        self.full_until.clear()

    def missing(self) -> set[bytes]:
        """Acknowledged payloads that the leader's log should hold and does not. What was trimmed is not missed."""
        leader = self.leader()
        assert leader is not None
        assert leader.group is not None
        first = leader.group.first_index
        kept = {bytes(entry.payload) for entry in leader.group.read(first, leader.group.last_index + 1, 1 << 30)}
        return {payload for payload, index in self.acknowledged.items() if index >= first} - kept

    # ---- work

    def leader(self) -> WorldNode | None:
        """The serving leader of the highest term."""
        leading = [node for node in self.nodes.values() if node.group is not None and node.group.ready]
        return max(leading, key=lambda node: node.group.term if node.group else 0, default=None)

    def publish(self, node: WorldNode, size: int = 20) -> Entry | None:
        """Append one entry on a node, None where it refuses."""
        assert node.group is not None
        self.sequence += 1
        body = f"{self.sequence:08d}".encode().ljust(size, b".")

        def build(index: int, term: int, last: EntryHeader) -> Entry:
            header = EntryHeader(EntryKind.RECORDS, GROUP, index, term, last.next_offset, 1)
            return encode(header, body)

        try:
            return node.group.append(build)
        except (NotLeaderError, LeaderNotAvailableError):
            return None

    async def until(self, what: Callable[[], bool], seconds: float = 20.0) -> None:
        """Wait, on virtual time, until a condition holds; the checkers look at every step."""
        end = self.loop.now_s + seconds
        while not what():
            assert self.loop.now_s < end, "the condition did not come true in time"
            await self.step()

    async def step(self, seconds: float = 0.002) -> None:
        """Let some time pass, and check."""
        await asyncio.sleep(seconds)
        self.check()

    async def settle(self, seconds: float) -> None:
        """Let this much time pass, checking on the way."""
        end = self.loop.now_s + seconds
        while self.loop.now_s < end:
            await self.step()

    # ---- checkers

    def check(self) -> None:
        """Election safety, state machine safety, leader completeness, commit monotonic, durability at a majority."""
        if self.failures:
            raise Violation(f"a node failed: {self.failures[0]!r}")
        for node in self.nodes.values():
            if node.group is not None:
                self._check_leader(node, node.group)
                self._check_commits(node, node.group)

    def _check_leader(self, node: WorldNode, group: Group) -> None:
        if group.role is not Role.LEADER:
            return
        if self.leaders.setdefault(group.term, node.id) != node.id:
            raise Violation(f"term {group.term} has leaders {self.leaders[group.term]} and {node.id}")
        newest = max(self.committed, default=0)
        if newest < group.first_index or group.term < max(self.leaders):
            return
        if group.journal.term_at(newest) != self.committed[newest][0]:
            raise Violation(f"leader {node.id} of term {group.term} lacks committed entry {newest}")

    def _check_commits(self, node: WorldNode, group: Group) -> None:
        if group.commit_index < node.commit_seen:
            raise Violation(f"commit index of {node.id} fell from {node.commit_seen} to {group.commit_index}")
        for index in range(max(node.commit_seen + 1, group.first_index), group.commit_index + 1):
            (entry,) = group.read(index, index + 1, 1)
            known = self.committed.setdefault(index, (entry.header.term, entry.data))
            if known != (entry.header.term, entry.data):
                raise Violation(f"node {node.id} commits another entry {index} of term {entry.header.term}, was {known[0]}")
            if index not in self.majority_seen:
                self.majority_seen.add(index)
                self._check_majority(index)
            if entry.header.kind is EntryKind.RECORDS:
                self.acknowledged[bytes(entry.payload)] = index
        node.commit_seen = group.commit_index

    def _check_majority(self, index: int) -> None:
        electorates = {node.group.configuration.voters for node in self.nodes.values() if node.group is not None} - {()}
        held = [(sum(self._holds(node_of(voter), index) for voter in voters), len(voters)) for voters in electorates]
        if all(holding * 2 <= size for holding, size in held):
            where = " or ".join(f"{holding} of {size}" for holding, size in held)
            raise Violation(f"committed entry {index} is on the disks of only {where}")

    def _holds(self, node_id: int, index: int) -> bool:
        store = self.nodes[node_id].store
        bounds = store.bounds(GROUP)
        if bounds and bounds[0] > index:
            return True
        stored = store.entries(GROUP, index, index + 1, 1)
        return bool(stored) and decode(stored[0]).data == self.committed[index][1]

    def converged(self) -> bool:
        """All members have the same log and commit index, and state machines agree with it."""
        groups = [node.group for node in self.member_nodes()]
        if any(group is None for group in groups):
            return False
        ends = {(group.last_index, group.journal.last.term, group.commit_index, group.applied_index) for group in groups if group}
        return len(ends) == 1 and all(group.last_index == group.applied_index for group in groups if group)

    def member_nodes(self) -> list[WorldNode]:
        """The nodes that the leader counts as members; the founders while there is none."""
        leader = self.leader()
        ids = self.founders if leader is None or leader.group is None else leader.group.members
        return [self.nodes[node_id] for node_id in ids]

    def under_way(self) -> int:
        """Bytes that any node counts as sent and not acknowledged."""
        return sum(sum(node.turns._windows._bytes.values()) for node in self.nodes.values() if node.turns)

    def check_rest(self) -> None:
        """What must hold once all agree: counts and sizes fit the logs."""
        for node in self.member_nodes():
            assert node.group is not None
            journal = node.group.journal
            if node.machine.applied != journal.applied_index - 1:
                raise Violation(f"node {node.id} applied {node.machine.applied} entries up to {journal.applied_index}")
            size = sum(len(entry.data) for entry in node.group.read(journal.first_index, journal.last_index + 1, 1 << 40))
            if size != journal.size_bytes:
                raise Violation(f"node {node.id} counts {journal.size_bytes} bytes and holds {size}")
