"""What a history comes to, in numbers and lines: a pure function of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.history.events import Event, Fetch, Fetched, Observe, Operation, Publish, operations
from tests.history.group_events import CommitOffset, JoinedGroup, JoinGroup

OUTCOMES = ("ok", "unknown", "fail")
GRPC, KAFKA = "gRPC", "Kafka"


def door_of(client: str) -> str:
    """The door that a client outside of groups came through, by its name."""
    return KAFKA if client.startswith("kafka-") else GRPC


@dataclass(slots=True)
class GroupSummary:
    """One group. ``refused`` are commits of former members that were refused for certain."""

    generations: set[int] = field(default_factory=set)
    members: set[str] = field(default_factory=set)
    """Its processes, one after another."""
    given: int = 0
    """Records, those that came again counted again."""
    commits: Counter[str] = field(default_factory=Counter)
    """Outcome → how many."""


@dataclass(slots=True)
class Summary:
    """Of a whole run."""

    operations: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """Of all operations."""
    published: dict[str, Counter[str]] = field(default_factory=lambda: {GRPC: Counter(), KAFKA: Counter()})
    """Door → outcome → how many."""
    read: Counter[str] = field(default_factory=Counter)
    """Door → records that readers without a group were given."""
    groups: dict[str, GroupSummary] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For a person."""
        lines = [f"{self.operations:,} operations: {_told(self.outcomes)}"]
        lines += [
            f"through {door}: {_told(counts)} of publishing, {self.read[door]:,} records read"
            for door, counts in self.published.items()
            if counts or self.read[door]
        ]
        lines += [
            f"group {name}: {len(group.generations)} generations, {len(group.members)} processes as members, "
            f"{group.given:,} records given, {_told(group.commits)} of committing"
            for name, group in sorted(self.groups.items())
        ]
        return lines


def summarize(history: Iterable[Event]) -> Summary:
    """Count."""
    made, groups_of = Summary(), dict[str, str]()
    ops = [op for op in operations(history) if not isinstance(op.value, Observe)]
    for op in ops:
        if isinstance(op.value, JoinGroup):
            groups_of[op.client] = op.value.group
            made.groups.setdefault(op.value.group, GroupSummary())
    for op in ops:
        made.operations += 1
        made.outcomes[op.outcome] += 1
        _count(made, op, groups_of)
    return made


def _count(made: Summary, op: Operation, groups_of: dict[str, str]) -> None:
    value = op.value
    if isinstance(value, Publish):
        made.published[door_of(op.client)][op.outcome] += 1
    elif isinstance(value, Fetch) and isinstance(op.result, Fetched):
        if op.client in groups_of:
            made.groups[groups_of[op.client]].given += len(op.result.records)
        elif not value.final:
            made.read[door_of(op.client)] += len(op.result.records)
    elif isinstance(value, JoinGroup):
        group = made.groups[value.group]
        group.members.add(op.client)
        if isinstance(op.result, JoinedGroup):
            group.generations.add(op.result.generation)
    elif isinstance(value, CommitOffset):
        made.groups.setdefault(value.group, GroupSummary()).commits[op.outcome] += 1


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[outcome]:,} {outcome}" for outcome in OUTCOMES)
