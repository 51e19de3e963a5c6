"""Reads partitions from their leaders into a bounded buffer, wherever the leaders go.

Rules:

1. ``fetched`` of a partition is the offset behind what lies in the buffer; every new stream begins there. So whatever breaks,
   nothing is missed and nothing comes twice.
2. One stream for each leader, with all the partitions it leads (several where a node would refuse so many in one). A stream
   whose set of partitions no longer holds is ended and begun anew.
3. A response enters the buffer only where its partition has not been sought elsewhere since the stream began (``generation``),
   and only when there is room; until then the stream is not read, and gRPC stops the node.
4. A partition is failing from the first failure until it is read again, be there nothing to read: until its stream has stood for
   ``SETTLED_S``. Where a node refuses a stream of several over one of them, it is asked to be patient with each by itself.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import grpc

from raftlog.client.backoff import backoff_s
from raftlog.client.connections import Connections
from raftlog.client.offsets import BEGINNING, END, PARTITIONS_MAX, list_offsets
from raftlog.client.routing import Routing
from raftlog.client.wire_errors import from_rpc_error
from raftlog.core.tasks import TaskScope
from raftlog.errors import (
    IndeterminateError,
    LeaderNotAvailableError,
    NotLeaderError,
    OffsetOutOfRangeError,
    RaftlogError,
    UnknownTopicOrPartitionError,
)
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1.log_service_pb2 import SubscribePartition, SubscribeRequest, SubscribeResponse
from raftlog.pb.raftlog.v1.records_pb2 import Position

Reset = Literal["error", "earliest", "latest"]

SETTLED_S: Final = 1.0
"""A node refuses what it does not lead as soon as it has begun: a stream that has stood for so long was taken as it is."""
LOOKUP_TIMEOUT_S: Final = 10.0
"""For the offsets of partitions that are out of range: an election and then some."""


@dataclass(slots=True, eq=False)
class PartitionState:
    """Where a partition is read. ``position`` ≤ ``fetched``; ``end`` is where to stop, None to follow."""

    tp: TopicPartition
    position: int
    """The next offset to hand to the user."""
    fetched: int
    """The next offset to ask a node for."""
    end: int | None
    reset: Reset
    """What to do when out of range."""
    from_beginning: bool = False
    """It was to be read from its beginning, and nothing of it has come yet: the beginning is where that is by then."""
    generation: int = 0
    """Grows with every seek."""
    failing_since: float | None = None

    @property
    def is_done(self) -> bool:
        """Whether everything up to its end has been fetched."""
        return self.end is not None and self.fetched >= self.end

    def move(self, offset: int) -> None:
        """Go on at ``offset``; what was fetched before no longer counts."""
        self.position = self.fetched = offset
        self.from_beginning = False
        self.generation += 1


class Fetched(NamedTuple):
    """A response in the buffer."""

    state: PartitionState
    generation: int
    data: bytes
    next_offset: int
    high_watermark: int


_Target = tuple[str, int]
"""A leader's address, and which of the streams to it."""
_Partitions = frozenset[tuple[PartitionState, int]]
"""A stream's partitions, each with the generation that it reads."""


class _Stream(NamedTuple):
    partitions: _Partitions
    task: asyncio.Task[None]


