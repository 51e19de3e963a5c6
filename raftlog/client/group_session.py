"""The consumer's end of a group session: one stream to any node, opened anew at another where it breaks.

Rules:

1. What the node says about partitions becomes news, in its order; the consumer carries it out between two records, and
   acknowledges on the stream that it came from.
2. The session is best with the node that coordinates the group: joins wait long, and what a node forwards of them is bounded.
   When a stream breaks the consumer reads on. The next stream is opened with the member id, the generation and what is still
   read, so that the member goes on where it was. Assignments and revocations of the broken stream that were not carried out are
   void: the new one says what holds now.
3. Nothing heard for a session timeout means that others may read the partitions by now: they are lost, as they are where the node
   says so.
4. A commit is answered, or fails with its stream: its outcome is unknown then, and it may be sent again.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc

from raftlog.client.backoff import backoff_s
from raftlog.client.connections import Connections
from raftlog.client.group_admin import outcomes_of, wire_offsets, wire_partitions
from raftlog.client.routing import Routing
from raftlog.client.wire_errors import from_rpc_error
from raftlog.core.tasks import TaskScope
from raftlog.errors import (
    IndeterminateError,
    NotCoordinatorError,
    RaftlogError,
    RequestTimedOutError,
    UnavailableError,
    UnknownMemberError,
)
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1 import group_service_pb2 as pb

FIRST_ANSWER_TIMEOUT_S: Final = 10.0
"""A node that has not found the group's coordinator by then is left for another: an election takes two seconds at worst."""
POLL_S_MAX: Final = 3.0
"""Between signs of life, at most."""
POLLS_PER_TIMEOUT: Final = 3
"""So many signs of life fit into the shortest timeout: one may come late."""
DIRECT_FAILURES_MAX: Final = 3
"""After so many vain attempts to reach the group's coordinator itself, any node will do that can reach it."""
CLOSE_TIMEOUT_S: Final = 5.0
"""How long leaving the group may take; without an answer its session times out."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """All that the member has in a generation, each with its committed offset (None where there is none)."""

    partitions: dict[TopicPartition, int | None]
    generation: int
    stream: object


@dataclass(frozen=True, slots=True)
class Revoked:
    """To be given up, or lost already; everything where ``partitions`` is None."""

    partitions: frozenset[TopicPartition] | None
    lost: bool
    revoke_id: int = 0
    stream: object = None


News = Assigned | Revoked


class GroupSession:
    """Keeps the member alive in the background.

    Args:
        join: the wish, without what a broken stream left behind.
        owned: what the consumer reads.
        alive: whether the user has asked for records since the last time, or is waiting for one.
        unavailable_timeout_s: how long no node may take the member in before that is an error.
        told: is called when there is news, or an error; must not block.
    """

    def __init__(
        self,
        join: pb.JoinSession,
        *,
        routing: Routing,
        connections: Connections,
        tasks: TaskScope,
        rng: random.Random,
        owned: Callable[[], frozenset[TopicPartition]],
        alive: Callable[[], bool],
        unavailable_timeout_s: float,
        told: Callable[[], None],
    ) -> None:
        self._join = join
        self._routing = routing
        self._connections = connections
        self._tasks = tasks
        self._rng = rng
        self._owned = owned
        self._alive = alive
        self._unavailable_timeout_s = unavailable_timeout_s
        self._told = told
        self._loop = asyncio.get_running_loop()
        self.news: deque[News] = deque()
        self.address = ""
        """Of the node that keeps the member, or is asked to."""
        self.member_id = ""
        self.generation = -1
        self._error: RaftlogError | None = None
        self._ended: RaftlogError | None = None
        """Why the member is none, until the user wants records again."""
        self._stream: Any = None
        self._outgoing: deque[pb.SessionRequest | None] = deque()
        """For the stream's writer, None to end our side. A speaker may be cancelled; a cancelled write would end the stream.
        Holds what the consumer waits for, and one poll at most."""
        self._wake_writer = asyncio.Event()
        self._answered = asyncio.Event()
        self._wanted = asyncio.Event()
        """The user wants records: a session that ended for good is begun anew."""
        self._closing = False
        self._next_commit = 1
        self._commits: dict[int, asyncio.Future[dict[TopicPartition, RaftlogError | None]]] = {}
        self._losing: asyncio.TimerHandle | None = None
        self._task = tasks.start(self._run(), name=f"group session {join.group_id}")

    @property
    def has_news(self) -> bool:
        """Whether there is something to carry out, or an error to raise."""
        return bool(self.news) or self._error is not None

    def take_error(self) -> RaftlogError | None:
        """Why the session ended for good, once; wanting more begins another."""
        error, self._error = self._error, None
        return error

    def want(self) -> None:
        """The user asks for records."""
        self._wanted.set()

    def holds(self, assigned: Assigned) -> bool:
        """Whether nothing has broken since this was said (rule 2)."""
        return assigned.stream is self._stream

    async def first_answer(self) -> None:
        """Wait until a node has taken the member in.

        Raises:
            RaftlogError: it was refused.
        """
        await self._answered.wait()
        error = self.take_error()
        if error is not None:
            raise error

    async def commit(
        self, offsets: Mapping[TopicPartition, int], metadata: str, generation: int
    ) -> dict[TopicPartition, RaftlogError | None]:
        """Commit once, an outcome for each partition; ``generation`` is that of the assignment which the consumer goes by.

        Raises:
            GroupError: the member is none any more.
            UnavailableError: there is no stream just now.
            IndeterminateError: the stream broke before it was answered.
        """
        if self._ended is not None:
            raise self._ended
        if self._stream is None or not self._answered.is_set():
            raise UnavailableError("the group session is being opened again; commit in a moment")
        commit_id = self._next_commit
        self._next_commit += 1
        future: asyncio.Future[dict[TopicPartition, RaftlogError | None]] = self._loop.create_future()
        self._commits[commit_id] = future
        try:
            request = pb.CommitSession(commit_id=commit_id, offsets=wire_offsets(offsets, metadata), generation=generation)
            self._send(pb.SessionRequest(commit=request))
            return await future
        finally:
            self._commits.pop(commit_id, None)

    def acknowledge(self, revoked: Revoked) -> None:
        """Say that what was to be revoked is no longer read."""
        if revoked.stream is not None and revoked.stream is self._stream:
            self._send(pb.SessionRequest(revoked=pb.AcknowledgeRevoke(revoke_id=revoked.revoke_id)))

    async def close(self) -> None:
        """Leave the group (a static member does not), within ``CLOSE_TIMEOUT_S``."""
        self._closing = True
        self._wanted.set()
        if self._stream is not None and self._answered.is_set() and not self._task.done():
            self._send(None)
            await asyncio.wait((self._task,), timeout=CLOSE_TIMEOUT_S)
        self._task.cancel()
        await asyncio.wait((self._task,))
        if self._losing is not None:
            self._losing.cancel()

    # The streams, one after the other

    async def _run(self) -> None:
        failures, failing_since, hinted = 0, self._loop.time(), ""
        while not self._closing:
            address = hinted or self._routing.any_address(spread=not failures)
            error = await self._serve(address, direct=failures < DIRECT_FAILURES_MAX)
            if self._answered.is_set():
                failures, failing_since = 0, self._loop.time()
            failures += 1
            self._broke(error)
            if self._closing:
                return
            hinted = error.hint.address if isinstance(error, NotCoordinatorError) and error.hint is not None else ""
            if hinted and failures == 1:
                continue
            if error.retriable:
                self._routing.avoid(address)
                if self._loop.time() - failing_since >= self._unavailable_timeout_s:
                    self._fail(error)
                    failing_since = self._loop.time()
                await asyncio.sleep(backoff_s(failures, self._rng))
                continue
            self._ended = error
            self._lose()
            self.member_id = ""
            self._wanted.clear()
            if isinstance(error, UnknownMemberError):
                self._told()
            else:
                self._fail(error)
            await self._wanted.wait()
            self._ended = None
            failures, failing_since, hinted = 0, self._loop.time(), ""

    def _fail(self, error: RaftlogError) -> None:
        self._error = error
        self._answered.set()
        self._told()

    async def _serve(self, address: str, *, direct: bool) -> RaftlogError:
        """One stream, to its end."""
        self.address = address
        stream: Any = self._connections.node(address).groups.Session()
        self._stream = stream
        self._answered.clear()
        self._outgoing.clear()
        self._send(pb.SessionRequest(join=self._joining(direct=direct)))
        helpers = [
            self._tasks.start(self._write(stream), name=f"group writer {address}"),
            self._tasks.start(self._poll(), name=f"group poll {address}"),
        ]
        try:
            async with asyncio.timeout(FIRST_ANSWER_TIMEOUT_S):
                response = await stream.read()
            while response is not grpc.aio.EOF:
                self._take(response, stream)
                response = await stream.read()
        except TimeoutError:
            return RequestTimedOutError(f"{address} did not take the member in within {FIRST_ANSWER_TIMEOUT_S:g} s")
        except grpc.aio.AioRpcError as rpc_error:
            return from_rpc_error(rpc_error, address)
        finally:
            for helper in helpers:
                helper.cancel()
            stream.cancel()
        return IndeterminateError(f"{address} ended the group session")

    def _joining(self, *, direct: bool) -> pb.JoinSession:
        join = pb.JoinSession()
        join.CopyFrom(self._join)
        join.member_id, join.direct = self.member_id, direct
        owned = self._owned()
        for one in self.news:
            if isinstance(one, Revoked):  # lost; nothing else outlives its stream
                owned -= owned if one.partitions is None else one.partitions
        if owned:
            join.generation = self.generation
            join.owned.extend(wire_partitions(sorted(owned)))
        return join

    def _send(self, request: pb.SessionRequest | None) -> None:
        self._outgoing.append(request)
        self._wake_writer.set()

    async def _write(self, stream: Any) -> None:
        try:
            while True:
                while self._outgoing:
                    request = self._outgoing.popleft()
                    if request is None:
                        await stream.done_writing()
                        return
                    await stream.write(request)
                self._wake_writer.clear()
                await self._wake_writer.wait()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # whoever reads the stream is told why

    async def _poll(self) -> None:
        shortest_ms = min(self._join.session_timeout_ms, self._join.rebalance_timeout_ms)
        pause_s = min(POLL_S_MAX, shortest_ms / 1_000 / POLLS_PER_TIMEOUT)
        while True:
            await asyncio.sleep(pause_s)
            if not self._outgoing:
                self._send(pb.SessionRequest(poll=pb.PollSession(working=not self._alive())))

    def _take(self, response: pb.SessionResponse, stream: Any) -> None:
        self._answered.set()
        if self._losing is not None:
            self._losing.cancel()
            self._losing = None
        which = response.WhichOneof("response")
        if which == "membership":
            self.member_id = response.membership.member_id
        elif which == "committed":
            future = self._commits.get(response.committed.commit_id)
            if future is not None and not future.done():
                future.set_result(outcomes_of(response.committed.results))
        elif which == "assignment":
            self.generation = response.assignment.generation
            partitions = {
                TopicPartition(one.topic, one.partition): one.committed_offset if one.HasField("committed_offset") else None
                for one in response.assignment.partitions
            }
            self.news.append(Assigned(partitions, response.assignment.generation, stream))
            self._told()
        elif which == "revoke":
            wire = response.revoke
            tps = frozenset(TopicPartition(one.topic, one.partition) for one in wire.partitions)
            self.news.append(Revoked(tps, wire.lost, wire.revoke_id, None if wire.lost else stream))
            self._told()

    def _broke(self, error: RaftlogError) -> None:
        """Rules 2 to 4."""
        self._stream = None
        kept = [one for one in self.news if isinstance(one, Revoked) and one.lost]
        self.news.clear()
        self.news.extend(kept)
        commits, self._commits = self._commits, {}
        for future in commits.values():
            if not future.done():
                future.set_exception(IndeterminateError(f"the group session broke before the commit was answered: {error}"))
        if self._losing is None:
            self._losing = self._loop.call_later(self._join.session_timeout_ms / 1_000, self._lose)

    def _lose(self) -> None:
        if self._losing is not None:
            self._losing.cancel()
            self._losing = None
        self.generation = -1
        if self._owned():
            self.news.append(Revoked(None, lost=True))
            self._told()
