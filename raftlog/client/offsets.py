"""Looks up offsets of many partitions: their ends, or the first record at or after a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import islice
from typing import Final

from raftlog.client.backoff import BACKOFF_MAX_S
from raftlog.client.connections import Node
from raftlog.client.routing import ATTEMPT_TIMEOUT_S, Routing
from raftlog.client.values import ListedOffset
from raftlog.client.wire_errors import from_status
from raftlog.errors import RequestTimedOutError
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1 import records_pb2
from raftlog.pb.raftlog.v1.log_service_pb2 import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse
from raftlog.pb.raftlog.v1.records_pb2 import Position

BEGINNING = Position(edge=records_pb2.EDGE_BEGINNING)
END = Position(edge=records_pb2.EDGE_END)
PARTITIONS_MAX: Final = 1_000
"""Partitions in one request, to look up or to follow: a node takes no more."""


async def list_offsets(
    routing: Routing, wanted: Mapping[TopicPartition, Position], *, timeout_s: float
) -> dict[TopicPartition, ListedOffset]:
    """Look up one offset of each partition; a partition in an election is asked again until the time is up.

    Raises:
        RaftlogError: of the first partition that failed for good, or in time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    missing = dict(wanted)
    found: dict[TopicPartition, ListedOffset] = {}
    while missing:
        left_s = deadline - loop.time()
        if left_s <= 0:
            raise RequestTimedOutError(f"no offsets of {', '.join(map(str, missing))} within {timeout_s:g} s; try again")
        some = list(islice(missing.items(), PARTITIONS_MAX))
        request = ListOffsetsRequest(
            partitions=[ListOffsetsPartition(topic=tp.topic, partition=tp.partition, at=at) for tp, at in some]
        )

        async def call(node: Node, attempt_s: float, request: ListOffsetsRequest = request) -> ListOffsetsResponse:
            return await node.log.ListOffsets(request, timeout=attempt_s)

        answer = await routing.any_node(call, timeout_s=left_s, attempt_timeout_s=2 * ATTEMPT_TIMEOUT_S)
        failed = False
        for one in answer.offsets:
            tp = TopicPartition(one.topic, one.partition)
            if not one.HasField("error"):
                found[tp] = ListedOffset(offset=one.offset, timestamp_ms=one.timestamp_ms, leader_epoch=one.leader_epoch)
                missing.pop(tp, None)
                continue
            failed = True
            error = from_status(one.error)
            if not error.retriable or loop.time() + BACKOFF_MAX_S >= deadline:
                raise error
        if failed:
            await asyncio.sleep(BACKOFF_MAX_S / 2)
    return found
