"""Which node to ask: the cluster's addresses, and who leads which partition.

Rules:

1. Of two answers about a partition the one with the higher leader epoch is right; an answer of an older epoch changes nothing.
   A topic with another UUID is another topic.
2. A hint from a node that was asked in vain is taken at once, by the same rule.
3. One refresh of a topic runs at a time, however many want it.
4. A node that does not answer is asked last; a call goes from node to node until its time is up, with a wait after each round.
   One whose answer about a topic brings no news lets the others that answer be asked before it: it may be behind for long.
5. What is known of a topic is as old as the question that told it: whoever needs it younger asks anew, for others add partitions.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import grpc

from raftlog.client.backoff import backoff_s
from raftlog.client.connections import Connections, Node
from raftlog.client.wire_errors import from_rpc_error
from raftlog.core.tasks import TaskScope
from raftlog.errors import (
    InvalidRequestError,
    LeaderHint,
    LeaderNotAvailableError,
    RaftlogError,
    UnavailableError,
    UnknownTopicOrPartitionError,
)
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1.cluster_service_pb2 import DescribeClusterRequest
from raftlog.pb.raftlog.v1.topic_service_pb2 import DescribeTopicRequest, DescribeTopicResponse
from raftlog.pb.raftlog.v1.topic_service_pb2 import Topic as WireTopic

ATTEMPT_TIMEOUT_S: Final = 2.0
"""How long one node may take over a read that any other node can answer as well: a stopped node must not hold up a failover."""
UNKNOWN_TOPIC_GRACE_S: Final = 2.0
"""How long a topic may be unknown before it counts as missing: nodes learn of a new topic a moment after its creation."""
REDIAL_S: Final = 0.6
"""A connection that has failed is not dialled again for half a second (``connections``): a node that is back by then is there."""
REDIAL_LOOK_S: Final = 0.05
METADATA_MAX_AGE_S: Final = 300.0
"""How old what is known of a topic's partitions may be where nothing else is said: Kafka's ``metadata.max.age.ms``."""
NODES_MAX_AGE_S: Final = 60.0
"""How old the list of nodes may be: it is what is left when all the addresses given at the start are gone."""

_T = TypeVar("_T")


@dataclass(slots=True)
class Leader:
    """Who leads a partition; ``address`` is empty while nobody is known to."""

    node_id: int
    address: str
    epoch: int


@dataclass(slots=True)
class KnownTopic:
    """A topic's UUID and its partitions' leaders, by partition number; ``asked_at_s`` is the loop's time."""

    topic_id: str
    leaders: list[Leader]
    asked_at_s: float


