"""Calls between brokers about groups: to the coordinator's node on behalf of another node's callers, and their answers there.

Like all calls between brokers (``calls``) they cross one link at most: the node that gets one coordinates the group, or says
that it does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence

from google.protobuf.message import DecodeError

from raftlog.broker import group_codec as codec
from raftlog.broker.config import BrokerConfig
from raftlog.broker.group_port import (
    CommittedOffset,
    DescribedGroup,
    GroupBroker,
    GroupMember,
    JoinedGroup,
    JoinGroup,
    Leaver,
    ListedGroup,
    SyncedGroup,
)
from raftlog.errors import InvalidRequestError, OverloadedError, RaftlogError
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.internal.v1 import groups_pb2 as pb
from raftlog.peers.port import Payloads, Peers

PREFIX = "group."
"""Begins the names of these calls."""


class RemoteGroups:
    """Other nodes' coordinators, at the other end of the peer links. Errors as ``GroupBroker``, and those of ``Peers.call``."""

    def __init__(self, peers: Peers, config: BrokerConfig) -> None:
        self._peers = peers
        self._config = config
        self._waits: Counter[int] = Counter()
        """Node id → joins and syncs that wait there."""

    async def join(self, node_id: int, wish: JoinGroup) -> JoinedGroup:
        """Join at ``node_id``; as long as the rebalance takes."""
        answer = await self._waiting_call(node_id, "join", codec.join_call(wish).SerializeToString())
        return codec.joined_of(pb.JoinGroupAnswer.FromString(answer))

    async def sync(
        self, node_id: int, member: GroupMember, assignments: Mapping[str, bytes], *, protocol_type: str, protocol: str
    ) -> SyncedGroup:
        """Sync at ``node_id``; as long as the leader takes."""
        call = pb.SyncGroupCall(
            caller=codec.caller(member),
            assignments=[pb.MemberAssignment(member_id=key, assignment=value) for key, value in assignments.items()],
            protocol_type=protocol_type,
            protocol=protocol,
        )
        synced = pb.SyncGroupAnswer.FromString(await self._waiting_call(node_id, "sync", call.SerializeToString()))
        return SyncedGroup(protocol_type=synced.protocol_type, protocol=synced.protocol, assignment=synced.assignment)

    async def heartbeat(self, node_id: int, member: GroupMember) -> None:
        """A heartbeat at ``node_id``."""
        await self._call(node_id, "heartbeat", codec.caller(member).SerializeToString())

    async def leave(self, node_id: int, group_id: str, leavers: Sequence[Leaver]) -> list[RaftlogError | None]:
        """Leave at ``node_id``."""
        call = pb.LeaveGroupCall(group_id=group_id, leavers=map(codec.leaver_ref, leavers))
        answer = await self._call(node_id, "leave", call.SerializeToString())
        return codec.outcomes_of(pb.GroupOutcomes.FromString(answer), len(leavers))

    async def commit(
        self, node_id: int, member: GroupMember, offsets: Mapping[TopicPartition, CommittedOffset]
    ) -> dict[TopicPartition, RaftlogError | None]:
        """Commit at ``node_id``."""
        call = pb.CommitOffsetsCall(caller=codec.caller(member), offsets=codec.offset_rows(offsets))
        answer = await self._call(node_id, "commit", call.SerializeToString())
        outcomes = codec.outcomes_of(pb.GroupOutcomes.FromString(answer), len(offsets))
        return dict(zip(offsets, outcomes, strict=True))

    async def fetch_offsets(
        self, node_id: int, group_id: str, partitions: Sequence[TopicPartition] | None
    ) -> dict[TopicPartition, CommittedOffset]:
        """Committed offsets as ``node_id`` has them."""
        call = pb.OffsetsCall(group_id=group_id, all=partitions is None, partitions=codec.partition_refs(partitions or ()))
        answer = await self._call(node_id, "fetch_offsets", call.SerializeToString())
        return codec.offsets_of(pb.OffsetsAnswer.FromString(answer).offsets)

    async def list(self, node_id: int) -> list[ListedGroup]:
        """The groups that ``node_id`` coordinates."""
        answer = await self._call(node_id, "list", b"")
        return codec.listed_of(pb.ListGroupsAnswer.FromString(answer).groups)

    async def describe(self, node_id: int, group_id: str) -> DescribedGroup:
        """A group as ``node_id`` has it."""
        answer = await self._call(node_id, "describe", pb.GroupCall(group_id=group_id).SerializeToString())
        return codec.described_of(pb.DescribeGroupAnswer.FromString(answer))

    async def delete(self, node_id: int, group_id: str) -> None:
        """Delete a group at ``node_id``."""
        await self._call(node_id, "delete", pb.GroupCall(group_id=group_id).SerializeToString())

    async def delete_offsets(
        self, node_id: int, group_id: str, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, RaftlogError | None]:
        """Delete offsets at ``node_id``."""
        call = pb.OffsetsCall(group_id=group_id, partitions=codec.partition_refs(partitions))
        answer = await self._call(node_id, "delete_offsets", call.SerializeToString())
        outcomes = codec.outcomes_of(pb.GroupOutcomes.FromString(answer), len(partitions))
        return dict(zip(partitions, outcomes, strict=True))

    async def _waiting_call(self, node_id: int, method: str, body: bytes) -> bytes:
        most = self._config.group_forwarded_waits_max
        if self._waits[node_id] >= most:
            raise OverloadedError(f"{most} members wait on node {node_id} through this one; ask it directly")
        self._waits[node_id] += 1
        try:
            return await self._call(node_id, method, body, wait_s=self._config.group_wait_max_s)
        finally:
            self._waits[node_id] -= 1

    async def _call(self, node_id: int, method: str, body: bytes, *, wait_s: float = 0.0) -> bytes:
        timeout_s = max(wait_s, self._config.call_timeout_s) + self._config.call_margin_s
        answer, _ = await self._peers.call(node_id, PREFIX + method, body, timeout_s=timeout_s)
        return answer


