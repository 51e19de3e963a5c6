"""Errors as three plain parts (reason, message, metadata) and back, for every wire that they travel on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from raftlog.errors import (
    BY_REASON,
    LeaderHint,
    MemberIdRequiredError,
    NotCoordinatorError,
    NotLeaderError,
    OffsetOutOfRangeError,
    RaftlogError,
)

RETRY_AFTER_KEY: Final = "retry_after_ms"
"""Metadata key of the time that errors with a ``retry_after_ms`` ask for, in milliseconds."""


def to_parts(error: RaftlogError) -> tuple[str, str, dict[str, str]]:
    """Reason, message, and metadata with ``retry_after_ms`` where the error has one."""
    metadata = dict(error.metadata)
    retry_after_ms = getattr(error, "retry_after_ms", None)
    if retry_after_ms is not None:
        metadata[RETRY_AFTER_KEY] = str(retry_after_ms)
    return error.reason, str(error), metadata


def from_parts(reason: str, message: str, metadata: Mapping[str, str]) -> RaftlogError:
    """The error that these parts were made of.

    The parts come from a wire: whatever they are, an error is returned and none raised. An unknown reason, of a newer
    version, gives a plain ``RaftlogError`` that names it; so does a reason whose class needs facts that are missing.
    """
    kind = BY_REASON.get(reason)
    if kind is None or kind is RaftlogError:
        return RaftlogError(f"{message} (reason {reason or 'missing'})")
    if issubclass(kind, NotLeaderError):
        return kind(message, hint=_hint(metadata))
    if issubclass(kind, OffsetOutOfRangeError):
        earliest, latest = _number(metadata, "earliest"), _number(metadata, "latest")
        if earliest is None or latest is None:
            return RaftlogError(f"{message} (reason {reason} without its offsets)")
        return kind(message, earliest=earliest, latest=latest)
    if issubclass(kind, MemberIdRequiredError):
        return kind(message, member_id=metadata.get("member_id", ""))
    error = kind(message, hint=_hint(metadata)) if issubclass(kind, NotCoordinatorError) else kind(message)
    retry_after_ms = _number(metadata, RETRY_AFTER_KEY)
    if retry_after_ms is not None and retry_after_ms >= 0 and hasattr(error, "retry_after_ms"):
        error.retry_after_ms = retry_after_ms
    return error


def _hint(metadata: Mapping[str, str]) -> LeaderHint | None:
    node_id, term, address = _number(metadata, "leader_id"), _number(metadata, "leader_term"), metadata.get("leader_address")
    if node_id is None or term is None or address is None:
        return None
    return LeaderHint(node_id=node_id, address=address, term=term)


def _number(metadata: Mapping[str, str], key: str) -> int | None:
    try:
        return int(metadata[key])
    except (KeyError, ValueError):
        return None
