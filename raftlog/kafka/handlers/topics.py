"""CreateTopics, DeleteTopics, CreatePartitions: each topic of a request has its own outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from raftlog.config import topic as topic_config
from raftlog.errors import (
    InvalidPartitionsError,
    InvalidReplicaAssignmentError,
    InvalidReplicationFactorError,
    InvalidRequestError,
    UnknownTopicOrPartitionError,
)
from raftlog.kafka.codec import ZERO_UUID
from raftlog.kafka.handlers.call import Call, Request, in_parallel
from raftlog.kafka.handlers.config_rows import SOURCE_DEFAULT, SOURCE_TOPIC
from raftlog.kafka.wire import errors
from raftlog.model import TopicInfo

DEFAULT: Final = -1
"""Partitions or replicas of a topic whose creator leaves them to the cluster (KIP-464)."""

CREATED_AT_ONCE_MAX: Final = 1_000
"""Topics in one request to create: each is answered with all its configs, also where it is only tried."""


class UnknownTopicIdError(UnknownTopicOrPartitionError):
    """A topic's id that no topic has."""

    reason = "UNKNOWN_TOPIC_ID"
    kafka_code = errors.UNKNOWN_TOPIC_ID


async def create_topics(call: Call, request: Request) -> Mapping[str, Any]:
    """Create, or only look whether it would pass."""
    twice = _repeated(topic.name for topic in request.topics)

    async def create(wanted: Any) -> dict[str, Any]:
        try:
            if len(request.topics) > CREATED_AT_ONCE_MAX:
                raise InvalidRequestError(
                    f"{len(request.topics)} topics in one request; at most {CREATED_AT_ONCE_MAX} are allowed"
                )
            if wanted.name in twice:
                raise InvalidRequestError(f"topic {wanted.name!r} is named more than once in this request")
            created = await _create(call, wanted, validate_only=request.validate_only)
        except Exception as error:
            code, words = call.told(error)
            return {"name": wanted.name, "error_code": code, "error_message": words, "topic_id": ZERO_UUID, "configs": []}
        return _created(created)

    return {"topics": await in_parallel(request.topics, create)}


async def _create(call: Call, wanted: Any, *, validate_only: bool) -> TopicInfo:
    if wanted.assignments:
        raise InvalidReplicaAssignmentError("the cluster places replicas itself; leave the assignments away and give numbers")
    if wanted.num_partitions < 1 and wanted.num_partitions != DEFAULT:
        raise InvalidPartitionsError(f"a topic has at least one partition, not {wanted.num_partitions}; -1 is the default")
    if wanted.replication_factor < 1 and wanted.replication_factor != DEFAULT:
        raise InvalidReplicationFactorError(f"a topic has a replica at least, not {wanted.replication_factor}; -1 is the default")
    wish = {
        "partitions": max(wanted.num_partitions, 0),
        "replication_factor": max(wanted.replication_factor, 0),
        "configs": {config.name: config.value for config in wanted.configs if config.value is not None},
    }
    if validate_only:
        return call.broker.check_new_topic(wanted.name, **wish)
    return await call.broker.create_topic(wanted.name, **wish)


def _created(topic: TopicInfo) -> dict[str, Any]:
    return {
        "name": topic.name,
        "topic_id": bytes.fromhex(topic.topic_id) if topic.topic_id else ZERO_UUID,
        "num_partitions": len(topic.partitions),
        "replication_factor": topic.replication_factor,
        "configs": [
            {"name": row.key, "value": row.value, "config_source": SOURCE_TOPIC if row.set else SOURCE_DEFAULT}
            for row in topic_config.describe(topic.configs)
        ],
    }


async def delete_topics(call: Call, request: Request) -> Mapping[str, Any]:
    """Delete by name, from version 6 on by id as well."""
    wanted = [(topic.name, topic.topic_id) for topic in request.topics]
    wanted += [(name, ZERO_UUID) for name in request.topic_names]
    names = {topic.topic_id: topic.name for topic in call.broker.topics()} if any(name is None for name, _ in wanted) else {}

    async def delete(item: tuple[str | None, bytes]) -> dict[str, Any]:
        name, topic_id = item
        try:
            name = name if name is not None else _name_of(topic_id, names)
            topic = call.broker.topic(name)
            await call.broker.delete_topic(name)
        except Exception as error:
            code, words = call.told(error)
            return {"name": name, "topic_id": topic_id, "error_code": code, "error_message": words}
        return {"name": name, "topic_id": bytes.fromhex(topic.topic_id)}

    return {"responses": await in_parallel(wanted, delete)}


def _name_of(topic_id: bytes, names: Mapping[str, str]) -> str:
    name = names.get(topic_id.hex())
    if name is None:
        raise UnknownTopicIdError(f"no topic has the id {topic_id.hex()}")
    return name


async def create_partitions(call: Call, request: Request) -> Mapping[str, Any]:
    """Raise topics' numbers of partitions."""
    twice = _repeated(topic.name for topic in request.topics)

    async def create(wanted: Any) -> dict[str, Any]:
        try:
            if wanted.name in twice:
                raise InvalidRequestError(f"topic {wanted.name!r} is named more than once in this request")
            if wanted.assignments:
                raise InvalidReplicaAssignmentError("the cluster places replicas itself; leave the assignments away")
            there = len(call.broker.topic(wanted.name).partitions)
            if wanted.count <= there:
                raise InvalidPartitionsError(f"topic {wanted.name!r} has {there} partitions; the number can only be raised")
            if not request.validate_only:
                await call.broker.alter_topic(wanted.name, set_configs={}, unset_configs=(), partitions=wanted.count)
        except Exception as error:
            code, words = call.told(error)
            return {"name": wanted.name, "error_code": code, "error_message": words}
        return {"name": wanted.name}

    return {"results": await in_parallel(request.topics, create)}


def _repeated(names: Iterable[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1}
