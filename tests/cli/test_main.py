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
        *("storage force-configuration", "storage forget-unclean"),
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
