"""Run a node that dies with the process that started it: ``python -m raftlog.testing.child PARENT_PID [node flags]``.

The kernel sends SIGKILL when the thread that started this process ends (``PR_SET_PDEATHSIG``), so a crashed test run leaves
no node behind. Where there is no prctl (not Linux), a crash of the parent leaves the nodes running.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel for SIGKILL at the parent's end; exit at once where it ended before the asking."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        raise SystemExit("the process that wanted this node is gone")


def main() -> None:
    """Become ``raftlog-node`` with the flags that follow the parent's process id."""
    parent_pid, *flags = sys.argv[1:]
    die_with_parent(int(parent_pid))
    sys.argv = ["raftlog-node", *flags]
    from raftlog.node.main import main as node_main

    node_main()


if __name__ == "__main__":
    main()
