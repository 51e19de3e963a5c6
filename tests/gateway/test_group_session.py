"""Sessions: members of one group through the gRPC door, over a coordinator in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from raftlog.broker.group_port import CommittedOffset, GroupMember, GroupState, JoinGroup
from raftlog.core import consumer_protocol
from raftlog.errors import CoordinatorNotAvailableError, RaftlogError, UnknownMemberError
from raftlog.model import NodeInfo, TopicPartition
from raftlog.pb.raftlog.v1 import group_service_pb2 as pb
from tests.gateway.helpers import TIMEOUT_S, Door, open_door, told, told_by_call, until

EAGER, COOPERATIVE = [pb.ASSIGNOR_RANGE], [pb.ASSIGNOR_COOPERATIVE_STICKY]


class Member:
    """A client of one session that does as it is told: it acknowledges what is revoked, unless ``obedient`` is False."""

    def __init__(self, door: Door, **join: Any) -> None:
        self.join = {"group_id": "g", "topics": ["t"], "assignors": COOPERATIVE, **join}
        self.call = door.groups.Session()
        self.obedient = True
        self.member_id: str | None = None
        self.generation = -1
        self.assignor = ""
        self.leads = False
        self.owned: set[int] = set()
        self.begins: dict[int, int | None] = {}
        self.said: list[str] = []
        self.revoke_id = 0
        self.commits: dict[int, list[pb.OffsetResult]] = {}
        self.error: grpc.aio.AioRpcError | None = None
        self._writing = asyncio.Lock()

    async def run(self) -> None:
        """Until the stream ends."""
        try:
            await self._write(pb.SessionRequest(join=pb.JoinSession(**self.join)))
            while isinstance(response := await self.call.read(), pb.SessionResponse):
                await self._take(response)
        except grpc.aio.AioRpcError as error:
            self.error = error

    async def _take(self, response: pb.SessionResponse) -> None:
        which = response.WhichOneof("response")
        if which == "membership":
            self.member_id = response.membership.member_id
        elif which == "assignment":
            one = response.assignment
            self.generation, self.assignor, self.leads = one.generation, one.assignor, one.leader
            self.owned |= {tp.partition for tp in one.partitions}
            self.begins = {
                tp.partition: tp.committed_offset if tp.HasField("committed_offset") else None for tp in one.partitions
            }
            self.said.append("assigned " + shown(tp.partition for tp in one.partitions if tp.added))
        elif which == "revoke":
            gone = {tp.partition for tp in response.revoke.partitions}
            self.said.append(("lost " if response.revoke.lost else "revoke ") + shown(gone))
            self.revoke_id = response.revoke.revoke_id
            self.owned -= gone
            if self.obedient and not response.revoke.lost:
                await self.acknowledge()
        else:
            self.commits[response.committed.commit_id] = list(response.committed.results)

    async def _write(self, request: pb.SessionRequest) -> None:
        async with self._writing:
            await self.call.write(request)

    async def acknowledge(self) -> None:
        await self._write(pb.SessionRequest(revoked=pb.AcknowledgeRevoke(revoke_id=self.revoke_id)))

    async def commit(self, partition: int, offset: int, generation: int | None = None) -> str:
        """Commit; the error's reason, empty where it was done."""
        commit_id = len(self.commits) + 1
        offsets = [pb.NewOffset(topic="t", partition=partition, offset=offset)]
        await self._write(pb.SessionRequest(commit=pb.CommitSession(commit_id=commit_id, offsets=offsets, generation=generation)))
        await until(lambda: commit_id in self.commits)
        [result] = self.commits[commit_id]
        return told(result.error).reason if result.HasField("error") else ""

    @property
    def reason(self) -> str:
        """Why the session failed."""
        assert self.error is not None
        return told_by_call(self.error).reason


def shown(partitions: Iterable[int]) -> str:
    return " ".join(map(str, sorted(partitions)))


