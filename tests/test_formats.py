"""Every form that is stored or sent between nodes says its version, and a newer one is refused by name: never guessed at, never
taken for damage, never passed over. ARCHITECTURE.md has the table of forms; this file has a case for each."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import lmdb
import pytest
from crc32c import crc32c

from raftlog.broker.partition import TABLE_PARTITION, Partition
from raftlog.broker.pending import Budget
from raftlog.config.topic import TopicConfig
from raftlog.consensus.journal import HARD_ROW, PROGRESS_ROW, RAFT_TABLE, GroupJournal
from raftlog.consensus.messages import Append, MalformedMessageError, from_wire, to_wire
from raftlog.consensus.tail import TailCache
from raftlog.consensus.unclean import UNCLEAN_ROW, unclean_of
from raftlog.core import configuration
from raftlog.core.configuration import Configuration
from raftlog.core.entry import FORMAT, HEADER_SIZE, Entry, EntryHeader, EntryKind, decode, decode_header, encode
from raftlog.core.features import NEWEST, Supported
from raftlog.core.groups.state import GroupsState
from raftlog.core.metadata import MetadataState
from raftlog.core.metadata_rows import TABLE_COUNTERS, TABLE_FEATURES, TABLE_NODES, TABLE_TOPICS
from raftlog.core.producers import ProducerTable, row_key
from raftlog.errors import FeatureLevelError, NewerFormatError, UnsupportedVersionError
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.internal.v1 import groups_pb2, membership_pb2, metadata_pb2, peer_pb2
from raftlog.peers.handshake import PROTOCOL_VERSION, Handshake, Send
from raftlog.storage import identity, layout
from raftlog.storage.data_directory import DataDirectory
from raftlog.storage.environment import LOG_DIR
from raftlog.storage.identity import Identity
from raftlog.storage.lmdb_store import LmdbStore
from raftlog.storage.memory_store import MemoryStore
from raftlog.storage.port import WriteBatch
from tests.broker.doubles import DictRows

NEWER = NEWEST + 1
GROUP = 7

# ---- The data directory


async def test_an_environment_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    """Its format stands in the database of facts."""
    LmdbStore(tmp_path, lambda _: None).close()
    with lmdb.open(str(tmp_path / LOG_DIR), max_dbs=3) as env, env.begin(write=True) as txn:
        txn.put(layout.FORMAT_KEY, (layout.FORMAT + 1).to_bytes(4), db=env.open_db(layout.META_DB, txn=txn))
    with pytest.raises(NewerFormatError, match=f"format {layout.FORMAT + 1}"):
        LmdbStore(tmp_path, lambda _: None)


def test_an_identity_of_a_newer_format_is_refused() -> None:
    """Its format stands in its facts."""
    facts = json.loads(identity.encode(Identity(node_id=1)).partition(b"\n")[0])
    line = json.dumps(facts | {"format": identity.FORMAT + 1}).encode()
    with pytest.raises(NewerFormatError, match=f"format {identity.FORMAT + 1}"):
        identity.decode(line + b"\ncrc32c:%08x\n" % crc32c(line))


def test_a_directory_marked_with_a_newer_level_is_refused(tmp_path: Path) -> None:
    """The mark says that it may hold forms of that level, wherever they are; also one that this version no longer writes."""
    directory = DataDirectory.open(tmp_path, node_id=1, boot_nonce="a")
    directory.update(cluster_id="c", level=NEWER)
    directory.close()
    with pytest.raises(NewerFormatError, match=f"feature level {NEWER}; this version of raftlog supports levels 1 to {NEWEST}"):
        DataDirectory.open(tmp_path, node_id=1, boot_nonce="b")
    with pytest.raises(FeatureLevelError, match=f"start a version that supports level {NEWER}, raise the level"):
        DataDirectory.open(tmp_path, node_id=1, boot_nonce="b", supported=Supported(NEWER + 1, NEWER + 2))
    DataDirectory.open(tmp_path, node_id=1, boot_nonce="b", supported=Supported(1, NEWER)).close()


def test_the_first_version_refuses_a_marked_directory() -> None:
    """It reads identities of format 1; one without a mark is written in it, so that there is a way back."""
    unmarked, marked = Identity(node_id=1, cluster_id="c"), Identity(node_id=1, cluster_id="c", level=2)
    assert json.loads(identity.encode(unmarked).partition(b"\n")[0])["format"] == 1
    assert json.loads(identity.encode(marked).partition(b"\n")[0])["format"] == 2
    assert identity.decode(identity.encode(unmarked)) == unmarked
    assert identity.decode(identity.encode(marked)) == marked


# ---- Entries


def entry(kind: int = EntryKind.COMMAND, form: int = FORMAT) -> bytes:
    """An entry as a version of another format, or with other kinds, would write it."""
    data = encode(EntryHeader(EntryKind.COMMAND, GROUP, 5, 1, 0), b"payload").data
    crc = crc32c(data[8:HEADER_SIZE], form << 8 | kind)
    return struct.pack(">BBHI", form, kind, 0, crc) + data[8:]


@pytest.mark.parametrize(("kind", "form", "text"), [(5, 2, "format 2; this version reads format 1"), (99, 1, "kind 99")])
def test_an_entry_of_a_newer_version_is_no_damage(kind: int, form: int, text: str) -> None:
    """It passes its check, so it is told from damage; over a link it is refused as a message, which ends nobody."""
    data = entry(kind, form)
    for read in (decode, decode_header):
        with pytest.raises(NewerFormatError, match=text):
            read(data)
    message = to_wire(GROUP, 1, 2, Append(1, 4, 1, 4, [Entry(EntryHeader(EntryKind.COMMAND, GROUP, 5, 1, 0), data)]))
    with pytest.raises(MalformedMessageError, match=text):
        from_wire(message, [data])


# ---- Rows and payloads of consensus


class Gathering:
    """Where a journal's changes go."""

    batch = WriteBatch()


