"""Consumer groups as their administrator sees them, from any node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from raftlog.client.connections import Node
from raftlog.client.group_values import Group, GroupDescription, GroupMember, GroupOffset, GroupState, SoughtOffset
from raftlog.client.offsets import BEGINNING, END
from raftlog.client.routing import Routing
from raftlog.client.values import AtTime
from raftlog.client.wire_errors import from_status
from raftlog.errors import InvalidRequestError, RaftlogError
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1 import group_service_pb2 as pb
from raftlog.pb.raftlog.v1.records_pb2 import Position

GROUP_CALL_TIMEOUT_S: Final = 10.0
"""How long one node may take: it asks the group's coordinator, and for lags the leaders of all partitions."""

SeekTo = int | str | AtTime
"""An offset, ``"beginning"``, ``"end"``, a time, or ``"+N"`` and ``"-N"``: so many records on or back."""

_STATES: Final = {
    pb.GROUP_STATE_EMPTY: GroupState.EMPTY,
    pb.GROUP_STATE_PREPARING_REBALANCE: GroupState.PREPARING_REBALANCE,
    pb.GROUP_STATE_COMPLETING_REBALANCE: GroupState.COMPLETING_REBALANCE,
    pb.GROUP_STATE_STABLE: GroupState.STABLE,
    pb.GROUP_STATE_DEAD: GroupState.DEAD,
}
_T = TypeVar("_T")


