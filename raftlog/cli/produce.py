"""``raftlog topic produce``: each line of stdin or a file becomes a record."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raftlog.cli.errors import CommandError, UsageError, one_line
from raftlog.cli.lines import read_lines
from raftlog.cli.numbers import NUMBER_MAX
from raftlog.cli.output import Format, counted, progress, talk, to_json
from raftlog.cli.session import BrokersOption, FormatOption, Session, run, session
from raftlog.errors import RaftlogError, UnknownTopicOrPartitionError
from raftlog.model import TopicPartition
from raftlog.records.compression import Codec

if TYPE_CHECKING:
    from raftlog.client.client import Client
    from raftlog.client.producer import Producer
    from raftlog.client.values import RecordMetadata

IN_FLIGHT_MAX = 100_000
"""Lines sent whose acknowledgement was not printed yet: what the memory of their futures is worth."""

RECORD_BYTES_MAX = 16 * 1024 * 1024
"""The topic's max.message.bytes decides what is too big; this only bounds the memory here."""
_PRINTED_TOGETHER_MAX = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long an acknowledgement may be due before that is said, and how often it is said again."""

    first_s: float
    again_s: float


PATIENCE = Patience(first_s=5.0, again_s=30.0)
"""An election takes two seconds at worst: what takes longer needs somebody's help."""


class AcksName(StrEnum):
    """What an acknowledgement means; Kafka's names."""

    NONE = "0"
    LEADER = "1"
    ALL = "all"


class Compression(StrEnum):
    """Codecs of record batches."""

    NONE = "none"
    GZIP = "gzip"
    SNAPPY = "snappy"
    LZ4 = "lz4"
    ZSTD = "zstd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where lines go, and how they are cut into key and value."""

    topic: str
    partition: int | None
    separator: bytes | None

    def cut(self, line: bytes) -> tuple[bytes | None, bytes]:
        """Key and value of a line; a line without the separator is all value, and without a key."""
        if self.separator is None:
            return None, line
        key, found, value = line.partition(self.separator)
        return (key, value) if found else (None, line)


def produce(
    ctx: typer.Context,
    topic: Annotated[str, typer.Argument(help="the topic")],
    file: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="read lines from here rather than stdin")] = None,
    key_separator: Annotated[
        str | None, typer.Option(metavar="TEXT", help="what stands between key and value in a line; without it there is no key")
    ] = None,
    partition: Annotated[int | None, typer.Option(min=0, max=NUMBER_MAX, help="instead of the key's, or any")] = None,
    acks: Annotated[AcksName, typer.Option(help="wait for nobody, for the leader, or for a majority")] = AcksName.ALL,
    compression: Annotated[Compression, typer.Option(help="how batches are compressed")] = Compression.NONE,
    brokers: BrokersOption = None,
    form: FormatOption = None,
) -> None:
    """Publish lines, one record each, byte for byte without the newline.

    With --format json, stdout gets {"partition", "offset"} for each acknowledged line, in the lines' order. At the first line
    that fails no more are read; exit code 1 then means that what was not acknowledged may be missing.
    """
    if key_separator == "":
        raise UsageError("--key-separator must not be empty")
    shared = session(ctx, brokers, form)
    separator = None if key_separator is None else os.fsencode(key_separator.replace("\\t", "\t"))
    target = Target(topic=topic, partition=partition, separator=separator)
    run(_produce(shared, target, file, acks, compression))


async def _produce(shared: Session, target: Target, file: Path | None, acks: AcksName, compression: Compression) -> None:
    descriptor = os.open(file, os.O_RDONLY) if file else sys.stdin.fileno()
    try:
        size = os.fstat(descriptor).st_size if file else 0
        async with (
            shared.client() as client,
            client.producer(
                acks=acks.value,
                compression=Codec[compression.name],
                max_request_size=RECORD_BYTES_MAX,
                buffer_memory=4 * RECORD_BYTES_MAX,
            ) as producer,
        ):
            await _check(client, target)
            count = await Publisher(producer, target, shared.form).publish(descriptor, size)
    finally:
        if file:
            os.close(descriptor)
    talk(f"published {counted(count, 'record')} to {target.topic}")


