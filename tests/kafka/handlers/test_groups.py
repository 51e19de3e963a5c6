"""Groups: what members and administrators say reaches the broker's groups, and its answers and errors reach them."""

from __future__ import annotations

from typing import Any

import pytest

from raftlog.broker.group_port import NO_GENERATION, CommittedOffset, GroupMember, JoinGroup, Leaver
from raftlog.errors import (
    CoordinatorNotAvailableError,
    FencedInstanceError,
    GroupFullError,
    GroupIdNotFoundError,
    GroupNotEmptyError,
    GroupSubscribedToTopicError,
    IllegalGenerationError,
    InconsistentGroupProtocolError,
    IndeterminateError,
    InvalidGroupIdError,
    InvalidSessionTimeoutError,
    LeaderNotAvailableError,
    MemberIdRequiredError,
    NotCoordinatorError,
    NotLeaderError,
    OverloadedError,
    RaftlogError,
    RebalanceInProgressError,
    ShuttingDownError,
    UnknownMemberError,
)
from raftlog.kafka.wire.api import ApiKey
from raftlog.model import TopicPartition
from tests.kafka.door import open_door
from tests.kafka.handlers.fake_groups import FakeGroups
from tests.kafka.handlers.helpers import Handlers, versions

ME: dict[str, Any] = {"group_id": "g", "generation_id": 4, "member_id": "m"}


def ready() -> tuple[Handlers, FakeGroups]:
    """Handlers over groups."""
    groups = FakeGroups()
    return Handlers(groups), groups


@pytest.mark.parametrize("version", versions(ApiKey.FIND_COORDINATOR))
async def test_the_coordinator_is_told_by_this_listeners_address(version: int) -> None:
    """From version 4 on for several groups at once."""
    handlers, _ = ready()
    answer = await handlers.ask(ApiKey.FIND_COORDINATOR, version, key="g", coordinator_keys=["g", "h"])
    found = answer.coordinators if version >= 4 else [answer]
    assert [(one.error_code.value, one.node_id, one.host, one.port) for one in found] == [
        (0, 2, "b.example", 9002)
    ] * len(found)  # fmt: skip
    assert len(found) == (2 if version >= 4 else 1)


async def test_a_coordinator_out_of_reach_a_transaction_and_an_empty_group_are_told_apart() -> None:
    """Later; never; never."""
    handlers, groups = ready()
    unreachable = await handlers.ask(ApiKey.FIND_COORDINATOR, 2, key="g", listener="outside")
    assert (unreachable.error_code.value, unreachable.node_id) == (15, -1)
    assert (await handlers.ask(ApiKey.FIND_COORDINATOR, 2, key="x", key_type=1)).error_code.value == 53
    groups.failures["find"].append(InvalidGroupIdError("empty"))
    assert (await handlers.ask(ApiKey.FIND_COORDINATOR, 2, key="")).error_code.value == 24


@pytest.mark.parametrize("version", versions(ApiKey.JOIN_GROUP))
async def test_a_member_joins_with_all_that_it_says(version: int) -> None:
    """From version 4 on a new one must come again with an id; a static one need not."""
    handlers, groups = ready()
    protocols = [{"name": "range", "metadata": b"x"}, {"name": "sticky", "metadata": b"y"}]
    static: dict[str, Any] = {"group_instance_id": "i"} if version >= 5 else {}
    answer = await handlers.ask(
        ApiKey.JOIN_GROUP, version, group_id="g", session_timeout_ms=9_000, rebalance_timeout_ms=70_000, protocol_type="consumer",
        protocols=protocols, **static,
    )  # fmt: skip
    assert (answer.error_code.value, answer.generation_id, answer.protocol_name) == (0, 4, "range")
    assert (answer.leader, answer.member_id, answer.members[0].metadata) == ("m", "m", b"meta")
    expected = JoinGroup(
        group_id="g", instance_id=static.get("group_instance_id"), client_id="client", client_host="/10.0.0.1",
        protocols=(("range", b"x"), ("sticky", b"y")), session_timeout_ms=9_000,
        rebalance_timeout_ms=70_000 if version >= 1 else 9_000, member_id_required=version == 4,
    )  # fmt: skip
    assert groups.calls == [("join", (expected, True))]


@pytest.mark.parametrize("version", [4, 5, 6, 7, 8, 9])
async def test_a_new_member_is_given_the_id_to_come_again_with(version: int) -> None:
    """KIP-394: the error carries it."""
    handlers, groups = ready()
    groups.failures["join"].append(MemberIdRequiredError("come again", member_id="new-1"))
    answer = await handlers.ask(ApiKey.JOIN_GROUP, version, group_id="g", protocols=[])
    assert (answer.error_code.value, answer.member_id, answer.members) == (79, "new-1", ())


