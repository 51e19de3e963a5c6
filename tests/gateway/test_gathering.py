"""Which requests of a stream share a call of the broker."""

from __future__ import annotations

import asyncio
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.gateway import gathering
from raftlog.gateway.gathering import GATHERED_BYTES, GATHERED_ITEMS, Gathering, Request
from raftlog.gateway.publish import Prepared
from raftlog.model import Acks, TopicPartition
from tests.gateway.helpers import until

A, B = TopicPartition("t", 0), TopicPartition("t", 1)


def request(number: int, *partitions: TopicPartition, acks: Acks = Acks.ALL, size_bytes: int = 100) -> Request:
    """A request with a batch for each of these partitions."""
    batches = [(tp, b"") for tp in partitions]
    prepared = Prepared(acks, 30.0, True, 0.0, [None] * len(batches), batches, [(n,) for n in range(len(batches))])
    return Request(number, prepared, size_bytes)


class Calls:
    """What has left, call by call."""

    def __init__(self) -> None:
        self.made: list[tuple[TopicPartition | None, list[int]]] = []
        self.gathering = Gathering(lambda tp, requests: self.made.append((tp, [one.correlation_id for one in requests])))

    def take(self, *requests: Request) -> None:
        """All of them, one after the other."""
        for one in requests:
            self.gathering.take(one)


async def test_what_has_nothing_ahead_of_it_leaves_at_once() -> None:
    """Also behind calls that were answered."""
    calls = Calls()
    for number in range(3):
        calls.take(request(number, A))
        assert calls.made[-1] == (A, [number])
        calls.gathering.answered(A)


async def test_what_comes_meanwhile_leaves_together_when_the_call_is_answered() -> None:
    """In the order in which it came; and so on."""
    calls = Calls()
    calls.take(*[request(number, A) for number in range(4)])
    assert calls.made == [(A, [0])]
    calls.gathering.answered(A)
    calls.take(request(4, A))
    assert calls.made == [(A, [0]), (A, [1, 2, 3])]
    calls.gathering.answered(A)
    assert calls.made[2:] == [(A, [4])]


async def test_another_partition_does_not_wait() -> None:
    """It has a line of its own."""
    calls = Calls()
    calls.take(request(0, A), request(1, A), request(2, B))
    assert calls.made == [(A, [0]), (B, [2])]


async def test_what_is_enough_for_an_entry_does_not_wait() -> None:
    """Whether it came so, or has come together."""
    calls = Calls()
    calls.take(request(0, A), request(1, A, size_bytes=GATHERED_BYTES))
    assert calls.made == [(A, [0]), (A, [1])]
    calls.take(request(2, A, size_bytes=GATHERED_BYTES // 2), request(3, A), request(4, A, size_bytes=GATHERED_BYTES // 2))
    assert calls.made[2:] == [(A, [2, 3, 4])]


async def test_no_call_has_more_items_than_the_loop_can_take_in_one_step() -> None:
    """Small as they may be; a single request has a limit of its own."""
    calls = Calls()
    many = [A] * (GATHERED_ITEMS // 2)
    calls.take(request(0, A), request(1, *many), request(2, *many), request(3, A), request(4, *many * 3))
    assert calls.made == [(A, [0]), (A, [1, 2]), (A, [3])]
    for _ in range(3):
        calls.gathering.answered(A)
    assert calls.made[3:] == [(A, [4])]


async def test_requests_on_other_terms_share_no_call() -> None:
    """A call has one kind of acks; those before leave first."""
    calls = Calls()
    calls.take(request(0, A), request(1, A), request(2, A), request(3, A, acks=Acks.LEADER), request(4, A, acks=Acks.LEADER))
    calls.gathering.answered(A)
    calls.gathering.answered(A)
    assert calls.made == [(A, [0]), (A, [1, 2]), (A, [3, 4])]


async def test_a_request_for_several_partitions_goes_by_itself_behind_what_was_gathered() -> None:
    """It overtakes nothing, and does not wait for one partition with what it has for another."""
    calls = Calls()
    calls.take(request(0, A), request(1, A), request(2, B), request(3, B), request(4, A, B), request(5, A))
    assert calls.made == [(A, [0]), (B, [2]), (A, [1]), (B, [3]), (None, [4])]
    for tp in (None, A, A, B, B):
        calls.gathering.answered(tp)
    assert calls.made[5:] == [(A, [5])]


async def test_a_call_that_takes_long_does_not_keep_what_is_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves after a while, for its own time limit runs at the broker."""
    monkeypatch.setattr(gathering, "GATHERED_S", 0.001)
    calls = Calls()
    calls.take(request(0, A), request(1, A), request(2, A))
    await until(lambda: len(calls.made) > 1)
    assert calls.made == [(A, [0]), (A, [1, 2])]


async def test_nothing_leaves_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream is over: nobody waits for it."""
    monkeypatch.setattr(gathering, "GATHERED_S", 0.0)
    calls = Calls()
    calls.take(request(0, A), request(1, A))
    calls.gathering.close()
    due = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.0, due.set_result, None)
    await due
    assert calls.made == [(A, [0])]


class Tracked(Request):
    """One that can be watched, as those with slots cannot."""


async def test_nothing_is_kept_after_the_end() -> None:
    """Megabytes of batches would wait for the garbage collector else."""
    calls = Calls()
    one = request(1, A)
    tracked = Tracked(1, one.prepared, one.size_bytes)
    watched = weakref.ref(tracked)
    calls.take(request(0, A), tracked)
    del tracked
    assert watched() is not None
    calls.gathering.close()
    assert watched() is None


steps = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from([(A,), (B,), (A, A), (A, B)]), st.sampled_from([100, GATHERED_BYTES // 2]), st.sampled_from(Acks)
        ),
        st.sampled_from([A, B]),
    ),
    max_size=40,
)


@given(steps)
def test_whatever_comes_every_request_leaves_once_and_in_the_order_of_its_partition(
    todo: list[tuple[tuple[TopicPartition, ...], int, Acks] | TopicPartition],
) -> None:
    """Requests and answers in any order; when all is answered, nothing is left."""

    async def play() -> None:
        calls, partitions = Calls(), dict[int, set[TopicPartition]]()

        def answer(tp: TopicPartition) -> bool:
            under_way = [one for one, _ in calls.made].count(tp) - answers[tp]
            if under_way:
                answers[tp] += 1
                calls.gathering.answered(tp)
            return bool(under_way)

        answers = {A: 0, B: 0}
        for step in todo:
            if isinstance(step, TopicPartition):
                answer(step)
                continue
            its, size_bytes, acks = step
            number = len(partitions)
            partitions[number] = set(its)
            calls.take(request(number, *its, acks=acks, size_bytes=size_bytes))
        while answer(A) or answer(B):
            pass
        for tp in (A, B):
            left = [number for _, numbers in calls.made for number in numbers if tp in partitions[number]]
            assert left == [number for number in partitions if tp in partitions[number]]
        assert sum(len(numbers) for _, numbers in calls.made) == len(partitions)
        calls.gathering.close()

    asyncio.run(play())
