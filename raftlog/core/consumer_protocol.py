"""Kafka's consumer protocol: what members of a group say of themselves, and what the group's leader assigns to them.

The coordinator carries these bytes unread, so their form is a matter between members of every make (Kafka's
``ConsumerProtocolSubscription.json`` and ``ConsumerProtocolAssignment.json``, versions 0 to 3)::

    Subscription  version i16, topics [string], user_data bytes?            version 0
                  + owned [topic string, partitions [i32]]                  from 1 on (KIP-429)
                  + generation i32                                          from 2 on (KIP-792)
                  + rack string?                                            from 3 on (KIP-881)
    Assignment    version i16, partitions [topic string, partitions [i32]], user_data bytes?

A newer version is read as the newest known one, and what follows is passed over, as Kafka's clients do. The sticky assignors
keep facts of their own in ``user_data``; an unreadable one counts as none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from raftlog.errors import InvalidRequestError
from raftlog.model import TopicPartition

PROTOCOL_TYPE: Final = "consumer"
VERSION: Final = 3
"""What is written; the newest that is read."""
NO_GENERATION: Final = -1
ITEMS_MAX: Final = 50_000
"""Names and partitions in one subscription or assignment: each becomes an object, and takes two bytes or more to send."""
_STRING_BYTES_MAX: Final = 0x7FFF
_NULL: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """What a member wants, and what it has. ``generation`` is the one in which it got what it has."""

    topics: tuple[str, ...]
    user_data: bytes | None = None
    owned: tuple[TopicPartition, ...] = ()
    generation: int = NO_GENERATION
    rack: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What a member is to read."""

    partitions: tuple[TopicPartition, ...]
    user_data: bytes | None = None


def encode_subscription(subscription: Subscription, version: int = VERSION) -> bytes:
    """Bytes of ``subscription``; an older ``version`` leaves out what it does not know."""
    out = [_I16.pack(version), _I32.pack(len(subscription.topics)), *map(_string, subscription.topics)]
    out.append(_nullable_bytes(subscription.user_data))
    if version >= 1:
        out.append(_partitions(subscription.owned))
    if version >= 2:
        out.append(_I32.pack(subscription.generation))
    if version >= 3:
        out.append(_I16.pack(_NULL) if subscription.rack is None else _string(subscription.rack))
    return b"".join(out)


def decode_subscription(data: bytes) -> Subscription:
    """The subscription in ``data``.

    Raises:
        InvalidRequestError: it is none.
    """
    reader = _Reader(data)
    version = reader.version()
    topics = tuple(reader.string() for _ in range(reader.count(2)))
    user_data = reader.nullable_bytes()
    owned = reader.partitions() if version >= 1 else ()
    generation = reader.i32() if version >= 2 else NO_GENERATION
    rack = reader.nullable_string() if version >= 3 else None
    return Subscription(topics=topics, user_data=user_data, owned=owned, generation=generation, rack=rack)


def encode_assignment(assignment: Assignment, version: int = VERSION) -> bytes:
    """Bytes of ``assignment``."""
    return _I16.pack(version) + _partitions(assignment.partitions) + _nullable_bytes(assignment.user_data)


def decode_assignment(data: bytes) -> Assignment:
    """The assignment in ``data``; an empty one, as the coordinator makes for whom the leader left out, holds nothing.

    Raises:
        InvalidRequestError: it is none.
    """
    if not data:
        return Assignment(partitions=())
    reader = _Reader(data)
    reader.version()
    return Assignment(partitions=reader.partitions(), user_data=reader.nullable_bytes())


# What the sticky assignors keep in user_data


def encode_sticky_data(owned: Iterable[TopicPartition], generation: int) -> bytes:
    """User data of the (eager) sticky assignor: what the member had before it gave everything up."""
    return _partitions(owned) + _I32.pack(generation)


def decode_sticky_data(data: bytes | None) -> tuple[tuple[TopicPartition, ...], int]:
    """What a member had, and since which generation; nothing where it does not say so, or nothing that can be read."""
    if not data:
        return (), NO_GENERATION
    reader = _Reader(data)
    try:
        owned = reader.partitions()
        return owned, reader.i32() if reader.left else NO_GENERATION  # its first version had no generation
    except InvalidRequestError:
        return (), NO_GENERATION


