"""What a stopped node's data directory says: whose it is, what lies in it, and for which topics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raftlog.consensus.damage import damage_of
from raftlog.consensus.journal import GroupJournal, stored_replica
from raftlog.consensus.tail import TailCache
from raftlog.consensus.unclean import unclean_of
from raftlog.core.configuration import UNKNOWN, Configuration
from raftlog.core.metadata import MetadataState
from raftlog.core.metadata_rows import TABLES
from raftlog.errors import DataLossError
from raftlog.model import METADATA_GROUP, TopicPartition
from raftlog.storage import identity
from raftlog.storage.ballast import disk_free_bytes
from raftlog.storage.data_directory import IDENTITY_FILE
from raftlog.storage.environment import BALLAST_FILE, data_file, format_of, opened_read_only
from raftlog.storage.identity import Identity
from raftlog.storage.port import StoreReader, WriteBatch
from raftlog.storage.reader import LmdbReader
from raftlog.storage.transaction import used_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedReplica:
    """One group's replica. All but ``group``, ``name`` and ``damaged`` are 0 where it is damaged so that it cannot be opened.

    ``size_bytes`` are those of its entries; ``commit_index`` is what this node knew, and may be behind.
    """

    group: int
    name: TopicPartition | None
    """The partition whose log it is; None for the cluster's metadata, and where that does not know the group."""
    first_index: int = 0
    last_index: int = 0
    commit_index: int = 0
    applied_index: int = 0
    term: int = 0
    last_term: int = 0
    """The last entry's: of two replicas, the one with the higher (last term, last index) holds more."""
    end_offset: int = 0
    """The offset after the last record."""
    configuration: Configuration = UNKNOWN
    unclean_at_ms: int = 0
    """When it was made the only voter by force, milliseconds since the epoch; 0 where it was not."""
    size_bytes: int = 0
    damaged: str = ""
    """Why it cannot be read; empty where it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedNode:
    """A data directory. Sizes in bytes."""

    identity: Identity | None
    storage_format: int
    used_bytes: int
    file_bytes: int
    ballast_bytes: int
    disk_free_bytes: int
    replicas: tuple[StoppedReplica, ...]


class _Nothing:
    """Gathers no transaction: nothing is written."""

    batch = WriteBatch()


def describe(directory: Path) -> StoppedNode:
    """Look into a data directory whose lock the caller holds. Nothing of it changes.

    Raises:
        DataDirectoryError: there is no log, or identity or log cannot be read.
        NewerFormatError: a newer version of raftlog wrote it.
        DataLossError: the log is damaged where its groups are listed.
    """
    known = identity.load(directory / IDENTITY_FILE)
    path = data_file(directory)
    ballast = directory / BALLAST_FILE
    with opened_read_only(path) as (env, dbs):
        reader = LmdbReader(env, dbs, path)
        try:
            names = names_of(load_metadata(reader))
            replicas = tuple(_replica(reader, group, names.get(group)) for group in reader.groups())
        finally:
            reader.end_reading()
        with env.begin() as txn:
            used, form = used_bytes(txn, dbs), format_of(txn, dbs)
    return StoppedNode(
        identity=known,
        storage_format=form,
        used_bytes=used,
        file_bytes=path.stat().st_size,
        ballast_bytes=ballast.stat().st_size if ballast.exists() else 0,
        disk_free_bytes=disk_free_bytes(directory),
        replicas=replicas,
    )


def load_metadata(reader: StoreReader) -> MetadataState:
    """The metadata as this node has applied it; empty where it cannot be read."""
    state = MetadataState()
    try:
        state.load((table, key, value) for table in TABLES for key, value in reader.rows(METADATA_GROUP, table))
    except DataLossError:
        return MetadataState()
    return state


def names_of(state: MetadataState) -> dict[int, TopicPartition]:
    """Partitions by group, as far as the metadata knows them."""
    return {
        partition.group_id: TopicPartition(topic.name, number)
        for topic in state.topics.values()
        for number, partition in enumerate(topic.partitions)
    }


def _replica(reader: StoreReader, group: int, name: TopicPartition | None) -> StoppedReplica:
    try:
        replica = stored_replica(reader, group) or 0
        journal = GroupJournal(group, reader, TailCache(0), _Nothing(), replica=replica, founders=())
        unclean, damage = unclean_of(reader, group), damage_of(reader, group)
    except DataLossError as error:
        return StoppedReplica(group=group, name=name, damaged=str(error))
    return StoppedReplica(
        group=group,
        name=name,
        first_index=journal.first_index,
        last_index=journal.last_index,
        commit_index=journal.commit_index,
        applied_index=journal.applied_index,
        term=journal.getCurrentTerm(),
        size_bytes=journal.size_bytes,
        last_term=journal.last.term if journal.last_index else 0,
        end_offset=journal.last.next_offset if journal.last_index else 0,
        configuration=journal.configuration,
        unclean_at_ms=0 if unclean is None else unclean.at_ms,
        damaged=damage,
    )
