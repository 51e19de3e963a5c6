"""How commands print, and how they end."""

from __future__ import annotations

import base64
import io
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
from raftlog.cli.consume import _json_line, _place, _text_line
from raftlog.cli.errors import CommandError, UsageError, exit_code_of
from raftlog.cli.output import Format, bytes_fields, counted, human_bytes, print_records, print_table
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


class Terminal(io.StringIO):
    """Stdout that somebody looks at."""

    def isatty(self) -> bool:
        """It is one."""
        return True


NODES = ["id", "state", "grpc", "kafka", "peer", "admin"]
ADDRESSES: list[list[object]] = [
    [node, "up", *(f"node-{node}.example:{door}00{node}" for door in (71, 72, 70, 73))] for node in (1, 2)
]


def printed(monkeypatch: pytest.MonkeyPatch, width: int, columns: list[str], rows: list[list[object]]) -> list[str]:
    """A table's lines on a terminal of this width."""
    terminal = Terminal()
    with monkeypatch.context() as patched:
        patched.setenv("TERM", "dumb")  # one that is told no colours
        patched.setenv("COLUMNS", str(width))
        patched.setenv("LINES", "25")
        patched.setattr(sys, "stdout", terminal)
        print_table(columns, rows)
    return terminal.getvalue().splitlines()


def test_a_table_too_wide_for_the_terminal_is_a_block_of_lines_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """No address is ever cut short; where there is room for it, it is a table."""
    assert printed(monkeypatch, 80, NODES, ADDRESSES) == [
        *("", "id     1", "state  up", "grpc   node-1.example:71001", "kafka  node-1.example:72001"),
        *("peer   node-1.example:70001", "admin  node-1.example:73001"),
        *("", "id     2", "state  up", "grpc   node-2.example:71002", "kafka  node-2.example:72002"),
        *("peer   node-2.example:70002", "admin  node-2.example:73002"),
    ]
    assert [line.split() for line in printed(monkeypatch, 120, NODES, ADDRESSES) if "─" not in line] == [
        NODES,
        *([str(value) for value in row] for row in ADDRESSES),
    ]


def test_sentences_are_broken_between_words_rather_than_the_table_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is short stays on one line, and nothing is left out."""
    said = "node 2 (127.0.0.1:7102) does not answer: no connection to it, and so it leads nothing and holds nothing"
    lines = printed(monkeypatch, 80, ["what is wrong", "in words", "size"], [["node down", said, "1.5 MiB"]])
    assert max(map(len, lines)) <= 80
    assert "node down" in lines[2]
    assert "1.5 MiB" in lines[2]
    assert len(lines) > 3
    assert " ".join(" ".join(lines[2:]).replace("node down", "").replace("1.5 MiB", "").split()) == said


def test_a_table_that_nobody_looks_at_is_as_wide_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Every row stays one line, for ``grep``."""
    rows = [["a", "word " * 200 + "end"], ["b", "x" * 3_000]]
    print_table(["name", "text"], rows)
    *_, first, second = capsys.readouterr().out.splitlines()
    assert [first.split(maxsplit=1), second.split(maxsplit=1)] == rows


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


def test_kafkas_words_for_the_ends_of_a_log_are_understood_too() -> None:
    """They are the same places."""
    assert [_place(text) for text in ("beginning", "earliest", "end", "latest", "5")] == ["beginning"] * 2 + ["end"] * 2 + [5]


def test_sizes_are_readable() -> None:
    """Binary units."""
    assert [human_bytes(size) for size in (0, 1023, 1536, 5 << 30, 1 << 41)] == ["0 B", "1023 B", "1.5 KiB", "5.0 GiB", "2.0 TiB"]


def test_one_of_a_thing_is_not_several() -> None:
    """Of nothing there are several, and long numbers are cut into thousands."""
    assert [counted(count, "record") for count in (0, 1, 2, 1_234)] == ["0 records", "1 record", "2 records", "1,234 records"]
    assert [counted(count, "entry", "entries") for count in (1, 2)] == ["1 entry", "2 entries"]


def test_percentiles_are_of_the_sorted_values() -> None:
    """The last one is the maximum; of nothing there is none."""
    seconds = [n / 1_000 for n in range(1, 101)]
    assert [percentile_ms(seconds, share) for share in (0.5, 0.99, 1.0)] == [51.0, 100.0, 100.0]
    assert percentile_ms([], 0.5) is None
