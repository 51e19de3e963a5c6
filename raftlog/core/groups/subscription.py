"""Which topics a consumer subscribes to: the one thing that is read of what members say of themselves (KIP-496, KIP-211).

Layout (Kafka's ConsumerProtocolSubscription, any version): version i16, count i32, then for each topic its length i16 and name;
what follows is not looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from raftlog.core.groups.records import CONSUMER_PROTOCOL, GroupRecord

_BEGIN: Final = struct.Struct(">hi")
_LENGTH: Final = struct.Struct(">h")


def subscribed_topics(record: GroupRecord) -> frozenset[str] | None:
    """Topics that the members of a group subscribe to; None where that cannot be told: another protocol, or other bytes."""
    if record.protocol_type != CONSUMER_PROTOCOL or not record.protocol:
        return None
    try:
        return frozenset(topic for member in record.members.values() for topic in _topics(member.metadata(record.protocol)))
    except (struct.error, ValueError):
        return None


def _topics(metadata: bytes) -> Iterable[str]:
    version, count = _BEGIN.unpack_from(metadata)
    if version < 0 or count < 0:
        raise ValueError(f"a subscription of version {version} with {count} topics")
    at = _BEGIN.size
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(metadata, at)
        at += _LENGTH.size
        name = metadata[at : at + length]
        if length < 0 or len(name) < length:
            raise ValueError("a topic's name is cut off")
        yield name.decode()
        at += length
