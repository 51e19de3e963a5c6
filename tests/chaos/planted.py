"""Bugs planted into real processes, and the faults under which each is to be caught.

``python -m tests.chaos.planted BUG PARENT_PID [node flags]`` runs a node with one of them: the code as it ships has no switch.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import patch

import lmdb

from tests.chaos.crowd import GROUPS, GroupPlan
from tests.chaos.plan import Episode, Target
from tests.simulation.planted import (
    Plant,
    acknowledge_before_a_majority,
    answer_at_once,
    let_empty_disks_in,
    let_old_disks_in,
)
from tests.simulation.planted_groups import commit_without_generation, forget_offsets_at_a_restart


@contextlib.contextmanager
def skip_the_fsync() -> Iterator[None]:
    """LMDB is opened so that it leaves syncing to the operating system."""

    def open_unsynced(*arguments: Any, **options: Any) -> lmdb.Environment:
        return original(*arguments, **{**options, "sync": False})

    original = lmdb.open
    with patch.object(lmdb, "open", open_unsynced):
        yield


@dataclass(frozen=True, slots=True)
class Bug:
    """A plant, and what is to be done to nodes that have it."""

    plant: Plant
    episodes: tuple[Episode, ...]
    groups: tuple[GroupPlan, ...] = ()
    """Whose members show it."""


def _episodes(kind: str, *draws: int, hold_s: float, target: Target = Target.LEADER, quiet_s: float = 1.0) -> tuple[Episode, ...]:
    return tuple(Episode(kind=kind, target=target, quiet_s=quiet_s, hold_s=hold_s, draw=draw) for draw in draws)


GROUP_WORKS_S = 6.0
"""Before a fault that is to meet a group at work: its members start, join, and commit."""
MIXED = tuple(group for group in GROUPS if group.name == "mixed")
BUGS: Final[dict[str, Bug]] = {
    "skip-the-fsync": Bug(skip_the_fsync, _episodes("slow-disks", 1, 2, 3, hold_s=4.0)),
    "answer-at-once": Bug(answer_at_once, _episodes("slow-disks", 1, 2, 3, hold_s=4.0)),
    "acknowledge-before-a-majority": Bug(acknowledge_before_a_majority, _episodes("isolate", 1, 2, 3, 4, hold_s=5.0)),
    "let-old-disks-in": Bug(let_old_disks_in, _episodes("old-disk", 1, hold_s=2.0, target=Target.FOLLOWER)),
    "let-empty-disks-in": Bug(let_empty_disks_in, _episodes("wiped-disk", 1, hold_s=1.0, target=Target.FOLLOWER)),
    "groups-commit-without-generation": Bug(commit_without_generation, _episodes("reset", 1, 2, hold_s=5.0), MIXED),
    "groups-forget-offsets-at-a-restart": Bug(
        forget_offsets_at_a_restart, _episodes("kill-all", 1, 2, hold_s=0.5, quiet_s=GROUP_WORKS_S), MIXED
    ),
}
"""By name: those that real processes show best. The simulator has them all, and more."""


def main() -> None:
    """Become a node with a bug."""
    bug = sys.argv.pop(1)
    with BUGS[bug].plant():
        from raftlog.testing.child import main as child_main

        child_main()


if __name__ == "__main__":
    main()
