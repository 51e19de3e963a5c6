"""Checks of requests, each naming the field that is wrong; defaults and limits of the numbers in them."""

from __future__ import annotations

from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from raftlog.broker.port import EARLIEST, LATEST
from raftlog.errors import InvalidRequestError
from raftlog.model import Acks, TopicPartition
from raftlog.pb.raftlog.v1 import log_service_pb2 as log_pb
from raftlog.pb.raftlog.v1 import records_pb2 as records_pb

MIB: Final = 1 << 20
RESPONSE_BYTES_DEFAULT: Final = MIB
RESPONSE_BYTES_MAX: Final = 16 * MIB
"""Batches in one answer; more is cut to this, for an answer is held in memory two or three times while it is encoded."""
PUBLISH_TIMEOUT_MS_DEFAULT: Final = 30_000
PUBLISH_TIMEOUT_MS_MAX: Final = 600_000
"""A publish that waits for longer holds its bytes for nothing: its outcome is long unknown to whoever asked."""
FETCH_WAIT_MS_MAX: Final = 60_000
"""A longer wait is cut to this, so that a fetch whose client is gone ends some day."""
PARTITIONS_MAX: Final = 1_000
"""Partitions in one fetch, subscription or lookup: each costs a task."""

_Message = TypeVar("_Message", bound=Message)

_ACKS: Final[dict[int, Acks]] = {
    records_pb.ACKS_UNSPECIFIED: Acks.ALL,
    records_pb.ACKS_ALL: Acks.ALL,
    records_pb.ACKS_LEADER: Acks.LEADER,
    records_pb.ACKS_NONE: Acks.NONE,
}


def parsed(kind: type[_Message], raw: bytes) -> _Message:
    """The message of a request's bytes.

    Raises:
        InvalidRequestError: they are none.
    """
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise InvalidRequestError(f"the request is no {kind.DESCRIPTOR.name}: {error}") from error


def topic_name(name: str, field: str) -> str:
    """A topic's name, which must not be empty; whether it exists is the broker's matter."""
    if not name:
        raise InvalidRequestError(f"{field} is empty; name a topic")
    return name


def topic_partition(topic: str, partition: int, field: str) -> TopicPartition:
    """Topic and partition of the message called ``field``."""
    return TopicPartition(topic_name(topic, f"{field}.topic"), partition)


def acks(value: int) -> Acks:
    """The request's ``acks``."""
    known = _ACKS.get(value)
    if known is None:
        raise InvalidRequestError(f"acks is {value}, which is none of ACKS_ALL, ACKS_LEADER and ACKS_NONE")
    return known


def publish_timeout_s(timeout_ms: int) -> float:
    """The request's ``timeout_ms`` in seconds."""
    if timeout_ms > PUBLISH_TIMEOUT_MS_MAX:
        raise InvalidRequestError(f"timeout_ms is {timeout_ms}; at most {PUBLISH_TIMEOUT_MS_MAX} is allowed")
    return (timeout_ms or PUBLISH_TIMEOUT_MS_DEFAULT) / 1_000


def bytes_max(value: int) -> int:
    """The request's ``max_bytes``: its default for 0, cut to ``RESPONSE_BYTES_MAX``."""
    return min(value or RESPONSE_BYTES_DEFAULT, RESPONSE_BYTES_MAX)


def partitions_count(count: int) -> None:
    """Refuse a request about no partitions, or about too many."""
    if not count:
        raise InvalidRequestError("partitions is empty; name one at least")
    if count > PARTITIONS_MAX:
        raise InvalidRequestError(f"partitions has {count} items; at most {PARTITIONS_MAX} are allowed, use several calls")


def not_negative(value: int, field: str) -> int:
    """A number that must not be negative."""
    if value < 0:
        raise InvalidRequestError(f"{field} is {value}; it must not be negative")
    return value


def offset_or_timestamp(position: records_pb.Position, field: str) -> tuple[int | None, int]:
    """A position as (offset, −1) or as (None, a timestamp that ``Broker.list_offset`` understands)."""
    which = position.WhichOneof("at")
    if which == "offset":
        return not_negative(position.offset, f"{field}.offset"), -1
    if which == "timestamp_ms":
        return None, not_negative(position.timestamp_ms, f"{field}.timestamp_ms")
    if which is None:
        raise InvalidRequestError(f"{field} is missing; set its offset, timestamp_ms or edge")
    if position.edge in (records_pb.EDGE_UNSPECIFIED, records_pb.EDGE_BEGINNING):
        return None, EARLIEST
    if position.edge == records_pb.EDGE_END:
        return None, LATEST
    raise InvalidRequestError(f"{field}.edge is {position.edge}, which is neither EDGE_BEGINNING nor EDGE_END")


def wants_records(form: int) -> bool:
    """Whether a subscription's ``form`` asks for records one by one."""
    if form not in (log_pb.FORM_UNSPECIFIED, log_pb.FORM_BATCHES, log_pb.FORM_RECORDS):
        raise InvalidRequestError(f"form is {form}, which is neither FORM_BATCHES nor FORM_RECORDS")
    return form == log_pb.FORM_RECORDS
