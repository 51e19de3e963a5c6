"""A topic's configs: checked where they come in, parsed once for those who act on them.

Every topic key of Kafka 4.x is taken, so that tools made for Kafka work; those without effect here are marked so.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from raftlog.config.topic_keys import TOPIC_KEYS, TopicKey, ValueType
from raftlog.errors import InvalidConfigError

_SHOWN_MAX: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicConfig:
    """What has an effect, parsed. −1 means no limit for the two retentions."""

    deletes: bool = True
    """Whether old batches go (``cleanup.policy`` names delete); without, the retentions do nothing."""
    max_message_bytes: int = 1_048_588
    message_timestamp_after_max_ms: int = 3_600_000
    message_timestamp_before_max_ms: int = (1 << 63) - 1
    is_log_append_time: bool = False
    """``message.timestamp.type`` is LogAppendTime."""
    retention_bytes: int = -1
    retention_ms: int = 604_800_000

    @classmethod
    def of(cls, configs: Mapping[str, str]) -> TopicConfig:
        """Parse the configs that are set on a topic; what is not set has its default. Never fails.

        Stored configs were checked by the node that proposed them, which may be of another version: a key that this one does
        not know is passed over, and a value that it does not take counts as unset, for retention as no limit.
        """

        def value(name: str, otherwise: str | None = None) -> str:
            key = TOPIC_KEYS[name]
            text = key.normalise(configs.get(name, key.default))
            return text if text is not None else key.default if otherwise is None else otherwise

        return cls(
            deletes="delete" in value("cleanup.policy", "").split(","),
            max_message_bytes=int(value("max.message.bytes")),
            message_timestamp_after_max_ms=int(value("message.timestamp.after.max.ms")),
            message_timestamp_before_max_ms=int(value("message.timestamp.before.max.ms")),
            is_log_append_time=value("message.timestamp.type") == "LogAppendTime",
            retention_bytes=int(value("retention.bytes", "-1")),
            retention_ms=int(value("retention.ms", "-1")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigRow:
    """One line of a topic's description. ``set`` is false where the value is the default."""

    key: str
    value: str
    set: bool
    effective: bool
    documentation: str
    type: ValueType

    @property
    def source(self) -> str:
        """Where the value comes from: ``topic`` or ``default``."""
        return "topic" if self.set else "default"


def _known(name: str) -> TopicKey:
    key = TOPIC_KEYS.get(name)
    if key is not None:
        return key
    shown = name[:_SHOWN_MAX]
    near = difflib.get_close_matches(shown, TOPIC_KEYS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "see the topic keys of Kafka 4"
    raise InvalidConfigError(f"there is no topic config {shown!r}; {hint}")


def check(configs: Mapping[str, str]) -> dict[str, str]:
    """The same configs with their values in canonical form.

    Raises:
        InvalidConfigError: a key is not known (the nearest one is named), a value is not allowed (what is, is said), or two
            values contradict each other.
    """
    checked: dict[str, str] = {}
    for name, text in configs.items():
        key = _known(name)
        value = key.normalise(text.strip())
        if value is None:
            raise InvalidConfigError(f"topic config {name} cannot be {text[:_SHOWN_MAX]!r}; it takes {key.allowed}")
        checked[name] = value
    _check_together(checked)
    return checked


def _check_together(checked: Mapping[str, str]) -> None:
    low, high = (int(checked.get(name, TOPIC_KEYS[name].default)) for name in ("min.compaction.lag.ms", "max.compaction.lag.ms"))
    if low > high:
        raise InvalidConfigError(f"min.compaction.lag.ms is {low}, more than max.compaction.lag.ms, which is {high}")


def merge(current: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """The configs set on a topic after ``changes``, where None unsets a key. The arguments stay as they are.

    Raises:
        InvalidConfigError: as ``check``; also for unsetting a key that does not exist.
    """
    merged = dict(current)
    for name, value in changes.items():
        _known(name)
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = value
    return check(merged)


def describe(configs: Mapping[str, str]) -> list[ConfigRow]:
    """A row for every key there is, in alphabetical order, given the configs that are set."""
    return [
        ConfigRow(
            key=name,
            value=configs.get(name, key.default),
            set=name in configs,
            effective=key.effective,
            documentation=key.documentation,
            type=key.type,
        )
        for name, key in TOPIC_KEYS.items()
    ]