async def test_a_static_leader_that_came_back_is_told_to_assign_nothing() -> None:
    """In the version that can say so (KIP-814)."""
    handlers, groups = ready()
    groups.skip_assignment = True
    assert (await handlers.ask(ApiKey.JOIN_GROUP, 9, group_id="g", protocols=[])).skip_assignment


@pytest.mark.parametrize("version", versions(ApiKey.SYNC_GROUP))
async def test_assignments_are_brought_and_fetched(version: int) -> None:
    """Bytes, looked at by nobody in between."""
    handlers, groups = ready()
    named: dict[str, Any] = {"protocol_type": "consumer", "protocol_name": "range"} if version >= 5 else {}
    answer = await handlers.ask(
        ApiKey.SYNC_GROUP, version, **ME, assignments=[{"member_id": "m", "assignment": b"mine"}], **named
    )
    assert (answer.error_code.value, answer.assignment) == (0, b"mine")
    ((_, facts),) = groups.calls
    names = ("consumer", "range") if version >= 5 else ("", "")
    assert facts == (GroupMember(group_id="g", generation=4, member_id="m"), {"m": b"mine"}, *names, True)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnknownMemberError("who?"), 25),
        (IllegalGenerationError("old"), 22),
        (RebalanceInProgressError("join"), 27),
        (FencedInstanceError("another"), 82),
        (InconsistentGroupProtocolError("no"), 23),
        (InvalidSessionTimeoutError("short"), 26),
        (GroupFullError("full"), 81),
        (NotCoordinatorError("elsewhere"), 16),
        (CoordinatorNotAvailableError("none"), 15),
        (NotLeaderError("elsewhere"), 16),
        (ShuttingDownError("stopping"), 16),
        (LeaderNotAvailableError("none"), 15),
        (IndeterminateError("who knows"), 15),
        (OverloadedError("full"), 15),
    ],
)
async def test_each_error_has_the_code_that_members_act_on(error: RaftlogError, code: int) -> None:
    """In every request of a member but that for its offsets."""
    handlers, groups = ready()
    for name in ("join", "sync", "heartbeat", "leave", "commit"):
        groups.failures[name].append(error)
    topics: list[dict[str, Any]] = [{"name": "t", "partitions": [{"partition_index": 0, "committed_offset": 5}]}]
    assert (await handlers.ask(ApiKey.JOIN_GROUP, 5, group_id="g", protocols=[])).error_code.value == code
    assert (await handlers.ask(ApiKey.SYNC_GROUP, 5, **ME)).error_code.value == code
    assert (await handlers.ask(ApiKey.HEARTBEAT, 4, **ME)).error_code.value == code
    assert (await handlers.ask(ApiKey.LEAVE_GROUP, 5, group_id="g", members=[{"member_id": "m"}])).error_code.value == code
    committed = await handlers.ask(ApiKey.OFFSET_COMMIT, 8, group_id="g", topics=topics)
    assert committed.topics[0].partitions[0].error_code.value == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidGroupIdError("bad"), 24),
        (NotCoordinatorError("elsewhere"), 16),
        (CoordinatorNotAvailableError("none"), 16),
        (NotLeaderError("elsewhere"), 16),
        (ShuttingDownError("stopping"), 16),
        (LeaderNotAvailableError("none"), 16),
        (IndeterminateError("who knows"), 16),
        (OverloadedError("full"), 16),
    ],
)
async def test_a_consumer_that_asks_for_its_offsets_looks_for_the_coordinator_where_there_is_none(
    error: RaftlogError, code: int
) -> None:
    """Java's before 3.9, and aiokafka, fail on COORDINATOR_NOT_AVAILABLE there; all look for it on NOT_COORDINATOR."""
    handlers, groups = ready()
    groups.failures["fetch"] += [error, error]
    topics = [{"name": "t", "partition_indexes": [0]}]
    assert (await handlers.ask(ApiKey.OFFSET_FETCH, 7, group_id="g", topics=topics)).error_code.value == code
    batched = await handlers.ask(ApiKey.OFFSET_FETCH, 8, groups=[{"group_id": "g", "topics": topics}])
    assert batched.groups[0].error_code.value == code


