"""The schemas: what is read of kafka-python's files is what it reads itself, and what the table of APIs says."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from kafka.protocol import admin, consumer, metadata, producer

from raftlog.errors import ConfigError
from raftlog.kafka import codec, schemas
from raftlog.kafka.schemas import Field, Message, load
from raftlog.kafka.wire.api import APIS, NEVER, Api

KINDS = ("Request", "Response")


def theirs(api: Api, kind: str) -> Any:
    """kafka-python's own class of a message."""
    name = f"{api.name}{kind}"
    return next(getattr(home, name) for home in (admin, consumer, metadata, producer) if hasattr(home, name))


@pytest.mark.parametrize("api", APIS.values(), ids=lambda api: api.name)
@pytest.mark.parametrize("kind", KINDS)
def test_messages_are_read_as_their_own_library_reads_them(api: Api, kind: str) -> None:
    """Names, types, versions, nullability, in every depth."""
    message, other = load(f"{api.name}{kind}"), theirs(api, kind)
    assert message.api_key == other.API_KEY == api.key
    same(message.fields, other._struct._fields)


def same(fields: tuple[Field, ...], others: Any) -> None:
    """Compare two lists of fields."""
    assert len(fields) == len(others)
    for field, other in zip(fields, others, strict=True):
        assert field.name in (other.name, f"cluster_{other.name}", f"topic_{other.name}")  # it renames two
        assert field.is_array == other.is_array()
        for version in range(20):
            assert field.present(version) == (other.for_version_q(version) and not other.tagged_field_q(version))
            assert (version in field.nullable) == bool(other.nullable_for_version_q(version))
        inside = getattr(other, "_fields", None) or ()
        assert (field.kind == "struct") == bool(inside)
        same(field.fields, inside)


@pytest.mark.parametrize("api", APIS.values(), ids=lambda api: api.name)
def test_the_table_of_apis_agrees_with_the_schemas(api: Api) -> None:
    """Versions, and from which on they are flexible; no served request has a tag that counts and would be passed over."""
    for kind in KINDS:
        message: Message = load(f"{api.name}{kind}")
        assert api.version_max in message.versions
        assert (message.flexible.start if message.flexible else NEVER) == api.flexible_from
    ignored = {"cluster_id"}  # of Fetch: a follower's
    for version in range(api.served_min, api.version_max + 1):
        assert set(tagged(load(f"{api.name}Request").fields, version)) <= ignored


def tagged(fields: tuple[Field, ...], version: int) -> list[str]:
    """Names of the tagged fields."""
    found = [field.name for field in fields if version in field.tagged]
    for field in fields:
        found += tagged(field.fields, version)
    return found


def test_a_message_without_a_file_is_a_faulty_installation() -> None:
    """Said in words, at the start."""
    with pytest.raises(ConfigError, match="install kafka-python"):
        load("NoSuchRequest")


def test_making_ready_reads_every_schema_and_imports_no_client() -> None:
    """No request waits for a disk; no node for a client that it has no use for."""
    load.cache_clear()
    codec.prepare()
    assert load.cache_info().currsize == 2 * len(APIS)
    assert "kafka" not in vars(schemas)
    assert schemas.__name__ in sys.modules
