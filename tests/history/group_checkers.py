"""The judges of what consumer groups did: pure functions over a history, each for one thing that must never happen.

They are judged of groups whose members commit forward only: a member begins at what was committed, and commits what it has
processed since. Records that retention took before a member came to them count as processed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.history.events import EARLIEST, Event, Fetch, Fetched, ListedOffset, ListOffset, Operation, operations
from tests.history.group_events import (
    CommitOffset,
    FetchCommitted,
    FetchedCommitted,
    JoinedGroup,
    JoinGroup,
    SyncedGroup,
    SyncGroup,
)
from tests.history.observed import Finding, Name

NO_GENERATION = -1
"""Of a commit from outside, which a group that has no members takes."""
WHOLE = -1
"""In place of a partition, where a finding is of the whole group."""


@dataclass(slots=True)
class ObservedGroup:
    """One group."""

    name: str
    joins: list[Operation] = field(default_factory=list)
    """Answered ones."""
    syncs: list[Operation] = field(default_factory=list)
    """Answered ones."""
    commits: list[Operation] = field(default_factory=list)
    """All, whatever became of them."""
    reads: list[Operation] = field(default_factory=list)
    """Answered ``FetchCommitted``."""
    processes: set[str] = field(default_factory=set)
    """The clients that are its members."""
    fetches: list[Operation] = field(default_factory=list)
    """Answered fetches of its processes."""
    starts: dict[Name, list[tuple[int, int]]] = field(default_factory=dict)
    """Log start offsets that its processes were told, each with the time of that."""


GroupChecker = Callable[[ObservedGroup], Iterator[Finding]]


def observe_groups(history: Sequence[Operation]) -> list[ObservedGroup]:
    """Every group that somebody joined, or committed for."""
    groups: dict[str, ObservedGroup] = {}
    for op in history:
        value = op.value
        if not isinstance(value, JoinGroup | SyncGroup | CommitOffset | FetchCommitted):
            continue
        group = groups.setdefault(value.group, ObservedGroup(value.group))
        if isinstance(value, JoinGroup):
            group.processes.add(op.client)
        kept = {JoinGroup: group.joins, SyncGroup: group.syncs, CommitOffset: group.commits, FetchCommitted: group.reads}[
            type(value)
        ]
        if op.result is not None or isinstance(value, CommitOffset):
            kept.append(op)
    for op in history:
        for group in groups.values():
            if op.client in group.processes:
                _add_reading(group, op)
    return list(groups.values())


def _add_reading(group: ObservedGroup, op: Operation) -> None:
    start = -1
    if isinstance(op.value, Fetch) and isinstance(op.result, Fetched):
        group.fetches.append(op)
        start = op.result.log_start_offset
    elif isinstance(op.value, ListOffset) and isinstance(op.result, ListedOffset) and op.value.timestamp_ms == EARLIEST:
        start = op.result.offset
    if start >= 0 and isinstance(op.value, Fetch | ListOffset):
        group.starts.setdefault((op.value.topic, op.value.partition), []).append((op.ended_us, start))


def falling_generations(group: ObservedGroup) -> Iterator[Finding]:
    """A join that is told an older generation than one that was told to anybody before the join began."""
    highest = 0
    ended = sorted(group.joins, key=lambda op: op.ended_us)
    at = 0
    for op in sorted(group.joins, key=lambda op: op.begun_us):
        while at < len(ended) and ended[at].ended_us < op.begun_us:
            highest = max(highest, _joined(ended[at]).generation)
            at += 1
        if _joined(op).generation < highest:
            text = f"operation {op.number} was told generation {_joined(op).generation}, {highest} was known"
            yield Finding("falling-generation", (group.name, WHOLE), text)


def split_generations(group: ObservedGroup) -> Iterator[Finding]:
    """A generation that was told twice and differently: a member that its leader does not know, or two leaders.

    Static members come back under other ids, so only those without an instance are looked at.
    """
    told: dict[int, list[Operation]] = defaultdict(list)
    for op in group.joins:
        told[_joined(op).generation].append(op)
    for generation, ops in told.items():
        lists = {_joined(op).members for op in ops if _joined(op).members}
        if any(_join(op).instance for op in ops):
            continue
        if len(lists) > 1 or len({_joined(op).leader for op in ops}) > 1:
            yield Finding("split-generation", (group.name, WHOLE), f"generation {generation} has members {sorted(lists)}")
        for op in ops:
            if lists and _joined(op).member_id not in next(iter(lists)):
                text = f"{_joined(op).member_id} is of generation {generation}, and its leader was not told"
                yield Finding("split-generation", (group.name, WHOLE), text)


def double_assignments(group: ObservedGroup) -> Iterator[Finding]:
    """A partition that two processes have in one generation. A static member's process is its instance, whatever its id."""
    instances = {_joined(op).member_id: _join(op).instance for op in group.joins}
    owners: dict[tuple[int, Name], str] = {}
    for op in group.syncs:
        sync, synced = _sync(op), op.result
        assert isinstance(synced, SyncedGroup)
        owner = instances.get(sync.member_id) or sync.member_id
        for name in synced.partitions:
            other = owners.setdefault((sync.generation, name), owner)
            if other != owner:
                yield Finding("double-assignment", name, f"{other} and {owner} have it in generation {sync.generation}")


