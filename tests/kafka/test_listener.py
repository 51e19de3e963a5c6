"""The door itself: binding, named listeners, bounds on connections, idleness, and an orderly end."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from raftlog.core.clock import SystemClock
from raftlog.errors import AddressInUseError, ConfigError
from raftlog.kafka import connection, listener
from raftlog.kafka.listener import KafkaListener
from raftlog.kafka.port import KafkaOptions
from raftlog.kafka.wire.api import ApiKey
from raftlog.model import Acks, TopicPartition
from tests.gateway.helpers import make_batch
from tests.kafka.door import open_door, until
from tests.kafka.test_connection import fetch, metadata, produce


async def test_who_connects_to_a_listener_is_told_its_addresses() -> None:
    """Nodes without that listener, and nodes that are down, are not named."""
    async with open_door(listen={"default": ("127.0.0.1", 0), "outside": ("127.0.0.1", 0)}) as door:
        inside = await (await door.connect("default")).metadata()
        outside = await (await door.connect("outside")).metadata()
    assert [(one.node_id, one.host, one.port) for one in inside.brokers] == [(1, "127.0.0.1", 9001), (2, "b.example", 9002)]
    assert [(one.node_id, one.host, one.port) for one in outside.brokers] == [(1, "2001:db8::1", 19001)]


async def test_without_a_listener_nothing_is_listened_on() -> None:
    """The door is off."""
    door = KafkaListener(KafkaOptions(listen={}), clock=SystemClock())
    await door.bind()
    assert door.ports == {}
    await door.stop(0.0)


async def test_a_port_in_use_and_a_foreign_address_are_refused_in_words() -> None:
    """Each with what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        door = KafkaListener(KafkaOptions(listen={"default": taken.getsockname()[:2]}), clock=SystemClock())
        with pytest.raises(AddressInUseError, match="choose another"):
            await door.bind()
    door = KafkaListener(KafkaOptions(listen={"default": ("192.0.2.1", 9092)}), clock=SystemClock())
    with pytest.raises(ConfigError, match="address of this machine"):
        await door.bind()


async def test_connections_are_bounded() -> None:
    """One more is closed at once; when one goes there is room again."""
    async with open_door(connections_max=2) as door:
        first, _ = await door.connect(), await door.connect()
        await until(lambda: door.figures.open == 2)
        assert await (await door.connect()).closed()
        first.writer.close()
        await until(lambda: door.figures.open == 1)
        assert (await (await door.connect()).metadata()).topics


async def test_an_idle_connection_is_closed_and_one_that_waits_is_not() -> None:
    """A long poll is no idleness."""
    async with open_door(idle_ms_max=50) as door:
        idle, waiting = await door.connect(), await door.connect()
        waiting.send(ApiKey.FETCH, 4, fetch(50_000))
        assert await idle.closed()
        assert door.broker.fetches_waiting == 1
        assert door.figures.open == 1


async def test_idle_connections_have_no_task_and_no_timer() -> None:
    """A thousand of them cost one sweep now and then."""
    async with open_door() as door:
        before = len(asyncio.all_tasks())
        clients = [await door.connect() for _ in range(50)]
        for client in clients:
            client.send(ApiKey.METADATA, 1, metadata())
            await client.answer()
        await until(lambda: len(asyncio.all_tasks()) == before)
        assert door.figures.open == 50


async def test_a_request_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hold its bytes for ever."""
    monkeypatch.setattr(connection, "FRAME_S_MAX", 0.0)
    monkeypatch.setattr(listener, "SWEEP_S", 0.01)
    async with open_door() as door:
        slow = await door.connect()
        slow.writer.write(struct.pack(">i", 1_000) + b"x")
        assert await slow.closed()
        assert door.listener._budget.held_bytes == 0


async def test_a_stream_of_requests_that_never_ends_between_two_is_no_request_that_never_ends() -> None:
    """A producer on a slow line: what has come ends in the middle of a request whenever one looks, and each is there in time."""
    loop = asyncio.get_running_loop()
    async with open_door() as door:
        client = await door.connect()
        await until(lambda: door.figures.open == 1)
        (inside,) = door.listener._connections
        request = struct.pack(">ihhihi", 14, ApiKey.METADATA, 1, 7, -1, 0)
        client.writer.write(request[:5])
        for number in range(1, 4):
            await until(lambda: inside._partial_bytes == 5)
            inside._frame_begun_s = loop.time() - connection.FRAME_S_MAX + 60
            client.writer.write(request[5:] + request[:5])
            await until(lambda number=number: door.figures.requests["Metadata"] == number)  # type: ignore[misc]
            inside.sweep(loop.time() + connection.FRAME_S_MAX - 30, 600.0)
        assert door.figures.open == 1
        inside.sweep(loop.time() + connection.FRAME_S_MAX + 1, 600.0)
        await until(lambda: door.figures.open == 0)


async def test_a_client_that_takes_no_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hold an answer for ever."""
    monkeypatch.setattr(connection, "WRITE_BYTES_MAX", 1)
    monkeypatch.setattr(connection, "STALLED_S_MAX", 0.0)
    monkeypatch.setattr(listener, "SWEEP_S", 0.01)
    async with open_door() as door:
        door.broker._append(TopicPartition("t", 0), make_batch(b"v" * (16 << 20)), acks=Acks.ALL)
        client = await door.connect()
        client.send(ApiKey.FETCH, 4, fetch(0).replace(struct.pack(">i", 1 << 20), struct.pack(">i", 1 << 30)))
        await until(lambda: door.figures.requests["Fetch"] == 1)
        await until(lambda: door.figures.open == 0)


async def test_a_connection_that_cannot_be_closed_in_peace_is_cut_off() -> None:
    """What was to be said first is not taken: after a while it is not waited for any more."""
    async with open_door() as door:
        await door.connect()
        await until(lambda: door.figures.open == 1)
        (inside,) = door.listener._connections
        stuck = StuckTransport()
        real, inside._transport = inside._transport, stuck  # type: ignore[assignment]
        inside.sweep(inside._active_s + connection.STALLED_S_MAX, 600.0)
        assert not stuck.aborted
        inside.sweep(inside._active_s + connection.STALLED_S_MAX + 1, 600.0)
        assert stuck.aborted
        inside._transport = real


class StuckTransport:
    """A transport whose end waits for its reader."""

    aborted = False

    def is_closing(self) -> bool:
        """It is."""
        return True

    def abort(self) -> None:
        """The end."""
        self.aborted = True


async def test_stopping_answers_what_is_under_way_and_ends_what_waits() -> None:
    """A publish gets its answer, a long poll its end; nothing new is taken."""
    async with open_door() as door:
        producer, consumer = await door.connect(), await door.connect()
        door.broker.gate.clear()
        number = producer.send(ApiKey.PRODUCE, 3, produce())
        consumer.send(ApiKey.FETCH, 4, fetch(50_000, offset=1))
        await until(lambda: door.broker.publishing == 1 and door.broker.fetches_waiting == 1)
        port = door.listener.ports["default"]
        async with asyncio.TaskGroup() as group:
            group.create_task(door.listener.stop(10.0))
            assert await consumer.closed()
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", port)
            door.broker.gate.set()
            assert (await producer.answer())[0] == number
            assert await producer.closed()


async def test_stopping_does_not_wait_beyond_its_grace() -> None:
    """Whoever is not done is cut off."""
    async with open_door() as door:
        producer = await door.connect()
        door.broker.gate.clear()
        producer.send(ApiKey.PRODUCE, 3, produce())
        await until(lambda: door.broker.publishing == 1)
        await door.listener.stop(0.01)
        assert await producer.closed()
