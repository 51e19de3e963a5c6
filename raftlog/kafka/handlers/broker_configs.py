"""The settings of a node under Kafka's names: all that Kafka's brokers have, for tools look at them; some count here too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from raftlog.broker.config import BrokerConfig
from raftlog.config.topic_keys import TOPIC_KEYS
from raftlog.kafka.budget import REQUEST_BYTES_HELD_MAX
from raftlog.kafka.connection import REQUEST_BYTES_MAX
from raftlog.kafka.handlers.broker_keys import KAFKA_KEYS
from raftlog.kafka.handlers.config_rows import NO_EFFECT, SOURCE_DEFAULT, SOURCE_STATIC, row

_BROKER: Final = BrokerConfig()
_GROUPS: Final = _BROKER.groups
_MINUTE_MS: Final = 60_000

_OF_NODES: Final[Mapping[str, tuple[str | None, str]]] = {
    "advertised.listeners": (None, "Addresses that clients are told."),
    "auto.create.topics.enable": ("true", "Whether clients that ask for a missing topic make it."),
    "auto.leader.rebalance.enable": ("true", "Whether leaders go back to their preferred replicas by themselves."),
    "broker.id": (None, "The node's number."),
    "broker.rack": (None, "Where the node is."),
    "connections.max.idle.ms": ("600000", "A connection that says nothing for so long is closed."),
    "default.replication.factor": (
        str(_BROKER.default_replication_factor), "Replicas where a creator named no number, or as many as there are nodes.",
    ),
    "delete.topic.enable": ("true", "Whether topics can be deleted: always."),
    "fetch.max.bytes": (str(_BROKER.fetch_bytes_max), "Most bytes of one fetch; an answer of this door has 16 MB at most."),
    "group.coordinator.rebalance.protocols": ("classic", "What groups speak: the classic protocol alone."),
    "group.initial.rebalance.delay.ms": (
        str(_GROUPS.initial_rebalance_delay_ms), "How long an empty group waits for more members after each that joins.",
    ),
    "group.max.session.timeout.ms": (str(_GROUPS.session_timeout_max_ms), "Longest session that a member may ask for."),
    "group.max.size": (str(_GROUPS.members_max), "Most members of a group."),
    "group.min.session.timeout.ms": (str(_GROUPS.session_timeout_min_ms), "Shortest session that a member may ask for."),
    "leader.imbalance.check.interval.seconds": (
        str(_BROKER.leader_imbalance_check_interval_ms // 1_000), "How often balance is looked at.",
    ),
    "leader.imbalance.per.broker.percentage": (
        str(_BROKER.leader_imbalance_per_broker_percentage), "A node may lead so much less of what it is preferred for.",
    ),
    "listeners": (None, "Addresses that are listened on."),
    "log.dirs": (None, "Where the node stores."),
    "log.retention.check.interval.ms": (str(_BROKER.retention_check_interval_ms), "How often old records are looked for."),
    "max.connections": ("10000", "Connections at a time."),
    "node.id": (None, "The node's number."),
    "num.partitions": (str(_BROKER.num_partitions), "Partitions of a topic whose creator named none."),
    "offset.metadata.max.bytes": (str(_BROKER.offset_metadata_max_bytes), "Longest text beside a committed offset."),
    "offsets.commit.timeout.ms": (
        str(round(_BROKER.offsets_commit_timeout_s * 1_000)), "A commit that is not decided by then has an unknown outcome.",
    ),
    "offsets.retention.check.interval.ms": (
        str(_BROKER.offsets_retention_check_interval_ms), "How often offsets are looked for that nobody needs.",
    ),
    "offsets.retention.minutes": (
        str(_BROKER.offsets_retention_ms // _MINUTE_MS), "How long offsets outlive the last member of their group.",
    ),
    "offsets.topic.num.partitions": (str(_BROKER.offsets_topic_num_partitions), "Coordinators of groups."),
    "offsets.topic.replication.factor": (
        str(_BROKER.offsets_topic_replication_factor), "Replicas of each coordinator, or as many as there are nodes.",
    ),
    "process.roles": ("broker,controller", "What a node is: both, always."),
    "producer.id.expiration.ms": (str(_BROKER.producer_id_expiration_ms), "A producer that was silent so long is forgotten."),
    "queued.max.request.bytes": (str(REQUEST_BYTES_HELD_MAX), "Bytes of requests that are held, over all connections."),
    "socket.request.max.bytes": (str(REQUEST_BYTES_MAX), "Largest request."),
    "unclean.leader.election.enable": ("false", "Whether data may be lost to elect a leader: never."),
}  # fmt: skip
"""Name → what holds where the node says nothing else, and what it is."""
_OF_TOPICS: Final[Mapping[str, str]] = {
    "compression.type": "compression.type",
    "log.cleanup.policy": "cleanup.policy",
    "log.message.timestamp.after.max.ms": "message.timestamp.after.max.ms",
    "log.message.timestamp.before.max.ms": "message.timestamp.before.max.ms",
    "log.message.timestamp.type": "message.timestamp.type",
    "log.retention.bytes": "retention.bytes",
    "log.retention.ms": "retention.ms",
    "log.segment.bytes": "segment.bytes",
    "message.max.bytes": "max.message.bytes",
    "min.insync.replicas": "min.insync.replicas",
}
"""Name → the topic config of which it is the default."""


def broker_rows(own: Mapping[str, str]) -> list[dict[str, Any]]:
    """All settings; ``own`` are those that the node was started with."""
    rows = []
    for key in KAFKA_KEYS.values():
        default, documentation = _meaning(key.name, key.default)
        source = SOURCE_STATIC if key.name in own else SOURCE_DEFAULT
        rows.append(row(key.name, key.type, documentation, default, value=own.get(key.name), source=source, read_only=True))
    return rows


def _meaning(name: str, default: str | None) -> tuple[str | None, str]:
    """What holds by default, and the words for it."""
    if name in _OF_TOPICS:
        key = TOPIC_KEYS[_OF_TOPICS[name]]
        return key.default, f"Default of a topic's {key.name}. {key.documentation}"
    return _OF_NODES.get(name, (default, NO_EFFECT))
