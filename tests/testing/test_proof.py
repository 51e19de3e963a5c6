"""The checker of the demo catches each fault that it claims to catch."""

from __future__ import annotations

from raftlog.testing.proof import PartitionVerdict, Place, Seen, verdict

NONE: frozenset[int] = frozenset()
ACKED = {0: Place(0, 0), 1: Place(1, 0), 2: Place(0, 1), 3: Place(0, 2)}
READ = {0: [Seen(0, 0, True), Seen(1, 2, True), Seen(2, 3, True)], 1: [Seen(0, 1, True)]}


def partition_0(read: list[Seen], failed: frozenset[int] = NONE) -> PartitionVerdict:
    """The verdict on partition 0 with this reading of it."""
    return verdict(2, ACKED, failed, {**READ, 0: read}).partitions[0]


def test_a_whole_delivery_holds() -> None:
    """Everything acknowledged was read once, in order."""
    result = verdict(2, ACKED, NONE, READ)
    assert result.holds
    assert result.partitions == {0: PartitionVerdict(acknowledged=3, read=3), 1: PartitionVerdict(acknowledged=1, read=1)}


def test_a_missing_record_is_lost() -> None:
    """Acknowledged and never read."""
    found = partition_0(READ[0][:2])
    assert (found.lost, found.holds) == (1, False)


def test_a_record_at_another_offset_than_acknowledged_is_lost() -> None:
    """The place is part of the promise."""
    assert partition_0([*READ[0][:2], Seen(7, 3, True)]).lost == 1


def test_a_record_read_twice_is_doubled() -> None:
    """At a second offset, or again at the same."""
    assert partition_0([*READ[0], Seen(3, 3, True)]).doubled == 1
    assert partition_0([*READ[0], READ[0][2]]).doubled == 1


def test_a_record_in_two_partitions_is_doubled() -> None:
    """And unexplained where it was not acknowledged."""
    result = verdict(2, ACKED, NONE, {**READ, 1: [*READ[1], Seen(1, 3, True)]})
    assert (result.partitions[1].doubled, result.partitions[1].unexplained, result.holds) == (1, 1, False)


def test_an_earlier_record_behind_a_later_one_is_reordered() -> None:
    """Order in a partition is the order of publishing."""
    assert partition_0([READ[0][0], READ[0][2], READ[0][1]]).reordered == 1


def test_other_bytes_are_altered() -> None:
    """A record is what was published."""
    assert partition_0([*READ[0][:2], Seen(2, 3, False)]).altered == 1


def test_a_refused_record_must_not_be_read() -> None:
    """A definite failure is a promise as well."""
    assert partition_0([*READ[0], Seen(3, 9, True)], frozenset({9})).unexplained == 1


def test_a_record_with_an_unknown_outcome_may_be_read_or_not() -> None:
    """A timeout is unknown, not failed."""
    assert partition_0([*READ[0], Seen(3, 9, True)]).holds
