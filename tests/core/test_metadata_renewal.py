"""Damaged replicas in group 0's state: lost to their groups, and wanted anew."""

from __future__ import annotations

import pytest

from raftlog.core.features import Level
from raftlog.core.metadata import MetadataState
from raftlog.errors import FeatureLevelError, InvalidRequestError, StalePlacementError, UnknownTopicOrPartitionError
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb

TOPIC = b"t" * 16


def state(level: int = Level.RENEWAL) -> MetadataState:
    """Three nodes and a topic with two partitions on each of them."""
    made = MetadataState()
    made.apply(1, pb.MetadataCommand(raise_level=pb.RaiseLevel(level=level)))
    for node in (1, 2, 3):
        made.apply(1 + node, pb.MetadataCommand(register_node=pb.RegisterNode(node_id=node, level_min=1, level_max=9)))
    topic = pb.CreateTopic(
        name="t", topic_id=TOPIC, replication_factor=3, partitions=[pb.Assignment(replicas=(1, 2, 3)) for _ in range(2)]
    )
    assert made.apply(5, pb.MetadataCommand(create_topic=topic)).error is None
    return made


def renewal(*replicas: tuple[int, int, int], placed_index: int = 5, topic_id: bytes = TOPIC) -> pb.MetadataCommand:
    """Of (partition, node, replica id)."""
    renewed = [
        pb.RenewedReplica(
            topic_id=topic_id,
            partition=number,
            placed_index=placed_index,
            replica=pb.ReplicaRow(node_id=node, replica_id=replica),
        )
        for number, node, replica in replicas
    ]
    return pb.MetadataCommand(renew_replicas=pb.RenewReplicas(replicas=renewed, renewed_at_ms=7))


def test_a_renewed_replica_is_lost_and_another_one_is_wanted_on_its_node() -> None:
    """In its place in the order, under a name that was never there, and with the reason; other partitions stay as they are."""
    made = state()
    effects = made.apply(9, renewal((1, 2, 2)))
    assert effects.error is None
    before, after = made.topics["t"].partitions
    assert (after.replicas, after.lost, after.leaving) == (((1, 1), (2, 4), (3, 3)), ((2, 2),), ())
    assert (after.placed_index, after.placed_at_ms, after.reason) == (9, 7, "the replica on node 2 was damaged")
    assert (before.replicas, before.lost) == (((1, 1), (2, 2), (3, 3)), ())
    assert [topic.name for topic in effects.altered] == ["t"]
    again = MetadataState()
    again.load(made.rows())
    assert again == made


def test_replicas_of_several_partitions_are_renewed_at_once() -> None:
    """All of them in one entry."""
    made = state()
    assert made.apply(9, renewal((0, 2, 2), (1, 3, 3))).error is None
    assert [one.lost for one in made.topics["t"].partitions] == [((2, 2),), ((3, 3),)]


def test_no_two_replicas_of_a_group_are_renewed_on_one_look() -> None:
    """Whoever saw the group before the first renewal does not know that it has one good replica less."""
    made = state()
    assert made.apply(9, renewal((0, 2, 2))).error is None
    assert isinstance(made.apply(10, renewal((0, 3, 3))).error, StalePlacementError)
    assert made.topics["t"].partitions[0].lost == ((2, 2),)
    assert made.apply(11, renewal((0, 3, 3), placed_index=9)).error is None
    assert isinstance(made.check(renewal((0, 1, 1), (0, 2, 4), placed_index=11)), InvalidRequestError)


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (renewal((2, 2, 2)), UnknownTopicOrPartitionError),
        (renewal((0, 2, 2), topic_id=b"u" * 16), UnknownTopicOrPartitionError),
        (renewal((0, 2, 3)), StalePlacementError),
        (renewal((0, 4, 2)), StalePlacementError),
        (renewal(), InvalidRequestError),
        (renewal((0, 2, 2), (2, 2, 2)), UnknownTopicOrPartitionError),
    ],
)
def test_a_renewal_that_does_not_fit_changes_nothing(command: pb.MetadataCommand, error: type[Exception]) -> None:
    """All or none."""
    made = state()
    before = made.rows()
    assert isinstance(made.apply(9, command).error, error)
    assert made.rows() == before


def test_a_cluster_below_its_level_renews_nothing() -> None:
    """Nodes of the version before would not know what they read."""
    made = state(Level.MEMBERSHIP)
    assert isinstance(made.apply(9, renewal((0, 2, 2))).error, FeatureLevelError)
