"""Consuming: where to begin, and waiting at the tail."""

from __future__ import annotations

from tests.interop.bridges.face import Absent
from tests.interop.features.catalogue import feature
from tests.interop.lab import Lab, compare, until

COUNT = 50


@feature("earliest", "from the earliest offset")
async def earliest(lab: Lab) -> None:
    """Everything, from several partitions."""
    topic = await lab.topic(partitions=3)
    for partition in range(3):
        await lab.fill(topic, partition, COUNT)
    read = await lab.read(topic, 3 * COUNT, partitions=(0, 1, 2))
    assert len(read) == 3 * COUNT


@feature("offset", "from an offset, also in mid-batch")
async def from_offset(lab: Lab) -> None:
    """The first record is the one that was asked for, though its batch began earlier."""
    topic, records = await lab.topic(), lab.records(COUNT)
    await lab.send(topic, records)
    read = await lab.read(topic, COUNT - 17, start=("offset", 17))
    assert [one["o"] for one in read] == list(range(17, COUNT))
    compare(records[17:], read, lab.bridge.facts)


@feature("time", "from a time")
async def from_time(lab: Lab) -> None:
    """The first record at or after the time, in mid-batch."""
    topic = await lab.topic()
    records = lab.records(COUNT)
    await lab.send(topic, records)
    if lab.bridge.facts["timestamps"]:
        wanted_ms, first = lab.base_ms + 23_500, 24
    else:
        before = await lab.read(topic, COUNT)
        wanted_ms = before[30]["t"]
        first = next(number for number, one in enumerate(before) if one["t"] >= wanted_ms)
    read = await lab.read(topic, COUNT - first, start=("time", wanted_ms))
    assert read[0]["o"] == first, f"begins at {read[0]['o']} instead of {first}"


@feature("latest", "from the latest offset")
async def latest(lab: Lab) -> None:
    """Nothing that was there before, and what comes after."""
    topic = await lab.topic()
    await lab.send(topic, lab.records(COUNT))
    async with lab.consumer(assign=[[topic, 0]], start=["latest"]) as reader, lab.producer() as send:

        async def one_more() -> int:
            await send(topic, lab.records(1))
            return len(await reader.take())

        # A client looks up the end when it likes: what it reads begins there, and not before.
        await until(one_more, lambda count: count > 0, "a record at the tail")
        assert reader.records[0]["o"] >= COUNT


@feature("tail", "long poll at the tail")
async def tail(lab: Lab) -> None:
    """Records sent one by one reach a waiting consumer one by one, in order, each once."""
    topic = await lab.topic()
    async with lab.consumer(assign=[[topic, 0]], start=["earliest"]) as reader, lab.producer() as send:
        for number in range(20):
            await send(topic, lab.records(1, first=number))
            await reader.until(number + 1)
        assert [one["o"] for one in reader.records] == list(range(20))


@feature("watermarks", "earliest and latest offset, offset at a time")
async def watermarks(lab: Lab) -> None:
    """As the client's administration tells them."""
    topic = await lab.topic()
    assert await lab.call("offsets", topic=topic, partition=0) == [0, 0]
    await lab.send(topic, lab.records(COUNT))
    assert await lab.call("offsets", topic=topic, partition=0) == [0, COUNT]
    if lab.bridge.facts["timestamps"]:
        try:
            at = lab.call
            assert await at("offset_at", topic=topic, partition=0, timestamp_ms=lab.base_ms + 23_500) == 24
            assert await at("offset_at", topic=topic, partition=0, timestamp_ms=lab.base_ms + 3_000_000) is None
        except Absent:
            return
