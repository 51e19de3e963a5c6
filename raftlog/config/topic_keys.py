"""The table of a topic's configs: every topic key of Kafka 4.x, with its type, default and what it may be."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

INT_MAX: Final = (1 << 31) - 1
LONG_MAX: Final = (1 << 63) - 1
MAX_MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Largest batch of any topic: with its neighbours of a turn it must fit in one frame between nodes."""
TEXT_LENGTH_MAX: Final = 4_096
"""Longest value of a key that takes text."""


class ValueType(IntEnum):
    """A value's type; the numbers are those of Kafka's DescribeConfigs. Some are of settings of nodes alone."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    SHORT = 4
    LONG = 5
    DOUBLE = 6
    LIST = 7
    CLASS = 8
    PASSWORD = 9


@dataclass(frozen=True, slots=True)
class TopicKey:
    """A key. ``normalise`` returns a value's canonical text, None where it is not allowed; ``allowed`` says what is."""

    name: str
    type: ValueType
    default: str
    allowed: str
    normalise: Callable[[str], str | None]
    documentation: str
    effective: bool


_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)
_DECIMAL: Final = re.compile(r"[+-]?([0-9]{1,19}(\.[0-9]{0,19})?|\.[0-9]{1,19})([eE][+-]?[0-9]{1,2})?", re.ASCII)
_REPLICAS: Final = re.compile(r"\*|none|[0-9]+:[0-9]+(,[0-9]+:[0-9]+)*|", re.ASCII)


def _number(
    name: str, default: int, low: int, high: int, doc: str, *, effective: bool = False, also: int | None = None
) -> TopicKey:
    def normalise(text: str) -> str | None:
        if not _INTEGER.fullmatch(text):
            return None
        number = int(text)
        return str(number) if low <= number <= high or number == also else None

    span = f"an integer of {low} or more" if high in (INT_MAX, LONG_MAX) else f"an integer from {low} to {high}"
    kind = ValueType.LONG if high == LONG_MAX else ValueType.INT
    return TopicKey(name, kind, str(default), span + (f", or {also}" if also is not None else ""), normalise, doc, effective)


def _long(name: str, default: int, low: int, doc: str, *, effective: bool = False) -> TopicKey:
    return _number(name, default, low, LONG_MAX, doc, effective=effective)


def _int(name: str, default: int, low: int, doc: str, *, high: int = INT_MAX, also: int | None = None) -> TopicKey:
    return _number(name, default, low, high, doc, also=also)


def _flag(name: str, doc: str) -> TopicKey:
    def normalise(text: str) -> str | None:
        return text.lower() if text.lower() in ("true", "false") else None

    return TopicKey(name, ValueType.BOOLEAN, "false", "true or false", normalise, doc, effective=False)


def _choice(name: str, choices: tuple[str, ...], doc: str, *, effective: bool = False) -> TopicKey:
    """One of ``choices``, of which the first is the default."""

    def normalise(text: str) -> str | None:
        return text if text in choices else None

    return TopicKey(name, ValueType.STRING, choices[0], "one of " + ", ".join(choices), normalise, doc, effective)


def _policies(text: str) -> str | None:
    policies = list(dict.fromkeys(policy.strip() for policy in text.split(",") if policy.strip()))
    return ",".join(policies) if set(policies) <= {"delete", "compact"} else None


def _ratio(text: str) -> str | None:
    return str(float(text)) if _DECIMAL.fullmatch(text) and 0 <= float(text) <= 1 else None


def _throttled(name: str) -> TopicKey:
    def normalise(text: str) -> str | None:
        return text if len(text) <= TEXT_LENGTH_MAX and _REPLICAS.fullmatch(text) else None

    allowed = "partition:node pairs joined by commas, '*', or nothing"
    return TopicKey(name, ValueType.LIST, "", allowed, normalise, "Replicas whose copying is throttled.", effective=False)


