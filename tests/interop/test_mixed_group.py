"""One group with members of both doors and three makes: they share its partitions, come and go, and nothing is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

from confluent_kafka import Consumer, KafkaException
from kafka import KafkaConsumer

from raftlog import Client, TopicPartition
from raftlog.errors import GroupError
from raftlog.testing import SyncLocalCluster
from tests.interop.lab import until

TOPIC, GROUP = "mixed", "mixed"
PARTITIONS = 6
SOME = 5
"""Records that a member is to be given before anybody leaves."""
HEARTBEAT_MS = 200
SESSION_MS = 10_000
Read = tuple[int, int, bytes]
"""Partition, offset, value."""


class Member:
    """Somebody who is in the group: what it has now, and all that it was given."""

    def __init__(self) -> None:
        self.assigned: frozenset[int] = frozenset()
        self.read: list[Read] = []
        self.failure: BaseException | None = None

    def alive(self) -> Self:
        """Itself, if nothing has ended it."""
        assert self.failure is None, self.failure
        return self


class ThreadMember(Member):
    """A client that blocks, in a thread of its own: it polls, commits what it was given, and closes when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    async def leave(self) -> None:
        """Close the client, and wait for it."""
        self._leaving.set()
        await asyncio.to_thread(self._thread.join)
        self.alive()

    def _run(self) -> None:
        try:
            self.open()
            while not self._leaving.is_set():
                self.turn()
            self.close()
        except BaseException as error:
            self.failure = error
        self.assigned = frozenset()

    def open(self) -> None:
        """Join."""

    def turn(self) -> None:
        """Read for a moment, and commit."""

    def close(self) -> None:
        """Leave."""


class Confluent(ThreadMember):
    """librdkafka."""

    def __init__(self, address: str) -> None:
        self._settings = {
            "bootstrap.servers": address, "group.id": GROUP, "auto.offset.reset": "earliest", "enable.auto.commit": False,
            "session.timeout.ms": SESSION_MS, "heartbeat.interval.ms": HEARTBEAT_MS, "log_level": 0,
        }  # fmt: skip
        self._consumer: Any = None
        super().__init__()

    def open(self) -> None:
        self._consumer = Consumer(self._settings)
        self._consumer.subscribe([TOPIC])

    def turn(self) -> None:
        messages = [one for one in self._consumer.consume(100, 0.05) if one.error() is None]
        self.assigned = frozenset(one.partition for one in self._consumer.assignment())
        self.read += [(one.partition(), one.offset(), one.value()) for one in messages]
        if messages:
            with suppress(KafkaException):  # a rebalance came first: the records come again, to whoever has them then
                self._consumer.commit(asynchronous=False)

    def close(self) -> None:
        self._consumer.close()


