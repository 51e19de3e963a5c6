"""What tests of restarts and upgrades share: a cluster that is busy at both doors while its nodes are restarted one by one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from raftlog import Client
from raftlog.testing import LocalCluster
from raftlog.testing.proof import NUMBER_HEADER, Place, Seen, verdict
from tests.integration.support import loaded, read_all, until, value_of

GRPC_TOPIC, KAFKA_TOPIC = "by-grpc", "by-kafka"
PARTITIONS = 6
KAFKA_PACE_S = 0.002
FLUSH_TIMEOUT_S = 30.0
POLL_S = 0.05
QUIET = {"log_level": 2}
"""librdkafka tells of every connection that a restarted node closes."""


class KafkaLoad:
    """librdkafka as it comes, idempotent, in a thread: publishes numbered records, and reads them all beside that."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._publish, self._read)]
        self._stop = threading.Event()
        self._read_all = threading.Event()
        self.acknowledged: dict[int, Place] = {}
        self.failed: list[str] = []
        self.read: dict[int, list[Seen]] = {number: [] for number in range(PARTITIONS)}
        self.sent = 0

    def start(self) -> None:
        """Begin both."""
        for thread in self._threads:
            thread.start()

    async def stop(self) -> None:
        """Publish no more, wait for every outcome, and until all of it was read."""
        self._stop.set()
        await asyncio.to_thread(self._threads[0].join)
        await until(lambda: sum(map(len, self.read.values())) >= len(self.acknowledged), "the Kafka consumer read everything")
        self._read_all.set()
        await asyncio.to_thread(self._threads[1].join)

    def _publish(self) -> None:
        producer = Producer({**QUIET, "bootstrap.servers": self._bootstrap, "enable.idempotence": True})
        while not self._stop.is_set():
            number = self.sent
            producer.produce(
                KAFKA_TOPIC, value_of(number), partition=number % PARTITIONS, headers=[(NUMBER_HEADER, b"%d" % number)],
                on_delivery=partial(self._told, number),
            )  # fmt: skip
            self.sent += 1
            producer.poll(KAFKA_PACE_S)
        if producer.flush(FLUSH_TIMEOUT_S):
            self.failed.append("some records have no outcome")

    def _told(self, number: int, error: Any, message: Any) -> None:
        if error is not None:
            self.failed.append(str(error))
        else:
            self.acknowledged[number] = Place(message.partition(), message.offset())

    def _read(self) -> None:
        settings = {"bootstrap.servers": self._bootstrap, "group.id": "unused", "enable.auto.commit": False}
        consumer = Consumer({**QUIET, **settings})
        consumer.assign([TopicPartition(KAFKA_TOPIC, number, OFFSET_BEGINNING) for number in self.read])
        while not self._read_all.is_set():
            message = consumer.poll(POLL_S)
            if message is None:
                continue
            if message.error() is not None:
                self.failed.append(str(message.error()))
                continue
            number = int(dict(message.headers() or [])[NUMBER_HEADER])
            self.read[message.partition()].append(Seen(message.offset(), number, message.value() == value_of(number)))
        consumer.close()


@asynccontextmanager
async def busy(cluster: LocalCluster, client: Client) -> AsyncIterator[None]:
    """Publishers and subscribers of both doors beside the block. No call of theirs may fail, and at its end everything that was
    acknowledged was read once, in order, by each subscriber and by one that comes later."""
    for topic in (GRPC_TOPIC, KAFKA_TOPIC):
        await client.admin.create_topic(topic, partitions=PARTITIONS, replication_factor=3)
    kafka = KafkaLoad(cluster.kafka)
    kafka.start()
    read: dict[int, list[Seen]] = {number: [] for number in range(PARTITIONS)}
    async with client.consumer(GRPC_TOPIC) as consumer:
        subscriber = asyncio.get_running_loop().create_task(_follow(consumer, read))
        try:
            async with loaded(client, GRPC_TOPIC, PARTITIONS) as load:
                yield
                await load.progress(10)
            await until(lambda: sum(map(len, read.values())) >= load.sent, "the gRPC subscriber read everything")
        finally:
            subscriber.cancel()
            await kafka.stop()
    assert not kafka.failed
    assert len(kafka.acknowledged) == kafka.sent > PARTITIONS
    for topic, acknowledged, followed in (
        (GRPC_TOPIC, load.acknowledged, read),
        (KAFKA_TOPIC, kafka.acknowledged, kafka.read),
    ):
        later = await read_all(client, topic, PARTITIONS)
        assert verdict(PARTITIONS, acknowledged, frozenset(), followed).holds
        assert verdict(PARTITIONS, acknowledged, frozenset(), later).holds


async def _follow(consumer: Any, read: dict[int, list[Seen]]) -> None:
    async for record in consumer:
        number = int(dict(record.headers)[NUMBER_HEADER] or b"")
        read[record.partition].append(Seen(record.offset, number, record.value == value_of(number)))


async def stop_in_order(cluster: LocalCluster, node_id: int) -> None:
    """SIGTERM, as systemd and Kubernetes send it; it must leave others to lead, and end by itself."""
    before = cluster.nodes[node_id].log_path.stat().st_size
    assert await cluster.stop(node_id) == 0
    with cluster.nodes[node_id].log_path.open("rb") as log:
        log.seek(before)
        assert b"leadership handed over" in log.read()


async def committed(client: Client) -> dict[tuple[str, int], int]:
    """What is committed now, by topic and partition, as far as the running nodes know."""
    found: dict[tuple[str, int], int] = {}
    for node in (await client.admin.describe_cluster()).nodes:
        if node.alive:
            for replica in (await client.admin.describe_replicas(node.grpc_address)).replicas:
                key = replica.topic, replica.partition
                found[key] = max(found.get(key, 0), replica.commit_index)
    return found
