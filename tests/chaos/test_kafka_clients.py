"""What clients of the Kafka door write down."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from tests.chaos.kafka_clients import IdempotentProducer
from tests.chaos.recorder import History
from tests.history.events import Published


class Notes:
    """A history that only keeps ends."""

    def __init__(self) -> None:
        self.ends: list[tuple[Any, ...]] = []

    def end(self, *what: Any, **_: Any) -> None:
        self.ends.append(what)


def test_an_acknowledgement_whose_offset_is_not_known_is_one_all_the_same() -> None:
    """No unknown outcome: it ends its operation. Its place is not judged."""
    producer, notes = object.__new__(IdempotentProducer), Notes()
    producer._outstanding, producer._history = 2, cast(History, notes)
    for offset in (None, 7):
        producer._told(1, 0, None, SimpleNamespace(offset=lambda offset=offset: offset))
    assert notes.ends == [(1, "ok", None), (1, "ok", Published(base_offset=7))]
