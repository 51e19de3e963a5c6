"""One simulation: machines, network, clients and faults on one virtual loop; one seed is one history.

Theory of operation. A run boots a cluster, lets clients work while faults come and go, heals everything, waits until the
replicas agree, reads all logs to their ends, and has the history judged. The first thing that must not happen ends it.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any
from unittest.mock import patch

from raftlog.broker import trim
from raftlog.broker.config import BrokerConfig
from raftlog.consensus.config import ConsensusConfig
from raftlog.consensus.door import RaftTimes
from raftlog.consensus.group import Group
from raftlog.consensus.guard import Guards
from raftlog.consensus.snapshot import STAGED
from raftlog.consensus.turns import Turns
from raftlog.core.configuration import UNKNOWN, Configuration, node_of
from raftlog.core.features import THIS_VERSION, Level, Supported
from raftlog.errors import (
    BootstrapRefusedError,
    DataDirectoryError,
    InvalidReplicationFactorError,
    InvalidTimestampError,
    NodeIdTakenError,
    RaftlogError,
    StaleDataDirectoryError,
    StorageFailedError,
    UnknownTopicOrPartitionError,
)
from raftlog.model import Role, TopicPartition
from raftlog.storage.port import WriteBatch
from tests.history.events import Event
from tests.simulation.clients import Client
from tests.simulation.homes import Homes
from tests.simulation.invariants import Invariants
from tests.simulation.loop import Deadlock, Handle, Process, SerialTask, VirtualLoop
from tests.simulation.mover import Mover
from tests.simulation.network import Network
from tests.simulation.node import REBASE_S, Machine
from tests.simulation.quiet import heard
from tests.simulation.recorder import Recorder

MOVER_MODES = ("safety", "groups")
MOVED_BY_HAND = Supported(Level.FIRST, Level.MEMBERSHIP)
"""Where groups change behind the metadata's back, and disks are damaged for good, the metadata must not renew what is damaged."""
CONVERGE_S = 40.0
"""Healed replicas agree within this, or never: bootstraps, reconnects and elections take a few seconds."""
STOP_CLIENTS_S = 30.0
SEED_S_MIN = 20.0
OPERATIONS_MIN = 500
FAULTS_MIN = 10
"""What a seed covers at least: work goes on until it has, and a seed that has not fails. (Liveness has one fault, that stays.)"""

LAG_MAX_S = 4.0
"""Trims do not wait for a replica that has been away for so long: it needs a snapshot."""
SEND_EARLY_BYTES = 300
"""Of a world whose records are small: two or three of them leave while the commit before them is under way."""
WINDOW_BYTES = 2_000
"""As small, so that what is under way to a node that refuses or drops it closes the window."""
ENTRIES_KEPT = 40
"""Logs of groups whose state is in rows are cut when they are longer."""
TIMES = (RaftTimes(), RaftTimes(heartbeat_s=0.15), RaftTimes(heartbeat_s=0.2, election_min_s=0.7, election_max_s=1.4))
"""As shipped, and two that let other things coincide."""
SIZES = {"moves": (*(4,) * 7, 5)}
"""Numbers of nodes to draw from, by mode: there must be somewhere to go."""
MOVER_SHARE = {"safety": 0.6, "groups": 0.4}
"""Of the seeds of a mode: those in which replicas come and go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run came to. ``violations`` is empty where all is well."""

    seed: int
    mode: str
    violations: tuple[str, ...]
    coverage: Counter[str]
    trace: tuple[str, ...]
    events: tuple[Event, ...]
    operations: int
    simulated_s: float
    cpu_s: float


