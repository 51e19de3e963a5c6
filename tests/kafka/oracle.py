"""An independent reading of the protocol to compare ours with: kio, which has schemas and a codec of its own.

Values are compared as nested lists in the order of a message's fields, so that the two need not agree on names.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import io
import re
import uuid
from enum import Enum
from typing import Any

from kio.serial import entity_reader, entity_writer

from raftlog.kafka.schemas import Field, load
from raftlog.kafka.wire.api import APIS, Api

NAMED = [api for api in APIS.values() if api.name not in ("Produce", "Fetch")]
"""The APIs that the codec reads and writes."""
VERSIONS = [(api, version) for api in NAMED for version in range(api.served_min, api.version_max + 1)]


def ident(value: tuple[Api, int]) -> str:
    """A test's name for an API and a version."""
    return f"{value[0].name}-{value[1]}"


def fields_of(api: Api, kind: str) -> tuple[Field, ...]:
    """The fields of a message, in all versions."""
    return load(f"{api.name}{kind}").fields


def in_order(fields: tuple[Field, ...], version: int, value: Any) -> list[Any]:
    """Values of one of our requests, in order."""
    made = []
    for field in fields:
        if not field.present(version):
            continue
        item = getattr(value, field.name)
        is_structs = field.kind == "struct" and item is not None
        made.append([in_order(field.fields, version, one) for one in item] if is_structs else item)
    return made


def as_answer(fields: tuple[Field, ...], version: int, ordered: list[Any]) -> dict[str, Any]:
    """Values in order as an answer of ours."""
    made = {}
    for field, item in zip([field for field in fields if field.present(version)], ordered, strict=True):
        is_structs = field.kind == "struct" and item is not None
        made[field.name] = [as_answer(field.fields, version, one) for one in item] if is_structs else item
    return made


def entity(api: Api, version: int, kind: str) -> Any:
    """kio's class of a message."""
    package = re.sub(r"(?<!^)(?=[A-Z])", "_", api.name).lower()
    return getattr(importlib.import_module(f"kio.schema.{package}.v{version}.{kind.lower()}"), f"{api.name}{kind}")


def encode_with_kio(value: Any) -> bytes:
    """The body's bytes."""
    buffer = io.BytesIO()
    entity_writer(type(value))(buffer, value)
    return buffer.getvalue()


def decode_with_kio(kind: Any, data: bytes) -> Any:
    """The entity, which must take all bytes."""
    value, end = entity_reader(kind)(data, 0)
    assert end == len(data)
    return value


def kio_in_order(value: Any) -> Any:
    """Values of an entity in order, in our types."""
    if dataclasses.is_dataclass(value):
        return [_field_in_order(value, one) for one in dataclasses.fields(value) if "tag" not in one.metadata]
    if isinstance(value, tuple):
        return [kio_in_order(one) for one in value]
    if isinstance(value, datetime.timedelta):
        return round(value / datetime.timedelta(milliseconds=1))
    if isinstance(value, Enum):
        return value.value
    return value.bytes if isinstance(value, uuid.UUID) else value


def _field_in_order(value: Any, field: Any) -> Any:
    item = getattr(value, field.name)
    if item is None and field.metadata.get("kafka_type") == "uuid":
        return bytes(16)  # on the wire, no id and zeros are the same
    if isinstance(item, datetime.datetime):
        return round(item.timestamp() * 1000)
    return -1 if item is None and field.metadata.get("kafka_type") == "datetime_i64" else kio_in_order(item)