@pytest.mark.parametrize("key", [HARD_ROW, PROGRESS_ROW])
def test_a_row_of_consensus_of_another_layout_is_refused(key: bytes) -> None:
    """These two have fixed layouts: their size is their version."""
    store = MemoryStore(schedule=lambda finish: finish())
    store.commit(WriteBatch(rows={(GROUP, RAFT_TABLE, key): bytes(40)}), lambda: None)
    with pytest.raises(NewerFormatError, match="a row of 40 bytes"):
        GroupJournal(GROUP, store, TailCache(1), Gathering(), replica=1, founders=())


def test_a_newer_configuration_is_refused() -> None:
    """As an entry's payload, over a link, and as a row."""
    newer = membership_pb2.Configuration(voters=[1], level=NEWER)
    with pytest.raises(NewerFormatError, match=f"level {NEWER}"):
        configuration.decode(newer.SerializeToString())
    header = EntryHeader(EntryKind.CONFIGURATION, GROUP, 5, 1, 0)
    one = encode(header, newer.SerializeToString())
    with pytest.raises(MalformedMessageError, match=f"level {NEWER}"):
        from_wire(to_wire(GROUP, 1, 2, Append(1, 4, 1, 4, [one])), [one.data])
    for row in (
        membership_pb2.ConfigurationsRow(level=NEWER),
        membership_pb2.ConfigurationsRow(configurations=[membership_pb2.ConfigurationAt(index=1, configuration=newer)]),
    ):
        with pytest.raises(NewerFormatError, match=f"level {NEWER}"):
            configuration.decode_row(row.SerializeToString())
    assert configuration.decode(configuration.encode(Configuration((1,)))) == Configuration((1,))


def test_a_newer_row_of_a_forced_configuration_is_refused() -> None:
    """It says what the replica's log may lack."""
    store = MemoryStore(schedule=lambda finish: finish())
    row = membership_pb2.UncleanRow(level=NEWER).SerializeToString()
    store.commit(WriteBatch(rows={(GROUP, RAFT_TABLE, UNCLEAN_ROW): row}), lambda: None)
    with pytest.raises(NewerFormatError, match=f"level {NEWER}"):
        unclean_of(store, GROUP)


# ---- Rows and commands of the state machines


