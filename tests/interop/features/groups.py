"""Consumer groups: sharing, rebalancing by every assignor, static members, commits, seeking, lag."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from tests.interop.bridges.face import Absent
from tests.interop.features.catalogue import feature
from tests.interop.lab import Lab, Reader, until

STRATEGIES = ("range", "roundrobin", "sticky", "cooperative-sticky")
PARTITIONS = 6


async def spread(lab: Lab, topic: str, each: int, first: int = 0) -> None:
    """Put ``each`` records into each partition."""
    for partition in range(PARTITIONS):
        await lab.fill(topic, partition, each, first)


async def shared(members: list[Reader], topic: str, counts: list[int] | None = None) -> list[set[tuple[str, int]]]:
    """Wait until the members have all partitions between them, each one once, and as evenly as ``counts`` says."""
    everything = {(topic, number) for number in range(PARTITIONS)}

    async def look() -> list[set[tuple[str, int]]]:
        return [set(await member.assigned()) for member in members]

    def good(seen: list[set[tuple[str, int]]]) -> bool:
        whole = set().union(*seen) == everything and sum(map(len, seen)) == PARTITIONS
        return whole and (counts is None or sorted(map(len, seen)) == counts)

    return await until(look, good, f"{len(members)} members to share {PARTITIONS} partitions", 45.0)


def _places(members: list[Reader]) -> list[tuple[int, int]]:
    return [(one["p"], one["o"]) for member in members for one in member.records]


async def all_read(members: list[Reader], each: int) -> None:
    """Wait until each record of each partition was read by some member."""
    due = {(partition, offset) for partition in range(PARTITIONS) for offset in range(each)}

    async def look() -> set[tuple[int, int]]:
        for member in members:
            if not member.closed:
                await member.take()
        return due - set(_places(members))

    await until(look, lambda missing: not missing, "every record to be read by some member")


@feature("group-share", "three members share one topic")
async def share(lab: Lab) -> None:
    """Each partition has one member, each record is read once."""
    topic, group = await lab.topic(partitions=PARTITIONS), f"{lab.prefix}-g"
    async with AsyncExitStack() as stack:
        members = list[Reader]()
        for _ in range(3):
            members.append(await stack.enter_async_context(lab.consumer(topics=[topic], group=group)))
            if not lab.bridge.facts["joins_at_once"]:
                await shared(members, topic)
        await shared(members, topic, [2, 2, 2])
        await spread(lab, topic, 20)
        await all_read(members, 20)
        assert len(_places(members)) == 20 * PARTITIONS, "records were read twice in a group at rest"


def _rebalance(strategy: str) -> None:
    @feature(f"rebalance-{strategy}", f"rebalance on join and leave, {strategy}")
    async def scenario(lab: Lab) -> None:
        """A member joins and one leaves: the partitions move, and no record is missed."""
        topic, group = await lab.topic(partitions=PARTITIONS), f"{lab.prefix}-g"
        options: dict[str, Any] = {"topics": [topic], "group": group, "strategy": strategy, "auto_commit": True}
        async with AsyncExitStack() as stack:
            members = [await stack.enter_async_context(lab.consumer(**options))]
            await shared(members, topic, [6])
            members.append(await stack.enter_async_context(lab.consumer(**options)))
            before = await shared(members, topic, [3, 3])
            members.append(await stack.enter_async_context(lab.consumer(**options)))
            after = await shared(members, topic, [2, 2, 2])
            if "sticky" in strategy:
                kept = sum(len(was & now) for was, now in zip(before, after, strict=False))
                assert kept == 4, f"a sticky assignor moved more than it had to: {before} → {after}"
            await _strategy_is(lab, group, strategy)
            await spread(lab, topic, 10)
            await members[0].take()
            await members[0].close()
            await shared(members[1:], topic, [3, 3])
            await spread(lab, topic, 10, first=10)
            await all_read(members, 20)


async def _strategy_is(lab: Lab, group: str, strategy: str) -> None:
    try:
        # A cooperative group rebalances once more behind the assignment that it comes to.
        described = await until(
            lambda: lab.call("group_describe", group=group), lambda seen: seen["state"].lower() == "stable", "a stable group"
        )
    except Absent:
        return
    assert (described["strategy"], described["members"]) == (strategy, 3), f"described as {described}"


for one in STRATEGIES:
    _rebalance(one)


@feature("static", "static membership: back without a rebalance")
async def static(lab: Lab) -> None:
    """A static member that closes and comes back has its partitions again, and the other one is not disturbed."""
    topic, group = await lab.topic(partitions=PARTITIONS), f"{lab.prefix}-g"
    options: dict[str, Any] = {"topics": [topic], "group": group}
    async with AsyncExitStack() as stack:
        stays = await stack.enter_async_context(lab.consumer(**options, instance="one"))
        await shared([stays], topic, [6])
        goes = await stack.enter_async_context(lab.consumer(**options, instance="two"))
        await shared([stays, goes], topic, [3, 3])
        had, disturbed = set(await goes.assigned()), await stays.call("assignments")
        await goes.close()
        back = await stack.enter_async_context(lab.consumer(**options, instance="two"))
        await until(back.assigned, lambda now: set(now) == had, f"the static member to have {had} again")
        # Two heartbeats: what could disturb the other would have reached it.
        await asyncio.sleep(1.5)
        assert await stays.call("assignments") == disturbed, "the other member was given a new assignment"


@feature("commit", "commit and committed, with metadata")
async def commit(lab: Lab) -> None:
    """What one member commits, the next one of the group sees and goes on from."""
    topic, group = await lab.topic(), f"{lab.prefix}-g"
    await lab.send(topic, lab.records(30))
    async with lab.consumer(topics=[topic], group=group) as first:
        await first.until(30)
        assert (await first.call("committed", partitions=[[topic, 0]]))[0][2] is None
        await first.call("commit", offsets=[[topic, 0, 12, "as far as twelve"]])
        await _committed(lab, first, topic, group)
    async with lab.consumer(topics=[topic], group=group) as second:
        await second.until(18)
        assert second.records[0]["o"] == 12, f"went on from {second.records[0]['o']} instead of 12"
        await _committed(lab, second, topic, group)


async def _committed(lab: Lab, reader: Reader, topic: str, group: str) -> None:
    [[_, _, offset, metadata]] = await reader.call("committed", partitions=[[topic, 0]])
    assert offset == 12
    if metadata is None:
        try:
            [[_, _, offset, metadata]] = await lab.call("group_offsets", group=group)
        except Absent:
            return
    assert (offset, metadata) == (12, "as far as twelve"), f"committed as {(offset, metadata)}"


@feature("auto-commit", "automatic commits: a closed member's place is taken up")
async def auto_commit(lab: Lab) -> None:
    """A member that closes leaves its place; the next reads only what is new."""
    topic, group = await lab.topic(), f"{lab.prefix}-g"
    await lab.send(topic, lab.records(20))
    async with lab.consumer(topics=[topic], group=group, auto_commit=True) as first:
        await first.until(20)
    await lab.send(topic, lab.records(5, first=20))
    async with lab.consumer(topics=[topic], group=group, auto_commit=True) as second:
        await second.until(5)
        assert [one["o"] for one in second.records] == list(range(20, 25))


@feature("seek", "seek within a group")
async def seek(lab: Lab) -> None:
    """A member goes back, and reads again from there."""
    topic, group = await lab.topic(), f"{lab.prefix}-g"
    await lab.send(topic, lab.records(30))
    async with lab.consumer(topics=[topic], group=group) as reader:
        await reader.until(30)
        await reader.call("seek", topic=topic, partition=0, offset=7)
        await reader.until(30 + 23)
        assert [one["o"] for one in reader.records[30:]] == list(range(7, 30))


@feature("lag", "lag, by administration")
async def lag(lab: Lab) -> None:
    """Latest offset less what the group committed."""
    topic, group = await lab.topic(), f"{lab.prefix}-g"
    await lab.send(topic, lab.records(30))
    async with lab.consumer(topics=[topic], group=group, auto_commit=True) as reader:
        await reader.until(30)
    await lab.fill(topic, 0, 9, first=30)
    [[_, _, committed, _]] = await lab.call("group_offsets", group=group)
    _, end = await lab.call("offsets", topic=topic, partition=0)
    assert (committed, end - committed) == (30, 9)