def fenced_commits(group: ObservedGroup) -> Iterator[Finding]:
    """A commit that was acknowledged although it began after a newer generation had been told to somebody.

    Of a member that may be ahead of what it knows (``while_owned``): after another one was told that it has the partition in a
    newer generation.
    """
    ended = sorted(group.joins, key=lambda op: op.ended_us)
    given = sorted(group.syncs, key=lambda op: op.ended_us)
    at, newest = 0, NO_GENERATION
    for op in sorted(group.commits, key=lambda op: op.begun_us):
        while at < len(ended) and ended[at].ended_us < op.begun_us:
            newest = max(newest, _joined(ended[at]).generation)
            at += 1
        commit = _commit(op)
        if op.outcome != "ok" or commit.generation >= newest:
            continue
        if not commit.while_owned:
            text = f"operation {op.number} of generation {commit.generation} was taken, {newest} was known"
            yield Finding("fenced-commit", (commit.topic, commit.partition), text)
            continue
        usurped = next((one for one in given if one.ended_us < op.begun_us and _takes_over(one, op)), None)
        if usurped is not None:
            text = f"operation {op.number} of {op.client} was taken, {usurped.client} had it in generation "
            yield Finding("fenced-commit", _name(op), f"{text}{_sync(usurped).generation}")


def _takes_over(sync: Operation, commit: Operation) -> bool:
    """Whether a member was given what another one commits, in a newer generation than that one knew."""
    synced = sync.result
    assert isinstance(synced, SyncedGroup)
    newer = _sync(sync).generation > _commit(commit).generation
    return newer and sync.client != commit.client and _name(commit) in synced.partitions


def lost_commits(group: ObservedGroup) -> Iterator[Finding]:
    """A committed offset that is not there any more: a question is told an older one than was known before it was asked, and
    there is no commit of that one that may have come after what was known.

    A commit of unknown outcome may take effect at any time, also behind newer ones.
    """
    for name in {(_commit(op).topic, _commit(op).partition) for op in group.commits}:
        commits = [op for op in group.commits if _name(op) == name and op.outcome != "fail"]
        reads = [op for op in group.reads if _name(op) == name]
        known = [*(op for op in commits if op.outcome == "ok"), *reads]
        facts = sorted(((op.ended_us, op) for op in known), key=lambda fact: fact[0])
        at, highest = 0, -1
        for op in sorted(reads, key=lambda op: op.begun_us):
            while at < len(facts) and facts[at][0] < op.begun_us:
                highest = max(highest, _offset(facts[at][1]))
                at += 1
            told = _committed(op)
            if told >= highest:
                continue
            above_us = max(fact.begun_us for _, fact in facts[:at] if _offset(fact) > told)
            back = (one for one in commits if _commit(one).offset == told and one.begun_us <= op.ended_us)
            if not any(one.ended_us > above_us for one in back):
                text = f"group {group.name}: operation {op.number} was told {told}, {highest} was committed"
                yield Finding("lost-commit", name, text)


