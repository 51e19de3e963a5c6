"""All clients of a run, of both doors: who sends, who reads, groups and who watches them, and who watches the nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from types import TracebackType

from raftlog import Client
from tests.chaos.awake import stay_awake
from tests.chaos.child import Child, Place, running
from tests.chaos.client import Fetcher, IdempotentProducer, PlainProducer, Subscriber, TopicMaker, ends_of
from tests.chaos.cluster import ChaosCluster
from tests.chaos.crowd import Crowd, GroupPlan
from tests.chaos.group_watch import Auditor, Ghost, GroupNode
from tests.chaos.kafka_clients import DELIVERY_TIMEOUT_S
from tests.chaos.observer import Observer
from tests.chaos.recorder import Recorder

IDEMPOTENT_PRODUCERS = 3
KAFKA_PRODUCER_NUMBER = 100
"""Its producer id, so to say: other than those of the producers through gRPC."""
PLAIN_PAUSE_S = 0.1
TOPIC_PAUSE_S = 12.0
GROUPS_CAUGHT_UP_S = 60.0
"""For every group to commit the end of every partition, once all faults are over and nobody sends: a rebalance that they left
behind lasts as long as its members' timeouts."""
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """``rate`` is records a second of each idempotent producer; ``kafka``: also through that door."""

    topic: str
    partitions: int
    seed: int
    rate: float
    kafka: bool
    groups: Sequence[GroupPlan]
    directory: Path


