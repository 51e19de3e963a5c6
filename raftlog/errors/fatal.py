"""What a node must not start with, or not go on with."""

from __future__ import annotations

from raftlog.errors.base import RaftlogError


class FatalError(RaftlogError):
    """The node must not start, or not go on."""

    reason = "FATAL"
    grpc_status = "INTERNAL"
    kafka_code = -1


class ConfigError(FatalError):
    reason = "CONFIG"


class AddressInUseError(FatalError):
    reason = "ADDRESS_IN_USE"


class DataDirectoryError(FatalError):
    reason = "DATA_DIRECTORY"


class DataDirectoryLockedError(DataDirectoryError):
    reason = "DATA_DIRECTORY_LOCKED"


class WrongNodeError(DataDirectoryError):
    reason = "WRONG_NODE"


class StaleDataDirectoryError(DataDirectoryError):
    """An old copy of the directory: the peers have seen a later start of this node."""

    reason = "STALE_DATA_DIRECTORY"


class UnreadableLogError(DataDirectoryError):
    """The log's environment is gone, cut short, or not one: nothing of it can be served."""

    reason = "UNREADABLE_LOG"


class NewerFormatError(DataDirectoryError):
    reason = "NEWER_FORMAT"


class BootstrapRefusedError(FatalError):
    reason = "BOOTSTRAP_REFUSED"


class JoinRequiredError(BootstrapRefusedError):
    """The cluster has begun, and this node holds nothing of it: it has to join before it may speak."""

    reason = "JOIN_REQUIRED"


class StorageFailedError(FatalError):
    reason = "STORAGE_FAILED"


class ConsensusFailedError(FatalError):
    reason = "CONSENSUS_FAILED"
