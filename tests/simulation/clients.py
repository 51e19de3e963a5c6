"""Clients: producers, consumers, lookers and an administrator. Each asks any node, and writes down what it did and saw.

An idempotent producer sends a batch again, through other nodes, until it knows what became of it; what it cannot find out in
time ends its session, and it goes on under a new producer id, as the real client does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Final

from raftlog.broker.port import EARLIEST, LATEST
from raftlog.broker.port import Published as BrokerPublished
from raftlog.errors import (
    DataLossError,
    IndeterminateError,
    InvalidProducerEpochError,
    InvalidRequestError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceError,
    RaftlogError,
    UnknownProducerIdError,
)
from raftlog.model import NO_PRODUCER, Acks, TopicPartition
from raftlog.records import batch as record_batch
from raftlog.records.batch import BatchBuilder
from tests.history.events import (
    Fetch,
    Fetched,
    ListedOffset,
    ListOffset,
    Publish,
    Published,
)

if TYPE_CHECKING:
    from tests.simulation.node import Machine
    from tests.simulation.world import World

PATIENCE_S: Final = 6.0
"""How long a producer tries to find out what became of a batch."""
UNKNOWN: Final = (IndeterminateError, DataLossError)
"""After these an operation may have happened."""
NEVER: Final = (InvalidRequestError, InvalidProducerEpochError, UnknownProducerIdError)
"""What no well-behaved producer hears."""
TEXT: Final = b"." * 2_000


@dataclass(slots=True)
class Batch:
    """Records on their way to one partition, the same bytes for every attempt."""

    tp: TopicPartition
    data: bytes
    values: tuple[str, ...]
    producer_id: int
    base_sequence: int
    session: str
    begun_s: float
    attempts: int = 0


@dataclass(slots=True)
class _Lane:
    """One partition of a producer: batches in order, those in front not known to be in the log."""

    sequence: int = 0
    waiting: deque[Batch] = field(default_factory=deque)


class Client:
    """What all clients share: a name, a seed, and how they pick a node."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.rng = Random(world.rng.random())
        self._favourite = self.rng.choice(sorted(world.machines))

    def node(self, *, other: bool = False) -> Machine:
        """The node to ask; mostly the same one."""
        if other or self.rng.random() < 0.15:
            self._favourite = self.rng.choice(sorted(self.world.machines))
        return self.world.machines[self._favourite]

    def next_node(self) -> Machine:
        """The node behind the one that was asked last."""
        nodes = sorted(self.world.machines)
        self._favourite = nodes[(nodes.index(self._favourite) + 1) % len(nodes)]
        return self.world.machines[self._favourite]

    def hidden(self, machine: Machine) -> bool:
        """Whether this client cannot hear that node now."""
        return (self.name, machine.id) in self.world.deaf

    async def pause(self, least_s: float = 0.03, most_s: float = 0.35) -> None:
        """Wait a little."""
        await asyncio.sleep(self.rng.uniform(least_s, most_s))

    async def run(self) -> None:
        """Go on until the world says that it is enough."""
        while not self.world.enough:
            await self.once()

    async def once(self) -> None:
        """Do one thing."""
        raise NotImplementedError


