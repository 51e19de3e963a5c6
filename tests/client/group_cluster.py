"""Several real gateways over one broker and one group coordinator in memory: what group consumers of the client are tried on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from raftlog.client.group_consumer import GroupConsumer
from raftlog.client.values import ConsumedRecord
from raftlog.core.clock import SystemClock
from raftlog.gateway.server import Gateway, GatewayOptions
from raftlog.model import Acks, ClusterInfo, NodeInfo, TopicPartition
from raftlog.records.batch import Record, encode
from tests.gateway.fake_broker import FakeBroker
from tests.gateway.fake_groups import FakeGroups
from tests.gateway.fake_moves import FakeMoves


class AddressedBroker(FakeBroker):
    """The fake broker, which also knows where its gateways listen; the first that is up leads everything."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: dict[int, str] = {}

    def cluster(self) -> ClusterInfo:
        nodes = (NodeInfo(node_id=number, peer_address="", grpc_address=address) for number, address in self.addresses.items())
        return ClusterInfo(cluster_id="c1", controller=1, nodes=tuple(nodes))

    def lead(self, number: int) -> None:
        """Gateway ``number`` leads all partitions from now on."""
        for name, info in self.infos.items():
            partitions = tuple(replace(one, leader=number, leader_epoch=one.leader_epoch + 1) for one in info.partitions)
            self.infos[name] = replace(info, partitions=partitions)


class NodeView:
    """The broker as one node sees it."""

    def __init__(self, broker: AddressedBroker, number: int) -> None:
        self._broker = broker
        self.node_id = number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)


class GroupCluster:
    """Gateways 1 to ``nodes``; use in an ``async with``. Topic ``t`` has three partitions."""

    def __init__(self, nodes: int = 2) -> None:
        self.broker = AddressedBroker()
        self.broker.add_topic("t", 3)
        self.groups = FakeGroups()
        self.gateways = {
            number: Gateway(
                NodeView(self.broker, number), self.groups, FakeMoves(), options=GatewayOptions(), clock=SystemClock()
            )
            for number in range(1, nodes + 1)
        }

    async def __aenter__(self) -> GroupCluster:
        for number, gateway in self.gateways.items():
            await gateway.start()
            self.broker.addresses[number] = gateway.address
        self.coordinate(1)
        return self

    def coordinate(self, number: int) -> None:
        """Gateway ``number`` coordinates all groups from now on."""
        self.groups.coordinator = NodeInfo(node_id=number, peer_address="", grpc_address=self.broker.addresses[number])

    async def __aexit__(self, *_: object) -> None:
        for number in list(self.gateways):
            await self.kill(number)

    @property
    def brokers(self) -> list[str]:
        """All addresses."""
        return list(self.broker.addresses.values())

    async def kill(self, number: int) -> None:
        """Break all of a gateway's streams, and take no more calls; another leads."""
        gateway = self.gateways.pop(number)
        if self.gateways:
            self.broker.lead(next(iter(self.gateways)))
            if self.groups.coordinator.node_id == number:
                self.coordinate(next(iter(self.gateways)))
        await gateway.stop(0)

    async def publish(self, count: int, partition: int = 0, topic: str = "t") -> None:
        """``count`` records in one batch, whose values are their offsets."""
        tp = TopicPartition(topic, partition)
        first = self.broker.logs[tp].end
        data = encode([Record(0, 1_000 + n, None, b"%d" % n) for n in range(first, first + count)])
        await self.broker.publish([(tp, data)], acks=Acks.ALL, timeout_s=1)

    def committed(self, group: str = "g", topic: str = "t") -> dict[int, int]:
        """What the group has committed, by partition."""
        offsets = self.groups.group(group).offsets
        return {tp.partition: one.offset for tp, one in sorted(offsets.items()) if tp.topic == topic}


class Worker:
    """A user who iterates over a consumer in a task of its own and remembers what it was given."""

    def __init__(self, consumer: GroupConsumer, *, work: Callable[[ConsumedRecord], object] | None = None) -> None:
        self.consumer = consumer
        self.seen: list[tuple[int, int]] = []
        self.error: Exception | None = None
        self._work = work
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            async with self.consumer:
                async for record in self.consumer:
                    self.seen.append((record.partition, record.offset))
                    if self._work is not None:
                        self._work(record)
        except Exception as error:
            self.error = error

    def has(self) -> set[int]:
        """The partitions that it reads."""
        return {tp.partition for tp in self.consumer.assignment()}

    async def stop(self) -> None:
        """Leave in order."""
        await self.consumer.close()
        await self._task

    async def vanish(self) -> None:
        """End without a word to anybody, as a process that is killed."""
        session = self.consumer._session
        assert session is not None
        session._task.cancel()
        committer = self.consumer._committer
        if committer is not None:
            committer.cancel()
        self._task.cancel()
        self.consumer._session = None
        await asyncio.wait((self._task,))
