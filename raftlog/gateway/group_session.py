"""One session: a client's membership in a group, for as long as its stream lives.

Rules:

1. What the client may read is ``_owned``: it grows when an assignment is sent, and shrinks when a revocation is acknowledged, or
   at once where the partitions are lost. Only what is owned can be committed, and not by who has yet to hear that it was lost
   between, so that no late commit moves the offset of a partition that another member reads by now, or has read.
2. Before a rebalance by an eager assignor everything is revoked; after one by a cooperative assignor what has gone elsewhere is,
   and the member joins again, so that the next generation can give it away (KIP-429). Where a group turns from a cooperative to
   an eager assignor (a client joined that knows no other), members still read when they join: all that they have is lost.
3. The member heartbeats while the client is waited for, and joins rebalances, as long as the client is heard of: of one that has
   been quiet for ``QUIET_SHARE`` of its session timeout (its machine may be gone, and the connection not know it) nobody knows
   whether it has gone on at another node, under the same member id. Its session ends after its session timeout, and leaves it to
   the coordinator to take the member out when nobody else heartbeats for it. A client that makes no progress and acknowledges
   nothing for its rebalance timeout is taken out of the group, so that the others go on without it.
4. Requests are carried out one at a time, in their order: a commit that was sent before an acknowledgement is done before it.
5. A client that ends its side leaves. A stream that breaks, or ends because the node stops, leaves nothing but a member that is
   silent: the client has the session timeout to come back with its member id, at any node, without a rebalance of the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, NoReturn

import grpc

from raftlog.broker.group_port import CommittedOffset, GroupBroker
from raftlog.broker.port import Broker
from raftlog.core.assignors.catalogue import is_cooperative
from raftlog.errors import (
    IllegalGenerationError,
    InvalidRequestError,
    RaftlogError,
    RebalanceInProgressError,
    ShuttingDownError,
    UnknownMemberError,
    UnknownTopicOrPartitionError,
)
from raftlog.gateway import group_wire as wire
from raftlog.gateway.group_member import Assigned, GroupMembership
from raftlog.gateway.rpc import unless
from raftlog.gateway.status import Context
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1 import group_service_pb2 as pb

HEARTBEAT_S_MAX: Final = 0.5
"""Between heartbeats, at most: a rebalance begins for each member with its next one, and they never leave the cluster."""
HEARTBEATS_PER_SESSION: Final = 3
"""So many fit into a session timeout, as in Kafka: one or two may get lost."""


CLIENT_CHECK_S_MIN: Final = 0.1
"""Between looks at when the client was heard of, at least."""
QUIET_SHARE: Final = 1 / 3
"""Of its session timeout: a client that polls as often as the contract advises has been heard of within."""
REJOIN_PAUSE_S: Final = 0.05
"""Before a member that was forgotten, or whose join was ended by another, joins anew: neither a coordinator that forgets at once
nor a second session of the same member must be met in a tight loop."""


class _ExpelledError(UnknownMemberError):
    """The client was silent for too long. Ends the session, where being unknown to the coordinator only begins it anew."""


class _SilentError(_ExpelledError):
    """It may be back at another node: its member is not taken out."""


class GroupSession:
    """Runs one call of Session."""

    def __init__(self, broker: Broker, groups: GroupBroker, context: Context, stopping: asyncio.Event) -> None:
        self._broker = broker
        self._groups = groups
        self._context = context
        self._stopping = stopping
        self._loop = asyncio.get_running_loop()
        self._writing = asyncio.Lock()
        self._owned: set[TopicPartition] = set()
        self._since: dict[TopicPartition, int] = {}
        """The generation in which each was given; those that the client came with are not in it."""
        self._revoke_id = 0
        self._acknowledged, self._heard = asyncio.Event(), asyncio.Event()
        self._client_heard_at = self._progress_at = self._loop.time()
        self._committing = False
        """The client waits for us, not we for it."""
        self._join: wire.Join
        self._member: GroupMembership

    async def run(self) -> None:
        """Serve the session until the client ends it.

        Raises:
            RaftlogError: the member cannot go on here, or the node stops.
        """
        first = await unless(self._stopping, self._context.read())
        if first is grpc.aio.EOF:
            raise InvalidRequestError("the session ended before it had begun; send join first")
        self._join = wire.join(first)
        self._owned = set(self._join.owned)
        self._member = GroupMembership(
            self._broker, self._groups, self._join, client_host=wire.host_of(self._context.peer()), renamed=self._tell_membership
        )
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(work()) for work in (self._end_on_stop, self._watch_client, self._be_member)]
                await self._read()
                for task in tasks:
                    task.cancel()
        except* _SilentError:
            raise
        except* _ExpelledError:
            # When the member has ended, or it would hear that it is none any more, and join anew.
            await self._member.leave()
            raise
        await self._member.leave()

    async def _end_on_stop(self) -> None:
        await self._stopping.wait()
        raise ShuttingDownError("the node is stopping; go on at another node, with the same member id")

    # What the client says

    async def _read(self) -> None:
        while (request := await self._context.read()) is not grpc.aio.EOF:
            self._client_heard_at = self._loop.time()
            self._heard.set()
            if not request.poll.working:
                self._progress_at = self._client_heard_at
            await self._carry_out(request)

    async def _carry_out(self, request: pb.SessionRequest) -> None:
        which = request.WhichOneof("request")
        if which == "revoked":
            if request.revoked.revoke_id == self._revoke_id:
                self._acknowledged.set()
        elif which == "commit":
            await self._commit(request.commit)
        elif which == "join":
            raise InvalidRequestError("join comes first and once; open another session to change it")

    async def _commit(self, request: pb.CommitSession) -> None:
        outcomes: dict[TopicPartition, RaftlogError | None] = {}
        offsets: dict[TopicPartition, CommittedOffset] = {}
        asked = wire.new_offsets(request.offsets)
        for tp, offset in asked.items():
            if tp not in self._owned:
                outcomes[tp] = IllegalGenerationError(f"{tp} is no longer this member's; its new owner goes on with it")
            elif request.HasField("generation") and request.generation < self._since.get(tp, request.generation):
                outcomes[tp] = IllegalGenerationError(
                    f"{tp} was lost, and is this member's again since generation {self._since[tp]}; go on from the last commit"
                )
            else:
                offsets[tp] = offset
        if offsets:
            self._committing = True
            try:
                outcomes |= await self._member.commit(offsets)
            except RaftlogError as error:
                outcomes |= dict.fromkeys(offsets, error)
            finally:
                self._committing = False
                self._client_heard_at = self._progress_at = self._loop.time()
        committed = pb.Committed(commit_id=request.commit_id, results=wire.results({tp: outcomes[tp] for tp in asked}))
        await self._write(pb.SessionResponse(committed=committed))

    async def _watch_client(self) -> None:
        """Rule 3, for the client that says nothing."""
        session_ms, rebalance_ms = self._join.session_timeout_ms, self._join.rebalance_timeout_ms
        while True:
            now = self._loop.time()
            silence_left_s = self._client_heard_at + session_ms / 1_000 - now
            idling_left_s = self._progress_at + rebalance_ms / 1_000 - now
            if not self._committing:
                if silence_left_s <= 0:
                    self._expel("said nothing", session_ms, _SilentError)
                if idling_left_s <= 0:
                    self._expel("made no progress", rebalance_ms)
            await asyncio.sleep(max(min(silence_left_s, idling_left_s), CLIENT_CHECK_S_MIN))

    @property
    def _quiet(self) -> bool:
        """Rule 3: whether the client may be elsewhere."""
        silent_s = self._loop.time() - self._client_heard_at
        return not self._committing and silent_s > QUIET_SHARE * self._join.session_timeout_ms / 1_000

    async def _client_is_heard(self) -> None:
        if self._quiet:
            self._heard.clear()
            await self._heard.wait()

    async def _heartbeat(self) -> None:
        if not self._quiet:
            await self._member.heartbeat()

    def _expel(self, what: str, timeout_ms: int, kind: type[_ExpelledError] = _ExpelledError) -> NoReturn:
        raise kind(
            f"the client {what} for {timeout_ms} ms, and is no longer in the group; "
            "open another session, and ask for less at a time or for longer timeouts"
        )

    # What the member does

    async def _be_member(self) -> None:
        await self._member.find_coordinator()
        if self._member.is_static or self._member.member_id:
            await self._tell_membership(self._member.member_id)
        while True:
            await self._client_is_heard()
            try:
                try:
                    await self._rebalance()
                except RebalanceInProgressError:
                    await asyncio.sleep(REJOIN_PAUSE_S)
                    continue
                await self._stay()
            except RebalanceInProgressError:
                continue
            except _ExpelledError:
                raise
            except (UnknownMemberError, IllegalGenerationError) as error:
                self._member.forget(error)
                await self._lose()
                await asyncio.sleep(REJOIN_PAUSE_S)

    async def _stay(self) -> None:
        """Heartbeat until there has to be another rebalance."""
        while not self._member.is_outdated():
            await asyncio.sleep(self._heartbeat_s)
            await self._heartbeat()

    @property
    def _heartbeat_s(self) -> float:
        return min(HEARTBEAT_S_MAX, self._join.session_timeout_ms / 1_000 / HEARTBEATS_PER_SESSION)

    async def _rebalance(self) -> None:
        """Rule 2, until this member has what it is to have."""
        if self._member.assignor and not is_cooperative(self._member.assignor):
            await self._revoke(set(self._owned))
        await self._member.find_coordinator()
        while True:
            assigned = await self._member.rebalance(self._owned)
            if assigned.renewed and not is_cooperative(assigned.assignor):
                await self._lose()
            gone = self._owned - assigned.partitions
            revoke_id = await self._tell_revoke(gone) if gone else 0
            await self._tell_assignment(assigned)
            if not gone:
                return
            await self._await_acknowledgement(revoke_id, gone)

    async def _revoke(self, tps: set[TopicPartition]) -> None:
        if tps:
            await self._await_acknowledgement(await self._tell_revoke(tps), tps)

    async def _await_acknowledgement(self, revoke_id: int, tps: set[TopicPartition]) -> None:
        """Heartbeat until the client has given these up.

        Raises:
            UnknownMemberError, IllegalGenerationError: the group has gone on without this member.
        """
        assert revoke_id == self._revoke_id, "one revocation at a time"
        deadline = self._loop.time() + self._join.rebalance_timeout_ms / 1_000
        while not self._acknowledged.is_set():
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    await self._acknowledged.wait()
            except TimeoutError:
                if self._loop.time() >= deadline:
                    self._expel("did not acknowledge a revocation", self._join.rebalance_timeout_ms)
                try:
                    await self._heartbeat()
                except RebalanceInProgressError:
                    continue  # as we know, or as we are about to find out
        self._owned -= tps

    async def _lose(self) -> None:
        """What the client reads may have other owners already."""
        lost, self._owned = self._owned, set()
        if lost:
            self._revoke_id += 1
            revoke = pb.Revoke(revoke_id=self._revoke_id, partitions=wire.group_partitions(lost), lost=True)
            await self._write(pb.SessionResponse(revoke=revoke))

    # What the client is told

    async def _tell_membership(self, member_id: str) -> None:
        await self._write(pb.SessionResponse(membership=pb.Membership(member_id=member_id)))

    async def _tell_revoke(self, tps: Iterable[TopicPartition]) -> int:
        self._revoke_id += 1
        self._acknowledged.clear()
        revoke = pb.Revoke(revoke_id=self._revoke_id, partitions=wire.group_partitions(tps))
        await self._write(pb.SessionResponse(revoke=revoke))
        return self._revoke_id

    async def _tell_assignment(self, assigned: Assigned) -> None:
        committed = await self._member.committed(assigned.partitions)
        addresses = {node.node_id: node.grpc_address for node in self._broker.cluster().nodes}
        assignment = pb.Assignment(generation=assigned.generation, assignor=assigned.assignor, leader=assigned.leader)
        for tp in sorted(assigned.partitions):
            one = assignment.partitions.add(topic=tp.topic, partition=tp.partition, added=tp not in self._owned)
            leader, epoch = self._leader(tp)
            one.leader_address, one.leader_epoch = addresses.get(leader, ""), epoch
            if one.added:
                self._since[tp] = assigned.generation
            if tp in committed:
                one.committed_offset, one.committed_metadata = committed[tp].offset, committed[tp].metadata
        self._owned |= assigned.partitions
        await self._write(pb.SessionResponse(assignment=assignment))

    def _leader(self, tp: TopicPartition) -> tuple[int, int]:
        """The partition's leader and its epoch, zeros while there is none known."""
        try:
            for info in self._broker.topic(tp.topic).partitions:
                if info.partition == tp.partition:
                    return info.leader or 0, max(info.leader_epoch, 0)
        except UnknownTopicOrPartitionError:
            pass  # this node has not heard of it yet, or it is gone; the client looks for itself
        return 0, 0

    async def _write(self, response: pb.SessionResponse) -> None:
        async with self._writing:
            await self._context.write(response)
