"""A cluster of ``raftlog-node`` processes that can be hurt: each with a network, a disk and a clock of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from raftlog.core.failpoints import VARIABLE
from raftlog.testing.process import LocalClusterError, LocalNode
from tests.chaos.network import Namespaced, Network, Place, Proxied, ToolError
from tests.chaos.preload import Preload, build

ROOT = Path(__file__).resolve().parents[2]
"""Of the project: nodes run the code that this process runs."""
READY_TIMEOUT_S = 45.0
"""A restart under load with a slow disk just over, on two cores."""
STOP_TIMEOUT_S = 20.0
SMALL_DISK_BYTES = 320 << 20
DISK_FREE_MIN_BYTES = 32 << 20
BALLAST_BYTES = 4 << 20
PROGRAM = ("raftlog.testing.child",)
"""The module that a node runs, and its first arguments; its parent's process id and the node's flags follow."""
SESSION_MS_MIN = 1_000
"""Members of groups may ask for sessions this short, so that one which is killed is missed soon."""
PRELOAD = "preload"
SMALL_DISK = "small_disk"
NAMESPACES = "namespaces"


@dataclass(slots=True)
class ChaosNode(LocalNode):
    """A node that may live in a network namespace, and whose next start may have more environment."""

    prefix: tuple[str, ...] = ()
    program: tuple[str, ...] = PROGRAM
    preload: Preload | None = None
    small_disk: Path | None = None
    """Where its data directory is a file system of its own, its root."""
    boots: int = 0
    """How often it was started."""
    crash_at: str = ""
    """Crash point of the next start."""

    @property
    def log_path(self) -> Path:
        """See ``LocalNode``; outside of the node's disk, which may be full or gone."""
        return self.data_dir.parent.with_name(f"node-{self.node_id}.log")

    def spawn(self) -> None:
        """See ``LocalNode``; ports are not looked at, for they may be in another namespace."""
        if self.alive:
            raise LocalClusterError(f"node {self.node_id} runs already (pid {self.pid})")
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        environ = dict(self.environ) | ({VARIABLE: self.crash_at} if self.crash_at else {})
        self.crash_at = ""
        self.boots += 1
        command = [*self.prefix, sys.executable, "-m", *self.program, str(os.getpid()), *self.flags]
        with self.log_path.open("ab") as log:
            log.write(f"---- start {self.boots}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, start_new_session=True
            )


