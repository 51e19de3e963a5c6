"""A simulated TCP network: what ``create_server`` and ``create_connection`` of the virtual loop reach.

Theory of operation. A connection is two *streams*, one for each direction. Bytes that a transport writes enter the network up to
``SOCKET_BYTES``; the rest waits in the transport's buffer, which is what ``pause_writing`` is about. What entered arrives after
a delay drawn from the seed, in order; connections are independent of each other. While a way between two hosts is blocked,
what should arrive is held, as TCP would send it again, and arrives when the way is open: unless an end has given up meanwhile.

Rules:

1. Within a connection nothing is lost, doubled, changed or out of order before its end, as TCP promises.
2. A killed process's connections are reset by its host. A host without power says nothing; who writes to it later is reset.
3. A reset that meets a blocked way is lost: the other end stays half-open until it writes, or gives up by itself.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, cast

from tests.simulation.loop import PROCESS, Process, VirtualLoop

SOCKET_BYTES = 256 * 1024
"""Bytes of a stream inside the network: two sockets' buffers."""
SYN_RETRY_S = 1.0
"""A lost connection attempt is repeated after so long."""
WRITE_HIGH_BYTES = 64 * 1024
TICK_S = 1e-9
"""Between two arrivals of a stream: timers of the same moment ring in any order."""

Chunk = bytes | None
"""Bytes, or None for the end of a stream."""


class Way:
    """How it is to send from one host to another."""

    __slots__ = ("bandwidth", "blocked", "delay_max_s", "delay_min_s", "stalled_until_s")

    def __init__(self) -> None:
        self.delay_min_s = 0.0001
        self.delay_max_s = 0.002
        self.bandwidth = 200e6
        """Bytes a second."""
        self.blocked = False
        self.stalled_until_s = 0.0

    def mend(self) -> None:
        """As at the beginning."""
        self.__init__()  # type: ignore[misc]


