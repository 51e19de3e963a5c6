"""The root of all errors, and those of records, partitions, leadership and load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderHint:
    """Who leads a partition, as far as the answering node knows. ``address`` is its gRPC ``host:port``."""

    node_id: int
    address: str
    term: int


class RaftlogError(Exception):
    """Base of all errors. ``str(error)`` says what is wrong and what to do about it."""

    reason: ClassVar[str] = "UNKNOWN"
    """Stable upper-case name, used as ``ErrorInfo.reason`` in gRPC."""
    grpc_status: ClassVar[str] = "UNKNOWN"
    """Name of the ``grpc.StatusCode``."""
    kafka_code: ClassVar[int] = -1
    """Code of the Kafka protocol (kafka.apache.org/protocol, "Error Codes")."""
    retriable: ClassVar[bool] = False
    """Whether the same call may succeed later without any change."""

    @property
    def metadata(self) -> dict[str, str]:
        """Facts that travel beside the message (``ErrorInfo.metadata``)."""
        return {}


class InvalidRequestError(RaftlogError):
    reason = "INVALID_REQUEST"
    grpc_status = "INVALID_ARGUMENT"
    kafka_code = 42


class InvalidTopicError(InvalidRequestError):
    reason = "INVALID_TOPIC"
    kafka_code = 17


class InvalidConfigError(InvalidRequestError):
    reason = "INVALID_CONFIG"
    kafka_code = 40


class InvalidPartitionsError(InvalidRequestError):
    reason = "INVALID_PARTITIONS"
    kafka_code = 37


class InvalidReplicationFactorError(InvalidRequestError):
    reason = "INVALID_REPLICATION_FACTOR"
    kafka_code = 38


class InvalidReplicaAssignmentError(InvalidRequestError):
    """Replicas cannot be placed so, or a group's members cannot become these in one step."""

    reason = "INVALID_REPLICA_ASSIGNMENT"
    kafka_code = 39


class InvalidRecordError(InvalidRequestError):
    reason = "INVALID_RECORD"
    kafka_code = 87


class InvalidTimestampError(InvalidRequestError):
    reason = "INVALID_TIMESTAMP"
    kafka_code = 32


class UnsupportedVersionError(InvalidRequestError):
    reason = "UNSUPPORTED_VERSION"
    kafka_code = 35


class CorruptMessageError(RaftlogError):
    reason = "CORRUPT_MESSAGE"
    grpc_status = "INVALID_ARGUMENT"
    kafka_code = 2
    retriable = True


class MessageTooLargeError(RaftlogError):
    reason = "MESSAGE_TOO_LARGE"
    grpc_status = "INVALID_ARGUMENT"
    kafka_code = 10


class UnknownTopicOrPartitionError(RaftlogError):
    reason = "UNKNOWN_TOPIC_OR_PARTITION"
    grpc_status = "NOT_FOUND"
    kafka_code = 3
    retriable = True


class TopicExistsError(RaftlogError):
    reason = "TOPIC_ALREADY_EXISTS"
    grpc_status = "ALREADY_EXISTS"
    kafka_code = 36


class OffsetOutOfRangeError(RaftlogError):
    """Asked for an offset outside ``[earliest, latest]``; both are offsets of the partition, ``latest`` the next to be read."""

    reason = "OFFSET_OUT_OF_RANGE"
    grpc_status = "OUT_OF_RANGE"
    kafka_code = 1

    def __init__(self, message: str, *, earliest: int, latest: int) -> None:
        super().__init__(message)
        self.earliest = earliest
        self.latest = latest

    @property
    def metadata(self) -> dict[str, str]:
        return {"earliest": str(self.earliest), "latest": str(self.latest)}


class OutOfOrderSequenceError(RaftlogError):
    reason = "OUT_OF_ORDER_SEQUENCE_NUMBER"
    grpc_status = "FAILED_PRECONDITION"
    kafka_code = 45


class InvalidProducerEpochError(RaftlogError):
    reason = "INVALID_PRODUCER_EPOCH"
    grpc_status = "FAILED_PRECONDITION"
    kafka_code = 47


class UnknownProducerIdError(RaftlogError):
    """The producer was forgotten; ``log_start_offset`` is the partition's, −1 where it is not known."""

    reason = "UNKNOWN_PRODUCER_ID"
    grpc_status = "FAILED_PRECONDITION"
    kafka_code = 59

    def __init__(self, message: str, *, log_start_offset: int = -1) -> None:
        super().__init__(message)
        self.log_start_offset = log_start_offset


