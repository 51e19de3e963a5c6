"""The version before this one, in an environment of its own: made once below ``var/upgrade`` from the repository's history."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

from tests.bench.processes import ROOT
from tests.interop.environments import python_of

PREVIOUS = "f0f0e7a1a864db5d85ff5dfe9213f30fec27d500"
"""The last commit of the version before: feature level 1. With each new level this moves on to the last commit before it."""
HOME = ROOT / "var" / "upgrade"


class NoHistoryError(Exception):
    """The repository here does not hold the version before: it is no clone, or a shallow one."""


def previous_python() -> Path:
    """The interpreter that has the version before installed.

    Raises:
        NoHistoryError
        Unavailable: its packages cannot be had here.
    """
    home = HOME / PREVIOUS[:12]
    source = home / "source"
    if not (source / "pyproject.toml").exists():
        _unpack(source)
    return python_of(home / "environment", [str(source)])


def _unpack(source: Path) -> None:
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    archive = source.with_suffix(".tar")
    done = subprocess.run(
        ["git", "archive", f"--output={archive}", PREVIOUS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise NoHistoryError(f"there is no commit {PREVIOUS[:12]} here ({done.stderr.strip()}); fetch the whole history")
    with tarfile.open(archive) as files:
        files.extractall(source, filter="data")
    archive.unlink()
