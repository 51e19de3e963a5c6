"""Committed offsets beside the ends of their logs, and moving those of a group that has stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from raftlog.broker.group_port import CommittedOffset, GroupBroker, GroupMember, GroupState
from raftlog.broker.port import EARLIEST, LATEST, Broker
from raftlog.errors import GroupIdNotFoundError, GroupNotEmptyError, InvalidRequestError, RaftlogError
from raftlog.gateway import group_wire as wire
from raftlog.gateway import requests
from raftlog.gateway.status import to_status
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1 import group_service_pb2 as pb

STATUS_CALLS_MAX: Final = 64
"""Leaders asked at the same time for one description."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """The ends of a partition's log."""

    log_start_offset: int
    high_watermark: int


async def ends_of(broker: Broker, tps: Iterable[TopicPartition]) -> dict[TopicPartition, Ends | RaftlogError]:
    """The ends of these logs, asked of their leaders."""
    room = asyncio.Semaphore(STATUS_CALLS_MAX)

    async def ask(tp: TopicPartition) -> Ends | RaftlogError:
        async with room:
            try:
                status = await broker.partition_status(tp)
            except RaftlogError as error:
                return error
        return Ends(log_start_offset=status.log_start_offset, high_watermark=status.high_watermark)

    async with asyncio.TaskGroup() as group:
        asked = {tp: group.create_task(ask(tp)) for tp in tps}
    return {tp: task.result() for tp, task in asked.items()}


async def group_offsets(
    broker: Broker, tps: Iterable[TopicPartition], committed: Mapping[TopicPartition, CommittedOffset], *, lag: bool
) -> list[pb.GroupOffset]:
    """Each partition with its committed offset; with ``lag`` also how far it is behind, or why that is unknown."""
    tps = sorted(tps)
    ends = await ends_of(broker, tps) if lag else {}
    return [_group_offset(tp, committed.get(tp), ends.get(tp)) for tp in tps]


def _group_offset(tp: TopicPartition, committed: CommittedOffset | None, ends: Ends | RaftlogError | None) -> pb.GroupOffset:
    offset = pb.GroupOffset(topic=tp.topic, partition=tp.partition, commit_time_ms=-1)
    if committed is not None:
        offset.committed_offset, offset.metadata = committed.offset, committed.metadata
        offset.commit_time_ms = committed.commit_time_ms
    if isinstance(ends, RaftlogError):
        offset.error.CopyFrom(to_status(ends))
    elif ends is not None:
        offset.log_start_offset, offset.high_watermark = ends.log_start_offset, ends.high_watermark
        if committed is not None:
            offset.lag = max(0, ends.high_watermark - committed.offset)
    return offset


