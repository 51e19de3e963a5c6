"""The Kafka door: librdkafka's producer beside the bare replication of batches as large as its own, its consumer (in C, and with
an object of Python for each record) beside its producer, the rebalance of a large group, and what a thousand connections cost
that do nothing.
"""

from __future__ import annotations

import asyncio
import logging
import re
import resource
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from raftlog.client.client import Client
from raftlog.testing import LocalCluster, SyncLocalCluster
from raftlog.testing.process import LocalNode
from tests.bench.bare import bare_cluster, bare_load
from tests.bench.batches import ready_made
from tests.bench.cluster import REPLICAS
from tests.bench.drain import build
from tests.bench.figures import Figure, Pair, Target, compare
from tests.bench.process_facts import cpu_seconds
from tests.bench.processes import answer_of

REBALANCE, CONNECTIONS = "kafka-rebalance", "kafka-connections"
SECONDS_MIN = 3.0
"""A producer needs a second to reach its pace, and the answer counts from its first record."""
MEMBERS, PARTITIONS = 10, 100
CONNECTIONS_IDLE = 1_000
OPENED_AT_ONCE = 50
FILES_SPARE = 500
"""Descriptors beside those of the connections: storage, peers, logs."""
SETTLE_S = 2.0
API_VERSIONS = bytes.fromhex("0000000a 0012 0000 00000001 ffff")
"""A whole request: length, ApiVersions, version 0, correlation id 1, no client id."""
_BATCH_TRIES = 64
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Records of one size."""

    size_bytes: int

    @property
    def produce(self) -> str:
        """Name of the producer's figure."""
        return f"kafka-produce-{self.size_bytes}"

    @property
    def consume(self) -> str:
        """Name of the consumer's figure."""
        return f"kafka-consume-{self.size_bytes}"

    @property
    def consume_in_python(self) -> str:
        """Name of the same figure with a Python object for each record."""
        return f"{self.consume}-in-python"


CASES = (Case(size_bytes=100), Case(size_bytes=1_000))
NAMES = (
    *(name for case in CASES for name in (case.produce, case.consume, case.consume_in_python)),
    REBALANCE,
    CONNECTIONS,
)


@dataclass(frozen=True, slots=True)
class Produced:
    """What a run of the producer came to."""

    records: int
    mb_per_s: float
    """Of batches, as the leader got them."""
    batch_bytes: float
    """The average."""
    record_bytes: float
    """The average share of a batch, so that reading is counted in the same bytes."""


async def measure(names: Sequence[str], directory: Path, *, rounds: int, seconds: float, rebalances: int) -> list[Figure]:
    """The figures of ``names``."""
    figures: list[Figure] = []
    for case in CASES:
        if {case.produce, case.consume, case.consume_in_python} & set(names):
            figures += await _passing(case, names, directory, rounds, max(seconds, SECONDS_MIN))
    if REBALANCE in names:
        figures.append(await _rebalancing(directory, rebalances))
    if CONNECTIONS in names:
        figures.append(await _idling(directory, max(seconds, SECONDS_MIN)))
    return figures


async def _passing(case: Case, names: Sequence[str], directory: Path, rounds: int, seconds: float) -> list[Figure]:
    pairs: list[Pair] = []
    reads: dict[str, list[Pair]] = {case.consume: [], case.consume_in_python: []}
    sizes: list[float] = []
    library = await asyncio.to_thread(build, directory)
    for number in range(rounds):
        home = directory / f"{case.produce}-{number}"
        async with AsyncExitStack() as stack:
            port = await stack.enter_async_context(bare_cluster(home / "bare"))
            cluster = await stack.enter_async_context(LocalCluster(REPLICAS, data_dir=home / "raftlog"))
            # A first short run tells the size that librdkafka's batches have here; the bare side is measured with that.
            first = await produced(cluster, case, "first", seconds / 2)
            before = await _bare(port, first.batch_bytes, seconds / 2)
            ours = await produced(cluster, case, "topic", seconds)
            after = await _bare(port, ours.batch_bytes, seconds / 2)
            pairs.append(Pair(before, ours.mb_per_s, after))
            sizes.append(ours.batch_bytes)
            _log.info("round %d %s: %.4g of %.4g MB/s", number + 1, case.produce, pairs[-1].raftlog, pairs[-1].bare)
            for name, found in reads.items():
                if name in names:
                    mb_per_s = await _consumed(cluster, library if name == case.consume else None, ours)
                    found.append(Pair(ours.mb_per_s, mb_per_s, ours.mb_per_s))
                    _log.info("round %d %s: %.4g MB/s", number + 1, name, mb_per_s)
        await asyncio.to_thread(shutil.rmtree, home)
    figures = []
    if case.produce in names:
        text = f"produce {case.size_bytes} B records by librdkafka, batches of {median(sizes) / 1_000:.0f} KB"
        figures.append(compare(case.produce, text, "MB/s", Target(0.5), pairs))
    how = {case.consume: "in C" if library else "in Python, for there is no cc", case.consume_in_python: "in Python"}
    targets = {case.consume: Target(3.0), case.consume_in_python: None}
    for name, found in reads.items():
        if name in names:
            text = f"consume {case.size_bytes} B records by librdkafka {how[name]}, of producing"
            figures.append(compare(name, text, "MB/s", targets[name], found))
    return figures


