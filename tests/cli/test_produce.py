"""Lines become records, and their acknowledgements are reported in the lines' order."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import cast

import pytest

from raftlog.cli.errors import CommandError
from raftlog.cli.output import Format
from raftlog.cli.produce import Publisher, Target
from raftlog.client.producer import Producer
from raftlog.client.values import RecordMetadata
from raftlog.errors import MessageTooLargeError, StorageFullError


class FakeProducer:
    """Keeps what is sent; the test acknowledges."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes | None, bytes, int | None, asyncio.Future[RecordMetadata]]] = []
        self.refuse: bytes | None = None

    async def send(self, topic: str, value: bytes, *, key: bytes | None, partition: int | None) -> asyncio.Future[RecordMetadata]:
        """As ``Producer.send``."""
        if value == self.refuse:
            raise MessageTooLargeError("too big")
        future: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        self.sent.append((key, value, partition, future))
        return future

    def acknowledge(self, number: int) -> None:
        """The line with this number (from 0) stands in partition 1 at its own number."""
        self.sent[number][3].set_result(RecordMetadata("t", 1, number, 0))

    async def until_sent(self, count: int) -> None:
        """So many lines were sent."""
        while len(self.sent) < count:
            await asyncio.sleep(0)


def publish(producer: FakeProducer, file: Path, *, separator: bytes | None = None) -> asyncio.Task[int]:
    """Start publishing a file's lines."""
    publisher = Publisher(cast(Producer, producer), Target(topic="t", partition=None, separator=separator), Format.JSON)
    descriptor = os.open(file, os.O_RDONLY)
    task = asyncio.get_running_loop().create_task(publisher.publish(descriptor, 0))
    task.add_done_callback(lambda _: os.close(descriptor))
    return task


def offsets(capsys: pytest.CaptureFixture[str]) -> list[int]:
    """What was printed."""
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(line.keys() == {"partition", "offset"} for line in lines)
    return [line["offset"] for line in lines]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """Four lines, one of them not UTF-8, one empty; the last without its newline."""
    file = tmp_path / "lines"
    file.write_bytes(b"a:1\n\xff\x00\n\nb:2:3")
    return file


async def test_lines_are_published_byte_for_byte(lines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also the empty one, and the last one without a newline."""
    producer = FakeProducer()
    task = publish(producer, lines)
    await producer.until_sent(4)
    assert [(key, value) for key, value, _, _ in producer.sent] == [
        (None, b"a:1"),
        (None, b"\xff\x00"),
        (None, b""),
        (None, b"b:2:3"),
    ]
    for number in (3, 1, 0, 2):
        producer.acknowledge(number)
    assert await task == 4
    assert offsets(capsys) == [0, 1, 2, 3]


async def test_the_separator_cuts_the_key_off_once(lines: Path) -> None:
    """A line without it has no key."""
    producer = FakeProducer()
    task = publish(producer, lines, separator=b":")
    await producer.until_sent(4)
    assert [(key, value) for key, value, _, _ in producer.sent] == [
        (b"a", b"1"),
        (None, b"\xff\x00"),
        (None, b""),
        (b"b", b"2:3"),
    ]
    for number in range(4):
        producer.acknowledge(number)
    await task


async def test_an_acknowledgement_is_reported_before_the_next_line_comes(capsys: pytest.CaptureFixture[str]) -> None:
    """A script may write a line and wait for its offset."""
    reader, writer = os.pipe()
    producer = FakeProducer()
    publisher = Publisher(cast(Producer, producer), Target(topic="t", partition=None, separator=None), Format.JSON)
    task = asyncio.get_running_loop().create_task(publisher.publish(reader, 0))
    os.write(writer, b"one\n")
    await producer.until_sent(1)
    producer.acknowledge(0)
    while not (printed := offsets(capsys)):
        await asyncio.sleep(0)
    assert printed == [0]
    os.close(writer)
    assert await task == 1
    os.close(reader)


async def test_a_failed_line_ends_it_and_is_named(lines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was acknowledged around it is still reported."""
    producer = FakeProducer()
    task = publish(producer, lines)
    await producer.until_sent(4)
    producer.sent[1][3].set_exception(StorageFullError("full"))
    for number in (0, 2, 3):
        producer.acknowledge(number)
    with pytest.raises(CommandError, match="line 2: full; 3 lines were acknowledged"):
        await task
    assert offsets(capsys) == [0, 2, 3]


async def test_a_line_that_cannot_be_sent_ends_it_and_is_named(lines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The lines before it are waited for."""
    producer = FakeProducer()
    producer.refuse = b""
    task = publish(producer, lines)
    await producer.until_sent(2)
    producer.acknowledge(0)
    producer.acknowledge(1)
    with pytest.raises(CommandError, match="line 3: too big; 2 lines were acknowledged"):
        await task
    assert offsets(capsys) == [0, 1]


async def test_cancelling_ends_it_while_acknowledgements_are_due(lines: Path) -> None:
    """Ctrl-C does not wait for a cluster that is gone."""
    producer = FakeProducer()
    task = publish(producer, lines)
    await producer.until_sent(4)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
