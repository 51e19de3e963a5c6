"""Doubles for what the broker stands on: a replicated log moved by hand, a consensus of such logs, links, a store, a clock.

``HandLog`` keeps the rules of ``raftlog.consensus.port``; what Raft would do by itself (persist, commit, lose leadership,
truncate) a test does by calling a method. ``HandConsensus`` with ``auto`` copies each append to all replicas of the group and
commits it on the next pass of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from raftlog.broker.partition import Partition
from raftlog.broker.pending import Budget, PublishCall
from raftlog.broker.publish import Publisher
from raftlog.config.topic import TopicConfig
from raftlog.consensus.group import configuration_entry
from raftlog.consensus.port import Build, FollowerProgress, Rows, StateMachine
from raftlog.core.configuration import Configuration, check_step, decode, member_id, node_of, replica_of
from raftlog.core.entry import Entry, EntryHeader, EntryKind, encode
from raftlog.errors import LeaderNotAvailableError, NotLeaderError, RaftlogError, ReassignmentInProgressError, UnavailableError
from raftlog.model import Acks, Role, TopicPartition
from raftlog.peers.port import Payloads
from raftlog.records import batch
from raftlog.records.batch import Record
from tests.broker.hand_store import HandStore

NOW_MS = 1_700_000_000_000
FOUNDERS = tuple(member_id(node, 1) for node in (1, 2, 3))
"""Members of a group on nodes 1 to 3."""


class HandClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def monotonic_s(self) -> float:
        """Follows the wall clock here."""
        return self.now_ms / 1000

    def wall_ms(self) -> int:
        """What the test set."""
        return self.now_ms


class DictRows:
    """A group's rows in a dict."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, bytes], bytes] = {}

    def get(self, table: int, key: bytes) -> bytes | None:
        """See ``Rows``."""
        return self.rows.get((table, key))

    def scan(self, table: int) -> Iterator[tuple[bytes, bytes]]:
        """See ``Rows``."""
        return iter(sorted((key, value) for (at, key), value in self.rows.items() if at == table))

    def put(self, table: int, key: bytes, value: bytes | None) -> None:
        """See ``Rows``."""
        if value is None:
            self.rows.pop((table, key), None)
        else:
            self.rows[table, key] = value