class Crowd:
    """Members of one group at one door."""

    def __init__(self, door: Door, tasks: asyncio.TaskGroup) -> None:
        self.door = door
        self._tasks = tasks
        self.members: list[Member] = []

    def add(self, **join: Any) -> Member:
        """One more."""
        member = Member(self.door, **join)
        self.members.append(member)
        self._tasks.create_task(member.run())
        return member

    async def settled(self, *sizes: int) -> None:
        """Wait until these members have so many partitions, and each partition has one owner."""

        def even() -> bool:
            owned = [number for member in self.members for number in member.owned]
            return sorted(len(member.owned) for member in self.members) == sorted(sizes) and len(owned) == len(set(owned))

        await until(even)


@asynccontextmanager
async def crowd() -> AsyncIterator[Crowd]:
    """A door and a crowd; topic ``t`` has three partitions."""
    async with open_door() as door, asyncio.TaskGroup() as tasks:
        one = Crowd(door, tasks)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                yield one
        finally:
            for member in one.members:
                member.call.cancel()


async def test_a_lone_member_has_everything_and_learns_where_to_begin() -> None:
    """Assignment, leaders' addresses and committed offsets come at once: the client needs no other call."""
    async with crowd() as those:
        group = those.door.fake_groups.group("g")
        group.offsets[TopicPartition("t", 1)] = CommittedOffset(offset=7, metadata="m")
        member = those.add()
        await those.settled(3)
        assert member.begins == {0: None, 1: 7, 2: None}
        assert (member.generation, member.leads, member.assignor) == (1, True, "cooperative-sticky")
        assert member.member_id == next(iter(group.members))
        assert group.state is GroupState.STABLE


async def test_with_a_cooperative_assignor_only_what_moves_is_revoked() -> None:
    """The first member keeps two of three, and never gives them up."""
    async with crowd() as those:
        first = those.add()
        await those.settled(3)
        those.add()
        await those.settled(2, 1)
        assert [word for word in first.said if word.startswith(("revoke", "lost"))] == ["revoke 2"]
        those.add()
        await those.settled(1, 1, 1)


async def test_with_an_eager_assignor_everything_is_revoked_before_the_rebalance() -> None:
    """The second member waits until the first has let go of all."""
    async with crowd() as those:
        first = those.add(assignors=EAGER)
        await those.settled(3)
        first.obedient = False
        second = those.add(assignors=EAGER)
        await until(lambda: "revoke 0 1 2" in first.said)
        assert second.said == []
        assert await first.commit(0, 5) == ""
        first.obedient = True
        await first.acknowledge()
        await those.settled(2, 1)
        assert {**first.begins, **second.begins}[0] == 5


async def test_a_commit_before_an_acknowledgement_is_done_before_it() -> None:
    """Both are written without waiting; whoever gets the partition next begins behind the commit."""
    async with crowd() as those:
        first = those.add(assignors=EAGER)
        await those.settled(3)
        first.obedient = False
        second = those.add(assignors=EAGER)
        await until(lambda: first.revoke_id != 0)
        offsets = [pb.NewOffset(topic="t", partition=number, offset=9) for number in range(3)]
        await first._write(pb.SessionRequest(commit=pb.CommitSession(commit_id=1, offsets=offsets)))
        await first.acknowledge()
        first.obedient = True
        await those.settled(2, 1)
        assert {**first.begins, **second.begins} == {0: 9, 1: 9, 2: 9}


async def test_a_client_that_ends_its_side_leaves_at_once() -> None:
    """The others need not wait for its session to time out."""
    async with crowd() as those:
        first, second = those.add(), those.add()
        await until(lambda: sorted(map(len, (first.owned, second.owned))) == [1, 2])
        gone = second.member_id
        second.owned.clear()
        await second.call.done_writing()
        await until(lambda: len(first.owned) == 3)
        assert those.door.fake_groups.left == [gone]


