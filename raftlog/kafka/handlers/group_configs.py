"""The settings of a group as Kafka 4.1 has them: all are of protocols that are not spoken here, and are shown as such."""

from __future__ import annotations

from typing import Any, Final

from raftlog.config.topic_keys import ValueType
from raftlog.kafka.handlers.config_rows import NO_EFFECT, row

_INT, _STRING = ValueType.INT, ValueType.STRING
_PROTOCOLS: Final = {
    "consumer": "the consumer protocol of KIP-848",
    "share": "share groups (KIP-932)",
    "streams": "the streams protocol (KIP-1071)",
}
_KEYS: Final = (
    ("consumer.heartbeat.interval.ms", _INT, "5000"),
    ("consumer.session.timeout.ms", _INT, "45000"),
    ("share.auto.offset.reset", _STRING, "latest"),
    ("share.heartbeat.interval.ms", _INT, "5000"),
    ("share.isolation.level", _STRING, "read_uncommitted"),
    ("share.record.lock.duration.ms", _INT, "30000"),
    ("share.session.timeout.ms", _INT, "45000"),
    ("streams.heartbeat.interval.ms", _INT, "5000"),
    ("streams.num.standby.replicas", _INT, "0"),
    ("streams.session.timeout.ms", _INT, "45000"),
)
"""Name, type, default. Members of the classic protocol bring their timeouts along."""


def group_rows() -> list[dict[str, Any]]:
    """The same for every group."""
    return [
        row(
            name, kind, f"{NO_EFFECT} Of {_PROTOCOLS[name.partition('.')[0]]}, which is not spoken here.", default, read_only=True
        )
        for name, kind, default in _KEYS
    ]
