"""Topics, offsets, groups and the cluster's state, from any node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from raftlog.client.cluster_admin import ClusterAdmin
from raftlog.client.connections import Node
from raftlog.client.group_admin import GroupAdmin
from raftlog.client.level_admin import LevelAdmin
from raftlog.client.offsets import BEGINNING, END, list_offsets
from raftlog.client.routing import Routing
from raftlog.client.values import (
    AtTime,
    ListedOffset,
    Partition,
    PartitionOffsets,
    Topic,
    TopicConfig,
    TopicDescription,
)
from raftlog.errors import IndeterminateError, InvalidRequestError, TopicExistsError, UnknownTopicOrPartitionError
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1 import topic_service_pb2 as topic_pb
from raftlog.pb.raftlog.v1.records_pb2 import Position

CHANGE_TIMEOUT_S: Final = 15.0
"""How long one node may take over a change: it answers when the change is durable on a majority, an election included."""

_T = TypeVar("_T")


class Admin(GroupAdmin, ClusterAdmin, LevelAdmin):
    """What ``Client.admin`` is. Calls go to any node and on to the next where one does not answer, for ``request_timeout_s``.

    A change whose outcome stays unknown raises ``IndeterminateError``: describe the topic to see.
    """

    def __init__(self, routing: Routing, *, request_timeout_s: float) -> None:
        super().__init__(routing)
        self._request_timeout_s = request_timeout_s

    async def create_topic(
        self, name: str, *, partitions: int = 1, replication_factor: int = 0, configs: Mapping[str, str] | None = None
    ) -> Topic:
        """Create a topic; it is durable on a majority when this returns.

        Args:
            name: as in Kafka: letters, digits, ``.``, ``_`` and ``-``, 249 at most.
            partitions: how many.
            replication_factor: replicas of each; 0 for as many as there are nodes, 3 at most.
            configs: Kafka's topic configs.

        Raises:
            TopicExistsError, InvalidTopicError, InvalidConfigError, InvalidPartitionsError, InvalidReplicationFactorError
        """
        request = topic_pb.CreateTopicRequest(
            name=name, partitions=partitions, replication_factor=replication_factor, configs=configs
        )

        async def call(node: Node, timeout_s: float) -> topic_pb.CreateTopicResponse:
            return await node.topics.CreateTopic(request, timeout=timeout_s)

        try:
            return _topic((await self._change(call)).topic)
        except IndeterminateError:
            # Ask once more: a topic that exists now was most likely made by the lost call.
            try:
                return _topic((await self._change(call)).topic)
            except TopicExistsError:
                return (await self.describe_topic(name)).topic

    async def list_topics(self, *, internal: bool = False) -> list[Topic]:
        """All topics by name; ``internal`` also those that begin with two underscores."""

        async def call(node: Node, timeout_s: float) -> topic_pb.ListTopicsResponse:
            return await node.topics.ListTopics(topic_pb.ListTopicsRequest(internal=internal), timeout=timeout_s)

        return [_topic(topic) for topic in (await self._routing.any_node(call)).topics]

    async def describe_topic(self, name: str, *, offsets: bool = False) -> TopicDescription:
        """A topic with its configs; ``offsets`` also asks every partition's leader for offsets and sizes.

        Raises:
            UnknownTopicOrPartitionError: no node knows it.
        """
        request = topic_pb.DescribeTopicRequest(name=name, offsets=offsets)

        async def call(node: Node, timeout_s: float) -> topic_pb.DescribeTopicResponse:
            return await node.topics.DescribeTopic(request, timeout=timeout_s)

        answer = await self._routing.any_node(call, forward=True)
        return TopicDescription(
            topic=_topic(answer.topic),
            configs=tuple(
                TopicConfig(key=c.key, value=c.value, is_set=c.set, effective=c.effective, documentation=c.documentation)
                for c in answer.configs
            ),
            offsets=tuple(
                PartitionOffsets(
                    partition=o.partition,
                    log_start_offset=o.log_start_offset,
                    high_watermark=o.high_watermark,
                    size_bytes=o.size_bytes,
                )
                for o in answer.offsets
            ),
        )

    async def alter_topic(
        self, name: str, *, set_configs: Mapping[str, str] | None = None, unset_configs: Sequence[str] = (), partitions: int = 0
    ) -> Topic:
        """Set and unset configs, or raise the number of partitions (0 leaves it).

        Raises:
            UnknownTopicOrPartitionError, InvalidConfigError, InvalidPartitionsError
        """
        request = topic_pb.AlterTopicRequest(
            name=name, set_configs=set_configs, unset_configs=unset_configs, partitions=partitions
        )

        async def call(node: Node, timeout_s: float) -> topic_pb.AlterTopicResponse:
            return await node.topics.AlterTopic(request, timeout=timeout_s)

        answer = await self._change(call)
        await self._routing.refresh(name)
        return _topic(answer.topic)

    async def delete_topic(self, name: str) -> None:
        """Delete a topic and its data on every node.

        Raises:
            UnknownTopicOrPartitionError: there is none.
        """

        async def call(node: Node, timeout_s: float) -> topic_pb.DeleteTopicResponse:
            return await node.topics.DeleteTopic(topic_pb.DeleteTopicRequest(name=name), timeout=timeout_s)

        try:
            await self._change(call)
        except IndeterminateError:
            try:
                await self._change(call)
            except UnknownTopicOrPartitionError:
                return  # the lost call did it

    async def list_offsets(self, at: Mapping[TopicPartition, str | AtTime]) -> dict[TopicPartition, ListedOffset]:
        """Offsets of partitions: ``"earliest"``, ``"latest"`` (the next to be written), or the first at or after ``AtTime``.

        Raises:
            RaftlogError: of the first partition that could not be looked up.
        """
        wanted = {tp: _position(where) for tp, where in at.items()}
        return await list_offsets(self._routing, wanted, timeout_s=self._request_timeout_s)

    async def _change(self, call: Callable[[Node, float], Awaitable[_T]]) -> _T:
        """A call that must not be repeated in the dark."""
        return await self._routing.any_node(call, attempt_timeout_s=CHANGE_TIMEOUT_S, safe=False)


def _position(where: str | AtTime) -> Position:
    if isinstance(where, AtTime):
        return Position(timestamp_ms=where.timestamp_ms)
    if where == "earliest":
        return BEGINNING
    if where == "latest":
        return END
    raise InvalidRequestError(f"{where!r} is no place in a log; it must be 'earliest', 'latest' or AtTime(timestamp_ms)")


def _topic(wire: topic_pb.Topic) -> Topic:
    return Topic(
        name=wire.name,
        topic_id=wire.topic_id,
        replication_factor=wire.replication_factor,
        partitions=tuple(
            Partition(
                topic=wire.name,
                partition=p.partition,
                leader=p.leader or None,
                leader_address=p.leader_address,
                leader_epoch=p.leader_epoch,
                replicas=tuple(p.replicas),
            )
            for p in wire.partitions
        ),
        configs=dict(wire.configs),
    )