class GroupCallServer:
    """Answers other nodes' calls about the groups that this node coordinates."""

    def __init__(self, groups: GroupBroker) -> None:
        self._groups = groups
        self._methods: dict[str, Callable[[bytes], Awaitable[bytes]]] = {
            "join": self._join,
            "sync": self._sync,
            "heartbeat": self._heartbeat,
            "leave": self._leave,
            "commit": self._commit,
            "fetch_offsets": self._fetch_offsets,
            "list": self._list,
            "describe": self._describe,
            "delete": self._delete,
            "delete_offsets": self._delete_offsets,
        }

    async def answer(self, method: str, body: bytes) -> tuple[bytes, Payloads]:
        """Answer one call; ``method`` begins with ``PREFIX``.

        Raises:
            InvalidRequestError: an unknown method, or a body that is not the method's.
            RaftlogError: what the method itself raises.
        """
        handler = self._methods.get(method.removeprefix(PREFIX))
        if handler is None:
            raise InvalidRequestError(f"this node knows no call {method!r}; its version may be older than the caller's")
        try:
            return await handler(body), ()
        except DecodeError as error:
            raise InvalidRequestError(f"the body of a {method} call cannot be read: {error}") from error

    async def _join(self, body: bytes) -> bytes:
        joined = await self._groups.join_group(codec.join_of(pb.JoinGroupCall.FromString(body)), direct=True)
        return codec.joined_answer(joined).SerializeToString()

    async def _sync(self, body: bytes) -> bytes:
        call = pb.SyncGroupCall.FromString(body)
        synced = await self._groups.sync_group(
            codec.member_of(call.caller),
            {assignment.member_id: assignment.assignment for assignment in call.assignments},
            protocol_type=call.protocol_type,
            protocol=call.protocol,
            direct=True,
        )
        answer = pb.SyncGroupAnswer(protocol_type=synced.protocol_type, protocol=synced.protocol, assignment=synced.assignment)
        return answer.SerializeToString()

    async def _heartbeat(self, body: bytes) -> bytes:
        await self._groups.heartbeat(codec.member_of(pb.GroupCaller.FromString(body)), direct=True)
        return b""

    async def _leave(self, body: bytes) -> bytes:
        call = pb.LeaveGroupCall.FromString(body)
        outcomes = await self._groups.leave_group(call.group_id, list(map(codec.leaver_of, call.leavers)), direct=True)
        return codec.outcomes_answer(outcomes).SerializeToString()

    async def _commit(self, body: bytes) -> bytes:
        call = pb.CommitOffsetsCall.FromString(body)
        offsets = codec.offsets_of(call.offsets)
        outcomes = await self._groups.commit_offsets(codec.member_of(call.caller), offsets, direct=True)
        return codec.outcomes_answer(outcomes[tp] for tp in offsets).SerializeToString()

    async def _fetch_offsets(self, body: bytes) -> bytes:
        call = pb.OffsetsCall.FromString(body)
        partitions = None if call.all else codec.partitions_of(call.partitions)
        offsets = await self._groups.fetch_offsets(call.group_id, partitions, direct=True)
        return pb.OffsetsAnswer(offsets=codec.offset_rows(offsets)).SerializeToString()

    async def _list(self, _: bytes) -> bytes:
        groups = await self._groups.list_groups(direct=True)
        return pb.ListGroupsAnswer(groups=codec.listed_rows(groups)).SerializeToString()

    async def _describe(self, body: bytes) -> bytes:
        group = await self._groups.describe_group(pb.GroupCall.FromString(body).group_id, direct=True)
        return codec.described_answer(group).SerializeToString()

    async def _delete(self, body: bytes) -> bytes:
        await self._groups.delete_group(pb.GroupCall.FromString(body).group_id, direct=True)
        return b""

    async def _delete_offsets(self, body: bytes) -> bytes:
        call = pb.OffsetsCall.FromString(body)
        partitions = codec.partitions_of(call.partitions)
        outcomes = await self._groups.delete_offsets(call.group_id, partitions, direct=True)
        return codec.outcomes_answer(outcomes[tp] for tp in partitions).SerializeToString()
