"""Producing: codecs, acks, idempotence, all fields of a record, sizes up to the limit and beyond."""

from __future__ import annotations

from tests.interop.bridges.face import Absent, Refused
from tests.interop.features.catalogue import feature
from tests.interop.lab import MESSAGE_TOO_LARGE, UNKNOWN_TOPIC_OR_PARTITION, Lab, compare, refused

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
COUNT = 200
_OWN_CODES = (-192, -190, -188, 7)
"""Clients' own words: librdkafka's message timed out, unknown partition, unknown topic; Java's timeout waiting for metadata."""


def _codec(codec: str) -> None:
    @feature(f"codec-{codec}", f"produce and consume, {codec}")
    async def scenario(lab: Lab) -> None:
        """What is written with a codec is read back field by field."""
        topic, records = await lab.topic(), lab.records(COUNT, size_bytes=200)
        _in_order(await lab.send(topic, records, codec=codec))
        compare(records, await lab.read(topic, COUNT), lab.bridge.facts)


def _acks(acks: str) -> None:
    @feature(f"acks-{acks}", f"acks={acks}")
    async def scenario(lab: Lab) -> None:
        """All records of a healthy cluster arrive, also those that nobody acknowledges."""
        topic, records = await lab.topic(), lab.records(COUNT)
        await lab.led(topic)  # nobody would tell a producer that does not wait
        placed = await lab.send(topic, records, acks=acks)
        if acks != "0":  # what is not acknowledged has no offset, whatever a client says
            _in_order(placed)
        compare(records, await lab.read(topic, COUNT), lab.bridge.facts)


def _in_order(placed: list[list[int]]) -> None:
    told = [offset for _, offset in placed if offset >= 0]
    assert told in ([], list(range(len(placed)))), f"offsets are not those of a new partition, in order: {told[:20]}…"


for one in CODECS:
    _codec(one)
for one in ("0", "1", "all"):
    _acks(one)


@feature("idempotent", "idempotent producer")
async def idempotent(lab: Lab) -> None:
    """A producer with an id writes many batches to several partitions, each in order."""
    topic = await lab.topic(partitions=3)
    async with lab.producer(idempotent=True) as send:
        for first in range(0, 600, 300):
            for partition in range(3):
                await send(topic, lab.records(300, partition=partition, first=first))
    read = await lab.read(topic, 1_800, partitions=(0, 1, 2))
    for partition in range(3):
        offsets = [record["o"] for record in read if record["p"] == partition]
        if lab.bridge.facts["partitions"]:
            assert offsets == list(range(600)), f"partition {partition} has {len(offsets)} records, {offsets[:5]}…"
    assert len(read) == 1_800


@feature("fields", "keys, headers, timestamps, nulls, empty values")
async def fields(lab: Lab) -> None:
    """Null, empty and arbitrary bytes are three different things, in keys, values and headers."""
    topic, facts = await lab.topic(), lab.bridge.facts
    records = lab.records(35)
    empty = lab.records(1)[0]
    if facts["empty_values"]:
        empty["v"] = ""
    if facts["headers"] and facts["binary"]:
        empty["h"] = [["twice", "AA=="], ["twice", "AQ=="], ["empty", ""]]
        if facts["null_headers"]:
            empty["h"].append(["none", None])
    records.append(empty)
    await lab.send(topic, records)
    compare(records, await lab.read(topic, len(records)), facts)


@feature("large", "records near max.message.bytes")
async def large(lab: Lab) -> None:
    """Records of nearly the default limit pass, uncompressed, and are read one by one."""
    topic, size = await lab.topic(), lab.bridge.facts["record_bytes_max"]
    records = lab.records(3, size_bytes=size)
    await lab.send(topic, records, request_bytes_max=2_000_000)
    compare(records, await lab.read(topic, 3), lab.bridge.facts)


@feature("larger", "records of 3 MB where the topic takes them")
async def larger(lab: Lab) -> None:
    """A topic's own limit counts, not the node's default."""
    topic = await lab.topic(configs={"max.message.bytes": "4000000"})
    if lab.bridge.facts["record_bytes_max"] < 900_000:
        records = lab.records(3, size_bytes=lab.bridge.facts["record_bytes_max"])
    else:
        records = lab.records(3, size_bytes=3_000_000)
    await lab.send(topic, records, request_bytes_max=8_000_000)
    compare(records, await lab.read(topic, 3), lab.bridge.facts)


@feature("too-large", "a record that is too large is refused")
async def too_large(lab: Lab) -> None:
    """The cluster refuses by MESSAGE_TOO_LARGE, and the producer's next record passes."""
    topic = await lab.topic(configs={"max.message.bytes": "20000"})
    async with lab.producer(request_bytes_max=2_000_000) as send:
        await refused(send(topic, lab.records(1, size_bytes=60_000)), MESSAGE_TOO_LARGE)
        after = lab.records(1, first=1)
        await send(topic, after)
    compare(after, await lab.read(topic, 1), lab.bridge.facts)


@feature("auto-create", "a topic is created by producing to it")
async def auto_create(lab: Lab) -> None:
    """As Kafka does by default."""
    topic, records = f"{lab.prefix}-new", lab.records(20, partition=None)
    await lab.send(topic, records)
    partitions = [one["partition"] for one in await lab.describe(topic)]
    read = await lab.read(topic, 20, partitions=partitions)
    assert sorted(str(one["v"]) for one in read) == sorted(str(one["v"]) for one in records)


@feature("no-partition", "a partition that does not exist is refused")
async def unknown_partition(lab: Lab) -> None:
    """Named as such, or the client's own words for it; nothing hangs."""
    if not lab.bridge.facts["partitions"]:
        raise Absent("the partition cannot be chosen")
    topic = await lab.topic()
    records = lab.records(1)
    records[0]["p"] = 99
    try:
        await lab.send(topic, records)
    except Refused as error:
        if error.code not in (None, UNKNOWN_TOPIC_OR_PARTITION, *_OWN_CODES):
            raise AssertionError(f"refused by code {error.code}: {error}") from error
        return
    raise AssertionError("a record was taken for a partition that is not there")