def phantom_commits(group: ObservedGroup) -> Iterator[Finding]:
    """A committed offset that nobody committed, or that was certainly refused."""
    tried: dict[Name, dict[int, list[Operation]]] = defaultdict(lambda: defaultdict(list))
    for op in group.commits:
        tried[_name(op)][_commit(op).offset].append(op)
    for op in group.reads:
        offset = _committed(op)
        if offset < 0:
            continue
        commits = [commit for commit in tried[_name(op)][offset] if commit.begun_us <= op.ended_us]
        if all(commit.outcome == "fail" for commit in commits):
            why = f"refused: {commits[-1].error}" if commits else "never committed"
            yield Finding("phantom-commit", _name(op), f"group {group.name} has offset {offset}, {why}")


def skipped_records(group: ObservedGroup) -> Iterator[Finding]:
    """A record below a committed offset that no member had been given when the commit began (at-least-once)."""
    given: dict[Name, dict[int, int]] = defaultdict(dict)
    for op in group.fetches:
        fetch, fetched = op.value, op.result
        assert isinstance(fetch, Fetch)
        assert isinstance(fetched, Fetched)
        seen = given[fetch.topic, fetch.partition]
        for offset, _, _ in fetched.records:
            seen[offset] = min(seen.get(offset, op.ended_us), op.ended_us)
    commits = [op for op in group.commits if op.outcome != "fail" and _commit(op).generation >= 0]
    for name in {_name(op) for op in commits}:
        yield from _skipped(group, name, [op for op in commits if _name(op) == name], given[name])


def _skipped(group: ObservedGroup, name: Name, commits: list[Operation], given: dict[int, int]) -> Iterator[Finding]:
    """``given``: offset → when a member was first given it."""
    starts = sorted(group.starts.get(name, []))
    at, accounted = 0, 0
    for op in sorted(commits, key=lambda op: op.begun_us):
        while at < len(starts) and starts[at][0] <= op.begun_us:
            accounted = max(accounted, starts[at][1])
            at += 1
        wanted = _commit(op).offset
        missing = [offset for offset in range(accounted, wanted) if given.get(offset, op.begun_us + 1) > op.begun_us]
        if missing:
            text = f"group {group.name}: operation {op.number} commits {wanted}, nobody was given {missing[0]}"
            yield Finding("skipped-record", name, text)
        accounted = max(accounted, wanted)


GROUP_CHECKERS: dict[str, GroupChecker] = {
    "falling-generation": falling_generations,
    "split-generation": split_generations,
    "double-assignment": double_assignments,
    "fenced-commit": fenced_commits,
    "lost-commit": lost_commits,
    "phantom-commit": phantom_commits,
    "skipped-record": skipped_records,
}
"""By the name that its findings bear."""


def judge_groups(events: Iterable[Event]) -> list[Finding]:
    """All findings of all checkers; a sound history has none."""
    groups = observe_groups(operations(events))
    return [finding for group in groups for checker in GROUP_CHECKERS.values() for finding in checker(group)]


def _name(op: Operation) -> Name:
    assert isinstance(op.value, CommitOffset | FetchCommitted)
    return op.value.topic, op.value.partition


def _join(op: Operation) -> JoinGroup:
    assert isinstance(op.value, JoinGroup)
    return op.value


def _joined(op: Operation) -> JoinedGroup:
    assert isinstance(op.result, JoinedGroup)
    return op.result


def _sync(op: Operation) -> SyncGroup:
    assert isinstance(op.value, SyncGroup)
    return op.value


def _commit(op: Operation) -> CommitOffset:
    assert isinstance(op.value, CommitOffset)
    return op.value


def _offset(op: Operation) -> int:
    """Of a commit, or of an answer."""
    return _commit(op).offset if isinstance(op.value, CommitOffset) else _committed(op)


def _committed(op: Operation) -> int:
    assert isinstance(op.result, FetchedCommitted)
    return op.result.offset
