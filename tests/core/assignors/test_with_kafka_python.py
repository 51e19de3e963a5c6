"""Our assignors and kafka-python's in one group: either leads, and members of both makes understand it."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.protocol.consumer.metadata import ConsumerProtocolSubscription
from kafka.structs import TopicPartition as KafkaTopicPartition

from raftlog.core import consumer_protocol as protocol
from raftlog.core.assignors import catalogue
from raftlog.model import TopicPartition

THEIRS: dict[str, Any] = {
    "range": RangePartitionAssignor,
    "roundrobin": RoundRobinPartitionAssignor,
    "sticky": StickyPartitionAssignor,
    "cooperative-sticky": CooperativeStickyAssignor,
}
TOPICS = ("a", "b", "c")
counts_of = st.dictionaries(st.sampled_from(TOPICS), st.integers(1, 5), min_size=1)
subscriptions = st.dictionaries(
    st.sampled_from([f"m{n}" for n in range(6)]), st.sets(st.sampled_from(TOPICS), min_size=1), min_size=1
)
Found = dict[str, list[TopicPartition]]


def ours(assignor: str, members: dict[str, bytes], counts: dict[str, int]) -> Found:
    """The group is led by one of ours."""
    joined = [catalogue.JoinedAs(member_id=name, instance_id=None, metadata=data) for name, data in members.items()]
    found = catalogue.assign(assignor, joined, counts)
    return {name: list(protocol.decode_assignment(data).partitions) for name, data in found.items()}


def theirs(assignor: str, members: dict[str, bytes], counts: dict[str, int]) -> Found:
    """The group is led by kafka-python; we read what it assigns."""
    cluster = SimpleNamespace(
        topics=lambda: set(counts), partitions_for_topic=lambda topic: set(range(counts[topic])) if topic in counts else None
    )
    joined = [
        SimpleNamespace(member_id=name, group_instance_id=None, metadata=ConsumerProtocolSubscription.decode(data))
        for name, data in members.items()
    ]
    found = THEIRS[assignor]().assign(cluster, joined)
    return {name: list(protocol.decode_assignment(bytes(one.encode())).partitions) for name, one in found.items()}


def our_member(assignor: str, topics: set[str], owned: tuple[TopicPartition, ...] = (), generation: int = -1) -> bytes:
    return catalogue.metadata_for(assignor, sorted(topics), owned=owned, last=owned, generation=generation)


def their_member(assignor: str, topics: set[str], owned: tuple[TopicPartition, ...] | None = None) -> bytes:
    made = THEIRS[assignor]()
    if owned is not None:
        made.member_assignment = [KafkaTopicPartition(tp.topic, tp.partition) for tp in owned]
        made.generation = 1
    return bytes(made.metadata(topics).encode())


@pytest.mark.parametrize("assignor", ["range", "roundrobin"])
@given(members=subscriptions, counts=counts_of)
def test_the_simple_assignors_give_the_same(assignor: str, members: dict[str, set[str]], counts: dict[str, int]) -> None:
    """Whoever leads, and whoever wrote a member's metadata. (Round robin of kafka-python fails where subscriptions differ.)"""
    if assignor == "roundrobin":
        members = {name: set(TOPICS) for name in members}
    wanted = {topic: count for topic, count in counts.items() if any(topic in topics for topics in members.values())}
    mixed = {
        name: (our_member if place % 2 else their_member)(assignor, topics)
        for place, (name, topics) in enumerate(members.items())
    }
    assert ours(assignor, mixed, wanted) == theirs(assignor, mixed, wanted)


@pytest.mark.parametrize("assignor", ["sticky", "cooperative-sticky"])
@given(members=subscriptions, counts=counts_of)
def test_what_one_of_us_has_assigned_the_other_keeps(assignor: str, members: dict[str, set[str]], counts: dict[str, int]) -> None:
    """kafka-python keeps what ours has assigned, as it reads what our members say they have; ours keeps what its members say."""
    fresh = {name: our_member(assignor, topics) for name, topics in members.items()}
    wanted = {topic: count for topic, count in counts.items() if any(topic in topics for topics in members.values())}
    first = ours(assignor, fresh, wanted)
    everything = Counter(TopicPartition(topic, number) for topic, count in wanted.items() for number in range(count))
    assert Counter(chain.from_iterable(first.values())) == everything
    settled = {name: our_member(assignor, topics, tuple(first[name]), 1) for name, topics in members.items()}
    again = theirs(assignor, settled, wanted)
    assert len({name for name in first if sorted(first[name]) != sorted(again[name])}) == 0 or _evener(again, first)
    from_them = {name: their_member(assignor, topics, tuple(first[name])) for name, topics in members.items()}
    assert ours(assignor, from_them, wanted) == first


def _evener(after: Found, before: Found) -> bool:
    """Where subscriptions differ, kafka-python may see another way to spread; it must not be a worse one."""
    spread = [max(map(len, found.values())) - min(map(len, found.values())) for found in (after, before)]
    return spread[0] <= spread[1]
