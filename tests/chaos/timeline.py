"""What the picture shows, taken from the two files of a run: pure functions. ``picture`` draws it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.summary import KAFKA, door_of
from tests.history.events import Event, Fetch, Fetched, Operation, Publish, Published, operations
from tests.history.group_events import CommitOffset, JoinedGroup, JoinGroup

US = 1_000_000


@dataclass(frozen=True, slots=True)
class Band:
    """A fault, from its begin to its healing, and until all was well."""

    kind: str
    node: int
    begin_s: float
    healed_s: float
    end_s: float
    spares_majority: bool
    companion: str = ""
    other: int = 0
    """The node that the companion hits."""


@dataclass(frozen=True, slots=True)
class Reign:
    """A node leads a partition; node 0 for nobody."""

    partition: int
    node: int
    begin_s: float
    end_s: float


@dataclass(slots=True)
class GroupLine:
    """What a group did."""

    commits: list[int]
    """That were taken, by second."""
    refused: list[int]
    """That were not, or of which nobody knows."""
    given: list[int]
    """Records that its members were given, by second."""
    rebalances_s: list[float] = field(default_factory=list)
    """When a generation was first told to a member."""
    mishaps: list[tuple[float, str]] = field(default_factory=list)
    """When something befell a member, and what."""


@dataclass(slots=True)
class Timeline:
    """Seconds are those since the run began."""

    seconds: int = 0
    published: dict[str, list[int]] = field(default_factory=dict)
    """Outcome → operations that ended so, by second. Unknown ones without an end count when they began."""
    kafka_published: list[int] = field(default_factory=list)
    """Those of the operations that ended well and came through the Kafka door, by second."""
    read: list[int] = field(default_factory=list)
    """Records that readers without a group got, by second."""
    kafka_read: list[int] = field(default_factory=list)
    """Of those, through the Kafka door."""
    groups: dict[str, GroupLine] = field(default_factory=dict)
    latencies_ms: list[tuple[float, float]] = field(default_factory=list)
    """When each acknowledged publish began, and how long it took."""
    bands: list[Band] = field(default_factory=list)
    reigns: list[Reign] = field(default_factory=list)
    acknowledged_s: dict[int, list[float]] = field(default_factory=dict)
    """Partition → when records were acknowledged, rising."""
    findings: list[tuple[float, str]] = field(default_factory=list)
    asleep: list[tuple[float, float]] = field(default_factory=list)
    """From and to when the run itself stood still, and nobody looked."""


def timeline(topic: str, history: Iterable[Event], events: Sequence[Mapping[str, Any]]) -> Timeline:
    """Gather everything about ``topic``."""
    ops = [op for op in operations(history) if getattr(op.value, "topic", topic) == topic]
    last_us = max([*(int(event["t"]) for event in events), *(op.begun_us for op in ops), 0])
    made = Timeline(seconds=last_us // US + 1)
    made.published = {outcome: [0] * made.seconds for outcome in ("ok", "fail", "unknown")}
    made.kafka_published, made.read, made.kafka_read = ([0] * made.seconds for _ in range(3))
    groups_of = {op.client: op.value.group for op in ops if isinstance(op.value, JoinGroup)}
    for group in groups_of.values():
        commits, refused, given = ([0] * made.seconds for _ in range(3))
        made.groups.setdefault(group, GroupLine(commits, refused, given))
    for op in ops:
        _add(made, op, groups_of)
    _add_rebalances(made, ops)
    for event in events:
        if event["what"] == "member" and event["group"] in made.groups:
            made.groups[event["group"]].mishaps.append((event["t"] / US, event["mishap"]))
    for times in made.acknowledged_s.values():
        times.sort()
    made.bands = bands(events)
    made.reigns = reigns(events, last_us / US)
    made.asleep = [(event["begin"] / US, event["begin"] / US + event["seconds"]) for event in events if event["what"] == "asleep"]
    made.findings = [(event["t"] / US, event["text"]) for event in events if event["what"] == "finding"]
    return made


def _add(made: Timeline, op: Operation, groups_of: Mapping[str, str]) -> None:
    """Count one operation in its second."""
    second = min((op.begun_us if op.outcome == "unknown" else op.ended_us) // US, made.seconds - 1)
    value, kafka = op.value, door_of(op.client) == KAFKA
    if isinstance(value, Publish):
        made.published[op.outcome][second] += 1
        if op.outcome == "ok":
            made.kafka_published[second] += kafka
            made.latencies_ms.append((op.begun_us / US, (op.ended_us - op.begun_us) / 1_000))
            if isinstance(op.result, Published):
                made.acknowledged_s.setdefault(value.partition, []).append(op.ended_us / US)
    elif isinstance(value, Fetch) and isinstance(op.result, Fetched):
        count = len(op.result.records)
        if op.client in groups_of:
            made.groups[groups_of[op.client]].given[second] += count
        elif not value.final:
            made.read[second] += count
            made.kafka_read[second] += count if kafka else 0
    elif isinstance(value, CommitOffset) and value.group in made.groups:
        line = made.groups[value.group]
        (line.commits if op.outcome == "ok" else line.refused)[second] += 1


def _add_rebalances(made: Timeline, ops: Iterable[Operation]) -> None:
    first: dict[tuple[str, int], float] = {}
    for op in ops:
        if isinstance(op.value, JoinGroup) and isinstance(op.result, JoinedGroup):
            key = op.value.group, op.result.generation
            first[key] = min(first.get(key, op.ended_us / US), op.ended_us / US)
    for (group, _), told_s in sorted(first.items()):
        made.groups[group].rebalances_s.append(told_s)


def bands(events: Iterable[Mapping[str, Any]]) -> list[Band]:
    """One for each episode; one that was cut short ends where the events do."""
    begun: dict[int, Mapping[str, Any]] = {}
    healed: dict[int, float] = {}
    ended: dict[int, float] = {}
    last_s = 0.0
    for event in events:
        last_s = event["t"] / US
        if event["what"] == "begin":
            begun[event["number"]] = event
        elif event["what"] == "healed":
            healed[event["number"]] = last_s
        elif event["what"] == "end":
            ended[event["number"]] = last_s
    return [
        Band(
            event["kind"], event["node"], event["t"] / US, healed.get(number, last_s), ended.get(number, last_s),
            event["spares_majority"], event["companion"], event["other"],
        )
        for number, event in begun.items()
    ]  # fmt: skip


def reigns(events: Iterable[Mapping[str, Any]], end_s: float) -> list[Reign]:
    """Who led which partition, and when."""
    found: list[Reign] = []
    current: dict[int, tuple[int, float]] = {}
    for event in events:
        if event["what"] != "leaders":
            continue
        now = event["t"] / US
        leaders = {int(partition): int(node) for partition, node in event["leaders"].items()}
        for partition in current.keys() | leaders.keys():
            node, since = current.get(partition, (0, now))
            if leaders.get(partition, 0) != node:
                if since < now:
                    found.append(Reign(partition, node, since, now))
                current[partition] = leaders.get(partition, 0), now
    found += [Reign(partition, node, since, end_s) for partition, (node, since) in current.items() if since < end_s]
    return sorted(found, key=lambda reign: (reign.begin_s, reign.partition))


def quantiles_ms(latencies_ms: Iterable[tuple[float, float]], seconds: int) -> dict[str, list[float]]:
    """Median and slowest latency of what began in each second; nan where nothing did."""
    by_second: list[list[float]] = [[] for _ in range(seconds)]
    for begun_s, latency_ms in latencies_ms:
        by_second[min(int(begun_s), seconds - 1)].append(latency_ms)
    nan = float("nan")
    return {
        "median": [sorted(found)[len(found) // 2] if found else nan for found in by_second],
        "slowest": [max(found) if found else nan for found in by_second],
    }
