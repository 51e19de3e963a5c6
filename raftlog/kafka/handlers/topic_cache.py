"""Topics as Metadata shows them, kept as they were encoded for as long as they look the same.

A fleet of clients that comes back at once asks for the same topics a thousand times.
"""

from __future__ import annotations

from typing import Any, Final

from raftlog.core.names import is_internal
from raftlog.kafka import codec
from raftlog.kafka.wire import errors
from raftlog.kafka.wire.api import ApiKey
from raftlog.model import TopicInfo

NO_LEADER: Final = -1
TOPICS_KEPT: Final = 10_000
"""Encoded topics that are kept, some kilobytes each; beyond, the oldest goes."""


class TopicCache:
    """Topics as they were encoded last, for each version of the answer."""

    def __init__(self) -> None:
        self._encoded: dict[tuple[int, str], tuple[TopicInfo, frozenset[int], codec.Encoded]] = {}

    def get(self, version: int, topic: TopicInfo, told: frozenset[int]) -> codec.Encoded:
        """A topic, encoded; ``told`` are the nodes that the same answer lists."""
        key = version, topic.name
        found = self._encoded.get(key)
        if found is not None and found[1] == told and found[0] == topic:
            return found[2]
        self._encoded.pop(key, None)
        if len(self._encoded) >= TOPICS_KEPT:
            del self._encoded[next(iter(self._encoded))]
        encoded = codec.encode_item(ApiKey.METADATA, version, "topics", describe_topic(topic, told))
        self._encoded[key] = topic, told, encoded
        return encoded


def describe_topic(topic: TopicInfo, told: frozenset[int]) -> dict[str, Any]:
    """A topic as an answer shows it.

    A leader that the answer does not list (it went down, and nobody leads yet) is none, as in Kafka: clients cannot look up its
    address, and not all of them ask again.
    """
    leaders = {info.partition: NO_LEADER if info.leader not in told else info.leader for info in topic.partitions}
    return {
        "name": topic.name,
        "topic_id": bytes.fromhex(topic.topic_id),
        "is_internal": is_internal(topic.name),
        "partitions": [
            {
                "error_code": errors.LEADER_NOT_AVAILABLE if leaders[info.partition] == NO_LEADER else errors.NONE,
                "partition_index": info.partition,
                "leader_id": leaders[info.partition],
                "leader_epoch": info.leader_epoch,
                "replica_nodes": info.replicas,
                "isr_nodes": [node for node in info.replicas if node in told],
                "offline_replicas": [node for node in info.replicas if node not in told],
            }
            for info in topic.partitions
        ],
    }
