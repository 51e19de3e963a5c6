"""Request headers in all their versions, and what answers begin with."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.kafka.wire.api import APIS, Api, ApiKey
from raftlog.kafka.wire.header import begin_answer, read_header
from raftlog.kafka.wire.primitives import MalformedRequestError, Reader


def request(key: int, version: int, client: str | None = "me", tags: bytes = b"") -> Reader:
    """A header with ``body`` behind it."""
    name = struct.pack(">h", -1) if client is None else struct.pack(">h", len(client)) + client.encode()
    return Reader(memoryview(struct.pack(">hhi", key, version, 42) + name + tags + b"body"))


@pytest.mark.parametrize("api", APIS.values(), ids=lambda api: api.name)
@pytest.mark.parametrize("client", ["me", "", None])
def test_the_body_begins_behind_the_header(api: Api, client: str | None) -> None:
    """The client id keeps its old form in flexible versions; only the tags come with them."""
    for version in range(api.served_min, api.version_max + 1):
        flexible = version >= api.flexible_from
        reader = request(api.key, version, client, b"\x01\x07\x02xy" if flexible else b"")
        header = read_header(reader)
        assert (header.key, header.version, header.correlation_id, header.client_id) == (api.key, version, 42, client or "")
        assert (header.is_served, header.flexible) == (True, flexible)
        assert bytes(reader.raw(reader.left)) == b"body"


@pytest.mark.parametrize(("key", "version"), [(999, 0), (-1, 3), (0, 2), (0, 10), (1, 3), (3, 13), (18, 99), (18, -1)])
def test_what_is_not_served_is_read_up_to_its_correlation_id(key: int, version: int) -> None:
    """What follows it is not known."""
    header = read_header(Reader(memoryview(struct.pack(">hhi", key, version, 42))))
    assert not header.is_served
    assert header.correlation_id == 42


@given(st.binary(max_size=40))
def test_any_bytes_are_a_header_or_a_typed_error(data: bytes) -> None:
    """Nothing else."""
    with contextlib.suppress(MalformedRequestError):
        read_header(Reader(memoryview(data)))


def test_answers_have_tags_in_flexible_versions_but_for_api_versions() -> None:
    """Its client cannot know yet which versions are flexible."""
    begun = {}
    for key, version in ((ApiKey.METADATA, 8), (ApiKey.METADATA, 9), (ApiKey.API_VERSIONS, 3)):
        flexible = version >= APIS[key].flexible_from
        header = read_header(request(key, version, tags=b"\x00" if flexible else b""))
        begun[key, version] = b"".join(begin_answer(header).finish())
    assert begun == {
        (ApiKey.METADATA, 8): b"\x00\x00\x00\x2a",
        (ApiKey.METADATA, 9): b"\x00\x00\x00\x2a\x00",
        (ApiKey.API_VERSIONS, 3): b"\x00\x00\x00\x2a",
    }


def test_produce_is_advertised_from_version_0_and_served_from_3() -> None:
    """librdkafka before 2.11.1 would send uncompressed, in silence, where 0 is missing."""
    produce = APIS[ApiKey.PRODUCE]
    assert (produce.advertised_min, produce.served_min, produce.version_max) == (0, 3, 9)
    assert all(api.advertised_min == api.served_min for api in APIS.values() if api is not produce)
