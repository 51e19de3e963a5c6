"""Hunts for a bug that was planted into real nodes: a short run of the faults that are to show it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.planted import BUGS
from tests.chaos.recorder import EVENTS_FILE
from tests.chaos.run import Options, run


@dataclass(frozen=True, slots=True, kw_only=True)
class Hunt:
    """What became of it; ``caught`` is the first finding, empty where there was none."""

    name: str
    faults: str
    spent_s: float
    caught: str

    def __str__(self) -> str:
        """One line, for a person."""
        if not self.caught:
            return f"{self.name}: NOT caught by chaos under {self.faults} in {self.spent_s:.0f} s"
        return f"{self.name}: caught by chaos under {self.faults} in {self.spent_s:.0f} s, {self.caught}"


def hunt(name: str, directory: Path, *, proxies: bool = False) -> Hunt:
    """Run nodes with a bug; they leave their history and logs in ``directory``.

    A run that cannot be finished because of the bug (a node that never gets ready) has caught it, too.
    """
    bug, begun_s = BUGS[name], time.perf_counter()
    kinds = tuple(dict.fromkeys(episode.kind for episode in bug.episodes))
    options = Options(
        seconds=0, seed=1, directory=directory, only=kinds, proxies=proxies, episodes=bug.episodes,
        program=("tests.chaos.planted", name), kafka=False, groups=bug.groups,
    )  # fmt: skip
    try:
        findings = asyncio.run(run(options)).findings
    except Exception as error:
        findings = [*_seen(directory / EVENTS_FILE), f"the run could not be finished: {error!r}"]
    spent_s = time.perf_counter() - begun_s
    return Hunt(name=name, faults=", ".join(kinds), spent_s=spent_s, caught=next(iter(findings), ""))


def _seen(events: Path) -> list[str]:
    """What was found before a run broke off."""
    lines = events.read_text().splitlines() if events.exists() else []
    return [event["text"] for event in map(json.loads, lines) if event["what"] == "finding"]
