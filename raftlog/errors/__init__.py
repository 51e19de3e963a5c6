"""Every error raftlog raises, in one tree; each knows its gRPC status and its Kafka code.

::

    RaftlogError
    ├── InvalidRequestError          a call that can never succeed as it stands
    │   ├── InvalidTopicError        a topic name Kafka would refuse
    │   ├── InvalidConfigError       a config key or value; says the nearest known key
    │   ├── InvalidPartitionsError
    │   ├── InvalidReplicationFactorError
    │   ├── InvalidReplicaAssignmentError
    │   ├── InvalidRecordError       a batch whose header contradicts itself
    │   ├── InvalidTimestampError
    │   └── UnsupportedVersionError
    ├── CorruptMessageError          CRC or length of a batch is wrong
    ├── MessageTooLargeError
    ├── UnknownTopicOrPartitionError
    ├── UnknownNodeError             the cluster has no such node
    ├── NodeRemovedError             the cluster removed this node, or knows a later disk of it
    ├── NodeInUseError               it holds replicas; drain it first
    ├── FeatureLevelError            the cluster's feature level is too low for it, or cannot be raised
    ├── NoMoveInProgressError        a move was to be taken back, and there is none
    ├── JoinRefusedError             the cluster does not take this node as it was started
    │   └── NodeIdTakenError         another node with this id is up
    ├── StalePlacementError          replicas were placed anew meanwhile; look again
    ├── TopicExistsError
    ├── OffsetOutOfRangeError        carries earliest and latest
    ├── OutOfOrderSequenceError
    ├── InvalidProducerEpochError
    ├── UnknownProducerIdError
    ├── NotLeaderError               carries a hint: who leads, where
    ├── FencedLeaderEpochError       the caller's leader epoch is older than the leader's
    ├── UnknownLeaderEpochError      the caller's leader epoch is newer than this node's
    ├── GroupError                   of a consumer group and its members
    │   ├── InvalidGroupIdError
    │   ├── GroupIdNotFoundError
    │   ├── GroupNotEmptyError       it has members; stop them first
    │   ├── GroupSubscribedToTopicError
    │   ├── GroupFullError           it has as many members as it may have
    │   ├── UnknownMemberError       join again, as a new member
    │   ├── MemberIdRequiredError    carries the member id to join with
    │   ├── FencedInstanceError      another member took over this group instance id
    │   ├── IllegalGenerationError   join again
    │   ├── RebalanceInProgressError join again
    │   ├── InconsistentGroupProtocolError
    │   ├── InvalidSessionTimeoutError
    │   └── OffsetMetadataTooLargeError
    ├── UnavailableError             nothing was done; try again
    │   ├── LeaderNotAvailableError  an election is under way
    │   ├── NotEnoughReplicasError
    │   ├── ReassignmentInProgressError  the group's members are changing just now
    │   ├── CoordinatorNotAvailableError
    │   ├── NotCoordinatorError      carries a hint: who coordinates the group, where
    │   └── ShuttingDownError
    ├── IndeterminateError           it may or may not have happened
    │   └── RequestTimedOutError
    ├── OverloadedError              a bounded buffer is full; try again later
    ├── StorageFullError
    ├── DataLossError                stored bytes fail their check
    └── FatalError                   the node must not go on
        ├── ConfigError
        ├── AddressInUseError
        ├── DataDirectoryError
        │   ├── DataDirectoryLockedError
        │   ├── WrongNodeError
        │   ├── StaleDataDirectoryError
        │   ├── UnreadableLogError
        │   └── NewerFormatError
        ├── BootstrapRefusedError
        │   └── JoinRequiredError    an empty node must join before it may speak
        ├── StorageFailedError
        └── ConsensusFailedError
"""

from __future__ import annotations