_ALL: Final = (
    TopicKey(
        "cleanup.policy", ValueType.LIST, "delete", "delete, compact, both joined by a comma, or nothing", _policies,
        "With delete, old batches go by retention.ms and retention.bytes; without it nothing goes. Compaction is not done.",
        effective=True,
    ),
    _int("compression.gzip.level", -1, 1, "Level where the broker compresses with gzip.", high=9, also=-1),
    _int("compression.lz4.level", 9, 1, "Level where the broker compresses with lz4.", high=17),
    _choice(
        "compression.type", ("producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"),
        "Codec of the stored batches. They are always kept as the producer sent them.",
    ),
    _int("compression.zstd.level", 3, -131_072, "Level where the broker compresses with zstd.", high=22),
    _long("delete.retention.ms", 86_400_000, 0, "How long a compacted topic keeps the markers of deleted keys."),
    _long("file.delete.delay.ms", 60_000, 0, "Wait before a file is deleted. There are no files to delete here."),
    _long("flush.messages", LONG_MAX, 1, "Records between two syncs. Every batch is synced before it is acknowledged."),
    _long("flush.ms", LONG_MAX, 0, "Time between two syncs. Every batch is synced before it is acknowledged."),
    _throttled("follower.replication.throttled.replicas"),
    _int("index.interval.bytes", 4_096, 0, "Bytes between two index entries. The log is its own index."),
    _throttled("leader.replication.throttled.replicas"),
    _long("local.retention.bytes", -2, -2, "Bytes kept beside tiered storage."),
    _long("local.retention.ms", -2, -2, "Time kept beside tiered storage."),
    _long("max.compaction.lag.ms", LONG_MAX, 1, "Longest time that a record of a compacted topic stays uncompacted."),
    _number(
        "max.message.bytes", 1_048_588, 0, MAX_MESSAGE_BYTES_MAX, "Largest record batch, as it is sent: after compression.",
        effective=True,
    ),
    _flag("message.downconversion.enable", "Answering in older formats. There are none."),
    _long(
        "message.timestamp.after.max.ms", 3_600_000, 0,
        "How far ahead of the leader's clock a record's own timestamp may be; so one bad clock cannot stop retention.",
        effective=True,
    ),
    _long(
        "message.timestamp.before.max.ms", LONG_MAX, 0, "How far behind the leader's clock a record's own timestamp may be.",
        effective=True,
    ),
    _choice(
        "message.timestamp.type", ("CreateTime", "LogAppendTime"),
        "Whether records keep the time that their producer gave them, or get the leader's.", effective=True,
    ),
    TopicKey(
        "min.cleanable.dirty.ratio", ValueType.DOUBLE, "0.5", "a number from 0 to 1", _ratio,
        "Share of a compacted log that must be uncompacted before compaction.", effective=False,
    ),
    _long("min.compaction.lag.ms", 0, 0, "Shortest time that a record of a compacted topic stays uncompacted."),
    _int("min.insync.replicas", 1, 1, "Replicas that must have a batch. With acks=all it is always a majority."),
    _flag("preallocate", "Reserving a log file's space."),
    _flag("remote.log.copy.disable", "Stops copying to tiered storage."),
    _flag("remote.log.delete.on.disable", "Deletes what tiered storage has when it is switched off."),
    _flag("remote.storage.enable", "Tiered storage."),
    _long(
        "retention.bytes", -1, -1, "Bytes that a partition keeps: above, its oldest batches go; -1 for no limit.", effective=True
    ),
    _long(
        "retention.ms", 604_800_000, -1, "How long records are kept, by their batch's newest timestamp; -1 for ever.",
        effective=True,
    ),
    _int("segment.bytes", 1_073_741_824, 1_048_576, "Size of a log file. The log is not kept in files of its own."),
    _int("segment.index.bytes", 10_485_760, 4, "Size of an index file. The log is its own index."),
    _long("segment.jitter.ms", 0, 0, "Spread of segment.ms."),
    _long("segment.ms", 604_800_000, 1, "Age at which a log file is closed."),
    _flag("unclean.leader.election.enable", "Whether data may be lost to elect a leader. It never may."),
)  # fmt: skip

TOPIC_KEYS: Final[dict[str, TopicKey]] = {key.name: key for key in _ALL}
"""Every key by name, in alphabetical order."""