async def test_a_static_member_that_ends_its_side_keeps_its_place() -> None:
    """It comes back to the same partitions, and nobody is rebalanced."""
    async with crowd() as those:
        other, member = those.add(), those.add(instance_id="one")
        await until(lambda: sorted(map(len, (other.owned, member.owned))) == [1, 2])
        generation = those.door.fake_groups.group("g").generation
        had = set(member.owned)
        await member.call.done_writing()
        await until(member.call.done)
        again = those.add(instance_id="one")
        await until(lambda: again.owned == had)
        assert those.door.fake_groups.group("g").generation == generation
        assert those.door.fake_groups.left == []


async def test_a_broken_stream_leaves_the_member_in_its_place_until_it_comes_back() -> None:
    """With its member id it goes on, and what it still read is not taken from it."""
    async with crowd() as those:
        first, other = those.add(), those.add()
        await until(lambda: sorted(map(len, (first.owned, other.owned))) == [1, 2])
        first.call.cancel()
        await until(first.call.done)
        owned = [pb.GroupPartition(topic="t", partition=number) for number in first.owned]
        again = those.add(member_id=first.member_id, generation=first.generation, owned=owned)
        await until(lambda: again.owned == first.owned)
        assert again.member_id == first.member_id
        assert [word for word in again.said + other.said if word.startswith(("lost", "revoke "))] in ([], ["revoke 2"])
        assert again.said[-1] == "assigned "


async def test_a_member_whose_session_timed_out_loses_what_it_had_and_joins_anew() -> None:
    """Its partitions may have other owners; it is told so, and goes on as a new member by itself."""
    async with crowd() as those:
        member = those.add()
        await those.settled(3)
        before = member.member_id
        assert before is not None
        those.door.fake_groups.expire("g", before)
        await until(lambda: member.said[-2:] == ["lost 0 1 2", "assigned 0 1 2"])
        assert member.member_id not in (before, "")


async def test_a_client_that_does_not_know_yet_that_it_lost_a_partition_cannot_commit_it() -> None:
    """It was given the same partitions again, but another member may have gone on with them between: an offset would go back."""
    async with crowd() as those:
        member = those.add()
        await those.settled(3)
        before, generation = member.member_id, member.generation
        assert before is not None
        those.door.fake_groups.expire("g", before)
        await until(lambda: member.said[-2:] == ["lost 0 1 2", "assigned 0 1 2"])
        assert member.generation > generation
        assert await member.commit(1, 7, generation) == "ILLEGAL_GENERATION"
        assert await member.commit(1, 7, member.generation) == ""
        assert await member.commit(1, 8) == ""


async def test_a_rebalance_that_leaves_a_partition_does_not_keep_its_commits() -> None:
    """The client may not have carried out the newer assignment yet: what it keeps was its own all the time."""
    async with crowd() as those:
        first = those.add()
        await those.settled(3)
        generation = first.generation
        those.add()
        await those.settled(2, 1)
        (kept, *_) = sorted(first.owned)
        assert first.generation > generation
        assert await first.commit(kept, 7, generation) == ""


async def test_a_group_that_turns_eager_takes_everything_from_members_that_were_cooperative() -> None:
    """A client that knows only range joined: what the others still read while they joined is lost."""
    async with crowd() as those:
        first = those.add(assignors=[*COOPERATIVE, *EAGER])
        await those.settled(3)
        those.add(assignors=EAGER)
        await those.settled(2, 1)
        assert first.said[1] == "lost 0 1 2"
        assert first.assignor == "range"


async def test_more_partitions_and_matching_topics_begin_a_rebalance() -> None:
    """The group's leader sees partitions come, every member the topics that match its pattern."""
    async with crowd() as those:
        member = those.add(topics=["t"], topic_pattern="ex.*")
        await those.settled(3)
        those.door.broker.add_topic("t", 5)
        await until(lambda: member.owned == {0, 1, 2, 3, 4})
        those.door.broker.add_topic("extra", 1)
        those.door.broker.add_topic("other", 1)
        those.door.broker.add_topic("__extra", 1)
        await until(lambda: member.generation == 3)
        described = await those.door.groups.DescribeGroup(pb.DescribeGroupRequest(group_id="g"))
        assert list(described.members[0].topics) == ["extra", "t"]