class GroupAdmin:
    """The part of ``Admin`` that is about groups. All calls but ``remove_group_members`` may be repeated, and are where a node
    does not answer."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing

    async def list_groups(self) -> list[Group]:
        """All groups, by id."""

        async def call(node: Node, timeout_s: float) -> pb.ListGroupsResponse:
            return await node.groups.ListGroups(pb.ListGroupsRequest(), timeout=timeout_s)

        return [
            Group(group_id=one.group_id, protocol_type=one.protocol_type, state=_state(one.state))
            for one in (await self._group_call(call)).groups
        ]

    async def describe_group(self, group_id: str, *, offsets: bool = True) -> GroupDescription:
        """A group with its members; ``offsets`` also asks for what is committed, and every partition's leader for the lag."""
        request = pb.DescribeGroupRequest(group_id=group_id, offsets=offsets)

        async def call(node: Node, timeout_s: float) -> pb.DescribeGroupResponse:
            return await node.groups.DescribeGroup(request, timeout=timeout_s)

        answer = await self._group_call(call)
        return GroupDescription(
            group_id=answer.group_id,
            state=_state(answer.state),
            protocol_type=answer.protocol_type,
            assignor=answer.protocol,
            generation=answer.generation,
            coordinator=answer.coordinator or None,
            members=tuple(map(_member, answer.members)),
            offsets=dict(map(_offset, answer.offsets)),
        )

    async def group_offsets(
        self, group_id: str, partitions: Iterable[TopicPartition] | None = None, *, lag: bool = False
    ) -> dict[TopicPartition, GroupOffset]:
        """Committed offsets of these partitions, or of all that the group has committed; ``lag`` also how far behind they are."""
        request = pb.FetchOffsetsRequest(group_id=group_id, partitions=wire_partitions(partitions or ()), lag=lag)
        if partitions is not None and not request.partitions:
            return {}

        async def call(node: Node, timeout_s: float) -> pb.FetchOffsetsResponse:
            return await node.groups.FetchOffsets(request, timeout=timeout_s)

        return dict(map(_offset, (await self._group_call(call)).offsets))

    async def commit_group_offsets(self, group_id: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit offsets of a group without members: for consumers that assign partitions by themselves.

        Raises:
            UnknownMemberError: the group has members.
            RaftlogError: of the first partition that could not be committed.
        """
        request = pb.CommitOffsetsRequest(group_id=group_id, offsets=wire_offsets(offsets))

        async def call(node: Node, timeout_s: float) -> pb.CommitOffsetsResponse:
            return await node.groups.CommitOffsets(request, timeout=timeout_s)

        _raise_first((await self._group_call(call)).results)

    async def delete_group(self, group_id: str) -> None:
        """Forget a group without members, and its offsets.

        Raises:
            GroupIdNotFoundError, GroupNotEmptyError
        """

        async def call(node: Node, timeout_s: float) -> pb.DeleteGroupResponse:
            return await node.groups.DeleteGroup(pb.DeleteGroupRequest(group_id=group_id), timeout=timeout_s)

        await self._group_call(call, safe=False)

    async def delete_group_offsets(self, group_id: str, partitions: Iterable[TopicPartition]) -> None:
        """Forget offsets of partitions of topics that no member subscribes to.

        Raises:
            GroupIdNotFoundError
            GroupSubscribedToTopicError: of the first partition that is still subscribed to.
        """
        request = pb.DeleteOffsetsRequest(group_id=group_id, partitions=wire_partitions(partitions))

        async def call(node: Node, timeout_s: float) -> pb.DeleteOffsetsResponse:
            return await node.groups.DeleteOffsets(request, timeout=timeout_s)

        _raise_first((await self._group_call(call)).results)

    async def seek_group(
        self, group_id: str, to: Mapping[str | TopicPartition, SeekTo] | SeekTo, *, dry_run: bool = False
    ) -> dict[TopicPartition, SoughtOffset]:
        """Move the offsets of a group without members; those outside of a log are moved to its nearest end.

        Args:
            group_id: the group.
            to: where to, by topic or partition; or one place for all that the group has committed.
            dry_run: only say where the offsets would be.

        Raises:
            GroupIdNotFoundError: there is no such group, and one place for all that it has committed.
            GroupNotEmptyError: stop its members first; they would commit over it.
            UnknownTopicOrPartitionError, InvalidRequestError
        """
        places: Mapping[str | TopicPartition, SeekTo] = to if isinstance(to, Mapping) else {"": to}
        request = pb.SeekGroupRequest(group_id=group_id, dry_run=dry_run)
        for subject, place in places.items():
            seek = request.seeks.add(topic=subject.topic if isinstance(subject, TopicPartition) else subject)
            if isinstance(subject, TopicPartition):
                seek.partition = subject.partition
            _set_place(seek, place)

        async def call(node: Node, timeout_s: float) -> pb.SeekGroupResponse:
            return await node.groups.SeekGroup(request, timeout=timeout_s)

        relative = any(seek.WhichOneof("to") == "shift_by" for seek in request.seeks)
        answer = await self._group_call(call, safe=dry_run or not relative)
        return {
            TopicPartition(one.topic, one.partition): SoughtOffset(
                old_offset=one.old_offset if one.HasField("old_offset") else None,
                new_offset=one.new_offset,
                error=from_status(one.error) if one.HasField("error") else None,
            )
            for one in answer.offsets
        }

    async def remove_group_members(
        self, group_id: str, *, member_ids: Sequence[str] = (), instance_ids: Sequence[str] = ()
    ) -> None:
        """Take members out of a group. A dynamic one that lives joins again; a static one whose process is gone makes room.

        Raises:
            GroupIdNotFoundError
            UnknownMemberError: of the first that is no member.
        """
        names = [pb.MemberName(member_id=one) for one in member_ids]
        names += [pb.MemberName(instance_id=one) for one in instance_ids]
        request = pb.RemoveMembersRequest(group_id=group_id, members=names)

        async def call(node: Node, timeout_s: float) -> pb.RemoveMembersResponse:
            return await node.groups.RemoveMembers(request, timeout=timeout_s)

        _raise_first((await self._group_call(call, safe=False)).members)

    async def _group_call(self, call: Callable[[Node, float], Awaitable[_T]], *, safe: bool = True) -> _T:
        return await self._routing.any_node(call, attempt_timeout_s=GROUP_CALL_TIMEOUT_S, safe=safe, forward=True)


def wire_partitions(tps: Iterable[TopicPartition]) -> list[pb.GroupPartition]:
    """Partitions for a request."""
    return [pb.GroupPartition(topic=tp.topic, partition=tp.partition) for tp in tps]


def wire_offsets(offsets: Mapping[TopicPartition, int], metadata: str = "") -> list[pb.NewOffset]:
    """Offsets for a request.

    Raises:
        InvalidRequestError: one is negative.
    """
    for tp, offset in offsets.items():
        if offset < 0:
            raise InvalidRequestError(f"cannot commit {offset} for {tp}; offsets begin at 0")
    return [
        pb.NewOffset(topic=tp.topic, partition=tp.partition, offset=offset, metadata=metadata) for tp, offset in offsets.items()
    ]


def outcomes_of(results: Iterable[pb.OffsetResult]) -> dict[TopicPartition, RaftlogError | None]:
    """What became of each partition's offset."""
    return {
        TopicPartition(one.topic, one.partition): from_status(one.error) if one.HasField("error") else None for one in results
    }


def _raise_first(results: Iterable[pb.OffsetResult | pb.RemovedMember]) -> None:
    for one in results:
        if one.HasField("error"):
            raise from_status(one.error)


def _set_place(seek: pb.Seek, place: SeekTo) -> None:
    if isinstance(place, AtTime):
        seek.position.CopyFrom(Position(timestamp_ms=place.timestamp_ms))
    elif isinstance(place, int) and place >= 0:
        seek.position.CopyFrom(Position(offset=place))
    elif place in ("beginning", "end"):
        seek.position.CopyFrom(BEGINNING if place == "beginning" else END)
    elif isinstance(place, str) and place[:1] in ("+", "-") and place[1:].isdecimal():
        seek.shift_by = int(place)
    else:
        raise InvalidRequestError(
            f"{place!r} is no place to seek to; it must be an offset, 'beginning', 'end', AtTime(timestamp_ms), '+N' or '-N'"
        )


def _state(wire: pb.GroupState.ValueType) -> GroupState:
    return _STATES.get(wire, GroupState.UNKNOWN)


def _member(wire: pb.GroupMember) -> GroupMember:
    return GroupMember(
        member_id=wire.member_id,
        instance_id=wire.instance_id if wire.HasField("instance_id") else None,
        client_id=wire.client_id,
        client_host=wire.client_host,
        topics=tuple(wire.topics),
        assignment=tuple(TopicPartition(tp.topic, tp.partition) for tp in wire.assignment),
    )


def _offset(wire: pb.GroupOffset) -> tuple[TopicPartition, GroupOffset]:
    return TopicPartition(wire.topic, wire.partition), GroupOffset(
        committed=wire.committed_offset if wire.HasField("committed_offset") else None,
        metadata=wire.metadata,
        commit_time_ms=wire.commit_time_ms,
        log_start_offset=wire.log_start_offset if wire.HasField("log_start_offset") else None,
        high_watermark=wire.high_watermark if wire.HasField("high_watermark") else None,
        lag=wire.lag if wire.HasField("lag") else None,
        error=from_status(wire.error) if wire.HasField("error") else None,
    )