class KafkaPython(ThreadMember):
    """kafka-python."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._consumer: Any = None
        super().__init__()

    def open(self) -> None:
        self._consumer = KafkaConsumer(
            bootstrap_servers=self._address, group_id=GROUP, auto_offset_reset="earliest", enable_auto_commit=False,
            session_timeout_ms=SESSION_MS, heartbeat_interval_ms=HEARTBEAT_MS,
        )  # fmt: skip
        self._consumer.subscribe([TOPIC])

    def turn(self) -> None:
        batches = self._consumer.poll(50)
        self.assigned = frozenset(one.partition for one in self._consumer.assignment())
        self.read += [(one.partition, one.offset, one.value) for batch in batches.values() for one in batch]
        if batches:
            with suppress(Exception):  # its errors have no common root; a rebalance came first, as above
                self._consumer.commit()

    def close(self) -> None:
        self._consumer.close()


class Own(Member):
    """raftlog's own client, through gRPC."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def leave(self) -> None:
        """Close the consumer, which leaves."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self.assigned = frozenset()

    async def _run(self) -> None:
        mine = self._client.consumer(
            TOPIC, group=GROUP, auto_commit=False, on_assigned=self._given, on_revoked=self._taken
        )  # fmt: skip
        try:
            async with mine as me:
                async for batch in me.batches():
                    self.read += [(batch.tp.partition, record.offset, record.value or b"") for record in batch.records]
                    with suppress(GroupError):  # a rebalance came first, as above
                        await me.commit()
        except Exception as error:
            self.failure = error

    def _given(self, tps: frozenset[TopicPartition]) -> None:
        self.assigned |= {tp.partition for tp in tps}

    def _taken(self, tps: frozenset[TopicPartition]) -> None:
        self.assigned -= {tp.partition for tp in tps}


async def settled(members: Sequence[Member], *counts: int) -> None:
    """Wait until these members have so many partitions, each partition one of them, and none is missing."""

    async def look() -> list[frozenset[int]]:
        return [member.alive().assigned for member in members]

    def good(seen: list[frozenset[int]]) -> bool:
        together = [number for assigned in seen for number in assigned]
        return sorted(map(len, seen)) == sorted(counts) and sorted(together) == list(range(PARTITIONS))

    await until(look, good, f"{counts} partitions each")


@asynccontextmanager
async def publishing(client: Client) -> AsyncIterator[Callable[[], dict[int, list[bytes]]]]:
    """Publish to all partitions in turn while the body runs; gives what was acknowledged, by partition in order."""
    placed: dict[int, dict[int, bytes]] = {number: {} for number in range(PARTITIONS)}
    done = asyncio.Event()

    async def publish() -> None:
        number = 0
        async with client.producer(compression="gzip") as producer:  # kafka-python needs no library for it
            while not done.is_set():
                value = b"%d" % number
                stored = await producer.publish(TOPIC, value, partition=number % PARTITIONS)
                placed[stored.partition][stored.offset] = value
                number += 1

    def acknowledged() -> dict[int, list[bytes]]:
        return {number: [found[offset] for offset in sorted(found)] for number, found in placed.items()}

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(publish())
        try:
            yield acknowledged
        finally:
            done.set()


async def test_members_of_both_doors_share_a_group_and_nothing_is_lost(raftlog_cluster: SyncLocalCluster) -> None:
    """Each partition has one reader while nobody comes or goes; whoever goes hands on what it has; every record comes to
    somebody, and in each partition the group has committed all of them in the end."""
    async with Client(raftlog_cluster.brokers) as client:
        await client.admin.create_topic(TOPIC, partitions=PARTITIONS, replication_factor=3)
        async with publishing(client) as acknowledged:
            own, confluent = Own(client), Confluent(raftlog_cluster.kafka)
            await settled([own, confluent], 3, 3)
            python = KafkaPython(raftlog_cluster.kafka)
            await settled([own, confluent, python], 2, 2, 2)
            marks = [len(member.read) for member in (own, confluent, python)]
            await until(
                _reads(own, confluent, python),
                lambda seen: all(now > before + SOME for now, before in zip(seen, marks, strict=True)),
                "all of them were given records",
            )
            await confluent.leave()
            await settled([own, python], 3, 3)
            await own.leave()
            await settled([python], 6)
            back = Own(client)
            await settled([python, back], 3, 3)
        stored = acknowledged()
        ends = {number: len(values) for number, values in stored.items()}

        async def committed() -> dict[int, int | None]:
            found = await client.admin.group_offsets(GROUP, [TopicPartition(TOPIC, number) for number in range(PARTITIONS)])
            return {tp.partition: one.committed for tp, one in found.items()}

        await until(committed, lambda found: found == ends, f"the group has come to {ends}")
        await python.leave()
        await back.leave()
    given = {(partition, offset): value for member in (own, confluent, python, back) for partition, offset, value in member.read}
    assert given == {(number, offset): value for number, values in stored.items() for offset, value in enumerate(values)}


def _reads(*members: Member) -> Any:
    async def look() -> list[int]:
        return [len(member.alive().read) for member in members]

    return look
