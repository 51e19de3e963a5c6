"""``python -m tests.chaos.group_member``: a member of a group, through either door, until SIGTERM.

It begins where the group has committed, reads, and commits what it has read, now and then after a pause. Each process is a member
of its own; whoever is killed comes back as another.
"""

from __future__ import annotations

import asyncio
import random
import signal
import struct
import sys
from collections.abc import Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from raftlog import Client, GroupConsumer
from raftlog import TopicPartition as OwnPartition
from raftlog.errors import RaftlogError
from tests.chaos.child import begin, say
from tests.chaos.kafka_clients import CALL_TIMEOUT_S, COMMON, DELIVERY_TIMEOUT_S, record_read, until_told
from tests.chaos.recorder import History
from tests.history.events import Fetch, Fetched
from tests.history.group_events import (
    CommitOffset,
    CommittedOffset,
    FetchCommitted,
    FetchedCommitted,
    JoinedGroup,
    JoinGroup,
    SyncedGroup,
    SyncGroup,
)

SESSION_S = 3.0
"""So long a killed member's partitions have no reader."""
POLL_INTERVAL_S = 10.0
"""So long the others wait for a member that does not come back to join, while its session lives."""
HEARTBEAT_S = 0.3
COMMIT_S = 0.5
PAUSE_S = (0.05, 0.4)
PAUSE_CHANCE = 0.3
"""Between reading and committing: whatever befalls a member then, its records come again."""
POLL_S = 0.1
ASSIGNORS = {"range": "range", "cooperative": "cooperative-sticky"}


class Story:
    """What a member writes down."""

    def __init__(self, history: History, name: str, group: str, topic: str) -> None:
        self.history, self.name, self.group, self.topic = history, name, group, topic
        self.member_id, self.generation = "", -1
        self._joining = history.begin(name, JoinGroup(group=group, member_id=""))
        self.rng = random.Random(name)

    def assigned(self, member_id: str, generation: int, partitions: Sequence[int]) -> None:
        """It has these partitions in this generation, all that it has."""
        self.member_id, self.generation = member_id, generation
        told = JoinedGroup(generation=generation, member_id=member_id, leader="")
        self.history.end(self._joining, "ok", told)
        self._joining = self.history.begin(self.name, JoinGroup(group=self.group, member_id=member_id))
        sync = self.history.begin(self.name, SyncGroup(group=self.group, generation=generation, member_id=member_id))
        mine = tuple((self.topic, partition) for partition in sorted(partitions))
        self.history.end(sync, "ok", SyncedGroup(partitions=mine))
        say(member_id=member_id, generation=generation, partitions=sorted(partitions))

    def committing(self, offsets: dict[int, int], *, while_owned: bool = False) -> dict[int, int]:
        """Partition → the operation of its commit."""
        return {
            partition: self.history.begin(
                self.name,
                CommitOffset(
                    group=self.group, generation=self.generation, member_id=self.member_id, topic=self.topic,
                    partition=partition, offset=offset, while_owned=while_owned,
                ),
            )
            for partition, offset in offsets.items()
        }  # fmt: skip

    def committed(self, operation: int, error: object = None) -> None:
        """A commit ended. An error leaves it unknown: both clients try again by themselves, and speak of the last try."""
        if error is None:
            self.history.end(operation, "ok", CommittedOffset())
        else:
            self.history.end(operation, "unknown", error=repr(error))

    @property
    def pauses_s(self) -> float:
        """How long to wait now before committing."""
        return self.rng.uniform(*PAUSE_S) if self.rng.random() < PAUSE_CHANCE else 0.0


