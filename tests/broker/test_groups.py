"""Consumer groups through a whole broker: here, forwarded, over a change of coordinators."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from raftlog.broker.broker import NodeBroker
from raftlog.broker.group_port import (
    GROUPS_TOPIC,
    CommittedOffset,
    GroupBroker,
    GroupMember,
    GroupState,
    JoinedGroup,
    JoinGroup,
    Leaver,
)
from raftlog.core.groups.hashing import partition_of
from raftlog.core.groups.limits import GroupLimits
from raftlog.core.tasks import TaskScope
from raftlog.errors import (
    CoordinatorNotAvailableError,
    FencedInstanceError,
    GroupIdNotFoundError,
    GroupNotEmptyError,
    GroupSubscribedToTopicError,
    IllegalGenerationError,
    InvalidGroupIdError,
    InvalidTopicError,
    MemberIdRequiredError,
    NotCoordinatorError,
    OffsetMetadataTooLargeError,
    OverloadedError,
    RebalanceInProgressError,
    UnknownMemberError,
    UnknownTopicOrPartitionError,
)
from raftlog.model import Acks, TopicPartition
from tests.broker.cluster import FAST, Cluster, cluster, until
from tests.broker.doubles import error_of, records

NOW = replace(FAST, groups=GroupLimits(initial_rebalance_delay_ms=0), coordinator_wait_s=0.2)
T0, T1 = TopicPartition("t", 0), TopicPartition("t", 1)


def subscription(*topics: str) -> bytes:
    """What a consumer says of itself: version 0, its topics, no user data."""
    names = b"".join(len(topic).to_bytes(2, "big") + topic.encode() for topic in topics)
    return b"\0\0" + len(topics).to_bytes(4, "big") + names + b"\xff\xff\xff\xff"


def wish(group_id: str = "g", **changes: Any) -> JoinGroup:
    """A consumer of ``t`` that wants to join."""
    plain = JoinGroup(group_id=group_id, client_id="c", protocols=(("range", subscription("t")),))
    return replace(plain, **changes)


def member_of(joined: JoinedGroup, group_id: str = "g", instance_id: str | None = None) -> GroupMember:
    """The member that a join made."""
    return GroupMember(group_id=group_id, generation=joined.generation, member_id=joined.member_id, instance_id=instance_id)


async def alone(groups: GroupBroker, group_id: str = "g", **changes: Any) -> GroupMember:
    """Join as the only member, and sync."""
    joined = await groups.join_group(wish(group_id, **changes))
    assert joined.leader == joined.member_id
    member = member_of(joined, group_id, changes.get("instance_id"))
    synced = await groups.sync_group(member, {joined.member_id: b"mine"})
    assert synced.assignment == b"mine"
    return member


def at(offset: int, metadata: str = "") -> CommittedOffset:
    """An offset to commit."""
    return CommittedOffset(offset=offset, leader_epoch=3, metadata=metadata)


async def create_t(broker: NodeBroker) -> None:
    """Topic ``t`` with two partitions."""
    await broker.create_topic("t", partitions=2, replication_factor=0, configs={})


def coordinator_of(made: Cluster, group_id: str = "g") -> int:
    """The node that leads the group's partition of the internal topic."""
    topic = made.brokers[1].topic(GROUPS_TOPIC)
    leader = topic.partitions[partition_of(group_id, len(topic.partitions))].leader
    assert leader is not None
    return leader