class SeekCall:
    """One call of SeekGroup."""

    def __init__(self, broker: Broker, groups: GroupBroker, request: pb.SeekGroupRequest) -> None:
        self._broker = broker
        self._groups = groups
        self._group_id = wire.group_id(request.group_id)
        self._dry_run = request.dry_run
        if not 0 < len(request.seeks) <= wire.OFFSETS_MAX:
            raise InvalidRequestError(f"seeks has {len(request.seeks)} items; it must have 1 to {wire.OFFSETS_MAX}")
        self._seeks = request.seeks

    async def run(self) -> pb.SeekGroupResponse:
        """Find the new offsets, and commit them unless it is a dry run.

        Raises:
            GroupIdNotFoundError: there is no such group, and so nothing that a seek without a topic could mean.
            GroupNotEmptyError: the group has members, which would not notice that their offsets have moved.
            InvalidRequestError, RaftlogError
        """
        described = await self._groups.describe_group(self._group_id)
        if described.state not in (GroupState.EMPTY, GroupState.DEAD):
            raise GroupNotEmptyError(f"group {self._group_id!r} has {len(described.members)} members; stop them, then seek")
        if described.state is GroupState.DEAD and not all(seek.topic for seek in self._seeks):
            raise GroupIdNotFoundError(f"there is no group {self._group_id!r}; list the groups to see their ids, or name topics")
        committed = await self._groups.fetch_offsets(self._group_id, None)
        wanted: dict[TopicPartition, tuple[str, pb.Seek]] = {}
        for index, seek in enumerate(self._seeks):
            wanted.update(dict.fromkeys(self._partitions(seek, committed), (f"seeks[{index}]", seek)))
            await asyncio.sleep(0)  # each may be of thousands of partitions, and there may be thousands of them
        if len(wanted) > wire.OFFSETS_MAX:
            raise InvalidRequestError(f"seeks name {len(wanted)} partitions; at most {wire.OFFSETS_MAX} are allowed")
        ends = await ends_of(self._broker, wanted)
        room = asyncio.Semaphore(STATUS_CALLS_MAX)

        async def find(tp: TopicPartition) -> int | RaftlogError | None:
            async with room:
                try:
                    return await self._target(tp, *wanted[tp], committed.get(tp), ends[tp])
                except InvalidRequestError:
                    raise
                except RaftlogError as error:
                    return error

        async with asyncio.TaskGroup() as group:
            finding = {tp: group.create_task(find(tp)) for tp in wanted}
        targets: dict[TopicPartition, int] = {}
        outcomes: dict[TopicPartition, RaftlogError | None] = {}
        for tp, task in finding.items():
            found = task.result()
            if isinstance(found, RaftlogError):
                targets[tp], outcomes[tp] = -1, found
            elif found is not None:
                targets[tp] = found
        if not self._dry_run:
            outcomes |= await self._commit({tp: offset for tp, offset in targets.items() if tp not in outcomes})
        return pb.SeekGroupResponse(offsets=_sought(targets, committed, outcomes))

    def _partitions(self, seek: pb.Seek, committed: Mapping[TopicPartition, CommittedOffset]) -> Sequence[TopicPartition]:
        if not seek.topic:
            return [tp for tp in committed if not seek.HasField("partition") or tp.partition == seek.partition]
        numbers = [info.partition for info in self._broker.topic(seek.topic).partitions]
        if seek.HasField("partition"):
            if seek.partition not in numbers:
                raise InvalidRequestError(f"{seek.topic} has partitions 0 to {len(numbers) - 1}, and no {seek.partition}")
            numbers = [seek.partition]
        return [TopicPartition(seek.topic, number) for number in numbers]

    async def _target(
        self, tp: TopicPartition, field: str, seek: pb.Seek, committed: CommittedOffset | None, ends: Ends | RaftlogError
    ) -> int | None:
        """Where to, within the ends of the log; None where nothing moves."""
        if isinstance(ends, RaftlogError):
            raise ends
        if seek.WhichOneof("to") == "shift_by":
            if committed is None:
                return None
            offset = committed.offset + seek.shift_by
        elif seek.WhichOneof("to") == "position":
            wanted, timestamp_ms = requests.offset_or_timestamp(seek.position, f"{field}.position")
            if wanted is None and timestamp_ms in (EARLIEST, LATEST):
                wanted = ends.log_start_offset if timestamp_ms == EARLIEST else ends.high_watermark
            elif wanted is None:
                found = await self._broker.list_offset(tp, timestamp_ms)
                wanted = found.offset if found.offset >= 0 else ends.high_watermark
            offset = wanted
        else:
            raise InvalidRequestError(f"{field} does not say where to; set its position or shift_by")
        return min(max(offset, ends.log_start_offset), ends.high_watermark)

    async def _commit(self, targets: Mapping[TopicPartition, int]) -> dict[TopicPartition, RaftlogError | None]:
        if not targets:
            return {}
        offsets = {tp: CommittedOffset(offset=offset) for tp, offset in targets.items()}
        return await self._groups.commit_offsets(GroupMember(group_id=self._group_id), offsets)


def _sought(
    targets: Mapping[TopicPartition, int],
    committed: Mapping[TopicPartition, CommittedOffset],
    outcomes: Mapping[TopicPartition, RaftlogError | None],
) -> list[pb.SoughtOffset]:
    found = []
    for tp in sorted(targets):
        before, error = committed.get(tp), outcomes.get(tp)
        found.append(
            pb.SoughtOffset(
                topic=tp.topic,
                partition=tp.partition,
                old_offset=before.offset if before is not None else None,
                new_offset=targets[tp],
                error=to_status(error) if error is not None else None,
            )
        )
    return found
