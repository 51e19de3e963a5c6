"""The runner's end of a bridge: a child process in the client's environment, asked by JSON lines, ended by its pid.

It ends with the runner, too, whatever became of that.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.interop.bridges.face import Absent, Refused
from tests.interop.bridges.leash import leashed

LINE_BYTES_MAX = 64 << 20
"""A few records near the largest size that a topic takes, in base64."""
END_TIMEOUT_S = 10.0
"""A client that leaves its groups and closes its connections needs far less."""


class BridgeLostError(Exception):
    """The bridge's process ended; its log says why."""


class Bridge:
    """One client, live. Calls are answered one after the other.

    Args:
        command: what to run; the bootstrap address is appended.
        log: where its stderr goes.
    """

    def __init__(self, command: Sequence[str], address: str, *, environ: Mapping[str, str], log: Path) -> None:
        self._command = (*command, address)
        self._environ = {**os.environ, **environ}
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self.facts: dict[str, Any] = {}

    async def __aenter__(self) -> Bridge:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *leashed(self._command),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._environ,
                limit=LINE_BYTES_MAX,
                start_new_session=True,
            )
        try:
            self.facts = await self.call("facts")
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._end(patient=error is None)

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.returncode is None

    async def call(self, op: str, **args: Any) -> Any:
        """Ask for one operation of ``face.Client``.

        Raises:
            Absent: the client has no such thing.
            Refused: it, or the cluster, refused.
            BridgeLostError: its process ended.
        """
        process, line = self._process, b""
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        async with self._turn:
            try:
                process.stdin.write(json.dumps({"op": op, "args": args}).encode() + b"\n")
                await process.stdin.drain()
                line = await process.stdout.readline()
            except ConnectionError:
                pass
            except asyncio.CancelledError:
                # The client is stuck, and what it might still answer would be taken for the answer to another question:
                # whoever asks next, to close a consumer say, hears that it is gone.
                if process.returncode is None:
                    process.kill()
                raise
        if not line:
            raise BridgeLostError(f"the client's process ended during {op}; its log is {self._log}")
        answer = json.loads(line)
        if "absent" in answer:
            raise Absent(answer["absent"])
        if "error" in answer:
            raise Refused(answer.get("code"), f"{op}: {answer['error']}")
        return answer.get("value")

    async def _end(self, *, patient: bool = False) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(END_TIMEOUT_S if patient else 1.0):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