class Producer(Client):
    """Publishes unique values. ``acks`` other than all, and some of all, are sent without a producer id, and only once.

    A ``brisk`` one waits a second for an answer at most, and asks the next node then.
    """

    def __init__(self, world: World, name: str, *, acks: Acks = Acks.ALL, idempotent: bool = True, brisk: bool = False) -> None:
        super().__init__(world, name)
        self._brisk = brisk
        self._acks, self._idempotent = acks, idempotent
        self._producer_id = NO_PRODUCER
        self._sessions = 0
        self._lanes: dict[TopicPartition, _Lane] = {}
        self._values = 0

    async def once(self) -> None:
        """Send what waits, and sometimes something new beside it."""
        if self._idempotent and self._producer_id == NO_PRODUCER and not await self._take_id():
            return
        self._fill()
        batches = [batch for lane in self._lanes.values() for batch in lane.waiting]
        if batches:
            await self._send(batches)
        await self.pause()

    async def publish_one(self, tp: TopicPartition) -> bool:
        """Send what waits for a partition, or else a new batch; whether it was acknowledged."""
        if self._producer_id == NO_PRODUCER and not await self._take_id():
            return False
        lane = self._lanes.setdefault(tp, _Lane())
        if not lane.waiting:
            lane.waiting.append(self._make(tp, lane))
        waiting = list(lane.waiting)
        await self._send(waiting)
        return not any(batch in lane.waiting for batch in waiting) and self._producer_id != NO_PRODUCER

    async def _take_id(self) -> bool:
        try:
            taken, _ = await self.node().ask(lambda broker: broker.init_producer(), timeout_s=1.0 if self._brisk else 5.0)
        except RaftlogError:
            self.next_node()
            await self.pause(0.05, 0.3)
            return False
        if taken in self.world.producer_ids:
            self.world.violated(f"producer id {taken} was given out twice")
        self.world.producer_ids.add(taken)
        self._producer_id = taken
        self._new_session()
        return True

    def _new_session(self) -> None:
        self._sessions += 1
        self._lanes = {}

    def _fill(self) -> None:
        for _ in range(self.rng.choice((1, 1, 1, 2, 3))):
            tp = self.rng.choice(self.world.partitions)
            lane = self._lanes.setdefault(tp, _Lane())
            if len(lane.waiting) < 3:
                lane.waiting.append(self._make(tp, lane))

    def _make(self, tp: TopicPartition, lane: _Lane) -> Batch:
        now_ms = self.world.wall_ms()
        builder = BatchBuilder(size_bytes_max=1 << 20)
        values = []
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            self._values += 1
            value = f"{self.name}.{self._values}"
            values.append(value)
            text = value.encode() + b" " + TEXT[: self.rng.choice((10, 10, 100, 2_000))]
            builder.append(None, text, timestamp_ms=now_ms + self.rng.randint(-20, 20))
        sequence = lane.sequence if self._idempotent else -1
        data = builder.build(producer_id=self._producer_id, producer_epoch=0 if self._idempotent else -1, base_sequence=sequence)
        lane.sequence += len(values)
        session = f"{self.name}/{self._sessions}"
        return Batch(tp, data, tuple(values), self._producer_id, sequence, session, self.world.loop.now_s)

    async def _send(self, batches: list[Batch]) -> None:
        machine = self.next_node() if batches[0].attempts and self._brisk else self.node(other=self._tries_elsewhere(batches))
        numbers = [self._invoke(batch) for batch in batches]
        asked = [(batch.tp, batch.data) for batch in batches]
        timeout_s = 0.6 if self._brisk else self.rng.choice((0.3, 1.0, 3.0))
        begun_s = self.world.loop.now_s
        outcomes: list[BrokerPublished | RaftlogError]
        try:
            outcomes = await machine.ask(
                lambda broker: broker.publish(asked, acks=self._acks, timeout_s=timeout_s),
                timeout_s=timeout_s * self.rng.choice((0.3, 1.5)),
                hidden=self.hidden(machine),
            )
        except RaftlogError as error:
            outcomes = [error] * len(batches)
        if len(outcomes) != len(batches):
            self.world.violated(f"{len(batches)} batches were published, {len(outcomes)} outcomes came")
        for batch, number, outcome in zip(batches, numbers, outcomes, strict=True):
            self._settle(batch, number, outcome, begun_s)
        if any(isinstance(outcome, RaftlogError) for outcome in outcomes):
            await self.pause(0.02, 0.15)

    def _tries_elsewhere(self, batches: list[Batch]) -> bool:
        return batches[0].attempts > 0 and self.rng.random() < 0.6

    def _invoke(self, batch: Batch) -> int:
        batch.attempts += 1
        publish = Publish(
            topic=batch.tp.topic, partition=batch.tp.partition, values=batch.values, acks=int(self._acks),
            producer_id=batch.producer_id, base_sequence=batch.base_sequence, session=batch.session,
        )  # fmt: skip
        return self.world.history.invoke(self.name, publish)

    def _settle(self, batch: Batch, number: int, outcome: BrokerPublished | RaftlogError, begun_s: float) -> None:
        history, lane = self.world.history, self._lanes.get(batch.tp)
        if isinstance(outcome, BrokerPublished):
            history.end(self.name, number, "ok", Published(base_offset=outcome.base_offset))
            self.world.published(batch.tp, outcome.base_offset, begun_s, again=batch.attempts > 1)
        elif isinstance(outcome, UNKNOWN):
            history.end(self.name, number, "unknown", error=outcome)
        else:
            history.end(self.name, number, "fail", error=outcome)
            self.world.covered(f"refused {type(outcome).__name__}")
            if isinstance(outcome, NEVER) and not self.world.expects(outcome):
                self.world.violated(f"{self.name} is refused: {outcome!r}")
        if lane is None or batch not in lane.waiting:
            return
        if isinstance(outcome, BrokerPublished) or not self._idempotent:
            lane.waiting.remove(batch)
        elif self.world.loop.now_s - batch.begun_s > PATIENCE_S:
            self._producer_id = NO_PRODUCER
            self._new_session()
            if isinstance(outcome, OutOfOrderSequenceError):
                self.world.covered("sessions given up out of order")


