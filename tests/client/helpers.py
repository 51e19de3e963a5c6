"""What the client's tests share."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from raftlog.client.client import Client
from raftlog.errors import RaftlogError
from raftlog.records.batch import read_header

from .fake_cluster import FakeCluster, FakeNode, FakePartition

_T = TypeVar("_T")


def client_of(cluster: FakeCluster, *, request_timeout_s: float = 5.0) -> Client:
    """A client with spread, but repeatable retries."""
    return Client(cluster.brokers, request_timeout_s=request_timeout_s, rng=random.Random(1))


def first_asked(cluster: FakeCluster, client: Client) -> FakeNode:
    """The node that the client asks next."""
    return next(node for node in cluster.nodes.values() if node.address == client._routing.addresses[0])


async def until(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds; the test's own timeout bounds it."""
    while not condition():
        await asyncio.sleep(0.005)


def start(coro: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
    """Run ``coro`` beside the test, which awaits it."""
    return asyncio.get_running_loop().create_task(coro)


def values(partition: FakePartition) -> list[bytes | None]:
    """Values of all stored records, in the order of their offsets."""
    return [record.value for record in partition.records()]


def numbered(count: int) -> list[bytes | None]:
    """Distinct values in order."""
    return [b"%d" % number for number in range(count)]


class Script:
    """A fault that plays a list of outcomes, one for each batch that arrives; None lets it pass, as does the list's end.

    ``after`` stores the batch first, so that only the answer is lost.
    """

    def __init__(self, *outcomes: RaftlogError | None, after: bool = False) -> None:
        self._outcomes = list(outcomes)
        self._after = after
        self.sequences: list[int] = []
        self.producers: list[int] = []

    async def __call__(self, node: FakeNode, partition: FakePartition, data: bytes) -> RaftlogError | None:
        header = read_header(data)
        self.sequences.append(header.base_sequence)
        self.producers.append(header.producer_id)
        outcome = self._outcomes.pop(0) if self._outcomes else None
        if outcome is not None and self._after:
            partition.append(data)
        return outcome
