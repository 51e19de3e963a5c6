"""One replica of a group takes the place of another one on the same node: when the data of that is deleted, and nobody waits."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest

from raftlog.broker.pending import Budget
from raftlog.broker.replicas import Replicas
from raftlog.consensus.config import ConsensusConfig
from raftlog.consensus.journal import CONFIG_ROW, HARD_ROW, PROGRESS_ROW, RAFT_TABLE, progress
from raftlog.consensus.turns import Turns
from raftlog.core.clock import SystemClock
from raftlog.core.configuration import Configuration, encode_row, member_id
from raftlog.core.features import NEWEST, Features
from raftlog.core.metadata import MetadataState
from raftlog.core.metadata_values import Effects, TopicMeta
from raftlog.errors import DataLossError
from raftlog.storage import transaction
from raftlog.storage.lmdb_store import LmdbStore
from raftlog.storage.port import WriteBatch
from tests.broker.doubles import HandConsensus, HandNetwork, HandPeers
from tests.broker.test_replicas import _replicas, _topic
from tests.storage.helpers import OPTIONS, Faults, batch_of, commit, open_store, until

OLD, OTHER = 7, 8
"""The group whose replica is replaced, and another one of the node."""
MANY = transaction.INLINE_DELETES_MAX + 2 * transaction.STEP_DELETES_MAX + 10
"""Entries that a batch deletes in part, and the steps between batches in three."""
FULL_MAP_BYTES = 8 << 20


def placed(*groups: int, replica: int | None, **configs: str) -> TopicMeta:
    """A topic whose first group has this replica here, as the second one to be, or none; the others have their founders."""
    topic = _topic("t", *groups)
    first = topic.partitions[0]
    if replica != 1:
        here = ((2, 9),) if replica is None else ((1, replica),)
        first = replace(first, replicas=here, next_replica_id=10)
    return replace(topic, partitions=(first, *topic.partitions[1:]), configs=configs)


class Node:
    """A node's replicas over a consensus in the test's hand. Group 7 was dropped; it cannot be opened again yet."""

    def __init__(self) -> None:
        self.consensus = HandConsensus(1, HandNetwork())
        self.failed: list[Exception] = []
        self.replicas = _replicas(self.consensus, fail=self.failed.append)
        self.state = MetadataState()
        self.state.topics["t"] = placed(OLD, OTHER, replica=1)
        self.replicas.start(self.state)
        self.consensus.deleting.add(OLD)

    async def alter(self, replica: int | None, **configs: str) -> None:
        """Another replica is wanted here."""
        topic = self.state.topics["t"] = placed(OLD, OTHER, replica=replica, **configs)
        self.replicas.note(Effects(altered=(topic,)))
        await self.acts()

    async def deleted(self) -> None:
        """Nothing is left of the old one."""
        self.consensus.deleted(OLD)
        await self.acts()

    async def acts(self) -> None:
        """Let it act on what it knows."""
        for _ in range(3):
            await asyncio.sleep(0)


async def test_a_replica_is_opened_when_the_one_before_is_deleted() -> None:
    """Until then it is, to whoever asks, one that is not open yet; and, where it is to fill a gap, one that is missing."""
    node = Node()
    await node.alter(2)
    assert node.consensus.dropped == [OLD]
    assert node.replicas.groups() == [OTHER]
    assert node.replicas.log(OLD) is None
    assert [status.group_id for status in node.replicas.statuses()] == [OTHER]
    assert node.replicas.damaged() == {}
    assert node.replicas.unfilled() == {OLD}
    await node.deleted()
    assert node.consensus.logs[OLD].own == member_id(1, 2)
    assert node.replicas.groups() == [OLD, OTHER]
    assert node.consensus.dropped == [OLD]


async def test_a_start_waits_for_no_deletion() -> None:
    """A node that stopped in the middle of one opens all others, and that one when it is done."""
    consensus, state = HandConsensus(1, HandNetwork()), MetadataState()
    consensus.deleting.add(OLD)
    state.topics["t"] = placed(OLD, OTHER, replica=2)
    replicas = _replicas(consensus)
    replicas.start(state)
    assert sorted(replicas) == [OTHER]
    consensus.deleted(OLD)
    await asyncio.sleep(0)
    assert sorted(replicas) == [OLD, OTHER]


async def test_a_replica_that_moves_away_before_it_could_be_opened_is_not() -> None:
    """Nor is one whose topic was deleted meanwhile."""
    for effects in (Effects(altered=(placed(OLD, OTHER, replica=None),)), Effects(deleted=(placed(OLD, OTHER, replica=2),))):
        node = Node()
        await node.alter(2)
        node.replicas.note(effects)
        await node.acts()
        await node.deleted()
        assert OLD not in node.replicas.groups()
        assert OLD not in node.consensus.logs
        assert node.replicas.unfilled() == set()


async def test_a_replica_that_went_and_comes_again_is_opened_under_its_last_id() -> None:
    """However often that changed while the data of the first one was being deleted."""
    node = Node()
    for replica in (2, None, 3):
        await node.alter(replica)
    await node.deleted()
    assert node.consensus.logs[OLD].own == member_id(1, 3)


async def test_a_topic_that_is_altered_before_its_replica_could_be_opened_counts_as_it_is_then() -> None:
    """The newest settings; and still it is not opened before its time."""
    node = Node()
    await node.alter(2)
    await node.alter(2, **{"retention.ms": "5000"})
    assert OLD not in node.replicas
    await node.deleted()
    assert node.replicas[OLD].config.retention_ms == 5_000


async def test_a_topic_that_is_made_again_waits_for_nothing() -> None:
    """Its groups are other ones."""
    node = Node()
    node.replicas.note(Effects(deleted=(placed(OLD, OTHER, replica=1),)))
    node.replicas.note(Effects(created=(_topic("t", 9),)))
    await node.acts()
    assert node.replicas.groups() == [9]


async def test_a_replica_is_not_opened_by_a_node_that_has_stopped() -> None:
    """The deletion may end between the end of the broker and that of the store."""
    node = Node()
    await node.alter(2)
    node.replicas.close()
    await node.deleted()
    assert OLD not in node.consensus.logs


async def test_data_of_which_it_cannot_be_read_whose_it_is_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a replica that cannot be opened: it must neither be opened as another one, nor keep others from it."""
    node = Node()

    def vacant(group: int, replica: int, ended: Callable[[], None]) -> bool:
        raise DataLossError("its row is damaged")

    monkeypatch.setattr(node.consensus, "vacant", vacant)
    await node.alter(2)
    assert node.replicas.groups() == [OTHER]
    assert node.replicas.damaged() == {OLD: 2}
    assert node.failed == []


