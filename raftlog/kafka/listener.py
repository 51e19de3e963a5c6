"""The Kafka door: listens, keeps the connections, and ends in order.

One sweep over all connections every ``SWEEP_S`` closes those that are idle or stuck: a thousand that say nothing cost nothing
in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
from collections.abc import Mapping
from typing import Final

from raftlog.broker.group_port import GroupBroker
from raftlog.broker.move_port import MoveBroker
from raftlog.broker.port import Broker
from raftlog.core.clock import Clock
from raftlog.core.tasks import TaskScope
from raftlog.errors import AddressInUseError, ConfigError
from raftlog.kafka import codec
from raftlog.kafka.budget import ANSWER_BYTES_HELD_MAX, REQUEST_BYTES_HELD_MAX, AnswerBudget, ReceiveBudget
from raftlog.kafka.connection import Connection, Dispatch
from raftlog.kafka.dispatch import Dispatcher
from raftlog.kafka.handlers.call import Door
from raftlog.kafka.handlers.refused import RefusedBatches
from raftlog.kafka.handlers.topic_cache import TopicCache
from raftlog.kafka.port import KafkaMetrics, KafkaOptions, NoMetrics

_log = logging.getLogger(__name__)

SWEEP_S: Final = 5.0
"""How often connections are looked at; the bounds on their times are as exact as this."""
BACKLOG: Final = 1_024
"""Connections that wait to be accepted: those of a whole fleet that comes back at once."""


class KafkaListener:
    """One node's Kafka door: ``bind``, ``start``, ``stop``, in this order, on the event loop."""

    def __init__(self, options: KafkaOptions, *, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._dispatch: Dispatch
        self._metrics: KafkaMetrics = NoMetrics()
        self._budget = ReceiveBudget(REQUEST_BYTES_HELD_MAX)
        self._answers = AnswerBudget(ANSWER_BYTES_HELD_MAX)
        self._connections: set[Connection] = set()
        self._servers: dict[str, asyncio.Server] = {}
        self._scope = TaskScope(lambda _: None)
        self._empty = asyncio.Event()
        self._empty.set()
        self._stopping = False

    @property
    def ports(self) -> Mapping[str, int]:
        """Listener name → the port that is really listened on, once started."""
        return {name: server.sockets[0].getsockname()[1] for name, server in self._servers.items()}

    async def bind(self) -> None:
        """Bind all listeners, and make ready; nothing is accepted before ``start``.

        Raises:
            AddressInUseError: another process listens there.
            ConfigError: the address cannot be listened on.
        """
        if self._options.listen:
            codec.prepare()
        loop = asyncio.get_running_loop()
        for name, (host, port) in self._options.listen.items():
            try:
                self._servers[name] = await loop.create_server(
                    functools.partial(self._connection, name), host, port, backlog=BACKLOG, start_serving=False
                )
            except OSError as error:
                await self.stop(0.0)
                raise _bind_error(host, port, error) from error

    async def start(
        self, broker: Broker, *, groups: GroupBroker | None, moves: MoveBroker, metrics: KafkaMetrics | None = None
    ) -> None:
        """Accept connections, and answer them out of ``broker``; without ``groups`` their APIs are not there.

        Raises:
            AddressInUseError: another process was faster.
        """
        self._metrics = metrics if metrics is not None else self._metrics
        door = Door(
            broker=broker,
            groups=groups,
            moves=moves,
            options=self._options,
            metrics=self._metrics,
            topics=TopicCache(),
            answers=self._answers,
            refused=RefusedBatches(asyncio.get_running_loop().time),
        )
        self._dispatch = Dispatcher(door)
        for name, server in self._servers.items():
            try:
                await server.start_serving()
            except OSError as error:  # two may bind a port that nobody listens on yet
                raise _bind_error(*self._options.listen[name], error) from error
        if self._servers:
            self._scope.start(self._sweep(), name="kafka-sweep")

    async def stop(self, grace_s: float) -> None:
        """Accept nothing more, answer what is under way for up to ``grace_s``, end what waits; then close all. Idempotent."""
        self._stopping = True
        for server in self._servers.values():
            server.close()
        for connection in list(self._connections):
            connection.drain()
        if grace_s:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._empty.wait()
        for connection in list(self._connections):
            connection.abort()
        await self._scope.close()

    def _connection(self, name: str) -> Connection:
        return Connection(
            name, dispatch=self._dispatch, scope=self._scope, budget=self._budget, answers=self._answers, metrics=self._metrics,
            clock=self._clock, accept=self._accept, gone=self._gone,
        )  # fmt: skip

    def _accept(self, connection: Connection) -> bool:
        if self._stopping or len(self._connections) >= self._options.connections_max:
            _log.warning("kafka connection from %s refused: there are %d", connection.client_host, len(self._connections))
            return False
        self._connections.add(connection)
        self._empty.clear()
        self._metrics.connections(1)
        return True

    def _gone(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self._metrics.connections(-1)
        if not self._connections:
            self._empty.set()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        idle_s_max = self._options.idle_ms_max / 1_000
        while True:
            await asyncio.sleep(min(SWEEP_S, idle_s_max))
            now_s = loop.time()
            for connection in list(self._connections):
                connection.sweep(now_s, idle_s_max)


def _bind_error(host: str, port: int, error: OSError) -> AddressInUseError | ConfigError:
    if error.errno == errno.EADDRINUSE:
        return AddressInUseError(
            f"cannot listen on {host}:{port} for Kafka: the port is in use; stop its owner, or choose another"
        )
    return ConfigError(
        f"cannot listen on {host}:{port} for Kafka: {error.strerror or error}; give an address of this machine"
    )  # fmt: skip
