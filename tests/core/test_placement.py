"""Placement: replicas apart from each other, and no node with much more than another."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.core.placement import Candidate, Load, place
from raftlog.errors import InvalidPartitionsError, InvalidReplicationFactorError

NODES = [Candidate(1), Candidate(2), Candidate(3)]


def spread(counts: dict[int, int]) -> int:
    """How much more the fullest node has than the emptiest."""
    return max(counts.values()) - min(counts.values())


def carried(nodes: list[Candidate], placed: list[tuple[int, ...]]) -> tuple[dict[int, int], dict[int, int]]:
    """Replicas and leaders by node."""
    replicas = {node.node_id: 0 for node in nodes} | Counter(node_id for one in placed for node_id in one)
    leaders = {node.node_id: 0 for node in nodes} | Counter(one[0] for one in placed)
    return replicas, leaders


def test_one_topic_of_three_partitions_has_three_leaders() -> None:
    """On three nodes each leads one."""
    placed = place(NODES, partitions=3, replication_factor=3)
    assert sorted(one[0] for one in placed) == [1, 2, 3]
    assert all(sorted(one) == [1, 2, 3] for one in placed)


@pytest.mark.parametrize("replication_factor", [1, 2, 3])
def test_many_topics_of_one_partition_spread_out(replication_factor: int) -> None:
    """With the load given, and always the same start, 30 topics leave no node with two more than another."""
    load = {node.node_id: Load() for node in NODES}
    for _ in range(30):
        (placed,) = place(NODES, partitions=1, replication_factor=replication_factor, load=load)
        for node_id in placed:
            load[node_id] = Load(load[node_id].replicas + 1, load[node_id].leaders + (node_id == placed[0]))
    assert spread({node_id: one.replicas for node_id, one in load.items()}) <= 1
    assert spread({node_id: one.leaders for node_id, one in load.items()}) <= 1


def test_an_empty_node_is_filled_first() -> None:
    """A node that just joined takes what comes, until it carries as much as the others."""
    load = {1: Load(10, 5), 2: Load(10, 5)}
    placed = place(NODES, partitions=5, replication_factor=1, load=load)
    assert placed == [(3,)] * 5


def test_replicas_are_in_different_racks() -> None:
    """Two racks of two nodes: each partition has one replica in each."""
    nodes = [Candidate(1, "a"), Candidate(2, "a"), Candidate(3, "b"), Candidate(4, "b")]
    for one in place(nodes, partitions=8, replication_factor=2):
        assert len({node_id > 2 for node_id in one}) == 2


@pytest.mark.parametrize(("partitions", "replication_factor"), [(1, 4), (1, 0), (1, -1)])
def test_more_replicas_than_nodes_are_refused(partitions: int, replication_factor: int) -> None:
    """Two replicas on one node would be one; none would be nothing."""
    with pytest.raises(InvalidReplicationFactorError):
        place(NODES, partitions=partitions, replication_factor=replication_factor)
    with pytest.raises(InvalidReplicationFactorError):
        place([], partitions=1, replication_factor=1)


def test_no_partitions_are_refused() -> None:
    """A topic has at least one."""
    with pytest.raises(InvalidPartitionsError):
        place(NODES, partitions=0, replication_factor=1)


@given(
    st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1, max_size=7),
    st.integers(1, 12),
    st.integers(1, 7),
    st.integers(0, 99),
)
def test_every_placement_is_apart_and_repeatable(racks: list[str], partitions: int, replication_factor: int, start: int) -> None:
    """Replicas are on different nodes, over as many racks as possible; the order in which nodes are given does not matter."""
    nodes = [Candidate(node_id, rack) for node_id, rack in enumerate(racks, 1)]
    replication_factor = min(replication_factor, len(nodes))
    placed = place(nodes, partitions=partitions, replication_factor=replication_factor, start=start)
    rack_of = {node.node_id: node.rack or node.node_id for node in nodes}
    assert len(placed) == partitions
    for one in placed:
        assert len(set(one)) == len(one) == replication_factor
        assert len({rack_of[node_id] for node_id in one}) == min(replication_factor, len(set(rack_of.values())))
    assert placed == place(nodes[::-1], partitions=partitions, replication_factor=replication_factor, start=start)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 40), st.integers(0, 99))
def test_nodes_of_one_rack_carry_the_same(count: int, replication_factor: int, partitions: int, start: int) -> None:
    """Without racks, replicas differ by one at most between nodes, and leaders by two."""
    nodes = [Candidate(node_id) for node_id in range(1, count + 1)]
    placed = place(nodes, partitions=partitions, replication_factor=min(replication_factor, count), start=start)
    replicas, leaders = carried(nodes, placed)
    assert spread(replicas) <= 1
    assert spread(leaders) <= 2
