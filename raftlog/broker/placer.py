"""Wants other replicas where nodes are drained, dead or unevenly loaded: runs where group 0 leads, beside the reconciler.

Rules:

1. It only makes commands (``PlacePartitions``), as an operator's wish does, with a reason that stays with the partition.
2. A node is dead when it could not be reached for ``replica_replacement_delay_ms``, seen by one leader of group 0 without a
   break: a new leader begins to count anew. Nothing is replaced while more than half of the nodes are missing: then it is
   this node that is cut off, or more is lost than copying can help.
3. Balancing by itself is gentle: only while nothing moves, a few replicas at a time, and only beyond a tolerance.
4. Nothing is placed on a node that is short of room, as far as it was asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from raftlog.broker.config import BrokerConfig
from raftlog.broker.group_changes import GroupChanges
from raftlog.broker.metadata_calls import MetadataCalls
from raftlog.broker.metadata_machine import MetadataMachine
from raftlog.broker.reconciler import Reconciler
from raftlog.core.balance import Balance, BalanceLimits, BalanceNode, BalancePartition, Proposal, balance, evacuate
from raftlog.core.clock import Clock
from raftlog.core.features import Level
from raftlog.core.loads import Loads
from raftlog.core.metadata_rows import replica_rows
from raftlog.core.metadata_values import PartitionMeta, TopicMeta
from raftlog.core.reconcile import Step, StepKind
from raftlog.errors import RaftlogError
from raftlog.model import Balanced, NodeStatus, Replacement, TopicPartition
from raftlog.pb.raftlog.internal.v1 import metadata_pb2
from raftlog.pb.raftlog.internal.v1 import moves_pb2 as pb
from raftlog.peers.port import Peers

_log = logging.getLogger(__name__)

ASK_S = 10.0
"""While replicas have to leave nodes, the others are asked this often whether they have room."""
LOOK_S = 1.0
"""How often nodes are looked at."""
PLACEMENTS_PER_COMMAND_MAX = 200
"""Partitions of one command: its entry stays well below a megabyte."""
TRANSFERS_AT_ONCE_MAX = 10
"""Leaderships that go back to their preferred replicas in one look: each is a short pause for its partition."""


class Placer:
    """See the module.

    Args:
        node_id: this node.
        machine: group 0's state machine here.
        metadata: proposes commands.
        reconciler: what moves already, and the way to the groups.
        changes: what this node carries.
        peers: the way to what others carry.
        up: whether a node can be reached.
        clock: for delays and loads.
        config: limits.
    """

    def __init__(
        self, node_id: int, *, machine: MetadataMachine, metadata: MetadataCalls, reconciler: Reconciler, changes: GroupChanges,
        peers: Peers, up: Callable[[int], bool], clock: Clock, config: BrokerConfig,
    ) -> None:  # fmt: skip
        self._node_id = node_id
        self._machine = machine
        self._metadata = metadata
        self._reconciler = reconciler
        self._changes = changes
        self._peers = peers
        self._up = up
        self._clock = clock
        self._config = config
        self._missing_since_s: dict[int, float] = {}
        self._next_check_s = 0.0
        self._loads = Loads()
        self._low: set[int] = set()
        """The nodes that are short of room."""
        self._asked_s = -ASK_S
        self.stuck: Mapping[int, str] = {}
        """By group: what has to leave its node, and finds no other, in words."""

    async def run(self) -> None:
        """Look at the nodes whenever this node leads group 0, for ever."""
        term = -1
        while True:
            log = self._machine.log
            if log.ready and log.term != term:
                term = log.term
                self._missing_since_s.clear()
                self.stuck = {}
                self._next_check_s = self._clock.monotonic_s() + self._config.leader_imbalance_check_interval_ms / 1_000
            if not log.ready:
                term = -1
                self._missing_since_s.clear()  # who was missing then may be back; nobody looks meanwhile
            else:
                try:
                    await self.look()
                except RaftlogError as error:
                    _log.info("replicas are not placed anew yet: %s", error)
                except Exception:
                    # Whatever another node answered: a look that cannot be had must not be the last one.
                    _log.exception("looking for replicas to be placed anew failed")
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Look once: what has to leave its node, and now and then whether all is even."""
        now_s = self._clock.monotonic_s()
        missing = {node for node in self._machine.state.nodes if not self._up(node)}
        self._missing_since_s = {node: self._missing_since_s.get(node, now_s) for node in missing}
        if self._may_move() and any(node.leaves for node in self.nodes()) and self._held_by_leaving():
            if now_s - self._asked_s >= ASK_S:
                await self.ask_loads()
            found = evacuate(self.nodes(), self._partitions())
            self.stuck = found.stuck
            await self._propose(found.proposals)
        else:
            self.stuck = {}
        if now_s >= self._next_check_s:
            self._next_check_s = now_s + self._config.leader_imbalance_check_interval_ms / 1_000
            await self._even_out()

    async def _even_out(self) -> None:
        """Balancing by itself: rule 3."""
        await self.ask_loads()
        held_up = self._reconciler.view.plan.held_up  # what may never go on must not keep everything else from it
        moving = any(one.group_id not in held_up for one in self._reconciler.unsettled())
        if self._config.auto_replica_rebalance_enable and self._may_move() and not moving:
            limits = BalanceLimits(moves_max=self._config.rebalance_moves_max, count_percent=10)
            await self._propose(balance(self.nodes(), self._partitions(), limits).proposals)
        if self._config.auto_leader_rebalance_enable:
            await self.elect_preferred(self._imbalanced())

    def _may_move(self) -> bool:
        """Whether the cluster's feature level allows to move replicas. Who wishes it by hand is told where it does not."""
        return self._machine.state.level >= Level.MEMBERSHIP

    def nodes(self, leaving: int | None = None) -> list[BalanceNode]:
        """The nodes as balancing sees them; ``leaving`` as if that one were being drained."""
        found, dead = [], self.dead()
        for node in self._machine.state.nodes.values():
            draining = node.status is NodeStatus.DRAINING or node.node_id == leaving
            why = f"node {node.node_id} is being drained" if draining else ""
            if not why and node.node_id in dead:
                why = f"node {node.node_id} has been down for {_time(self._config.replica_replacement_delay_ms / 1_000)}"
            takes = self._up(node.node_id) and not draining and node.node_id not in self._low
            found.append(BalanceNode(node_id=node.node_id, rack=node.rack, takes=takes, leaves=why))
        return found

    def dead(self) -> set[int]:
        """The nodes that are dead, by rule 2."""
        nodes = self._machine.state.nodes
        enough = 2 * sum(1 for node in nodes if self._up(node)) > len(nodes)
        return {node for node in nodes if self._is_dead(node)} if enough else set()

    def no_room(self, leaving: int) -> list[str]:
        """What would find no room if a node were drained, in words."""
        return list(evacuate(self.nodes(leaving), self._partitions()).stuck.values())

    async def balance(self, *, dry_run: bool) -> Balanced:
        """All goals at once, as an operator wants it; see ``MoveBroker.balance``."""
        await self.ask_loads()
        found = balance(self.nodes(), self._partitions(), BalanceLimits(moves_max=self._config.balance_moves_max))
        if not dry_run:
            await self._propose(found.proposals)
            self._next_check_s = 0.0  # leaders follow soon
        return self._balanced(found)

    async def elect_preferred(self, partitions: Iterable[PartitionMeta]) -> dict[int, str]:
        """Hand leadership to the preferred replicas, a few at a time; by group, why it could not be done."""
        wanted = [one for one in partitions if self._reconciler.leader_of(one) != one.nodes[0]]
        if not self._machine.log.ready:  # the term is another node's: see rule 4 of ``reconciler``
            return {one.group_id: "the cluster's leader is changing" for one in wanted}
        term, failed = self._machine.log.term, dict[int, str]()
        for at in range(0, len(wanted), TRANSFERS_AT_ONCE_MAX):
            some = wanted[at : at + TRANSFERS_AT_ONCE_MAX]
            reports = await self._reconciler.reports(some)
            for one in some:
                report, heir = reports.get(one.group_id), one.replicas[0]
                if report is None:
                    failed[one.group_id] = "it has no leader just now"
                elif report.leader == heir:
                    continue
                elif heir not in report.voters or not report.good(heir):
                    failed[one.group_id] = f"node {heir[0]} is behind, or down"
                else:
                    step = Step(kind=StepKind.TRANSFER, group=one.group_id, replica=heir, leader=report.leader, term=report.term)
                    if not await self._reconciler.take(step, report, term):
                        failed[one.group_id] = self._reconciler.view.failures.get(one.group_id, "its leader refused")
        return failed

    async def ask_loads(self) -> None:
        """Ask every node that is up what it carries, and whether it has room."""
        self._asked_s = self._clock.monotonic_s()
        nodes = [node for node in self._machine.state.nodes if self._up(node)]
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(self._load_of(node)) for node in nodes]
        self._loads.look(self._clock.monotonic_s(), [task.result() for task in asked])

    async def _load_of(self, node: int) -> dict[int, tuple[int, int, int]]:
        try:
            if node == self._node_id:
                answer = self._changes.load()
            else:
                body, _ = await self._peers.call(node, "node_load", b"", timeout_s=self._config.call_timeout_s)
                answer = pb.NodeLoadAnswer.FromString(body)
        except RaftlogError as error:
            _log.debug("node %d does not tell its load: %s", node, error)
            return {}
        (self._low.add if answer.low else self._low.discard)(node)
        return {one.group: (one.size_bytes, one.first_index, one.last_index) for one in answer.groups}

    def _is_dead(self, node: int) -> bool:
        since_s = self._missing_since_s.get(node)
        return since_s is not None and self._clock.monotonic_s() - since_s >= self._config.replica_replacement_delay_ms / 1_000

    def _held_by_leaving(self) -> bool:
        leaving = {node.node_id for node in self.nodes() if node.leaves}
        return any(leaving & set(one.nodes) for _, _, one in self._each())

    def _each(self) -> Iterable[tuple[TopicMeta, int, PartitionMeta]]:
        for topic in self._machine.state.topics.values():
            for number, partition in enumerate(topic.partitions):
                yield topic, number, partition

    def _partitions(self) -> list[BalancePartition]:
        moving = {one.group_id for one in self._reconciler.unsettled()}
        return [
            BalancePartition(
                group_id=one.group_id, name=str(TopicPartition(topic.name, number)), nodes=one.nodes,
                size_bytes=self._loads.size_bytes(one.group_id), load=self._loads.rate(one.group_id),
                moving=one.group_id in moving,
            )
            for topic, number, one in self._each()
        ]  # fmt: skip

    def _imbalanced(self) -> list[PartitionMeta]:
        """The partitions of nodes that lead too few of those that they are preferred for (Kafka's measure)."""
        by_node: dict[int, list[PartitionMeta]] = {}
        for _, _, one in self._each():
            by_node.setdefault(one.nodes[0], []).append(one)
        found = []
        for node, preferred in by_node.items():
            elsewhere = [one for one in preferred if self._reconciler.leader_of(one) != node]
            if self._up(node) and len(elsewhere) * 100 > len(preferred) * self._config.leader_imbalance_per_broker_percentage:
                found += elsewhere
        return found

    async def _propose(self, proposals: Sequence[Proposal]) -> None:
        where = {one.group_id: (topic, number, one) for topic, number, one in self._each()}
        placements = [
            metadata_pb2.Placement(
                topic_id=where[one.group_id][0].topic_id,
                partition=where[one.group_id][1],
                expected=replica_rows(where[one.group_id][2].replicas),
                replicas=one.nodes,
                reason=one.reason,
                placed_at_ms=self._clock.wall_ms(),
            )
            for one in proposals
            if where[one.group_id][2].nodes == one.before
        ]
        for at in range(0, len(placements), PLACEMENTS_PER_COMMAND_MAX):
            part = metadata_pb2.PlacePartitions(placements=placements[at : at + PLACEMENTS_PER_COMMAND_MAX])
            await self._metadata.propose_here(metadata_pb2.MetadataCommand(place_partitions=part))

    def _balanced(self, found: Balance) -> Balanced:
        names = {one.group_id: TopicPartition(topic.name, number) for topic, number, one in self._each()}
        return Balanced(
            replacements=tuple(
                Replacement(
                    tp=names[one.group_id], before=one.before, replicas=one.nodes, reason=one.reason, size_bytes=one.size_bytes
                )
                for one in found.proposals
                if one.group_id in names
            ),
            stuck=tuple(found.stuck.values()),
        )


def _time(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 120 else f"{seconds:g} s"