class World:
    """See the module. A scenario is an async function of the world."""

    guards = Guards()
    sizes: tuple[int, ...] = (*(3,) * 15, 5)
    """Numbers of nodes to draw from: one of five takes as long as three of three."""

    def __init__(self, seed: int, *, mode: str, tracing: bool = False) -> None:
        self.seed, self.mode, self.tracing = seed, mode, tracing
        self.rng = Random(f"{mode} {seed}")
        self.door_rng, self.watch_rng = Random(self.rng.random()), Random(self.rng.random())
        self.loop = VirtualLoop(Random(self.rng.random()))
        self.network = self.loop.network = Network(self.loop, Random(self.rng.random()))
        self.history = Recorder(self.loop, self.note if tracing else None)
        self.coverage: Counter[str] = Counter()
        self.violations: list[str] = []
        self.trace: list[str] = []
        self.consensus_config = ConsensusConfig(
            times=self.rng.choice(TIMES), guards=self.guards, replica_lag_time_max_s=LAG_MAX_S,
            send_early_bytes=SEND_EARLY_BYTES, window_bytes=WINDOW_BYTES,
        )  # fmt: skip
        self.broker_config = BrokerConfig(retention_check_interval_ms=1_500)
        self.invariants = Invariants(self)
        self.homes = Homes(self)
        self.mover = Mover(self, share=MOVER_SHARE.get(mode, 0.0))
        count = self.rng.choice(SIZES.get(mode, self.sizes))
        self.supported = MOVED_BY_HAND if mode in MOVER_MODES else THIS_VERSION
        self.machines: dict[int, Machine] = {}
        for node_id in range(1, count + 1):
            self.machines[node_id] = Machine(self, node_id)
        self.clients: list[Client] = []
        self.partitions: list[TopicPartition] = []
        self.deaf: set[tuple[str, int]] = set()
        """(client, node) pairs where no answer arrives."""
        self.producer_ids: set[int] = set()
        self.enough = False
        """Clients end what they do."""
        self.damage_done = False
        self._turns: list[Turns] = []
        self._graves: list[SerialTask] = []
        self._later: dict[Handle, None] = {}
        self._broken: asyncio.Future[None] | None = None

    # ---- running

    def run(self, scenario: Callable[[World], Coroutine[Any, Any, None]]) -> Outcome:
        """Run a scenario to its end, or to the first violation, and bury everything."""
        collecting = gc.isenabled()
        gc.disable()  # a collection would run clean-ups of dead processes at moments of its own choice
        asyncio.set_event_loop(self.loop)
        self.loop.set_exception_handler(self._unhandled)
        begun_s, cpu_begun_s, threads = self.loop.now_s, time.process_time(), threading.active_count()
        try:
            with heard(self), patch.object(trim, "ENTRIES_KEPT", ENTRIES_KEPT):
                try:
                    self.loop.run_until_complete(self._guarded(scenario))
                except Deadlock as error:
                    self.violations.append(f"deadlock: {error}")
                simulated_s = self.loop.now_s - begun_s
                if threading.active_count() > threads:
                    self.violations.append(f"threads were started: {threading.enumerate()}")
                self._bury_all()
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()
            if collecting:
                gc.enable()
        self.coverage["slept"] = sum(each.quiescence.slept for each in self._turns)
        self.coverage["woken"] = sum(each.quiescence.woken for each in self._turns)
        self.coverage["counted early"] = sum(each.acks.counted for each in self._turns)
        self.coverage["sent early"] = sum(each.early.sent for each in self._turns)
        return Outcome(
            seed=self.seed, mode=self.mode, violations=tuple(self.violations), coverage=self.coverage,
            trace=tuple(self.trace), events=tuple(self.history.events),
            operations=self.history.operations, simulated_s=simulated_s, cpu_s=time.process_time() - cpu_begun_s,
        )  # fmt: skip

    async def _guarded(self, scenario: Callable[[World], Coroutine[Any, Any, None]]) -> None:
        self._broken = self.loop.create_future()
        work = self.loop.create_task(self._long_enough(scenario))
        await asyncio.wait((work, self._broken), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()

    async def _long_enough(self, scenario: Callable[[World], Coroutine[Any, Any, None]]) -> None:
        end_s = self.loop.now_s + SEED_S_MIN
        await scenario(self)
        await asyncio.sleep(max(0.0, end_s - self.loop.now_s))

    def _bury_all(self) -> None:
        for machine in self.machines.values():
            machine.kill()
        for task in asyncio.all_tasks(self.loop):
            self._graves.append(task)  # type: ignore[arg-type]
        self._graves.sort(key=hash)
        for task in self._graves:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            _close(task.get_coro())

    def _unhandled(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.violated(f"unhandled: {context.get('message')}: {context.get('exception')!r}")

    def bury(self, process: Process) -> None:
        """A process is dead: nothing of it may run again, not even when memory is collected."""
        self._graves += [task for task in asyncio.all_tasks(self.loop) if getattr(task, "process", None) is process]  # type: ignore[misc]

    # ---- what everybody tells

    def note(self, text: str) -> None:
        """A line of the trace."""
        if self.tracing:
            self.trace.append(f"{self.loop.now_s - 1_000:10.6f} {text}")

    def covered(self, what: str) -> None:
        """Something happened that a run of many seeds must have seen."""
        self.coverage[what] += 1

    def violated(self, text: str) -> None:
        """Something happened that must not happen; the run ends."""
        self.note(f"VIOLATION: {text}")
        self.violations.append(f"at {self.loop.now_s - 1_000:.3f} s: {text}")
        if self._broken is not None and not self._broken.done():
            self._broken.set_result(None)

    def wall_ms(self) -> int:
        """The true time."""
        return int((REBASE_S + self.loop.now_s) * 1_000)

    def watch(self, machine: Machine, turns: Turns) -> None:
        """A process has come to its consensus."""
        self.covered("starts")
        identity = machine.disk.contents.identity
        self.note(f"node {machine.id} starts, boot {0 if identity is None else identity.boot_number}")
        self._turns.append(turns)
        self.mover.watch(machine, turns)
        self.invariants.watch(machine, turns)
        self.homes.watch(machine, turns)

    def on_commit(self, machine: Machine, batch: WriteBatch) -> None:
        """A node is about to write."""
        self.mover.commits(machine, batch)
        if batch.truncate.keys() - batch.install.keys():
            self.covered("truncations")
            self.note(f"node {machine.id} truncates {batch.truncate}")
        if batch.trim:
            self.covered("trims")
            self.note(f"node {machine.id} trims {batch.trim}")
        for group in sorted(batch.drop):
            if any(group == at[0] for at in machine.disk.damaged):
                self.covered("damaged replicas given up")
            if group >= STAGED:
                self.covered("snapshots given up")
            elif machine.begins_anew(group):
                self.covered("replicas begun anew")
            elif machine.knows(group):
                self.covered("replicas removed")
                self.note(f"node {machine.id} deletes its replica of group {group}")
                self.invariants.removes(machine, group)
            else:
                self.covered("groups dropped")
                self.invariants.dropped.add(group)

    def on_failure(self, machine: Machine, error: BaseException) -> None:
        """A node cannot go on."""
        self.note(f"node {machine.id} fails: {error!r}")
        refused = isinstance(error, DataDirectoryError | BootstrapRefusedError)
        if refused and machine.gone:
            self.covered("disks refused")
        elif isinstance(error, StaleDataDirectoryError) and machine.disk.lost:
            self.covered("old disks recognised")
        elif isinstance(error, NodeIdTakenError):
            self.covered("ids taken")
        elif isinstance(error, StorageFailedError):
            self.covered("fatal fsyncs")
        elif not (machine.gone and self.damage_done):
            self.violated(f"node {machine.id} fails: {error!r}")

    def on_exit(self, machine: Machine, failure: BaseException | None) -> None:
        """A process has ended by itself."""
        self.note(f"node {machine.id} ends, failure {failure!r}")
        if failure is None:
            self.covered("clean stops")
        passing = failure is None or isinstance(failure, StorageFailedError | StaleDataDirectoryError | NodeIdTakenError)
        if passing and not machine.gone:
            self.later(0.5, self.start, machine)

    def published(self, tp: TopicPartition, base_offset: int, begun_s: float, *, again: bool) -> None:
        """A producer got its acknowledgement."""
        if again and base_offset >= 0:
            group = self.group_of(tp)
            committed_s = self.invariants.batch_committed_s.get((group, base_offset))
            if committed_s is not None and committed_s < begun_s:
                self.covered("duplicates absorbed")

    def expects(self, error: RaftlogError) -> bool:
        """Whether an error that is never right otherwise has an excuse."""
        match error:
            case InvalidTimestampError():
                return any(abs(machine.clock.skew_s) > 500 for machine in self.machines.values())
            case InvalidReplicationFactorError():
                return "drained" in str(error)  # two operators may drain a node each, of four
        return False

    # ---- time and machines

    def later(self, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        """Do something when that much true time has passed, unless all is healed before."""
        timer = self.loop.schedule(self.loop.now_s + seconds, callback, *args)
        self._later[timer] = None

    def start(self, machine: Machine) -> None:
        """Start a node, unless it runs, or has lost its disk for good: it may have been stopped, to be started later, before."""
        if machine.run is None and not (machine.gone and machine.disk.is_empty):
            machine.start()

    def leader_of(self, number: int) -> Machine | None:
        """The serving leader of the highest term."""
        leading = [machine for machine in self.machines.values() if number in machine.groups and machine.groups[number].ready]
        return max(leading, key=lambda machine: machine.groups[number].term, default=None)

    def group_of(self, tp: TopicPartition) -> int:
        """A partition's group, as far as any node knows; −1 where none does."""
        for machine in self.machines.values():
            if machine.run is not None and machine.run.broker is not None:
                with suppress(UnknownTopicOrPartitionError):
                    partitions = machine.run.broker.topic(tp.topic).partitions
                    if tp.partition < len(partitions):
                        return partitions[tp.partition].group_id
        return -1

    def sealed(self) -> bool:
        """Whether the cluster has begun for good, everywhere."""
        identities = [machine.disk.contents.identity for machine in self.machines.values() if not machine.gone]
        return all(identity is not None and identity.sealed for identity in identities)

    def healthy(self) -> list[Machine]:
        """The machines that are to serve when all is healed."""
        return [machine for machine in self.machines.values() if not machine.gone]

    async def until(self, holds: Callable[[], bool], what: str, seconds: float = CONVERGE_S) -> bool:
        """Wait for a condition; it is a violation if it does not come."""
        end_s = self.loop.now_s + seconds
        while not holds():
            if self.loop.now_s > end_s:
                self.violated(f"not within {seconds:g} s: {what}; {self.state()}")
                return False
            await asyncio.sleep(0.05)
            self.invariants.look_around()
        return True

    def heal(self) -> None:
        """End all faults; what is lost for good is taken away, everything else runs."""
        for timer in self._later:
            timer.cancel()
        self._later.clear()
        self.deaf.clear()
        self.network.open_all()
        for machine in self.machines.values():
            machine.disk.repair()
            machine.clock.skew_s = 0.0
            if machine.run is not None:
                self.loop.resume(machine.run.process)
            if machine.gone:
                machine.kill()
            else:
                self.start(machine)
        self.note("healed")

    def converged(self) -> bool:
        """All healthy replicas of all groups are at the same place, and somebody leads."""
        healthy = self.healthy()
        if any(machine.run is None or machine.run.broker is None for machine in healthy):
            return False
        numbers = {number for machine in healthy for number in machine.groups}
        return all(self._agrees(number) for number in numbers)

    def state(self) -> str:
        """Where everybody stands, for a person to read."""
        lines = []
        for machine in self.machines.values():
            up = "gone" if machine.gone else "down" if machine.run is None else "up" if machine.run.broker else "starting"
            places = (
                f"{number}:{'L' * (group.role is Role.LEADER)}t{group.term} c{group.commit_index}/{group.last_index}"
                for number, group in sorted(machine.groups.items())
            )
            lines.append(f"node {machine.id} {up} {' '.join(places)}")
        return "; ".join(lines)

    def configuration(self, number: int) -> Configuration:
        """Who is in a group: by the leader's log, or where nobody leads, by the newest log on a machine that can come back."""
        authority = self._authority(number)
        return UNKNOWN if authority is None else authority.configuration

    def settled(self, number: int) -> bool:
        """Whether that is committed, as far as that replica knows. Else it may be taken back, and who was in it before counts."""
        authority = self._authority(number)
        return authority is not None and authority.configuration_committed

    def _authority(self, number: int) -> Group | None:
        leader = self.leader_of(number)
        if leader is not None:
            return leader.groups[number]
        known = [machine.groups[number] for machine in self.healthy() if number in machine.groups]
        return max(known, key=lambda group: (group.journal.last.term, group.last_index), default=None)

    def can_be_led(self, number: int) -> bool:
        """Whether a majority of the voters can come back. Three of five nodes may hold a group, and the two that are gone be its
        majority."""
        voters, healthy = self.configuration(number).voters, {machine.id for machine in self.healthy()}
        return sum(node_of(voter) in healthy for voter in voters) * 2 > len(voters)

    def replicas(self, number: int) -> list[Group]:
        """A group's open replicas on healthy machines, as far as they are its members."""
        members = self.configuration(number).members
        there = [machine.groups[number] for machine in self.healthy() if number in machine.groups]
        return [group for group in there if group.member.id in members]

    def _agrees(self, number: int) -> bool:
        if not self.can_be_led(number):
            return True
        there, healthy = self.replicas(number), {machine.id for machine in self.healthy()}
        expected = sum(1 for member in self.configuration(number).members if node_of(member) in healthy)
        if len(there) != expected or not any(group.role is Role.LEADER and group.ready for group in there):
            return False
        places = {(group.last_index, group.commit_index, group.applied_index, group.journal.last.term) for group in there}
        return len(places) == 1 and there[0].last_index == there[0].applied_index


def _close(coro: Any) -> None:
    for _ in range(8):
        try:
            coro.close()
        except BaseException:
            continue  # it died long ago; how its clean-up fares is of no interest
        return