class Routing:
    """The client's picture of the cluster, and the way to call any node of it."""

    def __init__(
        self,
        connections: Connections,
        seeds: Sequence[str],
        *,
        tasks: TaskScope,
        rng: random.Random,
        request_timeout_s: float,
    ) -> None:
        self._connections = connections
        self._addresses: list[str] = list(seeds)
        self._avoided: set[str] = set()
        """Those that failed and have not answered since; they stand behind the others."""
        self._seeds = tuple(seeds)
        self._tasks = tasks
        self._rng = rng
        self._request_timeout_s = request_timeout_s
        self._topics: dict[str, KnownTopic] = {}
        self._refreshing: dict[str, asyncio.Task[RaftlogError | None]] = {}
        self._nodes_at_s = float("-inf")
        self.listeners: set[Callable[[str], None]] = set()
        """Called with the topic's name after a refresh or a hint; must not block."""

    def topic(self, name: str) -> KnownTopic | None:
        """What is known of a topic, None before its first refresh and after its end."""
        return self._topics.get(name)

    def leader_address(self, tp: TopicPartition) -> str:
        """Address of the partition's leader, empty while there is none known."""
        topic = self._topics.get(tp.topic)
        if topic is None or tp.partition >= len(topic.leaders):
            return ""
        return topic.leaders[tp.partition].address

    def apply_hint(self, tp: TopicPartition, hint: LeaderHint) -> bool:
        """Take over a hint; whether it told anything new."""
        topic = self._topics.get(tp.topic)
        if topic is None or tp.partition >= len(topic.leaders) or not hint.address:
            return False
        leader = topic.leaders[tp.partition]
        if hint.term < leader.epoch or (hint.term == leader.epoch and leader.address):
            return False
        topic.leaders[tp.partition] = Leader(hint.node_id, hint.address, hint.term)
        self._told(tp.topic)
        return True

    async def load(self, name: str, *, max_age_s: float = METADATA_MAX_AGE_S) -> KnownTopic:
        """What is known of a topic, asked for where it is not in the cache, or older than ``max_age_s`` at the time of the call.

        Raises:
            UnknownTopicOrPartitionError: no node knows it, ``UNKNOWN_TOPIC_GRACE_S`` long.
            RaftlogError: no node answers.
        """
        oldest_s = asyncio.get_running_loop().time() - max_age_s
        # More than once where a refresh was under way already that had asked too early.
        while (known := self._topics.get(name)) is None or known.asked_at_s < oldest_s:
            error = await self.refresh(name)
            if error is not None or name not in self._topics:
                raise error or UnknownTopicOrPartitionError(f"topic {name!r} was deleted")
        return known

    async def find_leader(self, tp: TopicPartition) -> str:
        """Address of the partition's leader, waited for through an election; empty where none came up in time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._request_timeout_s
        attempt = 0
        while not (address := self.leader_address(tp)):
            attempt += 1
            wait_s = backoff_s(attempt, self._rng)
            if loop.time() + wait_s >= deadline:
                break
            await asyncio.sleep(wait_s)
            await self.refresh(tp.topic)
        return address

    async def refresh(self, name: str, *, timeout_s: float | None = None) -> RaftlogError | None:
        """Ask anew who leads the partitions of ``name``; the error where that failed. The cache forgets a topic that is gone.

        Raises:
            InvalidRequestError: the client is closed, or is closed meanwhile.
        """
        if self._tasks.closed:
            raise InvalidRequestError("the client is closed; use it inside its 'async with'")
        task = self._refreshing.get(name)
        if task is None or task.done():  # one that has just ended knows nothing that is newer than this call
            task = self._tasks.start(self._refresh(name, timeout_s or self._request_timeout_s), name=f"refresh {name}")
            self._refreshing[name] = task
            task.add_done_callback(partial(self._refreshed, name))
        caller = asyncio.current_task()
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled() and not (caller and caller.cancelling()):
                raise InvalidRequestError("the client was closed meanwhile") from None
            raise

    def _refreshed(self, name: str, task: asyncio.Task[RaftlogError | None]) -> None:
        if self._refreshing.get(name) is task:
            del self._refreshing[name]

    async def _refresh(self, name: str, timeout_s: float) -> RaftlogError | None:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + min(UNKNOWN_TOPIC_GRACE_S, timeout_s)
        attempt = 0
        while True:
            asked_at_s = loop.time()
            try:
                answer, address = await self.any_node(self._describe(name), timeout_s=timeout_s, forward=loop.time() < give_up_at)
            except UnknownTopicOrPartitionError as error:
                attempt += 1
                wait_s = backoff_s(attempt, self._rng)
                if loop.time() + wait_s >= give_up_at:
                    self._topics.pop(name, None)
                    self._told(name)
                    return error
                await asyncio.sleep(wait_s)
            except RaftlogError as error:
                return error
            else:
                if not self._take(name, answer.topic, asked_at_s):
                    self._let_others(address)
                self._told(name)
                await self._refresh_nodes()
                return None

    @staticmethod
    def _describe(name: str) -> Callable[[Node, float], Awaitable[tuple[DescribeTopicResponse, str]]]:
        async def call(node: Node, timeout_s: float) -> tuple[DescribeTopicResponse, str]:
            return await node.topics.DescribeTopic(DescribeTopicRequest(name=name), timeout=timeout_s), node.address

        return call

    def _take(self, name: str, wire: WireTopic, asked_at_s: float) -> bool:
        """Take an answer over; whether it told of another leader, or of partitions."""
        known = self._topics.get(name)
        old = known.leaders if known is not None and known.topic_id == wire.topic_id else []
        leaders = [Leader(0, "", 0) for _ in wire.partitions]
        leaders[: len(old)] = old
        for p in wire.partitions:
            if p.partition < len(leaders):
                leader = leaders[p.partition]
                if p.leader_epoch > leader.epoch or (p.leader_epoch == leader.epoch and p.leader_address):
                    leaders[p.partition] = Leader(p.leader, p.leader_address, p.leader_epoch)
        self._topics[name] = KnownTopic(wire.topic_id, leaders, asked_at_s)
        return leaders != old

    def _told(self, name: str) -> None:
        for listener in list(self.listeners):
            listener(name)

    async def _refresh_nodes(self) -> None:
        """Learn the addresses of all nodes now and then; a failure only leaves the list older."""
        now = asyncio.get_running_loop().time()
        if now - self._nodes_at_s < NODES_MAX_AGE_S:
            return
        self._nodes_at_s = now

        async def call(node: Node, timeout_s: float) -> list[str]:
            answer = await node.cluster.DescribeCluster(DescribeClusterRequest(), timeout=timeout_s)
            return [node.grpc_address for node in answer.nodes if node.grpc_address]

        try:
            found = await self.any_node(call, timeout_s=ATTEMPT_TIMEOUT_S)
        except RaftlogError:
            return
        kept = [address for address in self._addresses if address in found or address in self._seeds]
        self._addresses = kept + [address for address in found if address not in kept]

    @property
    def addresses(self) -> tuple[str, ...]:
        """All nodes that are known, the one to be asked next first."""
        return tuple(self._addresses)

    def any_address(self, *, spread: bool = False) -> str:
        """An address for a call that is made by hand: the one that failed longest ago; ``spread``: any, so that the long calls of
        many clients do not all meet at one node."""
        return self._rng.choice(self._addresses) if spread else self._addresses[0]

    def avoid(self, address: str) -> None:
        """Ask ``address`` last from now on."""
        if address in self._addresses:
            self._addresses.remove(address)
            self._addresses.append(address)
            self._avoided.add(address)

    def _let_others(self, address: str) -> None:
        """Ask the other nodes that answer before ``address``: not those that do not, for that would take its time."""
        if address in self._addresses:
            self._addresses.remove(address)
            self._addresses.insert(sum(other not in self._avoided for other in self._addresses), address)

    async def any_node(
        self,
        call: Callable[[Node, float], Awaitable[_T]],
        *,
        timeout_s: float | None = None,
        attempt_timeout_s: float = ATTEMPT_TIMEOUT_S,
        forward: bool = False,
        safe: bool = True,
    ) -> _T:
        """Make a unary call at any node, going on to the next one where it fails in a way that may pass.

        Args:
            call: makes it, given the node and the seconds it may take.
            timeout_s: for all attempts together.
            attempt_timeout_s: for one attempt.
            forward: an unknown topic moves on to the next node once, rather than being an error at the first.
            safe: whether it may be repeated when it is not known to have failed.

        Raises:
            RaftlogError: the last attempt's.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (timeout_s or self._request_timeout_s)
        tried, rounds = 0, 0
        error: RaftlogError = LeaderNotAvailableError("no node was asked in time; raise request_timeout_s")
        while (left := deadline - loop.time()) > 0:
            address = self._addresses[0]
            try:
                answer = await call(self._connections.node(address), min(left, attempt_timeout_s))
                self._avoided.discard(address)
                return answer
            except grpc.aio.AioRpcError as rpc_error:
                error = from_rpc_error(rpc_error, address)
            tried += 1
            unknown_topic = isinstance(error, UnknownTopicOrPartitionError)
            if unknown_topic and (not forward or tried >= len(self._addresses)):
                raise error
            if not error.retriable or (not safe and not isinstance(error, UnavailableError)):
                raise error
            self.avoid(address)
            if tried % len(self._addresses) == 0:
                rounds += 1
                wait_s = backoff_s(rounds, self._rng)
                if loop.time() + wait_s >= deadline:
                    break
                await asyncio.sleep(wait_s)
        raise error

    async def one_node(
        self, address: str, call: Callable[[Node, float], Awaitable[_T]], *, timeout_s: float = ATTEMPT_TIMEOUT_S
    ) -> _T:
        """Make a unary call at ``address`` and nowhere else: again for ``REDIAL_S`` where it did not get there.

        Raises:
            RaftlogError
        """
        deadline = asyncio.get_running_loop().time() + REDIAL_S
        while True:
            try:
                return await call(self._connections.node(address), timeout_s)
            except grpc.aio.AioRpcError as rpc_error:
                error = from_rpc_error(rpc_error, address)
            if not isinstance(error, UnavailableError) or asyncio.get_running_loop().time() >= deadline:
                raise error
            await asyncio.sleep(REDIAL_LOOK_S)
