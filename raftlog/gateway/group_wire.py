"""Groups between their messages and their values: checks of requests, each naming the field that is wrong, and encodings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from raftlog.broker.group_port import (
    NO_GENERATION,
    CommittedOffset,
    DescribedMember,
    GroupState,
    Leaver,
    ListedGroup,
)
from raftlog.core import consumer_protocol
from raftlog.core.assignors import catalogue
from raftlog.core.names import check_topic_name
from raftlog.core.topic_pattern import TopicPattern
from raftlog.errors import InvalidGroupIdError, InvalidRequestError, RaftlogError
from raftlog.gateway.status import to_status
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1 import group_service_pb2 as pb

TOPICS_MAX: Final = 1_000
"""Names in one subscription: each member's is held, and sent to the group's leader, at every rebalance."""
OFFSETS_MAX: Final = 10_000
"""Partitions in one request about offsets: they become one entry of the group's log, of some 100 bytes each."""
GROUP_ID_CHARS_MAX: Final = 1_000
INSTANCE_ID_CHARS_MAX: Final = 249
"""As for a topic's name, whose rules Kafka gives to instance ids."""
SESSION_TIMEOUT_MS_DEFAULT: Final = 45_000
REBALANCE_TIMEOUT_MS_DEFAULT: Final = 300_000
TIMEOUT_MS_MAX: Final = 2**31 - 1
"""Kafka's protocol has room for no more."""
PARTITION_MAX: Final = 2**31 - 1
"""The same."""

