"""The commands against a real cluster, as a script would use them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from raftlog.cli.main import run_command
from raftlog.testing import SyncLocalCluster

ROOT = Path(__file__).resolve().parents[2]
CHANGE_SEEN_S = 10.0
"""Every node has heard of a change to topics by then, or never will."""


class Shell:
    """Runs commands against the cluster."""

    def __init__(self, cluster: SyncLocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
        self.brokers = ",".join(cluster.brokers)
        self._capsys = capsys

    def __call__(self, *command: object, code: int = 0) -> str:
        """Run one; its stdout."""
        found = run_command(["--brokers", self.brokers, *map(str, command)])
        out, self.err = self._capsys.readouterr()
        assert found == code, self.err
        return out

    def until(self, code: int, *command: object) -> None:
        """Run one until it ends with ``code``: a node may learn of a change to topics a moment after another has answered."""
        deadline_s = time.perf_counter() + CHANGE_SEEN_S
        while (
            found := run_command(["--brokers", self.brokers, *map(str, command)])
        ) != code and time.perf_counter() < deadline_s:
            pass
        _, self.err = self._capsys.readouterr()
        assert found == code, self.err

    def json(self, *command: object, code: int = 0) -> list[Any]:
        """Run one with ``--format json``; its lines."""
        return [json.loads(line) for line in self(*command, "--format", "json", code=code).splitlines()]


@pytest.fixture
def sh(raftlog_cluster: SyncLocalCluster, capsys: pytest.CaptureFixture[str]) -> Shell:
    """A shell, so to say."""
    return Shell(raftlog_cluster, capsys)


def test_a_topic_is_created_listed_described_altered_and_deleted(sh: Shell) -> None:
    """Its whole life."""
    sh("topic", "create", "single", "--replication-factor", 1)
    assert sh.err == "created single: 1 partition, 1 replica each\n"
    [made] = sh.json("topic", "create", "life", "--partitions", 2, "--replication-factor", 3, "--config", "retention.ms=60000")
    assert sh.err == "created life: 2 partitions, 3 replicas each\n"
    assert (made["name"], made["partitions"], made["replication_factor"]) == ("life", 2, 3)
    assert "life" in sh("topic", "list")
    [description] = sh.json("topic", "describe", "life")
    assert [partition["partition"] for partition in description["partitions"]] == [0, 1]
    assert {c["key"]: c["value"] for c in description["configs"] if c["set"]} == {"retention.ms": "60000"}
    [altered] = sh.json(
        "topic", "alter", "life", "--unset", "retention.ms", "--config", "retention.bytes=1000000", "--partitions", 3
    )
    assert (altered["partitions"], altered["configs"]) == (3, {"retention.bytes": "1000000"})
    assert "retention.bytes" in sh("topic", "describe", "life")
    sh("topic", "delete", "life")
    assert "life" not in [topic["name"] for topic in sh.json("topic", "list")]
    sh.until(1, "topic", "describe", "life")
    assert sh.err.startswith("error: ")


def test_lines_come_back_byte_for_byte(sh: Shell, tmp_path: Path) -> None:
    """Whatever is in them; acknowledgements are in the lines' order."""
    sh("topic", "create", "bytes")
    content = b"k one\n\n\xff\xfe\x00 two\nlast"
    (tmp_path / "lines").write_bytes(content)
    placed = sh.json("topic", "produce", "bytes", "--file", tmp_path / "lines")
    assert placed == [{"partition": 0, "offset": offset} for offset in range(4)]
    program = "import sys; from raftlog.cli.main import main; main()"
    command = [sys.executable, "-c", program, "topic", "consume", "bytes"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "RAFTLOG_BROKERS": sh.brokers}
    assert subprocess.run(command, env=environ, capture_output=True, check=True).stdout == content + b"\n"
    more = [sys.executable, "-c", program, "topic", "produce", "bytes", "--format", "json"]
    out = subprocess.run(more, env=environ, input=b"five\n", capture_output=True, check=True).stdout
    assert json.loads(out) == {"partition": 0, "offset": 4}


