"""What a history says of each partition's log: gathered once, and asked by all checkers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.history.events import (
    ACKS_ALL,
    DeleteTopic,
    Fetch,
    Fetched,
    ListedOffset,
    ListOffset,
    Observe,
    Operation,
    Publish,
    Published,
)

Name = tuple[str, int]
"""Topic and partition."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must never happen, and did."""

    check: str
    partition: Name
    text: str

    def __str__(self) -> str:
        return f"{self.check} in {self.partition[0]}-{self.partition[1]}: {self.text}"


@dataclass(slots=True)
class Observed:
    """One partition."""

    name: Name
    sent: dict[str, list[Operation]] = field(default_factory=dict)
    """Value → the operations that sent it, in order."""
    publishes: list[Operation] = field(default_factory=list)
    acked: dict[str, tuple[int, Operation]] = field(default_factory=dict)
    """Value → its offset by the acknowledgement (acks all), and the first operation that was told."""
    polled: dict[int, dict[str, Operation]] = field(default_factory=dict)
    """Offset → each value seen there, and the first operation that saw it."""
    timestamps: dict[int, int] = field(default_factory=dict)
    """Offset → the record's time, as first seen."""
    fetches: list[Operation] = field(default_factory=list)
    """Those that were answered."""
    lookups: list[Operation] = field(default_factory=list)
    """Answered ``ListOffset``."""
    looks: list[tuple[int, Observe]] = field(default_factory=list)
    final: dict[int, str] | None = None
    """Offset → value, as read after all faults; None where nobody read."""
    final_start: int = 0
    final_end: int = 0
    start_max: int = 0
    """The highest log start offset that anybody was told."""

    def offsets(self) -> dict[str, list[int]]:
        """Value → the offsets at which it was seen, rising."""
        found: dict[str, list[int]] = {}
        for offset in sorted(self.polled):
            for value in self.polled[offset]:
                found.setdefault(value, []).append(offset)
        return found


def observe(operations: Sequence[Operation]) -> list[Observed]:
    """Every partition of a topic that nobody tried to delete, in order of appearance."""
    gone = {op.value.topic for op in operations if isinstance(op.value, DeleteTopic) and op.outcome != "fail"}
    seen: dict[Name, Observed] = {}
    for op in operations:
        value = op.value
        if not isinstance(value, Publish | Fetch | ListOffset | Observe):
            continue
        if value.topic in gone:
            continue
        name = (value.topic, value.partition)
        partition = seen.setdefault(name, Observed(name))
        if isinstance(value, Publish):
            _add_publish(partition, op, value)
        elif isinstance(value, Fetch) and isinstance(op.result, Fetched):
            _add_fetch(partition, op, value, op.result)
        elif isinstance(value, ListOffset) and isinstance(op.result, ListedOffset):
            partition.lookups.append(op)
        elif isinstance(value, Observe):
            partition.looks.append((op.begun_us, value))
            partition.start_max = max(partition.start_max, value.log_start_offset)
    return list(seen.values())


def _add_publish(partition: Observed, op: Operation, publish: Publish) -> None:
    partition.publishes.append(op)
    for value in publish.values:
        partition.sent.setdefault(value, []).append(op)
    if op.outcome == "ok" and publish.acks == ACKS_ALL and isinstance(op.result, Published):
        for at, value in enumerate(publish.values):
            partition.acked.setdefault(value, (op.result.base_offset + at, op))


def _add_fetch(partition: Observed, op: Operation, fetch: Fetch, fetched: Fetched) -> None:
    partition.fetches.append(op)
    partition.start_max = max(partition.start_max, fetched.log_start_offset)
    for offset, value, timestamp_ms in fetched.records:
        partition.polled.setdefault(offset, {}).setdefault(value, op)
        partition.timestamps.setdefault(offset, timestamp_ms)
    if fetch.final:
        if partition.final is None:
            partition.final, partition.final_start = {}, fetch.offset
        for offset, value, _ in fetched.records:
            partition.final[offset] = value
        partition.final_end = max(partition.final_end, fetched.next_offset)