async def test_what_a_member_does_not_have_it_cannot_commit() -> None:
    """A late commit must not move the offset of a partition that another member reads."""
    async with crowd() as those:
        member = those.add()
        await those.settled(3)
        assert await member.commit(0, 5) == ""
        assert await member.commit(9, 5) == "ILLEGAL_GENERATION"
        assert those.door.fake_groups.group("g").offsets.keys() == {TopicPartition("t", 0)}


async def test_a_coordinator_that_is_away_for_a_while_goes_unnoticed() -> None:
    """Every call of the member is made again."""
    async with crowd() as those:
        away: list[RaftlogError] = [CoordinatorNotAvailableError("an election")] * 2
        for method in ("find_coordinator", "join_group", "sync_group", "heartbeat", "fetch_offsets"):
            those.door.fake_groups.failures[method] = list(away)
        member = those.add()
        await those.settled(3)
        await until(lambda: not those.door.fake_groups.failures["heartbeat"])
        beats = those.door.fake_groups.calls.count("heartbeat")
        await until(lambda: those.door.fake_groups.calls.count("heartbeat") > beats + 1)
        assert member.said == ["assigned 0 1 2"]


async def test_a_direct_session_is_sent_to_the_node_that_coordinates() -> None:
    """At once, or before the next rebalance where the coordinator has moved; others are forwarded."""
    async with crowd() as those:
        direct, other = those.add(direct=True), those.add()
        await until(lambda: sorted(map(len, (direct.owned, other.owned))) == [1, 2])
        there = NodeInfo(node_id=2, peer_address="", grpc_address="127.0.0.1:7102")
        those.door.fake_groups.coordinator = there
        third = those.add(direct=True)
        await until(lambda: third.error is not None)
        assert third.reason == "NOT_COORDINATOR"
        those.door.broker.add_topic("t", 6)
        await until(lambda: direct.error is not None)
        assert direct.error is not None
        hint = told_by_call(direct.error).hint
        assert hint is not None
        assert (hint.node_id, hint.grpc_address) == (2, "127.0.0.1:7102")
        assert other.error is None
        assert those.door.fake_groups.left == []


async def test_a_stopping_node_ends_sessions_without_leaving() -> None:
    """The client goes on elsewhere, as the same member."""
    async with crowd() as those:
        member = those.add()
        await those.settled(3)
        await those.door.gateway.stop(5)
        await until(lambda: member.error is not None)
        assert member.reason == "SHUTTING_DOWN"
        assert those.door.fake_groups.left == []


async def test_what_a_foreign_leader_assigns_that_cannot_be_is_passed_over() -> None:
    """A partition below zero is none; what is right beside it is read."""
    async with crowd() as those:
        groups = those.door.fake_groups
        metadata = consumer_protocol.encode_subscription(consumer_protocol.Subscription(topics=("t",)), 0)
        wish = JoinGroup(group_id="g", client_id="kafka", protocols=(("range", metadata),))
        joined = await groups.join_group(wish)
        member = those.add(assignors=[])
        await until(lambda: len(groups.group("g").members) == 2)
        again = await groups.join_group(JoinGroup(group_id="g", member_id=joined.member_id, protocols=wish.protocols))
        odd = tuple(TopicPartition("t", number) for number in (-5, 1))
        assigned = consumer_protocol.encode_assignment(consumer_protocol.Assignment(partitions=odd))
        name = GroupMember(group_id="g", generation=again.generation, member_id=again.member_id)
        await groups.sync_group(name, {one.member_id: assigned for one in again.members})
        await until(lambda: member.owned == {1} or member.error is not None)
        assert member.error is None


