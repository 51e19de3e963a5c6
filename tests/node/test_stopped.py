"""What a stopped node's data directory says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftlog.consensus.journal import RAFT_TABLE
from raftlog.core.metadata import MetadataState
from raftlog.errors import DataDirectoryError
from raftlog.model import TopicPartition
from raftlog.node.stopped import describe
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb
from raftlog.storage import identity
from raftlog.storage.data_directory import IDENTITY_FILE
from raftlog.storage.environment import BALLAST_FILE, data_file
from raftlog.storage.identity import Identity
from raftlog.storage.port import WriteBatch
from tests.storage.helpers import batch_of, commit, make_entry, open_store


async def filled(directory: Path) -> Path:
    """Node 7 with topic ``t`` of one partition, and a group that its metadata does not know."""
    identity.store(directory / IDENTITY_FILE, Identity(node_id=7, cluster_id="c", sealed=True, boot_number=3))
    (directory / BALLAST_FILE).write_bytes(bytes(100))
    state = MetadataState()
    state.apply(1, pb.MetadataCommand(register_node=pb.RegisterNode(node_id=7)))
    create = pb.CreateTopic(name="t", topic_id=b"i" * 16, replication_factor=1, partitions=[pb.Assignment(replicas=[7])])
    assert state.apply(2, pb.MetadataCommand(create_topic=create)).error is None
    store = open_store(directory)
    batch = WriteBatch(rows={(0, table, key): value for table, key, value in state.rows()})
    batch.entries = batch_of(0, 1, 4).entries | batch_of(1, 5, 9).entries | batch_of(9, 1, 2).entries
    batch.rows |= rows_of(0, 1) | rows_of(1, 5) | rows_of(9, 1)
    await commit(store, batch)
    store.close()
    return directory


def rows_of(group: int, commit_index: int) -> dict[tuple[int, int, bytes], bytes]:
    """Consensus' own rows of a log."""
    return {
        (group, RAFT_TABLE, b"hard"): (9).to_bytes(8) + (-1).to_bytes(8, signed=True),
        (group, RAFT_TABLE, b"progress"): b"".join(n.to_bytes(8) for n in (commit_index, commit_index, 0)),
    }


async def test_a_directory_is_described(tmp_path: Path) -> None:
    """Identity, sizes, and each group under its topic's name; nothing is changed by looking."""
    await filled(tmp_path)
    before = data_file(tmp_path).read_bytes()
    node = describe(tmp_path)
    assert node.identity is not None
    assert (node.identity.node_id, node.identity.cluster_id) == (7, "c")
    assert node.storage_format == 1
    assert node.file_bytes == len(before) >= node.used_bytes > 0
    assert node.ballast_bytes == 100
    assert node.disk_free_bytes > 0
    names = {replica.group: replica.name for replica in node.replicas}
    assert names == {0: None, 1: TopicPartition("t", 0), 9: None}
    partition = node.replicas[1]
    assert (partition.first_index, partition.last_index, partition.damaged) == (5, 8, "")
    assert data_file(tmp_path).read_bytes() == before


async def test_a_damaged_replica_does_not_hide_the_others(tmp_path: Path) -> None:
    """It is named with its damage; damaged metadata costs the names alone."""
    await filled(tmp_path)
    store = open_store(tmp_path)
    batch = WriteBatch(entries={(1, 9): make_entry(1, 10)})
    await commit(store, batch)
    store.close()
    node = describe(tmp_path)
    assert [bool(replica.damaged) for replica in node.replicas] == [False, True, False]
    assert "is stored as" in node.replicas[1].damaged
    assert node.replicas[1].name == TopicPartition("t", 0)


async def test_where_there_is_no_log_there_is_nothing_to_describe(tmp_path: Path) -> None:
    """Of a node that never began."""
    identity.store(tmp_path / IDENTITY_FILE, Identity(node_id=7))
    with pytest.raises(DataDirectoryError, match="there is no data file"):
        describe(tmp_path)


async def test_terms_and_progress_are_told(tmp_path: Path) -> None:
    """As consensus wrote them."""
    await filled(tmp_path)
    store = open_store(tmp_path)
    hard, progress = (12).to_bytes(8) + (-1).to_bytes(8, signed=True), b"".join(n.to_bytes(8) for n in (7, 6, 500))
    await commit(store, WriteBatch(rows={(1, RAFT_TABLE, b"hard"): hard, (1, RAFT_TABLE, b"progress"): progress}))
    store.close()
    replica = describe(tmp_path).replicas[1]
    assert (replica.term, replica.commit_index, replica.applied_index, replica.size_bytes) == (12, 7, 6, 500)
