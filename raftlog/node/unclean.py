"""Going on without a majority that is lost for good: what a stopped node's data allows, and what it costs; then doing it.

Theory of operation. A person names the nodes whose disks are lost. A group needs force if the voters that are left are no
majority of it; where they are one, nothing is done: it goes on by itself. For each group that needs it, this node's replica
becomes the only voter (``consensus.forcing``). What was acknowledged and is not on this replica cannot be told from here; so the
plan says how far the replica's log goes and how old its end is, for a person to compare with other survivors and to decide.

Rules:

1. First the lost nodes are shut out (``storage.identity.declare_lost``), then all groups change in one transaction. A crash in
   between leaves a node that refuses those nodes; doing it again does the rest.
2. The metadata may lack the newest ids that it gave out, so its counters leap (``core.metadata``, rule 6).
3. A replica that may lack committed entries of its own kind (it fills up after a snapshot), or cannot be read, is not forced.
4. What is written is of the second feature level, so the directory is marked with it; and a cluster of the first is raised to it
   by the same force, for nobody could be asked. Nodes of the first version are shut out until they are upgraded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from raftlog.broker.broker import FOUNDERS_INCARNATION
from raftlog.broker.metadata_machine import command_entry
from raftlog.consensus import damage
from raftlog.consensus.forcing import force
from raftlog.consensus.journal import GroupJournal, stored_replica
from raftlog.consensus.port import Build
from raftlog.consensus.tail import TailCache
from raftlog.consensus.unclean import forget
from raftlog.core.configuration import Configuration, member_id, named, node_of, replica_of
from raftlog.core.features import Level
from raftlog.core.metadata import MetadataState
from raftlog.core.metadata_values import PartitionMeta
from raftlog.errors import DataDirectoryError, DataLossError, InvalidRequestError
from raftlog.model import METADATA_GROUP, TopicPartition
from raftlog.node.stopped import load_metadata, names_of
from raftlog.pb.raftlog.internal.v1 import metadata_pb2 as pb
from raftlog.storage import identity
from raftlog.storage.data_directory import IDENTITY_FILE
from raftlog.storage.environment import data_file, opened_read_only
from raftlog.storage.identity import Identity
from raftlog.storage.offline import write_once
from raftlog.storage.port import Store, StoreReader, WriteBatch
from raftlog.storage.reader import LmdbReader

SKIPPED_GROUPS = 1_000_000
SKIPPED_PRODUCERS = 1_000_000_000
SKIPPED_REPLICAS = SKIPPED_INCARNATIONS = 1_000
"""More ids than lost metadata commands can have given out."""
LOOK_BACK_ENTRIES_MAX = 1_000
"""How far back the newest entry with a time is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForcedGroup:
    """A group that needs force, and what this replica of it holds. Members are member ids."""

    group: int
    name: TopicPartition | None
    """None for the cluster's metadata."""
    member: int
    voters: tuple[int, ...]
    survivors: tuple[int, ...]
    """The members that are not lost, without this one: its learners from then on."""
    lost: tuple[int, ...]
    """The voters that are."""
    commit_index: int
    last_index: int
    last_term: int
    end_offset: int
    """The offset after the last record."""
    given_up: bool
    """The metadata has given the replica up for a new one."""
    written_at_ms: int
    """When the newest of the last entries was appended, by its leader's clock; 0 where none of them says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would be done, and for which groups nothing is, by group id with the reason."""

    node_id: int
    lost: dict[int, int]
    """Ids of the lost nodes, and the newest incarnation that the metadata here knows of each: which disk it is."""
    forced: tuple[ForcedGroup, ...]
    left: dict[int, str]


def plan(directory: Path, lost: Collection[int], groups: Collection[int] | None) -> Plan:
    """What is to be done in a data directory whose lock the caller holds. Nothing is changed.

    Args:
        lost: ids of the nodes whose disks are lost for good.
        groups: the groups to look at; None: all of which this node has a replica.

    Raises:
        InvalidRequestError: this node is among the lost, or a group is named of which it has no replica.
        DataDirectoryError: identity or log cannot be read.
    """
    known = _identity(directory)
    if known.node_id in lost:
        raise InvalidRequestError(f"this is the data of node {known.node_id}, which is said to be lost; name only the others")
    path = data_file(directory)
    with opened_read_only(path) as (env, dbs):
        reader = LmdbReader(env, dbs, path)
        try:
            held = reader.groups()
            missing = sorted(set(groups or ()) - set(held))
            if missing:
                raise InvalidRequestError(f"there is no replica of group {missing[0]} here; raftlog storage info lists them")
            return _Planning(reader, known, frozenset(lost)).plan(held if groups is None else sorted(set(groups)))
        finally:
            reader.end_reading()


