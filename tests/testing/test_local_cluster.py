"""Local clusters: real processes that can be killed, paused and restarted, and that never outlive their owner."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from raftlog.cli.dev import ending_in_words
from raftlog.testing import LocalCluster, LocalClusterError, SyncLocalCluster
from raftlog.testing.ports import free_ports
from raftlog.testing.process import probe

ROOT = Path(__file__).resolve().parents[2]
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT)}


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; the test's own timeout is the bound."""
    ticks = threading.Event()
    while not condition():
        ticks.wait(0.02)


async def test_a_node_can_be_killed_and_started_again() -> None:
    """The others live on, its data stays, and nothing is left at the end."""
    async with LocalCluster(nodes=3) as cluster:
        nodes, data_dir = cluster.nodes, cluster.data_dir
        assert data_dir is not None
        assert [(await probe(node.admin, "/readyz"))[0] for node in nodes.values()] == [200, 200, 200]
        first_pid = nodes[2].pid
        await cluster.kill(2)
        assert (nodes[1].alive, nodes[2].alive, nodes[3].alive) == (True, False, True)
        assert nodes[2].exit_code == -signal.SIGKILL
        await cluster.start(2)
        assert nodes[2].alive
        assert nodes[2].pid != first_pid
        with pytest.raises(LocalClusterError, match="node 2 runs already"):
            await cluster.start(2)
        assert await cluster.stop(3) == 0
        pids = [node.pid for node in nodes.values()]
    assert all(pid is not None and gone(pid) for pid in pids)
    assert not data_dir.exists()


async def test_a_paused_node_answers_nothing_until_it_is_resumed(tmp_path: Path) -> None:
    """Its process lives; ending the cluster does not hang on it."""
    async with LocalCluster(nodes=1, data_dir=tmp_path) as cluster:
        node = cluster.nodes[1]
        cluster.pause(1)
        assert node.alive
        reader, writer = await asyncio.open_connection(*node.admin.split(":"))
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = asyncio.get_running_loop().create_task(reader.read())
        done, _ = await asyncio.wait([answer], timeout=0.1)
        assert not done
        cluster.resume(1)
        assert (await answer).startswith(b"HTTP/1.1 200")
        writer.close()
        cluster.pause(1)
    assert (tmp_path / "node-1").is_dir()


async def test_a_node_that_cannot_start_says_why(tmp_path: Path) -> None:
    """The error has the end of its log, and the other nodes are ended."""
    cluster = LocalCluster(nodes=2, data_dir=tmp_path, settings={"rakc": "a"})
    with pytest.raises(LocalClusterError, match="did you mean --rack"):
        await cluster.__aenter__()
    assert not any(node.alive for node in cluster.nodes.values())


async def test_what_an_earlier_run_logged_is_not_quoted(tmp_path: Path) -> None:
    """The same file goes on from run to run; the error's tail begins at this start."""
    (tmp_path / "node-1.log").write_text("error: of an earlier run\n" * 3)
    cluster = LocalCluster(nodes=1, data_dir=tmp_path, settings={"rakc": "a"})
    with pytest.raises(LocalClusterError, match="did you mean --rack") as raised:
        await cluster.__aenter__()
    assert "earlier run" not in str(raised.value)
    assert (tmp_path / "node-1.log").read_text().startswith("error: of an earlier run\n")


async def test_dev_says_why_a_node_has_ended(tmp_path: Path) -> None:
    """By the last error in its log since its start; one that was killed has none."""
    (tmp_path / "node-1.log").write_text("error: of an earlier run\n")
    cluster = LocalCluster(nodes=1, data_dir=tmp_path, settings={"rakc": "a"})
    with pytest.raises(LocalClusterError):
        await cluster.__aenter__()
    node = cluster.nodes[1]
    assert ending_in_words(node) == (
        f"node 1 (pid {node.pid}) has ended with 2 (error: the configuration has a problem:); it stays dead, the others go on"
    )
    async with LocalCluster(nodes=1, data_dir=tmp_path) as other:
        await other.kill(1)
        killed = other.nodes[1]
        assert ending_in_words(killed) == f"node 1 (pid {killed.pid}) has ended with -9; it stays dead, the others go on"