@pytest.mark.parametrize("version", versions(ApiKey.HEARTBEAT))
async def test_a_heartbeat_says_who_lives(version: int) -> None:
    """Group, generation, member, and the instance of a static one."""
    handlers, groups = ready()
    static: dict[str, Any] = {"group_instance_id": "i"} if version >= 3 else {}
    assert (await handlers.ask(ApiKey.HEARTBEAT, version, **ME, **static)).error_code.value == 0
    member = GroupMember(group_id="g", generation=4, member_id="m", instance_id=static.get("group_instance_id"))
    assert groups.calls == [("heartbeat", (member, True))]


@pytest.mark.parametrize("version", versions(ApiKey.LEAVE_GROUP))
async def test_members_leave_one_by_one_or_together(version: int) -> None:
    """Each with its own outcome."""
    handlers, groups = ready()
    members = [{"member_id": "m"}, {"member_id": "", "group_instance_id": "i"}, {"member_id": "x"}]
    wanted: dict[str, Any] = {"member_id": "x"} if version < 3 else {"members": members}
    answer = await handlers.ask(ApiKey.LEAVE_GROUP, version, group_id="g", **wanted)
    if version < 3:
        assert answer.error_code.value == 25
        return
    assert [(one.member_id, one.group_instance_id, one.error_code.value) for one in answer.members] == [
        ("m", None, 0), ("", "i", 0), ("x", None, 25),
    ]  # fmt: skip
    assert groups.calls[0][1] == ("g", (Leaver(member_id="m"), Leaver(instance_id="i"), Leaver(member_id="x")), True)


@pytest.mark.parametrize("version", versions(ApiKey.OFFSET_COMMIT))
async def test_offsets_are_committed_with_their_words(version: int) -> None:
    """The metadata string is kept, an epoch where the version has one; each partition has its own outcome."""
    handlers, groups = ready()
    parts = [{"partition_index": 0, "committed_offset": 5, "committed_leader_epoch": 2, "committed_metadata": "here"}]
    parts += [{"partition_index": 1, "committed_offset": 6, "committed_leader_epoch": -1, "committed_metadata": None}]
    topics = [{"name": "t", "partitions": parts}, {"name": "nope", "partitions": parts[:1]}]
    answer = await handlers.ask(
        ApiKey.OFFSET_COMMIT, version, group_id="g", generation_id_or_member_epoch=4, member_id="m", topics=topics
    )
    assert [[one.error_code.value for one in topic.partitions] for topic in answer.topics] == [[0, 0], [69]]
    assert groups.committed == {
        TopicPartition("t", 0): CommittedOffset(offset=5, leader_epoch=2, metadata="here"),
        TopicPartition("t", 1): CommittedOffset(offset=6),
    }


async def test_a_simple_consumer_commits_without_a_generation() -> None:
    """From outside of any membership."""
    handlers, groups = ready()
    topics: list[dict[str, Any]] = [{"name": "t", "partitions": [{"partition_index": 0, "committed_offset": 5}]}]
    await handlers.ask(ApiKey.OFFSET_COMMIT, 2, group_id="g", topics=topics)
    ((_, facts),) = groups.calls
    assert isinstance(facts, tuple)
    assert facts[0] == GroupMember(group_id="g", generation=NO_GENERATION)


@pytest.mark.parametrize("version", versions(ApiKey.OFFSET_FETCH))
async def test_offsets_are_fetched_and_those_that_are_not_there_are_minus_one(version: int) -> None:
    """From version 8 on for several groups at once."""
    handlers, groups = ready()
    groups.committed[TopicPartition("t", 0)] = CommittedOffset(offset=5, leader_epoch=2, metadata="here")
    topics = [{"name": "t", "partition_indexes": [0, 1]}]
    wanted = [{"group_id": "g", "topics": topics}, {"group_id": "h", "topics": topics}]
    asked: dict[str, Any] = {"groups": wanted} if version >= 8 else {"group_id": "g", "topics": topics}
    answer = await handlers.ask(ApiKey.OFFSET_FETCH, version, **asked)
    found = answer.groups if version >= 8 else [answer]
    assert len(found) == (2 if version >= 8 else 1)
    for one in found:
        first, second = one.topics[0].partitions
        assert (first.committed_offset, first.metadata) == (5, "here")
        assert (second.committed_offset, second.metadata) == (-1, "")
        if version >= 5:
            assert (first.committed_leader_epoch, second.committed_leader_epoch) == (2, -1)


