"""A short run of what ``make chaos`` does: three real processes, a fixed plan, links cut by proxies, clients of both doors
and a group that they share, every judge."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.cluster import ROOT
from tests.chaos.plan import Episode, Target
from tests.chaos.planted import MIXED
from tests.chaos.recorder import HISTORY_FILE
from tests.chaos.run import PICTURE_FILE, Options, run
from tests.chaos.summary import GRPC, KAFKA

EPISODES = (
    Episode(kind="kill", target=Target.LEADER, quiet_s=0.5, hold_s=1.0, draw=1),
    Episode(kind="isolate", target=Target.LEADER, quiet_s=0.5, hold_s=3.0, draw=2),
    Episode(kind="crash-point", target=Target.FOLLOWER, quiet_s=0.5, hold_s=1.0, draw=3),
    Episode(kind="pause", target=Target.LEADER, quiet_s=0.5, hold_s=2.0, draw=4),
    Episode(kind="kill-all", target=Target.LEADER, quiet_s=0.5, hold_s=0.2, draw=5),
)
"""About 20 seconds. Whom they hit, and when exactly, is the processes' to say."""


@pytest.mark.timeout(180)
async def test_nothing_is_lost_when_nodes_crash_freeze_and_are_cut_off(tmp_path: Path) -> None:
    """Every client's history holds, every partition reads the same through every node, all disks agree, and the group has come to
    the end of everything, though its members came and went."""
    options = Options(
        seconds=0, seed=4, directory=tmp_path / "run", proxies=True, rate=20, only=("kill",), episodes=EPISODES, groups=MIXED
    )
    report = await run(options)
    assert report.findings == []
    assert report.played == dict.fromkeys((episode.kind for episode in EPISODES), 1)
    assert report.summary.outcomes["ok"] > 200
    assert all(report.summary.published[door]["ok"] > 50 for door in (GRPC, KAFKA))
    group = report.summary.groups["mixed"]
    assert group.commits["ok"] > 0
    assert len(group.generations) > 1
    assert sum(report.mishaps["mixed"].values()) > 0
    assert (options.directory / HISTORY_FILE).stat().st_size > 0
    assert (options.directory / PICTURE_FILE).stat().st_size > 0


def test_a_misspelt_fault_is_refused() -> None:
    """The command line says what there is."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--only", "kil"], check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    assert "there is no fault kil" in done.stderr
