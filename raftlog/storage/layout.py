"""How keys, row values and the environment's own facts are laid out in LMDB; pure.

Three named databases::

    entries   group u64 · index u64                 → the encoded entry (raftlog.core.entry, which checks itself)
    rows      group u64 · table u8 · key bytes      → CRC32C u32 over key and value · value bytes
    meta      b"format"                             → u32
              b"condemned" · group u64              → index u64 · whole u8 (see raftlog.storage.transaction)

Numbers are big endian, so LMDB's order of bytes is the order of numbers and one range is one log.
"""

from __future__ import annotations

import struct

from crc32c import crc32c

from raftlog.errors import DataLossError, NewerFormatError

FORMAT = 1
"""Version of this layout; an environment with a higher one is refused."""
FORMAT_KEY = b"format"
CONDEMNED_PREFIX = b"condemned"
INDEX_MAX = (1 << 64) - 1

ENTRIES_DB = b"entries"
ROWS_DB = b"rows"
META_DB = b"meta"

_ENTRY_KEY = struct.Struct(">QQ")
_ROW_KEY = struct.Struct(">QB")
_GROUP = struct.Struct(">Q")
_CRC = struct.Struct(">I")
_CONDEMNED = struct.Struct(">QB")

ROW_KEY_FRONT_SIZE = _ROW_KEY.size
ENTRY_KEY_SIZE = _ENTRY_KEY.size

entry_key = _ENTRY_KEY.pack
"""(group, index) → key."""
group_key = _GROUP.pack
"""(group) → the prefix of all its keys."""


def check_format(form: int, where: str) -> None:
    """Refuse an environment that a newer version wrote.

    Raises:
        NewerFormatError
    """
    if form > FORMAT:
        raise NewerFormatError(
            f"{where} has storage format {form}; this version of raftlog reads up to format {FORMAT}."
            " Start the version that wrote it."
        )


def group_of(key: bytes | memoryview) -> int:
    """The group that a key of ``entries`` or ``rows`` begins with.

    Raises:
        DataLossError: it is too short.
    """
    if len(key) < _GROUP.size:
        raise DataLossError(f"key {key.hex()} is too short to be a group's")
    group: int = _GROUP.unpack_from(key)[0]
    return group


def index_of(key: bytes | memoryview) -> int:
    """The index of a key of ``entries``.

    Raises:
        DataLossError: it has another length.
    """
    if len(key) != ENTRY_KEY_SIZE:
        raise DataLossError(f"key {key.hex()} is not an entry's")
    index: int = _ENTRY_KEY.unpack(key)[1]
    return index


def row_key(group: int, table: int, key: bytes) -> bytes:
    """A row's whole key."""
    return _ROW_KEY.pack(group, table) + key


def row_range(group: int) -> tuple[bytes, bytes]:
    """Keys between which all rows of a group lie; no row has either."""
    return group_key(group), row_key(group, 0xFF, b"\xff" * 401)


def seal_row(key: bytes, value: bytes) -> bytes:
    """The stored form of a row's ``value`` under its whole ``key``."""
    return _CRC.pack(crc32c(value, crc32c(key))) + value


def open_row(key: bytes, stored: memoryview) -> bytes:
    """The value of a stored row, checked. One copy.

    Raises:
        DataLossError: it is too short or fails its CRC.
    """
    if len(stored) >= _CRC.size:
        value = bytes(stored[_CRC.size :])
        if crc32c(value, crc32c(key)) == _CRC.unpack_from(stored)[0]:
            return value
    group, table = _ROW_KEY.unpack_from(key)
    raise DataLossError(f"row {key[ROW_KEY_FRONT_SIZE:]!r} of table {table} of group {group} fails its CRC32C")


def condemned_key(group: int) -> bytes:
    """Key in ``meta`` of a group's condemned range."""
    return CONDEMNED_PREFIX + _GROUP.pack(group)


def condemned_group(key: bytes) -> int:
    """The group of a key made by ``condemned_key``."""
    group: int = _GROUP.unpack_from(key, len(CONDEMNED_PREFIX))[0]
    return group


def pack_condemned(keep_from: int, whole: bool) -> bytes:
    """Entries below ``keep_from`` are condemned; ``whole``: the group's rows too."""
    return _CONDEMNED.pack(keep_from, whole)


def unpack_condemned(value: bytes) -> tuple[int, bool]:
    """(keep_from, whole)."""
    keep_from, whole = _CONDEMNED.unpack(value)
    return keep_from, bool(whole)
