"""Free ports on 127.0.0.1 for processes that start a moment later."""

from __future__ import annotations

import os
import socket

# Below the range that Linux gives to outgoing connections (from 32,768), so that none of those takes a port in the moment
# between the look and the node's own bind, or while a node is down between kill and restart.
_LOW, _HIGH = 15_000, 32_000
_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """``count`` ports that nobody listens on, each given once by this process.

    Raises:
        OSError: there are not that many.
    """
    ports: list[int] = []
    # Processes begin their search apart, so that test runs side by side do not meet.
    start = os.getpid() * 89
    for step in range(_HIGH - _LOW):
        port = _LOW + (start + step) % (_HIGH - _LOW)
        if port not in _given and is_free(port):
            ports.append(port)
            if len(ports) == count:
                _given.update(ports)
                return ports
    raise OSError(f"there are no {count} free ports on 127.0.0.1 from {_LOW} to {_HIGH}")


def is_free(port: int) -> bool:
    """Whether a server could bind this port of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
