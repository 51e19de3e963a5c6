"""The judges of a history: pure functions, each for one thing that must never happen. After Jepsen's Kafka workload.

Nothing here knows how the history came about: the simulator and the tests on real processes write the same events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

from tests.history.events import (
    ACKS_ALL,
    LATEST,
    NO_PRODUCER,
    Event,
    Fetch,
    Fetched,
    ListedOffset,
    ListOffset,
    Operation,
    Publish,
    operations,
)
from tests.history.observed import Finding, Observed, observe

Checker = Callable[[Observed], Iterator[Finding]]


def lost_writes(log: Observed) -> Iterator[Finding]:
    """An acknowledged record, or one that somebody has read, that the final log lacks though retention kept its place (I1)."""
    if log.final is None:
        return
    known = {offset: value for value, (offset, _) in log.acked.items()}
    known |= {offset: next(iter(values)) for offset, values in log.polled.items()}
    for offset in sorted(known):
        if max(log.final_start, log.start_max) <= offset < log.final_end and offset not in log.final:
            yield Finding("lost-write", log.name, f"{known[offset]} at offset {offset} is gone")


def unseen(log: Observed) -> Iterator[Finding]:
    """An acknowledged or read record beyond the end of the final log (I1)."""
    if log.final is None:
        return
    known = {offset: value for value, (offset, _) in log.acked.items()}
    known |= {offset: next(iter(values)) for offset, values in log.polled.items()}
    for offset in sorted(known):
        if offset >= log.final_end:
            yield Finding("unseen", log.name, f"{known[offset]} at offset {offset}, the final log ends at {log.final_end}")


def inconsistent_offsets(log: Observed) -> Iterator[Finding]:
    """An offset that shows two values, to readers or in acknowledgements (I2)."""
    for offset in sorted(log.polled):
        values = log.polled[offset]
        if len(values) > 1:
            yield Finding("inconsistent-offsets", log.name, f"offset {offset} shows {' and '.join(values)}")
    told: dict[int, str] = {}
    for value, (offset, op) in log.acked.items():
        others = [other for other in log.polled.get(offset, ()) if other != value]
        others += [other for other in (told.setdefault(offset, value),) if other != value]
        if others:
            yield Finding(
                "inconsistent-offsets", log.name, f"operation {op.number} has {value} at offset {offset}, others {others[0]}"
            )


def duplicates(log: Observed) -> Iterator[Finding]:
    """A value of an idempotent producer at two offsets (I4)."""
    for value, offsets in log.offsets().items():
        sends = log.sent.get(value, [])
        once = len(sends) == 1 or any(_publish(op).producer_id != NO_PRODUCER for op in sends)
        if len(offsets) > 1 and once:
            yield Finding("duplicate", log.name, f"{value} is at offsets {offsets}")
        told = log.acked[value][0] if value in log.acked else log.start_max - 1
        if once and told >= log.start_max and told not in offsets:
            yield Finding("duplicate", log.name, f"{value} was acknowledged at {told} and is at {offsets}")


def aborted_reads(log: Observed) -> Iterator[Finding]:
    """A value that was read although nobody sent it, every attempt certainly failed, or none had begun."""
    for offset in sorted(log.polled):
        for value, reader in log.polled[offset].items():
            sends = log.sent.get(value, [])
            if not sends:
                yield Finding("aborted-read", log.name, f"{value} at offset {offset} was never sent")
            elif all(op.outcome == "fail" for op in sends):
                yield Finding("aborted-read", log.name, f"{value} at offset {offset} failed: {sends[-1].error}")
            elif reader.ended_us < min(op.begun_us for op in sends):
                yield Finding("aborted-read", log.name, f"{value} at offset {offset} was read before it was sent")


def poll_skips(log: Observed) -> Iterator[Finding]:
    """A session that passes over a record: offsets have no gaps here, so what a fetch gives follows what was asked for (I7)."""
    for op in log.fetches:
        fetch, fetched = _fetch(op), _fetched(op)
        expected = fetch.offset
        for offset, value, _ in fetched.records:
            if offset > expected:
                yield Finding("poll-skip", log.name, f"operation {op.number}: {value} at {offset} follows offset {expected - 1}")
            expected = offset + 1
        if fetched.next_offset != expected:
            yield Finding("poll-skip", log.name, f"operation {op.number} goes on at {fetched.next_offset}, not {expected}")
    for before, after in _session_pairs(log):
        asked, ended = _fetch(after).offset, _fetched(before).next_offset
        if asked > ended:
            yield Finding("poll-skip", log.name, f"operation {after.number} asks for {asked} after {ended - 1}")


def nonmonotonic_polls(log: Observed) -> Iterator[Finding]:
    """A session that is given a record again, or an earlier one."""
    for op in log.fetches:
        offsets = [_fetch(op).offset - 1, *(offset for offset, _, _ in _fetched(op).records)]
        for before, after in pairwise(offsets):
            if after <= before:
                yield Finding("nonmonotonic-poll", log.name, f"operation {op.number} gives {after} after {before}")
    for before_op, after_op in _session_pairs(log):
        asked, ended = _fetch(after_op).offset, _fetched(before_op).next_offset
        if asked < ended:
            yield Finding("nonmonotonic-poll", log.name, f"operation {after_op.number} asks for {asked} again, after {ended - 1}")


def nonmonotonic_sends(log: Observed) -> Iterator[Finding]:
    """A producer's records out of the order in which it sent them (I4).

    An idempotent producer's order holds for everything that is in the log; another one's only between a batch that was
    acknowledged and those that it sent afterwards.
    """
    offsets = {value: found[0] for value, found in log.offsets().items()}
    offsets |= {value: offset for value, (offset, _) in log.acked.items()}
    sessions: dict[str, list[Operation]] = {}
    for op in log.publishes:
        if _publish(op).session:
            sessions.setdefault(_publish(op).session, []).append(op)
    for ops in sessions.values():
        yield from _order_kept(log, ops, offsets)


def _order_kept(log: Observed, ops: Sequence[Operation], offsets: dict[str, int]) -> Iterator[Finding]:
    highest, highest_value, done_us = -1, "", -1
    known: set[str] = set()
    for op in ops:
        publish = _publish(op)
        idempotent = publish.producer_id != NO_PRODUCER
        if not idempotent and (op.outcome != "ok" or op.begun_us < done_us or publish.acks != ACKS_ALL):
            continue
        for value in publish.values:
            if value in known or value not in offsets:
                continue
            known.add(value)
            if offsets[value] <= highest:
                yield Finding("nonmonotonic-send", log.name, f"{value} at {offsets[value]} follows {highest_value} at {highest}")
            elif offsets[value] > highest:
                highest, highest_value = offsets[value], value
        done_us = max(done_us, op.ended_us) if not idempotent else done_us


def falling_watermarks(log: Observed) -> Iterator[Finding]:
    """A high watermark or log start offset that goes back, for one client and one replica, or seen from outside (I6)."""
    told: dict[tuple[str, int], tuple[int, int, int]] = {}
    for op in sorted(log.fetches, key=lambda op: op.ended_us):
        replica, fetched = _fetch(op).replica, _fetched(op)
        if not replica:
            continue
        _, high, start = told.get((op.client, replica), (0, 0, 0))
        began_after = told.get((op.client, replica), (-1, 0, 0))[0] <= op.begun_us
        if began_after and (fetched.high_watermark < high or fetched.log_start_offset < start):
            text = f"replica {replica} told {op.client} {high} and {start}, then {fetched.high_watermark} and "
            yield Finding("falling-watermark", log.name, text + f"{fetched.log_start_offset}")
        told[op.client, replica] = (op.ended_us, max(high, fetched.high_watermark), max(start, fetched.log_start_offset))
    looked: dict[tuple[int, int], tuple[int, int]] = {}
    for _, look in log.looks:
        high, start = looked.get((look.replica, look.boot), (0, 0))
        if look.high_watermark < high or look.log_start_offset < start:
            text = f"replica {look.replica} went from {high} and {start} to {look.high_watermark} and {look.log_start_offset}"
            yield Finding("falling-watermark", log.name, text)
        looked[look.replica, look.boot] = (look.high_watermark, look.log_start_offset)


def stale_latest(log: Observed) -> Iterator[Finding]:
    """A latest offset below what was acknowledged, or told as committed, before it was asked for (I5)."""
    facts = [(op.ended_us, offset + 1) for offset, op in log.acked.values()]
    facts += [(op.ended_us, _fetched(op).high_watermark) for op in log.fetches]
    lookups = [op for op in log.lookups if _lookup(op).timestamp_ms == LATEST]
    facts += [(op.ended_us, _listed(op).offset) for op in lookups]
    facts.sort()
    at, highest = 0, 0
    for op in sorted(lookups, key=lambda op: op.begun_us):
        while at < len(facts) and facts[at][0] < op.begun_us:
            highest = max(highest, facts[at][1])
            at += 1
        if _listed(op).offset < highest:
            yield Finding("stale-latest", log.name, f"operation {op.number} was told {_listed(op).offset}, {highest} was known")


def wrong_times(log: Observed) -> Iterator[Finding]:
    """A lookup by time that gives another record than the first one at or after that time, of those known before it was asked."""
    known = {offset: op.ended_us for values in log.acked.values() for offset, op in (values,)}
    for offset, values in log.polled.items():
        known[offset] = min(known.get(offset, values[next(iter(values))].ended_us), next(iter(values.values())).ended_us)
    for op in log.lookups:
        wanted, listed = _lookup(op).timestamp_ms, _listed(op)
        if wanted < 0:
            continue
        if listed.offset >= 0 and log.timestamps.get(listed.offset, listed.timestamp_ms) != listed.timestamp_ms:
            text = f"operation {op.number}: offset {listed.offset} has time {log.timestamps[listed.offset]}, "
            yield Finding("wrong-time", log.name, text + f"not {listed.timestamp_ms}")
        if listed.offset >= 0 and listed.timestamp_ms < wanted:
            yield Finding("wrong-time", log.name, f"operation {op.number}: time {listed.timestamp_ms} is before {wanted}")
        for offset, since_us in known.items():
            earlier = listed.offset < 0 or offset < listed.offset
            if earlier and offset >= log.start_max and since_us < op.begun_us and log.timestamps.get(offset, -1) >= wanted:
                text = f"operation {op.number} asked for {wanted} and got {listed.offset}; offset {offset} has "
                yield Finding("wrong-time", log.name, text + f"{log.timestamps[offset]}")
                break


CHECKERS: dict[str, Checker] = {
    "lost-write": lost_writes,
    "unseen": unseen,
    "inconsistent-offsets": inconsistent_offsets,
    "duplicate": duplicates,
    "aborted-read": aborted_reads,
    "poll-skip": poll_skips,
    "nonmonotonic-poll": nonmonotonic_polls,
    "nonmonotonic-send": nonmonotonic_sends,
    "falling-watermark": falling_watermarks,
    "stale-latest": stale_latest,
    "wrong-time": wrong_times,
}
"""By the name that its findings bear."""


def judge(events: Iterable[Event]) -> list[Finding]:
    """All findings of all checkers; a sound history has none."""
    logs = observe(operations(events))
    return [finding for log in logs for checker in CHECKERS.values() for finding in checker(log)]


def _session_pairs(log: Observed) -> Iterator[tuple[Operation, Operation]]:
    """Consecutive answered fetches of each session."""
    last: dict[tuple[str, str], Operation] = {}
    for op in log.fetches:
        session = _fetch(op).session
        if session:
            if (op.client, session) in last:
                yield last[op.client, session], op
            last[op.client, session] = op


def _publish(op: Operation) -> Publish:
    assert isinstance(op.value, Publish)
    return op.value


def _fetch(op: Operation) -> Fetch:
    assert isinstance(op.value, Fetch)
    return op.value


def _fetched(op: Operation) -> Fetched:
    assert isinstance(op.result, Fetched)
    return op.result


def _lookup(op: Operation) -> ListOffset:
    assert isinstance(op.value, ListOffset)
    return op.value


def _listed(op: Operation) -> ListedOffset:
    assert isinstance(op.result, ListedOffset)
    return op.result
