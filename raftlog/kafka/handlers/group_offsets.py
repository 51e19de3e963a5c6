"""OffsetCommit, OffsetFetch, OffsetDelete: how far groups have come."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from raftlog.broker.group_port import CommittedOffset, GroupMember
from raftlog.errors import RaftlogError
from raftlog.kafka.handlers.call import Call, Request, in_parallel
from raftlog.kafka.handlers.groups import groups
from raftlog.kafka.wire import errors
from raftlog.model import TopicPartition

NO_OFFSET: Final = -1
_BATCHED_FROM: Final = 8
_GROUP_ERROR_FROM: Final = 2
"""The version of OffsetFetch from which on an error of the whole group has a place of its own."""


async def offset_commit(call: Call, request: Request) -> Mapping[str, Any]:
    """Commit offsets, each with the words that came with it."""
    offsets = {
        TopicPartition(topic.name, part.partition_index): CommittedOffset(
            offset=part.committed_offset, leader_epoch=part.committed_leader_epoch, metadata=part.committed_metadata or ""
        )
        for topic in request.topics
        for part in topic.partitions
    }
    member = GroupMember(
        group_id=request.group_id,
        generation=request.generation_id_or_member_epoch,
        member_id=request.member_id,
        instance_id=request.group_instance_id,
    )
    try:
        outcomes = await groups(call).commit_offsets(member, offsets, direct=True)
    except Exception as error:
        code = call.failed(error, errors.GROUP)
        codes = dict.fromkeys(offsets, code)
    else:
        codes = {tp: _code(call, outcome) for tp, outcome in outcomes.items()}
    return {"topics": _by_topic(request.topics, "partitions", lambda part: part.partition_index, codes)}


async def offset_fetch(call: Call, request: Request) -> Mapping[str, Any]:
    """Committed offsets; from version 8 on of several groups (KIP-709)."""
    if call.version >= _BATCHED_FROM:
        wanted = _by_group(request.groups)
        return {"groups": await in_parallel(wanted.items(), lambda asked: _fetch(call, *asked))}
    answer = await _fetch(call, request.group_id, _partitions(request.topics))
    del answer["group_id"]
    code = answer.get("error_code", errors.NONE)
    if code and call.version < _GROUP_ERROR_FROM:
        answer["topics"] = [
            {"name": topic.name, "partitions": [{**_nothing(number), "error_code": code} for number in topic.partition_indexes]}
            for topic in request.topics or ()
        ]
    return answer


Wanted = dict[TopicPartition, None] | None
"""Partitions, each once however often it was named, for each brings its words; None for all."""


def _partitions(topics: Any) -> Wanted:
    if topics is None:
        return None
    return dict.fromkeys(TopicPartition(topic.name, number) for topic in topics for number in topic.partition_indexes)


def _by_group(groups: Any) -> dict[str, Wanted]:
    """What is wanted of each group, one that is named twice included."""
    found: dict[str, Wanted] = {}
    for group in groups:
        before, more = found.get(group.group_id, {}), _partitions(group.topics)
        found[group.group_id] = None if before is None or more is None else before | more
    return found


async def _fetch(call: Call, group_id: str, wanted: Wanted) -> dict[str, Any]:
    partitions = None if wanted is None else list(wanted)
    try:
        found: Mapping[TopicPartition, CommittedOffset] = await groups(call).fetch_offsets(group_id, partitions, direct=True)
    except Exception as error:
        return {"group_id": group_id, "topics": [], "error_code": call.failed(error, errors.OFFSET_FETCH)}
    by_topic: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for tp in sorted(found) if partitions is None else partitions:
        committed = found.get(tp)
        by_topic[tp.topic].append(_nothing(tp.partition) if committed is None else _committed(tp.partition, committed))
    return {"group_id": group_id, "topics": [{"name": name, "partitions": parts} for name, parts in by_topic.items()]}


def _committed(partition: int, committed: CommittedOffset) -> dict[str, Any]:
    return {
        "partition_index": partition,
        "committed_offset": committed.offset,
        "committed_leader_epoch": committed.leader_epoch,
        "metadata": committed.metadata,
    }


def _nothing(partition: int) -> dict[str, Any]:
    return {"partition_index": partition, "committed_offset": NO_OFFSET, "metadata": ""}


async def offset_delete(call: Call, request: Request) -> Mapping[str, Any]:
    """Forget offsets (KIP-496)."""
    partitions = [TopicPartition(topic.name, part.partition_index) for topic in request.topics for part in topic.partitions]
    try:
        outcomes = await groups(call).delete_offsets(request.group_id, partitions, direct=True)
    except Exception as error:
        return {"error_code": call.failed(error, errors.GROUP)}
    codes = {tp: _code(call, outcome) for tp, outcome in outcomes.items()}
    return {"topics": _by_topic(request.topics, "partitions", lambda part: part.partition_index, codes)}


def _code(call: Call, outcome: RaftlogError | None) -> int:
    return errors.NONE if outcome is None else call.failed(outcome, errors.GROUP)


def _by_topic(topics: Any, inside: str, number_of: Any, codes: Mapping[TopicPartition, int]) -> list[dict[str, Any]]:
    return [
        {
            "name": topic.name,
            "partitions": [
                {"partition_index": number_of(part), "error_code": codes.get(TopicPartition(topic.name, number_of(part)), 0)}
                for part in getattr(topic, inside)
            ],
        }
        for topic in topics
    ]
