"""``raftlog bench``: how fast this cluster publishes and is read, through the client, on a topic of its own."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from raftlog.cli.output import Format, counted, print_json, print_table, progress, talk
from raftlog.cli.produce import AcksName, Compression
from raftlog.cli.session import BrokersOption, FormatOption, Session, run, session
from raftlog.core.clock import SystemClock
from raftlog.records.compression import Codec

if TYPE_CHECKING:
    from rich.progress import Progress

    from raftlog.client.client import Client
    from raftlog.client.values import RecordMetadata

IN_FLIGHT_MAX = 50_000
"""Unacknowledged records: enough to keep any cluster busy, few enough for their futures to fit."""
_STEP = 500
"""Records between two looks at the clock when a rate is kept, and two moves of the bar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is published."""

    records: int
    size_bytes: int
    partitions: int
    replication_factor: int
    acks: AcksName
    compression: Compression
    rate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One phase. Latency is from the call of ``send`` to the acknowledgement; None for reading."""

    phase: str
    records: int
    seconds: float
    records_per_s: float
    mb_per_s: float
    latency_ms_p50: float | None = None
    latency_ms_p99: float | None = None
    latency_ms_max: float | None = None


def bench(
    ctx: typer.Context,
    records: Annotated[int, typer.Option(min=1, help="how many")] = 100_000,
    size: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="bytes of each value (random, so they do not compress)")
    ] = 1_000,
    partitions: Annotated[int, typer.Option(min=1, max=10_000, help="of the topic")] = 4,
    replication_factor: Annotated[int, typer.Option(min=0, max=99, help="0: as many as nodes, 3 at most")] = 0,
    acks: Annotated[AcksName, typer.Option(help="what is waited for")] = AcksName.ALL,
    compression: Annotated[Compression, typer.Option(help="of batches")] = Compression.NONE,
    rate: Annotated[
        int, typer.Option(min=0, help="records a second; 0: as many as go, and latency is then that of a full queue")
    ] = 0,
    brokers: BrokersOption = None,
    form: FormatOption = None,
) -> None:
    """Publish records to a new topic, read them all again, delete the topic, and say how fast it went."""
    shared = session(ctx, brokers, form)
    load = Load(
        records=records,
        size_bytes=size,
        partitions=partitions,
        replication_factor=replication_factor,
        acks=acks,
        compression=compression,
        rate=rate,
    )
    results = run(_bench(shared, load))
    if shared.form is Format.JSON:
        for result in results:
            print_json(asdict(result))
        return
    columns = ["phase", "records", "seconds", "records/s", "MB/s", "p50 ms", "p99 ms", "max ms"]
    print_table(columns, [[_rounded(value) for value in asdict(result).values()] for result in results])


async def _bench(shared: Session, load: Load) -> list[Result]:
    topic = f"raftlog-bench-{os.urandom(4).hex()}"
    async with shared.client() as client:
        await client.admin.create_topic(topic, partitions=load.partitions, replication_factor=load.replication_factor)
        what = f"{counted(load.records, 'record')} of {counted(load.size_bytes, 'byte')}"
        talk(f"publishing {what} to {topic}, {counted(load.partitions, 'partition')}")
        try:
            with progress() as bar:
                published = await _publish(client, topic, load, bar)
                read = await _read(client, topic, load, bar)
        finally:
            await client.admin.delete_topic(topic)
    return [published, read]


async def _publish(client: Client, topic: str, load: Load, bar: Progress) -> Result:
    clock, task = SystemClock(), bar.add_task("publishing", total=load.records)
    values = [os.urandom(load.size_bytes) for _ in range(min(load.records, 64))]
    latencies: list[float] = []
    waiting: deque[asyncio.Future[RecordMetadata]] = deque()

    def timed(future: asyncio.Future[RecordMetadata], sent_at: float) -> None:
        future.add_done_callback(lambda _: latencies.append(clock.monotonic_s() - sent_at))

    began = clock.monotonic_s()
    async with client.producer(acks=load.acks.value, compression=Codec[load.compression.name]) as producer:
        for number in range(load.records):
            sent_at = clock.monotonic_s()
            future = await producer.send(topic, values[number % len(values)])
            timed(future, sent_at)
            waiting.append(future)
            if len(waiting) >= IN_FLIGHT_MAX or waiting[0].done():
                await waiting.popleft()
            if number % _STEP == 0:
                bar.update(task, completed=number)
            if load.rate and (ahead := number / load.rate - (clock.monotonic_s() - began)) > 0:
                await asyncio.sleep(ahead)
        await producer.flush()
        while waiting:
            await waiting.popleft()
    return _result("publish", load, clock.monotonic_s() - began, sorted(latencies))


async def _read(client: Client, topic: str, load: Load, bar: Progress) -> Result:
    clock, task = SystemClock(), bar.add_task("reading", total=load.records)
    began, count = clock.monotonic_s(), 0
    async with client.consumer(topic, follow=False) as consumer:
        async for batch in consumer.batches():
            count += len(batch.records)
            bar.update(task, completed=count)
    if load.acks is AcksName.ALL and count != load.records:
        talk(f"read {counted(count, 'record')} where {counted(load.records, 'was', 'were')} acknowledged")
    return _result("read", load, clock.monotonic_s() - began, [], count)


def _result(phase: str, load: Load, seconds: float, latencies: list[float], count: int | None = None) -> Result:
    records = load.records if count is None else count
    return Result(
        phase=phase,
        records=records,
        seconds=round(seconds, 3),
        records_per_s=round(records / seconds, 1),
        mb_per_s=round(records * load.size_bytes / seconds / 1e6, 2),
        latency_ms_p50=percentile_ms(latencies, 0.5),
        latency_ms_p99=percentile_ms(latencies, 0.99),
        latency_ms_max=percentile_ms(latencies, 1.0),
    )


def percentile_ms(ordered_s: list[float], share: float) -> float | None:
    """The value below which ``share`` of the (sorted) seconds lie, in milliseconds; None of nothing."""
    if not ordered_s:
        return None
    return round(ordered_s[min(len(ordered_s) - 1, int(share * len(ordered_s)))] * 1_000, 3)


def _rounded(value: object) -> object:
    return round(value, 1) if isinstance(value, float) else value
