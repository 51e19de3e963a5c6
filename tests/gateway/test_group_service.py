"""The calls about groups: offsets, lag, descriptions, seeking, deletion."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from raftlog.broker.group_port import CommittedOffset, JoinGroup
from raftlog.core import consumer_protocol
from raftlog.errors import LeaderNotAvailableError
from raftlog.gateway.group_offsets import SeekCall
from raftlog.model import Acks, TopicPartition
from raftlog.pb.raftlog.v1 import group_service_pb2 as pb
from raftlog.pb.raftlog.v1 import records_pb2 as r
from tests.gateway.fake_broker import FakeBroker
from tests.gateway.fake_groups import FakeGroups
from tests.gateway.helpers import Door, make_batch, open_door, told, told_by_call

T0, T1, T2 = (TopicPartition("t", number) for number in range(3))
BEGINNING, END = r.Position(edge=r.EDGE_BEGINNING), r.Position(edge=r.EDGE_END)


async def fill(door: Door, count: int = 10, partition: int = 0) -> None:
    """Records of a second each, from 1,000 ms on, one to a batch."""
    for number in range(count):
        batch = make_batch(b"v", timestamp_ms=1_000 * (number + 1))
        await door.broker.publish([(TopicPartition("t", partition), batch)], acks=Acks.ALL, timeout_s=1)


def commit(door: Door, **offsets: int) -> None:
    """Straight into the coordinator: ``commit(door, t0=5)``."""
    group = door.fake_groups.group("g")
    group.offsets.update({TopicPartition(name[0], int(name[1:])): CommittedOffset(offset=at) for name, at in offsets.items()})


async def refused(call: Any) -> str:
    """The reason of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return told_by_call(raised.value).reason


async def join_foreign(door: Door, metadata: bytes | None = None, protocol_type: str = "consumer") -> str:
    """A member of another make; its id."""
    if metadata is None:
        metadata = consumer_protocol.encode_subscription(consumer_protocol.Subscription(topics=("t",)))
    wish = JoinGroup(group_id="g", client_id="c", client_host="/h", protocols=(("range", metadata),), protocol_type=protocol_type)
    return (await door.fake_groups.join_group(wish)).member_id


async def test_simple_consumers_commit_and_fetch_without_being_members() -> None:
    """Offset, metadata and time come back; a partition without a commit says so."""
    async with open_door() as door:
        await fill(door)
        new = [pb.NewOffset(topic="t", partition=0, offset=4, metadata="m", leader_epoch=3)]
        committed = await door.groups.CommitOffsets(pb.CommitOffsetsRequest(group_id="g", offsets=new))
        assert not committed.results[0].HasField("error")
        asked = [pb.GroupPartition(topic="t", partition=number) for number in (0, 1)]
        found = await door.groups.FetchOffsets(pb.FetchOffsetsRequest(group_id="g", partitions=asked, lag=True))
        first, second = found.offsets
        assert (first.committed_offset, first.metadata, first.commit_time_ms) == (4, "m", 1_000)
        assert (first.log_start_offset, first.high_watermark, first.lag) == (0, 10, 6)
        assert not second.HasField("committed_offset")
        assert not second.HasField("lag")
        everything = await door.groups.FetchOffsets(pb.FetchOffsetsRequest(group_id="g"))
        assert [one.committed_offset for one in everything.offsets] == [4]
        assert not everything.offsets[0].HasField("high_watermark")


async def test_a_log_whose_leader_does_not_answer_says_why_and_spares_the_others() -> None:
    """The committed offset is worth having without the lag."""
    async with open_door() as door:
        commit(door, t0=1, t1=2)
        door.broker.failures["partition_status"] = [LeaderNotAvailableError("an election")]
        found = await door.groups.FetchOffsets(pb.FetchOffsetsRequest(group_id="g", lag=True))
        assert [one.committed_offset for one in found.offsets] == [1, 2]
        assert told(found.offsets[0].error).reason == "LEADER_NOT_AVAILABLE"
        assert found.offsets[1].HasField("lag")


