"""Damaged replicas are filled again from the others, without a person: they are given up, and new ones come in their place.

Theory of operation. A replica whose stored bytes fail their check leads no more, but its node keeps it, for it may be
the last one with the rest. Its node asks group 0's leader to give it up. That leader looks at how the group is, and makes a
command of it (``core.metadata_renewal``): the old replica is lost, as if its disk were, and a new one is wanted on the same
node. The reconciler takes the one out of its group, upon which the node deletes it, and sees to the other.

Rules:

1. A replica is given up only where a majority of its group's voters, without it and without those that are lost already, holds
   what is committed, by the word of the group's leader. That word is of a moment that has passed when it is acted on: what
   keeps the replica from being needed is that it stays until a configuration without it is committed (``broker.given_up``).
2. One that was given up is not asked about again for ``RENEWED_PAUSE_S``, and twice as long each time, until it has been sound
   for ``RENEWED_PAUSE_MAX_S``: a disk that damages whatever is written to it must not keep its peers busy.
3. The metadata's own replica is not renewed: it is the node's name in the cluster. Where it cannot be opened, the node joins
   again (``node.node``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from raftlog.broker.metadata_calls import MetadataCalls
from raftlog.broker.metadata_machine import MetadataMachine
from raftlog.broker.reconciler import Reconciler
from raftlog.core.clock import Clock
from raftlog.core.metadata_values import PartitionMeta, Replica
from raftlog.core.reconcile import GroupReport
from raftlog.errors import InvalidRequestError, RaftlogError
from raftlog.model import ReplicaStatus
from raftlog.pb.raftlog.internal.v1 import metadata_pb2
from raftlog.pb.raftlog.internal.v1 import moves_pb2 as pb

_log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often a node looks at its replicas; the leader of group 0 looks at others no oftener than it is asked."""
REPLICAS_PER_CALL_MAX = 100
"""Replicas that a node asks about at once: their renewal is one entry of group 0."""
REFUSED_PAUSE_S = 2.0
"""What was refused is asked again after this: other replicas have to come back first."""
RENEWED_PAUSE_S, RENEWED_PAUSE_MAX_S = 10.0, 3_600.0
"""Rule 2."""
NEVER_S = float("-inf")
"""Since when a replica is due that was never asked about."""


class DamagedReplicas(Protocol):
    """This node's replicas, of either kind."""

    def damaged(self) -> Mapping[int, int]:
        """The replica ids of those that are damaged, by group."""
        ...


class Renewals:
    """The side of the node that has a damaged replica.

    Args:
        node_id: this node.
        replicas: its replicas.
        ask: asks group 0's leader.
        clock: for pauses.
    """

    def __init__(
        self, node_id: int, *, replicas: DamagedReplicas, ask: Callable[[pb.RenewCall], Awaitable[pb.RenewAnswer]], clock: Clock
    ) -> None:
        self._node_id = node_id
        self._replicas = replicas
        self._ask = ask
        self._clock = clock
        self._next_s: dict[int, float] = {}
        """By group: when it may be asked about again."""
        self._times: dict[int, int] = {}
        """By group: how often a replica of it was renewed here lately."""
        self._waits: dict[int, str] = {}
        """By group: why it was refused."""
        self.renewed = 0
        """Replicas that were given up for new ones, since the start."""

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except Exception:
                # Whatever the other node answered: a look that cannot be had must not be the last one.
                _log.exception("looking for damaged replicas failed")

    async def look(self) -> None:
        """Look once, and ask about what is due."""
        damaged = self._replicas.damaged()
        self._waits = {group: why for group, why in self._waits.items() if group in damaged}
        now_s = self._clock.monotonic_s()
        self._next_s = {
            group: at_s for group, at_s in self._next_s.items() if group in damaged or now_s < at_s + RENEWED_PAUSE_MAX_S
        }
        self._times = {group: times for group, times in self._times.items() if group in self._next_s}
        # Those never asked about first, then those that are due for longest: what is refused is due again before all had a turn.
        due = sorted(
            (group for group in damaged if self._next_s.get(group, NEVER_S) <= now_s),
            key=lambda group: self._next_s.get(group, NEVER_S),
        )[:REPLICAS_PER_CALL_MAX]
        if not due:
            return
        call = pb.RenewCall(
            node_id=self._node_id, replicas=[pb.DamagedReplica(group=group, replica_id=damaged[group]) for group in due]
        )
        try:
            answer = await self._ask(call)
            refused = {one.group: one.why for one in answer.refused}
        except RaftlogError as error:
            refused = dict.fromkeys(due, str(error))
        for group in due:
            self._note(group, refused.get(group))

    def _note(self, group: int, refused: str | None) -> None:
        now_s = self._clock.monotonic_s()
        if refused is not None:
            if self._waits.get(group) != refused:
                _log.warning("the damaged replica of group %d is not filled again yet: %s", group, refused)
            self._waits[group] = refused
            self._next_s[group] = now_s + REFUSED_PAUSE_S
            return
        times = self._times[group] = self._times.get(group, 0) + 1
        self._waits.pop(group, None)
        self._next_s[group] = now_s + min(RENEWED_PAUSE_S * 2 ** min(times - 1, 16), RENEWED_PAUSE_MAX_S)
        self.renewed += 1
        _log.warning("the damaged replica of group %d is given up for a new one (%d since the start)", group, times)

    def explain(self, statuses: Iterable[ReplicaStatus]) -> list[ReplicaStatus]:
        """The same, those of damaged replicas with what they wait for."""
        return [replace(one, waits_for=self._waits.get(one.group_id, one.waits_for)) if one.damaged else one for one in statuses]