def failed(error: BaseException) -> None:
    """Nothing may be wrong."""
    raise AssertionError("the node cannot go on") from error


class Disk:
    """A node's turns and replicas over LMDB. ``commits`` are its batches, ``fills`` those that put something into group 7."""

    def __init__(self, path: Path, faults: Faults, *, map_size_bytes: int = 0) -> None:
        self.store = open_store(path, replace(OPTIONS, before_commit=faults, map_size_bytes=map_size_bytes))
        self.commits: list[WriteBatch] = []
        self.fills: list[WriteBatch] = []

    def start(self) -> Replicas:
        """Turns and replicas, with nothing opened yet."""
        write = self.store.commit

        def recorded(batch: WriteBatch, done: Callable[[], None]) -> None:
            self.commits.append(batch)
            if any(group == OLD for group, *_ in [*batch.rows, *batch.entries]):
                assert not self.store.deleting(OLD, lambda: None), "the batch deletes all that is left"
                assert OLD not in batch.drop
                self.fills.append(batch)
            write(batch, done)

        self.store.commit = recorded  # type: ignore[method-assign]
        self.turns = Turns(
            node_id=1, store=self.store, peers=HandPeers(1, HandNetwork()), clock=SystemClock(), rng=random.Random(1),
            config=ConsensusConfig(), fail=failed, features=Features(level=NEWEST),
        )  # fmt: skip
        return Replicas(
            1, consensus=self.turns, store=self.store, budget=Budget(1), lost_wait_s=1.0, make_coordinator=Mock(), fail=failed
        )

    def close(self) -> None:
        """The end of the process."""
        self.turns.stop()
        self.store.close()


