from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.preload import Preload, build

PROBE = """
import os, sys, time
path = sys.argv[1]
def attempt(what, act):
    begun = time.monotonic()
    try:
        act()
        said = "ok"
    except OSError as error:
        said = str(error.errno)
    print(what, said, "slow" if time.monotonic() - begun > 0.15 else "fast")
fd = os.open(path, os.O_RDWR | os.O_CREAT)
attempt("write", lambda: os.pwrite(fd, b"x", 0))
attempt("fsync", lambda: os.fsync(fd))
attempt("fdatasync", lambda: os.fdatasync(fd))
synced = os.open(path, os.O_RDWR | os.O_DSYNC)
attempt("dsync", lambda: os.pwrite(synced, b"x", 0))
print("clock", round(time.time()))
"""


@pytest.fixture
def steered(tmp_path: Path) -> Preload | None:
    """A library and a data directory; None where there is no cc, for then there are no such faults."""
    (tmp_path / "data").mkdir()
    library = build(tmp_path)
    assert (library is None) == (shutil.which("cc") is None)
    return None if library is None else Preload(library, tmp_path / "control", tmp_path / "data")


def probe(preload: Preload, path: Path) -> dict[str, str]:
    """What a process with the library meets at a file."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(path)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **preload.environ},
    )
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def test_the_disk_does_as_it_is_told(steered: Preload | None, tmp_path: Path) -> None:
    """Slow, failing and full, each where it should be; a descriptor for synchronous writes syncs as it writes."""
    if steered is None:
        return
    disk, inside = steered, tmp_path / "data" / "file"
    kinds = ("write", "fsync", "fdatasync", "dsync")

    def met() -> list[str]:
        found = probe(disk, inside)
        return [found[kind] for kind in kinds]

    assert met() == ["ok fast"] * 4
    steered.slow_disk(sync_ms=200)
    assert met() == ["ok fast", "ok slow", "ok slow", "ok slow"]
    steered.fail_syncs()
    assert met() == ["ok fast", *[f"{errno.EIO} fast"] * 3]
    steered.refuse_writes()
    assert met() == [f"{errno.ENOSPC} fast", "ok fast", "ok fast", f"{errno.ENOSPC} fast"]
    assert probe(steered, tmp_path / "outside")["write"] == "ok fast"
    steered.good_disk()
    assert met() == ["ok fast"] * 4


def test_the_wall_clock_moves(steered: Preload | None, tmp_path: Path) -> None:
    """By what was asked for, and back."""
    if steered is None:
        return
    before = int(probe(steered, tmp_path / "file")["clock"])
    steered.shift_clock(-86_400)
    moved = int(probe(steered, tmp_path / "file")["clock"])
    steered.shift_clock(0)
    after = int(probe(steered, tmp_path / "file")["clock"])
    assert before - 86_400 <= moved <= after - 86_400