class HandLog:
    """One replica of a group, moved by hand. Starts as a follower of nobody with one no-op of term 0."""

    def __init__(
        self, group: int, founders: tuple[int, ...], machine: StateMachine, node_id: int = 1, *, replica: int = 1
    ) -> None:
        self.group = group
        self.damaged: str | None = None
        self.unclean_at_ms = 0
        self.handing_over = False
        self.own = member_id(node_id, replica)
        self.configuration = Configuration.of(founders)
        self.configured_at = 1
        self.node_id = node_id
        self.machine = machine
        self.rows: Rows = DictRows()
        self.role = Role.FOLLOWER
        self.term = 0
        self.leader: int | None = None
        self.ready = False
        noop = EntryHeader(kind=EntryKind.NOOP, group=group, index=1, term=0, base_offset=0)
        self.kept: dict[int, Entry] = {1: encode(noop)}
        self.first_index = self.last_index = self.durable_index = self.commit_index = self.applied_index = 1
        self.size_bytes = len(self.kept[1].data)
        self.matched = 1
        self.on_append: Callable[[HandLog, Entry], None] | None = None
        self.on_transfer: Callable[[HandLog, int | None], bool] = lambda _, to: False
        self.matches: Callable[[HandLog, int], int] = lambda log, _: log.matched
        self.barriers = self.heartbeat_round = self.headers_read = self.told_commit = 0
        self.silent: set[int] = set()  # members that answer no heartbeat any more

    def check_append(self) -> None:
        """See ``ReplicatedLog``."""
        if not self.ready:
            raise NotLeaderError("this replica does not lead")
        if self.handing_over:
            raise LeaderNotAvailableError("the leader is changing")

    def append(self, build: Build) -> Entry:
        """See ``ReplicatedLog``."""
        self.check_append()
        return self._append(build)

    async def barrier(self, timeout_s: float) -> int:
        """See ``ReplicatedLog``; confirms at once."""
        self.barriers += 1
        self.heartbeat_round += 1
        await asyncio.sleep(0)
        if not self.ready:
            raise NotLeaderError("this replica does not lead")
        return self.commit_index

    def header(self, index: int) -> EntryHeader | None:
        """See ``ReplicatedLog``."""
        self.headers_read += 1
        entry = self.kept.get(index)
        return None if entry is None else entry.header

    def read(self, start: int, stop: int, bytes_max: int) -> list[Entry]:
        """See ``ReplicatedLog``."""
        found: list[Entry] = []
        size = 0
        for index in range(start, stop):
            entry = self.kept.get(index)
            if entry is None or (found and size + len(entry.data) > bytes_max):
                break
            found.append(entry)
            size += len(entry.data)
        return found

    @property
    def caught_up(self) -> bool:
        """See ``ReplicatedLog``."""
        return self.ready or 0 < self.told_commit <= self.commit_index

    @property
    def members(self) -> tuple[int, ...]:
        """See ``ReplicatedLog``."""
        return tuple(map(node_of, self.configuration.members))

    @property
    def configuration_committed(self) -> bool:
        """See ``ReplicatedLog``."""
        return self.commit_index >= self.configured_at

    def reconfigure(self, new: Configuration) -> Entry:
        """See ``ReplicatedLog``."""
        if not self.configuration_committed:
            raise ReassignmentInProgressError("one at a time")
        check_step(self.configuration, new)
        return self.append(lambda index, term, before: configuration_entry(self.group, new, index, term, before))

    def followers(self) -> dict[int, FollowerProgress]:
        """See ``ReplicatedLog``."""
        if self.role is not Role.LEADER:
            return {}
        rounds = {one: 0 if one in self.silent else self.heartbeat_round for one in self.configuration.members if one != self.own}
        return {one: FollowerProgress(match_index=self.matches(self, one), heard_s=0.0, round=at) for one, at in rounds.items()}

    def min_match_index(self) -> int:
        """See ``ReplicatedLog``."""
        return self.matched if self.role is Role.LEADER else 0

    def trim(self, keep_from: int) -> None:
        """See ``ReplicatedLog``."""
        keep_from = min(keep_from, self.applied_index)
        for index in range(self.first_index, keep_from):
            self.size_bytes -= len(self.kept.pop(index).data)
        self.first_index = max(self.first_index, keep_from)

    def transfer(self, to: int | None = None) -> bool:
        """See ``ReplicatedLog``."""
        return self.on_transfer(self, to)

    # By hand.

    def lead(self, term: int) -> None:
        """Become the leader: append the term's no-op, and commit it."""
        self.role, self.term, self.leader, self.ready = Role.LEADER, term, self.node_id, False
        self._append(lambda index, its, before: encode(_noop(self.group, index, its, before)))
        self.commit()
        self.ready = True
        self.machine.progressed()

    def follow(self, term: int, leader: int | None = None) -> None:
        """Become a follower."""
        self.role, self.term, self.leader, self.ready = Role.FOLLOWER, term, leader, False
        self.machine.progressed()

    def receive(self, entry: Entry) -> None:
        """Take an entry from another leader; what conflicts is truncated first."""
        index = entry.header.index
        if index <= self.last_index:
            self.truncate(index)
        self.kept[index] = entry
        self.size_bytes += len(entry.data)
        self.last_index = index
        self._configured_by(entry)
        self.machine.appended(entry.header)

    def receive_noop(self, term: int) -> None:
        """Another leader's no-op behind the last entry."""
        before = self.kept[self.last_index].header
        self.receive(encode(_noop(self.group, self.last_index + 1, term, before)))

    def truncate(self, index: int) -> None:
        """Drop the entries from ``index`` on."""
        assert index > self.commit_index, "Raft never truncates what is committed"
        for at in range(index, self.last_index + 1):
            self.size_bytes -= len(self.kept.pop(at).data)
        self.last_index = index - 1
        self.durable_index = min(self.durable_index, self.last_index)
        self.machine.truncated(index)

    def persist(self, index: int | None = None) -> None:
        """Make entries durable here."""
        self.durable_index = self.last_index if index is None else index
        self.machine.progressed()

    def commit(self, index: int | None = None, *, apply: bool = True) -> None:
        """Commit entries, and apply them."""
        self.commit_index = self.last_index if index is None else index
        self.durable_index = max(self.durable_index, self.commit_index)
        if apply:
            self.apply()
        self.machine.progressed()

    def apply(self) -> None:
        """Apply what is committed."""
        while self.applied_index < self.commit_index:
            self.applied_index += 1
            entry = self.kept[self.applied_index]
            self.machine.apply(entry.header, lambda entry=entry: entry.payload, self.rows)  # type: ignore[misc]

    def install(self, leader: HandLog) -> None:
        """A snapshot of another replica: its base is the log, its state is ahead of that."""
        base, rows = leader.kept[leader.first_index], leader.rows
        assert isinstance(rows, DictRows)
        copied = DictRows()
        copied.rows = dict(rows.rows)
        self.kept, self.rows, self.size_bytes = {base.header.index: base}, copied, len(base.data)
        self.first_index = self.last_index = self.durable_index = self.commit_index = base.header.index
        self.applied_index = leader.applied_index
        self.machine.restore(self.rows)
        self.machine.progressed()

    def restarted(self, machine: StateMachine) -> HandLog:
        """The same disk under a new state machine, as a follower with a lost commit index."""
        again = HandLog(self.group, (), machine, self.node_id, replica=replica_of(self.own))
        again.configuration, again.configured_at = self.configuration, self.configured_at
        again.kept, again.rows, again.term = dict(self.kept), self.rows, self.term
        again.size_bytes = self.size_bytes
        again.first_index, again.last_index = self.first_index, self.last_index
        again.durable_index = self.last_index
        again.commit_index, again.applied_index = min(self.commit_index, self.applied_index), self.applied_index
        machine.restore(again.rows)
        for index in range(
            again.commit_index + 1, again.last_index + 1
        ):  # what stands behind the log is there before it is bound
            machine.appended(again.kept[index].header)
        return again

    def _append(self, build: Build) -> Entry:
        entry = build(self.last_index + 1, self.term, self.kept[self.last_index].header)
        assert entry.header.index == self.last_index + 1
        self.last_index += 1
        self.kept[self.last_index] = entry
        self.size_bytes += len(entry.data)
        self._configured_by(entry)
        self.machine.appended(entry.header)
        if self.on_append is not None:
            self.on_append(self, entry)
        return entry

    def _configured_by(self, entry: Entry) -> None:
        if entry.header.kind is EntryKind.CONFIGURATION:
            self.configuration, self.configured_at = decode(bytes(entry.payload)), entry.header.index