class NotLeaderError(RaftlogError):
    """This node does not lead the partition; ``hint`` says who does, where it is known."""

    reason = "NOT_LEADER"
    grpc_status = "FAILED_PRECONDITION"
    kafka_code = 6
    retriable = True

    def __init__(self, message: str, *, hint: LeaderHint | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def metadata(self) -> dict[str, str]:
        if self.hint is None:
            return {}
        return {"leader_id": str(self.hint.node_id), "leader_address": self.hint.address, "leader_term": str(self.hint.term)}


class FencedLeaderEpochError(RaftlogError):
    """The caller knows an older leader than there is (KIP-320): it should look up the leader again."""

    reason = "FENCED_LEADER_EPOCH"
    grpc_status = "FAILED_PRECONDITION"
    kafka_code = 74
    retriable = True


class UnknownLeaderEpochError(RaftlogError):
    """The caller knows a newer leader than this node does (KIP-320): this node has to catch up."""

    reason = "UNKNOWN_LEADER_EPOCH"
    grpc_status = "FAILED_PRECONDITION"
    kafka_code = 76
    retriable = True


class UnavailableError(RaftlogError):
    """Nothing was done; the same call may be sent again after ``retry_after_ms``."""

    reason = "UNAVAILABLE"
    grpc_status = "UNAVAILABLE"
    kafka_code = 5
    retriable = True

    def __init__(self, message: str, *, retry_after_ms: int = 100) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class LeaderNotAvailableError(UnavailableError):
    reason = "LEADER_NOT_AVAILABLE"
    kafka_code = 5


class NotEnoughReplicasError(UnavailableError):
    reason = "NOT_ENOUGH_REPLICAS"
    kafka_code = 19


class ReassignmentInProgressError(UnavailableError):
    """The last change of the group's members is not committed yet: one at a time."""

    reason = "REASSIGNMENT_IN_PROGRESS"
    kafka_code = 60


class ShuttingDownError(UnavailableError):
    reason = "SHUTTING_DOWN"
    kafka_code = 6


class CoordinatorNotAvailableError(UnavailableError):
    """The group's coordinator has no leader just now, or its topic is being made."""

    reason = "COORDINATOR_NOT_AVAILABLE"
    kafka_code = 15


class NotCoordinatorError(UnavailableError):
    """This node does not coordinate the group; ``hint`` says who does, where it is known."""

    reason = "NOT_COORDINATOR"
    grpc_status = "FAILED_PRECONDITION"
    kafka_code = 16

    def __init__(self, message: str, *, hint: LeaderHint | None = None, retry_after_ms: int = 100) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms)
        self.hint = hint

    @property
    def metadata(self) -> dict[str, str]:
        if self.hint is None:
            return {}
        return {"leader_id": str(self.hint.node_id), "leader_address": self.hint.address, "leader_term": str(self.hint.term)}


class IndeterminateError(RaftlogError):
    """The outcome is unknown: it may have happened, or may yet happen. An idempotent producer may send it again."""

    reason = "INDETERMINATE"
    grpc_status = "UNAVAILABLE"
    kafka_code = 7
    retriable = True


class RequestTimedOutError(IndeterminateError):
    reason = "REQUEST_TIMED_OUT"
    grpc_status = "UNAVAILABLE"
    kafka_code = 7


class OverloadedError(RaftlogError):
    """A bounded buffer is full; nothing was done."""

    reason = "OVERLOADED"
    grpc_status = "RESOURCE_EXHAUSTED"
    kafka_code = 89  # THROTTLING_QUOTA_EXCEEDED
    retriable = True

    def __init__(self, message: str, *, retry_after_ms: int = 100) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class StorageFullError(RaftlogError):
    """Disk or map is full; publishing is refused, reading goes on."""

    reason = "STORAGE_FULL"
    grpc_status = "RESOURCE_EXHAUSTED"
    kafka_code = 56  # KAFKA_STORAGE_ERROR
    retriable = True

    def __init__(self, message: str, *, retry_after_ms: int = 1_000) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class DataLossError(RaftlogError):
    """Stored bytes fail their check and are not served."""

    reason = "DATA_LOSS"
    grpc_status = "DATA_LOSS"
    kafka_code = 56
