"""Child processes of a measurement: modules of this package that print the port they listen on and live until they are ended."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

START_TIMEOUT_S = 20.0
"""An interpreter with its imports needs half a second, on a busy machine a few."""
ROOT = Path(__file__).resolve().parents[2]


@asynccontextmanager
async def child(module: str, *words: str) -> AsyncIterator[int]:
    """Run ``python -m module PID_OF_THIS_PROCESS words…``; gives its port, and ends it by SIGKILL.

    Raises:
        RuntimeError: it ended, or did not say its port in time.
    """
    command = (sys.executable, "-m", module, str(os.getpid()), *words)
    # A session of its own, as LocalCluster gives its nodes: some kernels share out the processor by session.
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=ROOT, start_new_session=True)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(command)} ended before it was ready")
        yield int(line)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def answer_of(module: str, *words: str) -> dict[str, float]:
    """Run ``python -m module PID_OF_THIS_PROCESS words…`` to its end; gives the JSON that it prints.

    Raises:
        RuntimeError: it failed; what it said is on stderr.
    """
    command = (sys.executable, "-m", module, str(os.getpid()), *words)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=ROOT, start_new_session=True)
    assert process.stdout is not None
    try:
        said = await process.stdout.read()
        if await process.wait():
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
        answer: dict[str, float] = json.loads(said)
        return answer
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
