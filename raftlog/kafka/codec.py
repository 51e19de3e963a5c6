"""All messages but the hot ones, read and written by their schemas.

Theory of operation. A schema (``schemas``) is a tree of fields: names, types, versions, nullability. For each message and
version that comes along, a reader or a writer is composed of closures over that tree, once. kafka-python has codecs for the
same schemas, which are not used: they take time in the square of the bytes where a stranger sends endless varints or many
tags, and let null pass where the protocol has none. Ours stand on ``wire.primitives``, which cannot be led to either.

Rules:

1. A request becomes a namespace with every field of the schema, in any version: one that the version lacks has its default.
2. An answer is given as nested dicts; a field that is left out has its default, one that the version lacks is left away, and
   one that no version has is a mistake of ours (``KeyError``).
3. Bytes behind a request are passed over, as Kafka does: librdkafka sends some. Tagged fields (KIP-482) are ignored in
   requests, for no served request has any that matters; those of an answer are written where they are given.
4. What a request may make is bounded by ``REQUEST_BYTES_MAX`` and the reader's ``ITEMS_MAX``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any, Final

from raftlog.kafka.schemas import NO_VERSIONS, Field, Message, load
from raftlog.kafka.wire.api import APIS
from raftlog.kafka.wire.primitives import MalformedRequestError, Reader, Writer

REQUEST_BYTES_MAX: Final = 2 * 1024 * 1024
"""Largest request that is decoded here: a group's assignment of some ten thousand partitions fits ten times."""

ZERO_UUID: Final = bytes(16)


class Encoded(bytes):
    """An item of an answer that was encoded before, by ``encode_item`` for the same version."""


Answer = Mapping[str, Any]
"""An answer as it is given: nested dicts."""
Read = Callable[[Reader], Any]
Write = Callable[[Writer, Any], None]
_READ: Final[Mapping[str, Read]] = {
    "bool": Reader.boolean,
    "int8": Reader.int8,
    "int16": Reader.int16,
    "uint16": Reader.uint16,
    "int32": Reader.int32,
    "int64": Reader.int64,
    "float64": Reader.float64,
    "uuid": lambda reader: bytes(reader.raw(16)),
}
_WRITE: Final[Mapping[str, Write]] = {
    "bool": Writer.boolean,
    "int8": Writer.int8,
    "int16": Writer.int16,
    "uint16": Writer.uint16,
    "int32": Writer.int32,
    "int64": Writer.int64,
    "float64": Writer.float64,
    "uuid": Writer.raw,
}


def decode_request(key: int, version: int, body: Reader) -> Any:
    """Read a request's body.

    Raises:
        MalformedRequestError: the bytes are no such request, or too many.
    """
    if body.left > REQUEST_BYTES_MAX:
        raise MalformedRequestError(f"a request of {APIS[key].name} has {body.left} bytes; {REQUEST_BYTES_MAX} are allowed")
    return _request_reader(key, version)(body)


def encode_answer(key: int, version: int, body: Answer, writer: Writer) -> None:
    """Write an answer's body."""
    _answer_writer(key, version)(writer, body)


def encode_item(key: int, version: int, name: str, item: Mapping[str, Any]) -> Encoded:
    """Encode one item of an answer's array ``name`` (of those on the top level), to be used in several answers."""
    writer = Writer()
    _item_writer(key, version, name)(writer, item)
    return Encoded(b"".join(writer.finish()))


def prepare() -> None:
    """Read all schemas, so that no request waits for a disk.

    Raises:
        ConfigError: they are not there.
    """
    for key in APIS:
        request(key)
        answer(key)


def request(key: int) -> Message:
    """The schema of an API's requests."""
    return load(f"{APIS[key].name}Request")


def answer(key: int) -> Message:
    """The schema of an API's answers."""
    return load(f"{APIS[key].name}Response")


@cache
def _request_reader(key: int, version: int) -> Read:
    return _struct_reader(request(key).fields, version, version >= APIS[key].flexible_from)


@cache
def _answer_writer(key: int, version: int) -> Write:
    return _struct_writer(answer(key).fields, version, version >= APIS[key].flexible_from)