async def _check(client: Client, target: Target) -> None:
    """Whether there is such a topic, and such a partition of it, before any line is read: there may be none.

    Raises:
        UnknownTopicOrPartitionError: there is not.
    """
    count = len((await client.admin.describe_topic(target.topic)).topic.partitions)
    if target.partition is not None and target.partition >= count:
        tp = TopicPartition(target.topic, target.partition)
        raise UnknownTopicOrPartitionError(f"there is no {tp}; topic {target.topic!r} has {counted(count, 'partition')}")


class Publisher:
    """Sends lines, and reports their acknowledgements in the lines' order as they come."""

    def __init__(self, producer: Producer, target: Target, form: Format, patience: Patience = PATIENCE) -> None:
        self._producer = producer
        self._target = target
        self._form = form
        self._patience = patience
        self._sent: asyncio.Queue[asyncio.Future[RecordMetadata] | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(IN_FLIGHT_MAX)  # bounds the queue, but for the end, which always has a place
        self._settled = 0
        self._acknowledged = 0
        self._failure: tuple[int, Exception] | None = None
        self._unprinted: list[str] = []

    async def publish(self, descriptor: int, size_bytes: int) -> int:
        """Publish all lines of a file descriptor (``size_bytes`` long, 0 where unknown); how many were acknowledged.

        Raises:
            CommandError: a line failed. What was sent before it was noticed is waited for and reported first.
        """
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._send_all(descriptor, size_bytes))
            group.create_task(self._report(sending))
        if self._failure is not None:
            line, error = self._failure
            acknowledged = counted(self._acknowledged, "line was", "lines were")
            raise CommandError(f"line {line:,}: {one_line(error)}; {acknowledged} acknowledged")
        return self._acknowledged

    async def _send_all(self, descriptor: int, size_bytes: int) -> None:
        target, sent = self._target, 0
        try:
            with progress(shown=size_bytes > 0) as bar:
                task = bar.add_task("publishing bytes", total=size_bytes)
                async for lines in read_lines(descriptor):
                    for line in lines:
                        key, value = target.cut(line)
                        await self._room.acquire()
                        self._sent.put_nowait(await self._producer.send(target.topic, value, key=key, partition=target.partition))
                        sent += 1
                    bar.advance(task, sum(map(len, lines)) + len(lines))
        except (RaftlogError, CommandError, OSError) as error:
            self._failure = self._failure or (sent + 1, error)
        finally:
            # Also where the reporter has ended this task: it goes on until it has seen the end.
            self._sent.put_nowait(None)

    async def _report(self, sending: asyncio.Task[None]) -> None:
        try:
            await self._report_each(sending)
        finally:
            self._print()

    async def _report_each(self, sending: asyncio.Task[None]) -> None:
        while (future := await self._sent.get()) is not None:
            self._settled += 1
            self._room.release()
            if not future.done():
                self._print()  # nobody is to wait for this one to hear of those before
            try:
                record = future.result() if future.done() else await self._acknowledgement(future)
            except RaftlogError as error:
                if self._failure is None or self._failure[0] > self._settled:
                    self._failure = (self._settled, error)
                sending.cancel()
                continue
            self._acknowledged += 1
            if self._form is Format.JSON:
                self._unprinted.append(to_json({"partition": record.partition, "offset": record.offset}))
                if self._sent.empty() or len(self._unprinted) >= _PRINTED_TOGETHER_MAX:
                    self._print()

    def _print(self) -> None:
        if self._unprinted:
            sys.stdout.write("\n".join(self._unprinted) + "\n")
            sys.stdout.flush()
            self._unprinted.clear()

    async def _acknowledgement(self, future: asyncio.Future[RecordMetadata]) -> RecordMetadata:
        """Wait for the line's acknowledgement; where it takes long, say so, and that it has come."""
        loop = asyncio.get_running_loop()
        line, began, said = f"line {self._settled:,}", loop.time(), False
        try:
            while not (await asyncio.wait([future], timeout=self._patience.again_s if said else self._patience.first_s))[0]:
                said = True
                text = f"{line} waits for its acknowledgement for {loop.time() - began:.0f} s"
                waiting = self._producer.waiting
                talk(f"{text}: {waiting.tp}: {waiting.why}; fails in {waiting.left_s:.0f} s" if waiting else text)
        except asyncio.CancelledError:
            future.cancel()  # nobody asks for its failure any more
            raise
        record = future.result()
        if said:
            talk(f"{line} is acknowledged; it goes on")
        return record
