"""What tests of real clusters share: a load that remembers its outcomes, reading everything, and waiting by condition."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import grpc

from raftlog import AtTime, Client, RecordMetadata, TopicPartition
from raftlog.errors import IndeterminateError, RaftlogError, UnavailableError
from raftlog.pb.raftlog.v1.cluster_service_pb2_grpc import ClusterServiceStub
from raftlog.pb.raftlog.v1.log_service_pb2_grpc import LogServiceStub
from raftlog.pb.raftlog.v1.topic_service_pb2_grpc import TopicServiceStub
from raftlog.testing import LocalNode
from raftlog.testing.proof import NUMBER_HEADER, Place, Seen, Verdict, verdict

PATIENCE_S = 20.0
"""How long a condition may take before the test says that it did not come; healthy ones take well under a second."""
PACE_RECORDS = 50
PACE_S = 0.01
"""A load sends so many records, then rests so long: enough to be busy, and few enough to read back quickly."""
EARLIEST = AtTime(0)


async def until(condition: Callable[[], Awaitable[bool]] | Callable[[], bool], what: str) -> None:
    """Poll a condition until it holds."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                held = condition()
                if held if isinstance(held, bool) else await held:
                    return
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"in {PATIENCE_S:g} s it did not happen that {what}") from None


class Load:
    """Publishes numbered records to all partitions of a topic in turn, and remembers what became of each."""

    def __init__(self, client: Client, topic: str, partitions: int) -> None:
        self.acknowledged: dict[int, Place] = {}
        self.failed: dict[int, RaftlogError] = {}
        self.unknown: set[int] = set()
        self.counts = [0] * partitions
        """Records acknowledged by partition."""
        self._client, self._topic, self._partitions = client, topic, partitions
        self._stop = False
        self.sent = 0

    async def run(self) -> None:
        """Publish until ``stop``; then wait for every outcome."""
        async with self._client.producer() as producer:
            while not self._stop:
                number = self.sent
                future = await producer.send(
                    self._topic, value_of(number), partition=number % self._partitions, headers=[(NUMBER_HEADER, b"%d" % number)]
                )
                future.add_done_callback(partial(self._settled, number))
                self.sent += 1
                if self.sent % PACE_RECORDS == 0:
                    await asyncio.sleep(PACE_S)

    def stop(self) -> None:
        """Send no more."""
        self._stop = True

    async def progress(self, count: int = 100) -> None:
        """Wait until every partition has acknowledged so many more records."""
        goal = [number + count for number in self.counts]
        await until(lambda: all(have >= want for have, want in zip(self.counts, goal, strict=True)), "publishing went on")

    async def check(self) -> Verdict:
        """Read everything, and compare."""
        read = await read_all(self._client, self._topic, self._partitions)
        return verdict(self._partitions, self.acknowledged, frozenset(self.failed), read)

    def _settled(self, number: int, future: asyncio.Future[RecordMetadata]) -> None:
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if error is None:
            record = future.result()
            self.acknowledged[number] = Place(record.partition, record.offset)
            self.counts[record.partition] += 1
        elif isinstance(error, RaftlogError) and not isinstance(error, IndeterminateError):
            self.failed[number] = error
        else:
            self.unknown.add(number)


@asynccontextmanager
async def loaded(client: Client, topic: str, partitions: int) -> AsyncIterator[Load]:
    """A load that runs beside the block and is stopped at its end; every record of it must be acknowledged."""
    load = Load(client, topic, partitions)
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        try:
            await load.progress(10)
            yield load
        finally:
            load.stop()
    assert not load.failed
    assert not load.unknown
    assert len(load.acknowledged) == load.sent


def value_of(number: int) -> bytes:
    """The value of a record by its number."""
    return b"record %d" % number


async def read_all(client: Client, topic: str, partitions: int) -> dict[int, list[Seen]]:
    """Each partition from its beginning to its end."""
    found: dict[int, list[Seen]] = {number: [] for number in range(partitions)}
    async with client.consumer(topic, follow=False) as consumer:
        async for record in consumer:
            number = int(dict(record.headers)[NUMBER_HEADER] or b"")
            found[record.partition].append(Seen(record.offset, number, record.value == value_of(number)))
    return found


async def leader_of(client: Client, topic: str, partition: int = 0) -> int:
    """The node that leads a partition, once there is one."""
    leader = 0

    async def known() -> bool:
        nonlocal leader
        leader = (await client.admin.describe_topic(topic)).topic.partitions[partition].leader or 0
        return leader != 0

    await until(known, f"{topic}-{partition} had a leader")
    return leader


async def caught_up(client: Client, node: LocalNode, topic: str, partitions: int) -> None:
    """Wait until a node holds all that is committed now."""
    tps = {TopicPartition(topic, number): "latest" for number in range(partitions)}
    ends = {tp.partition: listed.offset for tp, listed in (await client.admin.list_offsets(dict(tps))).items()}

    async def reached() -> bool:
        try:
            replicas = (await client.admin.describe_replicas(node.grpc)).replicas
        except (UnavailableError, IndeterminateError):
            return False
        held = {replica.partition: replica.high_watermark for replica in replicas if replica.topic == topic}
        return all(held.get(partition, 0) >= end for partition, end in ends.items())

    await until(reached, f"node {node.node_id} caught up")


class Stubs:
    """The bare gRPC services of one node, without routing and retries."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.log = LogServiceStub(channel)
        self.topics = TopicServiceStub(channel)
        self.cluster = ClusterServiceStub(channel)


@asynccontextmanager
async def stubs_of(node: LocalNode) -> AsyncIterator[Stubs]:
    """A channel to one node."""
    async with grpc.aio.insecure_channel(node.grpc, options=[("grpc.max_send_message_length", -1)]) as channel:
        yield Stubs(channel)


async def run_node(*flags: str, environ: Mapping[str, str]) -> tuple[int, str]:
    """Run ``raftlog-node`` to its end, which must come by itself: its exit code and what it said on stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "raftlog.node.main", *flags,
        env=dict(environ), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE_S):
            _, stderr = await process.communicate()
    except TimeoutError:
        raise AssertionError("the node did not end") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, stderr.decode()


def new_lines(path: Path, seen_bytes: int) -> str:
    """What was logged behind the first ``seen_bytes``."""
    return path.read_bytes()[seen_bytes:].decode(errors="replace")