class Subscription:
    """Streams, their supervisor and the buffer.

    Args:
        unavailable_timeout_s: how long a partition may fail before its error is told.
        topics_grown: is told when there may be more partitions.
        moved: is told of a partition that goes on elsewhere than its reader was.
    """

    def __init__(
        self,
        states: dict[TopicPartition, PartitionState],
        *,
        routing: Routing,
        connections: Connections,
        tasks: TaskScope,
        rng: random.Random,
        max_bytes: int,
        prefetch_bytes: int,
        metadata_max_age_s: float,
        unavailable_timeout_s: float,
        topics_grown: Callable[[], None],
        moved: Callable[[PartitionState], None],
    ) -> None:
        self._states = states
        self._routing = routing
        self._connections = connections
        self._tasks = tasks
        self._rng = rng
        self._max_bytes = max_bytes
        self._prefetch_bytes = prefetch_bytes
        self._metadata_max_age_s = metadata_max_age_s
        self._unavailable_timeout_s = unavailable_timeout_s
        self._topics_grown, self._moved_elsewhere = topics_grown, moved
        self._loop = asyncio.get_running_loop()
        self._buffer: deque[Fetched] = deque()
        self._buffered_bytes = 0
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._changed = asyncio.Event()
        self._streams: dict[_Target, _Stream] = {}
        self._failures: dict[str, int] = {}
        """Failures in a row by address."""
        self._hold: dict[str, float] = {}
        """When an address may be tried again."""
        self._impatient: set[str] = set()
        """Addresses that have just refused several partitions over one (rule 4)."""
        self._lookups = 0
        self._refreshing: asyncio.Task[None] | None = None
        self._error: RaftlogError | None = None
        self.endless = False
        """More partitions may yet come: not even when there are none to read is this the end."""
        self.attention = False
        """Whoever reads has something else to do first: ``next`` gives None."""
        routing.listeners.add(self._on_routing)
        self._supervisor = tasks.start(self._supervise(), name="consumer supervisor")

    def wake(self) -> None:
        """Positions have changed."""
        self._changed.set()
        self._ready.set()

    async def next(self) -> Fetched | None:
        """The next response; None when all partitions are read to their ends, after ``close``, and on ``attention``.

        Raises:
            RaftlogError: a partition cannot be read. The next call tries again.
        """
        while True:
            if self.attention:
                return None
            while self._buffer:
                fetched = self._buffer.popleft()
                self._buffered_bytes -= len(fetched.data)
                if self._buffered_bytes < self._prefetch_bytes:
                    self._room.set()
                if fetched.generation == fetched.state.generation:
                    return fetched
            if self._supervisor.done() or (not self.endless and all(state.is_done for state in self._states.values())):
                return None
            if self._error is not None:
                error, self._error = self._error, None
                for state in self._states.values():
                    state.failing_since = None
                self._changed.set()
                raise error
            self._ready.clear()
            await self._ready.wait()

    async def close(self) -> None:
        """End all streams."""
        self._routing.listeners.discard(self._on_routing)
        tasks = [self._supervisor, *(stream.task for stream in self._streams.values())]
        if self._refreshing is not None:
            tasks.append(self._refreshing)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self._buffer.clear()
        self._ready.set()

    # The supervisor

    async def _supervise(self) -> None:
        refresh_at = self._loop.time() + self._metadata_max_age_s
        while True:
            self._changed.clear()
            self._topics_grown()
            wanted, unled = self._wanted()
            await self._end_streams(wanted)
            now = self._loop.time()
            wake_at = refresh_at
            for target, partitions in wanted.items():
                if target in self._streams or self._error is not None:
                    continue
                address = target[0]
                if (held_until := self._hold.get(address, 0.0)) > now:
                    wake_at = min(wake_at, held_until)
                    continue
                task = self._tasks.start(self._read(address, partitions), name=f"subscribe {address}")
                self._streams[target] = _Stream(partitions, task)
            if unled:
                self._lookups += 1
                self._refresh({state.tp.topic for state in unled}, backoff_s(self._lookups, self._rng))
            else:
                self._lookups = 0
            if now >= refresh_at:
                refresh_at = wake_at = now + self._metadata_max_age_s
                self._refresh({tp.topic for tp in self._states}, 0.0)
            await self._sleep(wake_at)

    async def _sleep(self, until: float) -> None:
        try:
            async with asyncio.timeout_at(until):
                await self._changed.wait()
        except TimeoutError:
            return

    def _wanted(self) -> tuple[dict[_Target, _Partitions], list[PartitionState]]:
        """The streams that should be, and the partitions without a leader."""
        groups: dict[_Target, list[tuple[PartitionState, int]]] = {}
        counts: dict[str, int] = {}
        unled = []
        for state in self._states.values():
            if state.is_done:
                continue
            address = self._routing.leader_address(state.tp)
            if address:
                count = counts[address] = counts.get(address, -1) + 1
                groups.setdefault((address, count // PARTITIONS_MAX), []).append((state, state.generation))
            else:
                unled.append(state)
        return {target: frozenset(group) for target, group in groups.items()}, unled

    async def _end_streams(self, wanted: dict[_Target, _Partitions]) -> None:
        """End those that read what they should not, or miss what they should; one that only reads ended partitions too stays."""
        ending = []
        for target, stream in list(self._streams.items()):
            should = wanted.get(target, frozenset())
            useless = not should
            if stream.task.done():
                del self._streams[target]
            elif useless or not should <= stream.partitions or any(self._moved(s, g, target[0]) for s, g in stream.partitions):
                stream.task.cancel()
                self._impatient.discard(target[0])
                ending.append(stream.task)
                del self._streams[target]
        if ending:
            await asyncio.wait(ending)

    def _moved(self, state: PartitionState, generation: int, address: str) -> bool:
        return not state.is_done and (state.generation != generation or self._routing.leader_address(state.tp) != address)

    def _on_routing(self, topic: str) -> None:
        if any(tp.topic == topic for tp in self._states):
            self._changed.set()

    def _refresh(self, topics: set[str], wait_s: float) -> None:
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = self._tasks.start(self._refresh_topics(topics, wait_s), name="consumer metadata")

    async def _refresh_topics(self, topics: Iterable[str], wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        for topic in topics:
            error = await self._routing.refresh(topic)
            if isinstance(error, UnknownTopicOrPartitionError):
                if any(tp.topic == topic for tp in self._states):  # it may have been dropped in the meantime
                    self._fail(error)
            elif error is not None:  # nothing to those that are being read
                read = {state for stream in self._streams.values() if not stream.task.done() for state, _ in stream.partitions}
                self._note_failure([s for tp, s in self._states.items() if tp.topic == topic and s not in read], error)
        self._changed.set()

    # One stream

    async def _read(self, address: str, partitions: _Partitions) -> None:
        generations = {(state.tp.topic, state.tp.partition): (state, generation) for state, generation in partitions}
        request = SubscribeRequest(max_bytes=self._max_bytes, direct=len(partitions) == 1 or address not in self._impatient)
        for state, _ in partitions:
            one = SubscribePartition(topic=state.tp.topic, partition=state.tp.partition)
            getattr(one, "from").CopyFrom(Position(offset=state.fetched))
            request.partitions.append(one)
        call: Any = self._connections.node(address).log.Subscribe(request)
        settling: asyncio.TimerHandle | None = None
        try:
            await call.initial_metadata()
            settling = self._loop.call_later(SETTLED_S, self._settled, address, partitions)
            while (response := await call.read()) is not grpc.aio.EOF:
                while self._buffered_bytes >= self._prefetch_bytes:
                    self._room.clear()
                    await self._room.wait()
                self._take(*generations[response.topic, response.partition], response)
                self._failures.pop(address, None)
            error: RaftlogError = IndeterminateError(f"{address} ended the subscription")
        except grpc.aio.AioRpcError as rpc_error:
            error = from_rpc_error(rpc_error, address)
        finally:
            call.cancel()
            if settling is not None:
                settling.cancel()
        refused = settling is None or self._loop.time() < settling.when()
        if refused and request.direct and len(partitions) > 1 and isinstance(error, (NotLeaderError, LeaderNotAvailableError)):
            self._impatient.add(address)
        else:
            self._impatient.discard(address)
        await self._ended(address, [state for state, generation in partitions if state.generation == generation], error)

    def _settled(self, address: str, partitions: _Partitions) -> None:
        self._failures.pop(address, None)
        for state, generation in partitions:
            if state.generation == generation:
                state.failing_since = None

    def _take(self, state: PartitionState, generation: int, response: SubscribeResponse) -> None:
        state.failing_since = None
        if state.generation != generation or response.next_offset <= state.fetched:
            return
        state.fetched, state.from_beginning = response.next_offset, False
        if response.record_batches:
            self._buffer.append(
                Fetched(state, generation, response.record_batches, response.next_offset, response.high_watermark)
            )
            self._buffered_bytes += len(response.record_batches)
        self._ready.set()
        if state.is_done:
            self._changed.set()

    async def _ended(self, address: str, states: list[PartitionState], error: RaftlogError) -> None:
        """A stream broke: decide what its partitions do next."""
        failures = self._failures[address] = self._failures.get(address, 0) + 1
        self._hold[address] = self._loop.time() + backoff_s(failures, self._rng)
        if isinstance(error, OffsetOutOfRangeError):
            try:
                await self._reset(states)
            except RaftlogError as lookup_error:
                self._note_failure(states, lookup_error)
        elif error.retriable:
            hint = error.hint if isinstance(error, NotLeaderError) else None
            if hint is None or len(states) != 1 or not self._routing.apply_hint(states[0].tp, hint):
                self._refresh({state.tp.topic for state in states}, 0.0)
            self._note_failure(states, error)
        else:
            self._fail(error)
        self.wake()  # a reset may have been the end

    def _note_failure(self, states: Iterable[PartitionState], error: RaftlogError) -> None:
        now = self._loop.time()
        for state in states:
            if state.failing_since is None:
                state.failing_since = now
            elif now - state.failing_since >= self._unavailable_timeout_s:
                self._fail(error)

    def _fail(self, error: RaftlogError) -> None:
        self._error = error
        self._ready.set()

    async def _reset(self, states: list[PartitionState]) -> None:
        """One of the stream's partitions is out of range; the error does not say which."""
        tps = [state.tp for state in states]
        earliest = await list_offsets(self._routing, dict.fromkeys(tps, BEGINNING), timeout_s=LOOKUP_TIMEOUT_S)
        latest = await list_offsets(self._routing, dict.fromkeys(tps, END), timeout_s=LOOKUP_TIMEOUT_S)
        for state in states:
            self._reset_one(state, earliest[state.tp].offset, latest[state.tp].offset)

    def _reset_one(self, state: PartitionState, low: int, high: int) -> None:
        if low <= state.fetched <= high:
            return
        reset = "earliest" if state.from_beginning else state.reset
        if low <= state.position <= high:  # the log has lost its end (unclean recovery): what was fetched of that is void
            self._move(state, state.position)
        elif reset == "error":
            self._fail(
                OffsetOutOfRangeError(
                    f"{state.tp}: offset {state.fetched} is out of range, the log has {low} to {high}; "
                    "seek, or set auto_offset_reset",
                    earliest=low,
                    latest=high,
                )
            )
        elif state.fetched < low and state.position < state.fetched:  # what waits in the buffer comes first
            state.fetched = low if reset == "earliest" else high
        else:
            beginning = state.from_beginning
            self._move(state, low if reset == "earliest" else high)
            state.from_beginning = beginning  # it may move on before anything has come

    def _move(self, state: PartitionState, offset: int) -> None:
        state.move(offset)
        self._moved_elsewhere(state)
