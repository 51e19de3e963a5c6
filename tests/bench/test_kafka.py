"""What the Kafka door's figures stand on: batches of librdkafka's size, connections that are really open."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from raftlog.testing import SyncLocalCluster
from tests.bench.drain import DrainError, build, drain, librdkafka
from tests.bench.kafka import Case, batch_of, idle_connections, metric, metrics_page, produced, taken
from tests.bench.kafka_load import consume, produce


@pytest.mark.parametrize("size_bytes", [1_000, 23_457, 131_087, 480_123, 999_999])
def test_a_batch_of_any_size_is_made_to_a_few_bytes(size_bytes: int) -> None:
    """librdkafka's average is any number."""
    assert 0 <= len(batch_of(size_bytes)) - size_bytes <= 64


async def test_what_is_produced_is_what_the_nodes_count_and_a_consumer_reads(
    raftlog_cluster_factory: Callable[..., SyncLocalCluster],
) -> None:
    """Records, bytes and batches of one run agree with each other."""
    cluster = raftlog_cluster_factory(nodes=3)
    before = await taken(cluster)
    run = await produced(cluster, Case(size_bytes=100), "counted", 0.3)
    batches, size_bytes = (now - was for now, was in zip(await taken(cluster), before, strict=True))
    assert run.records > 1_000
    assert run.record_bytes == pytest.approx(size_bytes / run.records)
    assert run.batch_bytes == pytest.approx(size_bytes / batches)
    assert 100 < run.record_bytes < 150
    assert consume(cluster.kafka, "counted", run.records)["records"] <= run.records


async def test_a_consumer_in_c_reads_the_same_as_one_in_python(
    raftlog_cluster_factory: Callable[..., SyncLocalCluster], tmp_path: Path
) -> None:
    """Where there is a C compiler; without one the figure is Python's, and says so."""
    cluster = raftlog_cluster_factory(nodes=1)
    produce(cluster.kafka, "drained", 100, 0.2)
    counted = consume(cluster.kafka, "drained", 1_000)
    assert counted["records"] < 1_000
    library = build(tmp_path)
    assert (library is None) == (shutil.which("cc") is None or librdkafka() is None)
    if library is None:
        return
    settings = {"bootstrap.servers": cluster.kafka, "group.id": "unused"}
    drained = await asyncio.to_thread(drain, library, settings, "drained", 1_000, 20.0)
    assert drained["records"] <= 1_000
    assert drained["value_bytes"] >= 100_000
    with pytest.raises(DrainError, match="of 99999999 records"):
        await asyncio.to_thread(drain, library, settings, "drained", 99_999_999, 0.5)
    with pytest.raises(DrainError, match=r"no\.such"):
        await asyncio.to_thread(drain, library, {**settings, "no.such": "x"}, "drained", 1, 1.0)


async def test_idle_connections_are_counted_by_the_node(raftlog_cluster_factory: Callable[..., SyncLocalCluster]) -> None:
    """Each has asked for the versions of the APIs, and stays."""
    cluster = raftlog_cluster_factory(nodes=1)
    [node] = cluster.nodes.values()
    async with idle_connections(node.kafka, 60):
        assert metric(metrics_page(node), "raftlog_kafka_connections") == 60