async def test_a_member_joins_syncs_commits_and_finds_its_offsets() -> None:
    """The whole way of one consumer on one node; the internal topic comes by itself."""
    async with cluster(1, NOW) as made:
        broker = made.brokers[1]
        await create_t(broker)
        groups: GroupBroker = broker.groups
        member = await alone(groups)
        assert member.generation == 1
        await groups.heartbeat(member)
        assert await groups.commit_offsets(member, {T0: at(5, "words"), T1: at(7)}) == {T0: None, T1: None}
        fetched = await groups.fetch_offsets("g", None)
        assert (fetched[T0].offset, fetched[T0].leader_epoch, fetched[T0].metadata) == (5, 3, "words")
        assert fetched[T0].commit_time_ms > 0
        assert (await groups.fetch_offsets("g", [T1, TopicPartition("t", 9)])).keys() == {T1}
        assert [(group.group_id, group.state) for group in await groups.list_groups()] == [("g", GroupState.STABLE)]
        described = await groups.describe_group("g")
        assert (described.protocol, described.generation) == ("range", 1)
        assert [(m.client_id, m.assignment) for m in described.members] == [("c", b"mine")]


async def test_every_node_takes_every_call() -> None:
    """Calls go to the coordinator over the links; asked directly, the others say who it is."""
    async with cluster(3, NOW) as made:
        await create_t(made.brokers[1])
        for node_id in (1, 2, 3):
            group_id = f"g{node_id}"
            groups = made.brokers[node_id].groups
            member = await alone(groups, group_id)
            await groups.heartbeat(member)
            assert await groups.commit_offsets(member, {T0: at(node_id)}) == {T0: None}
            for other in made.brokers.values():
                assert (await other.groups.fetch_offsets(group_id, [T0]))[T0].offset == node_id
                assert (await other.groups.describe_group(group_id)).state is GroupState.STABLE
                assert (await other.groups.find_coordinator(group_id)).node_id == coordinator_of(made, group_id)
            assert await groups.leave_group(group_id, [Leaver(member_id=member.member_id)]) == [None]
            assert (await groups.describe_group(group_id)).state is GroupState.EMPTY
        listed = await made.brokers[2].groups.list_groups()
        assert [group.group_id for group in listed] == ["g1", "g2", "g3"]
        elsewhere = made.brokers[coordinator_of(made, "g1") % 3 + 1].groups
        with pytest.raises(NotCoordinatorError) as refused:
            await elsewhere.join_group(wish("g1"), direct=True)
        assert refused.value.hint is not None
        assert refused.value.hint.node_id == coordinator_of(made, "g1")


def _raft_group(made: Cluster, group_id: str = "g") -> int:
    topic = made.brokers[1].topic(GROUPS_TOPIC)
    return topic.partitions[partition_of(group_id, len(topic.partitions))].group_id


async def _waits(scope: TaskScope, call: Coroutine[Any, Any, Any], until_true: Callable[[], bool]) -> asyncio.Task[Any]:
    """Start a call, and wait until it has got where it waits."""
    task = scope.start(call, name="waiting-member")
    await until(until_true)
    return task


async def test_a_new_coordinator_goes_on_where_members_were_told_that_they_are() -> None:
    """Generation, members, assignments and offsets are there; nobody has to join again, and the next generation is higher."""
    async with cluster(3, NOW) as made:
        await create_t(made.brokers[1])
        groups = made.brokers[1].groups
        member = await alone(groups)
        assert await groups.commit_offsets(member, {T0: at(5)}) == {T0: None}
        old = coordinator_of(made)
        made.network.elect(_raft_group(made), old % 3 + 1)
        await until(lambda: coordinator_of(made) != old)
        await groups.heartbeat(member)
        assert (await groups.sync_group(member, {})).assignment == b"mine"
        assert (await groups.fetch_offsets("g", None))[T0].offset == 5
        assert await groups.commit_offsets(member, {T0: at(6)}) == {T0: None}
        again = await groups.join_group(wish(member_id=member.member_id))
        assert again.generation == member.generation + 1
        with pytest.raises(IllegalGenerationError):
            await groups.commit_offsets(member, {T0: at(7)})


