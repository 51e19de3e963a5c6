"""Making, changing and deleting topics, from any node: checked here, decided where group 0 leads."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Mapping, Sequence

from raftlog.broker.config import BrokerConfig
from raftlog.broker.group_port import GROUPS_TOPIC
from raftlog.broker.metadata_calls import MetadataCalls
from raftlog.broker.routing import Router, check_not_internal
from raftlog.config import topic as topic_config
from raftlog.core.metadata import MetadataState
from raftlog.core.names import check_topic_name
from raftlog.errors import InvalidPartitionsError, InvalidReplicationFactorError
from raftlog.model import TopicInfo
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb

LEADERS_LOOK_S = 0.02
"""How often creating a topic looks whether its partitions have leaders."""


class Topics:
    """What ``Broker`` promises of topics.

    Args:
        state: the applied metadata.
        router: who leads what.
        metadata: proposes commands.
        rng: ids of topics.
        config: limits.
    """

    def __init__(
        self, *, state: MetadataState, router: Router, metadata: MetadataCalls, rng: random.Random, config: BrokerConfig
    ) -> None:
        self._state = state
        self._router = router
        self._metadata = metadata
        self._rng = rng
        self._config = config

    def preview(self, name: str, *, partitions: int, replication_factor: int, configs: dict[str, str]) -> TopicInfo:
        """See ``Broker.check_new_topic``."""
        self._check_new(name, partitions, replication_factor)
        return self._metadata.preview(name, partitions, replication_factor, topic_config.check(configs))

    async def create(self, name: str, *, partitions: int, replication_factor: int, configs: dict[str, str]) -> TopicInfo:
        """See ``Broker.create_topic``."""
        self._check_new(name, partitions, replication_factor)
        await self._create(name, partitions, replication_factor, topic_config.check(configs))
        return self.one(name)

    async def create_groups_topic(self) -> None:
        """Make the internal topic of consumer groups."""
        configs = {"cleanup.policy": "compact"}  # as Kafka shows it; what is kept, the coordinators decide
        await self._create(GROUPS_TOPIC, self._config.offsets_topic_num_partitions, 0, configs)

    async def alter(
        self, name: str, *, set_configs: dict[str, str], unset_configs: Sequence[str], partitions: int = 0
    ) -> TopicInfo:
        """See ``Broker.alter_topic``."""
        check_not_internal(name)
        self._check_partitions(partitions)
        known = self._state.topics.get(name)
        topic_config.merge({} if known is None else known.configs, {**set_configs, **dict.fromkeys(unset_configs)})
        wish = pb.AlterTopic(
            name=name,
            topic_id=b"" if known is None else known.topic_id,
            set_configs=topic_config.check(set_configs),
            unset_configs=list(unset_configs),
            more_partitions=[pb.Assignment()] * partitions,
        )
        again = known is not None and not partitions
        await self._metadata.call(pb.MetadataCommand(alter_topic=wish), again=again)
        return self.one(name)

    async def delete(self, name: str) -> None:
        """See ``Broker.delete_topic``."""
        check_not_internal(name)
        known = self._state.topics.get(name)
        wish = pb.DeleteTopic(name=name, topic_id=b"" if known is None else known.topic_id)
        await self._metadata.call(pb.MetadataCommand(delete_topic=wish), again=known is not None)

    def all(self) -> list[TopicInfo]:
        """All topics by name."""
        return [self._router.topic_info(self._state.topics[name]) for name in sorted(self._state.topics)]

    def one(self, name: str) -> TopicInfo:
        """One topic."""
        return self._router.topic_info(self._router.find_topic(name))

    async def _create(self, name: str, partitions: int, replication_factor: int, configs: Mapping[str, str]) -> None:
        topic_id = uuid.UUID(bytes=self._rng.randbytes(16), version=4).bytes
        wish = pb.CreateTopic(
            name=name,
            topic_id=topic_id,
            replication_factor=replication_factor,
            partitions=[pb.Assignment()] * partitions,
            configs=configs,
        )
        await self._metadata.call(pb.MetadataCommand(create_topic=wish), again=True)
        await self._wait_leaders(name, topic_id)

    def _check_new(self, name: str, partitions: int, replication_factor: int) -> None:
        check_topic_name(name)
        self._check_partitions(partitions)
        if replication_factor < 0:
            raise InvalidReplicationFactorError(f"a topic cannot have {replication_factor} replicas; 0 is the default")

    def _check_partitions(self, partitions: int) -> None:
        if not 0 <= partitions <= self._config.partitions_per_topic_max:
            raise InvalidPartitionsError(
                f"a topic has 1 to {self._config.partitions_per_topic_max} partitions, not {partitions}; 0 is the default"
            )

    async def _wait_leaders(self, name: str, topic_id: bytes) -> None:
        """Wait a bounded while until every partition of a new topic has a leader, as far as this node knows."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._config.topic_leaders_wait_s
        while loop.time() < deadline_s:
            topic = self._state.topics.get(name)
            if topic is None or topic.topic_id != topic_id:
                return
            if all(self._router.serves(partition.group_id) for partition in topic.partitions):
                return
            await asyncio.sleep(LEADERS_LOOK_S)
