"""What the gateway wants of the world beside the broker: somewhere to count, and what configs mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedConfig:
    """A topic's config as it is shown: set on the topic or a default, acted on or only kept."""

    key: str
    value: str
    set: bool
    effective: bool
    documentation: str


DescribeConfigs = Callable[[Mapping[str, str]], Iterable[DescribedConfig]]
"""All configs of a topic, given those that are set on it."""


def describe_set_configs(configs: Mapping[str, str]) -> list[DescribedConfig]:
    """Only what is set: for a gateway that is given no catalogue."""
    return [
        DescribedConfig(key=key, value=value, set=True, effective=True, documentation="")
        for key, value in sorted(configs.items())
    ]


class GatewayMetrics(Protocol):
    """Counters of the gateway. Called on the hot path: an implementation takes microseconds and never raises."""

    def published(self, batches: int, size_bytes: int, seconds: float) -> None:
        """A publish request was answered: batches in it, their bytes, and the time from its arrival to the answer."""
        ...

    def fetched(self, size_bytes: int) -> None:
        """Bytes of batches left for a reader."""
        ...

    def failed(self, reason: str) -> None:
        """A call or an item in it failed with this stable reason."""
        ...


class NoMetrics:
    """Counts nothing."""

    def published(self, batches: int, size_bytes: int, seconds: float) -> None:
        """See ``GatewayMetrics``."""

    def fetched(self, size_bytes: int) -> None:
        """See ``GatewayMetrics``."""

    def failed(self, reason: str) -> None:
        """See ``GatewayMetrics``."""