_ASSIGNORS: Final = {
    pb.ASSIGNOR_RANGE: catalogue.RANGE,
    pb.ASSIGNOR_ROUNDROBIN: catalogue.ROUNDROBIN,
    pb.ASSIGNOR_STICKY: catalogue.STICKY,
    pb.ASSIGNOR_COOPERATIVE_STICKY: catalogue.COOPERATIVE_STICKY,
}
_STATES: Final = {
    GroupState.EMPTY: pb.GROUP_STATE_EMPTY,
    GroupState.PREPARING_REBALANCE: pb.GROUP_STATE_PREPARING_REBALANCE,
    GroupState.COMPLETING_REBALANCE: pb.GROUP_STATE_COMPLETING_REBALANCE,
    GroupState.STABLE: pb.GROUP_STATE_STABLE,
    GroupState.DEAD: pb.GROUP_STATE_DEAD,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """A checked request to join."""

    group_id: str
    instance_id: str | None
    topics: frozenset[str]
    pattern: TopicPattern | None
    assignors: tuple[str, ...]
    session_timeout_ms: int
    rebalance_timeout_ms: int
    client_id: str
    member_id: str
    generation: int
    owned: frozenset[TopicPartition]
    direct: bool


def join(request: pb.SessionRequest) -> Join:
    """The session's first request.

    Raises:
        InvalidRequestError: it is no join, or a field of it is wrong.
    """
    if request.WhichOneof("request") != "join":
        raise InvalidRequestError("a session begins with join; send it first")
    wire = request.join
    if not wire.topics and not wire.HasField("topic_pattern"):
        raise InvalidRequestError("join.topics is empty, and there is no topic_pattern; subscribe to something")
    if len(wire.topics) > TOPICS_MAX:
        raise InvalidRequestError(f"join.topics has {len(wire.topics)} names; at most {TOPICS_MAX} are allowed")
    for name in wire.topics:
        check_topic_name(name, internal=True)
    return Join(
        group_id=group_id(wire.group_id),
        instance_id=instance_id(wire.instance_id) if wire.HasField("instance_id") else None,
        topics=frozenset(wire.topics),
        pattern=TopicPattern(wire.topic_pattern) if wire.HasField("topic_pattern") else None,
        assignors=tuple(dict.fromkeys(map(_assignor, wire.assignors))) or catalogue.DEFAULT,
        session_timeout_ms=_timeout_ms(wire.session_timeout_ms, SESSION_TIMEOUT_MS_DEFAULT, "join.session_timeout_ms"),
        rebalance_timeout_ms=_timeout_ms(wire.rebalance_timeout_ms, REBALANCE_TIMEOUT_MS_DEFAULT, "join.rebalance_timeout_ms"),
        client_id=wire.client_id[:INSTANCE_ID_CHARS_MAX] or "raftlog",
        member_id=wire.member_id,
        generation=wire.generation if wire.HasField("generation") else NO_GENERATION,
        owned=_owned(wire.owned),
        direct=wire.direct,
    )


def group_id(text: str) -> str:
    """A group's id.

    Raises:
        InvalidGroupIdError: it is empty or too long.
    """
    if not text or len(text) > GROUP_ID_CHARS_MAX:
        raise InvalidGroupIdError(f"group_id has {len(text)} characters; it must have 1 to {GROUP_ID_CHARS_MAX}")
    return text


def instance_id(text: str) -> str:
    """A group instance id."""
    if not text or len(text) > INSTANCE_ID_CHARS_MAX:
        raise InvalidRequestError(f"instance_id has {len(text)} characters; it must have 1 to {INSTANCE_ID_CHARS_MAX}")
    return text


def _owned(wire: Iterable[pb.GroupPartition]) -> frozenset[TopicPartition]:
    """What goes on to other members in Kafka's protocol, so that it must have room there."""
    found = frozenset(partitions(wire, "join.owned"))
    for tp in found:
        check_topic_name(tp.topic, internal=True)
        if tp.partition > PARTITION_MAX:
            raise InvalidRequestError(f"join.owned has partition {tp.partition}; there is none above {PARTITION_MAX}")
    return found


def _assignor(wire: int) -> str:
    name = _ASSIGNORS.get(pb.Assignor.ValueType(wire))
    if name is None:
        raise InvalidRequestError(f"join.assignors has {wire}, which is none of {', '.join(catalogue.NAMES)}")
    return name


def _timeout_ms(value: int, default: int, field: str) -> int:
    if value > TIMEOUT_MS_MAX:
        raise InvalidRequestError(f"{field} is {value}; at most {TIMEOUT_MS_MAX} is allowed")
    return value or default


def partitions(wire: Iterable[pb.GroupPartition], field: str) -> list[TopicPartition]:
    """Partitions of a request, at most ``OFFSETS_MAX``."""
    found = [TopicPartition(one.topic, one.partition) for one in wire]
    _at_most(len(found), field)
    if not all(tp.topic for tp in found):
        raise InvalidRequestError(f"{field} has a partition without a topic; name one")
    return found


def new_offsets(wire: Iterable[pb.NewOffset]) -> dict[TopicPartition, CommittedOffset]:
    """Offsets to commit; of two for one partition the later counts."""
    found: dict[TopicPartition, CommittedOffset] = {}
    for index, one in enumerate(wire):
        _at_most(index + 1, "offsets")
        if not one.topic or one.offset < 0:
            raise InvalidRequestError(f"offsets[{index}] needs a topic and an offset from 0; it has {one.topic!r}, {one.offset}")
        epoch = one.leader_epoch if one.HasField("leader_epoch") else -1
        found[TopicPartition(one.topic, one.partition)] = CommittedOffset(
            offset=one.offset, leader_epoch=min(epoch, 2**31 - 1), metadata=one.metadata
        )
    return found


def _at_most(count: int, field: str) -> None:
    if count > OFFSETS_MAX:
        raise InvalidRequestError(f"{field} has {count} items; at most {OFFSETS_MAX} are allowed, use several calls")


def leavers(wire: Iterable[pb.MemberName]) -> list[Leaver]:
    """Members to remove."""
    found = [
        Leaver(member_id=one.member_id, instance_id=one.instance_id if one.HasField("instance_id") else None) for one in wire
    ]
    if not found or not all(one.member_id or one.instance_id for one in found):
        raise InvalidRequestError("members needs a member_id or an instance_id for each; name one at least")
    _at_most(len(found), "members")
    return found


def group_partitions(tps: Iterable[TopicPartition]) -> list[pb.GroupPartition]:
    """Partitions for a response, in order."""
    return [pb.GroupPartition(topic=tp.topic, partition=tp.partition) for tp in sorted(tps)]


def results(outcomes: Mapping[TopicPartition, RaftlogError | None]) -> list[pb.OffsetResult]:
    """What became of each partition's offset."""
    return [
        pb.OffsetResult(topic=tp.topic, partition=tp.partition, error=to_status(error) if error is not None else None)
        for tp, error in outcomes.items()
    ]


def listed(group: ListedGroup) -> pb.ListedGroup:
    """A group in a list."""
    return pb.ListedGroup(group_id=group.group_id, protocol_type=group.protocol_type, state=_STATES[group.state])


def state(value: GroupState) -> pb.GroupState.ValueType:
    """A group's state."""
    return _STATES[value]


def member(one: DescribedMember, protocol_type: str) -> pb.GroupMember:
    """A member in a description; what it says of itself in another protocol than that of consumers stays unread."""
    topics: tuple[str, ...] = ()
    assignment: tuple[TopicPartition, ...] = ()
    if protocol_type == consumer_protocol.PROTOCOL_TYPE:
        try:
            topics = consumer_protocol.decode_subscription(one.metadata).topics if one.metadata else ()
            assignment = consumer_protocol.decode_assignment(one.assignment).partitions
        except InvalidRequestError:
            pass  # a client of another make may write what it likes; the rest of the member is worth showing
    return pb.GroupMember(
        member_id=one.member_id,
        instance_id=one.instance_id,
        client_id=one.client_id,
        client_host=one.client_host,
        topics=topics,
        assignment=group_partitions(tp for tp in assignment if tp.partition >= 0),
    )


def host_of(peer: str) -> str:
    """Where a client comes from, in the manner of Kafka's descriptions: ``/127.0.0.1`` of gRPC's ``ipv4:127.0.0.1:51234``."""
    kind, _, address = unquote(peer).partition(":")
    return "/" + address.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else peer