from raftlog.errors.base import (
    CoordinatorNotAvailableError,
    CorruptMessageError,
    DataLossError,
    FencedLeaderEpochError,
    IndeterminateError,
    InvalidConfigError,
    InvalidPartitionsError,
    InvalidProducerEpochError,
    InvalidRecordError,
    InvalidReplicaAssignmentError,
    InvalidReplicationFactorError,
    InvalidRequestError,
    InvalidTimestampError,
    InvalidTopicError,
    LeaderHint,
    LeaderNotAvailableError,
    MessageTooLargeError,
    NotCoordinatorError,
    NotEnoughReplicasError,
    NotLeaderError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceError,
    OverloadedError,
    RaftlogError,
    ReassignmentInProgressError,
    RequestTimedOutError,
    ShuttingDownError,
    StorageFullError,
    TopicExistsError,
    UnavailableError,
    UnknownLeaderEpochError,
    UnknownProducerIdError,
    UnknownTopicOrPartitionError,
    UnsupportedVersionError,
)
from raftlog.errors.fatal import (
    AddressInUseError,
    BootstrapRefusedError,
    ConfigError,
    ConsensusFailedError,
    DataDirectoryError,
    DataDirectoryLockedError,
    FatalError,
    JoinRequiredError,
    NewerFormatError,
    StaleDataDirectoryError,
    StorageFailedError,
    UnreadableLogError,
    WrongNodeError,
)
from raftlog.errors.groups import (
    FencedInstanceError,
    GroupError,
    GroupFullError,
    GroupIdNotFoundError,
    GroupNotEmptyError,
    GroupSubscribedToTopicError,
    IllegalGenerationError,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    InvalidSessionTimeoutError,
    MemberIdRequiredError,
    OffsetMetadataTooLargeError,
    RebalanceInProgressError,
    UnknownMemberError,
)
from raftlog.errors.nodes import (
    FeatureLevelError,
    JoinRefusedError,
    NodeIdTakenError,
    NodeInUseError,
    NodeRemovedError,
    NoMoveInProgressError,
    StalePlacementError,
    UnknownNodeError,
)

__all__ = [
    "BY_REASON",
    "AddressInUseError",
    "BootstrapRefusedError",
    "ConfigError",
    "ConsensusFailedError",
    "CoordinatorNotAvailableError",
    "CorruptMessageError",
    "DataDirectoryError",
    "DataDirectoryLockedError",
    "DataLossError",
    "FatalError",
    "FeatureLevelError",
    "FencedInstanceError",
    "FencedLeaderEpochError",
    "GroupError",
    "GroupFullError",
    "GroupIdNotFoundError",
    "GroupNotEmptyError",
    "GroupSubscribedToTopicError",
    "IllegalGenerationError",
    "InconsistentGroupProtocolError",
    "IndeterminateError",
    "InvalidConfigError",
    "InvalidGroupIdError",
    "InvalidPartitionsError",
    "InvalidProducerEpochError",
    "InvalidRecordError",
    "InvalidReplicaAssignmentError",
    "InvalidReplicationFactorError",
    "InvalidRequestError",
    "InvalidSessionTimeoutError",
    "InvalidTimestampError",
    "InvalidTopicError",
    "JoinRefusedError",
    "JoinRequiredError",
    "LeaderHint",
    "LeaderNotAvailableError",
    "MemberIdRequiredError",
    "MessageTooLargeError",
    "NewerFormatError",
    "NoMoveInProgressError",
    "NodeIdTakenError",
    "NodeInUseError",
    "NodeRemovedError",
    "NotCoordinatorError",
    "NotEnoughReplicasError",
    "NotLeaderError",
    "OffsetMetadataTooLargeError",
    "OffsetOutOfRangeError",
    "OutOfOrderSequenceError",
    "OverloadedError",
    "RaftlogError",
    "ReassignmentInProgressError",
    "RebalanceInProgressError",
    "RequestTimedOutError",
    "ShuttingDownError",
    "StaleDataDirectoryError",
    "StalePlacementError",
    "StorageFailedError",
    "StorageFullError",
    "TopicExistsError",
    "UnavailableError",
    "UnknownLeaderEpochError",
    "UnknownMemberError",
    "UnknownNodeError",
    "UnknownProducerIdError",
    "UnknownTopicOrPartitionError",
    "UnreadableLogError",
    "UnsupportedVersionError",
    "WrongNodeError",
]


def _tree(root: type[RaftlogError]) -> list[type[RaftlogError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in _tree(child))]


BY_REASON: dict[str, type[RaftlogError]] = {error.reason: error for error in _tree(RaftlogError)}
"""Every error class by its stable reason: how the client turns an ``ErrorInfo`` back into an exception."""
