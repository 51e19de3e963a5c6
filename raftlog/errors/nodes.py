"""What is refused where nodes and replicas come, move and go."""

from __future__ import annotations

from raftlog.errors.base import RaftlogError


class UnknownNodeError(RaftlogError):
    reason = "UNKNOWN_NODE"
    grpc_status = "NOT_FOUND"
    kafka_code = 102  # BROKER_ID_NOT_REGISTERED


class NodeRemovedError(RaftlogError):
    """The cluster has removed this node, or the node has come back with another disk since: this disk is history."""

    reason = "NODE_REMOVED"
    grpc_status = "FAILED_PRECONDITION"
    kafka_code = 42


class NodeInUseError(RaftlogError):
    """Replicas are wanted on the node, or have not left it yet."""

    reason = "NODE_IN_USE"
    grpc_status = "FAILED_PRECONDITION"
    kafka_code = 42


class NoMoveInProgressError(RaftlogError):
    """A move was to be taken back, and there is none."""

    reason = "NO_MOVE_IN_PROGRESS"
    grpc_status = "FAILED_PRECONDITION"
    kafka_code = 85  # NO_REASSIGNMENT_IN_PROGRESS


class JoinRefusedError(RaftlogError):
    """The cluster does not take this node as it was started."""

    reason = "JOIN_REFUSED"
    grpc_status = "FAILED_PRECONDITION"
    kafka_code = 42


class NodeIdTakenError(JoinRefusedError):
    """Another node with this id is up, or was a moment ago."""

    reason = "NODE_ID_TAKEN"
    kafka_code = 101  # DUPLICATE_BROKER_REGISTRATION
    retriable = True


class StalePlacementError(RaftlogError):
    """A partition's replicas were placed anew since the caller looked."""

    reason = "STALE_PLACEMENT"
    grpc_status = "FAILED_PRECONDITION"
    kafka_code = 60  # REASSIGNMENT_IN_PROGRESS
    retriable = True


class FeatureLevelError(RaftlogError):
    """The cluster's feature level is too low for this, or cannot be raised: some node does not understand the new one."""

    reason = "FEATURE_LEVEL"
    grpc_status = "FAILED_PRECONDITION"
    kafka_code = 35  # UNSUPPORTED_VERSION
