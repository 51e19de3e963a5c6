"""A consumer that shares its topics with the other members of its group.

Rules:

1. Rebalances happen between two records. What the node says is carried out when the user comes back for the next record (or
   while it waits for one): so no partition goes away while one of its records is being worked on, unless that takes longer than
   ``max_poll_interval_s``.
2. What is committed by itself is what the iteration has moved past: a record counts once the next one is asked for. Whatever
   breaks, a record that was not worked on to its end comes again, to this member or to another: at least once.
3. A revocation is: commit, tell the user, stop reading, acknowledge; then another member may begin. For lost partitions it is:
   tell the user, stop reading.
4. Where the group has not committed, ``auto_offset_reset`` says where to begin, and that place is committed too: a partition that
   was idle must not begin at a later end the next time.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final

from raftlog.client.backoff import backoff_s
from raftlog.client.connections import Connections
from raftlog.client.consumer import Consumer, ConsumerOptions
from raftlog.client.group_admin import GroupAdmin
from raftlog.client.group_options import GroupOptions
from raftlog.client.group_session import Assigned, GroupSession, Revoked
from raftlog.client.group_values import OnPartitions
from raftlog.client.offsets import BEGINNING, END
from raftlog.client.routing import Routing
from raftlog.client.subscription import PartitionState, Subscription
from raftlog.client.values import ConsumedBatch, ConsumedRecord
from raftlog.core.tasks import TaskScope
from raftlog.errors import (
    InvalidConfigError,
    InvalidRequestError,
    OffsetOutOfRangeError,
    RaftlogError,
    RebalanceInProgressError,
    RequestTimedOutError,
)
from raftlog.model import TopicPartition

_log = logging.getLogger(__name__)

REVOKE_COMMIT_TIMEOUT_S: Final = 10.0
"""How long the commit before a revocation, or before closing, may take; without it records come again elsewhere."""
EMPTY_ASSIGNMENT_SETTLES_S: Final = 3.0
"""A consumer that does not follow ends when it has had no partition for so long: with a cooperative assignor a newcomer gets its
partitions in the second of two rebalances."""


class GroupConsumer(Consumer):
    """Reads what its group gives it. Made by ``Client.consumer`` with a ``group``::

        async with client.consumer("events", group="billing") as consumer:
            async for record in consumer:
                await bill(record)

    Records come at least once: again after a crash or a rebalance, from the last commit on. For one task at a time.
    """

    def __init__(
        self,
        subjects: Sequence[str | TopicPartition],
        options: ConsumerOptions,
        group: GroupOptions,
        *,
        routing: Routing,
        connections: Connections,
        tasks: TaskScope,
        rng: random.Random,
        client_id: str,
        request_timeout_s: float,
        on_close: Callable[[Consumer], None],
    ) -> None:
        super().__init__(subjects, options, routing=routing, connections=connections, tasks=tasks, rng=rng, on_close=on_close)
        if self._single:
            raise InvalidConfigError(f"{self._single[0]}: a group gives out partitions by itself; name whole topics")
        self._group = group
        self._client_id = client_id
        self._request_timeout_s = request_timeout_s
        self._session: GroupSession | None = None
        self._committer: asyncio.Task[None] | None = None
        self._settling: asyncio.TimerHandle | None = None
        self._handling: asyncio.Task[Exception | None] | None = None
        self._looking_up = False
        """That task asks where to begin, and has changed nothing yet."""
        self._committing = asyncio.Lock()
        self._generation = -1
        self._committed: dict[TopicPartition, int | None] = {}
        """What is known to be committed of the partitions that are read."""
        self._handed: tuple[PartitionState, int] | None = None
        """The partition and first offset of what the user is working on."""
        self._interrupted = False
        self._waiting = False
        self._asked = False
        """The user has come for a record since the last sign of life."""

    @property
    def member_id(self) -> str:
        """This member's id in the group, empty before it has one."""
        return "" if self._session is None else self._session.member_id

    @property
    def generation(self) -> int:
        """Of the assignment that is read, −1 before the first; the group may be ahead of it while a record is worked on."""
        return self._generation

    # Reading

    def take_ready(self) -> ConsumedRecord | None:
        """The next record where it is at hand already, None where it has to be waited for."""
        records, index, state = self._records, self._index, self._current
        if self._interrupted or index >= len(records) or state is None:
            self._handed = None
            return None
        record = records[index]
        self._handed = (state, record.offset)  # first: what is committed is the lower of this and the position
        self._index = index + 1
        state.position = record.offset + 1
        self._asked = True
        return record

    async def batches(self) -> AsyncIterator[ConsumedBatch]:
        """The same records, in lists of one partition as they came from the node: less work for each record."""
        async for batch in super().batches():
            state = self._states.get(batch.tp)
            if state is not None and batch.records:
                self._handed = (state, batch.records[0].offset)
            self._asked = True
            yield batch
            self._handed = None

    def _is_interrupted(self) -> bool:
        return self._interrupted

    async def _more(self) -> bool:
        self._handed = None
        if self._index >= len(self._records):
            self._end_current()
        if self._closed:
            return False
        await self.start()
        session, subscription = self._session, self._subscription
        assert session is not None
        assert subscription is not None
        self._waiting = True
        try:
            while not self._closed:
                await self._carry_out_news(session)
                if self._index < len(self._records):
                    return True
                session.want()
                fetched = await subscription.next()
                if fetched is not None:
                    self._take(fetched)
                    return True
                if not subscription.attention:
                    break
        finally:
            self._waiting = False
        return False

    def _seen_alive(self) -> bool:
        """Whether the user has asked for a record since the last time, or is waiting for one now."""
        alive, self._asked = self._asked or self._waiting, False
        return alive

    # Beginning and end

    async def start(self) -> None:
        """Join the group; entering the context does it. Partitions come with the first record that is asked for.

        Raises:
            UnknownTopicOrPartitionError: there is no such topic.
            GroupError, InvalidRequestError: the group does not take the member.
        """
        if self._closed:
            raise InvalidRequestError("the consumer is closed; make another one")
        if self._session is not None:
            return
        for topic in self._whole:
            await self._routing.load(topic)
        subscription = self._subscription = Subscription(
            self._states,
            routing=self._routing,
            connections=self._connections,
            tasks=self._tasks,
            rng=self._rng,
            max_bytes=self._options.max_bytes,
            prefetch_bytes=self._options.prefetch_bytes,
            metadata_max_age_s=self._options.metadata_max_age_s,
            unavailable_timeout_s=self._options.unavailable_timeout_s,
            topics_grown=_nothing,
            moved=self._drop_current,
        )
        subscription.endless = True
        session = self._session = GroupSession(
            self._group.joining(self._whole, self._client_id),
            routing=self._routing,
            connections=self._connections,
            tasks=self._tasks,
            rng=self._rng,
            owned=self.assignment,
            alive=self._seen_alive,
            unavailable_timeout_s=self._options.unavailable_timeout_s,
            told=self._told,
        )
        try:
            await session.first_answer()
        except BaseException:
            self._session = self._subscription = None
            await session.close()
            await subscription.close()
            raise
        if self._group.auto_commit:
            self._committer = self._tasks.start(self._commit_now_and_then(), name=f"auto commit {self._group.group}")

    async def close(self) -> None:
        """Commit (with ``auto_commit``), give up the partitions, leave the group. A static member keeps its place."""
        if self._closed:
            return
        self._closed = True
        self._on_close(self)
        session, subscription = self._session, self._subscription
        if session is None or subscription is None:
            return
        try:
            if self._committer is not None:
                self._committer.cancel()
            if self._settling is not None:
                self._settling.cancel()
            if self._handling is not None and self._handling is not asyncio.current_task():
                if self._looking_up:  # which takes as long as a partition has no leader
                    self._handling.cancel()
                await asyncio.wait((self._handling,))
            if self._states:
                await self._give_up(frozenset(self._states), lost=False)
        finally:
            await session.close()
            await subscription.close()

    # Rebalances

    def _told(self) -> None:
        self._interrupted = True
        if self._subscription is not None:
            self._subscription.attention = True
            self._subscription.wake()

    async def _carry_out_news(self, session: GroupSession) -> None:
        """All of it, in a task of its own: a user that stops waiting must not leave half of it undone."""
        while session.has_news or self._handling is not None:
            if self._handling is None:
                error = session.take_error()
                if error is not None:
                    raise error
                self._handling = self._tasks.start(self._carry_out(session), name="rebalance")
            handling = self._handling
            await asyncio.wait((handling,))
            self._handling = None
            if handling.cancelled():
                return  # the consumer is closing
            failure = handling.result()
            if failure is not None:
                raise failure
        self._interrupted = False
        if self._subscription is not None:
            self._subscription.attention = False

    async def _carry_out(self, session: GroupSession) -> Exception | None:
        """The first of the news; why that failed."""
        if not session.news:
            return None  # the stream broke since this was begun, and what it had said is void
        news = session.news.popleft()
        try:
            if isinstance(news, Revoked):
                tps = self.assignment() if news.partitions is None else news.partitions & self.assignment()
                try:
                    await self._give_up(tps, lost=news.lost)
                finally:
                    session.acknowledge(news)
            else:
                await self._take_over(news, session)
        except Exception as error:
            if isinstance(news, Assigned) and isinstance(error, RaftlogError) and session.holds(news):
                session.news.appendleft(news)  # iterating again tries again
            return error
        return None

    async def _give_up(self, tps: frozenset[TopicPartition], *, lost: bool) -> None:
        """Rule 3."""
        try:
            if self._group.auto_commit and not lost:
                await self._commit_dirty(tps, REVOKE_COMMIT_TIMEOUT_S)
        except RaftlogError as error:
            _log.warning("group %s: no commit before giving up partitions, records will come again: %s", self._group.group, error)
        try:
            if tps:
                await _call(self._group.on_lost or self._group.on_revoked if lost else self._group.on_revoked, tps)
        finally:
            self._drop(tps)

    def _drop(self, tps: frozenset[TopicPartition]) -> None:
        for tp in tps:
            state = self._states.pop(tp, None)
            if state is None:
                continue
            state.move(state.position)  # what is on its way no longer counts
            self._committed.pop(tp, None)
            self._drop_current(state)
        if self._subscription is not None:
            if not self._states:
                self._subscription.endless = True  # until there is a new assignment, this is no end
            self._subscription.wake()

    async def _take_over(self, news: Assigned, session: GroupSession) -> None:
        gone = self.assignment() - news.partitions.keys()
        if gone:
            await self._give_up(gone, lost=True)
        added = [tp for tp in news.partitions if tp not in self._states]
        self._looking_up = True
        try:
            starts, ends = await self._look_up({tp: news.partitions[tp] for tp in added})
        finally:
            self._looking_up = False
        if not session.holds(news):
            return  # what was looked up belongs to a stream that broke meanwhile
        self._generation = news.generation
        for tp in added:
            self._committed[tp] = news.partitions[tp]
            self._states[tp] = PartitionState(tp, starts[tp], starts[tp], ends.get(tp), self._options.auto_offset_reset)
        self._settle()
        if added:
            await _call(self._group.on_assigned, frozenset(added))

    async def _look_up(
        self, committed: Mapping[TopicPartition, int | None]
    ) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """Where to begin, and where to end."""
        for topic in {tp.topic for tp in committed}:
            known = self._routing.topic(topic)
            if known is None or any(tp.topic == topic and tp.partition >= len(known.leaders) for tp in committed):
                await self._routing.refresh(topic)
        starts = await self._begins(committed)
        return starts, {} if self._options.follow else await self._list(dict.fromkeys(committed, END))

    async def _begins(self, committed: Mapping[TopicPartition, int | None]) -> dict[TopicPartition, int]:
        """Rule 4."""
        known = {tp: offset for tp, offset in committed.items() if offset is not None}
        missing = [tp for tp in committed if tp not in known]
        if not missing:
            return known
        if self._options.auto_offset_reset == "error":
            tp = missing[0]
            earliest, latest = await self._list({tp: BEGINNING}), await self._list({tp: END})
            raise OffsetOutOfRangeError(
                f"group {self._group.group!r} has no committed offset in {tp}; set auto_offset_reset, or seek the group",
                earliest=earliest[tp],
                latest=latest[tp],
            )
        place = BEGINNING if self._options.auto_offset_reset == "earliest" else END
        return known | await self._list(dict.fromkeys(missing, place))

    def _settle(self) -> None:
        """Without following, the end is where all that was assigned has been read."""
        subscription = self._subscription
        assert subscription is not None
        if self._settling is not None:
            self._settling.cancel()
        if not self._options.follow:
            if self._states:
                subscription.endless = False
            else:
                loop = asyncio.get_running_loop()
                self._settling = loop.call_later(EMPTY_ASSIGNMENT_SETTLES_S, self._end_without_partitions)
        subscription.wake()

    def _end_without_partitions(self) -> None:
        if not self._states and self._subscription is not None:
            self._subscription.endless = False
            self._subscription.wake()

    # Commits

    async def commit(self, offsets: Mapping[TopicPartition, int] | None = None, *, metadata: str = "") -> None:
        """Commit what was handed out, the last record (or batch) included; or these offsets, each the next one to read.

        Durable on a majority when it returns. Waits for a rebalance under way, and for another node where the session broke.

        Raises:
            IllegalGenerationError: of a partition that is no longer this member's; its new owner goes on from the last commit.
            GroupError, RaftlogError: it was not committed within the client's ``request_timeout_s``.
        """
        if self._session is None:
            await self.start()
        wanted = {tp: state.position for tp, state in self._states.items()} if offsets is None else dict(offsets)
        async with self._committing:
            await self._commit(wanted, self._request_timeout_s, metadata)
        if self._handed is not None:
            state, offset = self._handed
            done = wanted.get(state.tp, offset)
            if done > offset:  # the user says so: no later commit goes back behind it
                self._handed = (state, done) if done < state.position else None

    async def committed(self) -> dict[TopicPartition, int | None]:
        """The group's committed offsets in the partitions that are read, None where there is none."""
        tps = self.assignment()
        found = await GroupAdmin(self._routing).group_offsets(self._group.group, tps)
        return {tp: found[tp].committed if tp in found else None for tp in tps}

    async def lag(self) -> dict[TopicPartition, int]:
        """Records between the position and the end of each partition that is read."""
        positions = {tp: state.position for tp, state in self._states.items()}
        ends = await self._list(dict.fromkeys(positions, END))
        return {tp: max(0, ends[tp] - position) for tp, position in positions.items()}

    def _moved_past(self, state: PartitionState) -> int:
        """The offset of ``state`` up to which the user is done (rule 2)."""
        position, handed = state.position, self._handed
        return min(position, handed[1]) if handed is not None and handed[0] is state else position

    async def _commit_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(self._group.auto_commit_interval_s)
            try:
                await self._commit_dirty(self.assignment(), self._group.auto_commit_interval_s)
            except RaftlogError as error:
                _log.debug("group %s: an automatic commit failed, the next one makes up for it: %s", self._group.group, error)

    async def _commit_dirty(self, tps: frozenset[TopicPartition], timeout_s: float) -> None:
        async with self._committing:
            states = [self._states[tp] for tp in tps if tp in self._states]
            wanted = {state.tp: self._moved_past(state) for state in states}
            dirty = {tp: offset for tp, offset in wanted.items() if offset != self._committed.get(tp)}
            if dirty:
                await self._commit(dirty, timeout_s)

    async def _commit(self, wanted: Mapping[TopicPartition, int], timeout_s: float, metadata: str = "") -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        left, attempt = dict(wanted), 0
        refused: RaftlogError | None = None
        while left:
            session, errors = self._session, dict[TopicPartition, RaftlogError]()
            assert session is not None
            try:
                async with asyncio.timeout_at(deadline):
                    outcomes = await session.commit(left, metadata, self._generation)
            except TimeoutError:
                late = RequestTimedOutError(f"no answer within {timeout_s:g} s; the offsets may be committed or not")
                raise refused or late from None
            except RaftlogError as error:
                errors = dict.fromkeys(left, error)
            else:
                errors = {tp: error for tp, error in outcomes.items() if error is not None}
            for tp in left.keys() - errors.keys():
                if tp in self._states:
                    self._committed[tp] = left[tp]
            passing = {tp for tp, error in errors.items() if error.retriable or isinstance(error, RebalanceInProgressError)}
            # One that is refused is told in the end: the others are to be committed all the same.
            refused = refused or next((error for tp, error in errors.items() if tp not in passing), None)
            attempt += 1
            wait_s = backoff_s(attempt, self._rng)
            if passing and loop.time() + wait_s >= deadline:
                raise refused or next(iter(errors.values()))
            left = {tp: left[tp] for tp in errors if tp in passing}
            if left:
                await asyncio.sleep(wait_s)
        if refused is not None:
            raise refused


def _nothing() -> None:
    return


async def _call(callback: OnPartitions | None, tps: frozenset[TopicPartition]) -> None:
    if callback is not None:
        result = callback(tps)
        if inspect.isawaitable(result):
            await result
