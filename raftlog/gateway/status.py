"""Errors as they travel through gRPC.

The encoding, which the client reads back:

1. A call that fails ends with the status ``error.grpc_status`` and ``str(error)`` as its message. The trailing metadata's key
   ``grpc-status-details-bin`` holds a serialised ``google.rpc.Status`` with the same code and message, and the details below.
   An item that fails inside an answer (``PublishResult.error``, …) carries the same ``google.rpc.Status``.
2. Details are packed as ``google.protobuf.Any``, in this order, each at most once:
   - ``google.rpc.ErrorInfo``, always: ``reason`` is ``error.reason`` (a key of ``raftlog.errors.BY_REASON``), ``domain`` is
     ``"raftlog"``, ``metadata`` is ``error.metadata`` (``earliest`` and ``latest`` as decimal text for OFFSET_OUT_OF_RANGE);
   - ``raftlog.v1.LeaderHint`` for NOT_LEADER and NOT_COORDINATOR where it is known who is;
   - ``google.rpc.RetryInfo`` for errors that have a ``retry_after_ms``: nothing was done, try again after the delay.
3. An exception that is no ``RaftlogError`` is a fault of ours: INTERNAL, reason ``INTERNAL``, and a short id which also stands in
   the node's log beside the traceback. Nothing else about it leaves the node.
4. Texts are cut to ``MESSAGE_BYTES_MAX`` as they travel: trailing metadata beyond 8 KiB would fail the call in another way.
"""

from __future__ import annotations

import logging
import uuid
from typing import Any, Final, NoReturn, TypeAlias

import grpc
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from raftlog.errors import NotCoordinatorError, NotLeaderError, RaftlogError
from raftlog.pb.raftlog.v1.records_pb2 import LeaderHint

_log = logging.getLogger(__name__)

DOMAIN: Final = "raftlog"
DETAILS_KEY: Final = "grpc-status-details-bin"
"""Where gRPC's richer error model keeps its ``google.rpc.Status``."""
INTERNAL_REASON: Final = "INTERNAL"
MESSAGE_BYTES_MAX: Final = 1_000
"""Of a text, with what is not ASCII counted thrice, as percent-encoding makes it: message and details hold the text once each,
and the details are a third longer in base64, all of which has to fit into 8 KiB."""
_METADATA_BYTES_MAX: Final = 200

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


def to_status(error: BaseException) -> Status:
    """``error`` as a ``google.rpc.Status``; see the module's rules. One that is not ours is logged with its id."""
    if not isinstance(error, RaftlogError):
        return _internal(error)
    status = _status(error.grpc_status, str(error) or error.reason, error.reason, error.metadata)
    if isinstance(error, (NotLeaderError, NotCoordinatorError)) and error.hint is not None:
        hint = error.hint
        status.details.add().Pack(LeaderHint(node_id=hint.node_id, grpc_address=hint.address, leader_epoch=hint.term))
    retry_after_ms = getattr(error, "retry_after_ms", None)
    if retry_after_ms is not None:
        retry = RetryInfo()
        retry.retry_delay.FromMilliseconds(retry_after_ms)
        status.details.add().Pack(retry)
    return status


def _internal(error: BaseException) -> Status:
    error_id = uuid.uuid4().hex[:12]
    _log.error("unexpected error %s in a call: %r", error_id, error, exc_info=error)
    message = f"the node met an unexpected error; look for {error_id} in its log"
    return _status("INTERNAL", message, INTERNAL_REASON, {"error_id": error_id})


def _status(code_name: str, message: str, reason: str, metadata: dict[str, str]) -> Status:
    message = _cut(message, MESSAGE_BYTES_MAX)
    status = Status(code=grpc.StatusCode[code_name].value[0], message=message)
    info = ErrorInfo(reason=reason, domain=DOMAIN)
    info.metadata.update({key: _cut(value, _METADATA_BYTES_MAX) for key, value in metadata.items()})
    status.details.add().Pack(info)
    return status


def _cut(text: str, bytes_max: int) -> str:
    """At most ``bytes_max`` bytes as it travels, fit for UTF-8 (a lone surrogate would break the encoding)."""
    text = text[: bytes_max + 1].encode("utf-8", "replace").decode("utf-8")
    if _travelling_bytes(text) <= bytes_max:
        return text
    while _travelling_bytes(text) > bytes_max - _travelling_bytes("…"):
        text = text[: len(text) * 9 // 10]
    return text + "…"


def _travelling_bytes(text: str) -> int:
    """Of a text in gRPC's ``grpc-message``, where each byte that is not printable ASCII, and each percent sign, takes three."""
    return sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in text.encode())


def reason_of(error: BaseException) -> str:
    """The reason that ``to_status`` gives ``error``: a small set of names, fit for a metric's label."""
    return error.reason if isinstance(error, RaftlogError) else INTERNAL_REASON


async def abort(context: Context, error: BaseException) -> NoReturn:
    """End the call with ``error``. Raises gRPC's ``AbortError``, which must leave the handler."""
    status = to_status(error)
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    await context.abort(code, status.message, ((DETAILS_KEY, status.SerializeToString()),))
    raise AssertionError("abort always raises")