async def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    """By the node, in the error."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(LocalClusterError, match=address):
            await LocalCluster(nodes=1, data_dir=tmp_path, settings={"admin-listen": address}).__aenter__()


async def test_a_second_cluster_on_the_same_ports_is_refused(tmp_path: Path) -> None:
    """It must not take the first one's answers for its own."""
    base = free_base_port()
    async with LocalCluster(nodes=1, base_port=base, data_dir=tmp_path / "a"):
        second = LocalCluster(nodes=1, base_port=base, data_dir=tmp_path / "b")
        with pytest.raises(LocalClusterError, match=f"node 1 cannot listen on 127.0.0.1:{base + 1}: the port is in use"):
            await second.__aenter__()


def test_settings_of_this_process_do_not_reach_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is meant for another node would change the cluster."""
    monkeypatch.setenv("RAFTLOG_NODE_ID", "7")
    with SyncLocalCluster(nodes=1) as cluster:
        assert cluster.nodes[1].alive


def test_no_port_is_given_twice() -> None:
    """Also not by two calls."""
    ports = free_ports(20) + free_ports(20)
    assert len(set(ports)) == 40


def test_nodes_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    """Even when it had no chance to say so."""
    program = (
        "import sys; from raftlog.testing import SyncLocalCluster as C; "
        "c = C(nodes=1, data_dir=sys.argv[1]).__enter__(); print(c.nodes[1].pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRON) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.kill()
    until(lambda: gone(pid))


def test_dev_writes_cluster_json_leaves_the_dead_dead_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    """The contract of ``raftlog dev``."""
    base = free_base_port()
    command = [sys.executable, "-c", "from raftlog.cli.main import main; main()", "dev"]
    options = ["--nodes", "3", "--data-dir", str(tmp_path), "--base-port", str(base)]
    description = tmp_path / "cluster.json"
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, env=ENVIRON) as dev:
        until(lambda: description.exists() or dev.poll() is not None)
        nodes = json.loads(description.read_text())["nodes"]
        assert [(node["id"], node["peer"], node["grpc"], node["kafka"], node["admin"]) for node in nodes] == [
            (n, *(f"127.0.0.1:{base + door + n}" for door in (0, 100, 200, 300))) for n in (1, 2, 3)
        ]
        assert dev.stderr is not None
        said = b""
        while not said.startswith(b"one node more: raftlog-node "):
            said = dev.stderr.readline()
            assert said, "dev ended"
        check_one_node_more(shlex.split(said.decode())[4:], base)
        os.kill(nodes[1]["pid"], signal.SIGKILL)
        while b"stays dead" not in said:
            said = dev.stderr.readline()
            assert said, "dev ended"
        assert b"node 2" in said
        assert [gone(node["pid"]) for node in nodes] == [False, True, False]
        dev.send_signal(signal.SIGINT)
        assert dev.wait() == 0
    assert all(gone(node["pid"]) for node in nodes)
    assert not description.exists()


def check_one_node_more(flags: list[str], base: int) -> None:
    """What ``raftlog dev`` says to type adds a fourth node."""
    assert flags[0] == "--node-id=4"
    command = [sys.executable, "-m", "raftlog.node.main", *flags]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=ENVIRON) as node:
        try:
            until(lambda: ready(base + 304) or node.poll() is not None)
            assert node.poll() is None
        finally:
            node.send_signal(signal.SIGTERM)


def ready(admin_port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/readyz") as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def free_base_port() -> int:
    """A base port whose neighbours are free."""
    while True:
        (base,) = free_ports(1)
        try:
            for port in (base + door + n for door in (0, 100, 200, 300) for n in (1, 2, 3, 4)):
                with socket.create_server(("127.0.0.1", port)):
                    pass
        except OSError:
            continue
        return base
