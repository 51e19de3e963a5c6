"""What a handler is given, and small things that all handlers do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from raftlog.broker.group_port import GroupBroker
from raftlog.broker.move_port import MoveBroker
from raftlog.broker.port import Broker
from raftlog.kafka.budget import AnswerBudget
from raftlog.kafka.handlers.refused import RefusedBatches
from raftlog.kafka.handlers.topic_cache import TopicCache
from raftlog.kafka.port import KafkaMetrics, KafkaOptions
from raftlog.kafka.wire import errors
from raftlog.kafka.wire.header import RequestHeader
from raftlog.model import NodeInfo

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

AT_ONCE_MAX: Final = 64
"""Parts of one request (partitions, topics, groups) that are worked on at the same time."""
IN_ONE_GO_MAX: Final = 8
"""Parts that each of them is worked on before others have their turn: a part may be done without waiting for anything."""
TIMEOUT_S_MAX: Final = 600.0
"""A longer timeout of a request is cut to this: its outcome is long unknown to whoever asked."""
ANY_OPERATION: Final = -(1 << 31)
""""Authorized operations" where none are told: there are no rights to speak of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What all calls of a node share. ``groups`` is None where the broker has no consumer groups."""

    broker: Broker
    groups: GroupBroker | None
    moves: MoveBroker
    options: KafkaOptions
    metrics: KafkaMetrics
    topics: TopicCache
    answers: AnswerBudget
    refused: RefusedBatches


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request: who asks, on which listener, and the node that answers."""

    door: Door
    header: RequestHeader
    listener: str
    client_host: str

    @property
    def broker(self) -> Broker:
        """The node's broker."""
        return self.door.broker

    @property
    def version(self) -> int:
        """The request's version."""
        return self.header.version

    def failed(self, error: BaseException, codes: errors.Codes | None = None) -> int:
        """The code of an error, counted."""
        return self.told(error, codes)[0]

    def told(self, error: BaseException, codes: errors.Codes | None = None) -> tuple[int, str]:
        """The code of an error and its words, counted."""
        code, words = errors.describe(error, codes)
        self.door.metrics.error(code)
        return code, words

    def address(self, node: NodeInfo) -> tuple[str, int] | None:
        """Where clients of this call's listener reach a node; None where it has no such listener."""
        for name, address in node.kafka_listeners:
            if name == self.listener:
                host, _, port = address.rpartition(":")
                return host.strip("[]"), int(port)
        return None


async def in_parallel(items: Iterable[_Item], work: Callable[[_Item], Awaitable[_Result]]) -> list[_Result]:
    """``work`` on each item, at most ``AT_ONCE_MAX`` at a time; the results in the items' order. Others have their turns."""
    waiting = list(enumerate(items))
    results: dict[int, _Result] = {}
    if len(waiting) == 1:
        return [await work(waiting[0][1])]
    todo = iter(waiting)

    async def worker() -> None:
        for number, item in todo:
            results[number] = await work(item)
            if number % IN_ONE_GO_MAX == 0:
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(len(waiting), AT_ONCE_MAX)):
            group.create_task(worker())
    return [results[number] for number, _ in waiting]


def seconds(timeout_ms: int) -> float:
    """A request's timeout."""
    return min(max(timeout_ms, 0) / 1_000, TIMEOUT_S_MAX)


Request = Any
"""A request as ``codec.decode_request`` reads it."""
