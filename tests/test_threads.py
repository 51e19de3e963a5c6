"""A node is one event loop: what the simulator runs as it ships starts no thread, or a seed would not be one history."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "raftlog"
SIMULATED = ("broker", "consensus", "core", "peers", "records", "config", "model.py", "errors", "node/core.py", "node/gate.py")
MODULES = {"threading", "_thread", "multiprocessing", "concurrent", "subprocess", "queue", "sched", "signal"}
"""What makes threads or processes, or is of use with them alone."""
CALLS = {"to_thread", "run_in_executor", "start_new_thread", "fork"}

FILES = sorted(
    file for name in SIMULATED for file in ([PACKAGE / name] if name.endswith(".py") else (PACKAGE / name).rglob("*.py"))
)


def threads_in(source: str) -> list[str]:
    """Imports and calls in a source that lead to threads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.partition(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found += [node.module] if node.module and node.module.partition(".")[0] in MODULES else []
            found += [name.name for name in node.names if name.name in CALLS]
        elif isinstance(node, ast.Attribute) and node.attr in CALLS:
            found.append(node.attr)
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_nothing_that_is_simulated_starts_a_thread(file: Path) -> None:
    """Neither by a module for it, nor through the event loop."""
    assert threads_in(file.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import threading",
        "from concurrent.futures import ThreadPoolExecutor",
        "import asyncio\nasyncio.to_thread(f)",
        "from asyncio import to_thread",
        "loop.run_in_executor(None, f)",
        "import os\nos.fork()",
    ],
)
def test_a_thread_would_be_found(source: str) -> None:
    """However it is started."""
    assert threads_in(source) != []