async def test_simple_commits_are_refused_while_there_are_members() -> None:
    """And a member's with a generation that is over."""
    async with open_door() as door:
        await join_foreign(door)
        new = [pb.NewOffset(topic="t", partition=0, offset=4)]
        assert await refused(door.groups.CommitOffsets(pb.CommitOffsetsRequest(group_id="g", offsets=new))) == "UNKNOWN_MEMBER_ID"
        member = next(iter(door.fake_groups.group("g").members))
        old = pb.CommitOffsetsRequest(group_id="g", offsets=new, member_id=member, generation=0)
        assert await refused(door.groups.CommitOffsets(old)) == "ILLEGAL_GENERATION"


async def test_a_group_is_listed_and_described() -> None:
    """Members' subscriptions and assignments are decoded, offsets and lag stand beside them."""
    async with open_door() as door:
        await fill(door)
        commit(door, t0=4)
        member_id = await join_foreign(door)
        group = door.fake_groups.group("g")
        assigned = consumer_protocol.Assignment(partitions=(T0, T1))
        group.members[member_id].assignment = consumer_protocol.encode_assignment(assigned)
        group.state = next(state for state in type(group.state) if state.value == "Stable")
        listed = await door.groups.ListGroups(pb.ListGroupsRequest())
        assert [(one.group_id, one.protocol_type, one.state) for one in listed.groups] == [
            ("g", "consumer", pb.GROUP_STATE_STABLE)
        ]
        found = await door.groups.DescribeGroup(pb.DescribeGroupRequest(group_id="g", offsets=True))
        assert (found.protocol, found.generation, found.coordinator) == ("range", 1, 1)
        [member] = found.members
        assert (member.member_id, member.client_id, member.client_host, list(member.topics)) == (member_id, "c", "/h", ["t"])
        assert [one.partition for one in member.assignment] == [0, 1]
        assert [(one.partition, one.lag) for one in found.offsets] == [(0, 6), (1, 0)]


@pytest.mark.parametrize("protocol_type", ["consumer", "connect"])
async def test_a_member_that_says_what_is_not_understood_is_still_described(protocol_type: str) -> None:
    """Garbage, and protocols of others."""
    async with open_door() as door:
        await join_foreign(door, b"\xff\xff", protocol_type)
        found = await door.groups.DescribeGroup(pb.DescribeGroupRequest(group_id="g", offsets=True))
        assert [list(member.topics) for member in found.members] == [[]]


async def test_a_group_that_does_not_exist_is_described_as_dead() -> None:
    """As Kafka does; deleting it, or its offsets, is an error."""
    async with open_door() as door:
        found = await door.groups.DescribeGroup(pb.DescribeGroupRequest(group_id="none", offsets=True))
        assert found.state == pb.GROUP_STATE_DEAD
        partition = pb.GroupPartition(topic="t", partition=0)
        member = pb.MemberName(member_id="m")
        for call in (
            door.groups.DeleteGroup(pb.DeleteGroupRequest(group_id="none")),
            door.groups.DeleteOffsets(pb.DeleteOffsetsRequest(group_id="none", partitions=[partition])),
            door.groups.RemoveMembers(pb.RemoveMembersRequest(group_id="none", members=[member])),
        ):
            assert await refused(call) == "GROUP_ID_NOT_FOUND"


