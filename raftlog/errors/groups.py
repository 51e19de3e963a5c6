"""What a consumer group's coordinator refuses."""

from __future__ import annotations

from raftlog.errors.base import RaftlogError


class GroupError(RaftlogError):
    """Base of what a consumer group's coordinator refuses."""

    reason = "GROUP"
    grpc_status = "FAILED_PRECONDITION"
    kafka_code = -1


class InvalidGroupIdError(GroupError):
    reason = "INVALID_GROUP_ID"
    grpc_status = "INVALID_ARGUMENT"
    kafka_code = 24


class GroupIdNotFoundError(GroupError):
    reason = "GROUP_ID_NOT_FOUND"
    grpc_status = "NOT_FOUND"
    kafka_code = 69


class GroupNotEmptyError(GroupError):
    reason = "NON_EMPTY_GROUP"
    kafka_code = 68


class GroupSubscribedToTopicError(GroupError):
    reason = "GROUP_SUBSCRIBED_TO_TOPIC"
    kafka_code = 86


class GroupFullError(GroupError):
    reason = "GROUP_MAX_SIZE_REACHED"
    grpc_status = "RESOURCE_EXHAUSTED"
    kafka_code = 81


class UnknownMemberError(GroupError):
    reason = "UNKNOWN_MEMBER_ID"
    kafka_code = 25


class MemberIdRequiredError(GroupError):
    """A first join without a member id (KIP-394): join again with ``member_id``."""

    reason = "MEMBER_ID_REQUIRED"
    kafka_code = 79

    def __init__(self, message: str, *, member_id: str = "") -> None:
        super().__init__(message)
        self.member_id = member_id

    @property
    def metadata(self) -> dict[str, str]:
        return {"member_id": self.member_id}


class FencedInstanceError(GroupError):
    reason = "FENCED_INSTANCE_ID"
    kafka_code = 82


class IllegalGenerationError(GroupError):
    reason = "ILLEGAL_GENERATION"
    kafka_code = 22


class RebalanceInProgressError(GroupError):
    reason = "REBALANCE_IN_PROGRESS"
    kafka_code = 27


class InconsistentGroupProtocolError(GroupError):
    reason = "INCONSISTENT_GROUP_PROTOCOL"
    grpc_status = "INVALID_ARGUMENT"
    kafka_code = 23


class InvalidSessionTimeoutError(GroupError):
    reason = "INVALID_SESSION_TIMEOUT"
    grpc_status = "INVALID_ARGUMENT"
    kafka_code = 26


class OffsetMetadataTooLargeError(GroupError):
    reason = "OFFSET_METADATA_TOO_LARGE"
    grpc_status = "INVALID_ARGUMENT"
    kafka_code = 12
