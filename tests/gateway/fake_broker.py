"""A broker in memory, as much of one as a gateway can tell: logs of batches, an outcome that tests may hold back or fail."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from raftlog.broker.port import (
    EARLIEST,
    LATEST,
    NO_EPOCH,
    Batch,
    EpochEnd,
    Fetched,
    FetchPart,
    ListedOffset,
    PartitionStatus,
    Published,
    Share,
)
from raftlog.errors import FeatureLevelError, OffsetOutOfRangeError, RaftlogError, TopicExistsError, UnknownTopicOrPartitionError
from raftlog.model import (
    Acks,
    ClusterInfo,
    LevelReport,
    NodeInfo,
    NodeSupport,
    PartitionInfo,
    ReplicaStatus,
    Role,
    TopicInfo,
    TopicPartition,
)
from raftlog.records.batch import assign, decode, read_header
from raftlog.storage.port import StorageUsage


@dataclass
class FakeLog:
    """One partition's batches, by rising base offset."""

    batches: list[tuple[int, bytes]] = field(default_factory=list)
    start: int = 0
    end: int = 0
    grown: asyncio.Event = field(default_factory=asyncio.Event)


class FakeBroker:
    """Implements ``Broker``. ``gate`` holds answers of publish back; ``failures`` are raised by the next calls, in turn."""

    def __init__(self, node_id: int = 1) -> None:
        self.node_id = node_id
        self.logs: dict[TopicPartition, FakeLog] = {}
        self.infos: dict[str, TopicInfo] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures: dict[str, list[RaftlogError | Exception]] = defaultdict(list)
        self.calls: list[tuple[str, object]] = []
        self.producers = 0
        self.publishing = 0
        """Calls of ``publish`` that wait at the gate."""
        self.batches_waiting = 0
        """Batches of them."""
        self.fetches_waiting = 0
        self.level_problem = ""
        """Why node 2 holds the cluster at feature level 1."""

    def add_topic(self, name: str, partitions: int = 1, **configs: str) -> None:
        """A topic led by this node."""
        infos = tuple(
            PartitionInfo(topic=name, partition=p, group_id=p + 1, replicas=(1,), leader=1, leader_epoch=3)
            for p in range(partitions)
        )
        self.infos[name] = TopicInfo(
            name=name,
            topic_id=f"{len(self.infos):032x}",
            partitions=infos,
            replication_factor=1,
            configs={key.replace("_", "."): value for key, value in configs.items()},
        )
        self.logs.update({TopicPartition(name, p): FakeLog() for p in range(partitions)})

    def _log(self, tp: TopicPartition) -> FakeLog:
        if tp not in self.logs:
            raise UnknownTopicOrPartitionError(f"{tp} does not exist")
        return self.logs[tp]

    def _fail(self, method: str) -> None:
        if self.failures[method]:
            raise self.failures[method].pop(0)

    async def publish(
        self, batches: Sequence[tuple[TopicPartition, Batch]], *, acks: Acks, timeout_s: float, direct: bool = False
    ) -> list[Published | RaftlogError]:
        self.calls.append(("publish", (acks, timeout_s, direct)))
        self._fail("publish")
        self.publishing += 1
        self.batches_waiting += len(batches)
        outcomes = [self._append(tp, data, acks) for tp, data in batches]
        await self.gate.wait()
        self.publishing -= 1
        self.batches_waiting -= len(batches)
        return outcomes

    def _append(self, tp: TopicPartition, data: Batch, acks: Acks) -> Published | RaftlogError:
        if tp not in self.logs:
            return UnknownTopicOrPartitionError(f"{tp} does not exist")
        log = self.logs[tp]
        base = log.end
        log.end = base + read_header(data).record_count
        log.batches.append((base, b"".join(assign(data, base_offset=base, leader_epoch=3))))
        log.grown.set()
        return Published(base_offset=-1 if acks is Acks.NONE else base, log_start_offset=log.start)

    async def fetch(
        self, tp: TopicPartition, offset: int, *, bytes_max: int, wait_s: float = 0.0, direct: bool = False
    ) -> Fetched:
        self.calls.append(("fetch", (tp, offset, bytes_max, wait_s, direct)))
        self._fail("fetch")
        log = self._log(tp)
        if not log.start <= offset <= log.end:
            raise OffsetOutOfRangeError(f"{offset} is out of range", earliest=log.start, latest=log.end)
        if offset == log.end and wait_s:
            log.grown.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await log.grown.wait()
            except TimeoutError:
                pass
        batches: list[bytes] = []
        size, end = 0, offset
        for _, data in log.batches:
            header = read_header(data)
            if header.next_offset > offset and (not batches or size + len(data) <= bytes_max):
                batches.append(data)
                size, end = size + len(data), header.next_offset
            elif batches:
                break
        return Fetched(batches=batches, high_watermark=log.end, log_start_offset=log.start, next_offset=end)

    async def fetch_many(
        self, parts: Sequence[FetchPart], *, bytes_max: int, bytes_min: int = 1, wait_s: float = 0.0, direct: bool = False,
        follower: bool = False, rack: str = "", share: Share | None = None,
    ) -> list[Fetched | RaftlogError]:  # fmt: skip
        self.calls.append(("fetch_many", (tuple(parts), bytes_max, bytes_min, wait_s, direct, follower, rack)))
        self._fail("fetch_many")
        outcomes = await self._fetch_each(parts, bytes_max, direct)
        size_bytes = sum(outcome.size_bytes for outcome in outcomes if isinstance(outcome, Fetched))
        if size_bytes < bytes_min and wait_s and all(isinstance(outcome, Fetched) for outcome in outcomes):
            logs = [self._log(part.tp) for part in parts]
            for log in logs:
                log.grown.clear()
            self.fetches_waiting += 1
            try:
                async with asyncio.TaskGroup() as group:
                    waits = [group.create_task(log.grown.wait()) for log in logs]
                    await asyncio.wait(waits, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                    for wait in waits:
                        wait.cancel()
            finally:
                self.fetches_waiting -= 1
            outcomes = await self._fetch_each(parts, bytes_max, direct)
        return outcomes

    async def _fetch_each(self, parts: Sequence[FetchPart], bytes_max: int, direct: bool) -> list[Fetched | RaftlogError]:
        outcomes: list[Fetched | RaftlogError] = []
        for part in parts:
            try:
                outcomes.append(await self.fetch(part.tp, part.offset, bytes_max=min(bytes_max, part.bytes_max), direct=direct))
            except RaftlogError as error:
                outcomes.append(error)
        return outcomes

    async def epoch_end(
        self, tp: TopicPartition, leader_epoch: int, *, current_epoch: int = NO_EPOCH, direct: bool = False
    ) -> EpochEnd:
        self.calls.append(("epoch_end", (tp, leader_epoch, current_epoch, direct)))
        self._fail("epoch_end")
        return EpochEnd(leader_epoch=min(leader_epoch, 3), end_offset=self._log(tp).end)

    async def delete_records(self, tp: TopicPartition, offset: int, *, timeout_s: float, direct: bool = False) -> int:
        self.calls.append(("delete_records", (tp, offset, timeout_s, direct)))
        self._fail("delete_records")
        log = self._log(tp)
        if offset > log.end:
            raise OffsetOutOfRangeError(f"{offset} is out of range", earliest=log.start, latest=log.end)
        log.start = max(log.start, log.end if offset < 0 else offset)
        return log.start

    async def list_offset(
        self, tp: TopicPartition, timestamp_ms: int, *, leader_epoch: int = NO_EPOCH, direct: bool = False
    ) -> ListedOffset:
        self._fail("list_offset")
        log = self._log(tp)
        if timestamp_ms in (EARLIEST, LATEST):
            offset = log.start if timestamp_ms == EARLIEST else log.end
            return ListedOffset(offset=offset, timestamp_ms=-1, leader_epoch=3)
        for _, data in log.batches:
            for record in decode(data):
                if record.timestamp_ms >= timestamp_ms:
                    return ListedOffset(offset=record.offset, timestamp_ms=record.timestamp_ms, leader_epoch=3)
        return ListedOffset(offset=-1, timestamp_ms=-1, leader_epoch=-1)

    async def partition_status(self, tp: TopicPartition) -> PartitionStatus:
        self._fail("partition_status")
        log = self._log(tp)
        size = sum(len(data) for _, data in log.batches)
        return PartitionStatus(log_start_offset=log.start, high_watermark=log.end, size_bytes=size)

    async def init_producer(self) -> tuple[int, int]:
        self.producers += 1
        return 1_000 + self.producers, 0

    async def create_topic(self, name: str, *, partitions: int, replication_factor: int, configs: dict[str, str]) -> TopicInfo:
        if name in self.infos:
            raise TopicExistsError(f"topic {name} exists")
        self.add_topic(name, partitions or 1, **configs)
        return self.infos[name]

    def check_new_topic(self, name: str, *, partitions: int, replication_factor: int, configs: dict[str, str]) -> TopicInfo:
        if name in self.infos:
            raise TopicExistsError(f"topic {name} exists")
        return TopicInfo(name=name, topic_id="", partitions=(), replication_factor=replication_factor or 1, configs=configs)

    async def alter_topic(
        self, name: str, *, set_configs: dict[str, str], unset_configs: Sequence[str], partitions: int = 0
    ) -> TopicInfo:
        old = self.topic(name)
        configs = {key: value for key, value in {**old.configs, **set_configs}.items() if key not in unset_configs}
        self.add_topic(name, partitions or len(old.partitions), **configs)
        return self.infos[name]

    async def delete_topic(self, name: str) -> None:
        for info in self.topic(name).partitions:
            del self.logs[TopicPartition(name, info.partition)]
        del self.infos[name]

    def topics(self) -> list[TopicInfo]:
        return [self.infos[name] for name in sorted(self.infos)]

    def topic(self, name: str) -> TopicInfo:
        if name not in self.infos:
            raise UnknownTopicOrPartitionError(f"topic {name!r} does not exist; create it first")
        return self.infos[name]

    def cluster(self) -> ClusterInfo:
        nodes = (
            NodeInfo(node_id=1, peer_address="127.0.0.1:7001", grpc_address="127.0.0.1:7101", rack="a"),
            NodeInfo(node_id=2, peer_address="127.0.0.1:7002", grpc_address="127.0.0.1:7102", rack="b", alive=False),
        )
        return ClusterInfo(cluster_id="c1", controller=1, nodes=nodes)

    async def raise_level(self, level: int, *, dry_run: bool, without: Sequence[int] = ()) -> LevelReport:
        self._fail("raise_level")
        self.calls.append(("raise_level", {"level": level, "dry_run": dry_run, "without": list(without)}))
        nodes = (
            NodeSupport(node_id=1, level_min=1, level_max=2, version="9.9"),
            NodeSupport(node_id=2, problem=self.level_problem),
        )
        report = LevelReport(level=1, target=level or 2, raised=not (dry_run or self.level_problem), nodes=nodes)
        if report.held_back and not dry_run:
            raise FeatureLevelError(report.held_back)
        return report

    def replicas(self) -> list[ReplicaStatus]:
        return [
            ReplicaStatus(
                topic=tp.topic,
                partition=tp.partition,
                group_id=index,
                node_id=1,
                role=Role.LEADER,
                term=3,
                leader=1,
                first_index=1,
                last_index=9,
                commit_index=8,
                applied_index=7,
                log_start_offset=log.start,
                high_watermark=log.end,
                log_end_offset=log.end,
                size_bytes=sum(len(data) for _, data in log.batches),
            )
            for index, (tp, log) in enumerate(self.logs.items(), 1)
        ]

    def storage_usage(self) -> StorageUsage:
        return StorageUsage(
            used_bytes=10, file_bytes=20, limit_bytes=0, disk_free_bytes=30, room_bytes=30, low=False, shortage=""
        )