async def test_who_waits_at_a_deposed_coordinator_is_sent_away_at_once() -> None:
    """It joins again at the new one, which knows nothing of the rebalance that was under way."""
    async with cluster(3, NOW) as made:
        await create_t(made.brokers[1])
        member = await alone(made.brokers[1].groups)
        old = coordinator_of(made)
        scope = TaskScope(lambda _: None)
        coordinator = made.brokers[old]
        second = await _waits(
            scope,
            coordinator.groups.join_group(wish(), direct=True),
            lambda: coordinator.groups.states()[GroupState.PREPARING_REBALANCE] == 1,
        )
        made.network.elect(_raft_group(made), old % 3 + 1)
        with pytest.raises(NotCoordinatorError):
            await second
        assert coordinator.groups.states() == {}
        groups = made.brokers[old % 3 + 1].groups
        assert (await groups.describe_group("g")).state is GroupState.STABLE
        await groups.heartbeat(member)
        await scope.close()


async def test_a_forwarded_join_waits_for_the_rebalance_and_such_waits_are_bounded() -> None:
    """A member that joins through another node waits there; beyond the bound the node says so."""
    async with cluster(3, replace(NOW, group_forwarded_waits_max=1)) as made:
        await create_t(made.brokers[1])
        member = await alone(made.brokers[1].groups)
        coordinator = made.brokers[coordinator_of(made)].groups
        door = made.brokers[coordinator_of(made) % 3 + 1].groups
        scope = TaskScope(lambda _: None)
        second = await _waits(scope, door.join_group(wish()), lambda: coordinator.states()[GroupState.PREPARING_REBALANCE] == 1)
        with pytest.raises(OverloadedError):
            await door.join_group(wish())
        with pytest.raises(RebalanceInProgressError):
            await door.heartbeat(member)
        first = await coordinator.join_group(wish(member_id=member.member_id))
        joined = await second
        assert (first.generation, joined.generation, joined.leader) == (2, 2, member.member_id)
        await door.heartbeat(member_of(joined))
        await scope.close()


async def test_cancelling_a_join_leaves_the_member_joined() -> None:
    """As a lost connection would: the generation is made with it."""
    async with cluster(1, NOW) as made:
        await create_t(made.brokers[1])
        groups = made.brokers[1].groups
        member = await alone(groups)
        scope = TaskScope(lambda _: None)
        second = await _waits(scope, groups.join_group(wish()), lambda: groups.states()[GroupState.PREPARING_REBALANCE] == 1)
        second.cancel()
        await until(second.done)
        joined = await groups.join_group(wish(member_id=member.member_id))
        assert len(joined.members) == 2
        await scope.close()


async def test_calls_without_a_coordinator_say_so_after_a_short_wait() -> None:
    """While it is elected, and where the internal topic cannot be made."""
    async with cluster(3, NOW) as made:
        await create_t(made.brokers[1])
        member = await alone(made.brokers[1].groups)
        raft_group = _raft_group(made)
        for consensus in made.network.nodes.values():
            if raft_group in consensus.logs:
                consensus.logs[raft_group].follow(9)
        made.network.leaders[raft_group] = (0, 0)
        del made.network.leaders[raft_group]
        for broker in made.brokers.values():
            with pytest.raises(CoordinatorNotAvailableError):
                await broker.groups.heartbeat(member)
            with pytest.raises(CoordinatorNotAvailableError):
                await broker.groups.find_coordinator("g")
            with pytest.raises(CoordinatorNotAvailableError):
                await broker.groups.list_groups()


async def test_what_is_asked_of_no_group_makes_no_topic() -> None:
    """Lists and descriptions are empty; a heartbeat is of no member; a group needs an id."""
    async with cluster(1, NOW) as made:
        groups = made.brokers[1].groups
        assert await groups.list_groups() == []
        assert (await groups.describe_group("g")).state is GroupState.DEAD
        with pytest.raises(GroupIdNotFoundError):
            await groups.delete_group("g")
        assert made.brokers[1].topics() == []
        with pytest.raises(InvalidGroupIdError):
            await groups.join_group(wish(""))
        with pytest.raises(InvalidGroupIdError):
            await groups.fetch_offsets("x" * 40_000, None)
        with pytest.raises(UnknownMemberError):
            await groups.heartbeat(GroupMember(group_id="g", generation=1, member_id="x"))
        assert [error_of(outcome).reason for outcome in await groups.leave_group("g", [Leaver(member_id="x")])] == [
            "UNKNOWN_MEMBER_ID"
        ]
        assert await groups.fetch_offsets("g", None) == {}


