"""``raftlog storage``: what scripts and people get of a stopped node's data directory."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raftlog.cli.main import run_command
from raftlog.consensus.damage import DAMAGED_ROW
from raftlog.pb.raftlog.internal.v1.membership_pb2 import DamagedRow
from raftlog.storage.data_directory import stopped
from raftlog.storage.environment import data_file
from tests.node.test_stopped import filled
from tests.node.test_unclean import at, configured, put
from tests.node.test_unclean import filled as three_nodes

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs a command over the test's directory: exit code, stdout, stderr."""

    def command(name: str, *words: str) -> tuple[int, str, str]:
        code = run_command(["storage", name, "--data-dir", str(tmp_path), *words])
        out, err = capsys.readouterr()
        return code, out, err

    return command


def data(out: str) -> dict[str, Any]:
    """The one JSON line of stdout."""
    [line] = out.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


async def test_info_is_a_table_or_one_line_of_json(run: Run, tmp_path: Path) -> None:
    """With the same facts."""
    await filled(tmp_path)
    code, out, err = run("info", "--format", "json")
    facts = data(out)
    assert (code, err) == (0, "")
    assert (facts["node_id"], facts["cluster_id"], facts["boot_number"], facts["storage_format"]) == (7, "c", 3, 1)
    assert [(group["group"], group["topic"], group["partition"]) for group in facts["groups"]] == [
        (0, None, None),
        (1, "t", 0),
        (9, None, None),
    ]
    code, out, _ = run("info")
    assert code == 0
    assert "cluster id" in out
    assert "last_index" in out


async def test_check_exits_with_1_where_anything_is_damaged(run: Run, tmp_path: Path) -> None:
    """And with 0 where nothing is; what it read is said on stderr."""
    await filled(tmp_path)
    code, out, err = run("check")
    assert (code, out) == (0, "")
    assert "sound: 8 entries and 9 rows of 3 groups" in err
    path = data_file(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"payload", b"paYload"))
    code, out, err = run("check")
    assert code == 1
    assert "payload of entry 5 of group 1 fails its CRC32C" in out
    assert "damaged: 8 entries" in err
    code, out, _ = run("check", "--format", "json")
    assert code == 1
    facts = data(out)
    assert (facts["sound"], facts["damaged"], facts["entries"]) == (False, 8, 8)
    assert {finding["group"] for finding in facts["findings"]} == {0, 1, 9}


async def test_compact_says_the_sizes_before_and_after(run: Run, tmp_path: Path) -> None:
    """On stderr for people, on stdout as JSON."""
    await filled(tmp_path)
    code, out, err = run("compact", "--format", "json")
    sizes = data(out)
    assert code == 0
    assert sizes["before_bytes"] >= sizes["after_bytes"] == data_file(tmp_path).stat().st_size
    assert "compacted: the data file took" in err


@pytest.mark.parametrize("name", ["info", "check", "compact"])
async def test_a_directory_in_use_is_left_alone(run: Run, tmp_path: Path, name: str) -> None:
    """By a node, or by another of these commands: the process is named."""
    await filled(tmp_path)
    with stopped(tmp_path):
        code, out, err = run(name)
    assert (code, out) == (1, "")
    assert f"is in use by process {os.getpid()}; stop that one first" in err
    assert run(name)[0] == 0


@pytest.mark.parametrize("name", ["info", "check", "compact"])
def test_a_directory_without_a_nodes_data_is_named(run: Run, tmp_path: Path, name: str) -> None:
    """Nothing is made in it."""
    code, _, err = run(name)
    assert code == 1
    assert f"there is no node's data in {tmp_path}" in err
    assert list(tmp_path.iterdir()) == []
    assert run_command(["storage", name]) == 2


