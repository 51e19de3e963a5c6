"""The schemas of the protocol's messages: Kafka's own files, as kafka-python carries them, read as data.

kafka-python is not imported: that takes a quarter of a second of every start, for clients that a node has no use for. Where its
files lie and what they hold is pinned by its exact version and by ``tests/kafka/test_schemas.py``.

Source: the message definitions of Apache Kafka (``clients/src/main/resources/common/message``), whose format its README explains.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from raftlog.errors import ConfigError

_FILES: Final = ("protocol", "schemas", "resources")
_COMMENT: Final = re.compile(r"^\s*//.*$", re.MULTILINE)
_UPPER: Final = re.compile(r"(?<!^)(?=[A-Z])")
_ENDLESS: Final = 1 << 15
NO_VERSIONS: Final = range(0)
_NOTHING: Final[Mapping[str, object]] = {"string": "", "bytes": b"", "bool": False, "uuid": bytes(16)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a message. ``kind`` is a primitive type's name, or ``struct``; of an array, its items'."""

    name: str
    kind: str
    is_array: bool
    versions: range
    nullable: range
    tagged: range
    tag: int
    default: Any
    fields: tuple[Field, ...]

    def present(self, version: int) -> bool:
        """Whether this version has the field, in its place: tagged ones stand behind all."""
        return version in self.versions and version not in self.tagged


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message: a request or an answer of an API."""

    api_key: int
    versions: range
    flexible: range
    fields: tuple[Field, ...]


@cache
def load(name: str) -> Message:
    """A message by its name, ``HeartbeatRequest``.

    Raises:
        ConfigError: kafka-python is not installed as it must be.
    """
    try:
        text = (_directory() / f"{name}.json").read_text("utf-8")
    except OSError as error:
        raise ConfigError(
            f"the schema of {name} cannot be read ({error}); install kafka-python as pyproject.toml pins it"
        ) from error
    document = json.loads(_COMMENT.sub("", text))
    structs = {struct["name"]: struct["fields"] for struct in document.get("commonStructs", ())}
    return Message(
        api_key=document["apiKey"],
        versions=_versions(document["validVersions"]),
        flexible=_versions(document["flexibleVersions"]),
        fields=tuple(_field(field, structs) for field in document["fields"]),
    )


@cache
def _directory() -> Path:
    spec = importlib.util.find_spec("kafka")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("kafka-python is not installed; install raftlog with its dependencies")
    return Path(spec.submodule_search_locations[0], *_FILES)


def _field(field: Mapping[str, Any], structs: Mapping[str, Any]) -> Field:
    kind = field["type"].removeprefix("[]")
    inside = field.get("fields", structs.get(kind, ()))
    is_array = field["type"].startswith("[]")
    kind = "struct" if inside else kind
    return Field(
        name=_UPPER.sub("_", field["name"]).lower(),
        kind=kind,
        is_array=is_array,
        versions=_versions(field["versions"]),
        nullable=_versions(field.get("nullableVersions", "none")),
        tagged=_versions(field.get("taggedVersions", "none")),
        tag=field.get("tag", -1),
        default=_default(kind, is_array, field.get("default")),
        fields=tuple(_field(one, structs) for one in inside),
    )


def _versions(text: str) -> range:
    """``0+``, ``2-5``, ``3`` or ``none``."""
    if text in ("none", ""):
        return NO_VERSIONS
    low, _, high = text.partition("-")
    if low.endswith("+"):
        return range(int(low[:-1]), _ENDLESS)
    return range(int(low), int(high or low) + 1)


def _default(kind: str, is_array: bool, given: object) -> Any:
    if given == "null":
        return None
    if is_array:
        return ()
    if given is None:
        return _NOTHING.get(kind, 0)
    if kind == "bool":
        return str(given).lower() == "true"
    return given if kind == "string" else int(str(given), 0)
