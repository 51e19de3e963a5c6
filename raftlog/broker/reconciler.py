"""Carries out what the metadata wants: runs where group 0 leads, asks the groups' leaders how they are, tells them what to do.

Theory of operation. A round asks every node that leads an unsettled group for reports, all groups of a node in one call; has the
plan made (``raftlog.core.reconcile``); and sends its steps. What it keeps is what it can do without: which groups it has seen
settled, so that it need not ask again, and rates for whoever watches. A new leader of group 0 begins by asking about all that
ever moved.

Rules:

1. Nothing is assumed of a step that was sent: the next round sees what came of it.
2. Which replicas are wanted is decided by commands of the metadata, never here.
3. A replica is forgotten, and its data thereby deleted, when its group's leader has confirmed, under the placement as it is
   now, that it is no member; ``RemoveReplicas`` carries that placement's index, and is passed over under another.
4. A step carries the term of group 0 in which it was decided, however long its round took: groups refuse what was decided
   before what they have heard of since (``group_changes``).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from raftlog.broker.config import BrokerConfig
from raftlog.broker.group_changes import GroupChanges
from raftlog.broker.metadata_calls import MetadataCalls
from raftlog.broker.metadata_machine import MetadataMachine
from raftlog.broker.move_codec import KINDS, member, report_of
from raftlog.broker.routing import Router
from raftlog.core.clock import Clock
from raftlog.core.metadata_values import PartitionMeta
from raftlog.core.progress import Rates
from raftlog.core.reconcile import GroupReport, Limits, Plan, Step, StepKind, plan
from raftlog.errors import RaftlogError
from raftlog.pb.raftlog.internal.v1 import metadata_pb2
from raftlog.pb.raftlog.internal.v1 import moves_pb2 as pb
from raftlog.peers.port import Peers

_log = logging.getLogger(__name__)

LOOK_S = 0.25
"""How often a node looks whether it leads group 0, and an idle reconciler whether there is something to do."""
PAUSE_S = 0.5
"""Between rounds while groups are on the move."""
STEPPED_PAUSE_S = 0.05
"""After a round that took steps: they are mostly done by then."""
STEPS_AT_ONCE_MAX = 16
"""Steps under way at a time: each is one call of another node."""
GROUPS_PER_CALL_MAX = 100
"""Groups that one call asks about: some 8 ms of their leader's loop."""
ASKED_AT_ONCE_MAX = 4
"""Calls under way at a time: of thousands of groups the reports must not take the loops from everything else."""


@dataclass(slots=True)
class View:
    """What the last round saw: for ``moves``."""

    reports: dict[int, GroupReport] = field(default_factory=dict)
    plan: Plan = field(default_factory=lambda: Plan(steps=(), waits={}, settled=frozenset()))
    rates: Rates = field(default_factory=Rates)
    failures: dict[int, str] = field(default_factory=dict)
    """By group: why its last step was refused."""


