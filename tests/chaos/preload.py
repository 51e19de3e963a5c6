"""The disk and the wall clock of one node, through a preloaded library (``preload.c``) that is built here with cc."""

from __future__ import annotations

import errno
import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

_SOURCE = Path(__file__).with_name("preload.c")
_CONTROL = struct.Struct("=IIIIi")  # struct control of preload.c


def build(directory: Path) -> Path | None:
    """Compile the library into ``directory``; None where there is no cc.

    Raises:
        RuntimeError: cc is there and refuses.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = directory / "preload.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-o", str(library), str(_SOURCE), "-ldl"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return library


class Preload:
    """Steers one node's disk and clock.

    Args:
        library: what ``build`` gave.
        control: a file of its own.
        data_dir: whose files are meant.
    """

    def __init__(self, library: Path, control: Path, data_dir: Path) -> None:
        self._control = control
        self._disk = (0, 0, 0, 0)
        self._shift_s = 0
        self.environ: Mapping[str, str] = {
            "LD_PRELOAD": str(library),
            "CHAOS_CONTROL": str(control),
            "CHAOS_DISK_DIR": str(data_dir),
        }
        control.write_bytes(bytes(_CONTROL.size))

    def slow_disk(self, *, sync_ms: int, write_ms: int = 0) -> None:
        """Every sync and every write takes so much longer."""
        self._set_disk(sync_ms, write_ms, 0, 0)

    def fail_syncs(self) -> None:
        """Every sync fails with EIO, as on a broken disk."""
        self._set_disk(0, 0, errno.EIO, 0)

    def refuse_writes(self) -> None:
        """Every write fails with ENOSPC, as on a full disk."""
        self._set_disk(0, 0, 0, errno.ENOSPC)

    def good_disk(self) -> None:
        """As the machine's own again."""
        self._set_disk(0, 0, 0, 0)

    def shift_clock(self, seconds: int) -> None:
        """The node's wall clock is so many seconds before (positive) or behind the machine's from now on."""
        self._shift_s = seconds
        self._write()

    def _set_disk(self, sync_ms: int, write_ms: int, sync_errno: int, write_errno: int) -> None:
        self._disk = sync_ms, write_ms, sync_errno, write_errno
        self._write()

    def _write(self) -> None:
        # In place: the node has the file mapped.
        with self._control.open("r+b") as file:
            file.write(_CONTROL.pack(*self._disk, self._shift_s))
