"""What the Kafka door wants of the world beside the broker: somewhere to count, and what the node was set to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


class KafkaMetrics(Protocol):
    """Counters of the Kafka door. Called on the hot path: an implementation takes microseconds and never raises."""

    def request(self, api: str, seconds: float) -> None:
        """A request of this API was answered, so long after it was received."""
        ...

    def error(self, code: int) -> None:
        """Something in an answer has this error code."""
        ...

    def connections(self, change: int) -> None:
        """Connections opened or closed."""
        ...

    def produced(self, batches: int, size_bytes: int) -> None:
        """Batches came, and were answered."""
        ...

    def fetched(self, size_bytes: int) -> None:
        """Bytes of batches left for a reader."""
        ...


class NoMetrics:
    """Counts nothing."""

    def request(self, api: str, seconds: float) -> None:
        """See ``KafkaMetrics``."""

    def error(self, code: int) -> None:
        """See ``KafkaMetrics``."""

    def connections(self, change: int) -> None:
        """See ``KafkaMetrics``."""

    def produced(self, batches: int, size_bytes: int) -> None:
        """See ``KafkaMetrics``."""

    def fetched(self, size_bytes: int) -> None:
        """See ``KafkaMetrics``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaOptions:
    """What a node may choose."""

    listen: Mapping[str, tuple[str, int]]
    """Listener name → host and port; port 0 takes a free one."""
    auto_create_topics: bool = True
    """Whether a client that asks for a topic that does not exist, and wants it made, gets it (auto.create.topics.enable)."""
    idle_ms_max: int = 600_000
    """A connection without a request for so long is closed (connections.max.idle.ms)."""
    connections_max: int = 10_000
    """Connections at a time; more are closed at once. Each takes some 10 KB. (max.connections)"""
    data_dir: str = ""
    """Where the node stores, as DescribeLogDirs tells it."""
    broker_configs: Mapping[str, str] = field(default_factory=dict)
    """Settings of the node under Kafka's names, as DescribeConfigs shows them; others have their defaults."""
