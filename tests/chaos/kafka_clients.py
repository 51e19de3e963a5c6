"""``python -m tests.chaos.kafka_clients``: a producer or a reader through the Kafka door, by librdkafka, until SIGTERM.

An error of a record leaves its outcome unknown: librdkafka sends again by itself, and its last word may be about the second try.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
from functools import partial
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from tests.chaos.child import begin
from tests.chaos.recorder import History
from tests.history.events import LATEST, Fetch, Fetched, ListedOffset, ListOffset, Publish, Published

DELIVERY_TIMEOUT_S = 120.0
"""Longer than any fault."""
OUTSTANDING_MAX = 400
CALL_TIMEOUT_S = 5.0
READ_S = 0.2
READ_AT_ONCE = 500
LOOKUP_CHANCE = 0.1
COMMON = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 1_000, "topic.metadata.refresh.interval.ms": 10_000}
"""Nodes come back after seconds; a client that waits for longer than that sees less of them."""


def until_told() -> threading.Event:
    """Set by SIGTERM."""
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    return told


def fatal(error: KafkaError) -> None:
    """librdkafka cannot go on with its promises: never with a broker that keeps its own."""
    if error.fatal():
        sys.exit(f"fatal: {error}")


class IdempotentProducer:
    """Sends to all partitions in turn, idempotent and with acks=all."""

    def __init__(self, history: History, name: str, number: int, address: str, topic: str, partitions: int) -> None:
        self._history, self._name, self._number = history, name, number
        self._topic, self._partitions = topic, partitions
        self._sessions = [0] * partitions
        self._outstanding = 0
        self._producer = Producer(
            {
                **COMMON, "bootstrap.servers": address, "enable.idempotence": True, "acks": "all", "linger.ms": 5,
                "message.timeout.ms": round(DELIVERY_TIMEOUT_S * 1_000), "error_cb": fatal,
            }
        )  # fmt: skip

    def run(self, rate: float, stop: threading.Event) -> None:
        """``rate`` records a second until ``stop``; then wait for every outcome."""
        sent, next_us = 0, self._history.now_us()
        while not stop.is_set():
            left_s = (next_us - self._history.now_us()) / 1e6
            if left_s > 0 or self._outstanding >= OUTSTANDING_MAX:
                self._producer.poll(max(left_s, 0.01))
                continue
            self._send(sent)
            sent, next_us = sent + 1, next_us + round(1e6 / rate)
        self._producer.flush(DELIVERY_TIMEOUT_S)

    def _send(self, number: int) -> None:
        partition, value = number % self._partitions, f"{self._name}.{number}"
        publish = Publish(
            topic=self._topic, partition=partition, values=(value,), producer_id=self._number, base_sequence=number,
            session=f"{self._name}/{partition}/{self._sessions[partition]}",
        )  # fmt: skip
        operation = self._history.begin(self._name, publish)
        self._outstanding += 1
        told = partial(self._told, operation, partition)
        self._producer.produce(self._topic, value.encode(), partition=partition, on_delivery=told)

    def _told(self, operation: int, partition: int, error: KafkaError | None, message: Any) -> None:
        self._outstanding -= 1
        if error is None:
            # librdkafka takes a batch whose answer was lost for acknowledged by one behind it, and knows no offset then.
            offset = message.offset()
            self._history.end(operation, "ok", None if offset is None else Published(base_offset=offset))
            return
        self._sessions[partition] += 1
        self._history.end(operation, "unknown", error=str(error))


class Reader:
    """Follows all partitions from their beginnings, without a group; asks for their ends at times."""

    def __init__(self, history: History, name: str, address: str, topic: str, partitions: int) -> None:
        self._history, self._name, self._topic = history, name, topic
        self._position = [0] * partitions
        self._consumer = Consumer(
            {
                **COMMON, "bootstrap.servers": address, "group.id": f"unused-{name}", "enable.auto.commit": False,
                "auto.offset.reset": "error",
            }
        )  # fmt: skip
        self._consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(partitions)])

    def run(self, stop: threading.Event) -> None:
        """Until ``stop``."""
        rng = random.Random(self._name)
        while not stop.is_set():
            read: dict[int, list[Any]] = {}
            for message in self._consumer.consume(READ_AT_ONCE, READ_S):
                if message.error() is None:
                    read.setdefault(message.partition(), []).append(message)
                elif message.error().code() == KafkaError._AUTO_OFFSET_RESET:
                    sys.exit(f"it had read up to {self._position}, and now: {message.error()}")
            for partition, messages in read.items():
                self._record(partition, messages)
            if rng.random() < LOOKUP_CHANCE:
                self._look_up(rng.randrange(len(self._position)))
        self._consumer.close()

    def _record(self, partition: int, messages: list[Any]) -> None:
        record_read(
            self._history, self._name, f"{self._name}/{partition}", self._topic, partition, self._position[partition], messages
        )
        self._position[partition] = messages[-1].offset() + 1

    def _look_up(self, partition: int) -> None:
        operation = self._history.begin(self._name, ListOffset(topic=self._topic, partition=partition, timestamp_ms=LATEST))
        try:
            _, end = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), CALL_TIMEOUT_S)
        except KafkaException as error:
            self._history.end(operation, "fail", error=str(error))
            return
        self._history.end(operation, "ok", ListedOffset(offset=end))


def record_read(
    history: History, client: str, session: str, topic: str, partition: int, position: int, messages: list[Any]
) -> None:
    """Messages of one partition, asked for from ``position`` on, as one fetch."""
    operation = history.begin(client, Fetch(topic=topic, partition=partition, offset=position, session=session))
    records = tuple((one.offset(), one.value().decode(), one.timestamp()[1]) for one in messages)
    end = messages[-1].offset() + 1
    fetched = Fetched(records=records, next_offset=end, high_watermark=end, log_start_offset=0)
    history.end(operation, "ok", fetched)


def main() -> None:
    """Be what the words say."""
    history, name, topic, partitions, words = begin(sys.argv)
    stop = until_told()
    with history:
        match words:
            case ["produce", address, number, rate]:
                IdempotentProducer(history, name, int(number), address, topic, partitions).run(float(rate), stop)
            case ["read", address]:
                Reader(history, name, address, topic, partitions).run(stop)
            case _:
                sys.exit(f"unknown: {words}")


if __name__ == "__main__":
    main()