async def test_a_kafka_client_and_a_grpc_client_share_a_group() -> None:
    """One that speaks the coordinator's protocol itself, with range, gets its part and takes its part in leading."""
    async with crowd() as those:
        groups = those.door.fake_groups
        metadata = consumer_protocol.encode_subscription(consumer_protocol.Subscription(topics=("t",)), 0)
        wish = JoinGroup(group_id="g", client_id="kafka", protocols=(("range", metadata),))
        joined = await groups.join_group(wish)
        member = those.add(assignors=[])

        async def kafka() -> bytes:
            again = await groups.join_group(JoinGroup(group_id="g", member_id=joined.member_id, protocols=wish.protocols))
            halves = {
                one.member_id: consumer_protocol.encode_assignment(
                    consumer_protocol.Assignment(partitions=(TopicPartition("t", number),))
                )
                for number, one in enumerate(again.members)
            }
            name = GroupMember(group_id="g", generation=again.generation, member_id=again.member_id)
            return (await groups.sync_group(name, halves)).assignment

        await until(lambda: len(groups.group("g").members) == 2)
        mine = consumer_protocol.decode_assignment(await kafka()).partitions
        await until(lambda: member.owned == {1})
        assert mine == (TopicPartition("t", 0),)
        assert member.assignor == "range"


@pytest.mark.parametrize(
    ("join", "reason"),
    [
        ({"group_id": ""}, "INVALID_GROUP_ID"),
        ({"topics": []}, "INVALID_REQUEST"),
        ({"topics": ["/"]}, "INVALID_TOPIC"),
        ({"topic_pattern": "("}, "INVALID_REQUEST"),
        ({"assignors": [99]}, "INVALID_REQUEST"),
        ({"instance_id": ""}, "INVALID_REQUEST"),
        ({"session_timeout_ms": 2**32 - 1}, "INVALID_REQUEST"),
        ({"owned": [pb.GroupPartition(topic="t", partition=2**31)]}, "INVALID_REQUEST"),
        ({"owned": [pb.GroupPartition(topic="t" * 250, partition=0)]}, "INVALID_TOPIC"),
        ({"session_timeout_ms": 2**31 - 1}, "INVALID_SESSION_TIMEOUT"),
    ],
)
async def test_a_wrong_wish_ends_the_session_with_its_reason(join: dict[str, Any], reason: str) -> None:
    """The message names the field."""
    async with crowd() as those:
        member = those.add(**join)
        await until(lambda: member.error is not None)
        assert member.reason == reason


async def test_members_that_share_no_assignor_are_refused() -> None:
    """The newcomer is told; those that are there go on."""
    async with crowd() as those:
        first = those.add(assignors=COOPERATIVE)
        await those.settled(3)
        second = those.add(assignors=EAGER)
        await until(lambda: second.error is not None)
        assert second.reason == "INCONSISTENT_GROUP_PROTOCOL"
        assert len(first.owned) == 3


async def test_another_member_with_the_same_instance_id_takes_over() -> None:
    """The first is fenced, and its session ends with that."""
    async with crowd() as those:
        first = those.add(instance_id="one")
        await those.settled(3)
        second = those.add(instance_id="one")
        await until(lambda: first.error is not None)
        assert first.reason == "FENCED_INSTANCE_ID"
        await until(lambda: len(second.owned) == 3)


@pytest.mark.parametrize("first", [pb.SessionRequest(), pb.SessionRequest(poll=pb.PollSession())])
async def test_a_session_begins_with_a_join(first: pb.SessionRequest) -> None:
    """Anything else is refused."""
    async with open_door() as door:
        call = door.groups.Session()
        await call.write(first)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call.read()
        assert told_by_call(raised.value).reason == "INVALID_REQUEST"


async def test_unknown_member_while_committing_is_told_to_the_committer() -> None:
    """A commit that the coordinator refuses has its reason, and the session goes on."""
    async with crowd() as those:
        member = those.add()
        await those.settled(3)
        those.door.fake_groups.failures["commit_offsets"] = [UnknownMemberError("who?")]
        assert await member.commit(0, 1) == "UNKNOWN_MEMBER_ID"
        assert await member.commit(0, 2) == ""
