"""Consumer groups on real nodes: members and coordinators that die cost neither records nor commits."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from raftlog import Client, GroupConsumer, TopicPartition
from raftlog.client.group_values import GroupState
from raftlog.errors import RaftlogError
from raftlog.testing import SyncLocalCluster
from tests.integration.support import loaded, until

PARTITIONS = 6
SESSION_TIMEOUT_S = 6.0
"""The shortest that a coordinator takes."""

PROGRAM = """
import asyncio, sys
import raftlog

async def main(brokers, topic, group):
    async with raftlog.Client(brokers) as client:
        consumer = client.consumer(
            topic, group=group, session_timeout_s=6.0, max_poll_interval_s=30.0, auto_commit_interval_s=0.2
        )
        async with consumer:
            async for record in consumer:
                print(record.partition, record.offset, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


class Reader:
    """A member in a process of its own, which says what it was given."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.seen: list[tuple[int, int]] = []

    async def listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            if line.endswith(b"\n"):
                partition, offset = line.split()
                self.seen.append((int(partition), int(offset)))

    def kill(self) -> None:
        """As the kernel would."""
        self.process.kill()


@asynccontextmanager
async def readers(client: Client, cluster: SyncLocalCluster, topic: str, group: str, count: int) -> AsyncIterator[list[Reader]]:
    """So many members, each with its share."""
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        found: list[Reader] = []
        for _ in range(count):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", PROGRAM, ",".join(cluster.brokers), topic, group, stdout=asyncio.subprocess.PIPE
            )
            stack.callback(_end, process)
            found.append(Reader(process))
            tasks.create_task(found[-1].listen())
        await shared(client, group, count)
        try:
            yield found
        finally:
            for reader in found:
                _end(reader.process)
                await reader.process.wait()


def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


async def shared(client: Client, group: str, members: int) -> None:
    """Wait until so many members have an even share of all partitions."""

    async def even() -> bool:
        try:
            description = await client.admin.describe_group(group, offsets=False)
        except RaftlogError:
            return False
        shares = [len(member.assignment) for member in description.members]
        return (
            description.state is GroupState.STABLE
            and len(shares) == members
            and sum(shares) == PARTITIONS
            and max(shares) - min(shares) <= 1
        )

    await until(even, f"{members} members shared the partitions")


async def lag_of(client: Client, group: str) -> int:
    """Records that the group has not committed yet."""
    return sum(one.lag or 0 for one in (await client.admin.group_offsets(group, lag=True)).values())


async def test_a_killed_consumer_is_replaced_by_the_others_and_nothing_is_lost(cluster: SyncLocalCluster, client: Client) -> None:
    """Three share a topic under load, one is killed: every record is read, twice only what was not committed yet."""
    await client.admin.create_topic("shared", partitions=PARTITIONS, replication_factor=3)
    async with readers(client, cluster, "shared", "three", 3) as members:
        async with loaded(client, "shared", PARTITIONS) as load:
            await load.progress()
            members[0].kill()
            await load.progress()
            await shared(client, "three", 2)
            await load.progress()

        async def caught_up() -> bool:
            return await lag_of(client, "three") == 0

        await until(caught_up, "the group read everything")
        seen = Counter(place for member in members for place in member.seen)
    written = {(place.partition, place.offset) for place in load.acknowledged.values()}
    assert written <= seen.keys()
    for reader in members[1:]:
        again = [place for place, count in Counter(reader.seen).items() if count > 1]
        assert again == [], "a member that lives reads nothing twice"


@pytest.mark.parametrize("signal", ["kill", "stop"])
async def test_commits_and_members_survive_their_coordinator(cluster: SyncLocalCluster, client: Client, signal: str) -> None:
    """The coordinating node dies, or stops in order: what was committed is there, the member goes on as the same one."""
    topic, group = f"survives-{signal}", f"survivor-{signal}"
    await client.admin.create_topic(topic, partitions=2, replication_factor=3)
    async with client.producer() as producer, client.consumer(topic, group=group, auto_commit=False) as consumer:
        for number in range(10):
            await producer.publish(topic, b"%d" % number, partition=0)
        await take(consumer, 5)
        await consumer.commit()
        member_id = consumer.member_id
        coordinator = (await client.admin.describe_group(group)).coordinator
        assert coordinator is not None
        await asyncio.to_thread(cluster.kill if signal == "kill" else cluster.stop, coordinator)
        try:
            assert await consumer.committed() == {TopicPartition(topic, 0): 5, TopicPartition(topic, 1): 0}
            assert await take(consumer, 5) == [5, 6, 7, 8, 9]
            await consumer.commit()
            assert consumer.member_id == member_id
            assert (await client.admin.describe_group(group)).coordinator != coordinator
        finally:
            await asyncio.to_thread(cluster.start, coordinator)
    assert (await client.admin.group_offsets(group))[TopicPartition(topic, 0)].committed == 10


async def take(consumer: GroupConsumer, count: int) -> list[int]:
    """Offsets of the next records."""
    return [(await anext(consumer)).offset for _ in range(count)]


async def test_a_topic_that_grows_is_shared_anew(cluster: SyncLocalCluster, client: Client) -> None:
    """Its new partitions are read, without anything being restarted."""
    await client.admin.create_topic("grows", partitions=1, replication_factor=3)
    async with client.producer() as producer, client.consumer("grows", group="growing") as consumer:
        await producer.publish("grows", b"old", partition=0)
        assert (await anext(consumer)).partition == 0
        await client.admin.alter_topic("grows", partitions=3)
        await producer.publish("grows", b"new", partition=2)
        assert (await anext(consumer)).partition == 2
        assert len(consumer.assignment()) == 3