def carry_out(directory: Path, decided: Plan, now_ms: int) -> None:
    """Do what ``plan`` said, in the same data directory under the same lock; durable when it returns.

    Raises:
        DataDirectoryError, StorageFailedError: it could not be written.
        StorageFullError: there is no room for it.
    """
    known = _identity(directory)
    marked = replace(identity.declare_lost(known, decided.lost), level=max(known.level, Level.MEMBERSHIP))
    identity.store(directory / IDENTITY_FILE, marked)

    def forced(store: Store) -> WriteBatch:
        gathered = _Gathered()
        state = load_metadata(store)
        founders = _founders(known, state)
        for each in decided.forced:
            journal = GroupJournal(
                each.group, store, TailCache(0), gathered,
                replica=replica_of(each.member), founders=founders.get(each.group, ()),
            )  # fmt: skip
            force(
                journal, gathered.batch, member=each.member, learners=each.survivors, lost=each.lost, now_ms=now_ms,
                given_up=each.given_up,
                behind=_metadata_commands(known, state, now_ms) if each.group == METADATA_GROUP else [],
            )  # fmt: skip
        return gathered.batch

    asyncio.run(write_once(directory, forced))


def forget_all(directory: Path) -> list[int]:
    """Remove what is remembered of force, in a data directory whose lock the caller holds: the groups that there were.

    Raises:
        DataDirectoryError, StorageFailedError: it could not be read or written.
        StorageFullError: there is no room for it.
    """
    forgotten: list[int] = []

    def without(store: Store) -> WriteBatch:
        batch = WriteBatch()
        forgotten.extend(group for group in store.groups() if forget(store, group, batch))
        return batch

    asyncio.run(write_once(directory, without))
    return forgotten


def forget_damage(directory: Path, groups: Collection[int]) -> list[int]:
    """Remove the marks of replicas that were found to be damaged, all or those of ``groups``: those that there were. As above."""
    forgotten: list[int] = []

    def without(store: Store) -> WriteBatch:
        batch = WriteBatch()
        wanted = (group for group in store.groups() if not groups or group in groups)
        forgotten.extend(group for group in wanted if damage.forget(store, group, batch))
        return batch

    asyncio.run(write_once(directory, without))
    return forgotten


class _Gathered:
    """What journals gather into."""

    def __init__(self) -> None:
        self.batch = WriteBatch()