class Host:
    """A machine. ``up`` is false while it has no power."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.up = True
        self.listeners: dict[int, Listener] = {}


class _Socket:
    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address

    def getsockname(self) -> tuple[str, int]:
        return self._address


class Listener:
    """What ``create_server`` returns."""

    def __init__(self, host: Host, port: int, factory: Callable[[], asyncio.BaseProtocol], process: Process | None) -> None:
        self.host, self.port, self.factory, self.process = host, port, factory, process
        self.sockets = (_Socket((host.name, port)),)

    def close(self) -> None:
        """Listen no more."""
        if self.host.listeners.get(self.port) is self:
            del self.host.listeners[self.port]


class Network:
    """See the module."""

    def __init__(self, loop: VirtualLoop, rng: Random) -> None:
        self.loop, self.rng = loop, rng
        self.hosts: dict[str, Host] = {}
        self.ways: dict[tuple[str, str], Way] = {}
        self.ends: dict[SimulatedTransport, None] = {}
        """Ends of connections that are open."""

    def host(self, name: str) -> Host:
        """A machine by name."""
        if name not in self.hosts:
            self.hosts[name] = Host(name)
        return self.hosts[name]

    def way(self, sender: str, recipient: str) -> Way:
        """The way between two machines."""
        key = (sender, recipient)
        if key not in self.ways:
            self.ways[key] = Way()
        return self.ways[key]

    # ---- asyncio's side

    def listen(self, factory: Callable[[], asyncio.BaseProtocol], name: str, port: int) -> Listener:
        """See ``loop.create_server``."""
        host, process = self.host(name), PROCESS.get()
        listener = Listener(host, port, factory, process)
        if process is None or not process.dead:
            if port in host.listeners:
                raise OSError(errno.EADDRINUSE, "address in use")
            host.listeners[port] = listener
        return listener

    async def connect(
        self, factory: Callable[[], asyncio.BaseProtocol], name: str, port: int
    ) -> tuple[SimulatedTransport, asyncio.BaseProtocol]:
        """See ``loop.create_connection``. A blocked way, or no power there, is waited for: the caller has a time limit."""
        process = PROCESS.get()
        assert process is not None, "only processes connect"
        source, target = process.name, self.host(name)
        out, back = self.way(source, name), self.way(name, source)
        while True:
            await asyncio.sleep(self.delay_s(out) + self.delay_s(back))
            if not out.blocked and not back.blocked and target.up:
                break
            await asyncio.sleep(SYN_RETRY_S)
        listener = target.listeners.get(port)
        if listener is None:
            raise ConnectionRefusedError(111, f"{name}:{port} refused the connection")
        here, there = SimulatedTransport(self, source, name, process), SimulatedTransport(self, name, source, listener.process)
        here.peer, there.peer = there, here
        self.loop.call_soon(there.accepted, listener.factory, context=_context(listener.process))
        protocol = factory()
        here.begin(protocol)
        return here, protocol

    # ---- faults

    def block(self, sender: str, recipient: str) -> None:
        """Let nothing through in this direction."""
        self.way(sender, recipient).blocked = True

    def open(self, sender: str, recipient: str) -> None:
        """End all that is wrong in this direction: what was held arrives, as TCP sends it again within a second."""
        self.way(sender, recipient).mend()
        for end in list(self.ends):
            if end.host == sender and end.remote == recipient:
                end.release(self.rng.uniform(0.05, 1.0))

    def open_all(self) -> None:
        """A healthy network."""
        for sender, recipient in list(self.ways):
            self.open(sender, recipient)

    def stall(self, sender: str, recipient: str, seconds: float) -> None:
        """Nothing arrives for a while."""
        self.way(sender, recipient).stalled_until_s = self.loop.now_s + seconds

    def reset(self, one: str, other: str) -> int:
        """Break the connections between two machines, both ends at once; how many there were."""
        broken = [end for end in self.ends if {end.host, end.remote} == {one, other}]
        for end in broken:
            end.call(end.reset)
        return len(broken)

    def half_open(self, one: str, other: str) -> int:
        """Swallow all that the connections between two machines carry, silently; new ones work."""
        swallowed = [end for end in self.ends if {end.host, end.remote} == {one, other}]
        for end in swallowed:
            end.swallowed = True
        return len(swallowed)

    def died(self, process: Process, *, power: bool) -> None:
        """A process is gone, and with ``power`` its whole machine."""
        for listener in list(self.host(process.name).listeners.values()):
            if listener.process is process:
                listener.close()
        for end in [end for end in self.ends if end.process is process]:
            end.died(silent=power)

    def at(self, moment_s: float, callback: Callable[..., None], *args: Any) -> None:
        """Have the network itself do something, whoever asked for it."""
        self.loop.schedule(moment_s, callback, *args)

    def delay_s(self, way: Way) -> float:
        """How long the next packet takes; one in a hundred takes much longer."""
        chance = self.rng.random()
        if chance < 0.01:
            return way.delay_max_s * (5 + 1_000 * chance)
        return way.delay_min_s + (way.delay_max_s - way.delay_min_s) * chance * chance


def _context(process: Process | None) -> Any:
    return None if process is None else process.context


class SimulatedTransport:
    """One end of a connection, and the stream that leaves it."""

    def __init__(self, network: Network, host: str, remote: str, process: Process | None) -> None:
        self.network, self.host, self.remote, self.process = network, host, remote, process
        self.peer: SimulatedTransport
        self.protocol: asyncio.BufferedProtocol | None = None
        self.closed = False
        """This end has let go: nothing is read or written."""
        self.swallowed = False
        self._way = network.way(host, remote)
        self._closing = False
        self._paused = False
        self._high, self._low = WRITE_HIGH_BYTES, WRITE_HIGH_BYTES // 4
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._flying_bytes = 0
        self._held: deque[Chunk] = deque()
        self._arrival_s = 0.0

    # ---- asyncio's side

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See ``asyncio``."""
        return (self.remote, 7_000) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See ``asyncio``."""
        self._high = WRITE_HIGH_BYTES if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        """See ``asyncio``."""
        return self._waiting_bytes

    def is_closing(self) -> bool:
        """See ``asyncio``."""
        return self._closing or self.closed

    def write(self, data: bytes | memoryview) -> None:
        """See ``asyncio``."""
        if self.closed or self._closing or not data or (self.process is not None and self.process.dead):
            return
        if self._waiting or self._flying_bytes >= SOCKET_BYTES:
            self._waiting.append(bytes(data))
            self._waiting_bytes += len(data)
            if self._waiting_bytes > self._high and not self._paused:
                self._paused = True
                assert self.protocol is not None
                self.protocol.pause_writing()
        else:
            self._launch(bytes(data))

    def close(self) -> None:
        """See ``asyncio``: flush, then end."""
        if self.closed or self._closing:
            return
        self._closing = True
        if not self._waiting:
            self._finish()

    def abort(self) -> None:
        """See ``asyncio``."""
        if not self.closed:
            self._send_reset()
            self._let_go(None)

    # ---- the life of a connection

    def begin(self, protocol: asyncio.BaseProtocol) -> None:
        """The connection is made."""
        self.protocol = cast(asyncio.BufferedProtocol, protocol)
        self.network.ends[self] = None
        protocol.connection_made(cast(asyncio.BaseTransport, self))

    def accepted(self, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        """The listening end."""
        if not self.closed:
            self.begin(factory())

    def call(self, method: Callable[..., None], *args: Any) -> None:
        """Have the end's process do something; a paused one does it later, a dead one never."""
        self.network.loop.call_soon(method, *args, context=_context(self.process))

    def died(self, *, silent: bool) -> None:
        """The process behind this end is gone."""
        if not silent and not self.closed:
            self._send_reset()
        self.closed = True
        self.network.ends.pop(self, None)

    def reset(self) -> None:
        """The connection is broken."""
        if not self.closed:
            self._let_go(ConnectionResetError(104, "connection reset by peer"))

    def _finish(self) -> None:
        self._launch(None)
        self._let_go(None)

    def _let_go(self, error: Exception | None) -> None:
        self.closed = True
        self._waiting.clear()
        self._waiting_bytes = 0
        self.network.ends.pop(self, None)
        if self.protocol is not None:
            self.call(self.protocol.connection_lost, error)

    # ---- the stream that leaves here

    def _launch(self, chunk: Chunk) -> None:
        size = 0 if chunk is None else len(chunk)
        self._flying_bytes += size
        if self._held:
            self._held.append(chunk)
            return
        network, way = self.network, self._way
        moment = max(self._arrival_s, network.loop.now_s + network.delay_s(way), way.stalled_until_s)
        self._arrival_s = moment = moment + size / way.bandwidth + TICK_S
        network.at(moment, self._arrive, chunk)

    def _arrive(self, chunk: Chunk) -> None:
        """The network brings a chunk to the other end."""
        if self.swallowed:
            return
        if self._way.blocked or self._held:
            self._held.append(chunk)
            return
        if self._way.stalled_until_s > self.network.loop.now_s:
            self._held.append(chunk)
            self.network.at(self._way.stalled_until_s, self.release, 0.0)
            return
        peer = self.peer
        if peer.closed:
            if chunk is not None and self.network.host(peer.host).up:
                peer._send_reset()
            return
        if chunk is None:
            peer.call(peer.end_of_stream)
        else:
            peer.call(peer.feed, chunk)

    def release(self, after_s: float) -> None:
        """The way is open again."""
        if self._held:
            moment = max(self._arrival_s, self.network.loop.now_s + after_s)
            held, self._held = self._held, deque()
            for chunk in held:
                moment += TICK_S
                self.network.at(moment, self._arrive, chunk)
            self._arrival_s = moment

    def _send_reset(self) -> None:
        """Tell the other end that this one is no more; lost where the way is blocked."""
        network, way = self.network, self._way
        if self.swallowed:
            return
        moment = max(self._arrival_s, network.loop.now_s + network.delay_s(way), way.stalled_until_s)
        network.at(moment, self._reset_arrives)

    def _reset_arrives(self) -> None:
        if not self._way.blocked and not self.peer.closed:
            self.peer.call(self.peer.reset)

    def landed(self, size: int) -> None:
        """The other end has read so many bytes: there is room for more."""
        self._flying_bytes -= size
        if self._waiting and not self.closed:
            self.call(self._drain)

    def _drain(self) -> None:
        while self._waiting and self._flying_bytes < SOCKET_BYTES and not self.closed:
            data = self._waiting.popleft()
            self._waiting_bytes -= len(data)
            self._launch(data)
        if self._paused and self._waiting_bytes <= self._low and self.protocol is not None:
            self._paused = False
            self.protocol.resume_writing()
        if self._closing and not self._waiting and not self.closed:
            self._finish()

    # ---- the stream that arrives here

    def feed(self, data: bytes) -> None:
        """Bytes have come."""
        if self.closed or self.protocol is None:
            return
        size = len(data)
        view = memoryview(data)
        while view and not self.closed:
            buffer = memoryview(self.protocol.get_buffer(-1))
            count = min(len(buffer), len(view))
            if self.network.rng.random() < 0.02:
                count = self.network.rng.randint(1, count)  # TCP has no frames
            buffer[:count] = view[:count]
            self.protocol.buffer_updated(count)
            view = view[count:]
        self.peer.landed(size)

    def end_of_stream(self) -> None:
        """The other end has closed in peace."""
        if not self.closed and self.protocol is not None and not self.protocol.eof_received():
            self.close()