class KafkaMember:
    """librdkafka. All of it happens in one thread: rebalances within ``poll``."""

    def __init__(self, story: Story, address: str, assignor: str) -> None:
        self._story = story
        self._cooperative = assignor == "cooperative"
        self._unwritten: dict[int, list[Any]] = {}
        """Messages that were given and are not in the history yet."""
        self._position: dict[int, int] = {}
        self._dirty: dict[int, int] = {}
        self._sessions = 0
        self._consumer = Consumer(
            {
                **COMMON, "bootstrap.servers": address, "group.id": story.group, "enable.auto.commit": False,
                "auto.offset.reset": "earliest", "session.timeout.ms": round(SESSION_S * 1_000),
                "heartbeat.interval.ms": round(HEARTBEAT_S * 1_000), "max.poll.interval.ms": round(POLL_INTERVAL_S * 1_000),
                "partition.assignment.strategy": ASSIGNORS[assignor],
            }
        )  # fmt: skip
        self._consumer.subscribe([story.topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def run(self, stop: Any) -> None:
        """Until ``stop``; then leave."""
        history = self._story.history
        commit_us = history.now_us()
        while not stop.is_set():
            message = self._consumer.poll(POLL_S)
            if message is not None and message.error() is None and message.partition() in self._position:
                self._unwritten.setdefault(message.partition(), []).append(message)
            if history.now_us() - commit_us >= COMMIT_S * 1e6:
                self._write_down()
                stop.wait(self._story.pauses_s)
                self._commit()
                commit_us = history.now_us()
        self._write_down()
        self._consumer.close()

    def _write_down(self) -> None:
        story = self._story
        for partition, messages in self._unwritten.items():
            session = f"{story.name}/{partition}/{self._sessions}"
            record_read(story.history, story.name, session, story.topic, partition, self._position[partition], messages)
            self._position[partition] = self._dirty[partition] = messages[-1].offset() + 1
        self._unwritten.clear()

    def _commit(self) -> None:
        if not self._dirty:
            return
        # A cooperative member goes on to the next generation by itself, maybe in this very moment.
        operations = self._story.committing(self._dirty, while_owned=self._cooperative)
        wanted = [TopicPartition(self._story.topic, partition, offset) for partition, offset in self._dirty.items()]
        try:
            outcomes = {one.partition: one.error for one in self._consumer.commit(offsets=wanted, asynchronous=False)}
        except KafkaException as error:
            outcomes = dict.fromkeys(operations, error)
        for partition, operation in operations.items():
            self._story.committed(operation, outcomes[partition])
            if outcomes[partition] is None:
                del self._dirty[partition]

    # Rebalances

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._write_down()
        self._sessions += 1
        for one in partitions:
            one.offset = self._begin_of(one.partition)
            self._position[one.partition] = one.offset
        generation = generation_of(consumer.consumer_group_metadata())
        if generation >= 0:  # else it was taken out of the group meanwhile
            self._story.assigned(consumer.memberid(), generation, list(self._position))
        places = [TopicPartition(one.topic, one.partition, one.offset or OFFSET_BEGINNING) for one in partitions]
        if self._cooperative:
            consumer.incremental_assign(places)
        else:
            consumer.assign(places)

    def _begin_of(self, partition: int) -> int:
        """Where the group has committed. Asked again and again: a member that does not know must not begin."""
        story = self._story
        while True:
            wish = FetchCommitted(group=story.group, topic=story.topic, partition=partition)
            operation = story.history.begin(story.name, wish)
            try:
                [found] = self._consumer.committed([TopicPartition(story.topic, partition)], CALL_TIMEOUT_S)
                error = found.error
            except KafkaException as raised:
                error = raised
            if error is None:
                story.history.end(operation, "ok", FetchedCommitted(offset=max(found.offset, -1)))
                return max(int(found.offset), 0)
            story.history.end(operation, "fail", error=repr(error))

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._write_down()
        self._commit()
        self._give_up(consumer, partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._write_down()
        self._give_up(consumer, partitions)

    def _give_up(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for one in partitions:
            self._position.pop(one.partition, None)
            self._dirty.pop(one.partition, None)
        if self._cooperative:
            consumer.incremental_unassign(partitions)
        else:
            consumer.unassign()


def generation_of(metadata: bytes) -> int:
    """The generation in what librdkafka keeps of its membership."""
    assert metadata.startswith(b"CGMDv2:"), metadata
    generation: int = struct.unpack_from("<i", metadata, 7)[0]
    return generation


class OwnMember:
    """raftlog's own client."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._consumer: GroupConsumer
        self._dirty: dict[int, int] = {}
        self._sessions = 0

    async def run(self, addresses: Sequence[str], assignor: str) -> None:
        """Until cancelled; then leave."""
        assignors: Any = ("range",) if assignor == "range" else ("cooperative-sticky", "range")
        async with Client(addresses) as client:
            self._consumer = client.consumer(
                self._story.topic, group=self._story.group, auto_commit=False, auto_offset_reset="earliest",
                session_timeout_s=SESSION_S, max_poll_interval_s=POLL_INTERVAL_S, assignors=assignors,
                unavailable_timeout_s=DELIVERY_TIMEOUT_S, on_assigned=self._assigned, on_revoked=self._revoked,
                on_lost=self._lost,
            )  # fmt: skip
            async with self._consumer:
                await self._read()

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        commit_s = loop.time()
        async for batch in self._consumer.batches():
            if batch.records:
                self._write_down(batch)
            if loop.time() - commit_s >= COMMIT_S:
                await asyncio.sleep(self._story.pauses_s)
                await self._commit()
                commit_s = loop.time()

    def _write_down(self, batch: Any) -> None:
        story, partition = self._story, batch.tp.partition
        session = f"{story.name}/{partition}/{self._sessions}"
        first = batch.records[0].offset
        operation = story.history.begin(story.name, Fetch(topic=story.topic, partition=partition, offset=first, session=session))
        records = tuple((one.offset, (one.value or b"").decode(), one.timestamp_ms) for one in batch.records)
        fetched = Fetched(records=records, next_offset=batch.next_offset, high_watermark=batch.high_watermark, log_start_offset=0)
        story.history.end(operation, "ok", fetched)
        self._dirty[partition] = batch.next_offset

    async def _commit(self) -> None:
        for partition, offset in list(self._dirty.items()):
            operations = self._story.committing({partition: offset}, while_owned=True)
            error: RaftlogError | None = None
            try:
                await self._consumer.commit({OwnPartition(self._story.topic, partition): offset})
            except RaftlogError as raised:
                error = raised
            self._story.committed(operations[partition], error)
            if error is None and self._dirty.get(partition) == offset:
                del self._dirty[partition]

    def _assigned(self, _added: frozenset[OwnPartition]) -> None:
        self._sessions += 1
        consumer = self._consumer
        mine = [tp.partition for tp in consumer.assignment()]
        self._story.assigned(consumer.member_id, consumer.generation, mine)

    async def _revoked(self, tps: frozenset[OwnPartition]) -> None:
        await self._commit()
        self._lost(tps)

    def _lost(self, tps: frozenset[OwnPartition]) -> None:
        for tp in tps:
            self._dirty.pop(tp.partition, None)


async def own(story: Story, addresses: Sequence[str], assignor: str) -> None:
    """Be a member through gRPC until SIGTERM."""
    task = asyncio.get_running_loop().create_task(OwnMember(story).run(addresses, assignor))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return


def main() -> None:
    """Be what the words say."""
    history, name, topic, _, words = begin(sys.argv)
    with history:
        match words:
            case ["grpc", group, assignor, addresses]:
                asyncio.run(own(Story(history, name, group, topic), addresses.split(","), assignor))
            case ["kafka", group, assignor, addresses]:
                stop = until_told()
                KafkaMember(Story(history, name, group, topic), addresses, assignor).run(stop)
            case _:
                sys.exit(f"unknown: {words}")


if __name__ == "__main__":
    main()
