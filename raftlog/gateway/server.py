"""The gRPC server: listening, limits, health, reflection, and an orderly end.

The port is bound by ``start`` and by this process alone: gRPC's default, SO_REUSEPORT, would let a second node share it in
silence. Stopping tells the health service first, ends the long calls with SHUTTING_DOWN once what they have in flight is
answered, refuses new ones in the same way, and gives the rest ``grace_s`` seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from dataclasses import dataclass
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from raftlog.broker.group_port import GroupBroker
from raftlog.broker.move_port import MoveBroker
from raftlog.broker.port import Broker
from raftlog.core.clock import Clock
from raftlog.errors import AddressInUseError, ConfigError
from raftlog.gateway.cluster_service import ClusterService
from raftlog.gateway.group_service import GroupService
from raftlog.gateway.log_service import LogService
from raftlog.gateway.port import DescribeConfigs, GatewayMetrics, NoMetrics, describe_set_configs
from raftlog.gateway.requests import MIB
from raftlog.gateway.rpc import Handlers
from raftlog.gateway.topic_service import TopicService

MESSAGE_BYTES_MAX: Final = 64 * MIB
"""Largest message that any configuration may allow: it is copied three times on its way in."""
SEND_BYTES_MAX: Final = 2 * MESSAGE_BYTES_MAX
"""Answers are bounded by their own limits; this one only stands above them all."""
CALLS_MAX: Final = 10_000
"""Calls at the same time, streams included; more are refused with RESOURCE_EXHAUSTED."""
CONNECTION_STREAMS_MAX: Final = 1_000
"""Calls at the same time on one connection; a client beyond it waits."""
KEEPALIVE_TIME_MS: Final = 30_000
KEEPALIVE_TIMEOUT_MS: Final = 20_000
"""A silent client is asked for a sign of life after the first, and given up after the second."""
CLIENT_PING_INTERVAL_MS_MIN: Final = 5_000
"""A client may ask us as often as this, also without a call."""
FLUSH_S: Final = 0.2
"""For answers whose handlers have returned to leave the process. Watchers of the health service, which never end by themselves,
wait no longer than this."""

SERVICES: Final = ("raftlog.v1.LogService", "raftlog.v1.TopicService", "raftlog.v1.ClusterService", "raftlog.v1.GroupService")
_REFLECTED: Final = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """What a node may choose. Port 0 takes a free one; without credentials (TLS) the door is plain text."""

    host: str = "127.0.0.1"
    port: int = 0
    receive_bytes_max: int = MESSAGE_BYTES_MAX
    calls_max: int = CALLS_MAX
    credentials: grpc.ServerCredentials | None = None

    def __post_init__(self) -> None:
        if not 0 < self.receive_bytes_max <= MESSAGE_BYTES_MAX:
            raise ConfigError(f"a gRPC message may have 1 to {MESSAGE_BYTES_MAX} bytes, not {self.receive_bytes_max}")


class Gateway:
    """The gRPC door of one node. ``start`` once, ``stop`` once, both on the event loop."""

    def __init__(
        self,
        broker: Broker,
        groups: GroupBroker,
        moves: MoveBroker,
        *,
        options: GatewayOptions,
        clock: Clock,
        metrics: GatewayMetrics | None = None,
        describe_configs: DescribeConfigs = describe_set_configs,
    ) -> None:
        self._options = options
        self._stopping = asyncio.Event()
        metrics = metrics if metrics is not None else NoMetrics()
        self._make = Handlers(metrics, self._stopping)
        self._services: dict[str, LogService | TopicService | ClusterService | GroupService] = {
            "raftlog.v1.LogService": LogService(broker, clock, metrics, self._stopping),
            "raftlog.v1.TopicService": TopicService(broker, describe_configs),
            "raftlog.v1.ClusterService": ClusterService(broker, moves),
            "raftlog.v1.GroupService": GroupService(broker, groups, self._stopping),
        }
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._port = 0

    @property
    def address(self) -> str:
        """``host:port`` that is listened on, once started."""
        host = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
        return f"{host}:{self._port}"

    async def start(self) -> None:
        """Bind and serve; health says NOT_SERVING until ``set_serving``.

        Raises:
            AddressInUseError: another process listens there.
            ConfigError: the address cannot be listened on.
        """
        await self.set_serving(False)
        server = grpc.aio.server(options=_channel_options(self._options), maximum_concurrent_rpcs=self._options.calls_max)
        for name, service in self._services.items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, service.handlers(self._make)),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(_REFLECTED, server)
        self._port = self._bind(server)
        self._server = server
        await server.start()

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, end the long ones, wait up to ``grace_s`` for all; then cancel what is left."""
        server, self._server = self._server, None
        if server is None:
            return
        await self.set_serving(False)
        self._stopping.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._make.wait_until_idle()
        # Called once: a second call beside the first would use the server that the first has destroyed, and crash the process.
        await server.stop(FLUSH_S if grace_s else None)

    async def set_serving(self, serving: bool) -> None:
        """What the health service answers, for the node (the empty name) and each of our services."""
        serving_status = health_pb2.HealthCheckResponse
        status = serving_status.SERVING if serving else serving_status.NOT_SERVING
        for name in ("", *SERVICES):
            await self._health.set(name, status)

    def _bind(self, server: grpc.aio.Server) -> int:
        host, port = self._options.host, self._options.port
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._options.credentials is not None:
                return server.add_secure_port(target, self._options.credentials)
            return server.add_insecure_port(target)
        except RuntimeError as error:
            raise _bind_error(host, port) from error


def _bind_error(host: str, port: int) -> AddressInUseError | ConfigError:
    """gRPC does not say why it could not bind; the operating system does."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return ConfigError(f"cannot listen on {host}:{port} for gRPC: {error.strerror}; give an address of this machine")
    return AddressInUseError(f"cannot listen on {host}:{port} for gRPC: the port is in use; stop its owner, or choose another")


def _channel_options(options: GatewayOptions) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", options.receive_bytes_max),
        ("grpc.max_send_message_length", SEND_BYTES_MAX),
        ("grpc.max_concurrent_streams", CONNECTION_STREAMS_MAX),
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", CLIENT_PING_INTERVAL_MS_MIN),
    ]
