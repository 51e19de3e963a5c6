"""Whether all replicas hold the same: their stored entries, read from the disks of stopped nodes, up to the commit index (I2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from zlib import crc32

from raftlog.errors import DataLossError
from raftlog.storage.lmdb_store import LmdbOptions, LmdbStore

ENTRIES_BYTES = 4 << 20
Stored = dict[int, dict[int, int]]
"""Group → index → a check over the stored entry."""


def read_disk(data_dir: Path) -> Stored:
    """Every entry of a stopped node. Needs a running event loop; what fails its check is left out."""
    store = LmdbStore(data_dir, lambda error: None, options=LmdbOptions(ballast_bytes=0))
    try:
        return {group: _entries(store, group) for group in store.groups()}
    finally:
        store.close()


def _entries(store: LmdbStore, group: int) -> dict[int, int]:
    found: dict[int, int] = {}
    first, last = store.bounds(group) or (0, -1)
    index = first
    while index <= last:
        try:
            entries = store.entries(group, index, last + 1, ENTRIES_BYTES)
        except DataLossError:
            index += 1
            continue
        for at, entry in enumerate(entries):
            found[index + at] = crc32(entry)
        index += len(entries)
    return found


def differences(stored: Mapping[int, Stored], committed: Mapping[int, int]) -> list[str]:
    """Where replicas differ.

    Args:
        stored: node → what its disk holds.
        committed: group → the highest index that is known to be committed.
    """
    found = []
    for group, commit in sorted(committed.items()):
        replicas = {node: groups[group] for node, groups in stored.items() if group in groups}
        starts = [min(entries) for entries in replicas.values() if entries]
        if len(starts) < len(replicas):
            found.append(f"group {group}: an empty replica among {sorted(replicas)}, {commit} is committed")
            continue
        # A trim may have reached one replica and not yet another.
        for index in range(max(starts, default=1), commit + 1):
            kinds = {entries.get(index) for entries in replicas.values()}
            if len(kinds) > 1:
                where = ", ".join(f"node {node}: {entries.get(index, 'nothing')}" for node, entries in sorted(replicas.items()))
                found.append(f"group {group}, index {index} differs: {where}")
                break
    return found


def disagreements(read: Mapping[int, Mapping[int, list[tuple[int, str]]]]) -> list[str]:
    """Where full reads through different nodes differ: node → partition → (offset, value)."""
    found = []
    nodes = sorted(read)
    for node in nodes[1:]:
        for partition, records in read[nodes[0]].items():
            other = read[node].get(partition, [])
            if other == records:
                continue
            only = sorted(set(other).symmetric_difference(records))[:3]
            found.append(f"partition {partition} read through nodes {nodes[0]} and {node} differs, first at {only}")
    return found