@pytest.mark.parametrize("version", [2, 7, 8])
async def test_all_offsets_of_a_group_are_fetched_without_naming_them(version: int) -> None:
    """What an administrator asks for."""
    handlers, groups = ready()
    groups.committed = {TopicPartition(name, 0): CommittedOffset(offset=5) for name in ("u", "t")}
    asked: dict[str, Any] = {"groups": [{"group_id": "g", "topics": None}]} if version >= 8 else {"group_id": "g", "topics": None}
    answer = await handlers.ask(ApiKey.OFFSET_FETCH, version, **asked)
    found = answer.groups[0] if version >= 8 else answer
    assert [topic.name for topic in found.topics] == ["t", "u"]
    assert groups.calls == [("fetch", ("g", None, True))]


async def test_the_oldest_version_tells_an_error_at_each_partition() -> None:
    """It has no other place for it."""
    handlers, groups = ready()
    groups.failures["fetch"].append(NotCoordinatorError("elsewhere"))
    topics = [{"name": "t", "partition_indexes": [0, 1]}]
    answer = await handlers.ask(ApiKey.OFFSET_FETCH, 1, group_id="g", topics=topics)
    assert [one.error_code.value for one in answer.topics[0].partitions] == [16, 16]


@pytest.mark.parametrize("version", versions(ApiKey.LIST_GROUPS))
async def test_this_nodes_groups_are_listed(version: int) -> None:
    """By state and type where the version can ask for them."""
    handlers, groups = ready()
    answer = await handlers.ask(ApiKey.LIST_GROUPS, version)
    assert [(one.group_id, one.protocol_type) for one in answer.groups] == [("g", "consumer"), ("e", "")]
    assert groups.calls == [("list", True)]
    if version >= 4:
        some = await handlers.ask(ApiKey.LIST_GROUPS, version, states_filter=["stable"])
        assert [(one.group_id, one.group_state) for one in some.groups] == [("g", "Stable")]
    if version >= 5:
        assert answer.groups[0].group_type == "classic"
        assert (await handlers.ask(ApiKey.LIST_GROUPS, version, types_filter=["consumer"])).groups == ()


@pytest.mark.parametrize("version", versions(ApiKey.DESCRIBE_GROUPS))
async def test_groups_are_described_with_their_members(version: int) -> None:
    """One that is not there is dead and empty, from version 6 on with its own code (KIP-1043); an error has its group's place."""
    handlers, groups = ready()
    answer = await handlers.ask(ApiKey.DESCRIBE_GROUPS, version, groups=["g", "nope"])
    known, unknown = answer.groups
    assert (known.group_state, known.protocol_type, known.protocol_data) == ("Stable", "consumer", "range")
    (member,) = known.members
    assert (member.member_id, member.client_id, member.client_host) == ("m", "c", "/h")
    assert (member.member_metadata, member.member_assignment) == (b"meta", b"mine")
    assert (unknown.group_state, unknown.members) == ("Dead", ())
    assert unknown.error_code.value == (69 if version >= 6 else 0)
    assert known.error_code.value == 0
    groups.failures["describe"].append(NotCoordinatorError("elsewhere"))
    assert (await handlers.ask(ApiKey.DESCRIBE_GROUPS, version, groups=["g"])).groups[0].error_code.value == 16


@pytest.mark.parametrize("version", versions(ApiKey.DELETE_GROUPS))
async def test_groups_are_deleted_each_with_its_outcome(version: int) -> None:
    """A group with members stays."""
    handlers, groups = ready()
    groups.failures["delete"] += [GroupNotEmptyError("members"), GroupIdNotFoundError("none")]
    answer = await handlers.ask(ApiKey.DELETE_GROUPS, version, groups_names=["g", "h", "i"])
    assert sorted(one.error_code.value for one in answer.results) == [0, 68, 69]


async def test_offsets_are_deleted_each_with_its_outcome() -> None:
    """KIP-496; an error of the group as a whole has its own place."""
    handlers, groups = ready()
    groups.committed[TopicPartition("t", 0)] = CommittedOffset(offset=5)
    topics = [{"name": "t", "partitions": [{"partition_index": 0}, {"partition_index": 1}]}]
    answer = await handlers.ask(ApiKey.OFFSET_DELETE, group_id="g", topics=topics)
    assert [one.error_code.value for one in answer.topics[0].partitions] == [0, 69]
    groups.failures["delete_offsets"].append(GroupSubscribedToTopicError("in use"))
    assert (await handlers.ask(ApiKey.OFFSET_DELETE, group_id="g", topics=topics)).error_code.value == 86


async def test_groups_are_advertised_where_there_are_any() -> None:
    """And answered over a connection."""
    async with open_door(groups=FakeGroups()) as door:
        client = await door.connect()
        answer = await client.ask(ApiKey.FIND_COORDINATOR, 4, key_type=0, coordinator_keys=("g",))
        assert answer.coordinators[0].node_id == 2