async def test_a_group_and_its_offsets_are_deleted() -> None:
    """Offsets by partition, then all of it; not while there are members."""
    async with open_door() as door:
        commit(door, t0=1, t1=2)
        partition = pb.GroupPartition(topic="t", partition=0)
        deleted = await door.groups.DeleteOffsets(pb.DeleteOffsetsRequest(group_id="g", partitions=[partition]))
        assert not deleted.results[0].HasField("error")
        assert door.fake_groups.group("g").offsets.keys() == {T1}
        member_id = await join_foreign(door)
        assert await refused(door.groups.DeleteGroup(pb.DeleteGroupRequest(group_id="g"))) == "NON_EMPTY_GROUP"
        kept = await door.groups.DeleteOffsets(pb.DeleteOffsetsRequest(group_id="g", partitions=[partition]))
        assert told(kept.results[0].error).reason == "GROUP_SUBSCRIBED_TO_TOPIC"
        names = [pb.MemberName(member_id=member_id), pb.MemberName(instance_id="nobody")]
        removed = await door.groups.RemoveMembers(pb.RemoveMembersRequest(group_id="g", members=names))
        assert [one.HasField("error") for one in removed.members] == [False, True]
        await door.groups.DeleteGroup(pb.DeleteGroupRequest(group_id="g"))
        assert "g" not in door.fake_groups.groups


@pytest.mark.parametrize(
    ("to", "offset"),
    [
        ({"position": BEGINNING}, 0),
        ({"position": END}, 10),
        ({"position": r.Position(offset=7)}, 7),
        ({"position": r.Position(offset=99)}, 10),
        ({"position": r.Position(timestamp_ms=3_500)}, 3),
        ({"position": r.Position(timestamp_ms=99_000)}, 10),
        ({"shift_by": -2}, 3),
        ({"shift_by": -9}, 0),
        ({"shift_by": 2}, 7),
    ],
)
async def test_a_stopped_group_is_sought_to_where_it_is_told(to: dict[str, Any], offset: int) -> None:
    """Ends, offsets, times, steps; what lies outside of the log is moved to its end."""
    async with open_door() as door:
        await fill(door)
        commit(door, t0=5)
        seek = pb.Seek(topic="t", partition=0, **to)
        planned = await door.groups.SeekGroup(pb.SeekGroupRequest(group_id="g", seeks=[seek], dry_run=True))
        assert door.fake_groups.group("g").offsets[T0].offset == 5
        done = await door.groups.SeekGroup(pb.SeekGroupRequest(group_id="g", seeks=[seek]))
        assert planned == done
        assert [(one.old_offset, one.new_offset) for one in done.offsets] == [(5, offset)]
        assert door.fake_groups.group("g").offsets[T0].offset == offset


async def test_a_seek_names_partitions_topics_or_all_that_is_committed() -> None:
    """Later ones win; a shift moves only what is committed."""
    async with open_door() as door:
        for number in range(3):
            await fill(door, 10, number)
        commit(door, t0=5)
        whole, one = pb.Seek(topic="t", position=END), pb.Seek(topic="t", partition=1, position=BEGINNING)
        done = await door.groups.SeekGroup(pb.SeekGroupRequest(group_id="g", seeks=[whole, one]))
        assert [(sought.partition, sought.new_offset) for sought in done.offsets] == [(0, 10), (1, 0), (2, 10)]
        shifted = await door.groups.SeekGroup(pb.SeekGroupRequest(group_id="g", seeks=[pb.Seek(shift_by=-1)]))
        assert [sought.new_offset for sought in shifted.offsets] == [9, 0, 9]
        fresh = pb.SeekGroupRequest(group_id="fresh", seeks=[pb.Seek(topic="t", shift_by=1)])
        assert list((await door.groups.SeekGroup(fresh)).offsets) == []


@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_seek_of_all_of_a_group_that_does_not_exist_is_refused(dry_run: bool) -> None:
    """A mistyped id is no group without offsets; a seek that names topics begins a new group."""
    async with open_door() as door:
        await fill(door)
        named, everything = pb.Seek(topic="t", partition=0, position=END), pb.Seek(position=BEGINNING)
        for seeks in ([everything], [named, everything]):
            request = pb.SeekGroupRequest(group_id="g", seeks=seeks, dry_run=dry_run)
            assert await refused(door.groups.SeekGroup(request)) == "GROUP_ID_NOT_FOUND"
        assert door.fake_groups.groups == {}
        done = await door.groups.SeekGroup(pb.SeekGroupRequest(group_id="g", seeks=[named], dry_run=dry_run))
        assert [sought.new_offset for sought in done.offsets] == [10]


