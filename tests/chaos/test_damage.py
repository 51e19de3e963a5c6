"""Damaged data on one of three nodes: never served, never fatal to the others, and to be seen from outside."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from raftlog import Client
from raftlog.storage.check import check
from raftlog.testing import LocalCluster, LocalNode
from raftlog.testing.process import probe
from tests.chaos.cluster import ROOT
from tests.chaos.damage import Damage, damaged_last_entry, deleted, flipped_bit, truncated, zeroed_page

TOPIC, RECORDS = "precious", 60
LARGE, SMALL = 8, 7
"""Numbers of a record that has pages of its own, and of one that shares a page of the tree."""
PATIENCE_S = 30.0
VICTIM = 2


def value_of(number: int) -> bytes:
    """Unlike any other; every second one is small."""
    return b"value %d of the log, " % number * (1 if number % 2 else 120)


@dataclass
class Precious:
    """A cluster with a topic of known records, all of them on all nodes."""

    cluster: LocalCluster
    client: Client

    def data_file(self) -> Path:
        """Of the node that is to be damaged."""
        return self.cluster.nodes[VICTIM].data_dir / "log" / "data.mdb"

    async def until(self, holds: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait for a condition."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not await holds():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            logs = "".join(node.log_tail() for node in self.cluster.nodes.values())
            raise AssertionError(f"it did not happen that {what}.{logs}") from None

    async def read_all(self, client: Client) -> list[bytes]:
        """The whole topic."""
        async with client.consumer(TOPIC, follow=False) as consumer:
            return [record.value or b"" async for record in consumer]

    async def everything_is_served(self) -> None:
        """By every node that answers; and more is taken."""
        expected = [value_of(number) for number in range(RECORDS)]
        for node in self.cluster.nodes.values():
            if not node.alive:
                continue
            async with Client([node.grpc]) as client, asyncio.timeout(PATIENCE_S):
                assert (await self.read_all(client))[:RECORDS] == expected
        async with self.client.producer(compression="none") as producer, asyncio.timeout(PATIENCE_S):
            await producer.publish(TOPIC, b"one more")

    async def lead(self, node_id: int) -> None:
        """Restart others until a node leads the topic, or has ended."""

        async def leads() -> bool:
            leader = (await self.client.admin.describe_topic(TOPIC)).topic.partitions[0].leader
            if leader not in (None, node_id):
                await self.cluster.restart(leader)
            return leader == node_id or not self.cluster.nodes[node_id].alive

        await self.until(leads, f"node {node_id} led")

    def health(self) -> tuple[int, set[str]]:
        """What the command says: exit code, and the kinds of what is wrong."""
        command = [sys.executable, "-c", "from raftlog.cli.main import main; main()", "cluster", "health", "--format", "json"]
        done = subprocess.run(
            [*command, "--brokers", ",".join(self.cluster.brokers)], check=False, capture_output=True, text=True, cwd=ROOT
        )
        assert done.stdout, done.stderr
        return done.returncode, {finding["kind"] for finding in json.loads(done.stdout)["findings"]}

    async def tells(self, kind: str) -> None:
        """Wait until the command names it."""

        async def named() -> bool:
            code, kinds = await asyncio.to_thread(self.health)
            return code == 1 and kind in kinds

        await self.until(named, f"cluster health told {kind}")


@pytest.fixture
async def precious(tmp_path: Path) -> AsyncIterator[Precious]:
    """Records of several pages each, uncompressed, so that their places are found in the file."""
    async with LocalCluster(nodes=3, data_dir=tmp_path) as cluster, Client(cluster.brokers) as client:
        await client.admin.create_topic(TOPIC, partitions=1)
        async with client.producer(compression="none") as producer:
            for number in range(RECORDS):
                await producer.publish(TOPIC, value_of(number))
        made = Precious(cluster, client)

        async def everywhere() -> bool:
            replicas = [(await client.admin.describe_replicas(node.grpc)).replicas for node in cluster.nodes.values()]
            marks = [one.high_watermark for found in replicas for one in found if one.topic == TOPIC]
            return marks == [RECORDS] * 3

        await made.until(everywhere, "all nodes had all records")
        yield made


async def test_a_damaged_entry_is_served_by_another_replica_and_filled_again(precious: Precious) -> None:
    """The node finds out when the entry is read, and gives its replica up for a new one; in the end it leads with all records,
    and its disk is sound."""
    await precious.cluster.stop(VICTIM)
    flipped_bit(precious.data_file(), value_of(LARGE))
    await precious.cluster.start(VICTIM)
    await precious.everything_is_served()
    await precious.lead(VICTIM)
    await precious.everything_is_served()
    await precious.until(lambda: renewed(precious), "the replica was given up for a new one")
    await precious.until(lambda: healthy(precious), "all replicas are there again")
    await precious.lead(VICTIM)
    await precious.everything_is_served()
    assert await metric(precious.cluster.nodes[VICTIM], "raftlog_replica_damaged") == {0.0}
    await precious.cluster.stop(VICTIM)
    assert check(precious.data_file().parent.parent, lambda *_: None).findings == []


async def test_a_damaged_replica_waits_for_a_majority_of_the_others(precious: Precious) -> None:
    """With one of the others down it is kept, and the command says so, also after it started again; then it is filled."""
    other = next(node_id for node_id in precious.cluster.nodes if node_id != VICTIM)
    await precious.cluster.stop(other)
    await precious.cluster.kill(VICTIM)
    damaged_last_entry(precious.cluster.nodes[VICTIM].data_dir, 1)
    await precious.cluster.start(VICTIM, wait_ready=False)
    await precious.tells("replica_damaged")
    await precious.cluster.kill(VICTIM)
    await precious.cluster.start(VICTIM, wait_ready=False)
    await precious.tells("replica_damaged")
    await precious.cluster.start(other)
    await precious.until(lambda: healthy(precious), "all replicas are there again")
    await precious.everything_is_served()


async def renewed(precious: Precious) -> bool:
    """Whether the damaged node has given up a replica since its start."""
    return await metric(precious.cluster.nodes[VICTIM], "raftlog_replicas_renewed_total") >= {1.0}


async def metric(node: LocalNode, name: str) -> set[float]:
    """Values of a metric on a node; of the topic where it has topics."""
    host, _, port = node.admin.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
    page = (await reader.read(1 << 22)).decode()
    while more := (await reader.read(1 << 22)).decode():
        page += more
    writer.close()
    lines = [line for line in page.splitlines() if re.match(rf"{name}[ {{]", line) and ("{" not in line or TOPIC in line)]
    return {float(line.split()[-1]) for line in lines}


@pytest.mark.parametrize("number", [LARGE, SMALL], ids=["of_a_value", "of_the_tree"])
async def test_a_zeroed_page_is_fatal_to_no_other(precious: Precious, number: int) -> None:
    """The node goes on without what it cannot read, or sets its data aside; the others serve all, and it is filled again."""
    await precious.cluster.stop(VICTIM)
    zeroed_page(precious.data_file(), value_of(number)[:20])
    precious.cluster.nodes[VICTIM].spawn()
    await precious.until(lambda: served_or_ended(precious), "the node served or ended")
    await precious.lead(VICTIM)
    await precious.everything_is_served()
    await precious.until(lambda: healthy(precious), "all replicas are there again")
    assert precious.cluster.nodes[VICTIM].alive
    await precious.everything_is_served()


async def served_or_ended(precious: Precious) -> bool:
    """The damaged node has come up, or has given up."""
    node = precious.cluster.nodes[VICTIM]
    return not node.alive or (await probe(node.admin, "/readyz"))[0] == 200


@pytest.mark.parametrize("damage", [truncated, deleted], ids=lambda damage: damage.__name__)
async def test_a_node_without_its_whole_file_comes_back_as_another_replica(precious: Precious, damage: Damage) -> None:
    """It says what is wrong, sets it aside, and is filled; the others go on, and nothing is amiss in the end."""
    await precious.cluster.stop(VICTIM)
    damage(precious.data_file(), b"")
    node = precious.cluster.nodes[VICTIM]
    node.spawn()
    await node.ready(PATIENCE_S)
    said = node.log_path.read_text()
    assert "data.mdb" in said
    assert "this node has joined" in said
    await precious.everything_is_served()
    await precious.until(lambda: healthy(precious), "all replicas are there again")


async def healthy(precious: Precious) -> bool:
    """Whether the command finds nothing wrong."""
    code, kinds = await asyncio.to_thread(precious.health)
    return code == 0 and not kinds