def test_force_is_used_only_where_it_is_typed_out(run: Run, tmp_path: Path) -> None:
    """Without the words nothing changes: what would be done and lost is said, and the exit code is 1."""
    asyncio.run(three_nodes(tmp_path))
    before = data_file(tmp_path).read_bytes()
    code, out, err = run("force-configuration", "--lost-nodes", "2,3")
    assert code == 1
    assert "(the cluster's metadata)" in out
    assert "1/1, 2/2, 3/3" in out
    assert "what may be lost: everything acknowledged that node 1 does not hold" in err
    assert "nothing was changed. To do it, say so: --yes-i-accept-data-loss" in err
    assert data_file(tmp_path).read_bytes() == before
    code, out, err = run("force-configuration", "--lost-nodes", "2,3", "--yes-i-accept-data-loss", "--format", "json")
    assert code == 0
    facts = data(out)
    assert [(group["group"], group["topic"], group["lost"]) for group in facts["groups"]] == [
        (0, None, ["2/1", "3/1"]),
        (1, "t", ["2/2", "3/3"]),
        (2, "u", ["2/1"]),
    ]
    assert "done: 3 groups go on from node 1 alone" in err
    code, out, err = run("force-configuration", "--lost-nodes", "2,3", "--yes-i-accept-data-loss")
    assert code == 1
    assert "its only voter already" in out
    assert "nothing was changed: no group here needs it" in err
    code, out, err = run("forget-unclean", "--format", "json")
    assert (code, data(out)) == (0, {"groups": [0, 1, 2]})
    assert "forgotten for 3 groups" in err


def test_other_survivors_are_to_be_compared_first(run: Run, tmp_path: Path) -> None:
    """Where one node of three is lost, the group of two needs force; its only other replica is the lost one."""
    asyncio.run(three_nodes(tmp_path))
    code, out, err = run("force-configuration", "--lost-nodes", "2")
    assert code == 1
    assert "its majority is not lost: 2 of 3 voters are left" in out
    assert "Other survivors" not in err
    voters: dict[tuple[int, int, bytes], bytes | None] = {(0, 0, b"config"): configured(*at(1, 2, 3, 4, 5))}
    asyncio.run(put(tmp_path, voters))
    _, _, err = run("force-configuration", "--lost-nodes", "2,3,5", "--group", "0")
    assert "Other survivors are on node 4: compare with raftlog storage info there" in err


def test_one_group_is_not_several(run: Run, tmp_path: Path) -> None:
    """Where a single one goes on, or is forgotten."""
    asyncio.run(three_nodes(tmp_path))
    *_, err = run("force-configuration", "--lost-nodes", "2,3", "--group", "1", "--yes-i-accept-data-loss")
    assert "done: 1 group goes on from node 1 alone" in err
    *_, err = run("forget-unclean")
    assert err == "forgotten for 1 group\n"


@pytest.mark.parametrize("lost", ["", "x", "2,,3", "0", "-1"])
def test_lost_nodes_are_named_by_their_ids(run: Run, tmp_path: Path, lost: str) -> None:
    """Anything else is wrong usage."""
    asyncio.run(three_nodes(tmp_path))
    code, _, err = run("force-configuration", f"--lost-nodes={lost}")
    assert code == 2
    assert "is no list of node ids" in err


def test_what_was_found_to_be_damaged_is_told_and_takes_part_again_when_a_person_says_so(run: Run, tmp_path: Path) -> None:
    """All of it, or that of one group; where nothing is remembered, nothing happens."""
    asyncio.run(three_nodes(tmp_path))
    damage = DamagedRow(why="payload of entry 3 fails its CRC32C", level=3).SerializeToString()
    asyncio.run(put(tmp_path, {(group, 0, DAMAGED_ROW): damage for group in (1, 2)}))
    _, out, _ = run("info", "--format", "json")
    told = {group["group"]: (group["damaged"], group["last_index"]) for group in data(out)["groups"]}
    assert [group for group, (why, _) in told.items() if why == "payload of entry 3 fails its CRC32C"] == [1, 2]
    assert all(last > 0 for _, last in told.values())
    code, out, err = run("forget-damage", "--group", "1", "--format", "json")
    assert (code, data(out), err) == (0, {"groups": [1]}, "1 replica counts as sound again when the node is started\n")
    *_, err = run("forget-damage")
    assert err == "1 replica counts as sound again when the node is started\n"
    *_, err = run("forget-damage")
    assert err == "0 replicas count as sound again when the node is started\n"
