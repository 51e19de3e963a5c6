"""librdkafka's side of a measurement, in a process of its own: prints one line of JSON.

``produce ADDRESS TOPIC SIZE SECONDS``, ``consume ADDRESS TOPIC COUNT``, ``drain LIBRARY ADDRESS TOPIC COUNT`` (the same without
Python, see ``drain``) or ``rebalance ADDRESS TOPIC MEMBERS PARTITIONS``, behind the pid of the process that wants to know. The
client is as it comes, with acks=all (its default) and its default batching.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition

from raftlog.testing.child import die_with_parent
from tests.bench.drain import drain

AT_ONCE = 1_000
"""Records handed over in one call: enough that Python costs little, few enough that the queue is kept full."""
FLUSH_TIMEOUT_S = 60.0
READ_TIMEOUT_S = 120.0
SETTLE_TIMEOUT_S = 60.0
QUEUE_BACKOFF_MS = 5
"""librdkafka pauses fetching for 1 s by default once it holds 100,000 records, whatever the node could give meanwhile."""
HEARTBEAT_MS = 100
"""Members hear of a rebalance by their next heartbeat; by librdkafka's default of 3 s, this would be what is measured."""


def produce(address: str, topic: str, size_bytes: int, seconds: float) -> dict[str, float]:
    """Records that do not compress, as many as are taken within ``seconds``; the time ends with the last acknowledgement."""
    failures: list[Any] = []

    def told(error: Any, _message: Any) -> None:
        if error is not None:
            failures.append(error)

    producer = Producer({"bootstrap.servers": address, "queue.buffering.max.kbytes": 262_144, "delivery.report.only.error": True})
    records = [{"value": os.urandom(size_bytes)} for _ in range(AT_ONCE)]
    producer.list_topics(topic, timeout=FLUSH_TIMEOUT_S)
    sent, began = 0, perf_counter()
    while perf_counter() < began + seconds:
        taken = producer.produce_batch(topic, records, partition=0, on_delivery=told)
        sent += taken
        producer.poll(0.0 if taken == AT_ONCE else 0.005)
    left = producer.flush(FLUSH_TIMEOUT_S)
    if failures or left:
        raise AssertionError(f"{len(failures)} records failed ({failures[:1]}), {left} were not acknowledged")
    return {"records": sent, "seconds": perf_counter() - began}


def reading(address: str) -> dict[str, str]:
    """Settings of a consumer."""
    return {
        "bootstrap.servers": address, "group.id": "unused", "enable.auto.commit": "false",
        "fetch.queue.backoff.ms": str(QUEUE_BACKOFF_MS),
    }  # fmt: skip


def consume(address: str, topic: str, count: int) -> dict[str, float]:
    """Read ``count`` records from the beginning; the time begins with the first one."""
    consumer = Consumer(reading(address))
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    deadline = perf_counter() + READ_TIMEOUT_S
    read = first = 0
    began = perf_counter()
    while read < count:
        messages = consumer.consume(10_000, 0.1)
        for message in messages[:1] + messages[-1:]:
            if message.error() is not None:
                raise KafkaException(message.error())
        if not read and messages:
            began, first = perf_counter(), len(messages)
        read += len(messages)
        if perf_counter() > deadline:
            raise AssertionError(f"{read} of {count} records were read in {READ_TIMEOUT_S:g} s")
    seconds = perf_counter() - began
    consumer.close()
    return {"records": read - first, "seconds": seconds}


def rebalance(address: str, topic: str, members: int, partitions: int) -> dict[str, float]:
    """All members but one at rest, then the last one joins: the time from its joining until each has its share."""
    shares: list[int] = []

    def join() -> Consumer:
        number = len(shares)
        shares.append(0)

        def assigned(_consumer: Any, mine: Sequence[Any]) -> None:
            shares[number] = len(mine)

        def revoked(_consumer: Any, _mine: Sequence[Any]) -> None:
            shares[number] = 0

        consumer = Consumer(
            {"bootstrap.servers": address, "group.id": f"{topic}-group", "heartbeat.interval.ms": HEARTBEAT_MS}
        )  # fmt: skip
        consumer.subscribe([topic], on_assign=assigned, on_revoke=revoked, on_lost=revoked)
        return consumer

    consumers = [join() for _ in range(members - 1)]
    _settle(consumers, lambda: sum(shares) == partitions and min(shares) > 0)
    began = perf_counter()
    consumers.append(join())
    _settle(consumers, lambda: shares == [partitions // members] * members)
    seconds = perf_counter() - began
    for consumer in consumers:
        consumer.close()
    return {"seconds": seconds}


def _settle(consumers: Sequence[Consumer], done: Callable[[], bool]) -> None:
    deadline = perf_counter() + SETTLE_TIMEOUT_S
    while not done():
        for consumer in consumers:
            consumer.poll(0.001)
        if perf_counter() > deadline:
            raise AssertionError(f"the group has not settled within {SETTLE_TIMEOUT_S:g} s")


def main() -> None:
    """Do what the words say."""
    die_with_parent(int(sys.argv[1]))
    match sys.argv[2:]:
        case ["produce", address, topic, size_bytes, seconds]:
            answer = produce(address, topic, int(size_bytes), float(seconds))
        case ["consume", address, topic, count]:
            answer = consume(address, topic, int(count))
        case ["drain", library, address, topic, count]:
            answer = drain(Path(library), reading(address), topic, int(count), READ_TIMEOUT_S)
        case ["rebalance", address, topic, members, partitions]:
            answer = rebalance(address, topic, int(members), int(partitions))
        case words:
            raise SystemExit(f"unknown: {words}")
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
