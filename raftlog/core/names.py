"""The names that a topic may have: Kafka's rules, so that any Kafka client can use any topic."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from raftlog.errors import InvalidTopicError

NAME_LENGTH_MAX: Final = 249
"""As in Kafka, where the name and a partition number must fit in a file name."""
INTERNAL_PREFIX: Final = "__"
"""Begins the names that only the cluster itself may create."""

_FORBIDDEN: Final = re.compile(r"[^a-zA-Z0-9._-]")
_SHOWN_MAX: Final = 60


def check_topic_name(name: str, *, internal: bool = False) -> None:
    """Check a topic's name: 1 to 249 of the characters a–z, A–Z, 0–9, '.', '_' and '-', but neither '.' nor '..'.

    Args:
        name: the name.
        internal: whether the cluster itself asks, which may use the prefix ``__``.

    Raises:
        InvalidTopicError: the name breaks a rule; the message says which.
    """
    shown = repr(name if len(name) <= _SHOWN_MAX else name[:_SHOWN_MAX] + "…")
    if not name:
        raise InvalidTopicError("a topic's name must not be empty")
    if len(name) > NAME_LENGTH_MAX:
        raise InvalidTopicError(f"topic name {shown} has {len(name)} characters; at most {NAME_LENGTH_MAX} are allowed")
    if name in (".", ".."):
        raise InvalidTopicError(f"a topic cannot be named {shown}")
    wrong = _FORBIDDEN.search(name)
    if wrong is not None:
        raise InvalidTopicError(f"topic name {shown} contains {wrong[0]!r}; use letters, digits, '.', '_' and '-' of ASCII")
    if not internal and is_internal(name):
        raise InvalidTopicError(f"topic name {shown} begins with '{INTERNAL_PREFIX}', which is reserved for the cluster itself")


def is_internal(name: str) -> bool:
    """Whether the topic belongs to the cluster itself."""
    return name.startswith(INTERNAL_PREFIX)


def colliding(name: str, others: Iterable[str]) -> str | None:
    """One of ``others`` that differs from ``name`` only in '.' and '_', which metrics fold; None where there is none."""
    folded = name.replace(".", "_")
    return next((other for other in others if other != name and other.replace(".", "_") == folded), None)
