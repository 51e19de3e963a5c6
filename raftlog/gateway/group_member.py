"""A member of a group, kept by this node for a client: joins, assigns where it leads, syncs, heartbeats.

Rules:

1. A member is patient: what passes by itself (a coordinator that moves, an election, overload) is tried again after a growing,
   bounded pause, until nothing was heard of the coordinator for a session timeout. By then the group has gone on without the
   member, and another node may reach a coordinator that this one cannot.
2. A dynamic member asks for its id before it joins (KIP-394): a join whose answer is lost then leaves no ghost behind that the
   others would have to wait for.
3. What is subscribed to is found anew for each join; ``is_outdated`` says when that would now come out otherwise, or when the
   partitions that the leader has assigned are no longer those that there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from raftlog.broker.group_port import (
    NO_GENERATION,
    CommittedOffset,
    GroupBroker,
    GroupMember,
    JoinedGroup,
    JoinGroup,
    Leaver,
)
from raftlog.broker.port import Broker
from raftlog.core.assignors import catalogue
from raftlog.core.consumer_protocol import PROTOCOL_TYPE, decode_assignment
from raftlog.core.names import is_internal
from raftlog.errors import (
    IllegalGenerationError,
    InvalidRequestError,
    LeaderHint,
    MemberIdRequiredError,
    NotCoordinatorError,
    RaftlogError,
    RebalanceInProgressError,
    UnknownMemberError,
    UnknownTopicOrPartitionError,
)
from raftlog.gateway.group_wire import TOPICS_MAX, Join
from raftlog.model import TopicPartition

RETRY_PAUSE_S_MIN: Final = 0.05
RETRY_PAUSE_S_MAX: Final = 1.0
"""Pauses between attempts: the first is shorter than an election, the last keeps a long outage cheap."""
PATTERN_CHECK_S: Final = 2.0
"""Between looks at all topics for new ones that match: with thousands of topics and hundreds of members each look counts."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assigned:
    """The outcome of a rebalance for this member. ``renewed`` is False where the generation is the one it was in before."""

    generation: int
    assignor: str
    leader: bool
    partitions: frozenset[TopicPartition]
    renewed: bool


