"""Moving replicas, for doors and other brokers: wishes become commands of the metadata; questions go to where group 0 leads.

The parts: ``group_changes`` does what the leader of a group has to, ``reconciler`` carries wishes out, ``placer`` has wishes of
its own, ``renewals`` gives up what is damaged. All of them are made here, and run as long as the node does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from raftlog.broker.config import BrokerConfig
from raftlog.broker.group_changes import GroupChanges
from raftlog.broker.metadata_calls import LEADER_LOOK_S, MetadataCalls
from raftlog.broker.metadata_machine import MetadataMachine
from raftlog.broker.move_codec import balanced_message, balanced_of, move_message, move_of
from raftlog.broker.move_port import Placing
from raftlog.broker.placer import Placer
from raftlog.broker.reconciler import Reconciler
from raftlog.broker.renewals import Renewals, Renewing
from raftlog.broker.replicas import Replicas
from raftlog.broker.routing import METADATA_NAME, Router
from raftlog.core import error_codec
from raftlog.core.clock import Clock
from raftlog.core.features import Level, check_allowed
from raftlog.core.metadata_rows import STATUSES, replica_rows
from raftlog.core.metadata_values import PartitionMeta
from raftlog.core.progress import Copying, copying
from raftlog.core.reconcile import GroupReport, StepKind
from raftlog.core.tasks import TaskScope
from raftlog.errors import (
    InvalidRequestError,
    NodeInUseError,
    NoMoveInProgressError,
    NotLeaderError,
    RaftlogError,
    UnavailableError,
    UnknownNodeError,
)
from raftlog.model import METADATA_GROUP, Balanced, Move, NodeStatus, TopicPartition
from raftlog.pb.raftlog.internal.v1 import metadata_pb2
from raftlog.pb.raftlog.internal.v1 import moves_pb2 as pb
from raftlog.peers.port import Peers

Answer = tuple[bytes, Sequence[bytes]]
_A = TypeVar("_A", bound=Message)

METHODS = frozenset(("report_groups", "change_group", "node_load", "moves", "balance", "drain", "elect_leaders", "renew"))
"""Calls between brokers that are answered here."""


class Moves:
    """``MoveBroker`` of one node, and its side of the calls between brokers.

    Args:
        node_id: this node.
        replicas: its groups.
        machine: group 0's state machine here.
        metadata: proposes commands.
        router: who leads what.
        peers: the other nodes.
        up: whether a node can be reached.
        low: whether this node is short of room.
        clock: for delays, rates and ages.
        config: limits.
    """

    def __init__(
        self, node_id: int, *, replicas: Replicas, machine: MetadataMachine, metadata: MetadataCalls, router: Router,
        peers: Peers, up: Callable[[int], bool], low: Callable[[], bool], clock: Clock, config: BrokerConfig,
    ) -> None:  # fmt: skip
        self._node_id = node_id
        self._machine = machine
        self._metadata = metadata
        self._router = router
        self._peers = peers
        self._clock = clock
        self._config = config
        self._changes = GroupChanges(
            node_id, replicas=replicas, controller_term=lambda: machine.log.term, connected=up, clock=clock, low=low,
            timeout_s=config.call_timeout_s,
        )  # fmt: skip
        self.reconciler = Reconciler(
            node_id, machine=machine, metadata=metadata, router=router, changes=self._changes, peers=peers, up=up, clock=clock,
            config=config,
        )  # fmt: skip
        self.placer = Placer(
            node_id, machine=machine, metadata=metadata, reconciler=self.reconciler, changes=self._changes, peers=peers, up=up,
            clock=clock, config=config,
        )  # fmt: skip
        self._renewing = Renewing(machine=machine, metadata=metadata, reconciler=self.reconciler, clock=clock)
        self.renewals = Renewals(node_id, replicas=replicas, ask=self._ask_to_renew, clock=clock)

    def start(self, scope: TaskScope) -> None:
        """Run all parts until the scope ends; reconciler and placer work where this node leads group 0."""
        scope.start(self.reconciler.run(), name="reconciler")
        scope.start(self.placer.run(), name="placer")
        scope.start(self.renewals.run(), name="renewals")

    # What doors ask.

    async def place(self, wishes: Sequence[Placing], *, reason: str) -> None:
        """See ``MoveBroker``."""
        placements = []
        for wish in wishes:
            topic, partition = self._router.find_topic(wish.tp.topic), self._router.find(wish.tp)
            nodes = self._nodes_before(wish.tp, partition) if wish.replicas is None else wish.replicas
            placements.append(
                metadata_pb2.Placement(
                    topic_id=topic.topic_id, partition=wish.tp.partition, expected=replica_rows(partition.replicas),
                    replicas=nodes, reason=reason, placed_at_ms=self._clock.wall_ms(),
                )
            )  # fmt: skip
        command = metadata_pb2.MetadataCommand(place_partitions=metadata_pb2.PlacePartitions(placements=placements))
        await self._metadata.call(command, again=False)

    async def drain_node(self, node_id: int, *, cancel: bool = False) -> int:
        """See ``MoveBroker``."""
        answer = await self._at_controller("drain", pb.DrainCall(node_id=node_id, cancel=cancel), pb.DrainAnswer, self._drain)
        return answer.partitions

    async def remove_node(self, node_id: int) -> None:
        """See ``MoveBroker``."""
        await self._set_status(node_id, NodeStatus.REMOVED)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._config.metadata_timeout_s
        while node_id in self._machine.log.members:
            if loop.time() >= deadline_s:
                raise UnavailableError(
                    f"node {node_id} is removed, but still a member of the metadata's group; keep it running, and try again"
                )
            await asyncio.sleep(LEADER_LOOK_S)

    async def balance(self, *, dry_run: bool) -> Balanced:
        """See ``MoveBroker``."""
        call = pb.BalanceCall(dry_run=dry_run)
        return balanced_of(await self._at_controller("balance", call, pb.BalanceAnswer, self._balance))

    async def moves(self) -> list[Move]:
        """See ``MoveBroker``."""
        answer = await self._at_controller("moves", pb.MovesCall(), pb.MovesAnswer, self._moves)
        return [move_of(message) for message in answer.moves]

    async def elect_leaders(self, tps: Sequence[TopicPartition]) -> list[RaftlogError | None]:
        """See ``MoveBroker``."""
        outcomes: list[RaftlogError | None] = []
        groups: list[int | None] = []
        for tp in tps:
            try:
                groups.append(self._router.find(tp).group_id)
            except RaftlogError as error:
                groups.append(None)
                outcomes.append(error)
            else:
                outcomes.append(None)
        call = pb.ElectLeadersCall(groups=[group for group in groups if group is not None])
        if not call.groups:
            return outcomes
        answer = await self._at_controller("elect_leaders", call, pb.ElectLeadersAnswer, self._elect)
        failed = {
            one.group: error_codec.from_parts(one.reason, one.message, {}) for one in answer.elected if one.reason
        }  # fmt: skip
        return [failed.get(group) if group is not None else error for group, error in zip(groups, outcomes, strict=True)]

    # What other brokers ask.

    async def answer(self, method: str, body: bytes) -> Answer:
        """Answer a call of ``METHODS``.

        Raises:
            InvalidRequestError: its body cannot be read.
            NotLeaderError: it is for the leader of group 0, or of another group.
            RaftlogError: why it is refused.
        """
        try:
            return (await self._answer(method, body)).SerializeToString(), ()
        except DecodeError as error:
            raise InvalidRequestError(f"the body of a {method} call cannot be read: {error}") from error

    async def _answer(self, method: str, body: bytes) -> Message:
        if method == "report_groups":
            return self._changes.report(pb.ReportGroupsCall.FromString(body))
        if method == "node_load":
            return self._changes.load()
        if method == "change_group":
            await self._changes.change(pb.ChangeGroupCall.FromString(body))
            return pb.ChangeGroupAnswer()
        return await self._answer_as_controller(method, body)

    async def _answer_as_controller(self, method: str, body: bytes) -> Message:
        self._check_controller()
        if method == "moves":
            return await self._moves(pb.MovesCall.FromString(body))
        if method == "balance":
            return await self._balance(pb.BalanceCall.FromString(body))
        if method == "drain":
            return await self._drain(pb.DrainCall.FromString(body))
        if method == "renew":
            return await self._renewing.renew(pb.RenewCall.FromString(body))
        return await self._elect(pb.ElectLeadersCall.FromString(body))

    async def _at_controller(self, method: str, call: Message, answer: type[_A], here: Callable[..., Awaitable[_A]]) -> _A:
        """Have the leader of group 0 answer, which may be this node; looks for one as long as an election takes."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._config.leader_wait_s
        while True:
            leader, _ = self._router.leader(METADATA_GROUP, self._machine.log)
            try:
                if leader is None or leader == self._node_id:
                    self._check_controller()
                    return await here(call)
                body, _ = await self._peers.call(
                    leader, method, call.SerializeToString(), timeout_s=self._config.metadata_timeout_s
                )
                return answer.FromString(body)
            except (NotLeaderError, UnavailableError):
                if loop.time() + LEADER_LOOK_S >= deadline_s:
                    raise
            await asyncio.sleep(LEADER_LOOK_S)

    def _check_controller(self) -> None:
        if not self._machine.log.ready:
            raise self._router.elsewhere(METADATA_NAME, METADATA_GROUP, self._machine.log)

    async def _ask_to_renew(self, call: pb.RenewCall) -> pb.RenewAnswer:
        # Before it asks a leader of a version that may not know what it is asked.
        check_allowed(self._machine.state.level, Level.RENEWAL, "filling a damaged replica again")
        return await self._at_controller("renew", call, pb.RenewAnswer, self._renewing.renew)

    # What the leader of group 0 does.

    async def _drain(self, call: pb.DrainCall) -> pb.DrainAnswer:
        node_id = call.node_id
        if node_id not in self._machine.state.nodes:
            raise UnknownNodeError(f"the cluster has no node {node_id}; there are {sorted(self._machine.state.nodes)}")
        if not call.cancel:
            stuck = self.placer.no_room(node_id)
            if stuck:
                raise NodeInUseError(f"node {node_id} cannot be drained: {stuck[0]}; add a node first")
        await self._set_status(node_id, NodeStatus.ACTIVE if call.cancel else NodeStatus.DRAINING)
        topics = self._machine.state.topics.values()
        held = sum(1 for topic in topics for one in topic.partitions if one.replica_on(node_id) is not None)
        return pb.DrainAnswer(partitions=held)

    async def _set_status(self, node_id: int, status: NodeStatus) -> None:
        change = metadata_pb2.SetNodeStatus(node_id=node_id, status=STATUSES[status])
        await self._metadata.call(metadata_pb2.MetadataCommand(set_node_status=change), again=True)

    async def _balance(self, call: pb.BalanceCall) -> pb.BalanceAnswer:
        return balanced_message(await self.placer.balance(dry_run=call.dry_run))

    async def _elect(self, call: pb.ElectLeadersCall) -> pb.ElectLeadersAnswer:
        wanted = set(call.groups)
        partitions = [one for topic in self._machine.state.topics.values() for one in topic.partitions if one.group_id in wanted]
        failed = await self.placer.elect_preferred(partitions)
        elected = [
            pb.ElectedLeader(group=one.group_id, reason="LEADER_NOT_AVAILABLE", message=failed[one.group_id])
            for one in partitions
            if one.group_id in failed
        ]
        return pb.ElectLeadersAnswer(elected=elected)

    async def _moves(self, _: pb.MovesCall) -> pb.MovesAnswer:
        return pb.MovesAnswer(moves=map(move_message, self.under_way()))

    @property
    def renewed(self) -> int:
        """Damaged replicas that this node gave up for new ones, since its start."""
        return self.renewals.renewed

    @property
    def steps(self) -> Mapping[str, int]:
        """Steps that this node had groups take since its start, by kind."""
        return {kind.value: self.reconciler.steps[kind] for kind in StepKind}

    def under_way(self) -> list[Move]:
        """What the last round saw of what is unsettled now, by topic and partition; nothing where this node does not lead
        group 0."""
        if not self._machine.log.ready:
            return []
        known = {
            one.group_id: (TopicPartition(topic.name, number), one)
            for topic in self._machine.state.topics.values()
            for number, one in enumerate(topic.partitions)
        }
        moving = {one.group_id for one in self.reconciler.unsettled()} | (self.placer.stuck.keys() & known.keys())
        found = [self._move(*known[group]) for group in moving]
        return sorted(found, key=lambda move: move.tp)

    def _move(self, tp: TopicPartition, partition: PartitionMeta) -> Move:
        view = self.reconciler.view
        group = partition.group_id
        report = view.reports.get(group)
        stuck = self.placer.stuck.get(group, "")
        state = stuck or view.plan.waits.get(group) or view.failures.get(group) or ""
        learner = _wanted_learner(partition, report)
        if report is None:
            adding = tuple(node for node in partition.nodes if partition.before and node not in partition.before)
        else:
            adding = tuple(node for node, replica in partition.replicas if (node, replica) not in report.voters)
        copied = Copying(bytes_total=0 if report is None else report.size_bytes * len(adding), bytes_done=0)
        if report is not None and learner is not None:
            seen, rate = copying(report, learner), view.rates.rate(group, learner)
            total = copied.bytes_total + seen.bytes_total - report.size_bytes
            copied = Copying(bytes_total=total, bytes_done=seen.bytes_done, rate=rate)
        return Move(
            tp=tp,
            group_id=group,
            replicas=partition.nodes,
            adding=adding,
            removing=tuple(node for node, _ in partition.leaving + partition.lost),
            reason=partition.reason,
            state=state or "the next step is being taken",
            held_up=bool(stuck) or group in view.plan.held_up,
            started_at_ms=partition.placed_at_ms,
            bytes_total=copied.bytes_total,
            bytes_done=copied.bytes_done,
            rate=copied.rate,
            seconds_left=copied.seconds_left if copied.bytes_total else None,
        )

    def _nodes_before(self, tp: TopicPartition, partition: PartitionMeta) -> tuple[int, ...]:
        """The nodes to go back to.

        Raises:
            NoMoveInProgressError: nothing leaves, so there is nothing to go back to.
        """
        if not partition.leaving:
            raise NoMoveInProgressError(f"the replicas of {tp} are not being moved")
        return partition.before


def _wanted_learner(partition: PartitionMeta, report: GroupReport | None) -> tuple[int, int] | None:
    learners = () if report is None else report.learners
    return next((one for one in learners if one in partition.replicas), None)
