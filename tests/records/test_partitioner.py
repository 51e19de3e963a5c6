"""The partitioner: keys go where Kafka's clients send them, the rest stays together."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftlog.records.partitioner import StickyPartitioner, murmur2, partition_of

KNOWN = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", KNOWN)
def test_the_hash_is_kafkas(key: bytes) -> None:
    """The values that Kafka's own tests expect."""
    assert murmur2(key) == KNOWN[key]
    assert partition_of(key, 7) == (KNOWN[key] & 0x7FFFFFFF) % 7


@given(st.binary(max_size=100), st.integers(1, 10_000))
def test_a_key_always_has_the_same_partition(key: bytes, partitions: int) -> None:
    """The partition exists, depends on the key alone, and the partitioner agrees with the function."""
    chosen = partition_of(key, partitions)
    assert 0 <= chosen < partitions
    assert StickyPartitioner(Random(1).randrange).partition(key, partitions) == chosen
    assert -(1 << 31) <= murmur2(key) < 1 << 31


def test_records_without_a_key_stay_together_until_told_otherwise() -> None:
    """The choice sticks; ``rotate`` always leaves the partition where there is another."""
    partitioner = StickyPartitioner(Random(1).randrange)
    seen = set()
    for _ in range(100):
        first = partitioner.partition(None, 4)
        assert {partitioner.partition(None, 4) for _ in range(10)} == {first}
        partitioner.rotate(4)
        assert partitioner.partition(None, 4) != first
        seen.add(first)
    assert seen == {0, 1, 2, 3}


def test_rotating_keeps_to_what_is_available() -> None:
    """A partition without a leader is not chosen; with nothing else, the choice stays."""
    partitioner = StickyPartitioner(Random(1).randrange)
    for _ in range(20):
        partitioner.rotate(4, available=[1, 3])
        assert partitioner.partition(None, 4) in (1, 3)
    partitioner.rotate(4, available=[2])
    partitioner.rotate(4, available=[2])
    assert partitioner.partition(None, 4) == 2


def test_a_choice_beyond_the_partitions_is_made_anew() -> None:
    """A topic made again with fewer partitions is still written to."""
    partitioner = StickyPartitioner(Random(1).randrange)
    partitioner.rotate(100, available=[99])
    assert partitioner.partition(None, 2) < 2
