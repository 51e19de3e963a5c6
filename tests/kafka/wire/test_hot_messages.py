"""Produce and Fetch by hand, against an independent codec; record batches are never copied."""

from __future__ import annotations

import contextlib
import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kio.static.primitive import Records

from raftlog.kafka.wire import fetch, produce
from raftlog.kafka.wire.api import APIS, ApiKey
from raftlog.kafka.wire.primitives import MalformedRequestError, Reader, Writer
from tests.kafka.oracle import decode_with_kio, encode_with_kio, entity

PRODUCE, FETCH = APIS[ApiKey.PRODUCE], APIS[ApiKey.FETCH]
PRODUCE_VERSIONS = range(PRODUCE.served_min, PRODUCE.version_max + 1)
FETCH_VERSIONS = range(FETCH.served_min, FETCH.version_max + 1)
SOME = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
st.register_type_strategy(Records, st.binary(max_size=40).map(Records))
INT32, INT64 = st.integers(-(1 << 31), (1 << 31) - 1), st.integers(-(1 << 63), (1 << 63) - 1)
CODES = st.sampled_from([-1, 0, 1, 3, 6, 45])
NAMES = st.text(st.characters(codec="utf-8"), max_size=9)
PRODUCED = st.builds(produce.PartitionAnswer, INT32, CODES, INT64, st.integers(-1, 1 << 40), INT64, st.none() | NAMES)
FETCHED = st.builds(fetch.PartitionAnswer, INT32, CODES, INT64, INT64, INT32, st.lists(st.binary(max_size=20), max_size=3))


def topics_of(partitions: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[str, list[Any]]]]:
    """Topics with some partitions each."""
    return st.lists(st.tuples(NAMES, st.lists(partitions, max_size=3)), max_size=3)


def records_of(records: Any) -> bytes | None:
    """Record batches as bytes."""
    return None if records is None else bytes(records)


@pytest.mark.parametrize("version", PRODUCE_VERSIONS)
@given(data=st.data())
@SOME
def test_produce_requests_are_read_as_another_codec_writes_them(version: int, data: st.DataObject) -> None:
    """The batches are views of the request's own bytes."""
    value = data.draw(st.from_type(entity(PRODUCE, version, "Request")))
    encoded = encode_with_kio(value)
    request = produce.read_request(Reader(memoryview(encoded)), version)
    timeout_ms = round(value.timeout / datetime.timedelta(milliseconds=1))
    assert request[:3] == (value.transactional_id, value.acks, timeout_ms)
    read = [[topic.name, [[part.partition, records_of(part.records)] for part in topic.partitions]] for topic in request.topics]
    assert read == [
        [topic.name, [[one.index, records_of(one.records)] for one in topic.partition_data]] for topic in value.topic_data
    ]
    views = [part.records for topic in request.topics for part in topic.partitions if part.records is not None]
    assert all(view.obj is encoded for view in views)


@pytest.mark.parametrize("version", PRODUCE_VERSIONS)
@given(topics=topics_of(PRODUCED))
@SOME
def test_produce_answers_are_written_as_another_codec_reads_them(
    version: int, topics: list[tuple[str, list[produce.PartitionAnswer]]]
) -> None:
    """Each version's fields, and no more."""
    writer = Writer()
    produce.write_answer(writer, version, topics)
    read = decode_with_kio(entity(PRODUCE, version, "Response"), b"".join(writer.finish()))
    assert [topic.name for topic in read.responses] == [name for name, _ in topics]
    for topic, (_, partitions) in zip(read.responses, topics, strict=True):
        for one, part in zip(topic.partition_responses, partitions, strict=True):
            assert (one.index, one.error_code.value, one.base_offset) == part[:3]
            assert getattr(one, "log_start_offset", part.log_start_offset) == part.log_start_offset
            assert getattr(one, "error_message", part.error_message) == part.error_message
            assert getattr(one, "record_errors", ()) == ()


@pytest.mark.parametrize("version", FETCH_VERSIONS)
@given(data=st.data())
@SOME
def test_fetch_requests_are_read_as_another_codec_writes_them(version: int, data: st.DataObject) -> None:
    """What consumers mean by it; followers' fields are passed over."""
    value = data.draw(st.from_type(entity(FETCH, version, "Request")))
    request = fetch.read_request(Reader(memoryview(encode_with_kio(value))), version)
    wait_ms = round(value.max_wait / datetime.timedelta(milliseconds=1))
    assert (request.max_wait_ms, request.min_bytes, request.max_bytes) == (wait_ms, value.min_bytes, value.max_bytes)
    assert (request.session_id, request.session_epoch) == (getattr(value, "session_id", 0), getattr(value, "session_epoch", -1))
    assert request.rack == getattr(value, "rack_id", "")
    assert [(name, [tuple(part) for part in parts]) for name, parts in request.topics] == [
        (topic.topic, [_fetched(one) for one in topic.partitions]) for topic in value.topics
    ]


def _fetched(one: Any) -> tuple[int, ...]:
    return one.partition, getattr(one, "current_leader_epoch", -1), one.fetch_offset, one.partition_max_bytes


@pytest.mark.parametrize("version", FETCH_VERSIONS)
@given(topics=topics_of(FETCHED))
@SOME
def test_fetch_answers_are_written_as_another_codec_reads_them(
    version: int, topics: list[tuple[str, list[fetch.PartitionAnswer]]]
) -> None:
    """The batches of a partition stand one behind another."""
    writer = Writer()
    fetch.write_answer(writer, version, topics)
    read: Any = decode_with_kio(entity(FETCH, version, "Response"), b"".join(writer.finish()))
    assert getattr(read, "session_id", 0) == 0
    assert [topic.topic for topic in read.responses] == [name for name, _ in topics]
    for topic, (_, partitions) in zip(read.responses, topics, strict=True):
        for one, part in zip(topic.partitions, partitions, strict=True):
            assert (one.partition_index, one.error_code.value, one.high_watermark) == part[:3]
            assert one.last_stable_offset == part.high_watermark
            assert getattr(one, "log_start_offset", part.log_start_offset) == part.log_start_offset
            assert getattr(one, "preferred_read_replica", part.preferred_read_replica) == part.preferred_read_replica
            assert bytes(one.records or b"") == b"".join(part.batches)
            assert one.aborted_transactions == ()


@pytest.mark.parametrize(("version", "fields"), [(v, PRODUCE) for v in PRODUCE_VERSIONS] + [(v, FETCH) for v in FETCH_VERSIONS])
@given(data=st.binary(max_size=120))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_a_request_or_a_typed_error(version: int, fields: object, data: bytes) -> None:
    """Nothing else leaves the readers."""
    read: Any = produce.read_request if fields is PRODUCE else fetch.read_request
    with contextlib.suppress(MalformedRequestError):
        read(Reader(memoryview(data)), version)
