"""What an error becomes on the wire."""

from __future__ import annotations

import logging
from base64 import b64encode
from urllib.parse import quote

import pytest

from raftlog.errors import (
    BY_REASON,
    InvalidRequestError,
    LeaderHint,
    NotLeaderError,
    OffsetOutOfRangeError,
    OverloadedError,
    RaftlogError,
)
from raftlog.gateway.status import MESSAGE_BYTES_MAX, to_status
from tests.gateway.helpers import told

PLAIN = "".join(chr(byte) for byte in range(0x20, 0x7F) if byte != 0x25)
"""What travels as it is."""


def test_an_out_of_range_error_carries_earliest_and_latest() -> None:
    """The client can reset its position without another call."""
    said = told(to_status(OffsetOutOfRangeError("7 is too low", earliest=10, latest=20)))
    assert (said.code, said.reason, said.metadata) == (11, "OFFSET_OUT_OF_RANGE", {"earliest": "10", "latest": "20"})


def test_not_leader_carries_the_hint() -> None:
    """A client that routes by itself learns where to go."""
    hint = LeaderHint(node_id=2, address="127.0.0.1:7102", term=9)
    said = told(to_status(NotLeaderError("node 1 does not lead t-0", hint=hint)))
    assert said.hint is not None
    assert (said.hint.node_id, said.hint.grpc_address, said.hint.leader_epoch) == (2, "127.0.0.1:7102", 9)
    assert said.code == 9


def test_overload_says_when_to_come_back() -> None:
    """An error with a pause of its own carries it."""
    said = told(to_status(OverloadedError("too much in flight", retry_after_ms=250)))
    assert (said.code, said.retry_ms) == (8, 250)


@pytest.mark.parametrize("reason", sorted(BY_REASON))
def test_every_error_has_a_status(reason: str) -> None:
    """The tree's names of statuses are gRPC's own."""
    kind = BY_REASON[reason]
    error = kind("text", earliest=1, latest=2) if kind is OffsetOutOfRangeError else kind("text")
    assert told(to_status(error)).reason == reason


def test_an_unexpected_error_leaves_only_its_id(caplog: pytest.LogCaptureFixture) -> None:
    """What went wrong inside is in the log beside an id, and not on the wire."""
    with caplog.at_level(logging.ERROR):
        said = told(to_status(KeyError("secret")))
    assert (said.code, said.reason) == (13, "INTERNAL")
    assert "secret" not in said.message
    assert said.metadata["error_id"] in said.message
    assert said.metadata["error_id"] in caplog.text
    assert "secret" in caplog.text


@pytest.mark.parametrize("text", ["x" * 100_000, "\ud800" * 10, "é" * 5_000, "あ" * 5_000, "😀" * 5_000, "%" * 5_000])
def test_a_text_is_cut_to_what_trailers_carry(text: str) -> None:
    """gRPC's limit on metadata, or a broken character, must not turn one error into another."""
    status = to_status(InvalidRequestError(text))
    travels = len(quote(status.message, safe=PLAIN)) + len(b64encode(status.SerializeToString()))
    assert len(quote(status.message, safe=PLAIN)) <= MESSAGE_BYTES_MAX
    assert travels < 4_096


def test_an_error_without_a_text_still_says_its_reason() -> None:
    """No empty message."""
    assert to_status(RaftlogError()).message == "UNKNOWN"