class Load:
    """Everything runs from entering to leaving; an async context manager."""

    def __init__(self, plan: LoadPlan, cluster: ChaosCluster, recorder: Recorder, observer: Observer) -> None:
        self._plan, self._cluster, self._recorder, self._observer = plan, cluster, recorder, observer
        self._rng = Random(plan.seed)
        self._stack, self._sending = AsyncExitStack(), AsyncExitStack()
        self._tasks: asyncio.TaskGroup
        self._stop, self._calm = asyncio.Event(), asyncio.Event()
        """All clients end; members of groups come and go no more."""
        self._watching: list[asyncio.Task[None]] = []
        self._producers: list[IdempotentProducer] = []
        self._producing: list[asyncio.Task[None]] = []
        self._crowds: list[Crowd] = []
        self._crowding: list[asyncio.Task[None]] = []
        self._numbers = count(1)
        self._maker = TopicMaker("made", recorder)
        self._client: Client
        self.ghost: Ghost | None = None

    @property
    def topics(self) -> list[tuple[str, int]]:
        """What is to be read at the end: topics with their partitions."""
        return [(self._plan.topic, self._plan.partitions), *((topic, 1) for topic in self._maker.kept)]

    @property
    def mishaps(self) -> dict[str, dict[str, int]]:
        """Group → what befell its members, how often."""
        return {crowd.plan.name: crowd.mishaps for crowd in self._crowds}

    async def __aenter__(self) -> Load:
        await self._stack.__aenter__()
        try:
            clients = [await self._stack.enter_async_context(Client(turned)) for turned in self._turned(IDEMPOTENT_PRODUCERS + 2)]
            self._client = clients[0]
            await self._client.admin.create_topic(
                self._plan.topic, partitions=self._plan.partitions, configs={"retention.ms": "-1"}
            )
            self._tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
            await self._sending.__aenter__()
            self._start_grpc(clients)
            await self._start_kafka()
            self._start_groups()
        except BaseException as error:
            await self._end(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._end(kind, error, trace)

    async def stop_sending(self) -> None:
        """Nobody publishes any more; every outcome that can be known is."""
        for producer in self._producers:
            producer.stop()
        await asyncio.gather(*self._producing)
        await self._sending.aclose()

    async def settle_groups(self) -> None:
        """Nothing befalls members any more; then every group comes to the end of every partition, or that is a finding."""
        self._calm.set()
        await asyncio.gather(*self._crowding)
        if not self._crowds:
            return
        ends = await ends_of(self._client, self._plan.topic, self._plan.partitions)
        auditor = Auditor("auditor-last", self._recorder, self._rng, self._plan.topic, self._plan.partitions, ())
        for crowd in self._crowds:
            behind = dict(ends)
            async with GroupNode(self._cluster.brokers[0]) as node:
                for _ in range(round(GROUPS_CAUGHT_UP_S / _LOOK_S)):
                    asked = {at: await auditor.ask(node, crowd.plan.name, at) for at in behind}
                    behind = {at: ends[at] for at, offset in asked.items() if offset < ends[at]}
                    if not behind:
                        break
                    await asyncio.sleep(_LOOK_S)
            if behind:
                left = ", ".join(f"{asked[at]} of {end} in partition {at}" for at, end in behind.items())
                self._recorder.found(f"group {crowd.plan.name} came no further than {left} within {GROUPS_CAUGHT_UP_S:g} s")
        await asyncio.gather(*(crowd.close() for crowd in self._crowds))

    async def _end(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._calm.set()
        for task in self._watching:
            task.cancel()
        if error is not None:
            for crowd in self._crowds:
                crowd.kill()
        await self._sending.aclose()
        await self._stack.__aexit__(kind, error, trace)

    def _turned(self, clients: int) -> list[list[str]]:
        """The brokers, each time with another one first."""
        brokers = self._cluster.brokers
        return [brokers[at % len(brokers) :] + brokers[: at % len(brokers)] for at in range(clients)]

    def _start_grpc(self, clients: Sequence[Client]) -> None:
        plan, recorder, rng, brokers = self._plan, self._recorder, self._rng, self._cluster.brokers
        topic, partitions = plan.topic, plan.partitions
        start = self._tasks.create_task
        self._watching = [
            start(self._observer.run()),
            start(Subscriber("s0", recorder, topic).run(clients[-1])),
            start(stay_awake(recorder, plan.directory)),
        ]
        for at, address in enumerate(brokers):
            fetcher = Fetcher(f"f{at + 1}", recorder, Random(rng.getrandbits(32)), topic, partitions)
            start(fetcher.run(address, self._stop))
        plain = PlainProducer("n0", recorder, Random(rng.getrandbits(32)), topic, partitions)
        start(plain.run(brokers, self._stop, PLAIN_PAUSE_S))
        start(self._maker.run(clients[-2], self._stop, TOPIC_PAUSE_S))
        self._producers = [
            IdempotentProducer(f"p{at}", at, recorder, topic, partitions, plan.rate) for at in range(IDEMPOTENT_PRODUCERS)
        ]
        self._producing = [start(producer.run(client)) for producer, client in zip(self._producers, clients, strict=False)]

    async def _start_kafka(self) -> None:
        plan, address = self._plan, self._cluster.kafka
        if not plan.kafka:
            return
        words = ("produce", address, str(KAFKA_PRODUCER_NUMBER), str(plan.rate))
        producer = Child("kafka_clients", "kafka-producer", next(self._numbers), self._place, words)
        await self._sending.enter_async_context(running(producer, self._recorder, DELIVERY_TIMEOUT_S))
        reader = Child("kafka_clients", "kafka-reader", next(self._numbers), self._place, ("read", address))
        await self._stack.enter_async_context(running(reader, self._recorder))

    def _start_groups(self) -> None:
        plan, recorder, brokers = self._plan, self._recorder, self._cluster.brokers
        if not plan.groups:
            return
        addresses = {"grpc": ",".join(brokers), "kafka": self._cluster.kafka}
        for group in plan.groups:
            crowd = Crowd(group, self._place, addresses, recorder, Random(self._rng.getrandbits(32)), self._numbers)
            self._crowds.append(crowd)
            self._crowding.append(self._tasks.create_task(crowd.run(self._calm)))
        names = [group.name for group in plan.groups]
        auditor = Auditor("auditor", recorder, Random(self._rng.getrandbits(32)), plan.topic, plan.partitions, names)
        self.ghost = Ghost("ghost", recorder, Random(self._rng.getrandbits(32)), auditor, plan.topic, self._crowds)
        self._tasks.create_task(auditor.run(brokers, self._stop))
        self._tasks.create_task(self.ghost.run(brokers, self._calm))

    @property
    def _place(self) -> Place:
        return Place(
            directory=self._plan.directory,
            begun_s=self._recorder.begun_s,
            topic=self._plan.topic,
            partitions=self._plan.partitions,
        )
