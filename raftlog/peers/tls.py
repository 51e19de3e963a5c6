"""TLS between nodes with mutual authentication: both ends show a certificate of the cluster's CA."""

from __future__ import annotations

import ssl
from pathlib import Path

from raftlog.errors import ConfigError


def server_context(*, cert: Path, key: Path, ca: Path) -> ssl.SSLContext:
    """For accepted connections: shows ``cert`` and demands a certificate that ``ca`` signed. All files are PEM.

    Raises:
        ConfigError: a file is missing, unreadable or broken; names it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    return _load(context, cert, key, ca)


def client_context(*, cert: Path, key: Path, ca: Path, check_hostname: bool = True) -> ssl.SSLContext:
    """For dialled connections: shows ``cert`` and demands one that ``ca`` signed.

    With ``check_hostname`` the peer's certificate must name the host or IP address that was dialled (RFC 9525); without it,
    any certificate of the CA will do, as fits a CA that serves this cluster only.

    Raises:
        ConfigError: a file is missing, unreadable or broken; names it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = check_hostname
    return _load(context, cert, key, ca)


def _load(context: ssl.SSLContext, cert: Path, key: Path, ca: Path) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3  # both ends are raftlog: nothing older need be spoken
    for name, path in (("certificate", cert), ("key", key), ("CA", ca)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigError(f"cannot read the peer TLS {name} file {path}: {error.strerror}") from error
    try:
        # The password callback keeps OpenSSL from asking on the terminal.
        context.load_cert_chain(cert, key, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"peer TLS certificate {cert} and key {key} are no matching pair of unencrypted PEM files: {error}"
        ) from error
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise ConfigError(f"peer TLS CA file {ca} holds no PEM certificate: {error}") from error
    return context
