"""Publishes that are forwarded reach the leader in the order in which they came, where some take several calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftlog.broker import calls
from raftlog.broker.calls import RemoteBroker
from raftlog.broker.port import Published
from raftlog.errors import RaftlogError, UnavailableError
from raftlog.model import Acks, TopicPartition
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb
from raftlog.peers.port import Payloads
from tests.simulation.loop import VirtualLoop, run

ANSWER_S = 0.02
"""How long the leader takes."""
A, B, C = (TopicPartition(name, 0) for name in "abc")
Partitions = Sequence[TopicPartition]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "FORWARD_BYTES_MAX", 100)


class Leader:
    """The links to a node that leads everything, and what it got: for each batch the number of its request."""

    def __init__(self) -> None:
        self.got: list[tuple[TopicPartition, int]] = []
        self.remote = RemoteBroker(self, margin_s=0.5, timeout_s=5.0)  # type: ignore[arg-type]  # of links only calls
        self.requests = 0

    async def call(
        self, node_id: int, method: str, body: bytes, payloads: Payloads = (), *, timeout_s: float
    ) -> tuple[bytes, list[bytes]]:
        """See ``Peers``: what is sent is there at once, in its order; the answer takes a while."""
        names = [TopicPartition(ref.topic, ref.partition) for ref in pb.PublishCall.FromString(body).partitions]
        self.got += [(name, int.from_bytes(data[:2], "big")) for name, data in zip(names, payloads, strict=True)]
        await asyncio.sleep(ANSWER_S)
        return pb.PublishAnswer(outcomes=[pb.PublishOutcome() for _ in payloads]).SerializeToString(), []

    async def publish(self, partitions: Partitions, size: int = 0, *, timeout_s: float = 5.0) -> list[Published | RaftlogError]:
        """One request, with a batch for each of the partitions."""
        self.requests += 1
        data = self.requests.to_bytes(2, "big") + bytes(size)
        return await self.remote.publish(2, [(tp, data) for tp in partitions], acks=Acks.ALL, timeout_s=timeout_s)

    def order(self, tp: TopicPartition) -> list[int]:
        """The requests whose batches for a partition came, in their order."""
        return [request for name, request in self.got if name == tp]


def test_a_publish_of_several_calls_is_not_overtaken_by_the_next_of_its_partition() -> None:
    """As the requests of one stream are published: each by a task, none waiting for the one before."""

    async def scenario() -> None:
        leader = Leader()
        async with asyncio.TaskGroup() as stream:
            stream.create_task(leader.publish([A] * 5, size=60))
            stream.create_task(leader.publish([A]))
            stream.create_task(leader.publish([A] * 3, size=60))
            stream.create_task(leader.publish([A]))
        assert leader.order(A) == [1, 1, 1, 1, 1, 2, 3, 3, 3, 4]

    run(scenario(), VirtualLoop())


def test_publishes_of_other_partitions_pass() -> None:
    """A partition that takes nothing for long holds up its own only; who waits for it is not overtaken either."""

    async def scenario() -> None:
        leader = Leader()
        async with asyncio.TaskGroup() as stream:
            for partitions, size in (([A] * 3, 60), ([A, B], 0), ([B], 0), ([C], 0)):
                stream.create_task(leader.publish(partitions, size))
            await asyncio.sleep(ANSWER_S / 2)
            assert leader.got == [(A, 1), (C, 4)]
        assert (leader.order(A), leader.order(B)) == ([1, 1, 1, 2], [2, 3])

    run(scenario(), VirtualLoop())


def test_who_waits_does_not_wait_for_answers_to_others_that_wait() -> None:
    """The order is kept by sending: behind a large one the small ones are under way together, as ever."""

    async def scenario() -> None:
        leader = Leader()
        async with asyncio.TaskGroup() as stream:
            stream.create_task(leader.publish([A] * 2, size=60))
            for _ in range(50):
                stream.create_task(leader.publish([A]))
            await asyncio.sleep(1.5 * ANSWER_S)
            assert leader.order(A) == [1, 1, *range(2, 52)], "all are sent before the second call of the first is answered"

    run(scenario(), VirtualLoop())


def test_who_has_no_time_to_wait_is_told_that_nothing_was_sent() -> None:
    """Its time is its caller's; and who stands behind it still has to wait for whom it waited for."""

    async def scenario() -> None:
        leader = Leader()
        async with asyncio.TaskGroup() as stream:
            stream.create_task(leader.publish([A] * 5, size=60))
            late = stream.create_task(leader.publish([A], timeout_s=ANSWER_S / 2))
            stream.create_task(leader.publish([A]))
        assert [type(outcome) for outcome in late.result()] == [UnavailableError]
        assert leader.order(A) == [1] * 5 + [3]

    run(scenario(), VirtualLoop())


def test_a_publish_that_is_cancelled_lets_the_others_go() -> None:
    """Between its calls, or before its first."""

    async def scenario() -> None:
        leader = Leader()
        async with asyncio.TaskGroup() as stream:
            first = stream.create_task(leader.publish([A] * 5, size=60))
            second = stream.create_task(leader.publish([A] * 5, size=60))
            stream.create_task(leader.publish([A]))
            await asyncio.sleep(ANSWER_S / 2)
            second.cancel()
            first.cancel()
        assert leader.order(A) == [1, 3]
        assert not leader.remote._lines._lines

    run(scenario(), VirtualLoop())


REQUEST = st.tuples(
    st.lists(st.sampled_from((A, B, C)), min_size=1, max_size=4),
    st.sampled_from((0, 0, 60)),
    st.sampled_from((0.0, 0.0, 0.001, ANSWER_S)),  # until the next
    st.sampled_from((5.0, 5.0, ANSWER_S, 1.5 * ANSWER_S)),
    st.sampled_from((None, None, 0.0, 0.01, 0.03)),  # cancelled after
)


@settings(max_examples=200)
@given(st.lists(REQUEST, max_size=12))
def test_whatever_comes_late_or_goes_early_each_partition_sees_its_requests_in_order(
    requests: list[tuple[list[TopicPartition], int, float, float, float | None]],
) -> None:
    """And in the end nobody stands in any line."""
    leader = Leader()

    async def stream() -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            for partitions, size, pause_s, timeout_s, cancelled_s in requests:
                task = tasks.create_task(leader.publish(partitions, size, timeout_s=timeout_s))
                if cancelled_s is not None:
                    loop.call_later(cancelled_s, task.cancel)
                if pause_s:
                    await asyncio.sleep(pause_s)

    run(stream(), VirtualLoop())
    for tp in (A, B, C):
        assert leader.order(tp) == sorted(leader.order(tp))
    assert not leader.remote._lines._lines
