"""Kafka's consumer protocol: round trips, another implementation's reading of it, and hostile bytes."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription

from raftlog.core import consumer_protocol as protocol
from raftlog.errors import InvalidRequestError
from raftlog.model import TopicPartition

names = st.text(max_size=12)
tps = st.lists(st.builds(TopicPartition, names, st.integers(0, 2**31 - 1)), max_size=8, unique=True).map(sorted).map(tuple)
subscriptions = st.builds(
    protocol.Subscription,
    topics=st.lists(names, max_size=5).map(tuple),
    user_data=st.none() | st.binary(max_size=20),
    owned=tps,
    generation=st.integers(-1, 2**31 - 1),
    rack=st.none() | names,
)
assignments = st.builds(protocol.Assignment, partitions=tps, user_data=st.none() | st.binary(max_size=20))


@given(subscriptions)
def test_a_subscription_comes_back_as_it_was(subscription: protocol.Subscription) -> None:
    """Version 3 holds all of it."""
    assert protocol.decode_subscription(protocol.encode_subscription(subscription)) == subscription


@given(subscriptions, st.integers(0, 3))
def test_an_older_version_leaves_out_only_what_it_does_not_know(subscription: protocol.Subscription, version: int) -> None:
    """Topics and user data are in all of them."""
    found = protocol.decode_subscription(protocol.encode_subscription(subscription, version))
    assert (found.topics, found.user_data) == (subscription.topics, subscription.user_data)
    assert found.owned == (subscription.owned if version >= 1 else ())
    assert found.generation == (subscription.generation if version >= 2 else -1)


@given(assignments)
def test_an_assignment_comes_back_as_it_was(assignment: protocol.Assignment) -> None:
    """In every version the same bytes but for its number."""
    assert protocol.decode_assignment(protocol.encode_assignment(assignment)) == assignment
    assert protocol.encode_assignment(assignment, 0)[2:] == protocol.encode_assignment(assignment)[2:]


@given(subscriptions, st.integers(0, 3))
def test_kafka_python_reads_our_subscriptions_and_we_read_its(subscription: protocol.Subscription, version: int) -> None:
    """An independent implementation finds the same fields, and writes the same bytes."""
    data = protocol.encode_subscription(subscription, version)
    theirs = ConsumerProtocolSubscription.decode(data)
    assert tuple(theirs.topics) == subscription.topics
    if version >= 1:
        owned = [TopicPartition(one.topic, number) for one in theirs.owned_partitions for number in one.partitions]
        assert tuple(owned) == subscription.owned
    assert bytes(theirs.encode()) == data


@given(assignments)
def test_kafka_python_reads_our_assignments_and_we_read_its(assignment: protocol.Assignment) -> None:
    """The same for assignments."""
    theirs = ConsumerProtocolAssignment.decode(protocol.encode_assignment(assignment))
    found = [TopicPartition(one.topic, number) for one in theirs.assigned_partitions for number in one.partitions]
    assert tuple(found) == assignment.partitions
    assert protocol.decode_assignment(bytes(theirs.encode())) == assignment


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_their_own_error(data: bytes) -> None:
    """Members may send what they like."""
    for decode in (protocol.decode_subscription, protocol.decode_assignment):
        with contextlib.suppress(InvalidRequestError):
            decode(data)
    protocol.decode_sticky_data(data)
    protocol.decode_cooperative_data(data)


@given(subscriptions, st.data())
def test_a_subscription_that_was_cut_short_or_changed_is_refused_or_read(
    subscription: protocol.Subscription, data: st.DataObject
) -> None:
    """Damage near a valid encoding reaches deeper than random bytes."""
    whole = bytearray(protocol.encode_subscription(subscription))
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidRequestError):
        protocol.decode_subscription(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


def test_a_count_that_cannot_fit_costs_no_memory() -> None:
    """Two billion announced topics in four bytes."""
    with pytest.raises(InvalidRequestError):
        protocol.decode_subscription(b"\x00\x00\x7f\xff\xff\xff")


def test_a_newer_version_is_read_as_far_as_it_is_known() -> None:
    """What is appended is passed over."""
    subscription = protocol.Subscription(topics=("t",), generation=4)
    data = protocol.encode_subscription(subscription)
    assert protocol.decode_subscription(b"\x00\x09" + data[2:] + b"more") == subscription


def test_an_empty_assignment_holds_nothing() -> None:
    """The coordinator makes one for whom the leader left out."""
    assert protocol.decode_assignment(b"").partitions == ()


@given(tps, st.integers(-1, 2**31 - 1))
def test_sticky_data_comes_back_as_it_was(owned: tuple[TopicPartition, ...], generation: int) -> None:
    """Also without the generation, which its first version had not."""
    data = protocol.encode_sticky_data(owned, generation)
    assert protocol.decode_sticky_data(data) == (owned, generation)
    assert protocol.decode_sticky_data(data[:-4]) == (owned, -1)
    assert protocol.decode_cooperative_data(protocol.encode_cooperative_data(generation)) == generation


def test_more_items_than_a_member_can_mean_are_refused_before_they_are_read() -> None:
    """Two bytes make a name: a stranger's four megabytes would hold up the node that reads them for seconds."""
    many = protocol.ITEMS_MAX + 1
    names = struct.pack(">hi", 0, many) + bytes(2 * many) + struct.pack(">i", -1)
    numbers = struct.pack(">hi", 0, 1) + b"\0\1t" + struct.pack(">i", many) + bytes(4 * many) + struct.pack(">i", -1)
    for decode, data in ((protocol.decode_subscription, names), (protocol.decode_assignment, numbers)):
        with pytest.raises(InvalidRequestError, match="items"):
            decode(data)
