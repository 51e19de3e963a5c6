"""A history as JSON lines, one event a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

from tests.history.events import KINDS, Event, Value


def encode(event: Event) -> str:
    """One line, without its end."""
    line: dict[str, Any] = {"t": event.time_us, "client": event.client, "op": event.operation, "is": event.outcome}
    if event.value is not None:
        line["what"] = type(event.value).__name__
        line |= {"value": {field.name: getattr(event.value, field.name) for field in fields(event.value)}}
    if event.error:
        line["error"] = event.error
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def decode(line: str) -> Event:
    """The inverse.

    Raises:
        ValueError: the line is none of a history.
    """
    try:
        made = json.loads(line)
        value = _value(made["what"], made["value"]) if "what" in made else None
        return Event(
            time_us=made["t"], client=made["client"], operation=made["op"], outcome=made["is"], value=value,
            error=made.get("error", ""),
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a line of a history: {error!r}: {line[:100]}") from error


def decode_lines(lines: Iterable[str]) -> Iterator[Event]:
    """All events of a file; a last line that was cut short by a crash is passed over."""
    held: str | None = None
    for line in lines:
        if held is not None:
            yield decode(held)
        held = line
    if held is not None and held.strip():
        try:
            last = decode(held)
        except ValueError:
            if held.endswith("\n"):
                raise
            return
        yield last


def _value(kind: str, made: dict[str, Any]) -> Value:
    return KINDS[kind](**{name: _frozen(part) for name, part in made.items()})


def _frozen(part: Any) -> Any:
    return tuple(_frozen(item) for item in part) if isinstance(part, list) else part
