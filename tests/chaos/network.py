"""The network between the nodes of one machine: where they listen, and how links between them are cut.

``Proxied`` works everywhere: all nodes on 127.0.0.1, a proxy before each peer port. ``Namespaced`` needs root, ip and iptables:
each node has a network namespace and an address of its own on a bridge, and packets are dropped, as in a real network.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from raftlog.testing.ports import free_ports
from tests.chaos.proxy import PeerProxy, Way, Ways

Cut = Iterable[tuple[int, int]]
"""Directions: (sender, receiver)."""
PEER_PORT, GRPC_PORT, KAFKA_PORT, ADMIN_PORT = 7001, 7101, 7201, 7301
NAMES = "rlchaos"
"""Begins the name of every namespace and bridge that is made here; behind it stands the process id of the maker."""


class ToolError(Exception):
    """A command of the system failed."""


@dataclass(frozen=True, slots=True)
class Place:
    """Addresses of one node, ``host:port``, and what its command begins with."""

    peer_listen: str
    peer: str
    grpc: str
    kafka: str
    admin: str
    prefix: tuple[str, ...] = ()


class Network(Protocol):
    """What a cluster under chaos asks of its network."""

    places: dict[int, Place]

    async def start(self) -> None:
        """Make it."""

    async def cut(self, directions: Cut, way: Way) -> None:
        """Exactly these directions are in this state, all others open."""

    async def close(self) -> None:
        """Leave nothing behind."""


class Proxied:
    """See the module."""

    def __init__(self, nodes: int) -> None:
        ports = iter(free_ports(5 * nodes))
        self._ways = Ways()
        self._proxies = []
        self.places = {}
        for node_id in range(1, nodes + 1):
            listen, front, grpc, kafka, admin = (next(ports) for _ in range(5))
            self._proxies.append(PeerProxy(node_id, front, listen, self._ways))
            self.places[node_id] = Place(
                peer_listen=_local(listen), peer=_local(front), grpc=_local(grpc), kafka=_local(kafka), admin=_local(admin)
            )

    async def start(self) -> None:
        """See ``Network``."""
        for proxy in self._proxies:
            await proxy.start()

    async def cut(self, directions: Cut, way: Way) -> None:
        """See ``Network``."""
        await self._ways.set(directions, way)

    async def close(self) -> None:
        """See ``Network``."""
        for proxy in self._proxies:
            await proxy.close()


class Namespaced:
    """See the module. The addresses are 10.213.x.n, with x of this process; the clients are on the bridge, at .254."""

    def __init__(self, nodes: int) -> None:
        own = os.getpid()
        self._bridge = f"{NAMES}{own}"
        self._net = f"10.213.{own % 256}"
        self._names = {node_id: f"{NAMES}-{own}-{node_id}" for node_id in range(1, nodes + 1)}
        self.places = {}
        for node_id, name in self._names.items():
            ports = (PEER_PORT, GRPC_PORT, KAFKA_PORT, ADMIN_PORT)
            peer, grpc, kafka, admin = (f"{self._net}.{node_id}:{port}" for port in ports)
            self.places[node_id] = Place(peer, peer, grpc, kafka, admin, prefix=("ip", "netns", "exec", name))

    @staticmethod
    def possible() -> bool:
        """Whether this process may make such networks."""
        return os.geteuid() == 0 and all(shutil.which(tool) for tool in ("ip", "iptables"))

    async def start(self) -> None:
        """See ``Network``."""
        await remove_leftovers()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.close)
            await _run("ip", "link", "add", self._bridge, "type", "bridge")
            await _run("ip", "addr", "add", f"{self._net}.254/24", "dev", self._bridge)
            await _run("ip", "link", "set", self._bridge, "up")
            for node_id, name in self._names.items():
                await self._add(node_id, name)
            stack.pop_all()

    async def cut(self, directions: Cut, way: Way) -> None:
        """See ``Network``: whatever arrives from the sender is dropped, or answered with a reset."""
        wanted: dict[int, list[int]] = {node_id: [] for node_id in self._names}
        for sender, receiver in directions:
            wanted[receiver].append(sender)
        target = ["REJECT", "--reject-with", "tcp-reset"] if way is Way.RESET else ["DROP"]
        for receiver, senders in wanted.items():
            rule = ["ip", "netns", "exec", self._names[receiver], "iptables"]
            await _run(*rule, "-F", "INPUT")
            for sender in [] if way is Way.OPEN else senders:
                await _run(*rule, "-A", "INPUT", "-p", "tcp", "-s", f"{self._net}.{sender}", "-j", *target)

    async def close(self) -> None:
        """See ``Network``."""
        for node_id, name in self._names.items():
            # By itself it would go with its namespace, which sockets that send again and again keep for a minute.
            await _run("ip", "link", "del", self._outside(node_id), check=False)
            await _run("ip", "netns", "del", name, check=False)
        await _run("ip", "link", "del", self._bridge, check=False)

    async def _add(self, node_id: int, name: str) -> None:
        outside = self._outside(node_id)
        await _run("ip", "netns", "add", name)
        await _run("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
        await _run("ip", "link", "set", outside, "master", self._bridge, "up")
        inside = ("ip", "-n", name)
        await _run(*inside, "link", "set", "lo", "up")
        await _run(*inside, "addr", "add", f"{self._net}.{node_id}/24", "dev", "eth0")
        await _run(*inside, "link", "set", "eth0", "up")

    def _outside(self, node_id: int) -> str:
        return f"rl{os.getpid()}v{node_id}"


async def remove_leftovers() -> None:
    """Remove the namespaces and bridges of processes that are gone: one that was killed could not."""
    for line in (await _run("ip", "netns", "list")).splitlines():
        name = line.split()[0] if line.split() else ""
        if name.startswith(f"{NAMES}-") and not _runs(name.split("-")[1]):
            await _run("ip", "netns", "del", name, check=False)
    for line in (await _run("ip", "-o", "link", "show", "type", "bridge")).splitlines():
        name = line.split(": ")[1]
        if name.startswith(NAMES) and not _runs(name.removeprefix(NAMES)):
            await _run("ip", "link", "del", name, check=False)


def _local(port: int) -> str:
    return f"127.0.0.1:{port}"


def _runs(process_id: str) -> bool:
    return Path(f"/proc/{process_id}").exists()


async def _run(*command: str, check: bool = True) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    out, err = await process.communicate()
    if check and process.returncode:
        raise ToolError(f"{' '.join(command)} ended with {process.returncode}: {err.decode().strip()}")
    return out.decode()
