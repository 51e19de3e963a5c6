"""This node's replicas: opened and dropped as the applied metadata says. Those of data are partitions, those of the internal
topic are coordinators of groups.

Rules:

1. A replica is opened as soon as the metadata names this node for it, also at start from restored rows: groups do not wait
   for group 0's quorum.
2. Data is deleted only for a group that the applied metadata created and deleted again, or took this node's replica of. Group
   ids are never reused, so a group below the counter that no topic has is such a one; a group above it is kept: the metadata
   here is merely older. Where metadata was lost, nothing is deleted for not being named (``MetadataState.deleted``). A replica
   that is leaving is kept open, for its group may need it yet.
3. A replica that came later opens without founders, as a learner that knows nothing: the group's leader tells it.
4. Work is done outside of the consensus turn that applied the change, in order, and ``STEP_REPLICAS`` at a time: a topic may
   have a thousand partitions, and the others shall not wait until all of them are open.
5. One that was given up for a new one is kept until its group is without it: see ``given_up``.
6. A replica takes the place of another one on the same node only when the data of that is deleted, which takes its time: were it
   opened before, no group of the node would have a turn until all is deleted in one transaction, and on a full disk that would
   never be. Until then it is one that is not open yet. Nothing else waits for it, also not at a start.
7. What goes wrong with one replica is logged, and harms no other; what nobody expects, or is fatal, ends the node. Neither keeps
   what comes later from being acted on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice

from raftlog.broker.coordinator import Coordinator
from raftlog.broker.given_up import WAITS_FOR, Due, GivenUp
from raftlog.broker.group_port import GROUPS_TOPIC
from raftlog.broker.partition import Partition
from raftlog.broker.pending import Budget
from raftlog.config.topic import TopicConfig
from raftlog.consensus.port import Consensus, ReplicatedLog
from raftlog.core.configuration import member_id
from raftlog.core.features import Level
from raftlog.core.metadata import MetadataState
from raftlog.core.metadata_values import Effects, PartitionMeta, TopicMeta
from raftlog.errors import FatalError, NewerFormatError, RaftlogError
from raftlog.model import METADATA_GROUP, ReplicaStatus, Role, TopicPartition
from raftlog.storage.port import Store

_log = logging.getLogger(__name__)

STEP_REPLICAS = 16
"""Opened or dropped in one go: some milliseconds of the event loop."""

MakeCoordinator = Callable[[TopicPartition, int], Coordinator]


class Replicas(Mapping[int, Partition]):
    """The open replicas of data by group id; those of groups are in ``coordinators``.

    Args:
        node_id: this node.
        consensus: opens and drops groups.
        store: which groups have data here.
        budget: the node's bytes of waiting publishes.
        lost_wait_s: see ``Partition``.
        make_coordinator: makes the coordinator of a partition of the internal topic, by its name and group.
        fail: called with what the node must not go on with.
    """

    def __init__(
        self, node_id: int, *, consensus: Consensus, store: Store, budget: Budget, lost_wait_s: float,
        make_coordinator: MakeCoordinator, fail: Callable[[Exception], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._node_id = node_id
        self._consensus = consensus
        self._store = store
        self._budget = budget
        self._lost_wait_s = lost_wait_s
        self._make_coordinator = make_coordinator
        self._fail = fail
        self.coordinators: dict[int, Coordinator] = {}
        self._open: dict[int, Partition] = {}
        self._replica_ids: dict[int, int] = {}
        """Of all replicas that were opened, could not be, or wait for it."""
        self._unopened: dict[int, TopicPartition] = {}
        """Replicas that are damaged beyond opening."""
        self._waiting: dict[int, Callable[[], None]] = {}
        """Rule 6: opens a replica, by group."""
        self._given_up = GivenUp(node_id, consensus)
        self._state = MetadataState()
        self._changes: deque[Iterator[None]] = deque()
        """What is applied, and not yet wholly acted on, in steps of a replica."""
        self._closed = False

    def __getitem__(self, group: int) -> Partition:
        return self._open[group]

    def __iter__(self) -> Iterator[int]:
        return iter(self._open)

    def __len__(self) -> int:
        return len(self._open)

    def statuses(self) -> list[ReplicaStatus]:
        """All replicas of this node by group id, those that could not be opened among them."""
        found = {group: partition.status(self._node_id) for group, partition in self._open.items()}
        found |= {group: coordinator.machine.status(self._node_id) for group, coordinator in self.coordinators.items()}
        found |= {group: self._unopened_status(group, name) for group, name in self._unopened.items()}
        found |= {group: replace(found[group], waits_for=WAITS_FOR) for group in self._given_up.groups & found.keys()}
        return [found[group] for group in sorted(found)]

    def damaged(self) -> dict[int, int]:
        """The replica ids of those that are damaged, or could not be opened, by group, but for those that are given up."""
        found = {log.group for log in self.logs() if log.damaged is not None} | self._unopened.keys()
        return {group: self._replica_ids[group] for group in sorted(found - self._given_up.groups)}

    @property
    def renews(self) -> bool:
        """Damaged replicas are renewed, at the cluster's feature level."""
        return self._state.level >= Level.RENEWAL

    def unfilled(self) -> set[int]:
        """The groups that lack a voter which is to be here: in the place of one that is lost, or was until it was forgotten."""
        return {
            one.group_id
            for topic in self._state.topics.values()
            for one in topic.partitions
            if one.group_id in self._replica_ids and self._is_unfilled(one)
        }

    def _is_unfilled(self, meta: PartitionMeta) -> bool:
        if meta.group_id in self._given_up.groups:
            return True
        moves = bool(meta.leaving) and not meta.lost  # the one that it comes for still votes
        return not moves and meta.group_id not in self._unopened and not self._votes(meta.group_id)

    def _votes(self, group: int) -> bool:
        log = self.log(group)
        return log is not None and member_id(self._node_id, self._replica_ids[group]) in log.configuration.voters

    def _unopened_status(self, group: int, name: TopicPartition) -> ReplicaStatus:
        return ReplicaStatus(
            topic=name.topic, partition=name.partition, group_id=group, node_id=self._node_id, role=Role.FOLLOWER, term=0,
            leader=None, first_index=0, last_index=0, commit_index=0, applied_index=0, log_start_offset=0, high_watermark=0,
            log_end_offset=0, size_bytes=0, damaged=True,
        )  # fmt: skip

    def start(self, state: MetadataState) -> None:
        """Open what the restored metadata names, and drop what it knows to be deleted."""
        self._state = state
        for _ in self._comparing():
            pass

    def _comparing(self) -> Iterator[None]:
        """Make the replicas those of the metadata as it is now, however it came to be that; in steps of a replica."""
        state = self._state
        here = {
            partition.group_id
            for topic in state.topics.values()
            for partition in topic.partitions
            if self._due(partition).replica is not None
        }
        for group in sorted({*self._store.groups(), *self._replica_ids}):
            if group != METADATA_GROUP and group not in here and state.deleted(group):
                self._drop(group)
                yield
        for topic in list(state.topics.values()):
            yield from self._opening(topic)

    def note(self, effects: Effects) -> None:
        """Take note of a change within a turn; it is acted on after it."""
        if not (effects.created or effects.altered or effects.deleted or effects.restored):
            return
        self._later(self._carry_out(effects))

    def close(self) -> None:
        """Tell whoever waits on a partition that nothing more comes. The groups themselves are closed by their owner."""
        self._closed = True
        for partition in self._open.values():
            partition.close()
        for coordinator in self.coordinators.values():
            coordinator.close()

    def groups(self) -> list[int]:
        """All open replicas of this node, of either kind, by group id."""
        return sorted([*self._open, *self.coordinators])

    def logs(self) -> list[ReplicatedLog]:
        """The logs of all open replicas of this node, of either kind."""
        return [*(one.log for one in self._open.values()), *(one.machine.log for one in self.coordinators.values())]

    def log(self, group: int) -> ReplicatedLog | None:
        """The log of a replica of this node, of either kind."""
        if group in self._open:
            return self._open[group].log
        coordinator = self.coordinators.get(group)
        return None if coordinator is None else coordinator.machine.log

    def _later(self, change: Iterator[None]) -> None:
        if not self._changes:
            asyncio.get_running_loop().call_soon(self._act)
        self._changes.append(change)

    def _act(self) -> None:
        if self._closed:
            return
        try:
            steps = sum(1 for _ in islice(self._changes[0], STEP_REPLICAS))
        except Exception as error:
            steps = 0  # the rest of this change is not carried out: the node cannot go on without
            self._give_up(error)
        if steps < STEP_REPLICAS:
            self._changes.popleft()
        if self._changes:
            asyncio.get_running_loop().call_soon(self._act)

    def or_fail(self, act: Callable[[], None]) -> None:
        """Do something that nothing waits for: what goes wrong in it ends the node, rather than be a line of the loop's log."""
        try:
            act()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        _log.critical("the replicas cannot be made what the metadata says", exc_info=error)
        self._fail(error)

    def _carry_out(self, effects: Effects) -> Iterator[None]:
        if effects.restored:
            yield from self._comparing()
        for topic in effects.created + effects.altered:
            yield from self._opening(topic)
        for meta in (meta for topic in effects.deleted for meta in topic.partitions):
            if meta.group_id in self._replica_ids or meta.replica_on(self._node_id) is not None:
                self._drop(meta.group_id)
            yield

    def _opening(self, topic: TopicMeta) -> Iterator[None]:
        config = TopicConfig.of(topic.configs)
        for number, meta in enumerate(topic.partitions):
            yield
            group, name = meta.group_id, TopicPartition(topic.name, number)
            due = self._due(meta)
            given_up = group in self._given_up.groups
            if given_up and due.opens and due.replica is not None and self._replica_ids.get(group, due.replica) != due.replica:
                # An error of reading has passed: what could not be opened is the one that was given up.
                self._unopened.pop(group, None)
                self._replica_ids[group] = due.replica
            left_alone = not due.opens or (given_up and group in self._unopened)
            if not left_alone and self._replica_ids.get(group, due.replica) != due.replica:
                self._drop(group)  # it went; and where it is to come again, it is another one
            if due.replica is None:
                continue
            if left_alone:
                self._leave_unopened(name, group, due.replica)
            elif group in self._open:
                self._open[group].config = config
            elif group not in self.coordinators:
                self._open_replica(name, meta, due.replica, config)
            if given_up and self.log(group) is not None:
                self._consensus.give_up(group)

    def _due(self, meta: PartitionMeta) -> Due:
        return self._given_up.due(meta, self._replica_ids.get(meta.group_id), opened=meta.group_id not in self._unopened)

    def _leave_unopened(self, name: TopicPartition, group: int, replica: int) -> None:
        if group not in self._unopened:
            _log.error("partition %s (group %d) is not opened: what is here of it is damaged, or may be an old copy", name, group)
        self._unopened[group], self._replica_ids[group] = name, replica

    def _open_replica(self, name: TopicPartition, meta: PartitionMeta, replica: int, config: TopicConfig) -> None:
        """Open a replica, or have it wait for its place. (Rule 6)"""
        group = meta.group_id
        self._replica_ids[group] = replica
        self._waiting[group] = partial(self._open_replica, name, meta, replica, config)
        try:
            if self._consensus.vacant(group, replica, lambda: self._later(self._opening_vacant(group))):
                del self._waiting[group]
                self._begin(name, meta, replica, config)
        except RaftlogError as error:
            if isinstance(error, NewerFormatError):
                self._fail(error)  # it is sound, and must not be taken for damage: this version is the wrong one
            else:
                self._unopened[group] = name
            # The other partitions must not suffer for this one; its other replicas serve it.
            _log.exception("partition %s (group %d) cannot be opened", name, group)
            self._waiting.pop(group, None)
            self._consensus.close(group)

    def _begin(self, name: TopicPartition, meta: PartitionMeta, replica: int, config: TopicConfig) -> None:
        group = meta.group_id
        coordinator = self._make_coordinator(name, group) if name.topic == GROUPS_TOPIC else None
        partition = Partition(name, group, config=config, budget=self._budget, lost_wait_s=self._lost_wait_s)
        machine = partition if coordinator is None else coordinator.machine
        own = (self._node_id, replica)
        log = self._consensus.open(
            group, machine, replica=replica, preferred=meta.founders[0] == own,
            founders=tuple(member_id(*one) for one in meta.founders) if own in meta.founders else (),
        )  # fmt: skip
        machine.bind(log)
        self._unopened.pop(group, None)
        if coordinator is None:
            self._open[group] = partition
        else:
            self.coordinators[group] = coordinator

    def _opening_vacant(self, group: int) -> Iterator[None]:
        """Try again to open a replica that waits for its place; meanwhile it may have gone, or have been opened."""
        open_replica = self._waiting.pop(group, None)
        if open_replica is not None:
            open_replica()
        yield

    def _drop(self, group: int) -> None:
        """Close a replica, if it is open, and delete its data."""
        self._replica_ids.pop(group, None)
        self._unopened.pop(group, None)
        self._waiting.pop(group, None)
        self._given_up.groups.discard(group)
        replica = self._open.pop(group, None) or self.coordinators.pop(group, None)
        try:
            if replica is not None:
                replica.close()
            self._consensus.drop(group)
        except RaftlogError as error:
            # As above, the others must not suffer for it. What it has left is deleted at the next start.
            _log.exception("the replica of group %d cannot be dropped", group)
            if isinstance(error, FatalError):
                self._fail(error)
