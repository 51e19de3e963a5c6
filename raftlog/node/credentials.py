"""TLS for a node's doors, from the paths in its configuration."""

from __future__ import annotations

from pathlib import Path
from ssl import SSLContext

import grpc

from raftlog.config.node import NodeConfig
from raftlog.errors import ConfigError
from raftlog.peers import tls


def peer_contexts(config: NodeConfig) -> tuple[SSLContext | None, SSLContext | None]:
    """Contexts for accepted and for dialled links; None without TLS.

    Raises:
        ConfigError: a file is missing or broken.
    """
    cert, key, ca = config.peer_tls_cert, config.peer_tls_key, config.peer_tls_ca
    if cert is None or key is None or ca is None:
        return None, None
    return tls.server_context(cert=cert, key=key, ca=ca), tls.client_context(cert=cert, key=key, ca=ca)


def gateway_credentials(config: NodeConfig) -> grpc.ServerCredentials | None:
    """Credentials of the gRPC door; with a CA, clients must show a certificate that it signed.

    Raises:
        ConfigError: a file cannot be read.
    """
    if config.grpc_tls_cert is None or config.grpc_tls_key is None:
        return None
    pair = (_read(config.grpc_tls_key), _read(config.grpc_tls_cert))
    ca = _read(config.grpc_tls_ca) if config.grpc_tls_ca else None
    return grpc.ssl_server_credentials([pair], root_certificates=ca, require_client_auth=ca is not None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
