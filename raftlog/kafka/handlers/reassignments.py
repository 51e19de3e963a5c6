"""AlterPartitionReassignments, ListPartitionReassignments, ElectLeaders: moving replicas and leaders by Kafka's own tools.

Source: KIP-455, KIP-460.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from raftlog.broker.move_port import Placing
from raftlog.errors import InvalidReplicaAssignmentError, InvalidReplicationFactorError, InvalidRequestError
from raftlog.kafka.handlers.call import Call, Request, in_parallel
from raftlog.kafka.wire import errors
from raftlog.model import TopicPartition

PREFERRED: Final = 0
"""The only kind of election: an unclean one would lose what was acknowledged."""
REASON: Final = "by a Kafka client's request"


async def alter_partition_reassignments(call: Call, request: Request) -> Mapping[str, Any]:
    """Want other replicas, or take a move back; each partition has its own outcome."""

    async def alter(topic: Any) -> dict[str, Any]:
        return {"name": topic.name, "partitions": [await _alter(call, request, topic.name, one) for one in topic.partitions]}

    return {"responses": await in_parallel(request.topics, alter)}


async def _alter(call: Call, request: Request, topic: str, wanted: Any) -> dict[str, Any]:
    tp = TopicPartition(topic, wanted.partition_index)
    try:
        replicas = None if wanted.replicas is None else tuple(wanted.replicas)
        if replicas is not None and (not replicas or min(replicas) < 1):
            raise InvalidReplicaAssignmentError(f"{tp} needs a replica at least; nodes have ids from 1 on")
        if replicas is not None and not getattr(request, "allow_replication_factor_change", True):
            before = call.broker.topic(topic).partitions
            if tp.partition < len(before) and len(before[tp.partition].replicas) != len(replicas):
                raise InvalidReplicationFactorError(f"{tp} has another number of replicas, and the request does not allow that")
        await call.door.moves.place([Placing(tp=tp, replicas=replicas)], reason=REASON)
    except Exception as error:
        code, words = call.told(error)
        return {"partition_index": tp.partition, "error_code": code, "error_message": words}
    return {"partition_index": tp.partition}


async def list_partition_reassignments(call: Call, request: Request) -> Mapping[str, Any]:
    """What is on the move, of the partitions asked for (all where none are named)."""
    wanted = None
    if request.topics is not None:
        wanted = {TopicPartition(topic.name, number) for topic in request.topics for number in topic.partition_indexes}
    try:
        moves = await call.door.moves.moves()
    except Exception as error:
        code, words = call.told(error)
        return {"error_code": code, "error_message": words}
    by_topic: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for move in moves:
        if (wanted is None or move.tp in wanted) and (move.adding or move.removing):
            by_topic[move.tp.topic].append(
                {
                    "partition_index": move.tp.partition,
                    "replicas": [*move.replicas, *(node for node in move.removing if node not in move.replicas)],
                    "adding_replicas": list(move.adding),
                    "removing_replicas": list(move.removing),
                }
            )
    return {"topics": [{"name": name, "partitions": partitions} for name, partitions in by_topic.items()]}


async def elect_leaders(call: Call, request: Request) -> Mapping[str, Any]:
    """Have the preferred replicas lead. Of all partitions, only those that do not yet are told of, as Kafka does."""
    if getattr(request, "election_type", PREFERRED) != PREFERRED:
        code, _ = call.told(InvalidRequestError("only preferred replicas are elected: another election could lose records"))
        return {"error_code": code}
    preferred = {
        TopicPartition(topic.name, info.partition): info.leader == info.replicas[0]
        for topic in call.broker.topics()
        for info in topic.partitions
    }
    if request.topic_partitions is None:
        asked = [tp for tp, leads in preferred.items() if not leads]
    else:
        asked = [TopicPartition(one.topic, number) for one in request.topic_partitions for number in one.partitions]
    needed = [tp for tp in asked if not preferred.get(tp, False)]
    try:
        outcomes = dict(zip(needed, await call.door.moves.elect_leaders(needed), strict=True)) if needed else {}
    except Exception as error:
        code, words = call.told(error)
        return {"error_code": code, "replica_election_results": _results(dict.fromkeys(asked, (code, words)))}
    told: dict[TopicPartition, tuple[int, str | None]] = {}
    for tp in asked:
        failure = outcomes.get(tp)
        if tp not in outcomes:
            told[tp] = (errors.ELECTION_NOT_NEEDED, "its preferred replica leads already")
        else:
            told[tp] = (0, None) if failure is None else call.told(failure, errors.ELECTION)
    return {"replica_election_results": _results(told)}


def _results(told: Mapping[TopicPartition, tuple[int, str | None]]) -> list[dict[str, Any]]:
    by_topic: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for tp, (code, words) in told.items():
        by_topic[tp.topic].append({"partition_id": tp.partition, "error_code": code, "error_message": words})
    return [{"topic": topic, "partition_result": results} for topic, results in by_topic.items()]
