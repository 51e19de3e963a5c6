"""ListOffsets, OffsetForLeaderEpoch, DeleteRecords: what is asked of single partitions' offsets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raftlog.kafka.handlers.call import Call, Request, in_parallel, seconds
from raftlog.model import TopicPartition


async def list_offsets(call: Call, request: Request) -> Mapping[str, Any]:
    """Offsets by time, and the ends."""

    async def ask(item: tuple[str, Any]) -> dict[str, Any]:
        name, part = item
        try:
            listed = await call.broker.list_offset(
                TopicPartition(name, part.partition_index), part.timestamp,
                leader_epoch=part.current_leader_epoch, direct=True,
            )  # fmt: skip
        except Exception as error:
            return {"partition_index": part.partition_index, "error_code": call.failed(error)}
        return {
            "partition_index": part.partition_index,
            "timestamp": listed.timestamp_ms,
            "offset": listed.offset,
            "leader_epoch": listed.leader_epoch,
        }

    return {"topics": await _by_topic(request.topics, "name", ask)}


async def offset_for_leader_epoch(call: Call, request: Request) -> Mapping[str, Any]:
    """Where leader epochs end."""

    async def ask(item: tuple[str, Any]) -> dict[str, Any]:
        name, part = item
        try:
            end = await call.broker.epoch_end(
                TopicPartition(name, part.partition), part.leader_epoch,
                current_epoch=part.current_leader_epoch, direct=True,
            )  # fmt: skip
        except Exception as error:
            return {"partition": part.partition, "error_code": call.failed(error)}
        return {"partition": part.partition, "leader_epoch": end.leader_epoch, "end_offset": end.end_offset}

    return {"topics": await _by_topic(request.topics, "topic", ask)}


async def delete_records(call: Call, request: Request) -> Mapping[str, Any]:
    """Move log starts forward."""
    timeout_s = seconds(request.timeout_ms)

    async def ask(item: tuple[str, Any]) -> dict[str, Any]:
        name, part = item
        try:
            start = await call.broker.delete_records(
                TopicPartition(name, part.partition_index), part.offset, timeout_s=timeout_s, direct=True
            )
        except Exception as error:
            return {"partition_index": part.partition_index, "low_watermark": -1, "error_code": call.failed(error)}
        return {"partition_index": part.partition_index, "low_watermark": start}

    return {"topics": await _by_topic(request.topics, "name", ask)}


async def _by_topic(topics: Any, key: str, ask: Any) -> list[dict[str, Any]]:
    """Ask about every partition of a request, and put the answers back under their topics."""
    items = [(getattr(topic, key), part) for topic in topics for part in topic.partitions]
    answers = iter(await in_parallel(items, ask))
    return [{key: getattr(topic, key), "partitions": [next(answers) for _ in topic.partitions]} for topic in topics]
