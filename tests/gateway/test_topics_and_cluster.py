"""TopicService and ClusterService."""

from __future__ import annotations

import grpc
import pytest

from raftlog.errors import LeaderNotAvailableError
from raftlog.pb.raftlog.v1 import cluster_service_pb2 as cpb
from raftlog.pb.raftlog.v1 import topic_service_pb2 as pb
from tests.gateway.helpers import open_door, told_by_call


async def test_a_topic_lives_from_its_creation_to_its_deletion() -> None:
    """Create, describe, alter, list, delete, each by its own call."""
    async with open_door() as door:
        made = await door.topics.CreateTopic(
            pb.CreateTopicRequest(name="orders", partitions=2, configs={"retention.ms": "1000", "max.message.bytes": "5"})
        )
        assert (made.topic.name, len(made.topic.partitions), made.topic.replication_factor) == ("orders", 2, 1)
        altered = await door.topics.AlterTopic(
            pb.AlterTopicRequest(
                name="orders", partitions=4, set_configs={"retention.ms": "7"}, unset_configs=["max.message.bytes"]
            )
        )
        assert (len(altered.topic.partitions), dict(altered.topic.configs)) == (4, {"retention.ms": "7"})
        described = await door.topics.DescribeTopic(pb.DescribeTopicRequest(name="orders", offsets=True))
        assert [(x.key, x.value, x.set) for x in described.configs] == [("retention.ms", "7", True)]
        assert [x.partition for x in described.offsets] == [0, 1, 2, 3]
        await door.topics.DeleteTopic(pb.DeleteTopicRequest(name="orders"))
        listed = await door.topics.ListTopics(pb.ListTopicsRequest())
    assert [topic.name for topic in listed.topics] == ["t"]


async def test_a_partitions_leader_comes_with_its_address() -> None:
    """So that a client can go there without another call."""
    async with open_door() as door:
        topic = (await door.topics.DescribeTopic(pb.DescribeTopicRequest(name="t"))).topic
    first = topic.partitions[0]
    assert (first.leader, first.leader_address, first.leader_epoch, list(first.replicas)) == (1, "127.0.0.1:7101", 3, [1])


@pytest.mark.parametrize(("internal", "names"), [(False, ["t"]), (True, ["__groups", "t"])])
async def test_internal_topics_are_listed_only_on_demand(internal: bool, names: list[str]) -> None:
    """As in Kafka's tools."""
    async with open_door() as door:
        door.broker.add_topic("__groups")
        listed = await door.topics.ListTopics(pb.ListTopicsRequest(internal=internal))
    assert [topic.name for topic in listed.topics] == names


async def test_a_topics_errors_keep_their_codes() -> None:
    """Unknown, existing, without a name, without a leader."""
    async with open_door() as door:
        door.broker.failures["partition_status"].append(LeaderNotAvailableError("election", retry_after_ms=70))
        for call, reason in (
            (door.topics.DescribeTopic(pb.DescribeTopicRequest(name="nope")), "UNKNOWN_TOPIC_OR_PARTITION"),
            (door.topics.CreateTopic(pb.CreateTopicRequest(name="t")), "TOPIC_ALREADY_EXISTS"),
            (door.topics.DeleteTopic(pb.DeleteTopicRequest()), "INVALID_REQUEST"),
            (door.topics.DescribeTopic(pb.DescribeTopicRequest(name="t", offsets=True)), "LEADER_NOT_AVAILABLE"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert told_by_call(caught.value).reason == reason
    assert told_by_call(caught.value).retry_ms == 70


async def test_the_cluster_is_described() -> None:
    """Nodes with their addresses, the controller, and who answered."""
    async with open_door() as door:
        cluster = await door.cluster.DescribeCluster(cpb.DescribeClusterRequest())
    assert (cluster.cluster_id, cluster.controller, cluster.node_id) == ("c1", 1, 1)
    assert [(n.node_id, n.grpc_address, n.rack, n.alive) for n in cluster.nodes] == [
        (1, "127.0.0.1:7101", "a", True),
        (2, "127.0.0.1:7102", "b", False),
    ]


async def test_the_feature_level_is_raised_or_who_holds_it_back_is_told() -> None:
    """Each node with what its version supports."""
    async with open_door() as door:
        raised = await door.cluster.RaiseLevel(cpb.RaiseLevelRequest(without=[2]))
        door.broker.level_problem = "it is down"
        plan = await door.cluster.RaiseLevel(cpb.RaiseLevelRequest(level=2, dry_run=True))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await door.cluster.RaiseLevel(cpb.RaiseLevelRequest(level=2))
        assert door.broker.calls[0] == ("raise_level", {"level": 0, "dry_run": False, "without": [2]})
    assert (raised.level, raised.target, raised.raised) == (1, 2, True)
    assert (plan.level, plan.target, plan.raised) == (1, 2, False)
    assert [(n.node_id, n.level_min, n.level_max, n.version, n.problem) for n in plan.nodes] == [
        (1, 1, 2, "9.9", ""),
        (2, 0, 0, "", "it is down"),
    ]
    assert (caught.value.code(), told_by_call(caught.value).reason) == (grpc.StatusCode.FAILED_PRECONDITION, "FEATURE_LEVEL")


async def test_a_nodes_own_replicas_are_described() -> None:
    """Role, term, indexes, and the storage below them."""
    async with open_door() as door:
        answer = await door.cluster.DescribeReplicas(cpb.DescribeReplicasRequest())
    first = answer.replicas[0]
    assert (first.topic, first.partition, first.role, first.term, first.leader) == ("t", 0, cpb.ROLE_LEADER, 3, 1)
    assert (first.first_index, first.last_index, first.commit_index, first.applied_index) == (1, 9, 8, 7)
    assert (answer.storage.used_bytes, answer.storage.file_bytes, answer.storage.disk_free_bytes) == (10, 20, 30)
