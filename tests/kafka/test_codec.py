"""The codec against an independent one, for every API and version; and against bytes of strangers."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raftlog.kafka import codec
from raftlog.kafka.wire.api import Api, ApiKey
from raftlog.kafka.wire.primitives import ITEMS_MAX, MalformedRequestError, Reader, Writer
from tests.kafka.oracle import (
    NAMED,
    VERSIONS,
    as_answer,
    decode_with_kio,
    encode_with_kio,
    entity,
    fields_of,
    ident,
    in_order,
    kio_in_order,
)

FEW = settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
SOME = settings(max_examples=60, deadline=None)


def read(api: Api | int, version: int, data: bytes) -> Any:
    """Decode a request's body."""
    return codec.decode_request(api if isinstance(api, int) else api.key, version, Reader(memoryview(data)))


def write(key: int, version: int, answer: dict[str, Any]) -> bytes:
    """Encode an answer's body."""
    writer = Writer()
    codec.encode_answer(key, version, answer, writer)
    return b"".join(writer.finish())


@pytest.mark.parametrize("which", VERSIONS, ids=ident)
@given(data=st.data())
@FEW
def test_requests_are_read_as_another_codec_writes_them(which: tuple[Api, int], data: st.DataObject) -> None:
    """Every field of every version."""
    api, version = which
    value = data.draw(st.from_type(entity(api, version, "Request")))
    request = read(api, version, encode_with_kio(value))
    assert in_order(fields_of(api, "Request"), version, request) == kio_in_order(value)


@pytest.mark.parametrize("which", VERSIONS, ids=ident)
@given(data=st.data())
@FEW
def test_answers_are_written_as_another_codec_reads_them(which: tuple[Api, int], data: st.DataObject) -> None:
    """Every field of every version, and not a byte more."""
    api, version = which
    kind = entity(api, version, "Response")
    ordered = kio_in_order(data.draw(st.from_type(kind)))
    written = write(api.key, version, as_answer(fields_of(api, "Response"), version, ordered))
    assert kio_in_order(decode_with_kio(kind, written)) == ordered


@pytest.mark.parametrize("api", NAMED, ids=lambda api: api.name)
@given(data=st.binary(max_size=200), version=st.integers(0, 20))
@SOME
def test_any_bytes_are_a_request_or_a_typed_error(api: Api, data: bytes, version: int) -> None:
    """Nothing else leaves the decoder."""
    with contextlib.suppress(MalformedRequestError):
        read(api, min(max(version, api.served_min), api.version_max), data)


@pytest.mark.parametrize("which", [(api, api.version_max) for api in NAMED], ids=ident)
@given(data=st.data())
@FEW
def test_a_request_that_is_cut_off_or_has_a_byte_changed_is_one_or_a_typed_error(
    which: tuple[Api, int], data: st.DataObject
) -> None:
    """Close to a real request is where decoders break."""
    api, version = which
    whole = bytearray(encode_with_kio(data.draw(st.from_type(entity(api, version, "Request")))))
    if whole:
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    with contextlib.suppress(MalformedRequestError):
        read(api, version, bytes(whole[:cut]))


def test_an_endless_varint_is_refused_at_its_sixth_byte() -> None:
    """Megabytes of it would take time in their square."""
    with pytest.raises(MalformedRequestError, match="varint"):
        read(ApiKey.METADATA, 12, b"\xff" * (1 << 20))


def test_unknown_tags_are_passed_over_wherever_they_stand() -> None:
    """As KIP-482 asks; a newer client may send some."""
    tags = b"\x02\x05\x03abc\x63\x00"
    topic = bytes(16) + b"\x02t" + tags
    request = read(ApiKey.METADATA, 12, b"\x02" + topic + b"\x01\x00" + tags)
    assert [topic.name for topic in request.topics] == ["t"]
    assert request.allow_auto_topic_creation


def test_bytes_behind_a_request_are_passed_over() -> None:
    """As Kafka does: librdkafka sends some."""
    assert read(ApiKey.HEARTBEAT, 0, struct.pack(">h1sih1s", 1, b"g", 7, 1, b"m") + b"???").generation_id == 7


def test_null_is_refused_where_the_protocol_has_none() -> None:
    """A handler need not think of it."""
    for data in (b"\x00\x01a", b"\x02"):
        with pytest.raises(MalformedRequestError):
            read(ApiKey.METADATA, 9, data)
    with pytest.raises(MalformedRequestError, match="must not be null"):
        read(ApiKey.DELETE_GROUPS, 0, struct.pack(">i", -1))
    with pytest.raises(MalformedRequestError, match="must not be null"):
        read(ApiKey.HEARTBEAT, 0, struct.pack(">h", -1))


@pytest.mark.parametrize("count", [-2, 1, 1 << 20, (1 << 31) - 1, -(1 << 31)])
def test_a_count_of_more_than_there_is_makes_nothing(count: int) -> None:
    """It is refused before anything is made for it."""
    with pytest.raises(MalformedRequestError, match="array of"):
        read(ApiKey.DELETE_GROUPS, 0, struct.pack(">i", count))


def test_items_and_bytes_of_one_request_are_bounded() -> None:
    """Two bytes make an object: a few megabytes of them would make hundreds."""
    many = ITEMS_MAX + 1
    with pytest.raises(MalformedRequestError, match="items in one request"):
        read(ApiKey.DELETE_GROUPS, 0, struct.pack(">i", many) + b"\x00\x00" * many)
    with pytest.raises(MalformedRequestError, match="bytes; "):
        read(ApiKey.DELETE_GROUPS, 0, bytes(codec.REQUEST_BYTES_MAX + 1))


def test_fields_of_other_versions_have_their_defaults() -> None:
    """A handler reads one request, whatever the version."""
    request = read(ApiKey.JOIN_GROUP, 0, struct.pack(">h1sihhi", 1, b"g", 9, 0, 0, 0))
    assert (request.rebalance_timeout_ms, request.group_instance_id, request.reason) == (-1, None, None)


def test_a_field_that_no_version_has_is_a_mistake_of_ours() -> None:
    """It does not go missing in silence."""
    with pytest.raises(KeyError, match="eror_code"):
        write(ApiKey.HEARTBEAT, 0, {"eror_code": 5})
