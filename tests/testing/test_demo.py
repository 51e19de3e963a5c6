"""The demo runs on whatever lines it is given, ends by itself, and proves what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def demo(*options: object) -> subprocess.CompletedProcess[str]:
    """Run it, faster than for an audience."""
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--seconds", "2", *map(str, options)]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)


def test_the_demo_proves_that_nothing_is_lost_when_a_leader_is_killed(tmp_path: Path) -> None:
    """With empty lines, equal lines, lines that are not UTF-8, and a last line without its newline."""
    lines = [
        b"",
        b"\xff\xfe\x00 bytes",
        b" leading space",
        b"same same",
        b"same same",
        *(b"%d.0.0.1 - - GET /" % n for n in range(300)),
    ]
    file = tmp_path / "lines.txt"
    file.write_bytes(b"\n".join(lines * 3))
    run = demo("--file", file)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Proven: each of the 915 acknowledged lines" in run.stdout
    for event in ("killed node", "in term 2", "restarting node", "has caught up", "copies of every partition are equally long"):
        assert event in run.stdout


def test_the_demo_says_what_is_wrong_with_its_file(tmp_path: Path) -> None:
    """In one line, with exit code 1."""
    empty = tmp_path / "empty"
    empty.touch()
    for file, said in ((tmp_path / "missing", "No such file"), (empty, "not a single line")):
        run = demo("--file", file)
        assert run.returncode == 1
        assert said in run.stderr
        assert len(run.stderr.splitlines()) == 1
