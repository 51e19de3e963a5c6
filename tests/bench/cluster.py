"""raftlog's side of a measurement: a topic on a local cluster, its leader, and loads on open publish streams."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import cycle
from time import perf_counter

from raftlog.client.client import Client
from raftlog.client.producer import Producer
from raftlog.client.publish_stream import Outcome, PublishStream
from raftlog.client.values import RecordMetadata
from raftlog.errors import LeaderNotAvailableError, RaftlogError, UnknownTopicOrPartitionError
from raftlog.model import TopicPartition
from tests.bench.window import Rate, Window

REPLICAS = 3
LEADER_TIMEOUT_S = 20.0
_POLL_S = 0.02


async def new_topic(client: Client, name: str) -> TopicPartition:
    """Create a topic of one partition on three nodes."""
    await client.admin.create_topic(name, partitions=1, replication_factor=REPLICAS)
    return TopicPartition(name, 0)


@asynccontextmanager
async def stream_to(client: Client, tp: TopicPartition) -> AsyncIterator[PublishStream]:
    """An open publish stream to the leader of ``tp``, as soon as there is one.

    Raises:
        RaftlogError: there was none for ``LEADER_TIMEOUT_S``.
    """
    deadline = perf_counter() + LEADER_TIMEOUT_S
    while True:
        try:
            stream = await client.publish_stream(tp)
            break
        except (LeaderNotAvailableError, UnknownTopicOrPartitionError):
            if perf_counter() > deadline:
                raise
            await asyncio.sleep(_POLL_S)
    async with stream:
        yield stream


async def stream_load(stream: PublishStream, tp: TopicPartition, batch: bytes, in_flight: int, seconds: float) -> Rate:
    """Publish ``batch`` over and over, each in a message of its own."""
    return await turns_load([(tp, stream)], batch, in_flight, seconds)


async def turns_load(
    targets: Sequence[tuple[TopicPartition, PublishStream]], batch: bytes, in_flight: int, seconds: float
) -> Rate:
    """As ``stream_load``, to one partition after the other."""
    turn = cycle(targets)

    def send(number: int) -> None:
        tp, stream = next(turn)
        stream.send([(tp, batch)]).add_done_callback(partial(settle, number))

    def settle(number: int, future: asyncio.Future[list[Outcome]]) -> None:
        error = future.exception() or next((one for one in future.result() if isinstance(one, RaftlogError)), None)
        if error is not None:
            window.failed(error)
        else:
            window.answered(number)

    window = Window(send, in_flight)
    return await window.run(seconds)


async def packed_load(producer: Producer, tp: TopicPartition, batch: bytes, in_flight: int, seconds: float) -> Rate:
    """Publish ``batch`` over and over through a producer, which packs what waits into one message."""
    free = asyncio.Semaphore(0)
    numbers: deque[int] = deque()

    def send(number: int) -> None:
        numbers.append(number)
        free.release()

    def settle(number: int, future: asyncio.Future[RecordMetadata]) -> None:
        error = future.exception()
        if error is not None:
            window.failed(error)
        else:
            window.answered(number)

    async def feed() -> None:
        while True:
            await free.acquire()
            while numbers:
                number = numbers.popleft()
                future = await producer.send_batch(tp, batch)
                future.add_done_callback(partial(settle, number))

    window = Window(send, in_flight)
    async with asyncio.TaskGroup() as group:
        feeder = group.create_task(feed())
        rate = await window.run(seconds)
        feeder.cancel()
    return rate
