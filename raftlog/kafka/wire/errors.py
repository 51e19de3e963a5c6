"""Errors as Kafka's codes: the table is ``raftlog.errors`` (``kafka_code``); here are the few APIs whose clients want others.

An exception that is not one of ours is a fault of this node: it is logged in full under an id, and the client is told
UNKNOWN_SERVER_ERROR and that id.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import count
from typing import Final

from raftlog.errors import (
    DataLossError,
    FeatureLevelError,
    IndeterminateError,
    InvalidRequestError,
    LeaderNotAvailableError,
    NotLeaderError,
    OverloadedError,
    RaftlogError,
    ShuttingDownError,
    UnavailableError,
)

_log = logging.getLogger(__name__)

NONE: Final = 0
UNKNOWN_SERVER_ERROR: Final = -1
INVALID_TOPIC_EXCEPTION: Final = 17
NOT_LEADER_OR_FOLLOWER: Final = 6
LEADER_NOT_AVAILABLE: Final = 5
NOT_ENOUGH_REPLICAS: Final = 19
INVALID_REQUIRED_ACKS: Final = 21
UNSUPPORTED_VERSION: Final = 35
INVALID_REPLICA_ASSIGNMENT: Final = 39
INVALID_CONFIG: Final = 40
NOT_CONTROLLER: Final = 41
INVALID_REQUEST: Final = 42
TRANSACTIONAL_ID_AUTHORIZATION_FAILED: Final = 53
COORDINATOR_NOT_AVAILABLE: Final = 15
NOT_COORDINATOR: Final = 16
KAFKA_STORAGE_ERROR: Final = 56
FETCH_SESSION_ID_NOT_FOUND: Final = 70
PREFERRED_LEADER_NOT_AVAILABLE: Final = 80
ELECTION_NOT_NEEDED: Final = 84
INVALID_UPDATE_VERSION: Final = 95
UNKNOWN_TOPIC_ID: Final = 100

Codes = Mapping[type[RaftlogError], int]
"""Error class → code, for the class and those below it; the first that matches counts."""

PRODUCE: Final[Codes] = {OverloadedError: NOT_ENOUGH_REPLICAS}
"""librdkafka gives a batch up for good on THROTTLING_QUOTA_EXCEEDED; this one as well says that nothing was stored."""
FETCH: Final[Codes] = {
    DataLossError: KAFKA_STORAGE_ERROR,
    UnavailableError: NOT_LEADER_OR_FOLLOWER,
    IndeterminateError: NOT_LEADER_OR_FOLLOWER,
    OverloadedError: UNKNOWN_SERVER_ERROR,
}
"""The Java consumer fails on a code that it does not expect of a fetch; these make it look for the leader, or try again."""
PRODUCER: Final[Codes] = {
    UnavailableError: COORDINATOR_NOT_AVAILABLE,
    IndeterminateError: COORDINATOR_NOT_AVAILABLE,
    OverloadedError: COORDINATOR_NOT_AVAILABLE,
}
"""What idempotent producers try InitProducerId again on."""
GROUP: Final[Codes] = {
    NotLeaderError: NOT_COORDINATOR,
    ShuttingDownError: NOT_COORDINATOR,
    LeaderNotAvailableError: COORDINATOR_NOT_AVAILABLE,
    OverloadedError: COORDINATOR_NOT_AVAILABLE,
    IndeterminateError: COORDINATOR_NOT_AVAILABLE,
}
"""Members look for the coordinator, or retry with it, on these two, and fail on the general codes."""
OFFSET_FETCH: Final[Codes] = {
    NotLeaderError: NOT_COORDINATOR,
    UnavailableError: NOT_COORDINATOR,
    OverloadedError: NOT_COORDINATOR,
    IndeterminateError: NOT_COORDINATOR,
}
"""Java's consumers before 3.9, and aiokafka, fail on COORDINATOR_NOT_AVAILABLE here; all look for the coordinator on this one."""

ELECTION: Final[Codes] = {LeaderNotAvailableError: PREFERRED_LEADER_NOT_AVAILABLE}
"""What tools that elect preferred leaders expect where one is behind or down."""

FEATURES: Final[Codes] = {FeatureLevelError: INVALID_UPDATE_VERSION, InvalidRequestError: INVALID_UPDATE_VERSION}
"""What Kafka says where a feature cannot be at the level that is asked for."""

_numbers = count(1)


def code_of(error: BaseException, codes: Codes | None = None) -> int:
    """The code of an error; one that is not ours is logged here."""
    return describe(error, codes)[0]


def describe(error: BaseException, codes: Codes | None = None) -> tuple[int, str]:
    """The code of an error, and the words that go with it; one that is not ours is logged here."""
    if not isinstance(error, RaftlogError):
        number = next(_numbers)
        _log.error("kafka request failed, error %d: %r", number, error, exc_info=error)
        return UNKNOWN_SERVER_ERROR, f"the node met an unexpected error; its log has it as error {number}"
    for kind, code in (codes or {}).items():
        if isinstance(error, kind):
            return code, str(error)
    return error.kafka_code, str(error)


def refused(message: str) -> RaftlogError:
    """INVALID_REQUEST with these words."""
    return InvalidRequestError(message)
