"""Metadata commands: wished for on any node, completed, checked and proposed on the leader of group 0.

A *wish* is a command with gaps that only the leader may fill, since it alone sees all that was committed before:

* ``CreateTopic``: placements are empty (one ``Assignment`` for each partition), a replication factor of 0 is the default,
  ``created_at_ms`` is 0;
* ``AlterTopic``: ``more_partitions`` has an empty ``Assignment`` for each partition that the topic shall have *in all*;
* ``AddNode``: ``joined_at_ms`` is 0, and nobody with that id may be up;
* those of topics: an empty ``topic_id`` means whichever topic bears the name.

Rules:

1. The leader decides one command at a time: it completes a wish against everything committed before, so that two calls that
   raise a topic's partitions to 8 make 8, not 12.
2. A command whose outcome was lost is sent again only where a second time is harmless: the topic's id makes it so.
3. Before its first command a cluster gets the feature level that its founders have marked their directories with. One of the
   first version has commands already, or founders of that version: it stays at the first.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

from raftlog.broker.calls import RemoteBroker
from raftlog.broker.config import BrokerConfig
from raftlog.broker.metadata_machine import MetadataMachine
from raftlog.broker.routing import METADATA_NAME, Router
from raftlog.core.clock import Clock
from raftlog.core.features import NEWEST, Level
from raftlog.core.metadata import TOPIC_ID_BYTES, MetadataState
from raftlog.core.metadata_values import TopicMeta
from raftlog.core.names import colliding, is_internal
from raftlog.core.placement import Candidate, Load, place
from raftlog.errors import (
    IndeterminateError,
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    InvalidTopicError,
    NodeIdTakenError,
    NotLeaderError,
    OverloadedError,
    RaftlogError,
    UnavailableError,
    UnknownTopicOrPartitionError,
)
from raftlog.model import METADATA_GROUP, NodeStatus, PartitionInfo, TopicInfo
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb

Alive = Callable[[int], bool]

LEADER_LOOK_S = 0.02
"""How often a call looks for a leader that it waits for (and up to twice that); announcements wake nobody."""


class MetadataCalls:
    """Both sides: ``call`` for this node's callers, ``propose_here`` for the leader's part.

    Args:
        node_id: this node.
        machine: group 0's state machine here.
        router: who leads group 0.
        remote: the way to it.
        clock: times of topics and entries.
        rng: spreads retries and placements.
        config: limits and defaults.
        alive: whether a node is up as far as this one knows; new replicas go to such nodes where there are enough.
        begins_at: the feature level that the cluster begins at, where nothing has been committed yet.
    """

    def __init__(
        self, node_id: int, machine: MetadataMachine, router: Router, remote: RemoteBroker,
        *, clock: Clock, rng: random.Random, config: BrokerConfig, alive: Alive, begins_at: Callable[[], int] = lambda: NEWEST,
    ) -> None:  # fmt: skip
        self._node_id = node_id
        self._machine = machine
        self._router = router
        self._remote = remote
        self._clock = clock
        self._rng = rng
        self._config = config
        self._alive = alive
        self._begins_at = begins_at
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def call(self, wish: pb.MetadataCommand, *, again: bool) -> pb.ProposeAnswer:
        """Have a command proposed by whoever leads group 0, and wait until it is applied here.

        Args:
            wish: the command.
            again: whether it may be sent a second time after its outcome was lost.

        Raises:
            LeaderNotAvailableError: no leader was found in ``leader_wait_s``; nothing was done.
            IndeterminateError: the outcome is unknown.
            RaftlogError: why the command was refused.
        """
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        deadline_s = begun_s + self._config.metadata_timeout_s
        lost: IndeterminateError | None = None
        while True:
            error: RaftlogError
            try:
                answer = await self._call_once(wish, deadline_s - loop.time())
                await self._machine.wait_applied(answer.index, max(deadline_s - loop.time(), 0.0))
                return answer
            except (NotLeaderError, UnavailableError) as refused:
                error = refused
            except IndeterminateError as unknown:
                if not again:
                    raise
                error = lost = unknown
            except UnknownTopicOrPartitionError:
                if lost is not None and wish.WhichOneof("command") == "delete_topic":
                    return pb.ProposeAnswer()
                raise
            pause_s = LEADER_LOOK_S * (1 + self._rng.random())
            patience_s = deadline_s if lost is not None else begun_s + self._config.leader_wait_s
            if loop.time() + pause_s >= patience_s:
                raise lost or error
            await asyncio.sleep(pause_s)

    async def propose_here(self, wish: pb.MetadataCommand) -> pb.ProposeAnswer:
        """Complete, check and propose as the leader of group 0; answered when it is applied here.

        Raises:
            NotLeaderError, LeaderNotAvailableError: this node does not lead; nothing was done.
            OverloadedError: too many commands wait for their turn.
            IndeterminateError: the outcome is unknown.
            RaftlogError: why the command was refused.
        """
        self._check_leader()
        if self._waiting >= self._config.metadata_calls_max:
            raise OverloadedError(f"{self._waiting} metadata commands wait already; try again later")
        self._waiting += 1
        try:
            async with self._turn:
                self._check_leader()
                await self._begin()
                now_ms = self._clock.wall_ms()
                command = self._complete(wish, now_ms)
                error = self._machine.state.check(command)
                if error is not None:
                    raise error
                timeout_s = self._config.metadata_timeout_s
                index, effects = await self._machine.propose(command, now_ms=now_ms, timeout_s=timeout_s)
                return pb.ProposeAnswer(index=index, first_producer_id=effects.first_producer_id, incarnation=effects.incarnation)
        finally:
            self._waiting -= 1

    async def _begin(self) -> None:
        """The first command of a cluster is its feature level, which everything else depends on. (Rule 3)"""
        level = self._begins_at()
        if level > Level.FIRST and self._machine.state.pristine:
            command = pb.MetadataCommand(raise_level=pb.RaiseLevel(level=level))
            await self._machine.propose(command, now_ms=self._clock.wall_ms(), timeout_s=self._config.metadata_timeout_s)

    def preview(self, name: str, partitions: int, replication_factor: int, configs: dict[str, str]) -> TopicInfo:
        """The topic that a wish would make, placed by what this node knows; nothing is proposed.

        Raises:
            RaftlogError: why it would be refused.
        """
        wish = pb.CreateTopic(
            name=name, topic_id=bytes(TOPIC_ID_BYTES), replication_factor=replication_factor,
            partitions=[pb.Assignment()] * partitions, configs=configs,
        )  # fmt: skip
        self._complete_create(wish, 0)
        error = self._machine.state.check(pb.MetadataCommand(create_topic=wish))
        if error is not None:
            raise error
        infos = tuple(
            PartitionInfo(topic=name, partition=number, group_id=0, replicas=tuple(placed.replicas), leader=None, leader_epoch=-1)
            for number, placed in enumerate(wish.partitions)
        )
        return TopicInfo(
            name=name, topic_id="", partitions=infos, replication_factor=wish.replication_factor, configs=dict(configs)
        )  # fmt: skip

    async def _call_once(self, wish: pb.MetadataCommand, timeout_s: float) -> pb.ProposeAnswer:
        leader, _ = self._router.leader(METADATA_GROUP, self._machine.log)
        if leader is None or leader == self._node_id:
            return await self.propose_here(wish)
        return await self._remote.propose(leader, wish, timeout_s=timeout_s)

    def _check_leader(self) -> None:
        if not self._machine.log.ready:
            raise self._router.elsewhere(METADATA_NAME, METADATA_GROUP, self._machine.log)

    def _complete(self, wish: pb.MetadataCommand, now_ms: int) -> pb.MetadataCommand:
        """Fill a wish's gaps against the leader's state; the wish itself is not touched."""
        command = pb.MetadataCommand()
        command.CopyFrom(wish)
        kind = command.WhichOneof("command")
        if kind == "create_topic":
            self._complete_create(command.create_topic, now_ms)
        elif kind == "alter_topic":
            self._complete_alter(command.alter_topic)
        elif kind == "delete_topic" and not command.delete_topic.topic_id:
            command.delete_topic.topic_id = _find(self._machine.state, command.delete_topic.name).topic_id
        elif kind == "add_node":
            self._complete_add(command.add_node, now_ms)
        return command

    def _complete_create(self, create: pb.CreateTopic, now_ms: int) -> None:
        state = self._machine.state
        if create.name in state.topics:
            return  # the state machine says whether that is this very topic
        other = colliding(create.name, state.topics)
        if other is not None:
            raise InvalidTopicError(f"topic name {create.name!r} differs from {other!r} only in '.' and '_'; choose another")
        count = len(create.partitions) or self._config.num_partitions
        wanted = self._config.default_replication_factor
        if is_internal(create.name):
            wanted = self._config.offsets_topic_replication_factor
        default = min(wanted, self._nodes_expected())
        create.replication_factor = create.replication_factor or default
        create.created_at_ms = now_ms
        assignments = self._place(count, create.replication_factor, total=count)
        del create.partitions[:]
        create.partitions.extend(assignments)

    def _complete_add(self, add: pb.AddNode, now_ms: int) -> None:
        if self._alive(add.node.node_id):
            raise NodeIdTakenError(
                f"node {add.node.node_id} is up: the id is taken. Give this node an id of its own, or stop the other one"
            )
        add.joined_at_ms = now_ms

    def _complete_alter(self, alter: pb.AlterTopic) -> None:
        topic = _find(self._machine.state, alter.name)
        alter.topic_id = alter.topic_id or topic.topic_id
        wanted, there = len(alter.more_partitions), len(topic.partitions)
        if not wanted:
            return
        if wanted <= there:
            raise InvalidPartitionsError(f"topic {topic.name!r} has {there} partitions; the number can only be raised")
        assignments = self._place(wanted - there, topic.replication_factor, total=wanted)
        del alter.more_partitions[:]
        alter.more_partitions.extend(assignments)

    def _nodes_expected(self) -> int:
        """How many nodes take replicas, or will once all founders are there: a starting cluster must not settle for less."""
        state = self._machine.state
        taking = {node.node_id for node in state.nodes.values() if node.status is NodeStatus.ACTIVE}
        return len(taking.union(node for node in self._machine.log.members if node not in state.nodes | state.removed))

    def _place(self, count: int, factor: int, *, total: int) -> list[pb.Assignment]:
        """Place ``count`` partitions of a topic that then has ``total``; on nodes that are up where there are enough."""
        total_max = self._config.partitions_per_topic_max
        if total > total_max:
            raise InvalidPartitionsError(f"a topic may have {total_max} partitions at most, not {total}")
        state = self._machine.state
        if factor > len(state.nodes):
            if factor <= self._nodes_expected():
                raise UnavailableError(f"{len(state.nodes)} of {self._nodes_expected()} nodes have registered so far; try again")
            raise InvalidReplicationFactorError(
                f"{factor} replicas need as many nodes; this cluster has {len(state.nodes)}: {sorted(state.nodes)}"
            )
        taking = [node for node in state.nodes.values() if node.status is NodeStatus.ACTIVE]
        if factor > len(taking):
            raise InvalidReplicationFactorError(
                f"{factor} replicas need as many nodes; {len(taking)} take new ones, the others of the cluster are being drained"
            )
        up = [node for node in taking if self._alive(node.node_id)]
        nodes = up if len(up) >= factor else taking
        placed = place(
            [Candidate(node.node_id, node.rack) for node in nodes],
            partitions=count, replication_factor=factor, load=_load(state), start=self._rng.randrange(len(nodes)),
        )  # fmt: skip
        return [pb.Assignment(replicas=replicas) for replicas in placed]


def _find(state: MetadataState, name: str) -> TopicMeta:
    topic = state.topics.get(name)
    if topic is None:
        raise UnknownTopicOrPartitionError(f"there is no topic {name!r}; create it first")
    return topic


def _load(state: MetadataState) -> dict[int, Load]:
    replicas, leaders = Counter[int](), Counter[int]()
    for topic in state.topics.values():
        for partition in topic.partitions:
            replicas.update(partition.nodes)
            leaders[partition.nodes[0]] += 1
    return {node_id: Load(replicas=replicas[node_id], leaders=leaders[node_id]) for node_id in state.nodes}
