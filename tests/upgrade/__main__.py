"""``python -m tests.upgrade``: upgrade a busy cluster from the version before to this one, and say what was seen."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # gRPC remarks on every child process; it reads this when it is imported

from tests.interop.environments import Unavailable
from tests.upgrade.scenario import upgrade
from tests.upgrade.versions import HOME, PREVIOUS, NoHistoryError, previous_python


def main() -> int:
    """Exit code 0 when all went as it must, 1 where it did not, 2 where the version before cannot be had."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("raftlog").setLevel(logging.ERROR)
    try:
        old = previous_python()
    except (NoHistoryError, Unavailable) as error:
        print(f"the version before ({PREVIOUS[:12]}) cannot be had: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="data-", dir=HOME) as directory:
        asyncio.run(upgrade(old, Path(directory)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
