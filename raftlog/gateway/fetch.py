"""One Fetch call: a request's partitions become one call of ``Broker.fetch_many``, its outcomes become the response."""

from __future__ import annotations

from google.rpc.status_pb2 import Status

from raftlog.broker.port import Broker, Fetched, FetchPart
from raftlog.errors import RaftlogError
from raftlog.gateway import requests
from raftlog.gateway.port import GatewayMetrics
from raftlog.gateway.status import reason_of, to_status
from raftlog.pb.raftlog.v1.log_service_pb2 import FetchedPartition, FetchRequest, FetchResponse


async def fetch(broker: Broker, metrics: GatewayMetrics, request: FetchRequest) -> FetchResponse:
    """Read, and wait if need be."""
    requests.partitions_count(len(request.partitions))
    parts = [
        FetchPart(
            tp=requests.topic_partition(one.topic, one.partition, f"partitions[{index}]"),
            offset=requests.not_negative(one.offset, f"partitions[{index}].offset"),
            bytes_max=requests.bytes_max(one.max_bytes),
        )
        for index, one in enumerate(request.partitions)
    ]
    outcomes = await broker.fetch_many(
        parts,
        bytes_max=requests.bytes_max(request.max_bytes),
        bytes_min=max(request.min_bytes, 1),
        wait_s=min(request.max_wait_ms, requests.FETCH_WAIT_MS_MAX) / 1_000,
        direct=request.direct,
    )
    metrics.fetched(sum(outcome.size_bytes for outcome in outcomes if isinstance(outcome, Fetched)))
    return FetchResponse(partitions=[_encode(part, outcome, metrics) for part, outcome in zip(parts, outcomes, strict=True)])


def _encode(part: FetchPart, outcome: Fetched | RaftlogError, metrics: GatewayMetrics) -> FetchedPartition:
    error: Status | None = None
    if isinstance(outcome, RaftlogError):
        metrics.failed(reason_of(outcome))
        error = to_status(outcome)
        outcome = Fetched(batches=(), high_watermark=-1, log_start_offset=-1, next_offset=part.offset)
    return FetchedPartition(
        topic=part.tp.topic,
        partition=part.tp.partition,
        high_watermark=outcome.high_watermark,
        log_start_offset=outcome.log_start_offset,
        record_batches=b"".join(outcome.batches),
        error=error,
        next_offset=outcome.next_offset,
    )
