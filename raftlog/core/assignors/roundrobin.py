"""Round robin: all partitions in their order to the members in theirs, one at a time (Kafka's RoundRobinAssignor)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

from raftlog.core.assignors.member import Assignments, Member, in_order, partitions_of


def assign(members: Sequence[Member], counts: Mapping[str, int]) -> Assignments:
    """Assign ``counts`` (partitions by topic) to ``members``; whoever does not want a partition is passed over."""
    found: Assignments = {member.member_id: [] for member in members}
    turns = cycle(in_order(members))
    for tp in partitions_of(members, counts):
        taker = next(member for member in turns if tp.topic in member.topics)
        found[taker.member_id].append(tp)
    return found