def _noop(group: int, index: int, term: int, before: EntryHeader) -> EntryHeader:
    return EntryHeader(
        kind=EntryKind.NOOP, group=group, index=index, term=term, base_offset=before.next_offset,
        running_max_timestamp=before.running_max_timestamp,
    )  # fmt: skip


class HandNetwork:
    """Some nodes' consensus and links, in one process. ``auto`` groups replicate and commit by themselves."""

    def __init__(self) -> None:
        self.nodes: dict[int, HandConsensus] = {}
        self.handlers: dict[int, Callable[..., object]] = {}
        self.leaders: dict[int, tuple[int, int]] = {}
        self.preferred = True
        """Whether a preferred replica leads as soon as it is opened."""
        self.calls: list[tuple[int, int, str]] = []
        self.down: set[int] = set()

    def replicate(self, log: HandLog, entry: Entry) -> None:
        """Copy an entry to the other replicas and commit it everywhere, on the next pass of the loop."""

        def deliver() -> None:
            if log.kept.get(entry.header.index) is not entry:
                return
            for node in self.nodes.values():
                other = node.logs.get(log.group)
                member = other is not None and other.own in log.configuration.members
                if other is not None and member and other is not log and entry.header.index > other.last_index:
                    for index in range(other.last_index + 1, entry.header.index + 1):
                        other.receive(log.kept[index])
                    other.term, other.leader = log.term, log.node_id
                    other.commit()
            log.matched = entry.header.index
            log.commit(max(entry.header.index, log.commit_index))

        asyncio.get_running_loop().call_soon(deliver)

    def match(self, log: HandLog, member: int) -> int:
        """How much of a leader's log a member holds."""
        other = self.nodes[node_of(member)].logs.get(log.group)
        return other.last_index if other is not None and other.own == member else 0

    def transfer(self, log: HandLog, to: int | None) -> bool:
        """Let another member lead, on the next pass of the loop."""
        takers = [one for one in log.configuration.voters if one != log.own and to in (None, one)]
        if takers:
            asyncio.get_running_loop().call_soon(self.elect, log.group, node_of(takers[0]))
        return bool(takers)

    def elect(self, group: int, node_id: int) -> None:
        """Let a node lead a group; the others follow it."""
        term = self.leaders.get(group, (0, 0))[1] + 1
        self.leaders[group] = (node_id, term)
        for other, consensus in self.nodes.items():
            if other != node_id and group in consensus.logs:
                consensus.logs[group].follow(term, node_id)
        self.nodes[node_id].logs[group].lead(term)


