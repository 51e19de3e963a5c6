"""Histories by hand: one call a line, for the tests of the checkers."""

from __future__ import annotations

from tests.history.checkers import judge
from tests.history.events import (
    ACKS_ALL,
    DeleteTopic,
    Event,
    Fetch,
    Fetched,
    ListedOffset,
    ListOffset,
    Observe,
    Outcome,
    Publish,
    Published,
    Value,
)

TOPIC = "t"


class Story:
    """Operations one behind another, each a millisecond long."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._now_us = 0
        self._number = 0

    def begin(self, value: Value, *, client: str = "c") -> int:
        """An operation begins; its number."""
        self._number += 1
        self._add(self._number, "invoke", value, client)
        return self._number

    def end(self, number: int, outcome: Outcome, value: Value | None = None, *, client: str = "c") -> None:
        """It ends."""
        self._add(number, outcome, value, client)

    def publish(
        self, *values: str, at: int | None = None, outcome: Outcome = "ok", acks: int = ACKS_ALL, producer: int = -1,
        session: str = "",
    ) -> None:  # fmt: skip
        """A batch; ``at`` is the offset that was acknowledged."""
        number = self.begin(Publish(topic=TOPIC, partition=0, values=values, acks=acks, producer_id=producer, session=session))
        self.end(number, outcome, Published(base_offset=at) if at is not None else None)

    def poll(
        self, offset: int, *values: str, next_offset: int | None = None, session: str = "", high: int = 100, start: int = 0,
        replica: int = 0, final: bool = False, times: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        """A fetch that gives ``values`` from ``offset`` on."""
        fetch = Fetch(topic=TOPIC, partition=0, offset=offset, session=session, replica=replica, final=final)
        number = self.begin(fetch)
        records = tuple((offset + at, value, times[at] if times else -1) for at, value in enumerate(values))
        end = offset + len(values) if next_offset is None else next_offset
        self.end(number, "ok", Fetched(records=records, next_offset=end, high_watermark=high, log_start_offset=start))

    def lookup(self, timestamp_ms: int, offset: int, found_ms: int = -1) -> None:
        """A ``ListOffset`` and its answer."""
        number = self.begin(ListOffset(topic=TOPIC, partition=0, timestamp_ms=timestamp_ms))
        self.end(number, "ok", ListedOffset(offset=offset, timestamp_ms=found_ms))

    def look(self, replica: int, boot: int, high: int, start: int = 0) -> None:
        """A replica is looked at."""
        seen = Observe(
            topic=TOPIC, partition=0, replica=replica, boot=boot, high_watermark=high, log_start_offset=start
        )  # fmt: skip
        self.begin(seen)

    def delete(self) -> None:
        """The topic goes."""
        self.end(self.begin(DeleteTopic(topic=TOPIC)), "ok")

    def findings(self) -> list[str]:
        """The names of the checks that find something, each once."""
        return sorted({finding.check for finding in judge(self.events)})

    def _add(self, number: int, outcome: Outcome, value: Value | None, client: str) -> None:
        self._now_us += 1_000
        self.events.append(Event(time_us=self._now_us, client=client, operation=number, outcome=outcome, value=value))
