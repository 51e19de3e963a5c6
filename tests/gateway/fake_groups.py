"""Consumer groups in memory: joins of several members, syncs, generations, timeouts and commits, as a coordinator does them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from raftlog.broker.group_port import (
    NO_GENERATION,
    CommittedOffset,
    DescribedGroup,
    DescribedMember,
    GroupMember,
    GroupState,
    JoinedGroup,
    JoinedMember,
    JoinGroup,
    Leaver,
    ListedGroup,
    SyncedGroup,
)
from raftlog.errors import (
    FencedInstanceError,
    GroupIdNotFoundError,
    GroupNotEmptyError,
    GroupSubscribedToTopicError,
    IllegalGenerationError,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    InvalidSessionTimeoutError,
    MemberIdRequiredError,
    RaftlogError,
    RebalanceInProgressError,
    UnknownMemberError,
)
from raftlog.model import NodeInfo, TopicPartition

SESSION_TIMEOUT_MS_MAX = 1_800_000


@dataclass(eq=False)
class FakeMember:
    """A member, and what it waits for."""

    member_id: str
    wish: JoinGroup
    joining: asyncio.Future[JoinedGroup] | None = None
    syncing: asyncio.Future[SyncedGroup] | None = None
    assignment: bytes = b""
    is_back: bool = False
    """A static member that took over from itself."""
    session: asyncio.TimerHandle | None = None


@dataclass(eq=False)
class FakeGroup:
    """One group."""

    group_id: str
    state: GroupState = GroupState.EMPTY
    generation: int = 0
    protocol_type: str = ""
    protocol: str = ""
    leader: str = ""
    members: dict[str, FakeMember] = field(default_factory=dict)
    promised: set[str] = field(default_factory=set)
    """Member ids that were given out and have not joined yet."""
    offsets: dict[TopicPartition, CommittedOffset] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None


class FakeGroups:
    """Implements ``GroupBroker``. ``failures`` are raised by the next calls of a method, in turn."""

    def __init__(self) -> None:
        self.groups: dict[str, FakeGroup] = {}
        self.failures: dict[str, list[RaftlogError]] = defaultdict(list)
        self.calls: list[str] = []
        self.left: list[str] = []
        self.coordinator = NodeInfo(node_id=1, peer_address="127.0.0.1:7001", grpc_address="127.0.0.1:7101")
        self._ids = 0

    def _called(self, method: str) -> None:
        self.calls.append(method)
        if self.failures[method]:
            raise self.failures[method].pop(0)

    def group(self, group_id: str) -> FakeGroup:
        """The group, made where there is none."""
        return self.groups.setdefault(group_id, FakeGroup(group_id))

    async def find_coordinator(self, group_id: str) -> NodeInfo:
        self._called("find_coordinator")
        if not group_id:
            raise InvalidGroupIdError("a group's id must not be empty")
        return self.coordinator

    # Membership

    async def join_group(self, wish: JoinGroup, *, direct: bool = False) -> JoinedGroup:
        self._called("join_group")
        if wish.session_timeout_ms > SESSION_TIMEOUT_MS_MAX:
            raise InvalidSessionTimeoutError("the session timeout is too long")
        group = self.group(wish.group_id)
        member = self._joining(group, wish)
        names = [set(dict(one.wish.protocols)) for one in group.members.values()]
        if not set.intersection(*names):
            del group.members[member.member_id]
            raise InconsistentGroupProtocolError("no assignor is common to all members")
        self._touch(group, member)
        static_is_back = wish.instance_id is not None and not wish.member_id and member.is_back
        if group.state is GroupState.STABLE and (static_is_back or self._is_unchanged(group, member, wish)):
            return self._answer(group, member, skip_assignment=static_is_back and group.leader == member.member_id)
        member.wish = wish
        joining = member.joining = asyncio.get_running_loop().create_future()
        self._prepare(group)
        self._complete_join(group)
        return await asyncio.shield(joining)

    def _joining(self, group: FakeGroup, wish: JoinGroup) -> FakeMember:
        known = group.members.get(wish.member_id)
        if known is not None:
            if known.wish.instance_id != wish.instance_id:
                raise FencedInstanceError("another member has this instance id")
            return known
        if wish.member_id and wish.member_id not in group.promised:
            raise UnknownMemberError(f"{wish.member_id} is not a member of {group.group_id}")
        self._ids += 1
        member_id = wish.member_id or f"{wish.client_id}-{self._ids}"
        if wish.member_id_required and not wish.member_id:
            group.promised.add(member_id)
            raise MemberIdRequiredError("join again", member_id=member_id)
        group.promised.discard(member_id)
        member = FakeMember(member_id, wish)
        for old in list(group.members.values()):
            if wish.instance_id is not None and old.wish.instance_id == wish.instance_id:
                member.assignment, member.is_back = old.assignment, True
                self._drop(group, old, FencedInstanceError("another member took over this instance id"))
                if group.leader == old.member_id:
                    group.leader = member_id
        group.members[member_id] = member
        return member

    @staticmethod
    def _is_unchanged(group: FakeGroup, member: FakeMember, wish: JoinGroup) -> bool:
        return member.wish.protocols == wish.protocols and group.leader != member.member_id and bool(member.assignment)

    def _answer(self, group: FakeGroup, member: FakeMember, *, skip_assignment: bool = False) -> JoinedGroup:
        members = tuple(
            JoinedMember(
                member_id=one.member_id, instance_id=one.wish.instance_id, metadata=dict(one.wish.protocols)[group.protocol]
            )
            for one in group.members.values()
        )
        return JoinedGroup(
            generation=group.generation,
            protocol_type=group.protocol_type,
            protocol=group.protocol,
            leader=group.leader,
            member_id=member.member_id,
            members=members if group.leader == member.member_id else (),
            skip_assignment=skip_assignment,
        )

    def _prepare(self, group: FakeGroup) -> None:
        if group.state is GroupState.PREPARING_REBALANCE:
            return
        group.state = GroupState.PREPARING_REBALANCE
        for member in group.members.values():
            if member.syncing is not None and not member.syncing.done():
                member.syncing.set_exception(RebalanceInProgressError("join again"))
        wait_ms = max(member.wish.rebalance_timeout_ms for member in group.members.values())
        group.timer = asyncio.get_running_loop().call_later(wait_ms / 1_000, self._give_up_on_the_rest, group)

    def _give_up_on_the_rest(self, group: FakeGroup) -> None:
        for member in list(group.members.values()):
            if member.joining is None:
                self._drop(group, member, UnknownMemberError("it did not join in time"))
        self._complete_join(group)

    def _complete_join(self, group: FakeGroup) -> None:
        if group.state is not GroupState.PREPARING_REBALANCE or any(one.joining is None for one in group.members.values()):
            return
        if group.timer is not None:
            group.timer.cancel()
        group.generation += 1
        if not group.members:
            group.state = GroupState.EMPTY
            return
        group.state = GroupState.COMPLETING_REBALANCE
        common = set.intersection(*(set(dict(one.wish.protocols)) for one in group.members.values()))
        votes = [next(name for name, _ in one.wish.protocols if name in common) for one in group.members.values()]
        group.protocol = max(votes, key=votes.count)
        group.protocol_type = next(iter(group.members.values())).wish.protocol_type
        if group.leader not in group.members:
            group.leader = next(iter(group.members))
        for member in group.members.values():
            assert member.joining is not None
            if not member.joining.done():
                member.joining.set_result(self._answer(group, member))
            member.joining = member.syncing = None
            self._touch(group, member)

    async def sync_group(
        self, member: GroupMember, assignments: Mapping[str, bytes], *, protocol_type: str = "", protocol: str = "",
        direct: bool = False,
    ) -> SyncedGroup:  # fmt: skip
        self._called("sync_group")
        group, known = self._member(member)
        if group.state is GroupState.PREPARING_REBALANCE:
            raise RebalanceInProgressError("join again")
        if group.state is GroupState.COMPLETING_REBALANCE:
            if known.member_id != group.leader:
                known.syncing = asyncio.get_running_loop().create_future()
                return await asyncio.shield(known.syncing)
            group.state = GroupState.STABLE
            for one in group.members.values():
                one.assignment = assignments.get(one.member_id, b"")
                if one.syncing is not None and not one.syncing.done():
                    one.syncing.set_result(self._synced(group, one))
        return self._synced(group, known)

    @staticmethod
    def _synced(group: FakeGroup, member: FakeMember) -> SyncedGroup:
        return SyncedGroup(protocol_type=group.protocol_type, protocol=group.protocol, assignment=member.assignment)

    async def heartbeat(self, member: GroupMember, *, direct: bool = False) -> None:
        self._called("heartbeat")
        group, _ = self._member(member)
        if group.state is GroupState.PREPARING_REBALANCE:
            raise RebalanceInProgressError("join again")

    async def leave_group(self, group_id: str, leavers: Sequence[Leaver], *, direct: bool = False) -> list[RaftlogError | None]:
        self._called("leave_group")
        group = self.group(group_id)
        return [self._leave(group, leaver) for leaver in leavers]

    def _leave(self, group: FakeGroup, leaver: Leaver) -> RaftlogError | None:
        for member in list(group.members.values()):
            if leaver.instance_id == member.wish.instance_id and leaver.member_id in ("", member.member_id):
                self.left.append(member.member_id)
                self.expire(group.group_id, member.member_id)
                return None
        return UnknownMemberError(f"{leaver.member_id or leaver.instance_id} is not a member of {group.group_id}")

    def expire(self, group_id: str, member_id: str) -> None:
        """End a member's session."""
        group = self.group(group_id)
        self._drop(group, group.members[member_id], UnknownMemberError("its session has timed out"))
        if group.members:
            self._prepare(group)
        elif group.state is not GroupState.PREPARING_REBALANCE:
            group.state = GroupState.EMPTY
        self._complete_join(group)

    @staticmethod
    def _drop(group: FakeGroup, member: FakeMember, error: RaftlogError) -> None:
        del group.members[member.member_id]
        for future in (member.joining, member.syncing):
            if future is not None and not future.done():
                future.set_exception(error)
                future.exception()  # nobody may wait any more
        if member.session is not None:
            member.session.cancel()

    def _touch(self, group: FakeGroup, member: FakeMember) -> None:
        if member.session is not None:
            member.session.cancel()
        loop, wait_s = asyncio.get_running_loop(), member.wish.session_timeout_ms / 1_000
        member.session = loop.call_later(wait_s, self._silent, group, member)

    def _silent(self, group: FakeGroup, member: FakeMember) -> None:
        if member.joining is not None:
            self._touch(group, member)  # who waits for the others is not silent
        else:
            self.expire(group.group_id, member.member_id)

    def _member(self, member: GroupMember) -> tuple[FakeGroup, FakeMember]:
        group = self.group(member.group_id)
        known = group.members.get(member.member_id)
        for other in group.members.values():
            if member.instance_id is not None and other.wish.instance_id == member.instance_id and other is not known:
                raise FencedInstanceError("another member took over this instance id")
        if known is None:
            raise UnknownMemberError(f"{member.member_id} is not a member of {member.group_id}")
        if known.wish.instance_id != member.instance_id:
            raise FencedInstanceError("another member took over this instance id")
        if member.generation != group.generation:
            raise IllegalGenerationError(f"generation {member.generation} is over; it is {group.generation}")
        self._touch(group, known)
        return group, known

    # Offsets

    async def commit_offsets(
        self, member: GroupMember, offsets: Mapping[TopicPartition, CommittedOffset], *, direct: bool = False
    ) -> dict[TopicPartition, RaftlogError | None]:
        self._called("commit_offsets")
        group = self.group(member.group_id)
        if member.generation == NO_GENERATION and not member.member_id:
            if group.members:
                raise UnknownMemberError("the group has members")
        else:
            self._member(member)
            if group.state is GroupState.COMPLETING_REBALANCE:
                raise RebalanceInProgressError("commit again when it is over")
        group.offsets.update({tp: replace(offset, commit_time_ms=1_000) for tp, offset in offsets.items()})
        return dict.fromkeys(offsets)

    async def fetch_offsets(
        self, group_id: str, partitions: Sequence[TopicPartition] | None, *, direct: bool = False
    ) -> dict[TopicPartition, CommittedOffset]:
        self._called("fetch_offsets")
        committed = self.group(group_id).offsets if group_id in self.groups else {}
        return {tp: offset for tp, offset in committed.items() if partitions is None or tp in partitions}

    # Administration

    async def list_groups(self, *, direct: bool = False) -> list[ListedGroup]:
        self._called("list_groups")
        return [
            ListedGroup(group_id=one.group_id, protocol_type=one.protocol_type, state=one.state) for one in self.groups.values()
        ]

    async def describe_group(self, group_id: str, *, direct: bool = False) -> DescribedGroup:
        self._called("describe_group")
        group = self.groups.get(group_id)
        if group is None:
            return DescribedGroup(group_id=group_id, state=GroupState.DEAD)
        members = tuple(
            DescribedMember(
                member_id=one.member_id,
                instance_id=one.wish.instance_id,
                client_id=one.wish.client_id,
                client_host=one.wish.client_host,
                metadata=dict(one.wish.protocols).get(group.protocol, b""),
                assignment=one.assignment if group.state is GroupState.STABLE else b"",
            )
            for one in group.members.values()
        )
        return DescribedGroup(
            group_id=group_id, state=group.state, protocol_type=group.protocol_type, protocol=group.protocol,
            generation=group.generation, members=members,
        )  # fmt: skip

    async def delete_group(self, group_id: str, *, direct: bool = False) -> None:
        self._called("delete_group")
        if group_id not in self.groups:
            raise GroupIdNotFoundError(f"there is no group {group_id}")
        if self.groups[group_id].members:
            raise GroupNotEmptyError(f"group {group_id} has members; stop them first")
        del self.groups[group_id]

    async def delete_offsets(
        self, group_id: str, partitions: Sequence[TopicPartition], *, direct: bool = False
    ) -> dict[TopicPartition, RaftlogError | None]:
        self._called("delete_offsets")
        if group_id not in self.groups:
            raise GroupIdNotFoundError(f"there is no group {group_id}")
        group, outcomes = self.groups[group_id], dict[TopicPartition, RaftlogError | None]()
        for tp in partitions:
            if group.members:
                outcomes[tp] = GroupSubscribedToTopicError(f"group {group_id} reads {tp.topic}")
            else:
                group.offsets.pop(tp, None)
                outcomes[tp] = None
        return outcomes
