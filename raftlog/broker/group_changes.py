"""What the leader of a group tells the reconciler, and does for it.

Rules:

1. A change is made only where all is as the reconciler saw it: this node leads, in the same term, and the group's
   configuration is the same and committed. So a call that comes late, or twice, changes nothing.
2. A reconciler that has been deposed is refused: its term of group 0 is below the one that this node knows, be it only from
   another one's call. What that one was told must stay so: that a replica is gone, upon which its data is deleted.
3. Who votes is changed only if a majority of those that vote then has answered since that was asked for, whatever the report
   said (``asking``). The one that is to be a voter is among them, and holds what is committed; and they do, where one is removed.
4. That a replica is in no configuration any more is said only after a barrier: a deposed leader would tell of old times.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable
from typing import Protocol

from raftlog.broker.asking import ask
from raftlog.broker.move_codec import KINDS_OF, replica, report_message
from raftlog.consensus.port import SILENT_S, ReplicatedLog
from raftlog.core.clock import Clock
from raftlog.core.configuration import Configuration, member_id, node_of
from raftlog.core.reconcile import CAUGHT_UP_MS, FollowerReport, GroupReport, StepKind
from raftlog.errors import (
    DataLossError,
    InvalidRequestError,
    NotLeaderError,
    StalePlacementError,
    UnavailableError,
)
from raftlog.pb.raftlog.internal.v1 import moves_pb2 as pb

LAG_UNKNOWN_MS = (1 << 31) - 1
"""Of a follower that lacks entries which the leader no longer has: its age cannot be told."""


class Groups(Protocol):
    """This node's replicas, of either kind."""

    def groups(self) -> list[int]:
        """Their groups."""
        ...

    def log(self, group: int) -> ReplicatedLog | None:
        """The log of one."""
        ...


