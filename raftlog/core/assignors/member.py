"""A member of a group as assignors see it, and what they return."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from raftlog.model import TopicPartition


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Who wants which topics, and what it had: ``owned`` since ``generation``, the higher of two that claim the same."""

    member_id: str
    topics: frozenset[str]
    instance_id: str | None = None
    owned: tuple[TopicPartition, ...] = ()
    generation: int = -1


Assignments = dict[str, list[TopicPartition]]
"""Partitions by member id, of every member."""


def in_order(members: Iterable[Member]) -> list[Member]:
    """Members in the order that Kafka's assignors give them: static ones by instance id, then the others by member id."""
    return sorted(members, key=lambda one: (one.instance_id is None, one.instance_id or one.member_id, one.member_id))


def partitions_of(members: Iterable[Member], counts: Mapping[str, int]) -> list[TopicPartition]:
    """All partitions that somebody wants; topics without partitions in ``counts`` do not exist."""
    topics = sorted({topic for member in members for topic in member.topics if topic in counts})
    return [TopicPartition(topic, number) for topic in topics for number in range(counts[topic])]
