"""``raftlog topic consume``: records on stdout, as bytes or as JSON."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from raftlog.cli.errors import UsageError
from raftlog.cli.numbers import NUMBER_MAX, end_or_offset
from raftlog.cli.output import Format, bytes_fields, to_json
from raftlog.cli.session import BrokersOption, FormatOption, Session, run, session
from raftlog.errors import OffsetOutOfRangeError
from raftlog.model import TopicPartition

if TYPE_CHECKING:
    from raftlog.client.client import Client
    from raftlog.client.consumer import Consumer
    from raftlog.client.values import ConsumedRecord


def consume(
    ctx: typer.Context,
    topic: Annotated[str, typer.Argument(help="the topic")],
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="beginning|end|OFFSET",
            help="where to begin, in each partition (or earliest|latest, as in Kafka); with --group where nothing is committed",
        ),
    ] = "beginning",
    group: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="share the topic with the other members of this group, and commit what was read"),
    ] = None,
    partition: Annotated[int | None, typer.Option(min=0, max=NUMBER_MAX, help="only this one")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="stop after so many records")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="wait for more at the end; --from end implies it")] = False,
    brokers: BrokersOption = None,
    form: FormatOption = None,
) -> None:
    """Read records, up to the end of the topic as of now, or on and on with --follow.

    With --group the topic's partitions are shared with the others that read in the same group. What was printed is committed
    every few seconds and at the end, also after Ctrl-C or SIGTERM: the next one goes on there.

    Text is the value byte for byte and a newline (a record without a value is an empty line). JSON has all of the record, one
    on a line; bytes that are not UTF-8 are in key_base64 and value_base64.
    """
    place = _place(start)
    follow = follow or place == "end"
    shared = session(ctx, brokers, form)
    if group is not None:
        if partition is not None or isinstance(place, int):
            raise UsageError("--group gives out partitions and offsets by itself; leave out --partition and offsets")
        run(_consume_as_member(shared, topic, group, "latest" if place == "end" else "earliest", count, follow))
        return
    what = topic if partition is None else TopicPartition(topic, partition)
    run(_consume(shared, what, place, count, follow))


def _place(text: str) -> str | int:
    """What ``--from`` means.

    Raises:
        UsageError: nothing, or further than any offset.
    """
    place = end_or_offset(text)
    if place is None:
        raise UsageError(f"--from {text!r} is neither beginning, nor end, nor an offset from 0")
    return place


async def _consume(shared: Session, what: str | TopicPartition, place: str | int, count: int | None, follow: bool) -> None:
    async with shared.client() as client, AsyncExitStack() as stack:
        if isinstance(place, int):
            await _check_offset(client, what, place)
        consumer = await stack.enter_async_context(client.consumer(what, from_=place, follow=follow))
        await _print_all(consumer, count, shared.form)


async def _consume_as_member(
    shared: Session, topic: str, group: str, reset: Literal["earliest", "latest"], count: int | None, follow: bool
) -> None:
    async with shared.client() as client, AsyncExitStack() as stack:
        consumer = await stack.enter_async_context(client.consumer(topic, group=group, auto_offset_reset=reset, follow=follow))
        last = await _print_all(consumer, count, shared.form)
        if last is not None:  # the others are committed by the iteration, which has not moved past this one
            await consumer.commit({TopicPartition(last.topic, last.partition): last.offset + 1})


async def _print_all(consumer: Consumer, count: int | None, form: Format) -> ConsumedRecord | None:
    """Print up to ``count`` records; the last one where there were so many, None where the consumer ended before."""
    write, encode = sys.stdout.buffer.write, _json_line if form is Format.JSON else _text_line
    left = count
    sys.stdout.flush()
    async for batch in consumer.batches():
        records = batch.records if left is None else batch.records[:left]
        write(b"".join(map(encode, records)))
        sys.stdout.buffer.flush()
        if left is not None:
            left -= len(records)
            if left == 0:
                return records[-1]
    return None


async def _check_offset(client: Client, what: str | TopicPartition, offset: int) -> None:
    """An offset beyond the end would be silence: nothing to read, and nothing wrong.

    Raises:
        OffsetOutOfRangeError: it is outside of what a partition has.
    """
    if isinstance(what, str):
        topic = (await client.admin.describe_topic(what)).topic
        tps = [TopicPartition(what, partition.partition) for partition in topic.partitions]
    else:
        tps = [what]
    earliest = await client.admin.list_offsets(dict.fromkeys(tps, "earliest"))
    latest = await client.admin.list_offsets(dict.fromkeys(tps, "latest"))
    for tp in tps:
        low, high = earliest[tp].offset, latest[tp].offset
        if not low <= offset <= high:
            raise OffsetOutOfRangeError(f"offset {offset} is out of range in {tp}", earliest=low, latest=high)


def _text_line(record: ConsumedRecord) -> bytes:
    return (record.value or b"") + b"\n"


def _json_line(record: ConsumedRecord) -> bytes:
    fields: dict[str, object] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        **bytes_fields("key", record.key),
        **bytes_fields("value", record.value),
    }
    if record.headers:
        fields["headers"] = [{"name": name, **bytes_fields("value", value)} for name, value in record.headers]
    return to_json(fields).encode() + b"\n"