class HandConsensus:
    """A node's groups."""

    def __init__(self, node_id: int, network: HandNetwork, *, auto: bool = True) -> None:
        self.node_id = node_id
        self.network = network
        self.auto = auto
        self.logs: dict[int, HandLog] = {}
        self.dropped: list[int] = []
        self.deleting: set[int] = set()
        """Groups that cannot be opened before ``deleted`` says so."""
        self.waiting: dict[int, Callable[[], None]] = {}
        self.given_up: set[int] = set()
        network.nodes[node_id] = self

    def open(self, group: int, machine: StateMachine, *, replica: int, founders: tuple[int, ...], preferred: bool) -> HandLog:
        """See ``Consensus``."""
        if group in self.logs:
            log = self.logs[group] = self.logs[group].restarted(machine)
        else:
            log = self.logs[group] = HandLog(group, founders, machine, self.node_id, replica=replica)
            machine.restore(log.rows)
        if self.auto:
            log.on_append, log.on_transfer, log.matches = self.network.replicate, self.network.transfer, self.network.match
        if preferred and self.network.preferred:
            asyncio.get_running_loop().call_soon(self.network.elect, group, self.node_id)
        return log

    def vacant(self, group: int, replica: int, ended: Callable[[], None]) -> bool:
        """See ``Consensus``."""
        if group in self.deleting:
            self.waiting[group] = ended
        return group not in self.deleting

    def held(self, group: int) -> tuple[int, bool] | None:
        """See ``Consensus``."""
        log = self.logs.get(group)
        return None if log is None else (replica_of(log.own), group in self.given_up)

    def give_up(self, group: int) -> None:
        """See ``Consensus``."""
        self.given_up.add(group)

    def deleted(self, group: int) -> None:
        """Nothing is left of a group that was dropped."""
        self.deleting.discard(group)
        self.waiting.pop(group)()

    def close(self, group: int) -> None:
        """See ``Consensus``."""
        self.logs.pop(group, None)

    def drop(self, group: int) -> None:
        """See ``Consensus``."""
        self.logs.pop(group, None)
        self.dropped.append(group)

    def leader_of(self, group: int) -> tuple[int | None, int]:
        """See ``Consensus``."""
        return self.network.leaders.get(group, (None, 0))


