"""How commands print, and how they end."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from raftlog.cli.bench import percentile_ms
from raftlog.cli.consume import _json_line, _text_line
from raftlog.cli.errors import CommandError, UsageError, exit_code_of
from raftlog.cli.output import Format, bytes_fields, human_bytes, print_records
from raftlog.client.values import ConsumedRecord
from raftlog.errors import LeaderHint, NotLeaderError, OffsetOutOfRangeError, RequestTimedOutError, UnavailableError


def ending(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and stderr of a command that raises this."""

    def run() -> None:
        raise error

    code = exit_code_of(run)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (CommandError("it broke"), 1, "error: it broke\n"),
        (UsageError("say it so"), 2, "error: say it so\n"),
        (typer.BadParameter("x"), 2, "x"),
        (typer.Exit(3), 3, ""),
        (typer.Abort(), 130, ""),
        (KeyboardInterrupt(), 130, ""),
        (FileNotFoundError(2, "No such file", "a"), 1, "error: [Errno 2] No such file: 'a'\n"),
        (UnavailableError("no leader"), 1, "error: no leader (nothing was done; try again)\n"),
        (RequestTimedOutError("late"), 1, "error: late (it may have happened nevertheless; look before trying again)\n"),
        (OffsetOutOfRangeError("5 is gone", earliest=7, latest=9), 1, "error: 5 is gone (there are offsets 7 to 9)\n"),
        (
            NotLeaderError("not me", hint=LeaderHint(node_id=2, address="h:1", term=3)),
            1,
            "error: not me (node 2 at h:1 leads)\n",
        ),
        (ExceptionGroup("", [ExceptionGroup("", [CommandError("deep")])]), 1, "error: deep\n"),
    ],
)
def test_every_ending_has_its_exit_code_and_one_line(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 done, 1 failed, 2 usage, 130 interrupted; never a traceback."""
    found, err = ending(error, capsys)
    assert found == code
    assert said in err
    assert "Traceback" not in err


def test_a_mistake_of_ours_is_not_hidden() -> None:
    """A bug keeps its traceback."""

    def run() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        exit_code_of(run)


def test_a_command_may_choose_its_exit_code() -> None:
    """Health does."""
    assert [exit_code_of(lambda: 1), exit_code_of(lambda: None)] == [1, 0]


def test_a_closed_pipe_ends_quietly_with_141() -> None:
    """As a program that SIGPIPE kills."""
    program = "import sys; from raftlog.cli.errors import exit_code_of as e; sys.exit(e(lambda: print('y\\n' * 9999999)))"
    root = str(Path(__file__).resolve().parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_records_are_json_lines_or_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has all keys; a table has those asked for."""
    records: list[dict[str, object]] = [{"name": "a", "size": 5, "more": {"k": "v"}}, {"name": None, "size": 10, "more": {}}]
    print_records(["name", "size"], records, Format.JSON)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == records
    print_records(["name", "size"], records, Format.TEXT)
    assert [line.split() for line in capsys.readouterr().out.splitlines() if "─" not in line] == [
        ["name", "size"],
        ["a", "5"],
        ["–", "10"],
    ]


@given(st.none() | st.binary())
def test_bytes_survive_json(value: bytes | None) -> None:
    """As text where they are UTF-8, else in base64."""
    fields = json.loads(json.dumps(bytes_fields("value", value)))
    if "value_base64" in fields:
        assert base64.b64decode(fields["value_base64"]) == value
    else:
        assert fields["value"] == (None if value is None else value.decode())


@given(st.none() | st.binary(), st.none() | st.binary())
def test_a_consumed_record_is_one_line_of_json(key: bytes | None, value: bytes | None) -> None:
    """Whatever its bytes are."""
    line = _json_line(ConsumedRecord("t", 1, 2, 3, key, value, (("h", b"\xff"),)))
    assert line.count(b"\n") == 1
    assert json.loads(line)["offset"] == 2


def test_a_consumed_record_as_text_is_its_bytes() -> None:
    """Verbatim, and a newline."""
    assert _text_line(ConsumedRecord("t", 0, 0, 0, None, b"\xff\x00", ())) == b"\xff\x00\n"
    assert _text_line(ConsumedRecord("t", 0, 0, 0, None, None, ())) == b"\n"


def test_sizes_are_readable() -> None:
    """Binary units."""
    assert [human_bytes(size) for size in (0, 1023, 1536, 5 << 30, 1 << 41)] == ["0 B", "1023 B", "1.5 KiB", "5.0 GiB", "2.0 TiB"]


def test_percentiles_are_of_the_sorted_values() -> None:
    """The last one is the maximum; of nothing there is none."""
    seconds = [n / 1_000 for n in range(1, 101)]
    assert [percentile_ms(seconds, share) for share in (0.5, 0.99, 1.0)] == [51.0, 100.0, 100.0]
    assert percentile_ms([], 0.5) is None
