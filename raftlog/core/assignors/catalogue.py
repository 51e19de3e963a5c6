"""The assignors by their names in Kafka's protocol, and what each reads from and writes into a member's metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from raftlog.core import consumer_protocol as protocol
from raftlog.core.assignors import range as range_assignor
from raftlog.core.assignors import roundrobin, sticky
from raftlog.core.assignors.member import Assignments, Member
from raftlog.errors import InvalidRequestError
from raftlog.model import TopicPartition

RANGE: Final = "range"
ROUNDROBIN: Final = "roundrobin"
STICKY: Final = "sticky"
COOPERATIVE_STICKY: Final = "cooperative-sticky"

DEFAULT: Final = (COOPERATIVE_STICKY, RANGE)
"""Groups of our own clients move only what must move; ``range`` is what every Kafka client offers, so that they can join."""

_ASSIGN: Final[Mapping[str, Callable[[Sequence[Member], Mapping[str, int]], Assignments]]] = {
    RANGE: range_assignor.assign,
    ROUNDROBIN: roundrobin.assign,
    STICKY: sticky.assign,
    COOPERATIVE_STICKY: sticky.assign_cooperatively,
}
NAMES: Final = tuple(_ASSIGN)
TOPICS_MAX: Final = 10_000
"""Topics of all members of a group together: the node of the one that leads looks again and again for changes of any."""


def is_cooperative(assignor: str) -> bool:
    """Whether members keep reading through a rebalance, and give up only what moves (KIP-429)."""
    return assignor == COOPERATIVE_STICKY


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedAs:
    """A member as the coordinator names it to the group's leader, with its metadata for the chosen assignor."""

    member_id: str
    instance_id: str | None
    metadata: bytes


def metadata_for(
    assignor: str, topics: Sequence[str], *, owned: Sequence[TopicPartition], last: Sequence[TopicPartition], generation: int
) -> bytes:
    """A member's metadata.

    Args:
        assignor: by name.
        topics: subscribed to.
        owned: what the member still reads.
        last: what it had in ``generation``, whether it still reads it or not.
        generation: the last one it was in, −1 for none.
    """
    if assignor == COOPERATIVE_STICKY:
        data: bytes | None = protocol.encode_cooperative_data(generation)
        return _encode(topics, owned, data, generation)
    data = protocol.encode_sticky_data(last, generation) if assignor == STICKY and generation >= 0 else None
    return _encode(topics, (), data, generation if assignor == STICKY else protocol.NO_GENERATION)


def _encode(topics: Sequence[str], owned: Sequence[TopicPartition], user_data: bytes | None, generation: int) -> bytes:
    return protocol.encode_subscription(
        protocol.Subscription(
            topics=tuple(sorted(topics)), owned=tuple(sorted(owned)), user_data=user_data, generation=generation
        )
    )


def topics_of(members: Sequence[JoinedAs]) -> frozenset[str]:
    """All topics that members subscribe to; of more than ``TOPICS_MAX`` the first by name."""
    found = frozenset(topic for one in members for topic in _subscription(one.metadata).topics)
    return found if len(found) <= TOPICS_MAX else frozenset(sorted(found)[:TOPICS_MAX])


def assign(assignor: str, members: Sequence[JoinedAs], counts: Mapping[str, int]) -> dict[str, bytes]:
    """Assignments of all members, encoded; ``counts`` are the partitions of the topics that exist.

    A member whose metadata cannot be read gets nothing: one that sends garbage must not stop its group.

    Raises:
        KeyError: there is no such assignor.
    """
    found = _ASSIGN[assignor]([_member(assignor, one) for one in members], counts)
    return {member_id: protocol.encode_assignment(protocol.Assignment(partitions=tuple(tps))) for member_id, tps in found.items()}


def _subscription(metadata: bytes) -> protocol.Subscription:
    try:
        return protocol.decode_subscription(metadata)
    except InvalidRequestError:
        return protocol.Subscription(topics=())


def _member(assignor: str, one: JoinedAs) -> Member:
    subscription = _subscription(one.metadata)
    owned, generation = subscription.owned, subscription.generation
    if assignor == STICKY:
        owned, generation = protocol.decode_sticky_data(subscription.user_data)
    elif assignor == COOPERATIVE_STICKY and generation == protocol.NO_GENERATION:
        generation = protocol.decode_cooperative_data(subscription.user_data)
    return Member(
        member_id=one.member_id,
        instance_id=one.instance_id,
        topics=frozenset(subscription.topics),
        owned=owned,
        generation=generation,
    )
