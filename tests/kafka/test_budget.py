"""The node's bytes of requests: above the bound one connection at a time goes on, so that none waits for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raftlog.kafka.budget import ReceiveBudget


class Reading:
    """A connection that receives one request of ``size`` and holds it until it is answered."""

    def __init__(self, budget: ReceiveBudget, size: int) -> None:
        self.budget, self.size = budget, size
        self.received = 0
        self.reads = True

    @property
    def whole(self) -> bool:
        return self.received == self.size

    @property
    def is_receiving(self) -> bool:
        return 0 < self.received < self.size

    def regulate(self) -> None:
        self.reads = self.budget.may_read(self)

    def read(self, size: int) -> None:
        taken = min(size, self.size - self.received)
        self.received += taken
        self.budget.change(taken)
        if self.whole:
            self.budget.finished(self)
            self.reads = False
        else:
            self.regulate()

    def answer(self) -> None:
        self.budget.change(-self.size)
        self.size = -1


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.integers(1, 40), st.randoms())
def test_every_request_is_received_in_the_end_whatever_its_neighbours_hold(sizes: list[int], bound: int, random: object) -> None:
    """Even where the halves of all of them together exceed the bound and none is ever answered meanwhile."""
    budget = ReceiveBudget(bound)
    connections = [Reading(budget, size) for size in sizes]
    while not all(one.whole for one in connections):
        able = [one for one in connections if one.reads and not one.whole]
        assert able, "somebody may always go on"
        random.choice(able).read(random.randint(1, 9))  # type: ignore[attr-defined]
    for one in connections:
        one.answer()
    assert budget.held_bytes == 0


def test_who_stopped_goes_on_when_there_is_room() -> None:
    """All of them, in the order in which they stopped."""
    budget = ReceiveBudget(10)
    first, second, third = (Reading(budget, size) for size in (10, 20, 20))
    first.read(10)
    second.read(5)
    third.read(5)
    assert (second.reads, third.reads) == (True, False)
    first.answer()
    budget.change(-2)
    assert third.reads


def test_one_that_goes_away_leaves_its_turn_to_the_next() -> None:
    """Its bytes are counted out by its owner."""
    budget = ReceiveBudget(4)
    gone, waits = Reading(budget, 20), Reading(budget, 20)
    gone.read(5)
    waits.read(5)
    assert (gone.reads, waits.reads) == (True, False)
    budget.finished(gone)
    assert waits.reads


def test_who_has_begun_no_request_does_not_take_the_turn_of_one_that_has() -> None:
    """It may say nothing for hours, while halves of requests fill all the room."""
    budget = ReceiveBudget(10)
    idle, halves = Reading(budget, 5), [Reading(budget, 20) for _ in range(2)]
    budget.change(10)
    idle.regulate()
    assert not idle.reads
    halves[0].read(1)
    halves[1].read(1)
    assert [one.reads for one in halves] == [True, False]
    budget.finished(halves[0])
    assert (halves[1].reads, idle.reads) == (True, False)
    budget.change(-12)
    assert idle.reads
