"""Publishing beside the bare replication, case by case: bare, raftlog, bare, close in time, over several rounds.

Each round has three fresh nodes on either side, so that no round profits from, or suffers under, the file of another.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from raftlog.client.client import Client
from raftlog.model import TopicPartition
from raftlog.testing import LocalCluster
from tests.bench.bare import bare_cluster, bare_load
from tests.bench.batches import ready_made
from tests.bench.cluster import REPLICAS, new_topic, packed_load, stream_load, stream_to
from tests.bench.figures import Figure, Pair, Target, compare
from tests.bench.window import Rate

MIB = 1 << 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One load. ``packed`` goes through a producer, the others put one batch into each message of a stream."""

    name: str
    text: str
    size_bytes: int
    in_flight: int
    target: Target
    packed: bool = False
    latency: bool = False

    def of(self, rate: Rate) -> float:
        """What is compared: the median latency, or megabytes a second."""
        return rate.p50_ms if self.latency else rate.mb_per_s(self.size_bytes)

    @property
    def unit(self) -> str:
        """The unit of what is compared."""
        return "ms" if self.latency else "MB/s"


CASES = (
    Case(name="publish-1m", text="publish 1 MB batches, 8 in flight", size_bytes=MIB, in_flight=8, target=Target(0.8)),
    Case(name="publish-128k", text="publish 128 KB batches, 32 in flight", size_bytes=MIB // 8, in_flight=32, target=Target(0.8)),
    Case(name="publish-16k", text="publish 16 KB batches, 64 in flight", size_bytes=MIB // 64, in_flight=64, target=Target(0.45)),
    Case(
        name="packed-16k", text="packed by the client, 16 KB, 64 in flight",
        size_bytes=MIB // 64, in_flight=64, target=Target(0.8), packed=True,
    ),
    Case(
        name="packed-1k", text="packed by the client, 1 KB, 256 in flight",
        size_bytes=1_000, in_flight=256, target=Target(1.0), packed=True,
    ),
    Case(
        name="latency-1k", text="one 1 KB record alone, p50 latency",
        size_bytes=1_000, in_flight=1, target=Target(2.0, at_most=True), latency=True,
    ),
)  # fmt: skip


async def measure(cases: Sequence[Case], directory: Path, *, rounds: int, repeats: int, seconds: float) -> list[Figure]:
    """All ``cases``, in ``rounds`` of fresh nodes, ``repeats`` times in each."""
    pairs: dict[str, list[Pair]] = {case.name: [] for case in cases}
    for number in range(rounds):
        home = directory / f"publishing-{number}"
        async with AsyncExitStack() as stack:
            port = await stack.enter_async_context(bare_cluster(home / "bare"))
            cluster = await stack.enter_async_context(LocalCluster(REPLICAS, data_dir=home / "raftlog"))
            client = await stack.enter_async_context(Client(cluster.brokers))
            for case in cases:
                tp = await new_topic(client, case.name)
                for _ in range(repeats):
                    pair = await _pair(case, port, client, tp, seconds)
                    _log.info("round %d %s: %.4g of %.4g %s", number + 1, case.name, pair.raftlog, pair.bare, case.unit)
                    pairs[case.name].append(pair)
        await asyncio.to_thread(shutil.rmtree, home)  # a fast disk takes 30 GB a round
    return [compare(case.name, case.text, case.unit, case.target, pairs[case.name]) for case in cases]


async def _pair(case: Case, port: int, client: Client, tp: TopicPartition, seconds: float) -> Pair:
    batch = ready_made(case.size_bytes)
    before = await bare_load(port, batch, case.in_flight, seconds)
    ours = await _load(case, client, tp, batch, seconds)
    after = await bare_load(port, batch, case.in_flight, seconds)
    return Pair(case.of(before), case.of(ours), case.of(after))


async def _load(case: Case, client: Client, tp: TopicPartition, batch: bytes, seconds: float) -> Rate:
    async with stream_to(client, tp) as stream:
        if not case.packed:
            return await stream_load(stream, tp, batch, case.in_flight, seconds)
    async with client.producer(idempotence=False, compression="none") as producer:
        return await packed_load(producer, tp, batch, case.in_flight, seconds)
