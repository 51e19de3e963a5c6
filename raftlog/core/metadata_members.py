"""Who should be in group 0, and the next step there: pure.

Theory of operation. Every node is a member of group 0, by its id and its incarnation, so that every node knows the metadata. A
few of them vote: one in a cluster of one, else three, and five where there are five racks. All others are learners. Group 0's
leader looks from time to time at its configuration, its nodes and their progress, and takes the next step; the same facts give
the same step, so it may fail, and be taken again by the next leader.

Rules:

1. A step is one that ``core.configuration`` allows, and never one after which the voters that are up are no majority.
2. A voter more is made only of a learner that holds the log; and of an odd number of voters only where two more are ready, for
   two or four of them are no safer than one or three, and stop sooner.
3. What an earlier disk of a node said is never asked for again: it goes first. Voters of nodes that are being drained, are dead
   or were removed go when others have taken their place, or where that leaves an odd number; of removed ones in the end without.
4. A member whose node has not registered yet is a founder of a cluster that begins: it stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from raftlog.core.configuration import Configuration, member_id, node_of, replica_of
from raftlog.model import NodeInfo, NodeStatus

VOTERS = 3
VOTERS_OF_RACKS = 5
"""So many voters where there are as many racks. A node without a rack is a rack of its own."""


def next_configuration(
    now: Configuration, nodes: Mapping[int, NodeInfo], *, up: Collection[int], ready: Collection[int], dead: Collection[int] = ()
) -> Configuration | None:
    """The configuration that follows ``now``, or None where nothing is to be done, or nothing can be.

    Args:
        now: group 0's configuration; it is committed.
        nodes: all nodes that are or were members, by id.
        up: the members that are up as far as the leader knows, itself among them.
        ready: those of them that hold the log, or all but its newest entries.
        dead: the nodes that have been down for so long that they are replaced.
    """
    for step in _Steps(now, nodes, ready, dead):
        voters_up = sum(1 for member in step.voters if member in up)
        if voters_up * 2 > len(step.voters):
            return step
    return None


def is_newest(member: int, nodes: Mapping[int, NodeInfo]) -> bool:
    """Whether a member lives on the newest disk of its node, as far as known."""
    node = nodes.get(node_of(member))
    return node is None or node.incarnation <= replica_of(member)


class _Steps:
    """What could be done next, the most urgent first."""

    def __init__(
        self, now: Configuration, nodes: Mapping[int, NodeInfo], ready: Collection[int], dead: Collection[int]
    ) -> None:  # fmt: skip
        self._now, self._nodes, self._ready, self._dead = now, nodes, ready, dead

    def __iter__(self) -> Iterator[Configuration]:
        now, nodes = self._now, self._nodes
        wanted = {member_id(node.node_id, node.incarnation) for node in nodes.values() if node.status is not NodeStatus.REMOVED}
        gone = [member for member in now.members if node_of(member) in nodes and member not in wanted]
        yield from (now.without(member) for member in gone if member in now.learners)
        yield from (now.with_learner(member) for member in sorted(wanted - set(now.members)))
        yield from (now.without(member) for member in now.voters if not is_newest(member, nodes) and len(now.voters) > 1)
        yield from self._votes(gone)

    def _votes(self, gone: Collection[int]) -> Iterator[Configuration]:
        """Who votes."""
        now, nodes = self._now, self._nodes
        staying = [member for member in now.voters if not self._is_leaving(member)]
        leaving = [member for member in now.voters if member not in staying]
        known = [member for member in now.learners if member in self._ready and node_of(member) in nodes]
        candidates = [member for member in known if not self._is_leaving(member)]
        missing = self._voters_wanted() - len(staying)
        if missing > 0 and len(candidates) >= (1 if leaving else 1 + len(staying) % 2):
            yield now.with_voter(_best(candidates, staying, nodes))
        for member in leaving if len(now.voters) > 1 else ():
            if member in gone:
                yield now.without(member)
            elif missing <= 0 or len(now.voters) % 2 == 0:
                yield _demoted(now, member)
        if not leaving and missing < 0 and len(staying) % 2 == 0:
            yield _demoted(now, _most_crowded(staying, nodes))

    def _is_leaving(self, member: int) -> bool:
        """Whether a member is to vote no more: its node is being drained, is dead, was removed, or has come back with another
        disk."""
        node = self._nodes.get(node_of(member))
        if node is None:
            return False
        return not is_newest(member, self._nodes) or node.status is not NodeStatus.ACTIVE or node.node_id in self._dead

    def _voters_wanted(self) -> int:
        active = [node for node in self._nodes.values() if node.status is NodeStatus.ACTIVE and node.node_id not in self._dead]
        return VOTERS_OF_RACKS if len({_rack(node) for node in active}) >= VOTERS_OF_RACKS else VOTERS


def _demoted(now: Configuration, member: int) -> Configuration:
    return Configuration.of((other for other in now.voters if other != member), (*now.learners, member))


def _most_crowded(voters: Iterable[int], nodes: Mapping[int, NodeInfo]) -> int:
    """The voter in a rack with the most; the one with the highest id where there are several."""
    members = list(voters)
    racks = [_rack(nodes[node_of(member)]) if node_of(member) in nodes else node_of(member) for member in members]
    return max(zip(members, racks, strict=True), key=lambda one: (racks.count(one[1]), one[0]))[0]


def _best(candidates: Iterable[int], voters: Iterable[int], nodes: Mapping[int, NodeInfo]) -> int:
    """The candidate in a rack with the fewest voters; the one with the lowest id where there are several."""
    taken = [_rack(nodes[node_of(member)]) for member in voters if node_of(member) in nodes]
    return min(candidates, key=lambda member: (taken.count(_rack(nodes[node_of(member)])), member))


def _rack(node: NodeInfo) -> str | int:
    return node.rack or node.node_id