@pytest.mark.parametrize(
    ("table", "row"),
    [
        (TABLE_NODES, metadata_pb2.NodeRow(node_id=1, level=NEWER)),
        (TABLE_TOPICS, metadata_pb2.TopicRow(name="t", level=NEWER)),
        (TABLE_COUNTERS, metadata_pb2.CountersRow(level=NEWER)),
        (TABLE_FEATURES, metadata_pb2.FeaturesRow(cluster_level=2, level=NEWER)),
        (TABLE_FEATURES, metadata_pb2.FeaturesRow(cluster_level=NEWER)),
    ],
    ids=["node", "topic", "counters", "features", "the cluster's level"],
)
def test_newer_metadata_is_refused(table: int, row: metadata_pb2.NodeRow) -> None:
    """Each row says what level its form is of."""
    with pytest.raises(NewerFormatError, match=f"level {NEWER}"):
        MetadataState().load([(table, b"key", row.SerializeToString())])


@pytest.mark.parametrize("row", [groups_pb2.GroupRow(level=NEWER), groups_pb2.OffsetRow(level=NEWER)], ids=["group", "offset"])
def test_newer_rows_of_a_coordinator_are_refused(row: groups_pb2.GroupRow | groups_pb2.OffsetRow) -> None:
    """As those of the metadata."""
    table = 1 if isinstance(row, groups_pb2.GroupRow) else 2
    with pytest.raises(NewerFormatError, match=f"level {NEWER}"):
        GroupsState().load([(table, b"key", row.SerializeToString())])


def test_a_newer_row_of_a_producer_is_refused() -> None:
    """Its format is its first byte."""
    with pytest.raises(NewerFormatError, match="format 2"):
        ProducerTable().load([(row_key(1), b"\x02\x00\x00\x01" + bytes(32))])


def test_a_newer_row_of_a_partition_is_refused() -> None:
    """Its format is its first byte."""
    partition = Partition(TopicPartition("t", 0), GROUP, config=TopicConfig.of({}), budget=Budget(1), lost_wait_s=1.0)
    rows = DictRows()
    rows.put(TABLE_PARTITION, b"log_start_offset", b"\x02" + bytes(8))
    with pytest.raises(NewerFormatError, match="format 1"):
        partition.restore(rows)


FUTURE_KIND = b"\xf2\x07\x02\x08\x01"
"""Field 126, a message: how a command of a later kind looks to this version."""


@pytest.mark.parametrize(
    "raw", [FUTURE_KIND, metadata_pb2.MetadataCommand(level=NEWER).SerializeToString()], ids=["kind", "form"]
)
def test_a_newer_metadata_command_that_is_committed_ends_the_node(raw: bytes) -> None:
    """To pass it over would be another state than the others'."""
    with pytest.raises(NewerFormatError, match=r"metadata command at index 1 (is of a kind|has a form)"):
        MetadataState().apply(1, metadata_pb2.MetadataCommand.FromString(raw))


@pytest.mark.parametrize("raw", [FUTURE_KIND, groups_pb2.GroupCommand(level=NEWER).SerializeToString()], ids=["kind", "form"])
def test_a_newer_group_command_that_is_committed_ends_the_node(raw: bytes) -> None:
    """The same."""
    with pytest.raises(NewerFormatError, match=r"group command at index 1 (is of a kind|has a form)"):
        GroupsState().apply(1, groups_pb2.GroupCommand.FromString(raw))


# ---- Between nodes


def test_a_peer_of_another_protocol_version_is_refused() -> None:
    """Before anything else of it is read."""
    side = Handshake(peer_pb2.Hello(node_id=1), dialled=None)
    side.begin()
    refusal = side.received(peer_pb2.Envelope(hello=peer_pb2.Hello(node_id=2, protocol_version=PROTOCOL_VERSION + 1)))[0]
    assert isinstance(refusal, Send)
    assert refusal.envelope.welcome.refused_reason == UnsupportedVersionError.reason
    assert f"peer protocol version {PROTOCOL_VERSION + 1}" in refusal.envelope.welcome.refused_message


def test_the_mark_never_falls(tmp_path: Path) -> None:
    """Whatever else changes in the identity, at every start."""
    directory = DataDirectory.open(tmp_path, node_id=1, boot_nonce="a")
    directory.update(level=2)
    directory.close()
    again = DataDirectory.open(tmp_path, node_id=1, boot_nonce="b")
    assert again.identity.level == 2
    assert replace(again.identity, boot_number=9).level == 2
    again.close()
