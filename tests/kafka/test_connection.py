"""Connections: order, pipelining, bounds, and that a bad one harms nobody else."""

from __future__ import annotations

import asyncio
import struct

import pytest

from raftlog.errors import NotLeaderError
from raftlog.kafka import connection, listener
from raftlog.kafka.wire.api import ApiKey
from raftlog.kafka.wire.primitives import ITEMS_MAX, Writer
from raftlog.model import Acks
from tests.gateway.helpers import make_batch
from tests.kafka.door import Client, Door, open_door, until


def metadata() -> bytes:
    """A request for all topics, version 1."""
    return struct.pack(">i", -1)


def produce(acks: int = -1, *, records: bytes | None = None, topic: bytes = b"t") -> bytes:
    """A batch for one partition, version 3."""
    batch = make_batch(b"v") if records is None else records
    head = struct.pack(">hhiih", -1, acks, 1_000, 1, len(topic)) + topic
    return head + struct.pack(">iii", 1, 0, len(batch)) + batch


def fetch(wait_ms: int, offset: int = 0) -> bytes:
    """A fetch of one partition, version 4."""
    request = struct.pack(">iiiibi", -1, wait_ms, 1, 1 << 20, 0, 1) + struct.pack(">h1si", 1, b"t", 1)
    return request + struct.pack(">iqi", 0, offset, 1 << 20)


def full_of_tags() -> bytes:
    """A frame that is right in all but the number of its header's tags, which are empty: ApiVersions, version 3."""
    writer = Writer()
    writer.raw(struct.pack(">hhih", ApiKey.API_VERSIONS, 3, 7, -1))
    writer.uvarint(ITEMS_MAX + 1)
    writer.raw(bytes(2 * (ITEMS_MAX + 1)) + b"\x02a\x02b\x00")
    request = b"".join(writer.finish())
    return struct.pack(">i", len(request)) + request


async def still_serves(door: Door) -> None:
    """A new client gets its answer."""
    answer = await (await door.connect()).metadata()
    assert [topic.name for topic in answer.topics] == ["t"]


async def test_answers_come_in_the_order_of_their_requests() -> None:
    """Also where the later ones are done first: a produce request waits for its broker, metadata stands behind it."""
    async with open_door() as door:
        door.broker.gate.clear()
        client = await door.connect()
        numbers = [client.send(ApiKey.PRODUCE, 3, produce()), client.send(ApiKey.METADATA, 1, metadata())]
        await until(lambda: door.broker.publishing == 1)
        door.broker.gate.set()
        assert [(await client.answer())[0] for _ in numbers] == numbers


async def test_produce_requests_run_beside_each_other_and_others_wait_their_turn() -> None:
    """A producer keeps several batches under way; what follows them sees what they did."""
    async with open_door() as door:
        door.broker.gate.clear()
        client = await door.connect()
        for _ in range(5):
            client.send(ApiKey.PRODUCE, 3, produce())
        client.send(ApiKey.METADATA, 1, metadata())
        client.send(ApiKey.PRODUCE, 3, produce())
        await until(lambda: door.broker.publishing == 5)
        assert door.figures.requests["Metadata"] == 0
        door.broker.gate.set()
        assert [(await client.answer())[0] for _ in range(7)] == [1, 2, 3, 4, 5, 6, 7]
        assert door.broker.logs[next(iter(door.broker.logs))].end == 6


async def test_acks_0_has_no_answer() -> None:
    """The next answer is the next request's."""
    async with open_door() as door:
        client = await door.connect()
        client.send(ApiKey.PRODUCE, 3, produce(acks=0))
        number = client.send(ApiKey.METADATA, 1, metadata())
        assert (await client.answer())[0] == number
        assert door.broker.logs[next(iter(door.broker.logs))].end == 1


