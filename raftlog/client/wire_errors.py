"""Turns what gRPC reports back into the exceptions of ``raftlog.errors``: the other half of the gateway's encoding.

Rules:

1. Where there is a ``google.rpc.Status`` with an ErrorInfo, its reason names the class, and details fill in hint, delay and
   offsets.
2. Where there is none, the error comes from gRPC itself, and the question is whether the call may have reached a node. Only
   a connection that was never made is certain not to (``UnavailableError``); all else is ``IndeterminateError``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from raftlog.errors import (
    BY_REASON,
    IndeterminateError,
    LeaderHint,
    MessageTooLargeError,
    NotCoordinatorError,
    NotLeaderError,
    OffsetOutOfRangeError,
    OverloadedError,
    RaftlogError,
    RequestTimedOutError,
    StorageFullError,
    UnavailableError,
    UnsupportedVersionError,
)
from raftlog.pb.raftlog.v1.records_pb2 import LeaderHint as WireHint

_DETAILS_KEY: Final = "grpc-status-details-bin"
_NEVER_CONNECTED: Final = ("failed to connect to all addresses", "connections to all backends failing", "DNS resolution failed")
"""How gRPC says that no byte of a call has left this machine."""
_RETRY_AFTER_MS: Final = 100
"""Delay of a retriable error that names none."""


def from_status(status: Status) -> RaftlogError:
    """The exception that a ``google.rpc.Status`` stands for."""
    info, hint, retry_after_ms = ErrorInfo(), None, _RETRY_AFTER_MS
    for detail in status.details:
        if detail.Is(ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(WireHint.DESCRIPTOR):
            wire = WireHint()
            detail.Unpack(wire)
            hint = LeaderHint(node_id=wire.node_id, address=wire.grpc_address, term=wire.leader_epoch)
        elif detail.Is(RetryInfo.DESCRIPTOR):
            retry = RetryInfo()
            detail.Unpack(retry)
            retry_after_ms = retry.retry_delay.ToMilliseconds()
    return _build(info.reason, status.message, info.metadata, hint, retry_after_ms)


def _build(reason: str, message: str, metadata: Mapping[str, str], hint: LeaderHint | None, retry_after_ms: int) -> RaftlogError:
    kind = BY_REASON.get(reason)
    if kind is None:
        return RaftlogError(f"{message} (reason {reason or 'not given'})")
    if issubclass(kind, OffsetOutOfRangeError):
        return kind(message, earliest=int(metadata.get("earliest", -1)), latest=int(metadata.get("latest", -1)))
    if issubclass(kind, NotLeaderError):
        return kind(message, hint=hint)
    if issubclass(kind, NotCoordinatorError):
        return kind(message, hint=hint, retry_after_ms=retry_after_ms)
    if issubclass(kind, (UnavailableError, OverloadedError, StorageFullError)):
        return kind(message, retry_after_ms=retry_after_ms)
    return kind(message)


def from_rpc_error(error: grpc.aio.AioRpcError, address: str) -> RaftlogError:
    """The exception that a failed call to ``address`` stands for."""
    details = error.details() or ""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return from_status(Status.FromString(value))
            except DecodeError:
                break
    return _from_code(error.code(), details, address)


def _from_code(code: grpc.StatusCode, details: str, address: str) -> RaftlogError:
    never_connected = code is grpc.StatusCode.UNAVAILABLE and details.startswith(_NEVER_CONNECTED)
    error: RaftlogError = RaftlogError(f"{address} answered {code.name}: {details}")
    if never_connected:
        error = UnavailableError(f"no connection to {address}: {details}; is the node up?")
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
        error = RequestTimedOutError(f"{address} did not answer in time; the outcome is unknown")
    elif code is grpc.StatusCode.UNIMPLEMENTED:
        error = UnsupportedVersionError(f"{address} does not know this call; is it a raftlog node of this version? {details}")
    elif code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        error = MessageTooLargeError(f"{address}: {details}")
    elif code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        error = OverloadedError(f"{address}: {details}", retry_after_ms=_RETRY_AFTER_MS)
    elif code in _UNKNOWN_OUTCOMES:
        error = IndeterminateError(f"the call to {address} broke: {code.name} {details}; the outcome is unknown")
    return error


_UNKNOWN_OUTCOMES: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
)
"""A node that dies mid-call shows as any of these."""
