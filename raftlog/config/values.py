"""The two kinds of text that settings are written in beside numbers and words: addresses and sizes."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<host>[^\s:\[\]/,=]+)):(?P<port>[0-9]{1,5})")
_SIZE = re.compile(r"(?P<number>[0-9]{1,19})\s*(?P<unit>[KMGT]i?B?|B)?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

ANY_HOSTS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - told apart, not bound to
"""Hosts that one can listen on but nobody can connect to."""


def split_address(text: str) -> tuple[str, int]:
    """``host:port`` (``[host]:port`` for IPv6) as host without brackets, and port from 0 to 65,535.

    Raises:
        ValueError: it is neither; the message says what is allowed.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > 65_535:
        raise ValueError("an address is HOST:PORT (or [HOST]:PORT for IPv6) with a port from 0 to 65535")
    return match["six"] or match["host"], int(match["port"])


def join_address(host: str, port: int) -> str:
    """The inverse of ``split_address``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_voters(value: object) -> dict[int, str]:
    """``1=H:P,2=H:P`` (or the table of a TOML file) as node id → address.

    Raises:
        ValueError: a piece is malformed, an id or an address is listed twice, or an address has no port to connect to.
    """
    voters: dict[int, str] = {}
    for name, address in _voter_items(value):
        if not name.isdecimal() or int(name) < 1:
            raise ValueError(f"{name!r} is not a node id; write 1=HOST:PORT,2=HOST:PORT,3=HOST:PORT with ids from 1")
        host, port = split_address(address)
        if port == 0 or host in ANY_HOSTS:
            raise ValueError(f"voter {name} has the address {address}, to which nobody can connect; name a host and a port")
        if int(name) in voters:
            raise ValueError(f"node {int(name)} is listed twice")
        if address in voters.values():
            raise ValueError(f"the address {address} is listed twice")
        voters[int(name)] = address
    return voters


def _voter_items(value: object) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [(str(name), str(address)) for name, address in value.items()]
    if not isinstance(value, str):
        raise ValueError("write 1=HOST:PORT,2=HOST:PORT,3=HOST:PORT")
    items = []
    for piece in filter(None, (piece.strip() for piece in value.split(","))):
        name, equals, address = piece.partition("=")
        if not equals:
            raise ValueError(f"{piece!r} is not ID=HOST:PORT; write 1=HOST:PORT,2=HOST:PORT,3=HOST:PORT")
        items.append((name.strip(), address.strip()))
    return items


def parse_addresses(value: object) -> tuple[str, ...]:
    """``H:P`` or ``H:P,H:P`` (or the array of a TOML file), each once, in order.

    Raises:
        ValueError: a piece is no address, or nobody can connect to it.
    """
    pieces = [str(piece) for piece in value] if isinstance(value, list | tuple) else str(value).split(",")
    addresses: dict[str, None] = {}
    for address in filter(None, (piece.strip() for piece in pieces)):
        host, port = split_address(address)
        if port == 0 or host in ANY_HOSTS:
            raise ValueError(f"nobody can connect to {address}; name a host and a port")
        addresses[address] = None
    return tuple(addresses)


DEFAULT_LISTENER = "default"
"""Name of a listener that was given without one."""
_LISTENER_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}", re.ASCII)


def parse_listeners(value: object) -> dict[str, str]:
    """``H:P`` or ``NAME=H:P,NAME2=H:P`` (or the table of a TOML file) as name → address; nothing where it is empty.

    Raises:
        ValueError: a piece is malformed, or a name or an address is given twice.
    """
    pieces = value.items() if isinstance(value, dict) else _listener_items(str(value))
    listeners: dict[str, str] = {}
    for name, address in pieces:
        split_address(str(address))
        if not _LISTENER_NAME.fullmatch(str(name)):
            raise ValueError(f"{name!r} is no name of a listener; use letters, digits, '_' and '-'")
        if name in listeners:
            raise ValueError(f"the listener {name} is given twice; give each a name of its own: NAME=HOST:PORT")
        if address in listeners.values() and not str(address).endswith(":0"):
            raise ValueError(f"the address {address} is given twice")
        listeners[str(name)] = str(address)
    return listeners


def _listener_items(text: str) -> list[tuple[str, str]]:
    items = []
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, address = piece.partition("=")
        items.append((name.strip(), address.strip()) if equals else (DEFAULT_LISTENER, piece))
    return items


def parse_size(value: object) -> int:
    """A number of bytes: an integer, or one with KiB, MiB, GiB or TiB behind it (K, KB and so on mean the same).

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a size is a whole number of bytes, or one with KiB, MiB, GiB or TiB behind it")
    unit = (match["unit"] or "").upper().rstrip("B").rstrip("I")
    return int(match["number"]) * _UNITS[unit]
