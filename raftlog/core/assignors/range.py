"""Range: contiguous partitions of each topic to each subscriber; topics of one size are split alike (Kafka's RangeAssignor)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raftlog.core.assignors.member import Assignments, Member, in_order
from raftlog.model import TopicPartition


def assign(members: Sequence[Member], counts: Mapping[str, int]) -> Assignments:
    """Assign ``counts`` (partitions by topic) to ``members``; where they do not go up evenly, the first get one more."""
    found: Assignments = {member.member_id: [] for member in members}
    ordered = in_order(members)
    for topic in sorted(counts):
        subscribers = [member.member_id for member in ordered if topic in member.topics]
        if not subscribers:
            continue
        share, extra = divmod(counts[topic], len(subscribers))
        start = 0
        for place, member_id in enumerate(subscribers):
            stop = start + share + (place < extra)
            found[member_id] += [TopicPartition(topic, number) for number in range(start, stop)]
            start = stop
    return found