class _Planning:
    """Looks at one group after the other."""

    def __init__(self, reader: StoreReader, known: Identity, lost: frozenset[int]) -> None:
        self._reader, self._node_id, self._lost = reader, known.node_id, lost
        state = load_metadata(reader)
        self._names, self._founders = names_of(state), _founders(known, state)
        self._nodes = state.nodes | state.removed
        self._given_up: set[int] = set()
        self._placed = {METADATA_GROUP: member_id(known.node_id, known.incarnation)}
        """By group, the member that the node will open."""
        for partition in (partition for topic in state.topics.values() for partition in topic.partitions):
            replica = self._held(partition) or partition.replica_on(known.node_id)
            if replica is not None:
                self._placed[partition.group_id] = member_id(known.node_id, replica)

    def _held(self, partition: PartitionMeta) -> int | None:
        """The replica whose data is here, where it was given up for a new one and is in its group yet (``broker.given_up``)."""
        lost = [replica for node, replica in partition.lost if node == self._node_id]
        with suppress(DataLossError):
            held = stored_replica(self._reader, partition.group_id) if lost else None
            if held in lost:
                self._given_up.add(partition.group_id)
                return held
        return None

    def plan(self, groups: list[int]) -> Plan:
        """See ``plan``."""
        forced, left = [], {}
        for group in groups:
            found = self._look(group)
            if isinstance(found, str):
                left[group] = found
            else:
                forced.append(found)
        lost = {node: self._nodes[node].incarnation if node in self._nodes else 1 for node in sorted(self._lost)}
        return Plan(node_id=self._node_id, lost=lost, forced=tuple(forced), left=left)

    def _look(self, group: int) -> ForcedGroup | str:
        """What is to be done for a group, or why nothing is."""
        member = self._placed.get(group)
        if member is None:
            return f"node {self._node_id} is to have no replica of it"
        try:
            journal = GroupJournal(
                group, self._reader, TailCache(0), _Gathered(),
                replica=replica_of(member), founders=self._founders.get(group, ()),
            )  # fmt: skip
            held = stored_replica(self._reader, group)
        except DataLossError as error:
            return f"its replica cannot be read: {error}"
        configuration = journal.configuration
        if journal.last_index == 0 or not configuration.voters:
            return "its replica holds nothing that could go on"
        if member not in configuration.members or held not in (None, replica_of(member)):
            return f"its replica {named(member)} is no member of it, or what is here is another one's"
        if journal.applied_index > journal.commit_index:
            return "its replica was being filled from another one, and is not whole"
        lost = tuple(voter for voter in configuration.voters if node_of(voter) in self._lost)
        return _needless(configuration, member, len(lost)) or self._forced(journal, member, lost)

    def _forced(self, journal: GroupJournal, member: int, lost: tuple[int, ...]) -> ForcedGroup:
        survivors = [other for other in journal.configuration.members if node_of(other) not in self._lost and other != member]
        last = journal.last
        return ForcedGroup(
            group=journal.group,
            name=self._names.get(journal.group),
            member=member,
            voters=journal.configuration.voters,
            survivors=tuple(survivors),
            lost=lost,
            commit_index=journal.commit_index,
            last_index=last.index,
            last_term=last.term,
            end_offset=last.next_offset,
            given_up=journal.group in self._given_up,
            written_at_ms=_written_at_ms(journal),
        )


def _needless(configuration: Configuration, member: int, lost: int) -> str:
    """Why a group goes on without force; empty where it does not."""
    voters = len(configuration.voters)
    if configuration.voters == (member,):
        return "this replica is its only voter already"
    if (voters - lost) * 2 > voters:
        return f"its majority is not lost: {voters - lost} of {voters} voters are left, and go on by themselves"
    return ""


def _written_at_ms(journal: GroupJournal) -> int:
    for index in range(journal.last_index, max(journal.first_index, journal.last_index - LOOK_BACK_ENTRIES_MAX) - 1, -1):
        header = journal.header(index)
        if header is not None and header.append_time > 0:
            return header.append_time
    return 0


def _identity(directory: Path) -> Identity:
    known = identity.load(directory / IDENTITY_FILE)
    if known is None:
        raise DataDirectoryError(f"there is no {directory / IDENTITY_FILE}: nobody knows whose data this is")
    return known


def _founders(known: Identity, state: MetadataState) -> dict[int, tuple[int, ...]]:
    """First voters by group: in force where a log's disk says of no configuration."""
    founders = {
        partition.group_id: tuple(member_id(*replica) for replica in partition.founders)
        for topic in state.topics.values()
        for partition in topic.partitions
    }
    return founders | {METADATA_GROUP: tuple(member_id(voter, FOUNDERS_INCARNATION) for voter in known.voters)}


def _metadata_commands(known: Identity, state: MetadataState, now_ms: int) -> list[Build]:
    """Rules 2 and 4."""
    skip = pb.SkipIds(
        groups=SKIPPED_GROUPS, producers=SKIPPED_PRODUCERS, replicas=SKIPPED_REPLICAS, incarnations=SKIPPED_INCARNATIONS
    )
    commands = [pb.MetadataCommand(skip_ids=skip)]
    if state.level < Level.MEMBERSHIP:
        raising = pb.RaiseLevel(level=Level.MEMBERSHIP, without=sorted(known.voters.keys() | state.nodes.keys()))
        commands.insert(0, pb.MetadataCommand(raise_level=raising))
    return [_built(command, now_ms) for command in commands]


def _built(command: pb.MetadataCommand, now_ms: int) -> Build:
    payload = command.SerializeToString(deterministic=True)
    return lambda index, term, before: command_entry(index, term, before, payload, now_ms)
