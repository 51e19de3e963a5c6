"""One gRPC channel for each node address, opened when it is first needed and closed with the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import grpc.aio

from raftlog.errors import InvalidRequestError
from raftlog.pb.raftlog.v1.cluster_service_pb2_grpc import ClusterServiceStub
from raftlog.pb.raftlog.v1.group_service_pb2_grpc import GroupServiceStub
from raftlog.pb.raftlog.v1.log_service_pb2_grpc import LogServiceStub
from raftlog.pb.raftlog.v1.topic_service_pb2_grpc import TopicServiceStub

if TYPE_CHECKING:  # these exist for the type checker only
    from raftlog.pb.raftlog.v1.cluster_service_pb2_grpc import ClusterServiceAsyncStub
    from raftlog.pb.raftlog.v1.group_service_pb2_grpc import GroupServiceAsyncStub
    from raftlog.pb.raftlog.v1.log_service_pb2_grpc import LogServiceAsyncStub
    from raftlog.pb.raftlog.v1.topic_service_pb2_grpc import TopicServiceAsyncStub

MESSAGE_BYTES_MAX = 128 * 1024 * 1024
"""Most bytes of one answer: a batch comes whole, however big its topic allowed it to be."""

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # gRPC waits a second, then up to two minutes, before it dials a lost node again. A restarted node is back sooner, and may
    # lead at once, when the next one is restarted: then every wait is a pause of a publisher.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 250),
    # A follower of an idle topic has nothing to send: without pings it would never learn that its peer is gone.
    # A node takes a ping every five seconds.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Connections belong to one client and end with it.
    ("grpc.use_local_subchannel_pool", 1),
]


class Node:
    """The stubs of one address."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None, client_id: str) -> None:
        self.address = address
        options: list[tuple[str, int | str]] = [*_OPTIONS, ("grpc.primary_user_agent", client_id)]
        if credentials is None:
            self.channel = grpc.aio.insecure_channel(address, options=options)
        else:
            self.channel = grpc.aio.secure_channel(address, credentials, options=options)
        self.log: LogServiceAsyncStub = LogServiceStub(self.channel)
        self.topics: TopicServiceAsyncStub = TopicServiceStub(self.channel)
        self.cluster: ClusterServiceAsyncStub = ClusterServiceStub(self.channel)
        self.groups: GroupServiceAsyncStub = GroupServiceStub(self.channel)


class Connections:
    """All nodes this client has spoken with."""

    def __init__(self, credentials: grpc.ChannelCredentials | None, *, client_id: str) -> None:
        self._client_id = client_id
        self._credentials = credentials
        self._nodes: dict[str, Node] = {}
        self._closed = False

    def node(self, address: str) -> Node:
        """The stubs of ``address``; no connection is made before the first call.

        Raises:
            InvalidRequestError: the client is closed.
        """
        node = self._nodes.get(address)
        if node is None:
            if self._closed:
                raise InvalidRequestError("the client is closed; use it inside its 'async with'")
            node = self._nodes[address] = Node(address, self._credentials, self._client_id)
        return node

    async def close(self) -> None:
        """Close all channels; calls in flight are cancelled."""
        self._closed = True
        nodes, self._nodes = list(self._nodes.values()), {}
        for node in nodes:
            await node.channel.close()


def tls_credentials(*, ca_file: str | None, cert_file: str | None = None, key_file: str | None = None) -> grpc.ChannelCredentials:
    """Credentials from PEM files: the authority that signed the nodes, and for mutual TLS our own certificate and key.

    Without ``ca_file`` the authorities that gRPC brings along are trusted.

    Raises:
        InvalidRequestError: a file cannot be read, or only one of certificate and key is given.
    """
    if (cert_file is None) != (key_file is None):
        raise InvalidRequestError("tls_cert_file and tls_key_file go together; give both or neither")

    def read(path: str | None) -> bytes | None:
        if path is None:
            return None
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise InvalidRequestError(f"cannot read {path}: {error.strerror}; check the tls_… options") from error

    return grpc.ssl_channel_credentials(read(ca_file), read(key_file), read(cert_file))
