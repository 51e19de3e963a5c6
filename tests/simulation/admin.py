"""The administrator: makes, changes and deletes topics while everything else goes on, through any node."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from raftlog.errors import (
    IndeterminateError,
    InvalidPartitionsError,
    InvalidRequestError,
    RaftlogError,
    TopicExistsError,
    UnknownTopicOrPartitionError,
)
from raftlog.model import TopicPartition
from tests.simulation.clients import Client

if TYPE_CHECKING:
    from tests.simulation.world import World

PARTITIONS_MAX = 4


class Admin(Client):
    """See the module. Topics that it deletes are its own; nobody's records are in them."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self._made = 0
        self._topics: list[str] = []

    async def once(self) -> None:
        """One change."""
        act = self.rng.choice((self._create, self._delete, self._more_partitions, self._retention))
        try:
            await act()
        except RaftlogError as error:
            harmless = (TopicExistsError, UnknownTopicOrPartitionError, InvalidPartitionsError)
            if isinstance(error, InvalidRequestError) and not isinstance(error, harmless) and not self.world.expects(error):
                self.world.violated(f"{self.name} is refused: {error!r}")
            self.node(other=True)
        await self.pause(0.3, 1.5)

    async def _create(self) -> None:
        self._made += 1
        name = f"made-{self._made}"
        with contextlib.suppress(IndeterminateError):
            await self.node().ask(
                lambda broker: broker.create_topic(name, partitions=1, replication_factor=0, configs={}), timeout_s=8.0
            )
        self._topics.append(name)

    async def _delete(self) -> None:
        if self._topics:
            name = self._topics.pop(0)
            await self.node().ask(lambda broker: broker.delete_topic(name), timeout_s=8.0)
            self.world.covered("topics deleted")

    async def _more_partitions(self) -> None:
        topic = self.world.partitions[0].topic
        known = sum(1 for tp in self.world.partitions if tp.topic == topic)
        if known < PARTITIONS_MAX and self.rng.random() < 0.3:
            wanted = known + 1
            info = await self.node().ask(
                lambda broker: broker.alter_topic(topic, set_configs={}, unset_configs=(), partitions=wanted), timeout_s=8.0
            )
            if len(info.partitions) >= wanted:
                self.world.partitions.append(TopicPartition(topic, known))
                self.world.covered("partitions added")

    async def _retention(self) -> None:
        topic = self.rng.choice(self.world.partitions).topic
        wanted = {"retention.bytes": str(self.rng.choice((3_000, 20_000, -1))), "retention.ms": str(self.rng.choice((4_000, -1)))}
        await self.node().ask(lambda broker: broker.alter_topic(topic, set_configs=wanted, unset_configs=()), timeout_s=8.0)
        self.world.covered("retention changed")
