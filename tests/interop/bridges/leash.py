"""Programs that end with whoever started them: ``leash.py PARENT_PID PROGRAM …`` asks the kernel for that, then becomes it.

A client's library may hang while its cluster goes away, and one written in Java knows nothing of its parent: a run that is cut
off must leave none of them behind.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from raftlog.testing.child import die_with_parent


def leashed(command: Sequence[str]) -> list[str]:
    """The command, ended by SIGKILL when the thread that starts it ends. Needs raftlog's own environment to begin, no more."""
    return [sys.executable, __file__, str(os.getpid()), *command]


def main() -> None:
    """Become the program; what the kernel was asked for stays so."""
    die_with_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
