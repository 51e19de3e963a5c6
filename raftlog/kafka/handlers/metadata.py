"""Metadata: nodes by this listener's addresses, topics with their leaders; topics are made where a client asks and may."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from raftlog.errors import TopicExistsError, UnknownTopicOrPartitionError
from raftlog.kafka.codec import ZERO_UUID
from raftlog.kafka.handlers.call import Call, Request, in_parallel
from raftlog.kafka.wire import errors
from raftlog.model import ClusterInfo, TopicInfo

ENCODED_IN_ONE_GO_MAX: Final = 100
"""Topics of one answer that are encoded before others have their turn: those that nobody asked for lately take 50 µs each."""


async def metadata(call: Call, request: Request) -> Mapping[str, Any]:
    """Answer one request. All topics where it names none; in version 0 an empty list means all as well."""
    wanted = request.topics
    if wanted is None or (not wanted and call.version == 0):
        topics: list[TopicInfo | dict[str, Any]] = list(call.broker.topics())
    else:
        topics = await _find_all(call, wanted, create=request.allow_auto_topic_creation)
    cluster = call.broker.cluster()
    told = nodes(call, cluster)
    ids = frozenset(node["node_id"] for node in told)
    cache = call.door.topics
    described: list[Any] = []
    for topic in topics:
        described.append(cache.get(call.version, topic, ids) if isinstance(topic, TopicInfo) else topic)
        if len(described) % ENCODED_IN_ONE_GO_MAX == 0:
            await asyncio.sleep(0)
    return {
        "brokers": told,
        "cluster_id": cluster.cluster_id,
        "controller_id": controller(call, cluster),
        "topics": described,
    }


async def _find_all(call: Call, wanted: Any, *, create: bool) -> list[TopicInfo | dict[str, Any]]:
    """Each topic once, however often it is named."""
    asked = {topic.topic_id if topic.name is None else topic.name: topic for topic in wanted}
    by_id: dict[str, TopicInfo] = {}
    if any(topic.name is None for topic in asked.values()):
        by_id = {topic.topic_id: topic for topic in call.broker.topics()}
    return await in_parallel(asked.values(), lambda topic: _find(call, topic, by_id, create=create))


async def _find(call: Call, wanted: Any, by_id: Mapping[str, TopicInfo], *, create: bool) -> TopicInfo | dict[str, Any]:
    """A topic, or the answer that says why there is none."""
    if wanted.name is None:
        found = by_id.get(wanted.topic_id.hex())
        return found or {"error_code": errors.UNKNOWN_TOPIC_ID, "name": None, "topic_id": wanted.topic_id}
    try:
        try:
            return call.broker.topic(wanted.name)
        except UnknownTopicOrPartitionError:
            if not (create and call.door.options.auto_create_topics):
                raise
        return await _create(call, wanted.name)
    except Exception as error:
        return {"error_code": call.failed(error), "name": wanted.name, "topic_id": ZERO_UUID}


async def _create(call: Call, name: str) -> TopicInfo:
    try:
        return await call.broker.create_topic(name, partitions=0, replication_factor=0, configs={})
    except TopicExistsError:  # another client was faster
        return call.broker.topic(name)


def nodes(call: Call, cluster: ClusterInfo, key: str = "node_id") -> list[dict[str, Any]]:
    """The nodes that clients of this listener can reach."""
    found = []
    for node in cluster.nodes:
        address = call.address(node)
        if address is not None and node.alive:
            found.append({key: node.node_id, "host": address[0], "port": address[1], "rack": node.rack or None})
    return found


def controller(call: Call, cluster: ClusterInfo) -> int:
    """Whom clients ask for changes: the metadata group's leader.

    Any node takes them, so it is this one where no leader is known, or where it is not among the nodes that are told: some
    clients wait for minutes for a controller that they were not told the address of.
    """
    reachable = {node.node_id for node in cluster.nodes if node.alive and call.address(node) is not None}
    return cluster.controller if cluster.controller in reachable else call.broker.node_id
