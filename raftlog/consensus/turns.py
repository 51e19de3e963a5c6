"""The turn loop: all groups of a node share one transaction, one fsync and one frame a peer.

Theory of operation. A turn delivers what has arrived, ticks the groups that were touched or whose timer is due, sends what
may leave at once, and hands everything to be written to storage as one batch. While that commit is under way nothing else
happens here but gathering: what arrives waits in the inbox, what is proposed joins the next batch. When the commit is
durable, the answers that depended on it leave, and the next turn begins. The slower the disk, the larger the batches.

Rules:

1. Votes, vote requests and acknowledgements leave after the commit of their turn; appends and heartbeats before it, unless
   the turn changed that group's term or vote (then nothing leaves before it is durable).
2. No turn runs while a commit is under way: see ``early``, ``acks``, ``inbox`` and ``standstill``. Messages leave in turn order.
3. Progress and state machine rows never start a commit: they ride on the next, or follow within ``LAZY_FLUSH_S``.
4. Links that come up and go down are handled in the order of the frames around them.
5. A group whose snapshot is not durable yet is suspended: it hears, does and writes nothing until it begins again from that.
6. A sleeping group is left alone (``sleeper``): whatever touches it, or comes for it, wakes it first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from random import Random

import structlog

from raftlog.consensus.acks import Acks
from raftlog.consensus.alarm import NEVER_S, Alarm
from raftlog.consensus.config import ConsensusConfig
from raftlog.consensus.damage import note
from raftlog.consensus.door import Ambience
from raftlog.consensus.dropped import Drops
from raftlog.consensus.early import Early
from raftlog.consensus.elections import Elections
from raftlog.consensus.group import Group
from raftlog.consensus.inbox import Inbox
from raftlog.consensus.journal import GroupJournal
from raftlog.consensus.leaderships import Leaderships
from raftlog.consensus.messages import AFTER_COMMIT, Ack, Append, MalformedMessageError, Message, from_wire
from raftlog.consensus.outgoing import Mail, PeerWindows
from raftlog.consensus.pace import Pace
from raftlog.consensus.patience import Patience
from raftlog.consensus.port import StateMachine
from raftlog.consensus.quiescence import Quiescence
from raftlog.consensus.sleeper import Sleeper
from raftlog.consensus.snapshot import Image
from raftlog.consensus.standstill import Standstill
from raftlog.consensus.tail import TailCache
from raftlog.core import failpoints
from raftlog.core.clock import Clock
from raftlog.core.configuration import member_id, node_of, replica_of
from raftlog.core.features import FeatureLevel
from raftlog.errors import ConsensusFailedError, DataLossError, ShuttingDownError
from raftlog.model import Role
from raftlog.pb.raftlog.internal.v1 import peer_pb2 as pb
from raftlog.peers.port import Peers
from raftlog.storage.port import Store, WriteBatch

log = structlog.get_logger()

LAZY_FLUSH_S = 0.05
"""Progress and rows reach the disk this soon when nothing else takes them along."""
_crash_before_send = failpoints.point("turn-before-send")
_crash_after_send = failpoints.point("turn-after-send")
_crash_before_release = failpoints.point("turn-before-release")


class Turns:
    """All groups of one node (``port.Consensus``), driven by its links and its store."""

    def __init__(
        self, *, node_id: int, store: Store, peers: Peers, clock: Clock, rng: Random, config: ConsensusConfig,
        fail: Callable[[Exception], None], features: FeatureLevel,
    ) -> None:  # fmt: skip
        self.features, self.batch = features, WriteBatch()
        self.lazy_rows: dict[tuple[int, int, bytes], bytes | None] = {}
        self._node_id, self._store, self._peers = node_id, store, peers
        self._clock, self._config, self._fail = clock, config, fail
        self._ambience, self._tail = Ambience(clock, rng), TailCache(config.tail_cache_bytes)
        self._windows = PeerWindows(peers.writable, Pace(config.catch_up_bytes_per_s), config.window_bytes)
        self._groups: dict[int, Group] = {}
        self._patience = Patience(config.times)
        self._alarm = Alarm(clock, self._groups, self._turn, others_s=self._others_s)
        self.quiescence = Quiescence(self._groups, clock=clock, rng=rng, patience=self._patience, wake_at=self._alarm.tick_at)
        self._elections = Elections()
        self._touched: dict[int, Group] = {}
        self._links: dict[int, float] = {}  # node → since when there is a link to it
        self._inbox, self._held = Inbox(), Mail()
        self.early = Early(config.send_early_bytes, peers, self._send_entries)
        self.acks = Acks(self._groups, guarded=self._guarded, touch=self.touch, fail=self._give_up)
        self._in_flight: WriteBatch | None = None
        self._ticked: list[Group] = []
        self._changed: dict[int, Group] = {}  # ticked since the last batch was handed over
        self._flying: list[Group] = []  # whose changes the commit under way carries
        self._drops = Drops(store, self.drop, features)
        self.vacant, self.held = self._drops.vacant, self._drops.held  # of port.Consensus
        self._syncing: list[asyncio.Future[None]] = []
        self._syncing_flies: list[asyncio.Future[None]] = []  # of the commit under way
        self.on_offer: Callable[[Group, int], None] = lambda *_: None  # takes a group and the member that offers it a snapshot
        self.snapshot_progress: Callable[[int, int], tuple[int, int]] = lambda *_: (0, 0)
        self._lazy_due_s, self._closed = NEVER_S, False
        self._leaderships = Leaderships(node_id)
        self.standstill = Standstill(self._groups, clock, self._patience, self._leaderships, self.quiescence, fail=self._give_up)
        self._scheduled: asyncio.Handle | None = None

    # ---- port.Consensus

    def open(self, group: int, machine: StateMachine, *, replica: int, founders: tuple[int, ...], preferred: bool) -> Group:
        """See ``port.Consensus``."""
        assert group not in self._groups, f"group {group} is open already"
        store = self._drops.reader(group, replica)
        journal = GroupJournal(group, store, self._tail, self, replica=replica, founders=founders)
        fresh = journal.last_index == 0
        opened = Group(
            self._member(journal, replica), machine, store=store, shell=self, clock=self._clock,
            lag_max_s=self._config.replica_lag_time_max_s,
        )  # fmt: skip
        opened.begin()
        self._groups[group] = self._changed[group] = opened
        if fresh and preferred:
            opened.member.campaign_soon()
        self.touch(opened)
        return opened

    def _member(self, journal: GroupJournal, replica: int) -> Sleeper:
        def apply(start: int, stop: int) -> None:
            self._groups[journal.group].apply(start, stop)

        return Sleeper(
            member_id(self._node_id, replica),
            journal,
            linked=self._links,
            ambience=self._ambience,
            times=self._patience,
            windows=self._windows,
            apply=apply,
            guards=self._config.guards,
            feed=self.quiescence,
            elections=self._elections,
        )

    def close(self, group: int) -> None:
        """See ``port.Consensus``."""
        closed = self._groups.pop(group, None)
        self.quiescence.gone(group)
        self._elections.done(group)
        if closed is not None:
            self._set_aside(closed)
            closed.stop(ShuttingDownError(f"group {group} is closing"))

    def _set_aside(self, group: Group) -> None:
        """Nothing more of what this group has in memory is written; rows go with the progress that they belong to."""
        self._touched.pop(group.group, None)
        self._changed.pop(group.group, None)
        self._flying = [flying for flying in self._flying if flying is not group]
        for key in [key for key in self.lazy_rows if key[0] == group.group]:
            del self.lazy_rows[key]

    def give_up(self, group: int) -> None:
        """See ``port.Consensus``."""
        self._groups[group].give_up()
        self._wake()

    def drop(self, group: int) -> None:
        """See ``port.Consensus``."""
        self.close(group)
        self.batch.forget(group)
        self.batch.drop.add(group)
        self._drops.add(group)
        self._tail.forget(group)
        self._leaderships.forget(group)
        self._wake()

    def leader_of(self, group: int) -> tuple[int | None, int]:
        """See ``port.Consensus``."""
        return self._leaderships.leader_of(group, self._groups.get(group))

    def _is_open(self, group: Group) -> bool:
        """A group that was dropped may be open again, as another."""
        return self._groups.get(group.group) is group

    def groups(self) -> dict[int, Group]:
        """The open groups by id."""
        return self._groups

    # ---- snapshots (see snapshot_pull.Host)

    def synced(self) -> asyncio.Future[None]:
        """Done when what is gathered now is durable."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._syncing.append(future)
        self._wake()
        return future

    def install(self, group: Group, image: Image) -> bool:
        """Let a snapshot, whose rows are staged, take the place of a group's log and state; False where it brings nothing."""
        if not self._is_open(group) or group.excluded or group.suspended or not image.helps(group.journal):
            return False
        group.suspended = True
        self._set_aside(group)
        self.batch.forget(group.group)
        self._tail.forget(group.group)
        image.put(self.batch, group.journal)
        self._wake()
        return True

    def _installed(self, group: Group) -> None:
        """Rule 5: the snapshot is durable."""
        journal = GroupJournal(group.group, self._store, self._tail, self, replica=replica_of(group.member.id), founders=())
        group.begin_again(self._member(journal, journal.replica))
        group.machine.progressed()
        self._changed[group.group] = group

    # ---- what the links bring (see peers.port.PeerHandler)

    def on_connected(self, node_id: int) -> None:
        """A link is up."""
        self._inbox.link(node_id, up=True)
        self._wake()

    def on_disconnected(self, node_id: int) -> None:
        """A link is down."""
        self._inbox.link(node_id, up=False)
        self._wake()

    def on_turn(self, node_id: int, turn: pb.Turn, payloads: list[bytes]) -> None:
        """A peer's turn has arrived."""
        if self._in_flight is not None and not self._closed:
            if self.acks.take(node_id, turn):
                return
            self.standstill.hear(turn)
        self._inbox.turn(node_id, turn, payloads)
        self._wake()

    # ---- group.Shell

    def touch(self, group: Group) -> None:
        """Let the next turn tick this group."""
        self._touched[group.group] = group
        if self._in_flight is not None:
            self.early.look(self.batch.size_bytes, self._touched.values())
        self._wake()

    def waiting_bytes(self) -> int:
        """Bytes in batches that are not durable yet."""
        return self.batch.size_bytes + (self._in_flight.size_bytes if self._in_flight else 0)

    def damage(self, group: Group, error: DataLossError) -> None:
        """See ``group.Shell``: whoever sleeps on this replica's word is told."""
        if self._is_open(group) and not group.suspended:
            note(group, error, self.batch, self.features.level)
            self.quiescence.gone(group.group)
            self.touch(group)

    def _exclude(self, group: Group, error: DataLossError) -> None:
        """The group's other replicas go on without this one, which neither leads nor follows."""
        if not group.excluded:
            group.exclude(error)
            self.damage(group, error)

    # ---- turns

    def _wake(self) -> None:
        if self._scheduled is None and self._in_flight is None and not self._closed:
            self._scheduled = asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        if self._closed or self._in_flight is not None:
            return
        self._patience.begin(self._clock.monotonic_s())
        try:
            self._deliver()
            self._tick()
            _crash_before_send()
            self._send()
            _crash_after_send()
            self._commit()
        except Exception as error:
            self._give_up(error)
            return
        if self._in_flight is None:
            self._patience.end(self._clock.monotonic_s())
        self._arm()

    def _give_up(self, error: Exception) -> None:
        self._closed = True
        self._fail(error)

    def _deliver(self) -> None:
        for node_id, item, payloads in self._inbox.take(lambda: self.batch.size_bytes):
            if isinstance(item, bool):
                self._link_changed(node_id, up=item)
            elif isinstance(item, pb.RaftMessage):
                self._receive(node_id, item, payloads, item.append_entries.entry_count)
            else:
                self._leaderships.hear(item)
                self.quiescence.on_turn(node_id, item)

    def _receive(self, node_id: int, wire: pb.RaftMessage, payloads: list[bytes], count: int) -> None:
        group = self._groups.get(wire.group)
        if wire.append_entries.sleep_epoch:
            self.quiescence.received(node_id, wire)
        if group is None or node_of(wire.sender) != node_id or not group.takes(wire.recipient):
            return
        try:
            if len(payloads) != count:
                raise MalformedMessageError(f"{count} entries announced, {len(payloads)} came")
            message = from_wire(wire, payloads)
        except MalformedMessageError as error:
            log.warning("dropped a malformed message", peer=node_id, group=wire.group, error=str(error))
            return
        if payloads and self._store.recent_usage().takes_no_copies:
            return  # as if it were lost: the leader sends it again, and counts on the others meanwhile
        self._guarded(group, lambda: self._member_receives(group, wire.sender, message))

    def _member_receives(self, group: Group, sender: int, message: Message) -> None:
        if self.quiescence.sleeps_through(group, message):
            return
        settled = group.journal.last_index
        group.member.receive(sender, message)
        group.show_changes(settled)
        if group.member.offered_by is not None:
            leader, group.member.offered_by = group.member.offered_by, None
            self.on_offer(group, leader)
        if not (isinstance(message, Ack) and group.settled):
            self._touched[group.group] = group

    def _link_changed(self, node_id: int, *, up: bool) -> None:
        if up:
            self._links[node_id] = self._clock.monotonic_s()
            self._leaderships.announce_all(self._groups.values())
        else:
            self._links.pop(node_id, None)
            self._leaderships.lost(node_id)
            self.quiescence.link_lost(node_id)
        for group in self._groups.values():
            for other in () if group.member.asleep else group.member.on_node(node_id):  # a sleeper sees when it wakes
                (group.member.connected if up else group.member.disconnected)(other)
                self._touched[group.group] = group

    def _tick(self) -> None:
        now = self._clock.monotonic_s()
        for group in self._alarm.take_due(now):
            self._touched[group.group] = group
        self.quiescence.look()
        for group_id in self._elections.next(now):
            self._groups[group_id].member.seek_election()
            self._touched[group_id] = self._groups[group_id]
        ticked, self._touched = self._touched, {}
        for group in ticked.values():
            if self._is_open(group) and not group.suspended and not group.waits_for_disk:
                self._tick_group(group)
        self._ticked = [group for group in ticked.values() if not group.suspended]
        for group in self._ticked:
            self._changed[group.group] = group

    def _tick_group(self, group: Group) -> None:
        if group.excluded:
            return
        self.quiescence.rouse(group)
        settled = group.journal.last_index
        self._guarded(group, group.member.tick)
        if group.excluded:
            return
        group.show_changes(settled)
        if group.role is Role.LEADER and self._leaderships.term(group.group) < group.term:
            self._leaderships.announce(group.group, group.term)
        if group.journal.trim_step():
            self._touched[group.group] = group
        group.hand_over()
        group.settle_barriers()
        group.machine.progressed()
        self._elections.look(group.group, group.member.has_leader)
        self.quiescence.ticked(group, idle=group.group not in self._touched)

    def _guarded(self, group: Group, act: Callable[[], None]) -> None:
        """Damage takes one replica out of service, not the node."""
        try:
            act()
        except DataLossError as error:
            self._exclude(group, error)
        except ConsensusFailedError as error:
            log.critical("consensus broken", group=group.group, error=str(error))
            raise

    # ---- sending

    def _send(self) -> None:
        at_once = Mail()
        for group in self._ticked:
            self._post(group, at_once)
        announced = self._leaderships.take_announced()
        for node_id in self._links if announced else ():
            at_once.announce(node_id, announced)
        self.quiescence.post(at_once)
        self._leaderships.told(announced, everybody=at_once.flush(self._peers))

    def _post(self, group: Group, at_once: Mail) -> None:
        outbox, group.member.outbox = group.member.outbox, []
        if group.excluded:
            return  # above all it must not tell its followers to sleep
        for recipient, message in outbox:
            if isinstance(message, Append):
                self.quiescence.leaves(group, node_of(recipient), message)
            held = group.journal.hard_dirty or isinstance(message, AFTER_COMMIT)
            (self._held if held else at_once).post(group.group, group.member.id, recipient, message)

    def _send_entries(self, group: Group, mail: Mail) -> None:
        if not group.excluded:
            self._guarded(group, group.member.send_entries)
            self._post(group, mail)

    # ---- committing

    def _commit(self) -> None:
        if not self.batch and not self._lazy_is_due():
            self._held.flush(self._peers)
            return
        self._lazy_due_s = NEVER_S
        self.batch.rows.update(self.lazy_rows)
        self.lazy_rows.clear()
        self._flying, self._changed = [group for group in self._changed.values() if self._is_open(group)], {}
        for group in self._flying:
            row = group.take_progress()
            if row is not None:
                self.batch.rows[row[0]] = row[1]
            group.journal.taken()
            group.journal.hard_dirty = False
        if not self.batch:
            self._held.flush(self._peers)
            return
        self._in_flight, self.batch = self.batch, WriteBatch()
        self.early.commit_begins()
        self.standstill.commit_begins()
        self._syncing_flies, self._syncing = self._syncing, []
        self._store.commit(self._in_flight, self._committed)

    def _lazy_is_due(self) -> bool:
        """Rule 3: start the clock when there is something lazy, and say when it has run."""
        now = self._clock.monotonic_s()
        if self._lazy_due_s == NEVER_S and (self.lazy_rows or any(group.journal.progress_dirty for group in self._ticked)):
            self._lazy_due_s = now + LAZY_FLUSH_S
        return now >= self._lazy_due_s

    def _committed(self) -> None:
        batch, self._in_flight = self._in_flight, None
        self.standstill.commit_ends()
        assert batch is not None
        if self._closed:
            return
        _crash_before_release()
        self._patience.end(self._clock.monotonic_s())
        for group in self._flying:
            group.journal.durable()
            group.rows.durable(batch.rows)
            if not self._is_open(group):
                continue
            if group.settled or group.member.asleep:
                group.machine.progressed()  # who asked for no more than this node's disk
            else:
                self._touched[group.group] = group
        self._drops.durable(batch.drop - self.batch.drop)
        for number in batch.install:
            installed = self._groups.get(number)
            if installed is not None and installed.suspended:
                self._guarded(installed, partial(self._installed, installed))
                self._touched[number] = installed
        for future in self._syncing_flies:
            if not future.done():
                future.set_result(None)
        self._held.flush(self._peers)
        self._turn()

    # ---- timers

    def _arm(self) -> None:
        for group in self._ticked:
            if self._is_open(group) and not group.excluded:
                self._alarm.tick_at(group, group.member.due_s())
        if self._touched or self._inbox:
            self._wake()
        self._alarm.set()

    def _others_s(self) -> float:
        return min(self._lazy_due_s, self.quiescence.due_s(), self._elections.due_s())

    def stop(self) -> None:
        """End all groups; what is being committed is still written."""
        self._closed = True
        self._alarm.stop()
        self.standstill.stop()
        for handle in (self._scheduled, *self._syncing, *self._syncing_flies):
            if handle is not None:
                handle.cancel()
        for group in list(self._groups):
            self.close(group)