class GroupMembership:
    """One member. ``renamed`` is told its id whenever that changes."""

    def __init__(
        self, broker: Broker, groups: GroupBroker, join: Join, *, client_host: str, renamed: Callable[[str], Awaitable[None]]
    ) -> None:
        self._broker = broker
        self._groups = groups
        self._join = join
        self._client_host = client_host
        self._renamed = renamed
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self.member_id = join.member_id
        self.generation = join.generation
        self.assignor = ""
        """The one that the present generation was assigned by; empty before the first."""
        self.is_joining = self._syncing = False
        self._last: frozenset[TopicPartition] = join.owned
        self._matches: dict[str, bool] = {}
        """What the pattern says to each topic's name."""
        self._looked_at = self._loop.time()
        """When all topics were last held against the pattern."""
        self._subscribed: frozenset[str] = frozenset()
        self._counts: dict[str, int] = {}
        """Partitions of all topics of the group, as the leader has assigned them; empty where another member leads."""

    @property
    def is_static(self) -> bool:
        """Whether it keeps its place while it is away."""
        return self._join.instance_id is not None

    async def find_coordinator(self) -> None:
        """Wait until the group has a coordinator, which is this node where the client wants to be ``direct``.

        Raises:
            NotCoordinatorError: it is another; with a hint.
            RaftlogError: it has none for a session timeout, or the group's id is refused.
        """
        node = await self._patiently(lambda: self._groups.find_coordinator(self._join.group_id))
        if self._join.direct and node.node_id != self._broker.node_id:
            raise NotCoordinatorError(
                f"node {node.node_id} coordinates group {self._join.group_id!r}; open the session there",
                hint=LeaderHint(node_id=node.node_id, address=node.grpc_address, term=0),
            )

    async def rebalance(self, owned: Iterable[TopicPartition]) -> Assigned:
        """Join and sync, through as many generations as it takes.

        Args:
            owned: what the client still reads.

        Raises:
            UnknownMemberError: the member is no longer one; ``forget`` it, then join as a new one.
            FencedInstanceError, InconsistentGroupProtocolError, InvalidSessionTimeoutError, GroupFullError: it cannot join.
            RaftlogError: the coordinator was not heard of for a session timeout.
        """
        before = self.generation
        self.is_joining = True
        try:
            while True:
                joined = await self._join_group(tuple(owned))
                self._syncing = True
                try:
                    assignment = await self._sync(joined)
                    break
                except (RebalanceInProgressError, IllegalGenerationError):
                    continue  # somebody else came or went in the meantime
                finally:
                    self._syncing = False
        finally:
            self.is_joining = False
        # Whoever leads may be of another make: what cannot be a partition is none.
        self._last = frozenset(tp for tp in decode_assignment(assignment).partitions if tp.partition >= 0)
        return Assigned(
            generation=joined.generation,
            assignor=joined.protocol,
            leader=joined.leader == joined.member_id,
            partitions=self._last,
            renewed=joined.generation != before,
        )

    async def _join_group(self, owned: tuple[TopicPartition, ...]) -> JoinedGroup:
        self._subscribed = self._wanted()
        while True:
            try:
                joined = await self._patiently(lambda: self._groups.join_group(self._wish(owned)))
            except MemberIdRequiredError as error:
                await self._rename(error.member_id)
                continue
            self.generation, self.assignor = joined.generation, joined.protocol
            await self._rename(joined.member_id)
            return joined

    def _wish(self, owned: tuple[TopicPartition, ...]) -> JoinGroup:
        topics = sorted(self._subscribed)
        return JoinGroup(
            group_id=self._join.group_id,
            member_id=self.member_id,
            instance_id=self._join.instance_id,
            client_id=self._join.client_id,
            client_host=self._client_host,
            protocol_type=PROTOCOL_TYPE,
            protocols=tuple(
                (
                    name,
                    catalogue.metadata_for(name, topics, owned=owned, last=tuple(self._last), generation=self.generation),
                )
                for name in self._join.assignors
            ),
            session_timeout_ms=self._join.session_timeout_ms,
            rebalance_timeout_ms=self._join.rebalance_timeout_ms,
            member_id_required=not self.is_static and not self.member_id,
        )

    async def _rename(self, member_id: str) -> None:
        if member_id != self.member_id:
            self.member_id = member_id
            await self._renamed(member_id)

    async def _sync(self, joined: JoinedGroup) -> bytes:
        assignments: Mapping[str, bytes] = {}
        self._counts = {}
        if joined.leader == joined.member_id:
            members = [
                catalogue.JoinedAs(member_id=one.member_id, instance_id=one.instance_id, metadata=one.metadata)
                for one in joined.members
            ]
            # A group of thousands takes a while; beside the loop, it holds up nobody else.
            topics = await asyncio.to_thread(catalogue.topics_of, members)
            self._counts = self._partition_counts(topics | self._subscribed)
            if not joined.skip_assignment:
                assignments = await asyncio.to_thread(catalogue.assign, joined.protocol, members, dict(self._counts))
        synced = await self._patiently(
            lambda: self._groups.sync_group(
                self._name(), assignments, protocol_type=joined.protocol_type, protocol=joined.protocol
            )
        )
        return synced.assignment

    # What is subscribed to

    def _wanted(self) -> frozenset[str]:
        """The named topics, whether they exist or not, and those that match.

        Raises:
            InvalidRequestError: they are too many.
        """
        pattern = self._join.pattern
        if pattern is None:
            return self._join.topics
        self._looked_at = self._loop.time()
        before, self._matches = self._matches, {}
        for topic in self._broker.topics():
            if not is_internal(topic.name):
                known = before.get(topic.name)
                self._matches[topic.name] = pattern.matches(topic.name) if known is None else known
        matching = [name for name, matches in self._matches.items() if matches]
        if len(matching) > TOPICS_MAX:
            raise InvalidRequestError(
                f"join.pattern matches {len(matching)} topics; a member subscribes to {TOPICS_MAX} at most: narrow the pattern,"
                " or let several groups share the topics"
            )
        return self._join.topics.union(matching)

    def _partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for name in topics:
            try:
                found[name] = len(self._broker.topic(name).partitions)
            except UnknownTopicOrPartitionError:
                found[name] = 0
        return found

    def is_outdated(self) -> bool:
        """Whether topics or partitions have come or gone since the last rebalance, so that there must be another."""
        if self._partition_counts(self._counts) != self._counts:
            return True
        if self._join.pattern is None or self._loop.time() - self._looked_at < PATTERN_CHECK_S:
            return False
        return self._wanted() != self._subscribed

    # As a member of the present generation

    def _name(self) -> GroupMember:
        return GroupMember(
            group_id=self._join.group_id,
            generation=self.generation,
            member_id=self.member_id,
            instance_id=self._join.instance_id,
        )

    async def heartbeat(self) -> None:
        """Say that the member lives.

        Raises:
            RebalanceInProgressError: join again.
            UnknownMemberError, IllegalGenerationError: the member is no longer one.
            RaftlogError: the coordinator was not heard of for a session timeout.
        """
        await self._patiently(lambda: self._groups.heartbeat(self._name()))

    async def commit(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> dict[TopicPartition, RaftlogError | None]:
        """Commit once.

        Raises:
            RebalanceInProgressError: the present generation is over, or not there yet; commit again in a moment.
            RaftlogError: as ``GroupBroker.commit_offsets``.
        """
        if self._syncing:  # the generation is the next one already, and what it gives to whom is not known here
            raise RebalanceInProgressError("the group is being rebalanced; commit again in a moment")
        try:
            return await self._groups.commit_offsets(self._name(), offsets)
        except (UnknownMemberError, IllegalGenerationError) as error:
            if self.is_joining:
                raise RebalanceInProgressError("the group is being rebalanced; commit again in a moment") from error
            raise

    async def committed(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, CommittedOffset]:
        """Committed offsets of these partitions."""
        asked = sorted(tps)
        if not asked:
            return {}
        return await self._patiently(lambda: self._groups.fetch_offsets(self._join.group_id, asked))

    async def leave(self) -> None:
        """Leave the group, unless the member is static. Whether that arrived does not matter: its session will time out."""
        if self.is_static or not self.member_id:
            return
        try:
            await self._groups.leave_group(self._join.group_id, [Leaver(member_id=self.member_id)])
        except RaftlogError:
            return

    def forget(self, error: RaftlogError) -> None:
        """The coordinator does not know the member (any more), or its generation; it joins anew."""
        if isinstance(error, UnknownMemberError):
            self.member_id = ""
        self.generation = NO_GENERATION
        self.assignor = ""

    async def _patiently(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """``call()``, by rule 1."""
        pause_s, failing_since = RETRY_PAUSE_S_MIN, 0.0
        session_timeout_s = self._join.session_timeout_ms / 1_000
        while True:
            try:
                result = await call()
            except RaftlogError as error:
                if not error.retriable:
                    self._heard_at = self._loop.time()
                    raise
                failing_since = failing_since or self._loop.time()  # a join may have waited for longer than the session
                if self._loop.time() - max(self._heard_at, failing_since) >= session_timeout_s:
                    raise
            else:
                self._heard_at = self._loop.time()
                return result
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_PAUSE_S_MAX)