def encode_cooperative_data(generation: int) -> bytes:
    """User data of the cooperative sticky assignor, for leaders that do not know the subscription's own generation."""
    return _I32.pack(generation)


def decode_cooperative_data(data: bytes | None) -> int:
    """The generation in a cooperative sticky member's user data."""
    return _I32.unpack(data)[0] if data is not None and len(data) == _I32.size else NO_GENERATION


# Primitives (kafka.apache.org/protocol, "Protocol Primitive Types")

_I16: Final = struct.Struct(">h")
_I32: Final = struct.Struct(">i")


def _string(text: str) -> bytes:
    data = text.encode()
    if len(data) > _STRING_BYTES_MAX:
        raise InvalidRequestError(f"a name of {len(data)} bytes is too long; at most {_STRING_BYTES_MAX} are allowed")
    return _I16.pack(len(data)) + data


def _nullable_bytes(data: bytes | None) -> bytes:
    return _I32.pack(_NULL) if data is None else _I32.pack(len(data)) + data


def _partitions(tps: Iterable[TopicPartition]) -> bytes:
    topics = [(topic, [tp.partition for tp in group]) for topic, group in groupby(sorted(tps), key=lambda tp: tp.topic)]
    out = [_I32.pack(len(topics))]
    for topic, numbers in topics:
        out += [_string(topic), struct.pack(f">i{len(numbers)}i", len(numbers), *numbers)]
    return b"".join(out)


class _Reader:
    """Reads primitives; whatever the bytes are, it raises nothing but ``InvalidRequestError``."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._items_left = ITEMS_MAX

    @property
    def left(self) -> int:
        """Bytes that are not read yet."""
        return len(self._data) - self._at

    def _take(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            raise InvalidRequestError("bytes of the consumer protocol end too early, or hold a length that cannot be")
        self._at += size
        return self._data[self._at - size : self._at]

    def i16(self) -> int:
        number: int = _I16.unpack(self._take(_I16.size))[0]
        return number

    def i32(self) -> int:
        number: int = _I32.unpack(self._take(_I32.size))[0]
        return number

    def version(self) -> int:
        version = self.i16()
        if version < 0:
            raise InvalidRequestError(f"version {version} of the consumer protocol does not exist")
        return version

    def count(self, item_bytes_min: int) -> int:
        """Length of an array whose items have so many bytes at least; one that cannot fit ends here, before it costs memory."""
        count = self.i32()
        if count > self.left // item_bytes_min:
            raise InvalidRequestError(f"{count} items are announced in {self.left} bytes of the consumer protocol")
        self._items_left -= max(count, 0)
        if self._items_left < 0:
            raise InvalidRequestError(f"there are more than {ITEMS_MAX} items in these bytes of the consumer protocol")
        return max(count, 0)

    def string(self) -> str:
        text = self.nullable_string()
        if text is None:
            raise InvalidRequestError("a name in the consumer protocol is missing")
        return text

    def nullable_string(self) -> str | None:
        size = self.i16()
        if size == _NULL:
            return None
        try:
            return self._take(size).decode()
        except UnicodeDecodeError as error:
            raise InvalidRequestError("a name in the consumer protocol is not UTF-8") from error

    def nullable_bytes(self) -> bytes | None:
        size = self.i32()
        return None if size == _NULL else self._take(size)

    def partitions(self) -> tuple[TopicPartition, ...]:
        found: list[TopicPartition] = []
        for _ in range(self.count(6)):
            topic = self.string()
            count = self.count(4)
            found += [TopicPartition(topic, number) for number in struct.unpack(f">{count}i", self._take(4 * count))]
        return tuple(found)


def by_topic(tps: Iterable[TopicPartition]) -> Mapping[str, list[int]]:
    """Partition numbers by topic, both in order."""
    return {topic: [tp.partition for tp in group] for topic, group in groupby(sorted(tps), key=lambda tp: tp.topic)}