async def test_acks_0_that_is_refused_closes_the_connection() -> None:
    """There is no other way to tell."""
    async with open_door() as door:
        client = await door.connect()
        client.send(ApiKey.PRODUCE, 3, produce(acks=0, topic=b"x"))
        assert await client.closed()
        await still_serves(door)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">i", -1),
        struct.pack(">i", 1 << 30),
        struct.pack(">i", 3) + b"abc",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600),
        struct.pack(">ihhih", 10, ApiKey.METADATA, 1, 7, 99),
        struct.pack(">ihhih", 14, ApiKey.METADATA, 1, 7, -1) + struct.pack(">i", 1 << 30),
        struct.pack(">ihhih", 14, 999, 1, 7, -1) + bytes(4),
        struct.pack(">ihhih", 14, ApiKey.PRODUCE, 2, 7, -1) + bytes(4),
        struct.pack(">ihhih", 14, ApiKey.METADATA, 99, 7, -1) + bytes(4),
        full_of_tags(),
    ],
    ids=[
        "negative size",
        "huge size",
        "tiny size",
        "http",
        "tls",
        "cut header",
        "huge array",
        "unknown api",
        "old",
        "new",
        "tags",
    ],
)
async def test_bad_input_closes_its_own_connection_only(data: bytes) -> None:
    """Nothing is said to it, and others are served."""
    async with open_door() as door:
        other, bad = await door.connect(), await door.connect()
        bad.writer.write(data)
        assert await bad.closed()
        assert (await other.metadata()).topics[0].name == "t"
        await still_serves(door)


async def test_an_unexpected_failure_closes_the_connection_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With an id to find it by."""
    async with open_door() as door:
        door.broker.failures["publish"].append(ZeroDivisionError("a fault of ours"))
        client = await door.connect()
        client.send(ApiKey.PRODUCE, 3, produce())
        assert await client.closed()
        await still_serves(door)
    assert "a fault of ours" in caplog.text
    assert "error 1" in caplog.text or "error " in caplog.text


async def test_a_long_poll_ends_when_its_client_goes() -> None:
    """Nothing is left waiting at the broker."""
    async with open_door() as door:
        client = await door.connect()
        client.send(ApiKey.FETCH, 4, fetch(50_000))
        await until(lambda: door.broker.fetches_waiting == 1)
        client.writer.close()
        await until(lambda: door.figures.open == 0)
        await until(lambda: door.broker.fetches_waiting == 0)


async def test_a_client_that_sends_more_than_is_answered_is_read_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes on when there is room; all its requests are answered in the end."""
    monkeypatch.setattr(connection, "REQUESTS_MAX", 3)
    async with open_door() as door:
        door.broker.gate.clear()
        client = await door.connect()
        for _ in range(3):
            client.send(ApiKey.PRODUCE, 3, produce())
        await until(lambda: door.broker.publishing == 3)
        for _ in range(20):
            client.send(ApiKey.PRODUCE, 3, produce())
            await asyncio.sleep(0.001)
        (inside,) = door.listener._connections
        assert not inside._reads
        assert door.broker.publishing == 3
        door.broker.gate.set()
        assert [(await client.answer())[0] for _ in range(23)] == list(range(1, 24))


async def test_bytes_of_requests_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is larger than the bound alone still passes."""
    monkeypatch.setattr(connection, "BYTES_MAX", 1_000)
    async with open_door() as door:
        door.broker.gate.clear()
        client = await door.connect()
        client.send(ApiKey.PRODUCE, 3, produce(records=make_batch(b"v" * 5_000)))
        await until(lambda: door.broker.publishing == 1)
        (inside,) = door.listener._connections
        assert not inside._reads
        client.send(ApiKey.PRODUCE, 3, produce())
        door.broker.gate.set()
        assert [(await client.answer())[0] for _ in range(2)] == [1, 2]
        assert inside._held_bytes == 0
        assert door.listener._budget.held_bytes == 0


async def test_a_slow_reader_holds_one_answer_and_starts_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not taken bounds what is read for it."""
    monkeypatch.setattr(connection, "WRITE_BYTES_MAX", 1)
    async with open_door() as door:
        size = 8 << 20
        door.broker._append(next(iter(door.broker.logs)), make_batch(b"v" * size), acks=Acks.ALL)
        client = await door.connect()
        body = fetch(0).replace(struct.pack(">i", 1 << 20), struct.pack(">i", 1 << 30))
        numbers = [client.send(ApiKey.FETCH, 4, body) for _ in range(4)]
        (inside,) = door.listener._connections
        await until(lambda: not inside._may_write)
        asked = len(door.broker.calls)
        assert asked < 2 * len(numbers)
        assert [(await client.answer())[0] for _ in numbers] == numbers


