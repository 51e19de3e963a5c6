"""Who a node is: a small checked file outside LMDB, so that it survives the loss of the log.

Two lines: the facts as JSON, and ``crc32c:`` with the check of the first line in hex. It is replaced as a whole: written
beside, synced, renamed over, and the directory synced.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crc32c import crc32c

from raftlog.core import failpoints
from raftlog.core.features import Level
from raftlog.errors import DataDirectoryError, NewerFormatError

FORMAT = 2
FORMAT_FIRST = 1
"""What an identity is written as that says nothing new, so that the first version, which knows no levels, can still read it."""
PAST_BOOTS_KEPT = 64
"""Starts that are remembered: they go into each Hello, which is at most 4 KiB."""
LOST_NONCE = "declared lost"
"""Of the start that was never made, behind all that were, of a node whose disk is lost for good."""
LOST_BOOT_LEAP = 1 << 32
"""More starts than a disk sees."""
_CHECK = "crc32c:"
_TEMPORARY_SUFFIX = ".new"
_SIZE_BYTES_MAX = 1 << 20
"""A file longer than this is not ours; 10,000 peers take a tenth of it."""
_crash_before_replace = failpoints.point("identity-before-replace")
_crash_after_replace = failpoints.point("identity-after-replace")


class DamagedIdentityError(DataDirectoryError):
    """The file is there and says nothing that can be trusted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a node knows of itself across starts.

    ``boot_number`` rises by one at each start and ``boot_nonce`` is random at each, so that an old copy of a disk shows.
    """

    node_id: int
    cluster_id: str | None = None
    """None until the bootstrap names it."""
    sealed: bool = False
    """The bootstrap is finished: this node may vote, and is never again taken for empty."""
    boot_number: int = 0
    boot_nonce: str = ""
    past_boots: tuple[tuple[int, str], ...] = ()
    """Number and nonce of the newest starts before this one, newest last. An old copy of a disk cannot have those that its
    peers saw after the copy was made, however often it is started."""
    voters: dict[int, str] = field(default_factory=dict)
    """Node id → peer address, as given when the cluster began; empty where this node joined it."""
    peers_seen: dict[int, tuple[int, int, str]] = field(default_factory=dict)
    """Node id → the newest start seen of it: its incarnation, its boot number there, and its nonce."""
    damaged: str = ""
    """Why this node's data is known to be unusable; empty where it is not. It is set aside at the next start."""
    level: int = Level.FIRST
    """The mark: the directory may hold forms of this feature level, and of none above it. It never falls."""
    incarnation: int = 1
    """Which disk of the node this is: the cluster gives a higher one each time the node comes back without its data. Also its
    replica id in group 0. A founder's first disk is 1."""
    joined: bool = False
    """It became a member by joining: who votes in group 0, its log says, and not ``voters``."""
    others: dict[int, str] = field(default_factory=dict)
    """Node id → peer address of the other nodes, as they were when this one joined."""
    rejoin: str = ""
    """Why what this node once had was set aside, empty where it was not. Such a node joins, and never begins a cluster."""


def start(known: Identity, *, boot_nonce: str, voters: dict[int, str] | None) -> dict[str, Any]:
    """What a start changes in an identity: the next boot number, and the voters where no cluster has begun."""
    past = (*known.past_boots, (known.boot_number, known.boot_nonce))[-PAST_BOOTS_KEPT:] if known.boot_number else ()
    wanted = known.voters if known.cluster_id is not None or voters is None else voters
    return {"boot_number": known.boot_number + 1, "boot_nonce": boot_nonce, "past_boots": past, "voters": dict(wanted)}


def declare_lost(known: Identity, disks: Mapping[int, int]) -> Identity:
    """An identity to which every start that these disks ever made is an old one: they are let in no more, and mark themselves
    when they hear of it. ``disks``: node id → the newest incarnation that the cluster knows of it, or an earlier one."""
    seen = dict(known.peers_seen)
    for node, incarnation in disks.items():
        seen_incarnation, number, _ = seen.get(node, (0, 0, ""))
        newest = max(incarnation, seen_incarnation)
        seen[node] = (newest, LOST_BOOT_LEAP + (number if newest == seen_incarnation else 0), LOST_NONCE)
    return replace(known, peers_seen=seen)


