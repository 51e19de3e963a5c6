"""The command line as scripts see it: exit codes, what goes to stdout, what to stderr."""

from __future__ import annotations

import pytest

from raftlog.cli.main import run_command


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("", ""),
        ("nope", "No such command"),
        ("topic create", "Missing argument"),
        ("topic create t --partitions 0", "--partitions"),
        ("topic create t --config x", "--config 'x' is not KEY=VALUE"),
        ("topic create t --config a=1 --config a=2", "--config a is given twice"),
        ("topic alter t", "nothing to alter"),
        ("topic list --format xml", "--format"),
        ("topic list --brokers here", "'here' in --brokers (or RAFTLOG_BROKERS) is not HOST:PORT"),
        ("--brokers , topic list", "names no node"),
        ("topic consume t --from middle", "--from 'middle' is neither beginning, nor end, nor an offset"),
        ("topic consume t --count 0", "--count"),
        ("topic consume t --group g --partition 1", "--group gives out partitions"),
        ("topic consume t --group g --from 5", "--group gives out partitions"),
        ("topic consume t --from Earliest", "--from 'Earliest' is neither beginning, nor end, nor an offset"),
        ("group seek g", "--to"),
        ("group seek g --to middle", "--to 'middle' is neither"),
        ("group seek g --to end --partition 1", "--partition needs --topic"),
        ("topic produce t --acks most", "--acks"),
        ("topic produce t --key-separator=", "--key-separator must not be empty"),
        ("topic produce t --file /no/such", "--file"),
        ("dev --nodes 0", "--nodes"),
        ("dev --node-option x", "--node-option 'x' is not KEY=VALUE"),
    ],
)
def test_wrong_usage_exits_with_2_and_leaves_stdout_alone(command: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong is said on stderr."""
    assert run_command(command.split()) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert out == "" or command == ""


BIG, LONG = "9" * 20, "9" * 5_000


@pytest.mark.parametrize(
    "command",
    [
        *(f"cluster {name} {number}" for name in ("drain", "remove") for number in (2**31, BIG)),
        *(f"cluster upgrade {option}" for option in (f"--level {2**31}", f"--without {2**31}", "--without -1", "--without 0")),
        *(f"cluster move t-0 --replicas {nodes}" for nodes in (f"1,{2**31}", LONG)),
        *(f"cluster move t-0 --from {source} --to {target}" for source, target in ((1, 2**31), (2**31, 1), (1, -1))),
        *(f"cluster move t-{number} --replicas 1" for number in (2**31, LONG)),
        *(f"group seek g --to {sign}{number}" for sign in ("", "+", "-") for number in (2**63, BIG, LONG)),
        f"group seek g --to end --topic t --partition {2**31}",
        *(f"topic consume t --from {offset}" for offset in (2**63, LONG)),
        *(f"topic {name} t --partition {2**31}" for name in ("consume", "produce")),
        *(f"storage force-configuration --data-dir . --lost-nodes {nodes}" for nodes in (f"2,{2**31}", LONG)),
    ],
)
def test_a_number_that_no_call_can_carry_is_wrong_usage(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is found before any node is asked, and said in one line behind how the command is used."""
    assert run_command(["--brokers", "127.0.0.1:1", *command.split()]) == 2
    out, err = capsys.readouterr()
    *_, said = err.splitlines()
    assert "error: " in said.lower()
    assert out == ""


@pytest.mark.parametrize(
    "command",
    [
        *("", "topic", "topic create", "topic list", "topic describe", "topic alter", "topic delete"),
        *(
            "topic produce",
            "topic consume",
            "cluster info",
            "cluster health",
            "cluster upgrade",
            "bench",
            "dev",
            "produce",
            "consume",
        ),
        *("storage", "storage info", "storage check", "storage compact"),
        *("storage force-configuration", "storage forget-unclean", "storage forget-damage"),
        *("group", "group list", "group describe", "group delete", "group seek"),
    ],
)
def test_every_command_of_the_contract_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Names that scripts rely on; they stay."""
    assert run_command([*command.split(), "--help"]) == 0
    assert "Usage: raftlog" in capsys.readouterr().out


def test_the_version_is_data(capsys: pytest.CaptureFixture[str]) -> None:
    """On stdout."""
    assert run_command(["--version"]) == 0
    assert capsys.readouterr().out.startswith("raftlog ")
