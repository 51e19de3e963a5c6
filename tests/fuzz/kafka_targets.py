"""The decoders behind the Kafka port: frames, headers, hand-written messages, the codec of all APIs, batches through the door.

What is asked is asked of a real broker (``kafka_door``), so that a stranger's bytes go as deep as they would in a node: a value
that the wire code lets pass and the broker trips over is found as well.
"""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Final, cast

from crc32c import crc32c

from raftlog.core import consumer_protocol
from raftlog.core.assignors import catalogue
from raftlog.errors import RaftlogError
from raftlog.kafka.connection import Connection
from raftlog.kafka.dispatch import Dispatcher
from raftlog.kafka.wire.frame import FrameSplitter
from raftlog.kafka.wire.header import read_header
from raftlog.kafka.wire.primitives import Buffer, Reader
from tests.fuzz.kafka_door import TOPIC, at_the_door, connected
from tests.simulation.loop import VirtualLoop

FRAME_BYTES_MAX: Final = 1 << 20
CRC_AT, CRC_FROM, HEADER_BYTES = 17, 21, 61


class RefusedError(Exception):
    """A request was answered by an error, or by the end of its connection."""


def frames(data: bytes) -> None:
    """What comes on a connection, in one piece and byte by byte: frames, and the header of each."""
    pieces = [[data], [bytes([byte]) for byte in data]]
    found = []
    for arrived in pieces:
        splitter, requests = FrameSplitter(FRAME_BYTES_MAX), []
        try:
            for piece in arrived:
                splitter.receive_data(piece)
        finally:
            while (view := splitter.next_request()) is not None:
                requests.append(bytes(view))
        found.append((requests, splitter.waiting_bytes))
    assert found[0] == found[1]
    for request in found[0][0]:
        read_header(Reader(memoryview(request)))


_AT: Final = cast(Connection, SimpleNamespace(listener="default", client_host="192.0.2.1"))


async def _ask(door: Dispatcher, data: bytes) -> bytes | None:
    """One request's answer."""
    body = Reader(memoryview(data))
    header = read_header(body)
    buffers: list[Buffer] | None = await door(_AT, header, body)
    answer = None if buffers is None else b"".join(buffers)
    assert answer is None or answer[:4] == struct.pack(">i", header.correlation_id)
    return answer


def request(data: bytes) -> None:
    """One request, header and body, of whatever API and version it names."""

    async def visit(door: Dispatcher, _loop: VirtualLoop) -> None:
        await _ask(door, data)

    at_the_door(visit)


def connection(data: bytes) -> None:
    """A whole connection: the first byte says in how large pieces the rest comes."""
    size = (data[0] if data else 0) + 1
    pieces = [data[at : at + size] for at in range(1, len(data), size)]

    async def visit(door: Dispatcher, loop: VirtualLoop) -> None:
        _, refused = await connected(door, pieces, loop)
        if refused:
            raise RefusedError("closed")

    at_the_door(visit)


def batch(data: bytes) -> None:
    """A record batch as a producer sends it, its CRC made right: stored, looked up by time, and fetched again."""
    if len(data) >= HEADER_BYTES:
        data = data[:CRC_AT] + struct.pack(">I", crc32c(data[CRC_FROM:])) + data[CRC_FROM:]

    async def visit(door: Dispatcher, _loop: VirtualLoop) -> None:
        answer = await _ask(door, _produce(data))
        assert answer is not None
        refused = _produced_code(answer)
        for timestamp_ms in (-3, -1, 0, 1_700_000_000_000):
            await _ask(door, _list_offset(timestamp_ms))
        await _ask(door, _fetch())
        if refused:
            raise RefusedError(f"error {refused}")

    at_the_door(visit)


def _head(key: int, version: int) -> bytes:
    return struct.pack(">hhih", key, version, 7, -1)


def _name() -> bytes:
    return struct.pack(">h", len(TOPIC)) + TOPIC.encode()


def _produce(records: bytes) -> bytes:
    """Version 8, acks all."""
    part = struct.pack(">iii", 1, 0, len(records)) + records
    return _head(0, 8) + struct.pack(">hhii", -1, -1, 1_000, 1) + _name() + part


def _produced_code(answer: bytes) -> int:
    """Of the one partition."""
    code: int = struct.unpack_from(">h", answer, 4 + 4 + len(_name()) + 4 + 4)[0]
    return code


def _list_offset(timestamp_ms: int) -> bytes:
    """Version 5."""
    return _head(2, 5) + struct.pack(">ibi", -1, 0, 1) + _name() + struct.pack(">iiiq", 1, 0, -1, timestamp_ms)


def _fetch() -> bytes:
    """Version 4."""
    return _head(1, 4) + struct.pack(">iiiibi", -1, 0, 1, 1 << 20, 0, 1) + _name() + struct.pack(">iiqi", 1, 0, 0, 1 << 20)


def member_metadata(data: bytes) -> None:
    """What a foreign member says of itself, and is assigned: read by the node of a member that leads the group."""
    members = [
        catalogue.JoinedAs(member_id="a", instance_id=None, metadata=data),
        catalogue.JoinedAs(
            member_id="b", instance_id="i", metadata=catalogue.metadata_for("range", [TOPIC], owned=(), last=(), generation=1)
        ),
    ]
    counts = dict.fromkeys(catalogue.topics_of(members), 3)
    for name in catalogue.NAMES:
        catalogue.assign(name, members, counts)
    refusals: list[RaftlogError] = []
    for decode in (consumer_protocol.decode_subscription, consumer_protocol.decode_assignment):
        try:
            decode(data)
        except RaftlogError as error:
            refusals.append(error)
    if len(refusals) == 2:
        raise refusals[0]
