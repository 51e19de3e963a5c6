"""Sessions whose client or coordinator is not heard of: who is given up, after which time, and why.

Without gRPC: where a client writes while its stream ends, gRPC may tell it of the write instead of the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest

from raftlog.broker.group_port import Leaver
from raftlog.errors import CoordinatorNotAvailableError, RaftlogError, RebalanceInProgressError, UnknownMemberError
from raftlog.gateway.group_session import QUIET_SHARE, GroupSession
from raftlog.pb.raftlog.v1 import group_service_pb2 as pb
from tests.gateway.fake_broker import FakeBroker
from tests.gateway.fake_groups import FakeGroups
from tests.gateway.helpers import TIMEOUT_S, until

WORKING, PROGRESS = pb.PollSession(working=True), pb.PollSession()


class FakeContext:
    """A stream in memory."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[Any] = asyncio.Queue()
        self.responses: list[pb.SessionResponse] = []

    async def read(self) -> Any:
        return await self.requests.get()

    async def write(self, response: pb.SessionResponse) -> None:
        self.responses.append(response)

    def peer(self) -> str:
        return "ipv4:127.0.0.1:5555"

    def said(self, which: str) -> int:
        """Responses of a kind."""
        return sum(response.WhichOneof("response") == which for response in self.responses)


class Live:
    """A session that has been joined, and what becomes of it."""

    def __init__(self, groups: FakeGroups, context: FakeContext, task: asyncio.Task[None]) -> None:
        self.groups = groups
        self.context = context
        self._task = task

    async def ended(self) -> RaftlogError | None:
        """Why the session ended."""
        await asyncio.wait((self._task,))
        error = self._task.exception()
        if isinstance(error, BaseExceptionGroup):
            [error] = error.exceptions
        assert error is None or isinstance(error, RaftlogError)
        return error

    async def talk(self, poll: pb.PollSession) -> None:
        """Say so again and again until the session ends."""
        while not self._task.done():
            self.context.requests.put_nowait(pb.SessionRequest(poll=poll))
            await asyncio.sleep(0.02)

    async def beats(self, count: int) -> None:
        """Wait for so many more heartbeats."""
        goal = self.groups.calls.count("heartbeat") + count
        await until(lambda: self.groups.calls.count("heartbeat") >= goal or self._task.done())


@asynccontextmanager
async def live(groups: FakeGroups | None = None, **join: Any) -> AsyncIterator[Live]:
    """A session that has topic ``t``."""
    broker, groups, context = FakeBroker(), groups or FakeGroups(), FakeContext()
    broker.add_topic("t", 3)
    wish = pb.JoinSession(group_id="g", topics=["t"], assignors=[pb.ASSIGNOR_RANGE], **join)
    context.requests.put_nowait(pb.SessionRequest(join=wish))
    session: Any = GroupSession(broker, groups, context, asyncio.Event())  # type: ignore[arg-type]
    task = asyncio.get_running_loop().create_task(session.run())
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await until(lambda: context.said("assignment") == 1 or bool(groups.groups and context.said("membership")))
            yield Live(groups, context, task)
    finally:
        task.cancel()
        await asyncio.wait((task,))


@pytest.mark.parametrize("poll", [None, WORKING])
async def test_a_client_that_gets_nothing_done_is_expelled(poll: pb.PollSession | None) -> None:
    """Its node heartbeats, and it may even say that it lives, but nothing gets done: max.poll.interval in Kafka's words."""
    async with live(rebalance_timeout_ms=300) as one:
        if poll is not None:
            await one.talk(poll)
        error = await one.ended()
        assert isinstance(error, UnknownMemberError)
        assert "made no progress for 300 ms" in str(error)
        assert len(one.groups.left) == 1


class SlowToLeave(FakeGroups):
    """The coordinator is another node: it has removed the member before this node hears of it."""

    async def leave_group(self, group_id: str, leavers: Sequence[Leaver], *, direct: bool = False) -> list[RaftlogError | None]:
        outcomes = await super().leave_group(group_id, leavers, direct=direct)
        joins = self.calls.count("join_group")
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await until(lambda: self.calls.count("join_group") > joins)
        return outcomes


async def test_who_is_expelled_does_not_come_back_by_itself() -> None:
    """Not even while the coordinator's answer to its leaving is on its way: the others would wait for a ghost."""
    groups = SlowToLeave()
    async with live(groups, rebalance_timeout_ms=300) as one:
        assert isinstance(await one.ended(), UnknownMemberError)
        assert len(groups.left) == 1
        assert groups.group("g").members == {}
        assert groups.group("g").promised == set()


async def test_a_client_that_makes_progress_stays() -> None:
    """For many times the rebalance timeout."""
    async with live(rebalance_timeout_ms=300, session_timeout_ms=300) as one, asyncio.TaskGroup() as tasks:
        tasks.create_task(one.talk(PROGRESS))
        await one.beats(10)
        assert one.groups.left == []
        one.context.requests.put_nowait(grpc.aio.EOF)
        assert await one.ended() is None
        assert len(one.groups.left) == 1


async def test_a_client_that_falls_silent_loses_its_session_and_leaves_its_member_to_the_coordinator() -> None:
    """Its machine may be gone, and the connection not know it; or it has gone on at another node, as the same member."""
    async with live(session_timeout_ms=600) as one:
        error = await one.ended()
        assert isinstance(error, UnknownMemberError)
        assert "said nothing for 600 ms" in str(error)
        assert one.groups.left == []


async def test_nobody_heartbeats_for_a_client_that_is_quiet_or_joins_again_for_it() -> None:
    """Where the client has gone on at another node, the two sessions would drive each other out for ever."""
    async with live(session_timeout_ms=3_000) as one:
        await one.beats(1)
        await asyncio.sleep(3.0 * QUIET_SHARE + 0.05)
        beats = one.groups.calls.count("heartbeat")
        one.groups.failures["heartbeat"] = [RebalanceInProgressError("join again")]
        await asyncio.sleep(0.7)
        assert (one.groups.calls.count("heartbeat"), one.context.said("revoke")) == (beats, 0)
        one.context.requests.put_nowait(pb.SessionRequest(poll=PROGRESS))
        await until(lambda: one.context.said("revoke") == 1)  # what comes before it joins again


async def test_an_acknowledgement_that_does_not_come_gets_the_client_expelled() -> None:
    """However busy it says that it is; the others go on without it."""
    groups = FakeGroups()
    async with live(groups, rebalance_timeout_ms=1_000) as hung, asyncio.TaskGroup() as tasks:
        tasks.create_task(hung.talk(PROGRESS))
        await until(lambda: hung.context.said("assignment") == 1)
        async with live(groups, rebalance_timeout_ms=60_000) as other:
            await until(lambda: hung.context.said("revoke") == 1)
            error = await hung.ended()
            assert isinstance(error, UnknownMemberError)
            assert "did not acknowledge" in str(error)
            await until(lambda: other.context.said("assignment") == 1)
            [assignment] = [one.assignment for one in other.context.responses if one.HasField("assignment")]
            assert len(assignment.partitions) == 3


async def test_a_coordinator_that_stays_away_ends_the_session() -> None:
    """After a session timeout the client had better try another node; the member is not given up."""
    async with live(session_timeout_ms=600) as one, asyncio.TaskGroup() as tasks:
        tasks.create_task(one.talk(PROGRESS))
        one.groups.failures["heartbeat"] = [CoordinatorNotAvailableError("an election")] * 1_000
        assert isinstance(await one.ended(), CoordinatorNotAvailableError)
        assert one.groups.left == []
