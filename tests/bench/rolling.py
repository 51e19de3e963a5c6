"""How long a publisher waits while all nodes are restarted one by one, as for new settings or a new version."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from pathlib import Path
from time import perf_counter
from typing import Any

from confluent_kafka import Producer as KafkaProducer

from raftlog.client.client import Client
from raftlog.client.producer import Producer
from raftlog.testing import LocalCluster
from tests.bench.cluster import REPLICAS
from tests.bench.figures import Figure, Target

NAME = "rolling-restart"
TOPIC = "rolling"
PARTITIONS = 6
"""Each with a publisher of its own, so that every node leads some."""
RECORD = os.urandom(100)
PERIOD_S = 0.005
"""A publisher rests so long between an acknowledgement and its next record."""
CALM_S = 1.0
"""All is quiet for so long before the first restart and after the last one."""
FLUSH_TIMEOUT_S = 60.0
_log = logging.getLogger(__name__)


async def rolling(directory: Path, *, rounds: int) -> list[Figure]:
    """Every node gets SIGTERM, ends by itself and is started again when the one before is ready; ``rounds`` times all of them.

    Raises:
        AssertionError: a node did not end by itself, or a publish failed.
    """
    async with LocalCluster(REPLICAS, data_dir=directory / NAME) as cluster, Client(cluster.brokers) as client:
        await client.admin.create_topic(TOPIC, partitions=PARTITIONS, replication_factor=REPLICAS)
        kafka = KafkaPublisher(cluster.kafka)
        async with client.producer() as producer:
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                publishers = [group.create_task(_publish(producer, number, stop)) for number in range(PARTITIONS)]
                kafka.start()
                await asyncio.sleep(CALM_S)
                for number in range(rounds):
                    for node_id in cluster.nodes:
                        assert await cluster.stop(node_id) == 0, f"node {node_id} did not end by itself"
                        await cluster.start(node_id)
                    _log.info("rolling restart %d of %d", number + 1, rounds)
                await asyncio.sleep(CALM_S)
                stop.set()
            pauses = [publisher.result() for publisher in publishers]
        await asyncio.to_thread(kafka.stop)
    nodes = f"{rounds} × {REPLICAS} nodes restarted one by one"
    return [
        Figure(
            name=NAME, text=f"{nodes} → largest pause of a publisher", value=max(pauses), unit="s",
            target=Target(1.0, at_most=True), samples=pauses, detail=f"the largest of each of {PARTITIONS}",
        ),
        Figure(name=f"{NAME}-kafka", text="the same for librdkafka, as it comes", value=kafka.pause_s, unit="s"),
    ]  # fmt: skip


async def _publish(producer: Producer, partition: int, stop: asyncio.Event) -> float:
    """Publish one record after the other; the longest that one took."""
    longest = 0.0
    while not stop.is_set():
        began = perf_counter()
        await producer.publish(TOPIC, RECORD, partition=partition)
        longest = max(longest, perf_counter() - began)
        await asyncio.sleep(PERIOD_S)
    return longest


class KafkaPublisher:
    """librdkafka in a thread, idempotent: one record after the other to all partitions in turn, without waiting for any."""

    def __init__(self, bootstrap: str) -> None:
        self._producer = KafkaProducer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "log_level": 2})
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stop = threading.Event()
        self._failures: list[str] = []
        self.pause_s = 0.0
        """The longest that a record took."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Publish no more, and wait for all outcomes."""
        self._stop.set()
        self._thread.join()
        assert not self._producer.flush(FLUSH_TIMEOUT_S), "some records of librdkafka have no outcome"
        assert not self._failures, self._failures[:3]

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            began = perf_counter()

            def told(error: Any, _message: Any, began: float = began) -> None:
                if error is not None:
                    self._failures.append(str(error))
                self.pause_s = max(self.pause_s, perf_counter() - began)

            self._producer.produce(TOPIC, RECORD, partition=number % PARTITIONS, on_delivery=told)
            self._producer.poll(PERIOD_S)
            number += 1
