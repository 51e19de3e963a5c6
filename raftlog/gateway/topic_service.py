"""``raftlog.v1.TopicService``: topics, their configs, and where their partitions stand."""

from __future__ import annotations

import asyncio
from typing import Final

from raftlog.broker.port import Broker
from raftlog.core.names import is_internal
from raftlog.gateway.port import DescribeConfigs
from raftlog.gateway.requests import topic_name
from raftlog.gateway.rpc import Handler, Handlers
from raftlog.model import TopicInfo, TopicPartition
from raftlog.pb.raftlog.v1 import topic_service_pb2 as pb

STATUS_CALLS_MAX: Final = 64
"""Leaders asked at the same time for one description."""


class TopicService:
    """The calls, over a broker."""

    def __init__(self, broker: Broker, describe_configs: DescribeConfigs) -> None:
        self._broker = broker
        self._describe_configs = describe_configs

    def handlers(self, make: Handlers) -> dict[str, Handler]:
        """A handler for each call of the service."""
        return {
            "CreateTopic": make.unary(self.create_topic, pb.CreateTopicRequest, pb.CreateTopicResponse),
            "ListTopics": make.unary(self.list_topics, pb.ListTopicsRequest, pb.ListTopicsResponse),
            "DescribeTopic": make.unary(self.describe_topic, pb.DescribeTopicRequest, pb.DescribeTopicResponse),
            "AlterTopic": make.unary(self.alter_topic, pb.AlterTopicRequest, pb.AlterTopicResponse),
            "DeleteTopic": make.unary(self.delete_topic, pb.DeleteTopicRequest, pb.DeleteTopicResponse),
        }

    async def create_topic(self, request: pb.CreateTopicRequest) -> pb.CreateTopicResponse:
        """Answers when the metadata is durable on a majority."""
        created = await self._broker.create_topic(
            topic_name(request.name, "name"),
            partitions=request.partitions,
            replication_factor=request.replication_factor,
            configs=dict(request.configs),
        )
        return pb.CreateTopicResponse(topic=self._topic(created))

    async def list_topics(self, request: pb.ListTopicsRequest) -> pb.ListTopicsResponse:
        """All topics this node knows, by name."""
        addresses = self._addresses()
        topics = [topic for topic in self._broker.topics() if request.internal or not is_internal(topic.name)]
        return pb.ListTopicsResponse(topics=[_encode(topic, addresses) for topic in topics])

    async def describe_topic(self, request: pb.DescribeTopicRequest) -> pb.DescribeTopicResponse:
        """One topic; with offsets, the first leader that cannot be asked fails the call."""
        topic = self._broker.topic(topic_name(request.name, "name"))
        response = pb.DescribeTopicResponse(topic=self._topic(topic), configs=self._configs(topic))
        if request.offsets:
            response.offsets.extend(await self._offsets(topic))
        return response

    async def alter_topic(self, request: pb.AlterTopicRequest) -> pb.AlterTopicResponse:
        """Set and unset configs, or raise the number of partitions."""
        altered = await self._broker.alter_topic(
            topic_name(request.name, "name"),
            set_configs=dict(request.set_configs),
            unset_configs=list(request.unset_configs),
            partitions=request.partitions,
        )
        return pb.AlterTopicResponse(topic=self._topic(altered))

    async def delete_topic(self, request: pb.DeleteTopicRequest) -> pb.DeleteTopicResponse:
        """Delete a topic and its data."""
        await self._broker.delete_topic(topic_name(request.name, "name"))
        return pb.DeleteTopicResponse()

    async def _offsets(self, topic: TopicInfo) -> list[pb.PartitionOffsets]:
        room = asyncio.Semaphore(STATUS_CALLS_MAX)

        async def ask(partition: int) -> pb.PartitionOffsets:
            async with room:
                status = await self._broker.partition_status(TopicPartition(topic.name, partition))
            return pb.PartitionOffsets(
                partition=partition,
                log_start_offset=status.log_start_offset,
                high_watermark=status.high_watermark,
                size_bytes=status.size_bytes,
            )

        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask(info.partition)) for info in topic.partitions]
        return [task.result() for task in asked]

    def _configs(self, topic: TopicInfo) -> list[pb.TopicConfigEntry]:
        return [
            pb.TopicConfigEntry(
                key=config.key,
                value=config.value,
                set=config.set,
                effective=config.effective,
                documentation=config.documentation,
            )
            for config in self._describe_configs(topic.configs)
        ]

    def _topic(self, topic: TopicInfo) -> pb.Topic:
        return _encode(topic, self._addresses())

    def _addresses(self) -> dict[int, str]:
        return {node.node_id: node.grpc_address for node in self._broker.cluster().nodes}


def _encode(topic: TopicInfo, addresses: dict[int, str]) -> pb.Topic:
    return pb.Topic(
        name=topic.name,
        topic_id=topic.topic_id,
        replication_factor=topic.replication_factor,
        partitions=[
            pb.Partition(
                partition=info.partition,
                leader=info.leader or 0,
                leader_address=addresses.get(info.leader, "") if info.leader is not None else "",
                leader_epoch=max(info.leader_epoch, 0),
                replicas=info.replicas,
            )
            for info in topic.partitions
        ],
        configs=topic.configs,
    )
