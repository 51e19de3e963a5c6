"""``raftlog.v1.GroupService``: membership as a stream, offsets and administration as calls."""

from __future__ import annotations

import asyncio
from functools import partial

from raftlog.broker.group_port import NO_GENERATION, GroupBroker, GroupMember, GroupState
from raftlog.broker.port import Broker
from raftlog.errors import GroupIdNotFoundError, InvalidRequestError, RaftlogError
from raftlog.gateway import group_wire as wire
from raftlog.gateway.group_offsets import SeekCall, group_offsets
from raftlog.gateway.group_session import GroupSession
from raftlog.gateway.requests import parsed
from raftlog.gateway.rpc import Handler, Handlers
from raftlog.gateway.status import Context, to_status
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1 import group_service_pb2 as pb


class GroupService:
    """The calls, over a broker and its groups. ``stopping`` ends the sessions."""

    def __init__(self, broker: Broker, groups: GroupBroker, stopping: asyncio.Event) -> None:
        self._broker = broker
        self._groups = groups
        self._stopping = stopping

    def handlers(self, make: Handlers) -> dict[str, Handler]:
        """A handler for each call of the service."""
        return {
            "Session": make.both_streams(self.session, partial(parsed, pb.SessionRequest), pb.SessionResponse),
            "CommitOffsets": make.unary(self.commit_offsets, pb.CommitOffsetsRequest, pb.CommitOffsetsResponse),
            "FetchOffsets": make.unary(self.fetch_offsets, pb.FetchOffsetsRequest, pb.FetchOffsetsResponse),
            "ListGroups": make.unary(self.list_groups, pb.ListGroupsRequest, pb.ListGroupsResponse),
            "DescribeGroup": make.unary(self.describe_group, pb.DescribeGroupRequest, pb.DescribeGroupResponse),
            "DeleteGroup": make.unary(self.delete_group, pb.DeleteGroupRequest, pb.DeleteGroupResponse),
            "DeleteOffsets": make.unary(self.delete_offsets, pb.DeleteOffsetsRequest, pb.DeleteOffsetsResponse),
            "SeekGroup": make.unary(self.seek_group, pb.SeekGroupRequest, pb.SeekGroupResponse),
            "RemoveMembers": make.unary(self.remove_members, pb.RemoveMembersRequest, pb.RemoveMembersResponse),
        }

    async def session(self, context: Context) -> None:
        """See ``gateway.group_session``."""
        await GroupSession(self._broker, self._groups, context, self._stopping).run()

    async def commit_offsets(self, request: pb.CommitOffsetsRequest) -> pb.CommitOffsetsResponse:
        """A refusal of the member or its generation fails the call."""
        member = GroupMember(
            group_id=wire.group_id(request.group_id),
            generation=request.generation if request.HasField("generation") else NO_GENERATION,
            member_id=request.member_id,
            instance_id=request.instance_id if request.HasField("instance_id") else None,
        )
        offsets = wire.new_offsets(request.offsets)
        if not offsets:
            raise InvalidRequestError("offsets is empty; name one at least")
        return pb.CommitOffsetsResponse(results=wire.results(await self._groups.commit_offsets(member, offsets)))

    async def fetch_offsets(self, request: pb.FetchOffsetsRequest) -> pb.FetchOffsetsResponse:
        """A partition that was asked for is answered also where nothing is committed."""
        asked = wire.partitions(request.partitions, "partitions")
        committed = await self._groups.fetch_offsets(wire.group_id(request.group_id), asked or None)
        return pb.FetchOffsetsResponse(offsets=await group_offsets(self._broker, asked or committed, committed, lag=request.lag))

    async def list_groups(self, _request: pb.ListGroupsRequest) -> pb.ListGroupsResponse:
        """All groups, by id."""
        groups = sorted(await self._groups.list_groups(), key=lambda group: group.group_id)
        return pb.ListGroupsResponse(groups=map(wire.listed, groups))

    async def describe_group(self, request: pb.DescribeGroupRequest) -> pb.DescribeGroupResponse:
        """One group, with its members' subscriptions and assignments decoded."""
        group_id = wire.group_id(request.group_id)
        group = await self._groups.describe_group(group_id)
        response = pb.DescribeGroupResponse(
            group_id=group_id,
            state=wire.state(group.state),
            protocol_type=group.protocol_type,
            protocol=group.protocol,
            generation=group.generation,
            members=[wire.member(one, group.protocol_type) for one in group.members],
        )
        if group.state is GroupState.DEAD:
            return response  # there is no such group: to look for its coordinator would make the topic that keeps groups
        try:
            response.coordinator = (await self._groups.find_coordinator(group_id)).node_id
        except RaftlogError:
            response.coordinator = 0  # it answered a moment ago; the description is worth having without its name
        if request.offsets:
            committed = await self._groups.fetch_offsets(group_id, None)
            assigned = {TopicPartition(tp.topic, tp.partition) for one in response.members for tp in one.assignment}
            response.offsets.extend(await group_offsets(self._broker, assigned | committed.keys(), committed, lag=True))
        return response

    async def delete_group(self, request: pb.DeleteGroupRequest) -> pb.DeleteGroupResponse:
        """Forget a group without members."""
        await self._groups.delete_group(wire.group_id(request.group_id))
        return pb.DeleteGroupResponse()

    async def delete_offsets(self, request: pb.DeleteOffsetsRequest) -> pb.DeleteOffsetsResponse:
        """Forget offsets of partitions that no member subscribes to."""
        tps = wire.partitions(request.partitions, "partitions")
        if not tps:
            raise InvalidRequestError("partitions is empty; name one at least")
        outcomes = await self._groups.delete_offsets(wire.group_id(request.group_id), tps)
        return pb.DeleteOffsetsResponse(results=wire.results(outcomes))

    async def seek_group(self, request: pb.SeekGroupRequest) -> pb.SeekGroupResponse:
        """See ``gateway.group_offsets``."""
        return await SeekCall(self._broker, self._groups, request).run()

    async def remove_members(self, request: pb.RemoveMembersRequest) -> pb.RemoveMembersResponse:
        """An outcome for each; a group that does not exist fails the call."""
        group_id, leavers = wire.group_id(request.group_id), wire.leavers(request.members)
        group = await self._groups.describe_group(group_id)
        if group.state is GroupState.DEAD:
            raise GroupIdNotFoundError(f"there is no group {group_id!r}; list the groups to see their ids")
        outcomes = await self._groups.leave_group(group_id, leavers)
        return pb.RemoveMembersResponse(
            members=[
                pb.RemovedMember(
                    member_id=leaver.member_id,
                    instance_id=leaver.instance_id,
                    error=to_status(error) if error is not None else None,
                )
                for leaver, error in zip(leavers, outcomes, strict=True)
            ]
        )
