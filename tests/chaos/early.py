"""Whether an acknowledgement came before any disk can have had the record: a pure function of history and slow disks.

While every sync of every node takes ``sync_ms``, nothing that was sent since can be acknowledged sooner: its batch waits for a
sync that begins after it was appended. So a node that acknowledges without syncing, which SIGKILL does not show, is seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.chaos.liveness import Window
from tests.history.events import Event, Publish, operations

US = 1_000_000
PRECISION_S = 0.005
"""What timers and clocks of two processes may differ in."""
SYNC_S_MIN = 0.05
"""Shorter ones are not told from an answer that took its time."""


def slow_syncs(events: Iterable[Mapping[str, Any]], nodes: int) -> list[tuple[Window, float]]:
    """When the disks of all nodes were slow, and how long each sync took at least, in seconds."""
    found: list[tuple[Window, float]] = []
    begun: dict[tuple[int, ...], Mapping[str, Any]] = {}
    for event in events:
        if event["what"] == "slow disk":
            begun[tuple(event["nodes"])] = event
        elif event["what"] == "good disk" and (begin := begun.pop(tuple(event["nodes"]), None)) and len(event["nodes"]) == nodes:
            found.append((Window(begin["t"] / US, event["t"] / US), begin["sync_ms"] / 1_000))
    return found


def early(history: Iterable[Event], slow: Sequence[tuple[Window, float]]) -> list[str]:
    """Each acknowledgement of a record on disk that came too soon."""
    found = []
    for op in operations(history):
        if op.outcome != "ok" or not isinstance(op.value, Publish) or not op.value.acks:
            continue
        begun_s, ended_s = op.begun_us / US, op.ended_us / US
        for window, sync_s in slow:
            within = window.begin_s <= begun_s and ended_s <= window.end_s
            if within and sync_s >= SYNC_S_MIN and ended_s - begun_s < sync_s - PRECISION_S:
                text = f"acknowledged after {(ended_s - begun_s) * 1_000:.0f} ms, each sync took {sync_s * 1_000:.0f} ms"
                found.append(f"early-ack in {op.value.topic}-{op.value.partition}: operation {op.number} was {text}")
    return found
