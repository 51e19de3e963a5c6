"""What waits for an outcome is let go with it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from raftlog.broker.pending import Budget, PublishCall
from raftlog.errors import OverloadedError


class Batch:
    """Stands for megabytes."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only reference counts free memory, as between two of the node's rare collections."""
    gc.disable()
    yield
    gc.enable()


def test_a_refused_batch_is_let_go_at_once(no_collector: None) -> None:
    """The error that refused it does not keep it alive: under overload there are more of those than anything else."""

    def publish(batch: Batch, call: PublishCall) -> None:
        try:
            budget.take(2)
        except OverloadedError as error:
            call.settle(0, error)

    budget = Budget(1)
    budget.take(1)
    batch, call = Batch(), PublishCall(1)
    publish(batch, call)
    (outcome,) = call.results()
    assert isinstance(outcome, OverloadedError)
    gone = weakref.ref(batch)
    del batch, call
    assert gone() is None
