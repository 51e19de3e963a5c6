"""What every client is asked for, in one vocabulary: a bridge translates it into one library's calls.

A bridge runs in its client's own environment, so this file and its neighbours use the standard library alone. Records travel
as dicts: ``k`` key, ``v`` value (base64, or None), ``h`` headers, ``t`` timestamp in milliseconds, ``p`` partition, ``o`` offset.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, NoReturn

Wire = dict[str, Any]
"""A record or an answer as JSON."""

ANSWER_TIMEOUT_S = 30.0
"""What a library is given for one answer; a feature as a whole has its own bound."""


class Absent(Exception):
    """This client has no such thing; the text says in a few words what is missing."""


class Refused(Exception):
    """The cluster, or the client itself, refused.

    Args:
        code: Kafka's error code, where the client tells it.
    """

    def __init__(self, code: int | None, text: str) -> None:
        super().__init__(text)
        self.code = code


def packed(data: bytes | str | None) -> str | None:
    """Bytes for the wire."""
    if data is None:
        return None
    return base64.b64encode(data.encode() if isinstance(data, str) else bytes(data)).decode()


def unpacked(text: str | None) -> bytes | None:
    """Bytes from the wire."""
    return None if text is None else base64.b64decode(text)


def headers_of(record: Wire) -> list[tuple[str, bytes | None]]:
    """The headers of a record that is to be produced."""
    return [(name, unpacked(value)) for name, value in record.get("h") or []]


def as_wire(
    *,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, Any]] | None,
    timestamp_ms: int | None,
    topic: str,
    partition: int,
    offset: int,
) -> Wire:
    """A record that was read."""
    return {
        "k": packed(key),
        "v": packed(value),
        "h": [[name, packed(one)] for name, one in headers or []],
        "t": timestamp_ms,
        "topic": topic,
        "p": partition,
        "o": offset,
    }


def _absent(what: str) -> NoReturn:
    raise Absent(what)


class Client:
    """All operations; what a library does not have stays as it is here.

    Names of producers and consumers are the caller's. ``consumer_open`` takes ``topics`` (with ``group``) or ``assign``
    (a list of [topic, partition] with ``start``: ["earliest"], ["latest"], ["offset", n] or ["time", ms]).
    """

    binary = True
    """Whether it can write any bytes as keys and values, or printable text alone."""
    reads_binary = True
    """Whether it shows any bytes as they are."""
    timestamps = True
    """Whether a producer can give its records' timestamps."""
    null_keys = True
    """Whether records may come without a key."""
    null_values = True
    """Whether tombstones can be written."""
    empty_values = True
    """Whether an empty value is told from a null one."""
    headers = True
    """Whether headers can be written."""
    null_headers = True
    """Whether a header may come without a value."""
    joins_at_once = True
    """Whether members that join in the same moment settle."""
    lasting_producers = True
    """Whether a producer lives for more than one call, and calls are therefore cheap."""
    partitions = True
    """Whether a producer can choose the partition."""
    blind: tuple[str, ...] = ()
    """Fields of a record that its consumers cannot see (of ``k``, ``v``, ``h``, ``t``)."""
    record_bytes_max = 900_000
    """The largest record that its tests hand over."""

    codecs = ("none", "gzip", "snappy", "lz4", "zstd")
    """What its producer can compress with."""

    def facts(self) -> Wire:
        """What this client cannot express, so that features are asked in what it can."""
        names = (
            "binary", "reads_binary", "timestamps", "null_keys", "null_values", "empty_values", "headers", "null_headers",
            "joins_at_once", "lasting_producers", "partitions", "blind", "codecs", "record_bytes_max",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def producer_open(self, name: str, **options: Any) -> None:
        """Options: ``acks`` ("0", "1", "all"), ``codec``, ``idempotent``, ``request_bytes_max``, ``patient`` (retry for long)."""
        _absent("no producer")

    def producer_send(self, name: str, topic: str, records: list[Wire]) -> list[list[int]]:
        """Send all, wait for all: [partition, offset] of each; offset -1 where the client is not told."""
        _absent("no producer")

    def producer_close(self, name: str) -> None:
        """Flush and close."""

    def consumer_open(self, name: str, **options: Any) -> None:
        """Options: ``topics``, ``group``, ``strategy``, ``instance``, ``auto_commit``, ``assign``, ``start``."""
        _absent("no consumer")

    def consumer_assigned(self, name: str) -> list[list[Any]]:
        """[topic, partition] of all that it has now."""
        _absent("assignments cannot be seen")

    def consumer_assignments(self, name: str) -> int:
        """How often it was given an assignment."""
        _absent("assignments cannot be seen")

    def consumer_take(self, name: str) -> list[Wire]:
        """What it has read since it was asked last."""
        _absent("no consumer")

    def consumer_commit(self, name: str, offsets: list[list[Any]]) -> None:
        """Commit [topic, partition, offset, metadata]."""
        _absent("no commit by hand")

    def consumer_committed(self, name: str, partitions: list[list[Any]]) -> list[list[Any]]:
        """[topic, partition, offset or None, metadata or None] of the consumer's group."""
        _absent("no look at what is committed")

    def consumer_seek(self, name: str, topic: str, partition: int, offset: int) -> None:
        """Go on from there."""
        _absent("no seek")

    def consumer_close(self, name: str) -> list[Wire]:
        """Leave and close; gives what it had read and nobody has taken."""
        _absent("no consumer")

    def topic_create(self, topic: str, partitions: int, replicas: int, configs: dict[str, str]) -> None:
        """Create, and wait for the answer."""
        _absent("no topic administration")

    def topic_delete(self, topic: str) -> None:
        """Delete, and wait for the answer."""
        _absent("topics cannot be deleted")

    def topic_list(self) -> list[str]:
        """Names."""
        _absent("topics cannot be listed")

    def topic_describe(self, topic: str) -> list[Wire]:
        """A dict of ``partition``, ``leader``, ``replicas``, ``isr`` for each partition, in order."""
        _absent("topics cannot be described")

    def topic_grow(self, topic: str, partitions: int) -> None:
        """Create partitions up to that number."""
        _absent("no partitions can be added")

    def config_describe(self, topic: str) -> dict[str, str | None]:
        """All configs of a topic."""
        _absent("configs cannot be described")

    def config_alter(self, topic: str, configs: dict[str, str]) -> None:
        """Set these, leave the others."""
        _absent("configs cannot be altered")

    def records_delete(self, topic: str, partition: int, offset: int) -> None:
        """Delete the records below ``offset``."""
        _absent("records cannot be deleted")

    def offsets(self, topic: str, partition: int) -> list[int]:
        """[earliest, latest]."""
        _absent("offsets cannot be asked")

    def offset_at(self, topic: str, partition: int, timestamp_ms: int) -> int | None:
        """Offset of the first record at or after that time, None where there is none."""
        _absent("offsets cannot be asked by time")

    def group_list(self) -> list[str]:
        """Names."""
        _absent("groups cannot be listed")

    def group_describe(self, group: str) -> Wire:
        """``state``, ``strategy`` and ``members`` (their number)."""
        _absent("groups cannot be described")

    def group_offsets(self, group: str) -> list[list[Any]]:
        """[topic, partition, offset, metadata or None] of all that is committed."""
        _absent("a group's offsets cannot be listed")

    def group_set_offsets(self, group: str, offsets: list[list[Any]]) -> None:
        """Set [topic, partition, offset] of a stopped group."""
        _absent("a group's offsets cannot be set")

    def group_delete_offsets(self, group: str, topic: str, partition: int) -> None:
        """Forget one partition's offset of a stopped group."""
        _absent("a group's offsets cannot be deleted")

    def group_delete(self, group: str) -> None:
        """Delete a stopped group."""
        _absent("groups cannot be deleted")

    def cluster_describe(self) -> Wire:
        """``brokers`` (ids), ``controller`` and ``cluster`` id, each where the client tells it."""
        _absent("the cluster cannot be described")

    def log_dirs(self) -> dict[str, dict[str, int]]:
        """Broker id → "topic-partition" → bytes."""
        _absent("log directories cannot be described")

    def verifiable(self, topic: str, count: int) -> Wire:
        """Run the verifiable producer and consumer: ``sent``, ``acknowledged``, ``consumed``."""
        _absent("no verifiable tools")

    def close(self) -> None:
        """End everything that was opened."""