def encode(identity: Identity) -> bytes:
    """The file's contents."""
    facts: dict[str, Any] = {
        "format": FORMAT if _says_more(identity) else FORMAT_FIRST,
        "node_id": identity.node_id,
        "cluster_id": identity.cluster_id,
        "sealed": identity.sealed,
        "boot_number": identity.boot_number,
        "boot_nonce": identity.boot_nonce,
        "past_boots": [list(boot) for boot in identity.past_boots],
        "voters": {str(node): address for node, address in identity.voters.items()},
        "peers_seen": {str(node): _seen_facts(*seen) for node, seen in identity.peers_seen.items()},
        "damaged": identity.damaged,
    }
    if _says_more(identity):
        facts |= {
            "level": identity.level,
            "incarnation": identity.incarnation,
            "joined": identity.joined,
            "others": {str(node): address for node, address in identity.others.items()},
            "rejoin": identity.rejoin,
        }
    line = json.dumps(facts, separators=(",", ":")).encode()
    return b"%s\n%s%08x\n" % (line, _CHECK.encode(), crc32c(line))


def _says_more(identity: Identity) -> bool:
    """Whether there is something that the first version must not pass over: a feature level, or what comes of joining."""
    later = any(incarnation != 1 for incarnation, _, _ in identity.peers_seen.values())
    joined = identity.incarnation != 1 or identity.joined or bool(identity.others or identity.rejoin)
    return identity.level > Level.FIRST or later or joined


def _seen_facts(incarnation: int, number: int, nonce: str) -> list[int | str]:
    return [number, nonce] if incarnation == 1 else [number, nonce, incarnation]


def _seen_of(number: Any, nonce: Any, incarnation: Any = 1) -> tuple[int, int, str]:
    return int(incarnation), int(number), str(nonce)


def decode(data: bytes) -> Identity:
    """The inverse of ``encode``.

    Raises:
        DataDirectoryError: the check fails, or facts are missing or of the wrong type.
        NewerFormatError: a newer version wrote it.
    """
    line, _, check = data.partition(b"\n")
    if check != b"%s%08x\n" % (_CHECK.encode(), crc32c(line)):
        raise DataDirectoryError("it fails its CRC32C")
    try:
        facts = json.loads(line)
        form = int(facts["format"])
        if form > FORMAT:
            raise NewerFormatError(f"it has format {form}; this version of raftlog reads up to format {FORMAT}")
        return _from_facts(facts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataDirectoryError(f"its facts are not what this version wrote: {error!r}") from error


def _from_facts(facts: dict[str, Any]) -> Identity:
    cluster_id = facts["cluster_id"]
    return Identity(
        node_id=int(facts["node_id"]),
        cluster_id=None if cluster_id is None else str(cluster_id),
        sealed=bool(facts["sealed"]),
        boot_number=int(facts["boot_number"]),
        boot_nonce=str(facts["boot_nonce"]),
        past_boots=tuple((int(number), str(nonce)) for number, nonce in facts["past_boots"]),
        voters={int(node): str(address) for node, address in facts["voters"].items()},
        peers_seen={int(node): _seen_of(*seen) for node, seen in facts["peers_seen"].items()},
        damaged=str(facts["damaged"]),
        level=int(facts.get("level", Level.FIRST)),
        incarnation=int(facts.get("incarnation", 1)),
        joined=bool(facts.get("joined", False)),
        others={int(node): str(address) for node, address in facts.get("others", {}).items()},
        rejoin=str(facts.get("rejoin", "")),
    )


def load(path: Path) -> Identity | None:
    """Read the identity at ``path``; None where there is no such file.

    Raises:
        DataDirectoryError: it cannot be read.
        DamagedIdentityError: it is damaged.
        NewerFormatError: a newer version wrote it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_SIZE_BYTES_MAX)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataDirectoryError(f"{path} cannot be read: {error}") from error
    try:
        return decode(data)
    except NewerFormatError as error:
        raise NewerFormatError(f"{path} cannot be used: {error}. Start the version that wrote it.") from error
    except DataDirectoryError as error:
        raise DamagedIdentityError(
            f"{path} is damaged: {error}. Without it nobody knows what this node promised: restore the file from a copy"
            " made since the last start, or remove the data directory and let the node join the cluster as a new one."
        ) from error


def store(path: Path, identity: Identity) -> None:
    """Replace the identity at ``path`` durably. Blocks for two syncs.

    Raises:
        OSError: it could not be written; the old file still stands.
    """
    temporary = path.with_name(path.name + _TEMPORARY_SUFFIX)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(encode(identity))
        file.flush()
        os.fsync(file.fileno())
    _crash_before_replace()
    temporary.replace(path)
    sync_directory(path.parent)
    _crash_after_replace()


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
