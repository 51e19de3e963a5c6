"""``raftlog cluster upgrade``: what it asks, what it says, and how it exits."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from raftlog.cli.main import run_command
from raftlog.client.admin import Admin
from raftlog.model import LevelReport, NodeSupport

NEW = NodeSupport(node_id=1, level_min=1, level_max=2, version="9.9")
OLD = NodeSupport(node_id=2, level_min=1, level_max=1, problem="its version supports level 1")


class Cluster:
    """Answers as a cluster of these nodes would, and keeps what it was asked."""

    def __init__(self, *nodes: NodeSupport, level: int = 1) -> None:
        self.nodes, self.level = nodes, level
        self.asked: list[tuple[int, bool, tuple[int, ...]]] = []

    async def raise_level(
        self, _admin: Admin, level: int = 0, *, dry_run: bool = False, without: Sequence[int] = ()
    ) -> LevelReport:
        """In the place of the client's."""
        self.asked.append((level, dry_run, tuple(without)))
        nodes = tuple(node for node in self.nodes if node.node_id not in without)
        return LevelReport(level=self.level, target=level or 2, raised=not dry_run, nodes=nodes)


def _run(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str
) -> tuple[int, str, str]:
    async def raise_level(admin: Admin, level: int = 0, *, dry_run: bool = False, without: Sequence[int] = ()) -> LevelReport:
        return await cluster.raise_level(admin, level, dry_run=dry_run, without=without)

    monkeypatch.setattr(Admin, "raise_level", raise_level)
    code = run_command(["--brokers", "127.0.0.1:1", "cluster", "upgrade", *args])
    out, err = capsys.readouterr()
    return code, out, err


def test_it_looks_first_and_then_raises(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """To what it looked at, though yet newer nodes may have come meanwhile."""
    cluster = Cluster(NEW)
    code, out, err = _run(cluster, monkeypatch, capsys)
    assert (code, cluster.asked) == (0, [(0, True, ()), (2, False, ())])
    assert "9.9" in out
    assert "raised from feature level 1 to 2" in err


def test_a_dry_run_only_looks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As data for scripts, too."""
    cluster = Cluster(NEW)
    code, out, err = _run(cluster, monkeypatch, capsys, "--dry-run", "--format", "json")
    assert (code, cluster.asked) == (0, [(0, True, ())])
    assert json.loads(out) == {
        "level": 1, "target": 2, "raised": False,
        "nodes": [{"id": 1, "version": "9.9", "supports": "1 to 2", "problem": None}],
    }  # fmt: skip
    assert "it can be raised from feature level 1 to 2" in err


def test_who_holds_it_back_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, and nothing is raised; a node that does not count is left out."""
    cluster = Cluster(NEW, OLD)
    code, out, err = _run(cluster, monkeypatch, capsys)
    assert (code, cluster.asked) == (1, [(0, True, ())])
    assert "its version supports level 1" in out
    assert "the cluster stays at feature level 1, not 2: node 2: its version supports level 1" in err
    code, _, _ = _run(cluster, monkeypatch, capsys, "--level", "2", "--without", "2")
    assert (code, cluster.asked[1:]) == (0, [(2, True, (2,)), (2, False, (2,))])


def test_a_cluster_at_the_newest_level_is_left_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It may be run at the end of every upgrade."""
    cluster = Cluster(NEW, level=2)
    code, _, err = _run(cluster, monkeypatch, capsys)
    assert (code, cluster.asked) == (0, [(0, True, ())])
    assert "is at feature level 2 already" in err
