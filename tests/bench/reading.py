"""One cluster with a gigabyte in it: what it cost to publish in memory, and how fast it is read."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc.aio

from raftlog.client.client import Client
from raftlog.client.connections import MESSAGE_BYTES_MAX
from raftlog.client.values import RecordMetadata
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1.log_service_pb2 import SubscribePartition, SubscribeRequest
from raftlog.pb.raftlog.v1.log_service_pb2_grpc import LogServiceStub
from raftlog.pb.raftlog.v1.records_pb2 import EDGE_BEGINNING, Position
from raftlog.testing import LocalCluster
from tests.bench.bare_stream import MESSAGE_BYTES, read_stream
from tests.bench.batches import ready_made
from tests.bench.cluster import REPLICAS, new_topic, stream_to
from tests.bench.figures import Figure, Pair, Target, compare
from tests.bench.process_facts import anonymous_bytes, cpu_seconds
from tests.bench.processes import child

BATCH_BYTES = 128 * 1024
IN_FLIGHT = 32
SUBSCRIBE = "subscribe-1m"
MEMORY = "memory"
PRODUCER = "producer"
IDLE = "idle-cpu"
NAMES = (MEMORY, SUBSCRIBE, PRODUCER, IDLE)
SETTLE_S = 1.0
"""After the last acknowledgement: followers write, and what was allocated for the load goes back."""


async def measure(names: Sequence[str], directory: Path, *, rounds: int, seconds: float, published_bytes: int) -> list[Figure]:
    """The figures of ``names``, on one cluster."""
    figures: list[Figure] = []
    async with LocalCluster(REPLICAS, data_dir=directory / "reading") as cluster, Client(cluster.brokers) as client:
        pids = [node.pid for node in cluster.nodes.values() if node.pid is not None]
        if IDLE in names:
            figures.append(await _idle(pids, seconds))
        tp = await new_topic(client, "gigabyte")
        if MEMORY in names or SUBSCRIBE in names:
            await _publish(client, tp, published_bytes)
            if MEMORY in names:
                await asyncio.sleep(SETTLE_S)
                figures.append(_memory(pids, published_bytes))
        if SUBSCRIBE in names:
            figures.append(await _subscribing(client, tp, rounds, seconds))
        if PRODUCER in names:
            for size_bytes in (100, 1_000):
                figures += await _records(client, size_bytes, seconds)
    return figures


async def _publish(client: Client, tp: TopicPartition, size_bytes: int) -> None:
    batch, waiting = ready_made(BATCH_BYTES), deque[asyncio.Future[Any]]()
    async with stream_to(client, tp) as stream:
        for _ in range(size_bytes // BATCH_BYTES):
            waiting.append(stream.send([(tp, batch)]))
            if len(waiting) >= IN_FLIGHT:
                await waiting.popleft()
        await asyncio.gather(*waiting)


def _memory(pids: Sequence[int], published_bytes: int) -> Figure:
    used = sorted(anonymous_bytes(pid) / 1e6 for pid in pids)
    return Figure(
        name=MEMORY, text=f"memory of a node after {published_bytes / 1e9:.2g} GB, the largest of three",
        value=used[-1], unit="MB", target=Target(90, at_most=True), samples=used,
        detail=" / ".join(f"{one:.0f}" for one in used) + " MB, without mapped file pages",
    )  # fmt: skip


async def _subscribing(client: Client, tp: TopicPartition, rounds: int, seconds: float) -> Figure:
    leader = (await client.admin.describe_topic(tp.topic)).topic.partitions[tp.partition].leader_address
    pairs = []
    async with child("tests.bench.bare_stream") as port:
        for _ in range(rounds):
            before = await read_stream(port, seconds)
            ours = await _subscribe(leader, tp, seconds)
            pairs.append(Pair(before, ours, await read_stream(port, seconds)))
    return compare(SUBSCRIBE, "subscribe from the beginning, 1 MB responses", "MB/s", Target(0.5), pairs)


async def _subscribe(address: str, tp: TopicPartition, seconds: float) -> float:
    """Read from the beginning, again and again, for ``seconds`` in all; megabytes of batches a second."""
    size, spent = 0, 0.0
    one = SubscribePartition(topic=tp.topic, partition=tp.partition, **{"from": Position(edge=EDGE_BEGINNING)})
    request = SubscribeRequest(partitions=[one], max_bytes=MESSAGE_BYTES, direct=True)
    options = [("grpc.max_receive_message_length", MESSAGE_BYTES_MAX)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        while spent < seconds:
            call: Any = LogServiceStub(channel).Subscribe(request)
            message = await call.read()
            began = perf_counter()
            while message.next_offset < message.high_watermark and spent + perf_counter() - began < seconds:
                message = await call.read()
                size += len(message.record_batches)
            spent += perf_counter() - began
            call.cancel()
    return size / spent / 1e6


async def _records(client: Client, size_bytes: int, seconds: float) -> list[Figure]:
    """Records a second through the producer with its defaults, and of the consumer."""
    tp = await new_topic(client, f"records-{size_bytes}")
    values = [os.urandom(size_bytes) for _ in range(1_000)]
    waiting: deque[asyncio.Future[RecordMetadata]] = deque()
    count = 0
    began = perf_counter()
    async with client.producer(compression="none") as producer:
        while perf_counter() < began + seconds:
            for value in values:
                waiting.append(await producer.send(tp.topic, value))
            count += len(values)
            while waiting and (waiting[0].done() or len(waiting) > 50_000):
                await waiting.popleft()
        await producer.flush()
    await asyncio.gather(*waiting)
    published = count / (perf_counter() - began)
    began, read = perf_counter(), 0
    async with client.consumer(tp, follow=False) as consumer:
        async for _ in consumer:
            read += 1
    consumed = read / (perf_counter() - began)
    if read != count:
        raise AssertionError(f"{count} records were acknowledged and {read} read")
    return [
        Figure(name=f"producer-{size_bytes}", text=f"producer, {size_bytes} B records", value=published, unit="/s"),
        Figure(name=f"consumer-{size_bytes}", text=f"consumer, {size_bytes} B records", value=consumed, unit="/s"),
    ]


async def _idle(pids: Sequence[int], seconds: float) -> Figure:
    await asyncio.sleep(SETTLE_S)
    before, began = [cpu_seconds(pid) for pid in pids], perf_counter()
    await asyncio.sleep(seconds)
    elapsed = perf_counter() - began
    shares = [100 * (cpu_seconds(pid) - was) / elapsed for pid, was in zip(pids, before, strict=True)]
    return Figure(name=IDLE, text="an idle node, the largest of three", value=max(shares), unit="% of a core", samples=shares)
