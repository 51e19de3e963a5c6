"""Writes the one message whose bulk protobuf would copy twice: a response full of batches.

protobuf copies a ``bytes`` field into the message and again into its encoding, after the batches were joined. Fields may stand
in any order in an encoding, so here the small ones are encoded by protobuf and the batches follow, all joined in one copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from raftlog.pb.raftlog.v1.log_service_pb2 import SubscribeResponse

_LENGTH_DELIMITED: Final = 2
_RECORD_BATCHES_TAG: Final = bytes([SubscribeResponse.RECORD_BATCHES_FIELD_NUMBER << 3 | _LENGTH_DELIMITED])


@dataclass(frozen=True, slots=True)
class BatchesResponse:
    """A ``SubscribeResponse`` without ``record_batches``, and these."""

    response: SubscribeResponse
    batches: Sequence[bytes | memoryview]


def encode_subscribe_response(message: SubscribeResponse | BatchesResponse) -> bytes:
    """The message's encoding, as protobuf reads it."""
    if isinstance(message, SubscribeResponse):
        return message.SerializeToString()
    size_bytes = sum(map(len, message.batches))
    return b"".join((message.response.SerializeToString(), _RECORD_BATCHES_TAG, _varint(size_bytes), *message.batches))


def _varint(value: int) -> bytes:
    """Base 128, low bits first (protobuf's encoding guide)."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