class Reconciler:
    """See the module.

    Args:
        node_id: this node.
        machine: group 0's state machine here.
        metadata: proposes commands.
        router: who leads what.
        changes: this node's own groups.
        peers: the others'.
        up: whether a node can be reached.
        clock: for rates.
        config: limits.
    """

    def __init__(
        self, node_id: int, *, machine: MetadataMachine, metadata: MetadataCalls, router: Router, changes: GroupChanges,
        peers: Peers, up: Callable[[int], bool], clock: Clock, config: BrokerConfig,
    ) -> None:  # fmt: skip
        self._node_id = node_id
        self._machine = machine
        self._metadata = metadata
        self._router = router
        self._changes = changes
        self._peers = peers
        self._up = up
        self._clock = clock
        self._config = config
        self._limits = Limits(
            catching_up_max=config.moves_catching_up_max, catching_up_per_node_max=config.moves_catching_up_per_node_max
        )
        self._settled: dict[int, int] = {}
        """Group → the placement under which it was seen to be as wanted."""
        self._rested_at: int | None = None
        """The metadata's applied index at which nothing was unsettled."""
        self.view = View()
        self.steps = Counter[StepKind]()
        """Steps that groups took, since the start."""

    async def run(self) -> None:
        """Reconcile whenever this node leads group 0, for ever."""
        term = -1
        while True:
            log = self._machine.log
            if not log.ready:
                await asyncio.sleep(LOOK_S)
                continue
            if log.term != term:
                term = log.term
                self._settled.clear()
                self._rested_at = None
                self.view = View()
            try:
                pause_s = await self.round()
            except Exception:
                # Whatever another node answered: a round that cannot be had must not be the last one.
                _log.exception("a round of the reconciler failed")
                pause_s = PAUSE_S
            await asyncio.sleep(pause_s)

    async def round(self) -> float:
        """One round; how long to pause after it."""
        term = self._machine.log.term  # that in which this is decided: by the end of the round another node may lead
        unsettled = self.unsettled()
        if not unsettled:
            self.view = View()
            return LOOK_S
        reports = await self.reports(unsettled)
        if not self._machine.log.ready or self._machine.log.term != term:
            return LOOK_S
        asked = {one.group_id for one in unsettled}
        unsettled = [one for one in self.unsettled() if one.group_id in asked]  # a disk may be known to be lost since
        up = {node for node in self._machine.state.nodes if self._up(node)}
        made = plan(unsettled, reports, up=up, limits=self._limits)
        self._settled.update((one.group_id, one.placed_index) for one in unsettled if one.group_id in made.settled)
        view, self.view = self.view, View(reports=reports, plan=made, rates=self.view.rates)
        self.view.rates.look(self._clock.monotonic_s(), reports)
        self.view.failures = {group: why for group, why in view.failures.items() if group not in made.settled}
        if not made.steps:
            return PAUSE_S
        took = await self._take(made.steps, reports, {one.group_id: one for one in unsettled}, term)
        return STEPPED_PAUSE_S if took else PAUSE_S

    def unsettled(self) -> list[PartitionMeta]:
        """The partitions that may not be as wanted. One that was never placed anew is as it was created."""
        if self._rested_at == self._machine.applied_index:
            return []  # nothing was unsettled, and nothing has been applied since
        found = [
            partition
            for topic in self._machine.state.topics.values()
            for partition in topic.partitions
            if partition.leaving
            or partition.lost
            or (
                partition.placed_index != partition.created_index
                and self._settled.get(partition.group_id) != partition.placed_index
            )
        ]
        self._rested_at = None if found else self._machine.applied_index
        return sorted(found, key=lambda one: (one.placed_index, one.group_id))

    def leader_of(self, partition: PartitionMeta) -> int | None:
        """Node id of a partition's leader, as far as known."""
        return self._router.leader(partition.group_id)[0]

    async def reports(self, partitions: Iterable[PartitionMeta]) -> dict[int, GroupReport]:
        """What the leaders say of their groups; those that have none, or do not answer, are missing."""
        by_node: defaultdict[int, list[int]] = defaultdict(list)
        for partition in partitions:
            leader = self.leader_of(partition)
            if leader is not None:
                by_node[leader].append(partition.group_id)
        parts = [
            (node, groups[at : at + GROUPS_PER_CALL_MAX])
            for node, groups in by_node.items()
            for at in range(0, len(groups), GROUPS_PER_CALL_MAX)
        ]
        gate = asyncio.Semaphore(ASKED_AT_ONCE_MAX)

        async def ask(node: int, groups: Sequence[int]) -> list[GroupReport]:
            async with gate:
                await asyncio.sleep(0)
                return await self._ask(node, groups)

        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(ask(node, groups)) for node, groups in parts]
        return {report.group: report for task in asked for report in task.result()}

    async def _ask(self, node: int, groups: Sequence[int]) -> list[GroupReport]:
        call = pb.ReportGroupsCall(groups=groups)
        try:
            answer = self._changes.report(call) if node == self._node_id else await self._report_there(node, call)
        except RaftlogError as error:
            _log.debug("node %d does not report its groups: %s", node, error)
            return []
        return [report_of(message) for message in answer.reports]

    async def _report_there(self, node: int, call: pb.ReportGroupsCall) -> pb.ReportGroupsAnswer:
        body = call.SerializeToString()
        answer, _ = await self._peers.call(node, "report_groups", body, timeout_s=self._config.call_timeout_s)
        return pb.ReportGroupsAnswer.FromString(answer)

    async def _take(
        self, steps: Sequence[Step], reports: Mapping[int, GroupReport], partitions: Mapping[int, PartitionMeta], term: int
    ) -> int:
        """Take the steps, a few at a time; how many were taken."""
        gate = asyncio.Semaphore(STEPS_AT_ONCE_MAX)

        async def take(step: Step) -> bool:
            async with gate:
                return await self.take(step, reports[step.group], term)

        async with asyncio.TaskGroup() as tasks:
            taken = [(step, tasks.create_task(take(step))) for step in steps]
        done = [step for step, task in taken if task.result()]
        gone = [step for step in done if step.kind is StepKind.FORGET]
        if gone:
            await self._forget(gone, partitions)
        return len(done)

    async def take(self, step: Step, report: GroupReport, term: int) -> bool:
        """Have a group's leader take a step, which was decided in ``term`` of group 0; whether it says that it did."""
        call = pb.ChangeGroupCall(
            group=step.group, kind=KINDS[step.kind], member=member(step.replica), term=step.term,
            voters=map(member, report.voters), learners=map(member, report.learners),
            controller_term=term,
        )  # fmt: skip
        node = step.leader[0]
        try:
            if node == self._node_id:
                await self._changes.change(call)
            else:
                body = call.SerializeToString()
                await self._peers.call(node, "change_group", body, timeout_s=self._config.call_timeout_s)
        except RaftlogError as error:
            _log.debug("group %d: %s of %s: %s", step.group, step.kind.value, step.replica, error)
            self.view.failures[step.group] = str(error)
            return False
        self.view.failures.pop(step.group, None)
        self.steps[step.kind] += 1
        _log.info("group %d: %s replica %d on node %d", step.group, step.kind.value, step.replica[1], step.replica[0])
        return True

    async def _forget(self, steps: Sequence[Step], partitions: Mapping[int, PartitionMeta]) -> None:
        where = {
            partition.group_id: (topic.topic_id, number)
            for topic in self._machine.state.topics.values()
            for number, partition in enumerate(topic.partitions)
        }
        removed = [
            metadata_pb2.RemovedReplica(
                topic_id=where[step.group][0],
                partition=where[step.group][1],
                replica=metadata_pb2.ReplicaRow(node_id=step.replica[0], replica_id=step.replica[1]),
                placed_index=partitions[step.group].placed_index,
            )
            for step in steps
            if step.group in where
        ]
        command = metadata_pb2.MetadataCommand(remove_replicas=metadata_pb2.RemoveReplicas(replicas=removed))
        try:
            await self._metadata.propose_here(command)
        except RaftlogError as error:
            _log.debug("replicas that are gone are not recorded yet: %s", error)