async def test_the_first_calls_of_all_nodes_make_the_topic_once() -> None:
    """With as many partitions and replicas as its settings say, on every node."""
    async with cluster(3, replace(NOW, offsets_topic_num_partitions=4, offsets_topic_replication_factor=2)) as made:
        await create_t(made.brokers[1])
        members = await asyncio.gather(*(alone(made.brokers[node].groups, f"g{node}") for node in (1, 2, 3)))
        assert [member.generation for member in members] == [1, 1, 1]
        topic = made.brokers[2].topic(GROUPS_TOPIC)
        assert (len(topic.partitions), topic.replication_factor) == (4, 2)


async def test_the_internal_topic_is_nobodys_to_change() -> None:
    """Not to publish to, read, alter, delete or create; its replicas are told of like others."""
    async with cluster(1, NOW) as made:
        broker = made.brokers[1]
        await create_t(broker)
        await alone(broker.groups)
        internal = TopicPartition(GROUPS_TOPIC, 0)
        (outcome,) = await broker.publish([(internal, records())], acks=Acks.ALL, timeout_s=1.0)
        assert isinstance(outcome, InvalidTopicError)
        with pytest.raises(InvalidTopicError):
            await broker.fetch(internal, 0, bytes_max=1)
        with pytest.raises(InvalidTopicError):
            await broker.alter_topic(GROUPS_TOPIC, set_configs={}, unset_configs=(), partitions=9)
        with pytest.raises(InvalidTopicError):
            await broker.delete_topic(GROUPS_TOPIC)
        with pytest.raises(InvalidTopicError):
            await broker.create_topic(GROUPS_TOPIC, partitions=1, replication_factor=0, configs={})
        status = await broker.partition_status(internal)
        assert (status.log_start_offset, status.high_watermark) == (0, 0)
        assert (await broker.list_offset(internal, -1)).offset == 0
        replicas = [replica for replica in broker.replicas() if replica.topic == GROUPS_TOPIC]
        assert [replica.partition for replica in replicas] == list(range(8))
        assert all(replica.leader == 1 and not replica.damaged for replica in replicas)


async def test_each_offset_of_a_commit_has_its_own_outcome() -> None:
    """An unknown partition or a long text does not keep the others from being committed."""
    async with cluster(1, NOW) as made:
        await create_t(made.brokers[1])
        groups = made.brokers[1].groups
        member = await alone(groups)
        other = TopicPartition("other", 0)
        outcomes = await groups.commit_offsets(member, {T0: at(1), T1: at(1, "x" * 4_097), other: at(1)})
        assert outcomes[T0] is None
        assert isinstance(outcomes[T1], OffsetMetadataTooLargeError)
        assert isinstance(outcomes[other], UnknownTopicOrPartitionError)
        assert (await groups.fetch_offsets("g", None)).keys() == {T0}
        with pytest.raises(UnknownMemberError):
            await groups.commit_offsets(replace(member, member_id="x"), {T0: at(9)})
        assert (await groups.fetch_offsets("g", None))[T0].offset == 1


async def test_numbers_that_no_partition_has_are_answered_through_any_node() -> None:
    """They are of no partition, and do no harm on the way."""
    async with cluster(2, NOW) as made:
        await create_t(made.brokers[1])
        below, above = TopicPartition("t", -1), TopicPartition("t", 1 << 31)
        for broker in made.brokers.values():
            groups, member = broker.groups, GroupMember(group_id="g")
            outcomes = await groups.commit_offsets(member, {below: at(1), T0: at(1), above: at(1)})
            assert outcomes[T0] is None
            assert isinstance(outcomes[below], UnknownTopicOrPartitionError)
            assert isinstance(outcomes[above], UnknownTopicOrPartitionError)
            assert (await groups.fetch_offsets("g", [below, T0, above])).keys() == {T0}
            assert [type(outcome) for outcome in (await groups.delete_offsets("g", [below, T0])).values()] == [
                UnknownTopicOrPartitionError, type(None),
            ]  # fmt: skip


