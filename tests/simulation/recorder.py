"""Writes the history while it happens, on virtual time, and lines of the trace where one is wanted."""

from __future__ import annotations

from collections.abc import Callable

from tests.history.events import Event, Fetch, Fetched, ListedOffset, ListOffset, Outcome, Publish, Published, Value
from tests.simulation.loop import VirtualLoop


class Recorder:
    """The events of one simulation.

    Args:
        note: takes a line of the trace; None where none is wanted.
    """

    def __init__(self, loop: VirtualLoop, note: Callable[[str], None] | None) -> None:
        self._loop, self._note = loop, note
        self.events: list[Event] = []
        self.operations = 0
        """How many have begun."""

    def invoke(self, client: str, value: Value) -> int:
        """An operation begins; its number."""
        self.operations += 1
        self._add(client, self.operations, "invoke", value, "")
        return self.operations

    def end(self, client: str, operation: int, outcome: Outcome, value: Value | None = None, error: object = "") -> None:
        """An operation ends."""
        self._add(client, operation, outcome, value, repr(error) if error else "")

    def _add(self, client: str, operation: int, outcome: Outcome, value: Value | None, error: str) -> None:
        now_us = int(self._loop.now_s * 1e6)
        event = Event(time_us=now_us, client=client, operation=operation, outcome=outcome, value=value, error=error)
        self.events.append(event)
        if self._note is not None:
            told = "" if value is None else tell(value)
            self._note(f"{client} #{operation} {'' if outcome == 'invoke' else outcome + ' '}{told}{error}")


def tell(value: Value) -> str:
    """A value in few words."""
    match value:
        case Publish():
            who = (
                f"producer {value.producer_id} sequence {value.base_sequence}" if value.producer_id >= 0 else f"acks {value.acks}"
            )
            return f"publish {value.topic}-{value.partition} {' '.join(value.values)} ({who})"
        case Published():
            return f"at {value.base_offset}"
        case Fetch():
            return f"fetch {value.topic}-{value.partition} from {value.offset}{f' of node {value.replica}' * bool(value.replica)}"
        case Fetched():
            bounds = f"{value.log_start_offset} to {value.high_watermark}"
            return f"{' '.join(record for _, record, _ in value.records) or 'nothing'}, next {value.next_offset}, {bounds}"
        case ListOffset():
            return f"list offset {value.topic}-{value.partition} at {value.timestamp_ms}"
        case ListedOffset():
            return f"{value.offset}"
        case _:
            return repr(value)
