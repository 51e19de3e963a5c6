"""Every error crosses the wire and comes back as itself."""

from __future__ import annotations

import subprocess
import sys

import grpc
import grpc.aio
import pytest

from raftlog.client.wire_errors import from_rpc_error, from_status
from raftlog.errors import (
    BY_REASON,
    IndeterminateError,
    LeaderHint,
    NotLeaderError,
    OffsetOutOfRangeError,
    OverloadedError,
    RaftlogError,
    UnavailableError,
)
from raftlog.gateway.status import to_status


@pytest.mark.parametrize("kind", [kind for kind in BY_REASON.values() if kind is not OffsetOutOfRangeError])
def test_an_error_comes_back_as_its_own_class(kind: type[RaftlogError]) -> None:
    """Class and text survive the gateway's encoding and the client's decoding."""
    back = from_status(to_status(kind("what to do")))
    assert type(back) is kind
    assert "what to do" in str(back)


def test_facts_beside_the_message_come_back() -> None:
    """Hints, delays and offsets."""
    hint = LeaderHint(node_id=2, address="h:1", term=9)
    moved = from_status(to_status(NotLeaderError("m", hint=hint)))
    assert isinstance(moved, NotLeaderError)
    assert moved.hint == hint
    range_ = from_status(to_status(OffsetOutOfRangeError("m", earliest=3, latest=8)))
    assert isinstance(range_, OffsetOutOfRangeError)
    assert (range_.earliest, range_.latest) == (3, 8)
    busy = from_status(to_status(OverloadedError("m", retry_after_ms=1_234)))
    assert isinstance(busy, OverloadedError)
    assert busy.retry_after_ms == 1_234


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: x", UnavailableError),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", IndeterminateError),
        (grpc.StatusCode.INTERNAL, "RST_STREAM", IndeterminateError),
        (grpc.StatusCode.CANCELLED, "", IndeterminateError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", IndeterminateError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "", OverloadedError),
    ],
)
def test_only_a_connection_never_made_is_certain(code: grpc.StatusCode, details: str, kind: type[RaftlogError]) -> None:
    """What gRPC reports by itself is an unknown outcome, unless no byte can have left."""
    error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)
    assert isinstance(from_rpc_error(error, "h:1"), kind)


def test_importing_the_package_does_not_import_grpc() -> None:
    """The public names load when they are first used."""
    code = "import sys, raftlog; assert 'grpc' not in sys.modules; raftlog.Client; assert 'grpc' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