class GroupChanges:
    """See the module.

    Args:
        node_id: this node.
        replicas: its groups.
        controller_term: group 0's term as far as this node knows.
        connected: whether there is a link to a node.
        clock: ages entries.
        low: whether this node is short of room.
        timeout_s: how long a barrier may take.
    """

    def __init__(
        self, node_id: int, *, replicas: Groups, controller_term: Callable[[], int], connected: Callable[[int], bool],
        clock: Clock, low: Callable[[], bool], timeout_s: float,
    ) -> None:  # fmt: skip
        self._low = low
        self._node_id = node_id
        self._replicas = replicas
        self._controller_term = controller_term
        self._called_in_term = 0
        """The highest term of group 0 that a call was made in."""
        self._connected = connected
        self._clock = clock
        self._timeout_s = timeout_s

    def report(self, call: pb.ReportGroupsCall) -> pb.ReportGroupsAnswer:
        """The groups that this node leads and serves, of those asked for."""
        reports = map(self._report, call.groups)
        return pb.ReportGroupsAnswer(reports=[report_message(report) for report in reports if report is not None])

    def load(self) -> pb.NodeLoadAnswer:
        """What this node's replicas take."""
        logs = ((group, self._replicas.log(group)) for group in self._replicas.groups())
        return pb.NodeLoadAnswer(
            groups=[
                pb.GroupLoad(group=group, size_bytes=log.size_bytes, first_index=log.first_index, last_index=log.last_index)
                for group, log in logs
                if log is not None
            ],
            low=self._low(),
        )

    async def change(self, call: pb.ChangeGroupCall) -> None:
        """Take a step.

        Raises:
            NotLeaderError: this node does not lead the group, or not in that term.
            UnavailableError: the group is about to change already.
            StalePlacementError: the group or the cluster's leader is not what the caller saw; ask again.
        """
        kind = KINDS_OF.get(call.kind)
        if kind is None:
            raise InvalidRequestError(f"this node knows no step {call.kind}; its version may be older than the caller's")
        log = self._as_seen(call)
        if kind is StepKind.FORGET:
            await self._confirm_gone(log, call)
            return
        if kind is StepKind.PROMOTE:
            await self._ask(log, log.configuration.with_voter(call.member).voters, call.member)
        elif kind is StepKind.REMOVE and call.member in call.voters:
            await self._ask(log, log.configuration.without(call.member).voters)
        self._change(kind, self._as_seen(call), call.member)

    def _as_seen(self, call: pb.ChangeGroupCall) -> ReplicatedLog:
        """Rules 1 and 2: the log of a group that is as the caller saw it."""
        if call.controller_term < max(self._called_in_term, self._controller_term()):
            raise StalePlacementError(f"the cluster has had another leader since term {call.controller_term} of group 0")
        log = self._led(call.group, call.term)
        seen = Configuration.of(call.voters, call.learners)
        if log.configuration != seen or not log.configuration_committed:
            raise StalePlacementError(f"group {call.group} has {log.configuration} by now, not {seen}; look at it again")
        self._called_in_term = call.controller_term
        return log

    def _change(self, kind: StepKind, log: ReplicatedLog, one: int) -> None:
        configuration = log.configuration
        if kind is StepKind.ADD:
            log.reconfigure(configuration.with_learner(one))
        elif kind is StepKind.REMOVE:
            log.reconfigure(configuration.without(one))
        else:
            report = self._report(log.group)
            if report is None or not report.good(replica(one)):
                raise UnavailableError(f"replica {replica(one)} of group {log.group} is behind just now")
            if kind is StepKind.PROMOTE:
                log.reconfigure(configuration.with_voter(one))
            elif not log.transfer(one):
                raise UnavailableError(f"replica {replica(one)} of group {log.group} cannot take over just now")

    async def _ask(self, log: ReplicatedLog, voters: Collection[int], promoted: int | None = None) -> None:
        """Rule 3, of those that are to vote."""

        def enough(others: set[int]) -> bool:
            report = self._report(log.group)
            if report is None:
                return False
            answered = others | {member_id(*report.leader)}
            good = {one for one in answered if report.good(replica(one))}
            # A voter more takes nothing from those that are behind; with one less they may be what a majority needs.
            count = len((good if promoted is None else answered).intersection(voters))
            return 2 * count > len(voters) and promoted in (None, *good)

        if not await ask(log, enough):
            few = [replica(one) for one in voters]
            raise UnavailableError(f"too few of {few} answer and hold what group {log.group} has committed")

    async def _confirm_gone(self, log: ReplicatedLog, call: pb.ChangeGroupCall) -> None:
        await log.barrier(self._timeout_s)
        if log.term != call.term or not log.configuration_committed or call.member in log.configuration.members:
            raise StalePlacementError(f"replica {replica(call.member)} is a member of group {call.group}")

    def _led(self, group: int, term: int) -> ReplicatedLog:
        log = self._replicas.log(group)
        if log is None or not log.ready or log.term != term:
            raise NotLeaderError(f"node {self._node_id} does not lead group {group} in term {term}")
        return log

    def _report(self, group: int) -> GroupReport | None:
        log = self._replicas.log(group)
        if log is None or not log.ready:
            return None
        configuration, followers = log.configuration, log.followers()
        own = self._own(configuration.members, followers)
        if own is None:
            return None
        now_ms = self._clock.wall_ms()
        return GroupReport(
            group=group,
            leader=replica(own),
            term=log.term,
            voters=tuple(map(replica, configuration.voters)),
            learners=tuple(map(replica, configuration.learners)),
            committed=log.configuration_committed,
            first_index=log.first_index,
            last_index=log.last_index,
            commit_index=log.commit_index,
            size_bytes=log.size_bytes,
            followers={
                replica(one): FollowerReport(
                    match_index=seen.match_index,
                    lag_ms=_lag_ms(log, seen.match_index, now_ms),
                    live=self._connected(replica(one)[0]) and seen.heard_s <= SILENT_S,
                    damaged=seen.damaged,
                    snapshot_sent_bytes=seen.snapshot_sent_bytes,
                    snapshot_bytes=seen.snapshot_total_bytes,
                )
                for one, seen in followers.items()
            },
        )

    def _own(self, members: Iterable[int], followers: Container[int]) -> int | None:
        """This node's own member; None where it leads a group that it has left. A disk that it lost may be another one."""
        return next((one for one in members if node_of(one) == self._node_id and one not in followers), None)


def _lag_ms(log: ReplicatedLog, match_index: int, now_ms: int) -> int:
    """Age of the oldest entry that a follower lacks; 0 where it lacks none that is committed."""
    if match_index >= log.commit_index:
        return 0
    try:
        header = log.header(match_index + 1)
    except DataLossError:
        header = None
    if header is None or header.append_time - now_ms > CAUGHT_UP_MS:  # stamped by a clock that is ahead of this one
        return LAG_UNKNOWN_MS
    return min(max(now_ms - header.append_time, 0), LAG_UNKNOWN_MS)
