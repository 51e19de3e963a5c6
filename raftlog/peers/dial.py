"""Opening one connection to an address, with TLS or without."""

from __future__ import annotations

import asyncio
from ssl import SSLContext
from typing import Any, Final

from raftlog.peers.address import parse_address
from raftlog.peers.link import CLOSE_FLUSH_S, Link

CONNECT_TIMEOUT_S: Final = 3.0
"""For one attempt to connect, TLS included: a lost SYN is sent again after one second."""


async def dial(link: Link, address: str, client_ssl: SSLContext | None) -> None:
    """Connect ``link`` to ``host:port``.

    Raises:
        OSError, UnicodeError: nobody is reached there in ``CONNECT_TIMEOUT_S`` (UnicodeError: a name no resolver takes).
    """
    host, port = parse_address(address)
    secure: dict[str, Any] = {}
    if client_ssl is not None:
        secure = {
            "ssl": client_ssl,
            "server_hostname": host,
            "ssl_handshake_timeout": CONNECT_TIMEOUT_S,
            "ssl_shutdown_timeout": CLOSE_FLUSH_S,
        }
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await asyncio.get_running_loop().create_connection(lambda: link, host, port, **secure)
    except BaseException:
        link.forsake()
        raise