async def _hold(store: LmdbStore) -> None:
    """Give the first replica of the group much data."""
    batch = batch_of(OLD, 1, MANY + 1)
    batch.rows[OLD, RAFT_TABLE, CONFIG_ROW] = encode_row(1, [(1, Configuration.of((member_id(1, 1),)))])
    batch.rows[OLD, RAFT_TABLE, HARD_ROW] = struct.pack(">Qq", 1, -1)
    batch.rows[OLD, RAFT_TABLE, PROGRESS_ROW] = progress(1, 1, batch.size_bytes)
    await commit(store, batch)


def _state(replica: int) -> MetadataState:
    state = MetadataState()
    state.topics["t"] = placed(OLD, OTHER, replica=replica)
    return state


@pytest.fixture
def faults() -> Iterator[Faults]:
    """Released at the end, so that no store hangs in its closing."""
    faults = Faults()
    yield faults
    faults.release()


async def test_much_data_goes_in_steps_before_the_next_replica_is_opened(tmp_path: Path, faults: Faults) -> None:
    """Of a replica that is open, and goes as the metadata changes. No transaction of the node deletes more than it may."""
    disk = Disk(tmp_path, faults)
    await _hold(disk.store)
    replicas, state = disk.start(), _state(1)
    replicas.start(state)
    await until(lambda: replicas[OLD].log.commit_index > MANY)
    disk.fills.clear()
    state.topics["t"] = placed(OLD, OTHER, replica=2)
    replicas.note(Effects(altered=(state.topics["t"],)))
    await until(lambda: OLD not in replicas)
    await until(lambda: OLD in replicas)
    assert replicas[OLD].log.last_index <= 1
    await until(lambda: bool(disk.fills))
    disk.close()


async def test_data_of_another_replica_goes_in_steps_at_a_start(tmp_path: Path, faults: Faults) -> None:
    """Also at the one after it, where the first stops in the middle. The other group comes up at once, each time."""
    disk = Disk(tmp_path, faults)
    await _hold(disk.store)
    replicas = disk.start()
    faults.hold_after(1)
    replicas.start(_state(2))
    assert sorted(replicas) == [OTHER]
    await until(lambda: disk.store.deleting(OLD, lambda: None))
    faults.errors = [SystemExit()]
    faults.release()
    disk.close()
    faults.errors = []
    disk = Disk(tmp_path, faults)
    assert disk.store.deleting(OLD, lambda: None), "the test has seen nothing if the steps were done"
    replicas = disk.start()
    replicas.start(_state(2))
    assert sorted(replicas) == [OTHER]
    await until(lambda: sorted(replicas) == [OLD, OTHER])
    await until(lambda: bool(disk.fills))
    disk.close()


async def test_a_replica_is_replaced_on_a_full_disk(tmp_path: Path, faults: Faults) -> None:
    """What the old one held is the room for the new one: its drop fits where the deletion of all of it would not."""
    disk = Disk(tmp_path, faults, map_size_bytes=FULL_MAP_BYTES)
    await _fill(disk.store)
    disk.store.close()
    disk = Disk(tmp_path, faults, map_size_bytes=FULL_MAP_BYTES)
    replicas = disk.start()
    replicas.start(_state(2))
    await until(lambda: OLD in replicas and bool(disk.fills))
    await until(lambda: replicas[OTHER].log.ready)
    disk.close()


async def _fill(store: LmdbStore) -> None:
    """Give the first replica of the group all that there is room for."""
    await commit(store, WriteBatch(rows={(OLD, RAFT_TABLE, CONFIG_ROW): encode_row(1, [])}))
    start = 1
    while True:
        done: list[bool] = []
        store.commit(batch_of(OLD, start, start + 20, b"x" * 300), partial(done.append, True))
        await until(lambda: bool(done) or store.usage().full)  # noqa: B023 - it is over before the next round
        if not done:
            return
        start += 20