def test_consuming_begins_and_ends_where_it_is_told(sh: Shell, tmp_path: Path) -> None:
    """From an offset, one partition, so many."""
    sh("topic", "create", "places", "--partitions", 2)
    (tmp_path / "lines").write_text("".join(f"key{n}:{n}\n" for n in range(20)))
    placed = sh.json("topic", "produce", "places", "--file", tmp_path / "lines", "--key-separator", ":", "--compression", "zstd")
    assert len(placed) == 20
    assert {place["partition"] for place in placed} == {0, 1}
    read = sh.json("topic", "consume", "places")
    assert sorted(int(record["value"]) for record in read) == list(range(20))
    assert all(record["key"] == f"key{record['value']}" for record in read)
    assert sorted(int(record["value"]) for record in sh.json("topic", "consume", "places", "--from", "earliest")) == list(
        range(20)
    )
    in_1 = [record["value"] for record in read if record["partition"] == 1]
    found = sh.json("topic", "consume", "places", "--partition", 1, "--from", 2, "--count", 3)
    assert [record["value"] for record in found] == in_1[2:5]
    assert [record["offset"] for record in found] == [2, 3, 4]
    sh("topic", "consume", "places", "--partition", 1, "--from", 999, code=1)
    assert "there are offsets 0 to" in sh.err
    (tmp_path / "one").write_text("direct\n")
    assert sh.json("produce", "places", "--file", tmp_path / "one", "--partition", 1, "--acks", "1")[0]["partition"] == 1


def script(sh: Shell, *command: str) -> subprocess.Popen[bytes]:
    """The command as a process of its own, which ignores no signal, whatever this one was started with."""
    program = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); signal.signal(signal.SIGTERM, signal.SIG_DFL);"
        "from raftlog.cli.main import main; main()"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "RAFTLOG_BROKERS": sh.brokers}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", program, *command], env=environ, stdin=pipe, stdout=pipe, stderr=pipe)


@pytest.mark.parametrize("interrupts", [1, 2])
def test_ctrl_c_ends_following_quietly(sh: Shell, tmp_path: Path, interrupts: int) -> None:
    """With exit code 130, also where the signal comes twice."""
    sh("topic", "create", f"follow-{interrupts}")
    (tmp_path / "line").write_text("here\n")
    sh("topic", "produce", f"follow-{interrupts}", "--file", tmp_path / "line")
    with script(sh, "topic", "consume", f"follow-{interrupts}", "--follow") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        for _ in range(interrupts):
            process.send_signal(signal.SIGINT)
        assert process.communicate() == (b"", b"")
        assert process.returncode == 130


def test_a_reader_that_leaves_ends_consuming_quietly(sh: Shell, tmp_path: Path) -> None:
    """With exit code 141, as if SIGPIPE had done it."""
    sh("topic", "create", "left")
    (tmp_path / "lines").write_text("a long line of text\n" * 50_000)
    sh("topic", "produce", "left", "--file", tmp_path / "lines")
    with script(sh, "topic", "consume", "left") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_a_cluster_tells_who_it_is_and_that_it_is_well(sh: Shell, raftlog_cluster: SyncLocalCluster) -> None:
    """Info and health."""
    [info] = sh.json("cluster", "info")
    assert [(node["id"], node["grpc"]) for node in info["nodes"]] == list(enumerate(raftlog_cluster.brokers, 1))
    assert "controller" in sh("cluster", "info")
    [health] = sh.json("cluster", "health")
    assert health == {"healthy": True, "findings": [], "under_way": []}


