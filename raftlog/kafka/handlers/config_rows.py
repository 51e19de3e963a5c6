"""Configs as an answer shows them: rows with value, source, synonyms and words."""

from __future__ import annotations

from typing import Any, Final

from raftlog.config.topic_keys import ValueType

SOURCE_TOPIC: Final = 1
"""Set on the topic."""
SOURCE_STATIC: Final = 4
"""Set where the node was started."""
SOURCE_DEFAULT: Final = 5
NO_EFFECT: Final = "Has no effect here."
"""Begins the words of what is shown because clients look for it."""


def row(
    name: str, kind: ValueType, documentation: str, default: str | None, *, value: str | None = None,
    source: int = SOURCE_DEFAULT, read_only: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """A row; ``value`` counts where ``source`` is not the default."""
    synonyms = [{"name": name, "value": default, "source": SOURCE_DEFAULT}]
    if source != SOURCE_DEFAULT:
        synonyms.insert(0, {"name": name, "value": value, "source": source})
    return {
        "name": name,
        "value": synonyms[0]["value"],
        "read_only": read_only,
        "config_source": source,
        "is_sensitive": kind is ValueType.PASSWORD,
        "synonyms": synonyms,
        "config_type": int(kind),
        "documentation": documentation,
    }
