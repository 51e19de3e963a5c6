"""Style that a formatter cannot keep is kept by tests."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500
TEXT_SUFFIXES = {".py", ".md", ".toml", ".proto", ".sh", ".yaml", ".yml", ".json", ".service"}
FOLDERS = ("raftlog", "tests", "scripts", "proto", "cluster", ".ci")

# Written in pieces, so that this file passes its own test.
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
NOT_RUN = re.compile(r"\b(mark\.(sk" r"ip|sk" r"ipif|xf" r"ail)|pytest\.(sk" r"ip|xf" r"ail)|importor" r"skip)\b")
SLEEPING = re.compile(r"\btime\.sl" r"eep\(")
FOREIGN_PATHS = re.compile(r"(^|[\s\"'=(])/(wo" r"rk|ro" r"ot|ho" r"me/\w+)/")


def texts() -> Iterator[Path]:
    """Every file of the project that people wrote."""
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.suffix in TEXT_SUFFIXES)
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            generated = path.is_relative_to(ROOT / "raftlog" / "pb") or "__pycache__" in path.parts
            if path.is_file() and not generated and (path.suffix in TEXT_SUFFIXES or not path.suffix):
                yield path


def sources() -> list[Path]:
    """Every Python file that people wrote."""
    found = [path for path in texts() if path.suffix == ".py"]
    assert len(found) > 20, "the project has more files than that: the search is wrong"
    return found


def matches(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    """``file:line: text`` of every line with the pattern."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_function_is_longer_than_a_screen() -> None:
    """A longer one does more than one thing."""
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert long == []


def test_no_file_is_long() -> None:
    """A longer one is two."""
    assert [str(path) for path in sources() if len(path.read_text().splitlines()) > FILE_LINES_MAX] == []


def test_every_source_file_says_what_it_is() -> None:
    """A module opens with a docstring."""
    shipped = [path for path in sources() if not path.is_relative_to(ROOT / "tests") and path.stat().st_size]
    silent = [path for path in shipped if not ast.get_docstring(ast.parse(path.read_text()))]
    assert [str(path.relative_to(ROOT)) for path in silent] == []


def test_nothing_is_left_for_later() -> None:
    """What is missing is an issue, not a comment."""
    assert matches(UNFINISHED, list(texts())) == []


def test_no_test_is_left_out() -> None:
    """A test that does not run proves nothing."""
    assert matches(NOT_RUN, sources()) == []


def test_no_test_waits_by_the_clock() -> None:
    """A test waits for a condition, or owns the time."""
    assert matches(SLEEPING, [path for path in sources() if path.is_relative_to(ROOT / "tests")]) == []


def test_no_path_of_one_machine_is_written_down() -> None:
    """What works here must work elsewhere."""
    assert matches(FOREIGN_PATHS, list(texts())) == []