async def _consumed(cluster: LocalCluster, library: Path | None, produced: Produced) -> float:
    """MB/s of batches, read from the beginning: by librdkafka alone, or without ``library`` in Python."""
    words = (cluster.kafka, "topic", str(produced.records))
    how = ("consume", *words) if library is None else ("drain", str(library), *words)
    read = await answer_of("tests.bench.kafka_load", *how)
    return read["records"] / read["seconds"] * produced.record_bytes / 1e6


async def produced(cluster: LocalCluster | SyncLocalCluster, case: Case, topic: str, seconds: float) -> Produced:
    """Produce into a new topic of one partition."""
    async with Client(cluster.brokers) as client:
        await client.admin.create_topic(topic, partitions=1, replication_factor=REPLICAS)
    before = await taken(cluster)
    words = (cluster.kafka, topic, str(case.size_bytes), f"{seconds:g}")
    answer = await answer_of("tests.bench.kafka_load", "produce", *words)
    batches, size_bytes = (now - was for now, was in zip(await taken(cluster), before, strict=True))
    records = int(answer["records"])
    return Produced(records, size_bytes / answer["seconds"] / 1e6, size_bytes / batches, size_bytes / records)


async def taken(cluster: LocalCluster | SyncLocalCluster) -> tuple[float, float]:
    """(batches, bytes of batches) that came through the Kafka door of all nodes."""
    pages = [await asyncio.to_thread(metrics_page, node) for node in cluster.nodes.values()]
    names = ("raftlog_kafka_produce_batches_total", "raftlog_kafka_produce_bytes_total")
    batches, size_bytes = (sum(metric(page, name) for page in pages) for name in names)
    return batches, size_bytes


def metrics_page(node: LocalNode) -> str:
    with urlopen(f"http://{node.admin}/metrics", timeout=10) as answer:
        page: bytes = answer.read()
    return page.decode()


def metric(page: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", page, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def _bare(port: int, batch_bytes: float, seconds: float) -> float:
    """The bare replication's MB/s at this size of batch."""
    batch = batch_of(round(batch_bytes))
    in_flight = 8 if len(batch) >= 1 << 19 else 32 if len(batch) >= 1 << 16 else 64  # as tests.bench.publishing has it
    return (await bare_load(port, batch, in_flight, seconds)).mb_per_s(len(batch))


def batch_of(size_bytes: int) -> bytes:
    """A batch of this size, or of a few bytes more where none has it exactly."""
    for more in range(_BATCH_TRIES):
        try:
            return ready_made(size_bytes + more)
        except ValueError:
            continue
    raise ValueError(f"no batch of {size_bytes} to {size_bytes + _BATCH_TRIES} bytes")


async def _rebalancing(directory: Path, rounds: int) -> Figure:
    samples = []
    async with LocalCluster(REPLICAS, data_dir=directory / "rebalance") as cluster, Client(cluster.brokers) as client:
        for number in range(rounds):
            topic = f"rebalance-{number}"
            await client.admin.create_topic(topic, partitions=PARTITIONS, replication_factor=REPLICAS)
            words = (cluster.kafka, topic, str(MEMBERS), str(PARTITIONS))
            answer = await answer_of("tests.bench.kafka_load", "rebalance", *words)
            samples.append(answer["seconds"])
            _log.info("rebalance %d: %.3f s", number + 1, samples[-1])
    return Figure(
        name=REBALANCE, text=f"rebalance of {MEMBERS} members over {PARTITIONS} partitions, from the last join",
        value=median(samples), unit="s", target=Target(1.0, at_most=True), samples=samples,
    )  # fmt: skip


async def _idling(directory: Path, seconds: float) -> Figure:
    allow_files(CONNECTIONS_IDLE + FILES_SPARE)
    async with LocalCluster(REPLICAS, data_dir=directory / "connections") as cluster:
        node = next(iter(cluster.nodes.values()))
        assert node.pid is not None
        async with idle_connections(node.kafka, CONNECTIONS_IDLE):
            await asyncio.sleep(SETTLE_S)
            before = cpu_seconds(node.pid)
            began = asyncio.get_running_loop().time()
            await asyncio.sleep(seconds)
            elapsed = asyncio.get_running_loop().time() - began
            share = 100 * (cpu_seconds(node.pid) - before) / elapsed
    return Figure(
        name=CONNECTIONS, text=f"a node with {CONNECTIONS_IDLE:,} idle Kafka connections", value=share, unit="% of a core",
        target=Target(5.0, at_most=True),
    )  # fmt: skip


@asynccontextmanager
async def idle_connections(address: str, count: int) -> AsyncIterator[None]:
    """Connections that asked for the API versions, as every client does first, and then nothing more."""
    host, _, port = address.rpartition(":")
    writers: list[asyncio.StreamWriter] = []

    async def one() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        writers.append(writer)
        writer.write(API_VERSIONS)
        size_bytes = int.from_bytes(await reader.readexactly(4), "big")
        await reader.readexactly(size_bytes)

    try:
        for first in range(0, count, OPENED_AT_ONCE):
            await asyncio.gather(*(one() for _ in range(min(OPENED_AT_ONCE, count - first))))
        yield
    finally:
        for writer in writers:
            writer.close()


def allow_files(count: int) -> None:
    """Let this process, and the nodes that it starts, open so many files.

    Raises:
        OSError: the hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= count:
        return
    if hard != resource.RLIM_INFINITY and hard < count:
        raise OSError(f"this measurement needs {count} open files, and the hard limit is {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
