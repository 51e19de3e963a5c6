"""A real cluster on this machine, for tests, demos and benchmarks: node processes that can be killed, paused and restarted.

::

    async with LocalCluster(nodes=3) as cluster:
        async with raftlog.Client(cluster.brokers) as client:
            ...
            await cluster.kill(2)
            await cluster.start(2)
            await cluster.join()

Without an event loop, ``SyncLocalCluster`` does the same by plain calls. The nodes are children of this process: they end with
it, also when it crashes. Everything listens on 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from raftlog.testing.ports import free_ports
from raftlog.testing.process import LocalClusterError, LocalNode

__all__ = ["LocalCluster", "LocalClusterError", "LocalNode"]

HOST = "127.0.0.1"
_DOORS = (0, 100, 200, 300)
"""What is added to the base port for peers, gRPC, Kafka and admin."""
NODES_MAX = 99
"""With more, the ports of one door would run into those of the next (``base_port`` + 100)."""
READY_TIMEOUT_S = 30.0
"""A healthy node needs under 3 s; a machine under load, ten times as long."""
STOP_TIMEOUT_S = 15.0
"""A node that hands over its leaderships and drains needs well under this; then it is killed."""


class LocalCluster:
    """``nodes`` node processes on 127.0.0.1, numbered from 1.

    Args:
        nodes: how many.
        data_dir: where nodes store (``node-1``, …) and log (``node-1.log``, …). Without it, a temporary directory that is
            deleted at the end.
        base_port: node n is on base+n (peer), base+100+n (gRPC), base+200+n (Kafka) and base+300+n (admin). Without it, free
            ports are taken.
        settings: more settings of ``raftlog-node`` for every node, by the names of its flags (``{"rack": "a"}``).
        environ: more environment variables for every node. ``RAFTLOG_…`` variables of this process are not passed on.
        ready_timeout_s: how long a node may take to become ready.
        python: the interpreter that runs the nodes, where they are to be of another version of raftlog, which it has installed.
    """

    def __init__(
        self,
        nodes: int = 3,
        *,
        data_dir: Path | str | None = None,
        base_port: int | None = None,
        settings: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        ready_timeout_s: float = READY_TIMEOUT_S,
        python: Path | str | None = None,
    ) -> None:
        if not 1 <= nodes <= NODES_MAX:
            raise ValueError(f"a local cluster has 1 to {NODES_MAX} nodes, not {nodes}")
        self._count = nodes
        self._wanted_dir = Path(data_dir).absolute() if data_dir is not None else None
        self._base_port = base_port
        self._settings = dict(settings or {})
        self._environ = dict(environ or {})
        self._ready_timeout_s = ready_timeout_s
        self.python = python
        """Runs the nodes that are made from now on; see ``set_python`` for those that there are."""
        self.data_dir: Path | None = self._wanted_dir
        self.nodes: dict[int, LocalNode] = {}

    @property
    def kafka(self) -> str:
        """Kafka addresses of all nodes, dead or alive, as a Kafka client's ``bootstrap.servers``."""
        return ",".join(node.kafka for node in self.nodes.values())

    @property
    def brokers(self) -> list[str]:
        """gRPC addresses of all nodes, dead or alive: what a client is given to begin with."""
        return [node.grpc for node in self.nodes.values()]

    async def __aenter__(self) -> LocalCluster:
        """Start all nodes and wait until each is ready.

        Raises:
            LocalClusterError: one did not become ready; all are ended again.
        """
        self.data_dir = self._wanted_dir or Path(tempfile.mkdtemp(prefix="raftlog-"))
        self.nodes = self._layout(self.data_dir)
        try:
            for node in self.nodes.values():
                node.spawn()
            await self._all_ready()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """End all nodes, first by SIGTERM, and delete the data directory where it is a temporary one. Idempotent."""
        try:
            await asyncio.gather(*(self.stop(node_id) for node_id in self.nodes))
        finally:
            for node in self.nodes.values():
                node.signal(signal.SIGKILL)
            await asyncio.gather(*(node.ended(STOP_TIMEOUT_S) for node in self.nodes.values()))
        if self._wanted_dir is None and self.data_dir is not None:
            await asyncio.to_thread(shutil.rmtree, self.data_dir, ignore_errors=True)

    async def kill(self, node_id: int) -> None:
        """End a node by SIGKILL, as a crash would, and wait until its process is gone. Its data stays."""
        node = self._node(node_id)
        node.signal(signal.SIGKILL)
        if not await node.ended(STOP_TIMEOUT_S):
            raise LocalClusterError(f"node {node_id} (pid {node.pid}) outlived SIGKILL: is its disk stuck?")

    async def stop(self, node_id: int, timeout_s: float = STOP_TIMEOUT_S) -> int | None:
        """End a node by SIGTERM, which hands its leaderships over first; by SIGKILL after ``timeout_s``. Its exit code."""
        node = self._node(node_id)
        node.signal(signal.SIGCONT)  # a paused process would not hear
        node.signal(signal.SIGTERM)
        if not await node.ended(timeout_s):
            await self.kill(node_id)
        return node.exit_code

    async def start(self, node_id: int, *, wait_ready: bool = True) -> None:
        """Start a node that was killed or stopped, over the data it left.

        Raises:
            LocalClusterError: it runs already, or did not become ready.
        """
        node = self._node(node_id)
        node.spawn()
        if wait_ready:
            await node.ready(self._ready_timeout_s)

    async def join(self, *, at: int = 1, wait_ready: bool = True, **settings: object) -> int:
        """Add a node to the running cluster; its id, the next one.

        Args:
            at: the member that it is told of.
            wait_ready: whether to wait until it is a member and has the metadata.
            settings: more settings of ``raftlog-node`` for it, by their names with ``_`` for ``-``.

        Raises:
            LocalClusterError: it did not become ready.
        """
        node = self._next_node(self._node(at).peer, {name.replace("_", "-"): value for name, value in settings.items()})
        self.nodes[node.node_id] = node
        await self.start(node.node_id, wait_ready=wait_ready)
        return node.node_id

    def next_flags(self) -> list[str]:
        """The command line of ``raftlog-node`` for a node that ``join`` would add."""
        return list(self._next_node(next(iter(self.nodes.values())).peer, {}).flags)

    def _next_node(self, member: str, settings: Mapping[str, object]) -> LocalNode:
        node_id = max(self.nodes) + 1
        if node_id > NODES_MAX:
            raise ValueError(f"a local cluster has {NODES_MAX} nodes at most")
        assert self.data_dir is not None
        ports = free_ports(len(_DOORS)) if self._base_port is None else [self._base_port + span + node_id for span in _DOORS]
        return self._node_of(node_id, self.data_dir, ports, {**self._settings, "join": member, **settings})

    def set_python(self, node_id: int, python: Path | str | None) -> None:
        """From its next start on a node runs by this interpreter, and by what that has installed; None: as this process does."""
        node = self._node(node_id)
        node.python, node.environ = str(python or sys.executable), self._node_environ(python)

    async def restart(self, node_id: int) -> None:
        """``stop`` and ``start``."""
        await self.stop(node_id)
        await self.start(node_id)

    def pause(self, node_id: int) -> None:
        """Freeze a node by SIGSTOP: its connections stay open, and it answers nothing."""
        self._node(node_id).signal(signal.SIGSTOP)

    def resume(self, node_id: int) -> None:
        """Let a paused node go on."""
        self._node(node_id).signal(signal.SIGCONT)

    def describe(self) -> dict[str, list[dict[str, object]]]:
        """What ``cluster.json`` holds."""
        return {
            "nodes": [
                {
                    "id": node.node_id,
                    "pid": node.pid,
                    "peer": node.peer,
                    "grpc": node.grpc,
                    "kafka": node.kafka,
                    "admin": node.admin,
                }
                for node in self.nodes.values()
            ]
        }

    def _node(self, node_id: int) -> LocalNode:
        try:
            return self.nodes[node_id]
        except KeyError:
            raise ValueError(f"there is no node {node_id}; this cluster has {sorted(self.nodes)}") from None

    async def _all_ready(self) -> None:
        failure: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for node in self.nodes.values():
                    group.create_task(node.ready(self._ready_timeout_s))
        except* LocalClusterError as errors:
            failure = errors.exceptions[0]  # raised below: here, Python 3.11.2 would put it into a group again
        if failure is not None:
            raise failure from None

    def _layout(self, data_dir: Path) -> dict[int, LocalNode]:
        ids = range(1, self._count + 1)
        if self._base_port is None:
            found = free_ports(len(_DOORS) * self._count)
            ports = {n: found[len(_DOORS) * (n - 1) : len(_DOORS) * n] for n in ids}
        else:
            ports = {n: [self._base_port + span + n for span in _DOORS] for n in ids}
        voters = ",".join(f"{n}={HOST}:{ports[n][0]}" for n in ids)
        settings = {**({"voters": voters} if self._count > 1 else {}), **self._settings}
        return {n: self._node_of(n, data_dir, ports[n], settings) for n in ids}

    def _node_of(self, node_id: int, data_dir: Path, ports: Sequence[int], more: Mapping[str, object]) -> LocalNode:
        peer, grpc, kafka, admin = (f"{HOST}:{port}" for port in ports)
        settings = {
            "node-id": node_id,
            "data-dir": data_dir / f"node-{node_id}",
            "peer-listen": peer,
            "grpc-listen": grpc,
            "kafka-listen": kafka,
            "admin-listen": admin,
            **more,
        }
        return LocalNode(
            node_id=node_id,
            data_dir=data_dir / f"node-{node_id}",
            peer=peer,
            grpc=grpc,
            kafka=kafka,
            admin=admin,
            flags=tuple(f"--{name}={value}" for name, value in settings.items()),
            environ=self._node_environ(self.python),
            python=str(self.python or sys.executable),
        )

    def _node_environ(self, python: Path | str | None) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAFTLOG_")}
        if python is not None:
            inherited.pop("PYTHONPATH", None)
            return {**inherited, "PYTHONSAFEPATH": "1", **self._environ}
        # The nodes run the code that this process runs, installed or not.
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [package, inherited.get("PYTHONPATH", "")]))
        return {**inherited, "PYTHONPATH": path, **self._environ}
