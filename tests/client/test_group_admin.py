"""Groups through the admin client."""

from __future__ import annotations

from typing import Any

import pytest

from raftlog.client.client import Client
from raftlog.client.group_values import GroupState
from raftlog.client.values import AtTime
from raftlog.errors import (
    GroupIdNotFoundError,
    GroupNotEmptyError,
    GroupSubscribedToTopicError,
    InvalidRequestError,
    UnknownMemberError,
)
from raftlog.model import TopicPartition

from .group_cluster import GroupCluster, Worker
from .helpers import until

T0, T1 = TopicPartition("t", 0), TopicPartition("t", 1)


async def test_a_group_is_seen_while_it_reads_and_after_it() -> None:
    """Members with what they read, offsets with their lag."""
    async with GroupCluster() as cluster, Client(cluster.brokers, client_id="mine") as client:
        assert await client.admin.list_groups() == []
        assert (await client.admin.describe_group("g")).state is GroupState.DEAD
        await cluster.publish(10)
        worker = Worker(client.consumer("t", group="g", instance_id="one", auto_commit_interval_s=0.01))
        await until(lambda: cluster.committed().get(0) == 10)
        await cluster.publish(5, 1)
        description = await client.admin.describe_group("g")
        assert (description.state, description.assignor, description.generation) == (GroupState.STABLE, "cooperative-sticky", 1)
        [member] = description.members
        assert (member.client_id, member.client_host, member.instance_id) == ("mine", "/127.0.0.1", "one")
        assert (member.topics, member.assignment) == (("t",), (T0, T1, TopicPartition("t", 2)))
        assert description.offsets[T0].lag == 0
        assert description.coordinator == 1
        with pytest.raises(GroupNotEmptyError):
            await client.admin.seek_group("g", "end")
        with pytest.raises(GroupSubscribedToTopicError):
            await client.admin.delete_group_offsets("g", [T0])
        with pytest.raises(UnknownMemberError):
            await client.admin.commit_group_offsets("g", {T0: 1})
        await worker.stop()
        await client.admin.remove_group_members("g", instance_ids=["one"])
        with pytest.raises(UnknownMemberError):
            await client.admin.remove_group_members("g", member_ids=["nobody"])
        assert (await client.admin.list_groups())[0].state is GroupState.EMPTY


@pytest.mark.parametrize(
    ("to", "first", "second"),
    [
        ("beginning", 0, 0),
        ("end", 10, 5),
        (3, 3, 3),
        ("-2", 4, 0),
        ({"t": "end", T1: AtTime(1_002)}, 10, 2),
        ({T0: "+1"}, 7, 1),
    ],
)
async def test_a_stopped_group_is_moved(to: Any, first: int, second: int) -> None:
    """To one place, or to one for each topic or partition; first in words only."""
    async with GroupCluster() as cluster, Client(cluster.brokers) as client:
        await cluster.publish(10)
        await cluster.publish(5, 1)
        await client.admin.commit_group_offsets("g", {T0: 6, T1: 1})
        planned = await client.admin.seek_group("g", to, dry_run=True)
        assert cluster.committed() == {0: 6, 1: 1}
        assert await client.admin.seek_group("g", to) == planned
        assert (cluster.committed()[0], cluster.committed()[1]) == (first, second)
        assert planned[T0].old_offset == 6


@pytest.mark.parametrize("place", ["middle", -1, "+", "--1"])
async def test_a_place_that_is_none_is_refused(place: Any) -> None:
    """Before anything is asked of the cluster."""
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(InvalidRequestError):
            await client.admin.seek_group("g", place)


async def test_what_does_not_exist_cannot_be_deleted() -> None:
    """The error says so."""
    async with GroupCluster() as cluster, Client(cluster.brokers) as client:
        with pytest.raises(GroupIdNotFoundError):
            await client.admin.delete_group("g")
        with pytest.raises(GroupIdNotFoundError):
            await client.admin.remove_group_members("g", member_ids=["m"])
        assert await client.admin.group_offsets("g") == {}
        assert await client.admin.group_offsets("g", []) == {}
