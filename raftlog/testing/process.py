"""One node as a child process: its addresses, its log file, and the ways to end it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from raftlog.testing.ports import is_free

LOG_TAIL_BYTES = 4_000
"""How much of a node's log an error shows."""
_POLL_S = 0.02
_PROBE_TIMEOUT_S = 2.0
_PROBE_BYTES_MAX = 1 << 16


class LocalClusterError(Exception):
    """A node did not do what was asked of it; the message ends with the tail of its log."""


@dataclass(slots=True)
class LocalNode:
    """A node of a local cluster. Addresses are ``host:port``; ``kafka`` is empty where it has no such door."""

    node_id: int
    data_dir: Path
    peer: str
    grpc: str
    kafka: str
    admin: str
    flags: tuple[str, ...]
    environ: Mapping[str, str] = field(repr=False)
    python: str = field(default=sys.executable, repr=False)
    """The interpreter that runs it."""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _log_start_bytes: int = field(default=0, repr=False)
    """Where in its log the last start begins: what is before was logged by earlier runs."""

    @property
    def log_path(self) -> Path:
        """What the node writes to stderr and stdout, over all its starts."""
        return self.data_dir.with_name(f"{self.data_dir.name}.log")

    @property
    def pid(self) -> int | None:
        """Process id of the last start, None before the first."""
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        """Whether its process runs (paused counts)."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How the process ended (negative: by that signal), None while it runs."""
        return self._process.poll() if self._process else None

    def spawn(self) -> None:
        """Start the process.

        Raises:
            LocalClusterError: it runs already, or one of its ports is taken.
        """
        if self.alive:
            raise LocalClusterError(f"node {self.node_id} runs already (pid {self.pid}); stop or kill it first")
        for address in filter(None, (self.peer, self.grpc, self.kafka, self.admin)):
            # Seen here because a stranger on the admin port would answer our question whether the node is ready.
            if not is_free(int(address.rpartition(":")[2])):
                raise LocalClusterError(f"node {self.node_id} cannot listen on {address}: the port is in use")
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        command = [self.python, "-m", "raftlog.testing.child", str(os.getpid()), *self.flags]
        with self.log_path.open("ab") as log:
            self._log_start_bytes = log.tell()
            # A session of its own: Ctrl-C in a terminal reaches only whoever holds the cluster, which ends it in order.
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(self.environ), start_new_session=True
            )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    async def ended(self, timeout_s: float) -> bool:
        """Wait for the process to end; False where it did not within ``timeout_s``."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self.alive:
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    async def ready(self, timeout_s: float) -> None:
        """Wait until ``/readyz`` of the admin port says 200.

        Raises:
            LocalClusterError: the process ended, or did not become ready within ``timeout_s``.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        said = "nothing yet"
        while loop.time() < deadline:
            if not self.alive:
                raise LocalClusterError(f"node {self.node_id} ended with {self.exit_code} before it was ready.{self.log_tail()}")
            status, said = await probe(self.admin, "/readyz")
            if status == 200:
                return
            await asyncio.sleep(_POLL_S)
        raise LocalClusterError(
            f"node {self.node_id} was not ready within {timeout_s:g} s; /readyz last said: {said}.{self.log_tail()}"
        )

    def log_tail(self) -> str:
        """The end of its log since the last start, with a heading, for error messages."""
        try:
            text = self._log_end()
        except OSError as error:
            return f" (its log {self.log_path} cannot be read: {error})"
        return f" The end of its log ({self.log_path}):\n{text}" if text else f" Its log ({self.log_path}) is empty."

    def last_error(self) -> str:
        """The last ``error:`` line at the end of its log since the last start, empty where there is none."""
        try:
            lines = self._log_end().splitlines()
        except OSError:
            return ""
        return next((line for line in reversed(lines) if line.startswith("error:")), "")

    def _log_end(self) -> str:
        with self.log_path.open("rb") as log:
            log.seek(max(self._log_start_bytes, self.log_path.stat().st_size - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip()


async def probe(address: str, path: str) -> tuple[int, str]:
    """GET a path of an admin port: status (0 where nobody answers) and the first line of the body, or why there is none."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
                answer = await reader.read(_PROBE_BYTES_MAX)
                while b"\r\n\r\n" not in answer and (more := await reader.read(_PROBE_BYTES_MAX)):
                    answer += more
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        return 0, str(error) or "no answer"
    head, _, body = answer.decode(errors="replace").partition("\r\n\r\n")
    words = head.split(" ", 2)
    status = int(words[1]) if len(words) > 1 and words[1].isdecimal() else 0
    return status, body.strip().split("\n")[0]
