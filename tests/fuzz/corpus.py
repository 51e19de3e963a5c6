"""The bytes that stay: one file each, in a directory for each target, its name saying what it is."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

DIRECTORY: Final = Path(__file__).with_name("corpus")
FILE_BYTES_MAX: Final = 64 * 1024
"""A file is small: it stays in the repository for good."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


def kept(target: str) -> dict[str, bytes]:
    """Name → bytes, in the order of names."""
    return {path.stem: path.read_bytes() for path in sorted((DIRECTORY / target).glob("*.bin"))}


def keep(target: str, data: bytes, name: str = "") -> Path:
    """Add bytes; what was found by a machine is named by its hash.

    Raises:
        ValueError: the name is not of small letters, digits and dashes, or the bytes are too many.
    """
    name = name or f"found-{hashlib.sha256(data).hexdigest()[:12]}"
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no name for a file here: use small letters, digits and dashes")
    if len(data) > FILE_BYTES_MAX:
        raise ValueError(f"{len(data)} bytes are too many to keep, {FILE_BYTES_MAX} is the most; find a smaller example")
    path = DIRECTORY / target / f"{name}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
