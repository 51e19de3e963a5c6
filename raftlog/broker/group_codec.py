"""What brokers say to each other about groups, as values and as protobuf."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from raftlog.core import error_codec
from raftlog.core.groups.values import (
    CommittedOffset,
    DescribedGroup,
    DescribedMember,
    GroupMember,
    GroupState,
    JoinedGroup,
    JoinedMember,
    JoinGroup,
    Leaver,
    ListedGroup,
)
from raftlog.errors import InvalidRequestError, RaftlogError
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.internal.v1 import groups_pb2 as pb
from raftlog.pb.raftlog.internal.v1 import metadata_pb2

_STATES = {state.value: state for state in GroupState}


def join_call(wish: JoinGroup) -> pb.JoinGroupCall:
    """A join."""
    return pb.JoinGroupCall(
        group_id=wish.group_id,
        member_id=wish.member_id,
        instance_id=wish.instance_id,
        client_id=wish.client_id,
        client_host=wish.client_host,
        protocol_type=wish.protocol_type,
        protocols=[pb.MemberProtocol(name=name, metadata=metadata) for name, metadata in wish.protocols],
        session_timeout_ms=wish.session_timeout_ms,
        rebalance_timeout_ms=wish.rebalance_timeout_ms,
        member_id_required=wish.member_id_required,
    )


def join_of(call: pb.JoinGroupCall) -> JoinGroup:
    """The join of a call."""
    return JoinGroup(
        group_id=call.group_id,
        member_id=call.member_id,
        instance_id=call.instance_id if call.HasField("instance_id") else None,
        client_id=call.client_id,
        client_host=call.client_host,
        protocol_type=call.protocol_type,
        protocols=tuple((protocol.name, protocol.metadata) for protocol in call.protocols),
        session_timeout_ms=call.session_timeout_ms,
        rebalance_timeout_ms=call.rebalance_timeout_ms,
        member_id_required=call.member_id_required,
    )


def joined_answer(joined: JoinedGroup) -> pb.JoinGroupAnswer:
    """The answer to a join."""
    return pb.JoinGroupAnswer(
        generation=joined.generation,
        protocol_type=joined.protocol_type,
        protocol=joined.protocol,
        leader=joined.leader,
        member_id=joined.member_id,
        members=[
            pb.JoinedMemberRow(member_id=member.member_id, instance_id=member.instance_id, metadata=member.metadata)
            for member in joined.members
        ],
        skip_assignment=joined.skip_assignment,
    )


def joined_of(answer: pb.JoinGroupAnswer) -> JoinedGroup:
    """What an answer to a join says."""
    return JoinedGroup(
        generation=answer.generation,
        protocol_type=answer.protocol_type,
        protocol=answer.protocol,
        leader=answer.leader,
        member_id=answer.member_id,
        members=tuple(
            JoinedMember(
                member_id=member.member_id,
                instance_id=member.instance_id if member.HasField("instance_id") else None,
                metadata=member.metadata,
            )
            for member in answer.members
        ),
        skip_assignment=answer.skip_assignment,
    )


def caller(member: GroupMember) -> pb.GroupCaller:
    """Who calls."""
    return pb.GroupCaller(
        group_id=member.group_id,
        generation=member.generation,
        member_id=member.member_id,
        instance_id=member.instance_id,
    )


def member_of(call: pb.GroupCaller) -> GroupMember:
    """Who a call says that it is of."""
    return GroupMember(
        group_id=call.group_id,
        generation=call.generation,
        member_id=call.member_id,
        instance_id=call.instance_id if call.HasField("instance_id") else None,
    )


def leaver_ref(leaver: Leaver) -> pb.LeaverRef:
    """Who leaves."""
    return pb.LeaverRef(member_id=leaver.member_id, instance_id=leaver.instance_id)


def leaver_of(ref: pb.LeaverRef) -> Leaver:
    """Who a call says that leaves."""
    return Leaver(member_id=ref.member_id, instance_id=ref.instance_id if ref.HasField("instance_id") else None)


def outcomes_answer(outcomes: Iterable[RaftlogError | None]) -> pb.GroupOutcomes:
    """An outcome for each item."""
    return pb.GroupOutcomes(outcomes=map(_outcome, outcomes))


def outcomes_of(answer: pb.GroupOutcomes, count: int) -> list[RaftlogError | None]:
    """The outcomes of an answer.

    Raises:
        RaftlogError: they are not as many as there were items.
    """
    if len(answer.outcomes) != count:
        raise RaftlogError(f"the coordinator answered {len(answer.outcomes)} outcomes for {count} items")
    return [_error_of(outcome) for outcome in answer.outcomes]


def offset_rows(offsets: Mapping[TopicPartition, CommittedOffset]) -> list[pb.OffsetRow]:
    """Offsets with their partitions."""
    return [
        pb.OffsetRow(
            topic=tp.topic,
            partition=tp.partition,
            offset=committed.offset,
            leader_epoch=committed.leader_epoch,
            metadata=committed.metadata,
            commit_time_ms=committed.commit_time_ms,
        )
        for tp, committed in offsets.items()
    ]


def offsets_of(rows: Iterable[pb.OffsetRow]) -> dict[TopicPartition, CommittedOffset]:
    """The offsets that rows tell of."""
    return {
        TopicPartition(row.topic, row.partition): CommittedOffset(
            offset=row.offset, leader_epoch=row.leader_epoch, metadata=row.metadata, commit_time_ms=row.commit_time_ms
        )
        for row in rows
    }


def partition_refs(partitions: Sequence[TopicPartition]) -> list[metadata_pb2.PartitionRef]:
    """Names of partitions."""
    return [metadata_pb2.PartitionRef(topic=tp.topic, partition=tp.partition) for tp in partitions]


def partitions_of(refs: Iterable[metadata_pb2.PartitionRef]) -> list[TopicPartition]:
    """The partitions that are named."""
    return [TopicPartition(ref.topic, ref.partition) for ref in refs]


def listed_rows(groups: Iterable[ListedGroup]) -> list[pb.ListedGroupRow]:
    """Groups of a list."""
    return [
        pb.ListedGroupRow(group_id=group.group_id, protocol_type=group.protocol_type, state=group.state.value) for group in groups
    ]


def listed_of(rows: Iterable[pb.ListedGroupRow]) -> list[ListedGroup]:
    """The groups of a list."""
    return [ListedGroup(group_id=row.group_id, protocol_type=row.protocol_type, state=_state_of(row.state)) for row in rows]


def described_answer(group: DescribedGroup) -> pb.DescribeGroupAnswer:
    """A group in full."""
    members = [
        pb.DescribedMemberRow(
            member_id=member.member_id,
            instance_id=member.instance_id,
            client_id=member.client_id,
            client_host=member.client_host,
            metadata=member.metadata,
            assignment=member.assignment,
        )
        for member in group.members
    ]
    return pb.DescribeGroupAnswer(
        group_id=group.group_id,
        state=group.state.value,
        protocol_type=group.protocol_type,
        protocol=group.protocol,
        generation=group.generation,
        members=members,
    )


def described_of(answer: pb.DescribeGroupAnswer) -> DescribedGroup:
    """The group that an answer tells of."""
    members = tuple(
        DescribedMember(
            member_id=row.member_id,
            instance_id=row.instance_id if row.HasField("instance_id") else None,
            client_id=row.client_id,
            client_host=row.client_host,
            metadata=row.metadata,
            assignment=row.assignment,
        )
        for row in answer.members
    )
    return DescribedGroup(
        group_id=answer.group_id,
        state=_state_of(answer.state),
        protocol_type=answer.protocol_type,
        protocol=answer.protocol,
        generation=answer.generation,
        members=members,
    )


def _state_of(name: str) -> GroupState:
    state = _STATES.get(name)
    if state is None:
        raise InvalidRequestError(f"a group in state {name!r}; the node that says so may be newer than this one")
    return state


def _outcome(error: RaftlogError | None) -> pb.GroupOutcome:
    if error is None:
        return pb.GroupOutcome()
    reason, message, metadata = error_codec.to_parts(error)
    return pb.GroupOutcome(error=metadata_pb2.CallError(reason=reason, message=message, metadata=metadata))


def _error_of(outcome: pb.GroupOutcome) -> RaftlogError | None:
    if not outcome.HasField("error"):
        return None
    return error_codec.from_parts(outcome.error.reason, outcome.error.message, outcome.error.metadata)
