"""Groups on the command line, against a real cluster."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from raftlog.cli.errors import UsageError
from raftlog.cli.group import parse_place
from raftlog.client.values import AtTime
from raftlog.testing import SyncLocalCluster
from tests.cli.test_end_to_end import Shell, script


@pytest.fixture
def sh(raftlog_cluster: SyncLocalCluster, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Runs commands."""
    return Shell(raftlog_cluster, capsys)


def fill(sh: Shell, topic: str, folder: Path, count: int = 10) -> None:
    """A topic of two partitions with numbers in it."""
    sh("topic", "create", topic, "--partitions", 2)
    (folder / "lines").write_text("".join(f"key{n}:{n}\n" for n in range(count)))
    sh("topic", "produce", topic, "--file", folder / "lines", "--key-separator", ":")


def test_a_group_goes_on_where_it_was(sh: Shell, tmp_path: Path) -> None:
    """What was printed is committed: so many records, then the rest, then none."""
    fill(sh, "shared", tmp_path)
    first = sh.json("topic", "consume", "shared", "--group", "cli", "--count", 3)
    rest = sh.json("topic", "consume", "shared", "--group", "cli")
    assert len(first) == 3
    assert sorted(int(record["value"]) for record in first + rest) == list(range(10))
    assert sh("topic", "consume", "shared", "--group", "cli") == ""


def test_a_group_is_listed_described_sought_and_deleted(sh: Shell, tmp_path: Path) -> None:
    """Its whole life after its members are gone."""
    fill(sh, "life-of-groups", tmp_path)
    sh("topic", "consume", "life-of-groups", "--group", "life")
    assert {"group": "life", "state": "Empty", "protocol_type": "consumer"} in sh.json("group", "list")
    [found] = sh.json("group", "describe", "life")
    assert (found["group"], found["state"], found["members"]) == ("life", "Empty", [])
    assert [(one["topic"], one["partition"], one["lag"], one["member"]) for one in found["partitions"]] == [
        ("life-of-groups", 0, 0, None), ("life-of-groups", 1, 0, None),
    ]  # fmt: skip
    assert sum(one["committed"] for one in found["partitions"]) == 10
    planned = sh.json("group", "seek", "life", "--to", "beginning", "--dry-run")
    assert sh.err == "would move 2 partitions\n"
    assert sh.json("group", "seek", "life", "--to", "beginning", "--topic", "life-of-groups") == planned
    assert [one["new_offset"] for one in planned] == [0, 0]
    assert "life-of-groups" in sh("group", "seek", "life", "--to", "-1")
    assert sh.err == "moved 2 partitions\n"
    sh("group", "seek", "life", "--to", "beginning", "--topic", "life-of-groups", "--partition", 1)
    assert sh.err == "moved 1 partition\n"
    sh("group", "seek", "life", "--to", "-1")
    text = sh("group", "describe", "life")
    assert "coordinator" in text
    assert "lag" in text
    assert len(sh.json("topic", "consume", "life-of-groups", "--group", "life")) == 10
    sh("group", "delete", "life")
    assert sh.err == "deleted life\n"
    assert "life" not in [one["group"] for one in sh.json("group", "list")]
    for command in (["describe", "life"], ["delete", "life"], ["seek", "life", "--to", "beginning"]):
        sh("group", *command, code=1)
        assert sh.err.startswith("error: ")


def describe(sh: Shell, group: str) -> dict[str, object]:
    [found] = sh.json("group", "describe", group)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_live_member_is_shown_and_leaves_when_it_is_asked_to_end(
    sh: Shell, tmp_path: Path, number: signal.Signals, exit_code: int
) -> None:
    """With what it has printed committed, by whatever signal; while it is there the group is neither sought nor deleted."""
    topic, group = f"live-{exit_code}", f"watching-{exit_code}"
    fill(sh, topic, tmp_path)
    with script(sh, "topic", "consume", topic, "--group", group, "--follow", "--format", "json") as process:
        assert process.stdout is not None
        seen = [json.loads(process.stdout.readline()) for _ in range(10)]
        found = describe(sh, group)
        assert (found["state"], found["assignor"]) == ("Stable", "cooperative-sticky")
        assert "raftlog-cli" in sh("group", "describe", group)
        for command in (["seek", group, "--to", "end"], ["delete", group]):
            sh("group", *command, code=1)
            assert sh.err.startswith("error: ")
        process.send_signal(number)
        assert process.communicate() == (b"", b"")
        assert process.returncode == exit_code
    assert len(seen) == 10
    found = describe(sh, group)
    assert (found["state"], found["members"]) == ("Empty", [])
    partitions = found["partitions"]
    assert isinstance(partitions, list)
    assert sum(one["lag"] for one in partitions) == 0


def test_reading_from_the_latest_implies_to_follow(sh: Shell, tmp_path: Path) -> None:
    """Kafka's word for the end; what was there before is not read."""
    fill(sh, "newest", tmp_path)
    with script(sh, "topic", "consume", "newest", "--group", "late", "--from", "latest", "--format", "json") as process:
        while "late" not in sh("group", "list") or describe(sh, "late")["state"] != "Stable":
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.communicate() == (b"", b"")
        assert process.returncode == 130


def test_two_processes_share_a_topic(sh: Shell, tmp_path: Path) -> None:
    """Every record is printed by one of them; none is missing."""
    fill(sh, "halves", tmp_path)
    command = ("topic", "consume", "halves", "--group", "pair", "--follow", "--format", "json")

    def members() -> list[int]:
        found = sh.json("group", "describe", "pair")[0] if "pair" in sh("group", "list") else {"members": []}
        return [len(one["assignment"]) for one in found["members"]]

    with script(sh, *command) as first, script(sh, *command) as second:
        while members() != [1, 1]:
            pass
        sh("topic", "produce", "halves", "--file", tmp_path / "lines", "--key-separator", ":")
        while sum(one["lag"] or 0 for one in sh.json("group", "describe", "pair")[0]["partitions"]):
            pass
        printed = []
        for process in (first, second):
            process.send_signal(signal.SIGINT)
            out, err = process.communicate()
            assert err == b""
            printed += [json.loads(line) for line in out.splitlines()]
    places = {(record["partition"], record["offset"]) for record in printed}
    assert len(places) == 20


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("beginning", "beginning"), ("end", "end"), ("earliest", "beginning"), ("latest", "end"),
        ("5", 5), ("+5", "+5"), ("-5", "-5"),
        ("1970-01-01T00:00:01Z", AtTime(1_000)), ("1970-01-01T01:00:00+01:00", AtTime(0)),
    ],
)  # fmt: skip
def test_places_are_read_as_they_are_meant(text: str, place: object) -> None:
    """Ends (by Kafka's words as well), offsets, steps, times."""
    assert parse_place(text) == place


@pytest.mark.parametrize("text", ["", "middle", "+", "-x", "1970-01-01T00:00:01"])
def test_what_is_no_place_is_wrong_usage(text: str) -> None:
    """Also a time that does not say its zone."""
    with pytest.raises(UsageError):
        parse_place(text)