def bytes_asked(door: Door) -> list[int]:
    """How much each fetch was allowed to bring."""
    return [facts[1] for name, facts in door.broker.calls if name == "fetch_many"]  # type: ignore[index]


async def test_what_slow_clients_do_not_take_leaves_less_for_the_next_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the room that is left, so that all of them together stay within it; when they go, there is all of it again."""
    monkeypatch.setattr(listener, "ANSWER_BYTES_HELD_MAX", 20 << 20)
    body = fetch(0).replace(struct.pack(">i", 1 << 20), struct.pack(">i", 1 << 30))
    async with open_door() as door:
        door.broker._append(next(iter(door.broker.logs)), make_batch(b"v" * (8 << 20)), acks=Acks.ALL)
        answers = door.listener._answers
        slow = [await door.connect() for _ in range(2)]
        for number, client in enumerate(slow, 1):
            client.send(ApiKey.FETCH, 4, body)
            await until(lambda number=number: len(bytes_asked(door)) == number)  # type: ignore[misc]
            await until(lambda number=number: answers.held_bytes > number * (4 << 20))  # type: ignore[misc]
        quick = await door.connect()
        quick.send(ApiKey.FETCH, 4, fetch(0, offset=1))
        await quick.answer()
        first, second, third = bytes_asked(door)
        assert first == 10 << 20
        assert second < 8 << 20
        assert third < 6 << 20
        for client in slow:
            await client.answer()
        await until(lambda: answers.held_bytes == 0)
        slow[0].send(ApiKey.FETCH, 4, body)
        await until(lambda: answers.held_bytes > 0)
        slow[0].writer.transport.abort()
        await until(lambda: answers.held_bytes == 0)


async def test_ten_thousand_bytes_one_by_one_are_a_request() -> None:
    """Slow is not wrong."""
    async with open_door() as door:
        client = await door.connect()
        sent: list[bytes] = []
        writer = client.writer
        client.writer = type("Catch", (), {"write": lambda _self, data: sent.append(data)})()
        client.send(ApiKey.METADATA, 1, metadata())
        client.writer = writer
        for byte in b"".join(sent):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.answer())[0] == 1


async def test_what_an_error_says_reaches_the_client_and_the_metrics() -> None:
    """The code of each partition."""
    async with open_door() as door:
        client: Client = await door.connect()
        door.broker.failures["list_offset"].append(NotLeaderError("elsewhere"))
        topics = entity_list_offsets()
        answer = await client.ask(ApiKey.LIST_OFFSETS, 7, **topics)
        assert answer.topics[0].partitions[0].error_code.value == 6
        assert door.figures.errors[6] == 1


def entity_list_offsets() -> dict[str, object]:
    """A request for the end of one partition."""
    from kio.schema.list_offsets.v7 import request as r

    part = r.ListOffsetsPartition(partition_index=0, current_leader_epoch=-1, timestamp=-1)  # type: ignore[arg-type]
    topic = r.ListOffsetsTopic(name="t", partitions=(part,))  # type: ignore[arg-type]
    return {"replica_id": -1, "isolation_level": 0, "topics": (topic,)}
