"""Lines become records, and their acknowledgements are reported in the lines' order."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from raftlog.cli.errors import CommandError
from raftlog.cli.output import Format
from raftlog.cli.produce import PATIENCE, Patience, Publisher, Target
from raftlog.client.producer import Producer, Waiting
from raftlog.client.values import RecordMetadata
from raftlog.errors import MessageTooLargeError, StorageFullError
from raftlog.model import TopicPartition


class FakeProducer:
    """Keeps what is sent; the test acknowledges."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes | None, bytes, int | None, asyncio.Future[RecordMetadata]]] = []
        self.refuse: bytes | None = None
        self.waiting: Waiting | None = None

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


def publish(
    producer: FakeProducer, file: Path, *, separator: bytes | None = None, patience: Patience = PATIENCE
) -> asyncio.Task[int]:
    """Start publishing a file's lines."""
    target = Target(topic="t", partition=None, separator=separator)
    publisher = Publisher(cast(Producer, producer), target, Format.JSON, patience)
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


async def test_one_acknowledged_line_is_not_several(lines: Path) -> None:
    """In the error that a line failed."""
    producer = FakeProducer()
    producer.refuse = b"\xff\x00"
    task = publish(producer, lines)
    await producer.until_sent(1)
    producer.acknowledge(0)
    with pytest.raises(CommandError, match="line 2: too big; 1 line was acknowledged"):
        await task


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


async def test_waiting_for_an_acknowledgement_is_said_and_that_it_goes_on_too(
    lines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For what, as far as it is known, and when it gives up; again now and then."""
    producer = FakeProducer()
    producer.waiting = Waiting(TopicPartition("t", 1), "no leader of it is known", 115.2)
    task = publish(producer, lines, patience=Patience(first_s=0.01, again_s=0.01))
    said = ""
    while said.count("\n") < 2:
        said += capsys.readouterr().err
        await asyncio.sleep(0)
    for line in said.splitlines():
        assert re.fullmatch(
            r"line 1 waits for its acknowledgement for \d+ s: t-1: no leader of it is known; fails in 115 s", line
        )
    for number in range(4):
        producer.acknowledge(number)
    assert await task == 4
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == "line 1 is acknowledged; it goes on"
    assert [json.loads(line)["offset"] for line in out.splitlines()] == [0, 1, 2, 3]


async def test_nothing_is_said_while_acknowledgements_come(lines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor of one that fails: the error says it."""
    producer = FakeProducer()
    task = publish(producer, lines)
    await producer.until_sent(4)
    for number in range(4):
        producer.acknowledge(number)
    await task
    assert capsys.readouterr().err == ""
    assert (PATIENCE.first_s, PATIENCE.again_s) == (5.0, 30.0)


@pytest.mark.parametrize("ending", ["interrupt", "long line"])
async def test_what_was_acknowledged_is_printed_whatever_ends_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """Whoever sends what is missing once more would store it twice. And nothing waits for the line behind it."""
    monkeypatch.setattr("raftlog.cli.lines.LINE_BYTES_MAX", 1_000)
    file = tmp_path / "lines"
    os.mkfifo(file)
    producer = FakeProducer()
    held_open = os.open(file, os.O_RDWR)
    os.write(held_open, b"1\n2\n3\n4\n")
    task = publish(producer, file)
    await producer.until_sent(4)
    for number in range(3):
        producer.acknowledge(number)
    printed: list[int] = []
    while len(printed) < 3:
        await asyncio.sleep(0)
        printed += offsets(capsys)
    assert printed == [0, 1, 2]
    if ending == "interrupt":
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        os.write(held_open, b"x" * 5_000)
        producer.acknowledge(3)
        with pytest.raises(CommandError, match=r"line 5: a line is longer than .*4 lines were acknowledged"):
            await task
        assert offsets(capsys) == [3]
    os.close(held_open)


@pytest.mark.parametrize("stream", ["<&-", ">&-", "2>&-"])
def test_a_closed_stream_makes_no_traceback(stream: str) -> None:
    """Nothing is read, or written to nowhere."""
    command = f"{sys.executable} -c 'from raftlog.cli.main import main; main()' --version {stream}"
    done = subprocess.run(["/bin/sh", "-c", command], check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr + done.stdout
