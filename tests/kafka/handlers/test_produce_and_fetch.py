"""Produce and Fetch over a connection: what reaches the broker, and what its outcomes are to a client."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from raftlog.broker.port import Fetched
from raftlog.errors import (
    DataLossError,
    FencedLeaderEpochError,
    IndeterminateError,
    LeaderNotAvailableError,
    MessageTooLargeError,
    NotLeaderError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceError,
    OverloadedError,
    RaftlogError,
    ShuttingDownError,
    StorageFullError,
    UnknownLeaderEpochError,
    UnknownProducerIdError,
)
from raftlog.kafka.wire import fetch, produce
from raftlog.kafka.wire.api import APIS, ApiKey
from raftlog.kafka.wire.primitives import Writer
from raftlog.model import Acks, TopicPartition
from raftlog.records.batch import decode
from tests.gateway.helpers import make_batch
from tests.kafka.door import Client, Door, open_door
from tests.kafka.oracle import decode_with_kio, entity

T0 = TopicPartition("t", 0)


def produce_body(version: int, parts: list[tuple[str, int, bytes | None]], *, acks: int = -1, txn: str | None = None) -> bytes:
    """A request, each part a topic of its own."""
    writer, compact = Writer(), version >= produce.FLEXIBLE_FROM
    writer.string(txn, compact)
    writer.int16(acks)
    writer.int32(1_500)
    writer.count(len(parts), compact)
    for topic, partition, records in parts:
        writer.string(topic, compact)
        writer.count(1, compact)
        writer.int32(partition)
        writer.data(records, compact)
        writer.tags_if(compact)
        writer.tags_if(compact)
    writer.tags_if(compact)
    return b"".join(writer.finish())


def fetch_body(
    version: int, parts: list[tuple[str, int, int]], *, wait_ms: int = 0, min_bytes: int = 1, session: int = 0, rack: str = ""
) -> bytes:
    """A request, each part a topic of its own."""
    writer, compact = Writer(), version >= fetch.FLEXIBLE_FROM
    for number in (-1, wait_ms, min_bytes, 1 << 20):
        writer.int32(number)
    writer.int8(0)
    if version >= 7:
        writer.int32(session)
        writer.int32(-1)
    writer.count(len(parts), compact)
    for topic, partition, offset in parts:
        writer.string(topic, compact)
        writer.count(1, compact)
        writer.int32(partition)
        if version >= 9:
            writer.int32(7)
        writer.int64(offset)
        if version >= 12:
            writer.int32(-1)
        if version >= 5:
            writer.int64(-1)
        writer.int32(1 << 20)
        writer.tags_if(compact)
        writer.tags_if(compact)
    if version >= 7:
        writer.count(0, compact)
    if version >= 11:
        writer.string(rack, compact)
    writer.tags_if(compact)
    return b"".join(writer.finish())


async def ask(client: Client, key: int, version: int, body: bytes) -> Any:
    """Send a body, and read the answer."""
    client.send(key, version, body)
    _, data = await client.answer()
    if version >= APIS[key].flexible_from:
        data = data[1:]
    return decode_with_kio(entity(APIS[key], version, "Response"), data)


def served(key: int) -> range:
    """All served versions."""
    return range(APIS[key].served_min, APIS[key].version_max + 1)


async def fill(door: Door, *values: bytes) -> None:
    """One batch in the first partition."""
    await door.broker.publish([(T0, make_batch(*values))], acks=Acks.ALL, timeout_s=1)


@pytest.mark.parametrize("version", served(ApiKey.PRODUCE))
async def test_batches_are_published_in_order_and_answered_in_place(version: int) -> None:
    """Each partition with its own outcome."""
    async with open_door() as door:
        client = await door.connect()
        parts: list[tuple[str, int, bytes | None]] = [
            ("t", 0, make_batch(b"a", b"b")), ("nope", 0, make_batch(b"c")), ("t", 1, None), ("t", 0, make_batch(b"d")),
        ]  # fmt: skip
        answer = await ask(client, ApiKey.PRODUCE, version, produce_body(version, parts))
        found = [(one.error_code.value, one.base_offset) for topic in answer.responses for one in topic.partition_responses]
        assert found == [(0, 0), (3, -1), (87, -1), (0, 2)]
        assert ("publish", (Acks.ALL, 1.5, True)) in door.broker.calls
        assert door.figures.batches == 3
        if version >= 8:
            assert "exactly one" in answer.responses[2].partition_responses[0].error_message


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotLeaderError("elsewhere"), 6),
        (LeaderNotAvailableError("none"), 5),
        (ShuttingDownError("stopping"), 6),
        (IndeterminateError("who knows"), 7),
        (OverloadedError("full"), 19),
        (StorageFullError("full"), 56),
        (MessageTooLargeError("large"), 10),
        (OutOfOrderSequenceError("gap"), 45),
    ],
)
async def test_each_error_of_publishing_has_the_code_that_producers_act_on(error: RaftlogError, code: int) -> None:
    """Above all: what can be tried again is told as that."""
    async with open_door() as door:

        async def publish(*_: object, **__: object) -> list[RaftlogError]:
            return [error]

        door.broker.publish = publish  # type: ignore[method-assign,assignment]
        client = await door.connect()
        answer = await ask(client, ApiKey.PRODUCE, 9, produce_body(9, [("t", 0, make_batch(b"a"))]))
    (part,) = answer.responses[0].partition_responses
    assert (part.error_code.value, part.error_message) == (code, str(error))


async def test_a_forgotten_producer_is_told_where_the_log_starts() -> None:
    """From version 5 on, which has a place for it; -1 where the broker does not say."""
    forgotten, elsewhere = UnknownProducerIdError("who?", log_start_offset=7), UnknownProducerIdError("who?")
    async with open_door() as door:

        async def publish(*_: object, **__: object) -> list[RaftlogError]:
            return [forgotten, elsewhere, OutOfOrderSequenceError("gap")]

        door.broker.publish = publish  # type: ignore[method-assign,assignment]
        client = await door.connect()
        body = produce_body(9, [("t", number, make_batch(b"a")) for number in range(3)])
        answer = await ask(client, ApiKey.PRODUCE, 9, body)
    parts = [topic.partition_responses[0] for topic in answer.responses]
    assert [(part.error_code.value, part.log_start_offset) for part in parts] == [(59, 7), (59, -1), (45, -1)]


@pytest.mark.parametrize(("more", "code"), [({"acks": 2}, 21), ({"acks": -3}, 21), ({"txn": "x"}, 53)])
async def test_wrong_acks_and_transactions_are_refused_whole(more: dict[str, Any], code: int) -> None:
    """Nothing is published."""
    async with open_door() as door:
        client = await door.connect()
        body = produce_body(9, [("t", 0, make_batch(b"a")), ("t", 1, make_batch(b"b"))], **more)
        answer = await ask(client, ApiKey.PRODUCE, 9, body)
        assert [topic.partition_responses[0].error_code.value for topic in answer.responses] == [code, code]
        assert door.broker.calls == []


@pytest.mark.parametrize("version", served(ApiKey.FETCH))
async def test_batches_are_fetched_whole_with_watermarks(version: int) -> None:
    """From the middle of a batch too; an unknown topic beside it."""
    async with open_door() as door:
        await fill(door, b"a", b"b")
        client = await door.connect()
        answer = await ask(client, ApiKey.FETCH, version, fetch_body(version, [("t", 0, 1), ("nope", 0, 0), ("t", 1, 0)]))
        first, second, third = (topic.partitions[0] for topic in answer.responses)
        assert [record.value for record in decode(bytes(first.records))] == [b"a", b"b"]
        assert (first.high_watermark, first.last_stable_offset, first.error_code.value) == (2, 2, 0)
        assert (second.error_code.value, third.error_code.value, bytes(third.records)) == (3, 0, b"")
        assert door.figures.fetched_bytes == len(first.records)


async def test_what_a_client_asks_for_reaches_the_broker() -> None:
    """Limits, waits, epochs, its rack; followers are allowed from version 11 on."""
    async with open_door() as door:
        client = await door.connect()
        await ask(client, ApiKey.FETCH, 12, fetch_body(12, [("t", 0, 0)], wait_ms=1, min_bytes=5, rack="r"))
        await ask(client, ApiKey.FETCH, 10, fetch_body(10, [("t", 0, 0)], wait_ms=1, min_bytes=0))
        newer, older = (facts for name, facts in door.broker.calls if name == "fetch_many")
    assert isinstance(newer, tuple)
    assert isinstance(older, tuple)
    (part,), *rest = newer
    assert (part.tp, part.offset, part.bytes_max, part.leader_epoch) == (T0, 0, 1 << 20, 7)
    assert rest == [1 << 20, 5, 0.001, True, True, "r"]
    assert older[2:] == (0, 0.0, True, False, "")


async def test_a_nearer_replica_is_named_and_a_session_of_another_broker_refused() -> None:
    """KIP-392 and KIP-227."""
    async with open_door() as door:

        async def fetch_many(*_: object, **__: object) -> list[Fetched]:
            return [Fetched(batches=(), high_watermark=9, log_start_offset=0, next_offset=0, preferred_replica=3)]

        client = await door.connect()
        refused = await ask(client, ApiKey.FETCH, 12, fetch_body(12, [("t", 0, 0)], session=77))
        assert (refused.error_code.value, refused.responses) == (70, ())
        door.broker.fetch_many = fetch_many  # type: ignore[method-assign,assignment]
        answer = await ask(client, ApiKey.FETCH, 12, fetch_body(12, [("t", 0, 0)]))
    assert answer.responses[0].partitions[0].preferred_read_replica == 3


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OffsetOutOfRangeError("out", earliest=0, latest=1), 1),
        (NotLeaderError("elsewhere"), 6),
        (LeaderNotAvailableError("none"), 6),
        (ShuttingDownError("stopping"), 6),
        (IndeterminateError("who knows"), 6),
        (DataLossError("damaged"), 56),
        (FencedLeaderEpochError("old"), 74),
        (UnknownLeaderEpochError("new"), 76),
        (OverloadedError("full"), -1),
    ],
)
async def test_each_error_of_fetching_has_a_code_that_consumers_expect(error: RaftlogError, code: int) -> None:
    """The Java consumer fails for good on any other; also where the whole fetch is refused."""
    async with open_door() as door:
        door.broker.failures["fetch"].append(error)
        client = await door.connect()
        one = await ask(client, ApiKey.FETCH, 12, fetch_body(12, [("t", 0, 0)]))
        door.broker.failures["fetch_many"].append(error)
        all_of_it = await ask(client, ApiKey.FETCH, 12, fetch_body(12, [("t", 0, 0)]))
    assert [answer.responses[0].partitions[0].error_code.value for answer in (one, all_of_it)] == [code, code]


@pytest.mark.parametrize("version", [0, 1, 2, 3, 4, 5, 99])
async def test_api_versions_are_told_in_any_version(version: int) -> None:
    """One that is not known is answered in version 0 with error 35, and the table; groups only where there are any."""
    async with open_door() as door:
        client = await door.connect()
        known = version <= 4
        body = b"\x05test\x021\x00" if version >= 3 else b""
        client.send(ApiKey.API_VERSIONS, version, body)
        _, data = await client.answer()
    answer = decode_with_kio(entity(APIS[ApiKey.API_VERSIONS], version if known else 0, "Response"), data)
    assert answer.error_code.value == (0 if known else 35)
    told = {one.api_key: (one.min_version, one.max_version) for one in answer.api_keys}
    assert told[ApiKey.PRODUCE] == (0, 9)
    assert told[ApiKey.FETCH] == (4, 12)
    assert ApiKey.JOIN_GROUP not in told
    if known and version >= 3:
        (supported,), (finalized,) = answer.supported_features, answer.finalized_features
        assert (supported.name, supported.min_version, supported.max_version) == ("raftlog.version", 1, 2)
        assert (finalized.name, finalized.min_version_level, finalized.max_version_level) == ("raftlog.version", 1, 1)
        assert answer.finalized_features_epoch == 7


async def test_groups_are_not_served_where_there_are_none() -> None:
    """As an API that is not known."""
    async with open_door() as door:
        client = await door.connect()
        client.send(ApiKey.FIND_COORDINATOR, 0, struct.pack(">h1s", 1, b"g"))
        assert await client.closed()