async def test_a_group_with_members_is_not_sought() -> None:
    """They would not notice, and commit over it."""
    async with open_door() as door:
        await join_foreign(door)
        request = pb.SeekGroupRequest(group_id="g", seeks=[pb.Seek(topic="t", position=END)])
        assert await refused(door.groups.SeekGroup(request)) == "NON_EMPTY_GROUP"


async def test_a_partition_that_cannot_be_sought_says_why_and_spares_the_others() -> None:
    """Its leader did not answer."""
    async with open_door() as door:
        door.broker.failures["partition_status"] = [LeaderNotAvailableError("an election")]
        request = pb.SeekGroupRequest(group_id="g", seeks=[pb.Seek(topic="t", position=END)])
        done = await door.groups.SeekGroup(request)
        assert [told(one.error).reason if one.HasField("error") else "" for one in done.offsets] == [
            "LEADER_NOT_AVAILABLE", "", "",
        ]  # fmt: skip
        assert door.fake_groups.group("g").offsets.keys() == {T1, T2}


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("CommitOffsets", pb.CommitOffsetsRequest(group_id="g")),
        ("CommitOffsets", pb.CommitOffsetsRequest(group_id="g", offsets=[pb.NewOffset(topic="t", offset=-1)])),
        ("CommitOffsets", pb.CommitOffsetsRequest(group_id="g", offsets=[pb.NewOffset(offset=1)])),
        ("FetchOffsets", pb.FetchOffsetsRequest(group_id="g", partitions=[pb.GroupPartition()] * 2)),
        ("FetchOffsets", pb.FetchOffsetsRequest(group_id="g", partitions=[pb.GroupPartition(topic="t")] * 10_001)),
        ("DeleteOffsets", pb.DeleteOffsetsRequest(group_id="g")),
        ("SeekGroup", pb.SeekGroupRequest(group_id="g")),
        ("SeekGroup", pb.SeekGroupRequest(group_id="g", seeks=[pb.Seek(topic="t")])),
        ("SeekGroup", pb.SeekGroupRequest(group_id="g", seeks=[pb.Seek(topic="t", partition=7, position=END)])),
        ("RemoveMembers", pb.RemoveMembersRequest(group_id="g")),
        ("RemoveMembers", pb.RemoveMembersRequest(group_id="g", members=[pb.MemberName()])),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(method: str, request_: Any) -> None:
    """Before anything is asked of the coordinator."""
    async with open_door() as door:
        assert await refused(getattr(door.groups, method)(request_)) == "INVALID_REQUEST"


@pytest.mark.parametrize("group_id", ["", "g" * 1_001])
async def test_a_group_id_that_cannot_be_is_refused(group_id: str) -> None:
    """By every call."""
    async with open_door() as door:
        for call in (
            door.groups.DescribeGroup(pb.DescribeGroupRequest(group_id=group_id)),
            door.groups.DeleteGroup(pb.DeleteGroupRequest(group_id=group_id)),
            door.groups.FetchOffsets(pb.FetchOffsetsRequest(group_id=group_id)),
        ):
            assert await refused(call) == "INVALID_GROUP_ID"


async def test_a_seek_that_names_everything_again_and_again_lets_others_have_their_turn() -> None:
    """Ten thousand times all of a group's partitions are looked up, and counted once."""
    broker, groups, turns = FakeBroker(), FakeGroups(), 0
    broker.add_topic("t", 20)

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    seeks = [pb.Seek(topic="t", position=END)] * 2_000
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(other())
        done = await SeekCall(broker, groups, pb.SeekGroupRequest(group_id="g", seeks=seeks)).run()
        task.cancel()
    assert len(done.offsets) == 20
    assert turns > 200