class Consumer(Client):
    """Reads partitions to their ends and waits there for more; now and then it seeks."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self._at: dict[TopicPartition, int] = {}
        self._sessions: dict[TopicPartition, int] = {}

    async def once(self) -> None:
        """One fetch."""
        tp = self.rng.choice(self.world.partitions)
        if tp not in self._at or self.rng.random() < 0.02:
            self._seek(tp, 0)
        machine = self.node()
        direct = self.rng.random() < 0.3
        error = await fetch(
            self.world, self.name, machine, tp, self._at[tp], session=f"{tp}/{self._sessions[tp]}", direct=direct,
            wait_s=self.rng.choice((0.0, 0.05, 0.5)), bytes_max=self.rng.choice((1, 3_000, 1 << 20)), rng=self.rng,
            hidden=self.hidden(machine),
        )  # fmt: skip
        if isinstance(error, OffsetOutOfRangeError):
            self._out_of_range(tp, error)
        elif isinstance(error, RaftlogError):
            self.node(other=True)
            await self.pause(0.03, 0.2)
        else:
            self._at[tp] = error
        await self.pause(0.03, 0.25)

    def _out_of_range(self, tp: TopicPartition, error: OffsetOutOfRangeError) -> None:
        if error.earliest <= self._at[tp] <= error.latest:
            text = f"{tp}: offset {self._at[tp]} is said to be out of range, which is {error.earliest} to {error.latest}"
            self.world.violated(text)
        if self._at[tp] < error.earliest:
            self._seek(tp, error.earliest)
            self.world.covered("readers overtaken by retention")

    def _seek(self, tp: TopicPartition, offset: int) -> None:
        self._at[tp] = offset
        self._sessions[tp] = self._sessions.get(tp, 0) + 1


async def fetch(
    world: World, client: str, machine: Machine, tp: TopicPartition, offset: int, *, session: str, direct: bool, wait_s: float,
    bytes_max: int, rng: Random, hidden: bool = False, final: bool = False,
) -> int | RaftlogError:  # fmt: skip
    """One fetch, written down; the offset to go on with, or the error."""
    asked = Fetch(
        topic=tp.topic, partition=tp.partition, offset=offset, session=session, replica=machine.id if direct else 0, final=final
    )
    number = world.history.invoke(client, asked)
    try:
        answer = await machine.ask(
            lambda broker: broker.fetch(tp, offset, bytes_max=bytes_max, wait_s=wait_s, direct=direct),
            timeout_s=wait_s + rng.choice((0.1, 5.0)),
            hidden=hidden,
        )
    except RaftlogError as error:
        world.history.end(client, number, "fail", error=error)
        if isinstance(error, DataLossError) and not world.damage_done:
            world.violated(f"{tp} offset {offset} is said to be damaged: {error}")
        return error
    records = []
    for data in answer.batches:
        for record in record_batch.decode(data):
            if record.offset >= offset:
                assert record.value is not None
                records.append((record.offset, record.value.partition(b" ")[0].decode(), record.timestamp_ms))
    fetched = Fetched(
        records=tuple(records), next_offset=answer.next_offset, high_watermark=answer.high_watermark,
        log_start_offset=answer.log_start_offset,
    )  # fmt: skip
    world.history.end(client, number, "ok", fetched)
    return answer.next_offset


class Looker(Client):
    """Asks for offsets: the latest, the earliest, and by time."""

    async def once(self) -> None:
        """One lookup."""
        tp = self.rng.choice(self.world.partitions)
        timestamp_ms = self.rng.choice((LATEST, LATEST, LATEST, EARLIEST, self.world.wall_ms() - self.rng.randint(0, 5_000)))
        await list_offset(self.world, self.name, self.node(), tp, timestamp_ms)
        await self.pause(0.06, 0.5)


async def list_offset(world: World, client: str, machine: Machine, tp: TopicPartition, timestamp_ms: int) -> int | None:
    """One lookup, written down; None where there was no answer."""
    number = world.history.invoke(client, ListOffset(topic=tp.topic, partition=tp.partition, timestamp_ms=timestamp_ms))
    try:
        found = await machine.ask(lambda broker: broker.list_offset(tp, timestamp_ms), timeout_s=5.0)
    except RaftlogError as error:
        world.history.end(client, number, "fail", error=error)
        return None
    world.history.end(client, number, "ok", ListedOffset(offset=found.offset, timestamp_ms=found.timestamp_ms))
    return found.offset
