"""What clients did and saw: the events of a history, in the order in which they happened, and the operations that they make.

An operation begins with an ``invoke`` and ends with ``ok``, ``fail`` (it did certainly not happen) or ``unknown`` (it may have
happened, or may yet happen). One that has no end in the history is unknown, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from tests.history.group_events import GROUP_KINDS, GroupValue

Outcome = Literal["invoke", "ok", "fail", "unknown"]

ACKS_ALL: Final = -1
LATEST: Final = -1
EARLIEST: Final = -2
NO_PRODUCER: Final = -1
FOREVER_US: Final = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """A batch is sent. ``values`` are unique in the whole history, unless the batch is sent again.

    ``session`` numbers what one producer sends in order: it changes with the producer id.
    """

    topic: str
    partition: int
    values: tuple[str, ...]
    acks: int = ACKS_ALL
    producer_id: int = NO_PRODUCER
    base_sequence: int = -1
    session: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Its first offset; −1 where the acknowledgement says nothing of it (acks none)."""

    base_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Records are asked for from ``offset`` on. A ``session`` goes on where its last fetch ended; a seek begins another.

    ``replica`` is the node that answers, 0 where that is not known. ``final``: all faults are over, and the log is read
    from its start to its end.
    """

    topic: str
    partition: int
    offset: int
    session: str = ""
    replica: int = 0
    final: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Records as (offset, value, timestamp in milliseconds), and the partition's bounds as the replica knew them."""

    records: tuple[tuple[int, str, int], ...]
    next_offset: int
    high_watermark: int
    log_start_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOffset:
    """The earliest or latest offset is asked for, or that of the first record at or after a time."""

    topic: str
    partition: int
    timestamp_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedOffset:
    """The answer: −1 for none."""

    offset: int
    timestamp_ms: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteTopic:
    """A topic is to go; names are not used again."""

    topic: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observe:
    """A replica was looked at from outside; it has no operation behind it. ``boot`` numbers its starts."""

    topic: str
    partition: int
    replica: int
    boot: int
    high_watermark: int
    log_start_offset: int


Value = Publish | Published | Fetch | Fetched | ListOffset | ListedOffset | DeleteTopic | Observe | GroupValue
KINDS: Final[dict[str, type[Value]]] = {
    kind.__name__: kind
    for kind in (Publish, Published, Fetch, Fetched, ListOffset, ListedOffset, DeleteTopic, Observe, *GROUP_KINDS)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of a history. ``operation`` joins an invoke with its end; ``time_us`` never falls."""

    time_us: int
    client: str
    operation: int
    outcome: Outcome
    value: Value | None = None
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An invoke and its end. ``result`` is there where the outcome is ok; ``ended_us`` is ``FOREVER_US`` for unknown."""

    client: str
    number: int
    value: Value
    outcome: Outcome
    result: Value | None
    begun_us: int
    ended_us: int
    error: str = ""


def operations(events: Iterable[Event]) -> list[Operation]:
    """The operations in order of their begin.

    Raises:
        ValueError: the events make no history.
    """
    begun: dict[int, Event] = {}
    ended: dict[int, Event] = {}
    for event in events:
        if event.outcome == "invoke":
            if event.operation in begun or event.value is None:
                raise ValueError(f"operation {event.operation} begins twice, or as nothing")
            begun[event.operation] = event
        else:
            if event.operation not in begun or event.operation in ended:
                raise ValueError(f"operation {event.operation} ends without a begin, or twice")
            ended[event.operation] = event
    return [_operation(begin, ended.get(number)) for number, begin in begun.items()]


def _operation(begin: Event, end: Event | None) -> Operation:
    assert begin.value is not None
    outcome: Outcome = "unknown" if end is None else end.outcome
    return Operation(
        client=begin.client,
        number=begin.operation,
        value=begin.value,
        outcome=outcome,
        result=None if end is None else end.value,
        begun_us=begin.time_us,
        ended_us=FOREVER_US if end is None or outcome == "unknown" else end.time_us,
        error="" if end is None else end.error,
    )