class Renewing:
    """The side of group 0's leader.

    Args:
        machine: group 0's state machine here.
        metadata: proposes commands.
        reconciler: the way to the groups' leaders.
        clock: stamps renewals.
    """

    def __init__(self, *, machine: MetadataMachine, metadata: MetadataCalls, reconciler: Reconciler, clock: Clock) -> None:
        self._machine = machine
        self._metadata = metadata
        self._reconciler = reconciler
        self._clock = clock

    async def renew(self, call: pb.RenewCall) -> pb.RenewAnswer:
        """Give up the replicas that their groups can do without.

        Raises:
            InvalidRequestError: it asks about too many.
            StalePlacementError: one of them was placed anew just now; ask again.
            RaftlogError: of the metadata command.
        """
        if len(call.replicas) > REPLICAS_PER_CALL_MAX:
            raise InvalidRequestError(f"ask about {REPLICAS_PER_CALL_MAX} damaged replicas at most, not {len(call.replicas)}")
        places = self._places({one.group for one in call.replicas})
        reports = await self._reconciler.reports(meta for _, _, meta in places.values())
        refused: dict[int, str] = {}
        renewed = []
        for one in call.replicas:
            replica = (call.node_id, one.replica_id)
            why = self._why_not(one.group, replica, places, reports)
            if why:
                refused[one.group] = why
                continue
            topic_id, number, meta = places[one.group]
            renewed.append(
                metadata_pb2.RenewedReplica(
                    topic_id=topic_id, partition=number, placed_index=meta.placed_index,
                    replica=metadata_pb2.ReplicaRow(node_id=replica[0], replica_id=replica[1]),
                )
            )  # fmt: skip
        if renewed:
            command = metadata_pb2.RenewReplicas(replicas=renewed, renewed_at_ms=self._clock.wall_ms())
            await self._metadata.propose_here(metadata_pb2.MetadataCommand(renew_replicas=command))
        return pb.RenewAnswer(refused=[pb.NotRenewed(group=group, why=why) for group, why in refused.items()])

    def _places(self, groups: set[int]) -> dict[int, tuple[bytes, int, PartitionMeta]]:
        """Topic id, number and placement by group."""
        return {
            meta.group_id: (topic.topic_id, number, meta)
            for topic in self._machine.state.topics.values()
            for number, meta in enumerate(topic.partitions)
            if meta.group_id in groups
        }

    def _why_not(
        self, group: int, replica: Replica, places: Mapping[int, tuple[bytes, int, PartitionMeta]],
        reports: Mapping[int, GroupReport],
    ) -> str:  # fmt: skip
        """Why a replica is not given up, in words; empty where it may be. (Rule 1)"""
        if group not in places:
            return "no topic has its group any more"
        meta, report = places[group][2], reports.get(group)
        if replica not in meta.replicas + meta.leaving:
            return "it is not wanted any more"
        if report is None:
            return "the others have no leader just now" if len(meta.replicas) > 1 else "there is no other replica"
        good = [one for one in report.voters if one != replica and one not in meta.lost and report.good(one)]
        if replica in report.voters and 2 * len(good) <= len(report.voters):
            return f"only {len(good)} of the {len(report.voters)} voters hold what is committed, which must be more than half"
        return ""
