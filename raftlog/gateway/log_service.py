"""``raftlog.v1.LogService``: publishing, fetching, subscribing, offsets, producer ids."""

from __future__ import annotations

import asyncio

from raftlog.broker.port import Broker
from raftlog.core.clock import Clock
from raftlog.errors import RaftlogError
from raftlog.gateway import requests
from raftlog.gateway.fetch import fetch
from raftlog.gateway.port import GatewayMetrics
from raftlog.gateway.publish import Publisher, encode_outcomes
from raftlog.gateway.publish_stream import PublishStream, read_request
from raftlog.gateway.rpc import Handler, Handlers, unless
from raftlog.gateway.status import Context, reason_of, to_status
from raftlog.gateway.subscribe import Subscription
from raftlog.gateway.wire import encode_subscribe_response
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1 import log_service_pb2 as pb


class LogService:
    """The calls, over a broker. ``stopping`` ends the long ones."""

    def __init__(self, broker: Broker, clock: Clock, metrics: GatewayMetrics, stopping: asyncio.Event) -> None:
        self._broker = broker
        self._metrics = metrics
        self._stopping = stopping
        self._publisher = Publisher(broker, clock, metrics)

    def handlers(self, make: Handlers) -> dict[str, Handler]:
        """A handler for each call of the service."""
        return {
            "Publish": make.unary_large(self.publish, pb.PublishRequest, pb.PublishResponse),
            "PublishStream": make.both_streams(self.publish_stream, read_request, pb.PublishStreamResponse),
            "Fetch": make.unary(self.fetch, pb.FetchRequest, pb.FetchResponse),
            "Subscribe": make.server_stream(self.subscribe, pb.SubscribeRequest, encode_subscribe_response),
            "ListOffsets": make.unary(self.list_offsets, pb.ListOffsetsRequest, pb.ListOffsetsResponse),
            "InitProducer": make.unary(self.init_producer, pb.InitProducerRequest, pb.InitProducerResponse),
        }

    async def publish(self, request: pb.PublishRequest) -> pb.PublishResponse:
        """A single item's failure fails the call."""
        prepared = self._publisher.prepare(request)
        del request
        [outcomes] = await self._publisher.outcomes(prepared)
        if len(outcomes) == 1 and isinstance(outcomes[0][1], RaftlogError):
            raise outcomes[0][1]
        return pb.PublishResponse(results=encode_outcomes(outcomes))

    async def publish_stream(self, context: Context) -> None:
        """See ``gateway.publish_stream``."""
        await PublishStream(self._publisher, context, self._stopping).run()

    async def fetch(self, request: pb.FetchRequest) -> pb.FetchResponse:
        """See ``gateway.fetch``."""
        fetching = fetch(self._broker, self._metrics, request)
        return await unless(self._stopping, fetching) if request.max_wait_ms else await fetching

    async def subscribe(self, request: pb.SubscribeRequest, context: Context) -> None:
        """See ``gateway.subscribe``."""
        await Subscription(self._broker, self._metrics, context, request, self._stopping).run()

    async def list_offsets(self, request: pb.ListOffsetsRequest) -> pb.ListOffsetsResponse:
        """All lookups at once: those that confirm leadership can share a round."""
        requests.partitions_count(len(request.partitions))
        wanted = [
            (
                requests.topic_partition(one.topic, one.partition, f"partitions[{index}]"),
                requests.offset_or_timestamp(one.at, f"partitions[{index}].at"),
            )
            for index, one in enumerate(request.partitions)
        ]
        async with asyncio.TaskGroup() as group:
            lookups = [group.create_task(self._list_offset(tp, *at)) for tp, at in wanted]
        return pb.ListOffsetsResponse(offsets=[lookup.result() for lookup in lookups])

    async def _list_offset(self, tp: TopicPartition, offset: int | None, timestamp_ms: int) -> pb.ListedOffset:
        listed = pb.ListedOffset(topic=tp.topic, partition=tp.partition, offset=-1, timestamp_ms=-1)
        if offset is not None:  # an offset stands where it stands
            listed.offset = offset
            return listed
        try:
            found = await self._broker.list_offset(tp, timestamp_ms)
        except RaftlogError as error:
            self._metrics.failed(reason_of(error))
            listed.error.CopyFrom(to_status(error))
            return listed
        listed.offset, listed.timestamp_ms, listed.leader_epoch = found.offset, found.timestamp_ms, max(found.leader_epoch, 0)
        return listed

    async def init_producer(self, _request: pb.InitProducerRequest) -> pb.InitProducerResponse:
        """A fresh producer id."""
        producer_id, epoch = await self._broker.init_producer()
        return pb.InitProducerResponse(producer_id=producer_id, producer_epoch=epoch)