async def test_offsets_of_a_deleted_topic_go_and_those_of_its_namesake_begin_anew() -> None:
    """They are another topic's, so they are not shown even before they are forgotten."""
    async with cluster(3, NOW) as made:
        broker = made.brokers[1]
        await create_t(broker)
        outsider = GroupMember(group_id="g")
        assert await broker.groups.commit_offsets(outsider, {T0: at(5)}) == {T0: None}
        await broker.delete_topic("t")
        await create_t(broker)
        assert await broker.groups.fetch_offsets("g", None) == {}
        coordinators = made.brokers[coordinator_of(made)]._replicas.coordinators
        state = coordinators[_raft_group(made)].machine.state
        await until(lambda: state.offsets == {})
        assert await broker.groups.commit_offsets(outsider, {T0: at(1)}) == {T0: None}
        assert (await broker.groups.fetch_offsets("g", None))[T0].offset == 1


async def test_groups_are_deleted_when_they_are_empty() -> None:
    """With their offsets; offsets alone where nobody subscribes to their topic."""
    async with cluster(2, NOW) as made:
        broker = made.brokers[1]
        await create_t(broker)
        await broker.create_topic("u", partitions=1, replication_factor=0, configs={})
        for groups in (made.brokers[1].groups, made.brokers[2].groups):
            member = await alone(groups)
            unsubscribed = TopicPartition("u", 0)
            await groups.commit_offsets(member, {T0: at(1), unsubscribed: at(1)})
            with pytest.raises(GroupNotEmptyError):
                await groups.delete_group("g")
            outcomes = await groups.delete_offsets("g", [T0, unsubscribed])
            assert isinstance(outcomes[T0], GroupSubscribedToTopicError)
            assert outcomes[unsubscribed] is None
            assert (await groups.fetch_offsets("g", None)).keys() == {T0}
            await groups.leave_group("g", [Leaver(member_id=member.member_id)])
            await groups.delete_group("g")
            assert await groups.fetch_offsets("g", None) == {}
            assert await groups.list_groups() == []
            with pytest.raises(GroupIdNotFoundError):
                await groups.delete_group("g")
            with pytest.raises(GroupIdNotFoundError):
                await groups.delete_offsets("g", [T0])


async def test_a_member_id_is_required_and_then_taken_through_any_node() -> None:
    """The id travels in the error."""
    async with cluster(3, NOW) as made:
        await create_t(made.brokers[1])
        for broker in made.brokers.values():
            with pytest.raises(MemberIdRequiredError) as asked:
                await broker.groups.join_group(wish("h", member_id_required=True))
            assert asked.value.member_id.startswith("c-")
        joined = await made.brokers[2].groups.join_group(wish("h", member_id=asked.value.member_id))
        assert joined.member_id == asked.value.member_id


async def test_a_static_member_keeps_its_place_over_restarts() -> None:
    """Through the whole broker: the old member id is fenced, the new one goes on."""
    async with cluster(2, NOW) as made:
        await create_t(made.brokers[1])
        groups = made.brokers[2].groups
        member = await alone(groups, instance_id="i")
        back = await groups.join_group(wish(instance_id="i"))
        assert (back.generation, back.skip_assignment) == (member.generation, True)
        with pytest.raises(FencedInstanceError):
            await groups.heartbeat(member)
        with pytest.raises(FencedInstanceError):
            await groups.commit_offsets(member, {T0: at(1)})
        assert (await groups.sync_group(member_of(back, instance_id="i"), {})).assignment == b"mine"
