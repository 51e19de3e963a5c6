"""What cluster/ says about nodes is true of nodes: names of settings, and names of metrics."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import pytest

from raftlog.config.node import setting_names
from raftlog.config.sources import variable_name
from raftlog.testing import SyncLocalCluster

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"


def test_the_dashboard_draws_metrics_that_a_node_has(raftlog_cluster: SyncLocalCluster) -> None:
    """A renamed metric would leave a silent, empty panel."""
    dashboard = json.loads((CLUSTER / "grafana.json").read_text())
    drawn = set(
        re.findall(r"(?:raftlog|process)_[a-z_]+", " ".join(t["expr"] for p in dashboard["panels"] for t in p["targets"]))
    )
    with urllib.request.urlopen(f"http://{raftlog_cluster.nodes[1].admin}/metrics") as answer:
        page = answer.read().decode()
    had = set(re.findall(r"^# TYPE ([a-z_]+)", page, re.MULTILINE)) | set(re.findall(r"^([a-z_]+)[ {]", page, re.MULTILINE))
    assert len(drawn) > 10
    assert drawn - had == set()


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml", "kubernetes.yaml", "raftlog-node.service"])
def test_arrangements_use_settings_that_a_node_knows(name: str) -> None:
    """A node refuses any other."""
    text = (CLUSTER / name).read_text()
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    known = {*setting_names(), "config"}
    assert set(re.findall(r"RAFTLOG_[A-Z_]+", code)) <= {variable_name(setting) for setting in known}
    flags = set(re.findall(r"(?<=\s--)[a-z-]+(?= )", code)) - {"system", "uid", "home-dir", "create-home", "no-cache-dir", "from"}
    assert flags <= known
