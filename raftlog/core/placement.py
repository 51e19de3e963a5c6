"""Which nodes get the replicas of a topic's partitions.

A partition's replicas go to as many racks as there are, and within that to the nodes with the fewest replicas; its preferred
leader, the first of the list, is the one of them that leads the fewest. What nodes carry already counts, so many topics of one
partition spread as well as one topic of many. The same arguments give the same placement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raftlog.errors import InvalidPartitionsError, InvalidReplicationFactorError


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that can take replicas. A node without a rack is a rack of its own."""

    node_id: int
    rack: str = ""


@dataclass(frozen=True, slots=True)
class Load:
    """What a node carries: replicas, and of these the ones that are first in their partition's list."""

    replicas: int = 0
    leaders: int = 0


def place(
    nodes: Sequence[Candidate],
    *,
    partitions: int,
    replication_factor: int,
    load: Mapping[int, Load] | None = None,
    start: int = 0,
) -> list[tuple[int, ...]]:
    """Place new partitions: for each the node ids of its replicas, the preferred leader first.

    Args:
        nodes: those that are alive, each once, in any order.
        partitions: how many partitions to place.
        replication_factor: replicas of each.
        load: what nodes carry already, by node id.
        start: where the round through equally loaded nodes begins; a topic's number, or a random one.

    Raises:
        InvalidPartitionsError: fewer than one partition.
        InvalidReplicationFactorError: fewer than one replica, or more than there are nodes.
    """
    if partitions < 1:
        raise InvalidPartitionsError(f"a topic has at least one partition, not {partitions}")
    if replication_factor < 1:
        raise InvalidReplicationFactorError(f"a partition has at least one replica, not {replication_factor}")
    if replication_factor > len(nodes):
        raise InvalidReplicationFactorError(
            f"{replication_factor} replicas need as many nodes, and {len(nodes)} are alive; start more, or ask for fewer replicas"
        )
    ring = sorted(nodes, key=lambda node: node.node_id)
    carried = load or {}
    replicas = {node.node_id: carried.get(node.node_id, Load()).replicas for node in ring}
    leaders = {node.node_id: carried.get(node.node_id, Load()).leaders for node in ring}
    placed = []
    for number in range(partitions):
        first = (start + number) % len(ring)
        chosen = _choose(ring[first:] + ring[:first], replication_factor, replicas)
        chosen.sort(key=lambda node_id: (leaders[node_id], replicas[node_id]))
        leaders[chosen[0]] += 1
        for node_id in chosen:
            replicas[node_id] += 1
        placed.append(tuple(chosen))
    return placed


def _choose(ring: Sequence[Candidate], replication_factor: int, replicas: Mapping[int, int]) -> list[int]:
    """Replicas of one partition; among nodes that are equally good the first of ``ring`` is taken."""
    racks: Counter[str | int] = Counter()
    left = list(ring)
    chosen = []
    for _ in range(replication_factor):
        best = min(left, key=lambda node: (racks[_rack(node)], replicas[node.node_id]))
        left.remove(best)
        racks[_rack(best)] += 1
        chosen.append(best.node_id)
    return chosen


def _rack(node: Candidate) -> str | int:
    return node.rack or node.node_id