def test_replicas_are_moved_and_a_node_is_drained_and_removed(
    raftlog_cluster_factory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """By partition, or all of a node; waiting shows each that is done; afterwards the cluster has a node less, and is well."""
    sh = Shell(raftlog_cluster_factory(nodes=4), capsys)
    sh("topic", "create", "m", "--partitions", 2, "--replication-factor", 3)
    [description] = sh.json("topic", "describe", "m")
    before = description["partitions"][0]["replicas"]
    [free] = {1, 2, 3, 4} - set(before)
    [moved] = sh.json("cluster", "move", "m-0", "--from", before[0], "--to", free, "--wait")
    assert moved == {"topic": "m", "partition": 0, "before": before, "replicas": [free, *before[1:]]}
    assert "m-0: done" in sh.err
    sh("cluster", "move", "m-0", code=2)
    sh("cluster", "move", "m-0", "--from", before[0], "--to", free, code=2)
    assert f"no replica on node {before[0]}" in sh.err
    sh("cluster", "move", "m-0", "--from", before[1], "--to", free, code=2)
    assert f"a replica on node {free} already" in sh.err
    sh("cluster", "move", "m-0", "--cancel", code=1)
    [drained] = sh.json("cluster", "drain", 2)
    assert (drained["node"], drained["draining"]) == (2, True)
    sh.until(0, "cluster", "health")  # a partition whose leader moves has none for a moment
    assert "node 2 is being drained" in sh.json("cluster", "health")[0]["under_way"]
    sh("cluster", "remove", 2, "--wait")
    assert "node 2 is not part of the cluster any more" in sh.err
    assert sh.json("cluster", "moves") == []
    assert [node["id"] for node in sh.json("cluster", "info")[0]["nodes"]] == [1, 3, 4]
    sh("cluster", "balance", "--wait")
    assert sh.json("cluster", "balance", "--dry-run") == []
    assert sh.err == "replicas and leaders are spread evenly\n"


def test_bench_measures_and_cleans_up(sh: Shell) -> None:
    """It leaves no topic behind."""
    published, read = sh.json("bench", "--records", 200, "--size", 100)
    assert (published["records"], read["records"]) == (200, 200)
    assert published["latency_ms_p50"] > 0
    assert not [topic for topic in sh.json("topic", "list") if topic["name"].startswith("raftlog-bench")]
    assert "records/s" in sh("bench", "--records", 10, "--rate", 1000)


def test_errors_of_the_cluster_are_one_line(sh: Shell, tmp_path: Path) -> None:
    """With exit code 1."""
    (tmp_path / "line").write_text("x\n")
    for command in (
        ["topic", "describe", "nowhere"],
        ["topic", "consume", "nowhere"],
        ["topic", "produce", "nowhere", "--file", tmp_path / "line"],
        ["topic", "create", "bad name"],
        ["topic", "create", "t", "--config", "retention.mss=5"],
    ):
        sh(*command, code=1)
        assert sh.err.startswith("error: ")
        assert len(sh.err.splitlines()) == 1
    assert "retention.ms" in sh.err


def test_producing_nothing_to_what_is_not_there_fails_too(sh: Shell, tmp_path: Path) -> None:
    """A script whose input happens to be empty hears of its misspelt topic; to one that is there, nothing is no failure."""
    (tmp_path / "empty").write_text("")
    sh("topic", "produce", "nowhere", "--file", tmp_path / "empty", code=1)
    assert "nowhere" in sh.err
    sh("topic", "create", "somewhere")
    sh("topic", "produce", "somewhere", "--file", tmp_path / "empty", "--partition", 1, code=1)
    assert "somewhere-1" in sh.err
    sh("topic", "produce", "somewhere", "--file", tmp_path / "empty")
    assert "published 0 records" in sh.err


def test_an_unhealthy_cluster_exits_with_1(raftlog_cluster_factory: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """And says which node is down."""
    cluster = raftlog_cluster_factory(nodes=3)
    sh = Shell(cluster, capsys)
    cluster.kill(3)
    [health] = sh.json("cluster", "health", code=1)
    assert "node_down" in [finding["kind"] for finding in health["findings"]]
    assert "node 3" in sh("cluster", "health", code=1)
