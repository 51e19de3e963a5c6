"""A leader dies while a client produces and consumes: nothing acknowledged is lost, nothing is doubled or out of order."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from raftlog.client.client import Client
from raftlog.model import TopicPartition
from raftlog.testing.proof import Place, Seen, verdict
from tests.interop.bridges.face import Absent, Wire, unpacked
from tests.interop.features import groups
from tests.interop.features.catalogue import feature
from tests.interop.features.groups import all_read, shared, spread
from tests.interop.lab import Lab, Reader, until

PARTITIONS = 3
GROUP_PARTITIONS = groups.PARTITIONS
RECORDS = 2_400
CHUNKS, CHUNKS_FEW = 60, 10
"""Enough that the leader dies in the middle, and that its successor serves for a while; few where each costs a process."""
READ_TIMEOUT_S = 60.0


@feature("leader-killed", "a leader killed (SIGKILL) under load", timeout_s=180.0)
async def leader_killed(lab: Lab) -> None:
    """Every acknowledged record stands at its offset, once, in order, and a consumer that was open all along read it so."""
    cluster = lab.own_cluster()
    topic = await lab.topic(partitions=PARTITIONS)
    victim = (await lab.describe(topic))[0]["leader"]
    places: dict[int, Place] = {}
    idempotent = await _idempotent(lab)
    async with lab.consumer(assign=[[topic, number] for number in range(PARTITIONS)], start=["earliest"]) as reader:
        async with lab.producer(idempotent=idempotent, patient=True) as send:
            chunks = CHUNKS if lab.bridge.facts["lasting_producers"] else CHUNKS_FEW
            size = RECORDS // chunks
            for chunk in range(chunks):
                numbers = range(chunk * size, (chunk + 1) * size)
                records = [_numbered(lab, number) for number in numbers]
                if chunk == chunks // 4:
                    placed, _ = await asyncio.gather(send(topic, records), cluster.kill(victim))
                else:
                    placed = await send(topic, records)
                for number, (partition, offset) in zip(numbers, placed, strict=True):
                    if offset >= 0:
                        places[number] = Place(partition, offset)
        await cluster.start(victim)
        await _judge(lab, reader, topic, places, idempotent)


@feature("coordinator-killed", "a group's coordinator killed (SIGKILL)", timeout_s=180.0)
async def coordinator_killed(lab: Lab) -> None:
    """The members go on with their partitions, every record is read, and what is committed at the end is the end.

    raftlog's own client tells coordinator and offsets: librdkafka's administration dies of a coordinator that has moved.
    """
    cluster = lab.own_cluster()
    topic, group = await lab.topic(partitions=GROUP_PARTITIONS), f"{lab.prefix}-g"
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(cluster.brokers))
        members = list[Reader]()
        for counts in ([6], [3, 3]):
            members.append(await stack.enter_async_context(lab.consumer(topics=[topic], group=group, auto_commit=True)))
            await shared(members, topic, counts)
        await spread(lab, topic, 10)
        await all_read(members, 10)
        victim = (await client.admin.describe_group(group, offsets=False)).coordinator
        assert victim is not None
        await cluster.kill(victim)
        await spread(lab, topic, 10, first=10)
        await all_read(members, 20)
        await shared(members, topic, [3, 3])
        await cluster.start(victim)
        for member in members:
            await member.close()
        end = {TopicPartition(topic, number): 20 for number in range(GROUP_PARTITIONS)}

        async def committed() -> dict[TopicPartition, int | None]:
            return {tp: one.committed for tp, one in (await client.admin.group_offsets(group)).items()}

        await until(committed, lambda seen: seen == end, "the group's offsets to be the end of each partition")


async def _idempotent(lab: Lab) -> bool:
    try:
        async with lab.producer(idempotent=True, patient=True):
            return True
    except Absent:
        return False


def _numbered(lab: Lab, number: int) -> Wire:
    [record] = lab.records(1, partition=number % PARTITIONS, first=number)
    if record["v"] is None:
        record["v"] = lab.records(1, first=0)[0]["v"]
    record["k"] = lab.text(f"{number}")
    return record


async def _judge(lab: Lab, reader: Reader, topic: str, places: dict[int, Place], idempotent: bool) -> None:
    """Compare what was acknowledged with what the open consumer read; without idempotence, a record may be there twice."""

    async def numbers() -> set[int]:
        return {int(unpacked(one["k"]) or b"-1") for one in await reader.take()}

    async with asyncio.timeout(READ_TIMEOUT_S):
        while len(await numbers()) < RECORDS:
            await asyncio.sleep(0.1)
    read: dict[int, list[Seen]] = {}
    for record in reader.records:
        read.setdefault(record["p"], []).append(Seen(record["o"], int(unpacked(record["k"]) or b"-1"), True))
    found = verdict(PARTITIONS, places, frozenset(), read)
    for number, one in found.partitions.items():
        if not idempotent:
            # At least once, as Kafka has it: a batch whose answer was lost is sent again, and stands there twice.
            one.doubled = one.reordered = one.unexplained = 0
            offsets = [seen.offset for seen in read.get(number, [])]
            assert offsets == sorted(set(offsets)), "an offset was read twice, or out of order"
        assert one.holds, f"partition {number}: {one}"