class HandPeers:
    """Links that hand a call to the other broker's ``on_call``."""

    def __init__(self, node_id: int, network: HandNetwork) -> None:
        self._node_id = node_id
        self._network = network

    def send_turn(self, node_id: int, turn: object, payloads: Payloads) -> bool:
        """Not used by the broker."""
        raise NotImplementedError

    def writable(self, node_id: int) -> bool:
        """See ``connected``."""
        return self.connected(node_id)

    def connected(self, node_id: int) -> bool:
        """Up, unless the test took it down."""
        return node_id in self._network.handlers and node_id not in self._network.down

    async def call(
        self, node_id: int, method: str, body: bytes, payloads: Payloads = (), *, timeout_s: float
    ) -> tuple[bytes, list[bytes]]:
        """See ``Peers``."""
        self._network.calls.append((self._node_id, node_id, method))
        if not self.writable(node_id):
            raise UnavailableError(f"no link to node {node_id}")
        await asyncio.sleep(0)
        handler = self._network.handlers[node_id]
        answer, batches = await handler(self._node_id, method, body, [bytes(p) for p in payloads])  # type: ignore[misc]
        return answer, [bytes(payload) for payload in batches]

    def set_peers(self, addresses: dict[int, str]) -> None:
        """Not used by the broker."""


def records(
    count: int = 1, *, at_ms: int = NOW_MS, size: int = 10, step_ms: int = 0,
    producer: int = -1, epoch: int = 0, sequence: int = 0,
) -> bytes:  # fmt: skip
    """One batch of ``count`` records, ``step_ms`` apart."""
    made = [Record(0, at_ms + number * step_ms, None, b"x" * size) for number in range(count)]
    if producer < 0:
        return batch.encode(made)
    return batch.encode(made, producer_id=producer, producer_epoch=epoch, base_sequence=sequence)


def error_of(outcome: object) -> RaftlogError:
    """The outcome as the error that it must be."""
    assert isinstance(outcome, RaftlogError), outcome
    return outcome


class Leader:
    """One partition that this node leads in term 1, with a publisher: nothing commits by itself."""

    def __init__(self, *, configs: dict[str, str] | None = None, budget_bytes: int = 1 << 20, lost_wait_s: float = 0.01) -> None:
        self.clock = HandClock()
        self.store = HandStore()
        self.budget = Budget(budget_bytes)
        self.lost_wait_s = lost_wait_s
        self.config = TopicConfig.of(configs or {})
        self.partition = self.new_partition()
        self.log = HandLog(1, FOUNDERS, self.partition)
        self.partition.bind(self.log)
        self.log.lead(1)
        self.publisher = Publisher(1, store=self.store, clock=self.clock, budget=self.budget)

    def new_partition(self) -> Partition:
        """A state machine without a log."""
        name = TopicPartition("t", 0)
        return Partition(name, 1, config=self.config, budget=self.budget, lost_wait_s=self.lost_wait_s)

    def publish(self, *batches: bytes, acks: Acks = Acks.ALL) -> PublishCall:
        """Publish batches as one call."""
        call = PublishCall(len(batches))
        self.publisher.publish(self.partition, enumerate(batches), acks, call)
        return call

    def fill(self, count: int, *, committed: bool = True, size: int = 10, step_ms: int = 1_000) -> None:
        """``count`` batches of two records, ``step_ms`` from batch to batch."""
        for number in range(count):
            call = self.publish(records(2, size=size, at_ms=NOW_MS - 1_000_000 + number * step_ms))
            assert call.left == 1, call.outcomes
        if committed:
            self.log.commit()

    def check_leader(self, partition: Partition) -> None:
        """What the router does, for one replica."""
        if not self.log.ready:
            raise NotLeaderError("not the leader")