@cache
def _item_writer(key: int, version: int, name: str) -> Write:
    (field,) = (field for field in answer(key).fields if field.name == name)
    return _struct_writer(field.fields, version, version >= APIS[key].flexible_from)


# ---- reading


def _struct_reader(fields: tuple[Field, ...], version: int, flexible: bool) -> Read:
    steps = [(field.name, _reader(field, version, flexible)) for field in fields if field.present(version)]
    absent = {field.name: field.default for field in fields if not field.present(version)}

    def read(reader: Reader) -> SimpleNamespace:
        item = SimpleNamespace(**absent)
        values = item.__dict__
        for name, step in steps:
            values[name] = step(reader)
        if flexible:
            reader.skip_tags()
        return item

    return read


def _reader(field: Field, version: int, flexible: bool) -> Read:
    nullable = version in field.nullable
    if field.is_array:
        return _array_reader(field, version, flexible, nullable)
    kind = field.kind
    if kind == "string":
        return (lambda reader: reader.nullable_string(flexible)) if nullable else (lambda reader: reader.string(flexible))
    if kind == "bytes":
        return lambda reader: _read_bytes(reader, flexible, nullable)
    return _READ[kind]


def _read_bytes(reader: Reader, flexible: bool, nullable: bool) -> bytes | None:
    data = reader.nullable_bytes(flexible)
    if data is None and not nullable:
        raise MalformedRequestError("bytes that must not be null are")
    return None if data is None else bytes(data)


def _array_reader(field: Field, version: int, flexible: bool, nullable: bool) -> Read:
    item = replace(field, is_array=False, nullable=NO_VERSIONS)
    each = _struct_reader(field.fields, version, flexible) if field.kind == "struct" else _reader(item, version, flexible)

    def read(reader: Reader) -> list[Any] | None:
        count = reader.nullable_count(flexible) if nullable else reader.count(flexible)
        return None if count < 0 else [each(reader) for _ in range(count)]

    return read


# ---- writing


def _struct_writer(fields: tuple[Field, ...], version: int, flexible: bool) -> Write:
    steps = [(field.name, _writer(field, version, flexible), field.default) for field in fields if field.present(version)]
    tagged = sorted((field for field in fields if version in field.tagged), key=lambda field: field.tag)
    tags = [(field.name, field.tag, _writer(field, version, flexible)) for field in tagged]
    names = {field.name for field in fields}

    def write(writer: Writer, item: Mapping[str, Any] | Encoded) -> None:
        if isinstance(item, Encoded):
            writer.raw(item)
            return
        if not item.keys() <= names:
            raise KeyError(f"no field {sorted(item.keys() - names)} among {sorted(names)}")
        for name, step, default in steps:
            step(writer, item.get(name, default))
        if tags:
            _write_tags(writer, [(tag, step, item[name]) for name, tag, step in tags if name in item])
        elif flexible:
            writer.tags()

    return write


def _write_tags(writer: Writer, given: list[tuple[int, Write, Any]]) -> None:
    writer.uvarint(len(given))
    for tag, step, value in given:
        one = Writer()
        step(one, value)
        encoded = b"".join(one.finish())
        writer.uvarint(tag)
        writer.uvarint(len(encoded))
        writer.raw(encoded)


def _writer(field: Field, version: int, flexible: bool) -> Write:
    if field.is_array:
        return _array_writer(field, version, flexible)
    nullable = version in field.nullable
    kind = field.kind
    if kind == "string":
        return lambda writer, text: writer.string(text if nullable else text or "", flexible)
    if kind == "bytes":
        return lambda writer, data: writer.data(data if nullable else data or b"", flexible)
    return _WRITE[kind]


def _array_writer(field: Field, version: int, flexible: bool) -> Write:
    one = replace(field, is_array=False, nullable=NO_VERSIONS)
    each = _struct_writer(field.fields, version, flexible) if field.kind == "struct" else _writer(one, version, flexible)

    def write(writer: Writer, items: Any) -> None:
        writer.count(None if items is None else len(items), flexible)
        for item in items or ():
            each(writer, item)

    return write
