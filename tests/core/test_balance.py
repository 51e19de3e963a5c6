"""Balancing: each goal by an example, and for any cluster that it ends, moves little, and undoes nothing."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from raftlog.core.balance import BalanceLimits, BalanceNode, BalancePartition, Proposal, balance, evacuate

GB = 1_000_000_000


def _nodes(*racks: str) -> list[BalanceNode]:
    return [BalanceNode(node_id=number, rack=rack) for number, rack in enumerate(racks, start=1)]


def _partition(number: int, *nodes: int, size: int = 0, load: float = 0.0, moving: bool = False) -> BalancePartition:
    return BalancePartition(group_id=number, name=f"t-{number}", nodes=nodes, size_bytes=size, load=load, moving=moving)


def _after(partitions: list[BalancePartition], proposals: tuple[Proposal, ...]) -> dict[int, tuple[int, ...]]:
    changed = {one.group_id: one.nodes for one in proposals}
    return {one.group_id: changed.get(one.group_id, one.nodes) for one in partitions}


def test_what_is_on_a_node_that_leaves_goes_to_the_emptiest_of_another_rack() -> None:
    """Each with the reason of its node; what is elsewhere stays."""
    nodes = [*_nodes("a", "b", "c"), BalanceNode(node_id=4, rack="c"), BalanceNode(node_id=5, rack="b")]
    nodes[2] = BalanceNode(node_id=3, rack="c", takes=False, leaves="node 3 is drained")
    found = evacuate(nodes, [_partition(1, 1, 2, 3), _partition(2, 3, 1, 2), _partition(3, 1, 2, 4)])
    assert [(one.name, one.nodes, one.reason, one.moved) for one in found.proposals] == [
        ("t-1", (1, 2, 4), "node 3 is drained", (4,)),
        ("t-2", (4, 1, 2), "node 3 is drained", (4,)),
    ]


def test_what_fits_nowhere_is_said() -> None:
    """Three replicas need three nodes."""
    nodes = [*_nodes("", "", "")[:2], BalanceNode(node_id=3, takes=False, leaves="node 3 is drained")]
    found = evacuate(nodes, [_partition(1, 1, 2, 3)])
    assert found.proposals == ()
    assert found.stuck == {1: "t-1 has to leave node 3 (node 3 is drained), and no other node can take it"}


def test_two_replicas_of_a_rack_part() -> None:
    """The one on the fuller node goes where no other is."""
    found = balance(_nodes("a", "a", "b"), [_partition(1, 1, 2), _partition(2, 1)], BalanceLimits())
    assert [(one.nodes, one.reason) for one in found.proposals] == [((3, 2), "rack a had two replicas of it")]


def test_an_empty_node_gets_its_share_and_the_small_ones_move() -> None:
    """Six replicas on two nodes become two each; the largest partition stays where it is."""
    partitions = [_partition(number, 1 + number % 2, size=number) for number in range(1, 7)]
    found = balance(_nodes("", "", ""), partitions, BalanceLimits(bytes_gap_min=1 << 40))
    held = Counter(node for nodes in _after(partitions, found.proposals).values() for node in nodes)
    assert held == {1: 2, 2: 2, 3: 2}
    assert [one.group_id for one in found.proposals] == [1, 2]
    assert found.proposals[1].reason == "node 1 held 3 replicas, node 3 0"


def test_large_and_small_partitions_change_places() -> None:
    """Counts stay even."""
    partitions = [
        _partition(1, 1, size=5 * GB),
        _partition(2, 1, size=5 * GB),
        _partition(3, 2, size=1),
        _partition(4, 2, size=1),
    ]
    found = balance(_nodes("", ""), partitions, BalanceLimits())
    assert _after(partitions, found.proposals) == {1: (2,), 2: (1,), 3: (1,), 4: (2,)}
    assert [one.reason for one in found.proposals] == [
        "node 1 held 10 GB, node 2 2 B",
        "node 1 held 10 GB, node 2 2 B: it changed places with t-1",
    ]


def test_leaders_are_evened_out_by_count_and_by_load_without_moving_data() -> None:
    """Node 1 leads all: half goes. Where the load is in one partition, that one alone stays."""
    partitions = [_partition(number, 1, 2) for number in range(1, 5)]
    found = balance(_nodes("", ""), partitions, BalanceLimits())
    assert [one.moved for one in found.proposals] == [(), ()]
    assert Counter(nodes[0] for nodes in _after(partitions, found.proposals).values()) == {1: 2, 2: 2}
    loaded = [_partition(1, 1, 2, load=97.0), *(_partition(number, 1, 2, load=1.0) for number in range(2, 5))]
    after = _after(loaded, balance(_nodes("", ""), loaded, BalanceLimits()).proposals)
    assert [after[number][0] for number in (2, 3, 4)] == [2, 2, 2] or after[1][0] == 2


def test_what_is_on_the_move_is_left_alone() -> None:
    """It counts where it will be. Only from a node that has to be left it goes elsewhere, for it would never arrive."""
    partitions = [_partition(1, 3, moving=True), _partition(2, 1), _partition(3, 2)]
    assert balance(_nodes("", "", ""), partitions, BalanceLimits()).proposals == ()
    dead = [*_nodes("", ""), BalanceNode(node_id=3, takes=False, leaves="it is dead")]
    assert [one.nodes for one in evacuate(dead, partitions).proposals] == [(1,)]


def test_a_node_that_is_down_takes_nothing_and_keeps_what_it_has() -> None:
    """It may come back."""
    nodes = [*_nodes("", ""), BalanceNode(node_id=3, takes=False)]
    partitions = [_partition(1, 1), _partition(2, 2), _partition(3, 3)]
    assert balance(nodes, partitions, BalanceLimits()).proposals == ()


def _cluster(rng: Random) -> tuple[list[BalanceNode], list[BalancePartition]]:
    racks = rng.choice(([""], ["a", "b"], ["a", "b", "c"]))
    count = rng.randint(2, 8)
    nodes = []
    for node_id in range(1, count + 1):
        fate = rng.random()
        leaves = "it is drained" if fate < 0.15 else ""
        nodes.append(BalanceNode(node_id=node_id, rack=rng.choice(racks), takes=fate > 0.2, leaves=leaves))
    factor = rng.randint(1, min(3, count))
    partitions = [
        _partition(
            number, *rng.sample(range(1, rng.randint(factor, count) + 1), factor),
            size=rng.choice((0, 10, GB, 9 * GB)), load=rng.choice((0.0, 1.0, 500.0)), moving=rng.random() < 0.1,
        )
        for number in range(1, rng.randint(1, 60))
    ]  # fmt: skip
    return nodes, partitions


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_any_cluster_is_balanced_within_the_tolerance_and_then_left_alone(seed: int) -> None:
    """Nothing is placed where it may not be, nothing that may stay leaves without a reason, and a second look finds nothing."""
    nodes, partitions = _cluster(Random(seed))
    limits = BalanceLimits(leaders_max=10_000)
    by_id = {node.node_id: node for node in nodes}
    found = balance(nodes, partitions, limits)
    for one in found.proposals:
        assert one.reason
        assert len(set(one.nodes)) == len(one.nodes) == len(one.before)
        assert all(by_id[node].takes and not by_id[node].leaves for node in one.moved)
    before = {one.group_id: one for one in partitions}
    leaving = {node.node_id for node in nodes if node.leaves}
    assert not any(before[one.group_id].moving and not leaving & set(one.before) for one in found.proposals)
    after = [
        _partition(group, *nodes_, size=before[group].size_bytes, load=before[group].load, moving=before[group].moving)
        for group, nodes_ in _after(partitions, found.proposals).items()
    ]
    again = balance(nodes, after, limits)
    assert again.proposals == ()
    assert again.stuck == found.stuck


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_a_drained_node_is_empty_wherever_there_is_room(seed: int) -> None:
    """With as many nodes that take as there are replicas, nothing is stuck."""
    nodes, partitions = _cluster(Random(seed))
    found = evacuate(nodes, partitions)
    leaving = {node.node_id for node in nodes if node.leaves}
    left = [group for group, placed in _after(partitions, found.proposals).items() if leaving & set(placed)]
    takers = [node.node_id for node in nodes if node.takes and not node.leaves]
    assert bool(left) == bool(found.stuck)
    if partitions and len(takers) >= len(partitions[0].nodes):
        assert not left


def test_a_cluster_of_the_largest_size_is_looked_at_in_a_bounded_number_of_moves() -> None:
    """As many as allowed and no more, the rest another time."""
    partitions = [_partition(number, 1 + number % 3, 4 + number % 3) for number in range(2_000)]
    found = balance(_nodes(*[""] * 9), partitions, BalanceLimits(moves_max=25))
    assert sum(len(one.moved) for one in found.proposals) == 25
