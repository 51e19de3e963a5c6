"""The calls about moving replicas as values and back (``proto/raftlog/internal/v1/moves.proto``)."""

from __future__ import annotations

from typing import Final

from raftlog.core.configuration import member_id, node_of, replica_of
from raftlog.core.metadata_values import Replica
from raftlog.core.reconcile import FollowerReport, GroupReport, StepKind
from raftlog.model import Balanced, Move, Replacement, TopicPartition
from raftlog.pb.raftlog.internal.v1 import moves_pb2 as pb

KINDS: Final = {
    StepKind.ADD: pb.STEP_KIND_ADD,
    StepKind.PROMOTE: pb.STEP_KIND_PROMOTE,
    StepKind.TRANSFER: pb.STEP_KIND_TRANSFER,
    StepKind.REMOVE: pb.STEP_KIND_REMOVE,
    StepKind.FORGET: pb.STEP_KIND_FORGET,
}
KINDS_OF: Final = {number: kind for kind, number in KINDS.items()}


def member(replica: Replica) -> int:
    """A replica as its group's member."""
    return member_id(*replica)


def replica(member: int) -> Replica:
    """A group's member as (node id, replica id)."""
    return node_of(member), replica_of(member)


def report_message(report: GroupReport) -> pb.GroupReport:
    """A group's report."""
    return pb.GroupReport(
        group=report.group,
        leader=member(report.leader),
        term=report.term,
        voters=map(member, report.voters),
        learners=map(member, report.learners),
        committed=report.committed,
        first_index=report.first_index,
        last_index=report.last_index,
        commit_index=report.commit_index,
        size_bytes=report.size_bytes,
        followers=[
            pb.FollowerReport(
                member=member(one), match_index=seen.match_index, lag_ms=seen.lag_ms, live=seen.live, damaged=seen.damaged,
                snapshot_sent_bytes=seen.snapshot_sent_bytes, snapshot_bytes=seen.snapshot_bytes,
            )
            for one, seen in report.followers.items()
        ],
    )  # fmt: skip


def report_of(message: pb.GroupReport) -> GroupReport:
    """The report of a message."""
    return GroupReport(
        group=message.group,
        leader=replica(message.leader),
        term=message.term,
        voters=tuple(map(replica, message.voters)),
        learners=tuple(map(replica, message.learners)),
        committed=message.committed,
        first_index=message.first_index,
        last_index=message.last_index,
        commit_index=message.commit_index,
        size_bytes=message.size_bytes,
        followers={
            replica(seen.member): FollowerReport(
                match_index=seen.match_index, lag_ms=seen.lag_ms, live=seen.live, damaged=seen.damaged,
                snapshot_sent_bytes=seen.snapshot_sent_bytes, snapshot_bytes=seen.snapshot_bytes,
            )
            for seen in message.followers
        },
    )  # fmt: skip


def move_message(move: Move) -> pb.Move:
    """A move."""
    return pb.Move(
        topic=move.tp.topic,
        partition=move.tp.partition,
        group_id=move.group_id,
        replicas=move.replicas,
        adding=move.adding,
        removing=move.removing,
        reason=move.reason,
        state=move.state,
        held_up=move.held_up,
        started_at_ms=move.started_at_ms,
        bytes_total=move.bytes_total,
        bytes_done=move.bytes_done,
        rate=move.rate,
        seconds_left=-1.0 if move.seconds_left is None else move.seconds_left,
    )


def move_of(message: pb.Move) -> Move:
    """The move of a message."""
    return Move(
        tp=TopicPartition(message.topic, message.partition),
        group_id=message.group_id,
        replicas=tuple(message.replicas),
        adding=tuple(message.adding),
        removing=tuple(message.removing),
        reason=message.reason,
        state=message.state,
        held_up=message.held_up,
        started_at_ms=message.started_at_ms,
        bytes_total=message.bytes_total,
        bytes_done=message.bytes_done,
        rate=message.rate,
        seconds_left=None if message.seconds_left < 0 else message.seconds_left,
    )


def balanced_message(balanced: Balanced) -> pb.BalanceAnswer:
    """What balancing changes."""
    return pb.BalanceAnswer(
        proposals=[
            pb.Proposal(
                topic=one.tp.topic, partition=one.tp.partition, before=one.before, replicas=one.replicas,
                reason=one.reason, size_bytes=one.size_bytes,
            )
            for one in balanced.replacements
        ],
        stuck=balanced.stuck,
    )  # fmt: skip


def balanced_of(message: pb.BalanceAnswer) -> Balanced:
    """What balancing changes, of a message."""
    return Balanced(
        replacements=tuple(
            Replacement(
                tp=TopicPartition(one.topic, one.partition), before=tuple(one.before), replicas=tuple(one.replicas),
                reason=one.reason, size_bytes=one.size_bytes,
            )
            for one in message.proposals
        ),
        stuck=tuple(message.stuck),
    )  # fmt: skip
