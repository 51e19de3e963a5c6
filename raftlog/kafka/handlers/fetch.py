"""Fetch: a request's partitions become one call of ``Broker.fetch_many``, which waits for all of them together."""

from __future__ import annotations

from typing import Final

from raftlog.broker.port import Fetched, FetchPart
from raftlog.errors import RaftlogError
from raftlog.kafka.handlers.call import Call
from raftlog.kafka.wire import errors
from raftlog.kafka.wire.fetch import PartitionAnswer, read_request, write_answer
from raftlog.kafka.wire.header import begin_answer
from raftlog.kafka.wire.primitives import Buffer, Reader
from raftlog.model import TopicPartition

ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024
"""Batches in one answer; more is cut to this, for it is held in memory until the client has taken it."""
WAIT_MS_MAX: Final = 60_000
"""A longer wait is cut to this."""
_FOLLOWERS_FROM: Final = 11
"""The version from which on consumers may read from followers (KIP-392)."""


async def fetch(call: Call, body: Reader) -> list[Buffer]:
    """Answer one request."""
    request = read_request(body, call.version)
    writer = begin_answer(call.header)
    if request.session_id:
        # None is ever given out, so this client speaks of another broker's; told so, it begins again without one.
        write_answer(writer, call.version, (), error_code=errors.FETCH_SESSION_ID_NOT_FOUND)
        return writer.finish()
    parts = [
        FetchPart(
            tp=TopicPartition(name, part.partition), offset=part.offset, bytes_max=max(part.bytes_max, 1),
            leader_epoch=part.current_leader_epoch,
        )
        for name, partitions in request.topics
        for part in partitions
    ]  # fmt: skip
    outcomes: list[Fetched | RaftlogError]
    try:
        outcomes = await call.broker.fetch_many(
            parts,
            bytes_max=call.door.answers.allowance(min(max(request.max_bytes, 1), ANSWER_BYTES_MAX)),
            bytes_min=request.min_bytes,
            wait_s=min(max(request.max_wait_ms, 0), WAIT_MS_MAX) / 1_000 if request.min_bytes > 0 else 0.0,
            direct=True,
            follower=call.version >= _FOLLOWERS_FROM,
            rack=request.rack,
            share=call.door.answers.allowance,
        )
    except RaftlogError as error:
        outcomes = [error] * len(parts)
    results = iter(outcomes)
    answers = [
        (name, [_answer(call, part.partition, next(results)) for part in partitions]) for name, partitions in request.topics
    ]
    write_answer(writer, call.version, answers)
    call.door.metrics.fetched(sum(outcome.size_bytes for outcome in outcomes if isinstance(outcome, Fetched)))
    return writer.finish()


def _answer(call: Call, partition: int, outcome: Fetched | RaftlogError) -> PartitionAnswer:
    if isinstance(outcome, RaftlogError):
        return PartitionAnswer(partition, call.failed(outcome, errors.FETCH))
    return PartitionAnswer(
        partition, 0, outcome.high_watermark, outcome.log_start_offset, outcome.preferred_replica, outcome.batches
    )