class ChaosCluster:
    """``nodes`` node processes, numbered from 1; an async context manager.

    Args:
        nodes: how many.
        directory: where they store and log.
        use: what the faults need of ``PRELOAD``, ``SMALL_DISK`` (of the last node) and ``NAMESPACES``. What this machine
            cannot do is left out of ``has``.
        settings: more settings for every node.
        program: what nodes run.
    """

    def __init__(
        self,
        nodes: int,
        directory: Path,
        use: Collection[str] = (),
        settings: dict[str, object] | None = None,
        program: tuple[str, ...] = PROGRAM,
    ) -> None:
        self.directory = directory
        self._program = program
        self._count, self._use, self._settings = nodes, frozenset(use), dict(settings or {})
        self._stack = AsyncExitStack()
        self.has: set[str] = set()
        self.nodes: dict[int, ChaosNode] = {}
        self.network: Network

    @property
    def brokers(self) -> list[str]:
        """gRPC addresses of all nodes."""
        return [node.grpc for node in self.nodes.values()]

    @property
    def kafka(self) -> str:
        """Kafka addresses of all nodes, as its clients take them."""
        return ",".join(node.kafka for node in self.nodes.values())

    async def __aenter__(self) -> ChaosCluster:
        try:
            await self._lay_out()
            for node in self.nodes.values():
                node.spawn()
            await self.ready()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    async def ready(self) -> None:
        """Wait until every node is ready."""
        for node in self.nodes.values():
            await node.ready(READY_TIMEOUT_S)

    async def kill(self, node_id: int) -> None:
        """SIGKILL, and wait for the end."""
        node = self.nodes[node_id]
        node.signal(signal.SIGKILL)
        if not await node.ended(STOP_TIMEOUT_S):
            raise LocalClusterError(f"node {node_id} (pid {node.pid}) outlived SIGKILL")

    async def stop(self, node_id: int) -> int | None:
        """SIGTERM, and wait for the end; SIGKILL where it does not come. The exit code."""
        node = self.nodes[node_id]
        node.signal(signal.SIGCONT)
        node.signal(signal.SIGTERM)
        if not await node.ended(STOP_TIMEOUT_S):
            await self.kill(node_id)
        return node.exit_code

    async def start(self, node_id: int) -> None:
        """Start, and wait until ready."""
        node = self.nodes[node_id]
        node.spawn()
        await node.ready(READY_TIMEOUT_S)

    async def _lay_out(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if NAMESPACES in self._use and Namespaced.possible():
            self.has.add(NAMESPACES)
            self.network = Namespaced(self._count)
        else:
            self.network = Proxied(self._count)
        self._stack.push_async_callback(self.network.close)
        await self.network.start()
        library = build(self.directory) if PRELOAD in self._use else None
        voters = ",".join(f"{node_id}={place.peer}" for node_id, place in self.network.places.items())
        for node_id, place in self.network.places.items():
            node = self.nodes[node_id] = self._node(node_id, place, voters)
            if library is not None:
                self.has.add(PRELOAD)
                node.preload = Preload(library, self.directory / f"node-{node_id}.control", node.data_dir)
                node.environ = {**node.environ, **node.preload.environ}
        if SMALL_DISK in self._use and os.geteuid() == 0:
            await self._make_small_disk(self.nodes[self._count])
        self._stack.push_async_callback(self._end_all)

    def _node(self, node_id: int, place: Place, voters: str) -> ChaosNode:
        data_dir = self.directory / f"disk-{node_id}" / "data"
        settings = {
            "node-id": node_id, "data-dir": data_dir, "voters": voters,
            "peer-listen": place.peer_listen, "peer-advertise": place.peer,
            "grpc-listen": place.grpc, "kafka-listen": place.kafka, "admin-listen": place.admin,
            "group-min-session-timeout-ms": SESSION_MS_MIN,
            "storage-disk-free-min-bytes": DISK_FREE_MIN_BYTES, "storage-ballast-bytes": BALLAST_BYTES,
            **self._settings,
        }  # fmt: skip
        flags = tuple(f"--{name}={value}" for name, value in settings.items())
        return ChaosNode(
            node_id=node_id, data_dir=data_dir, peer=place.peer, grpc=place.grpc, kafka=place.kafka, admin=place.admin,
            flags=flags, environ=_environ(), prefix=place.prefix, program=self._program,
        )  # fmt: skip

    async def _make_small_disk(self, node: ChaosNode) -> None:
        root = node.data_dir.parent
        root.mkdir(parents=True, exist_ok=True)
        options = f"size={SMALL_DISK_BYTES},mode=0700"
        mounted = await asyncio.create_subprocess_exec("mount", "-t", "tmpfs", "-o", options, "raftlog-chaos", str(root))
        if await mounted.wait():
            return  # a container that may not mount: this fault is left out
        self._stack.push_async_callback(_unmount, root)
        node.small_disk = root
        self.has.add(SMALL_DISK)

    async def _end_all(self) -> None:
        for node in self.nodes.values():
            node.signal(signal.SIGKILL)
        await asyncio.gather(*(node.ended(STOP_TIMEOUT_S) for node in self.nodes.values()))


def _environ() -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAFTLOG_")}
    path = os.pathsep.join(filter(None, [str(ROOT), inherited.get("PYTHONPATH", "")]))
    return {**inherited, "PYTHONPATH": path}


async def _unmount(root: Path) -> None:
    # What it holds is gone with it: a run that failed keeps its other nodes' directories and all logs.
    for command in (["umount", str(root)], ["umount", "-l", str(root)]):
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        if await process.wait() == 0:
            return
    raise ToolError(f"{root} cannot be unmounted; do it by hand")


def remove(directory: Path) -> None:
    """Delete what a run left below ``directory``."""
    shutil.rmtree(directory, ignore_errors=True)
