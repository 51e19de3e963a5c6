"""The proof of a delivery: what was acknowledged against what was read. Pure functions over what was recorded.

Every record carries its number in the stream that was published (``NUMBER_HEADER``), so that equal records are told apart.
An outcome is acknowledged, failed, or *unknown* (a timeout): an unknown record may be read once or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

NUMBER_HEADER = "number"


class Place(NamedTuple):
    """Where an acknowledged record stands."""

    partition: int
    offset: int


class Seen(NamedTuple):
    """A record as it was read: its offset, its number in the stream, and whether its bytes are those that were published."""

    offset: int
    number: int
    intact: bool


@dataclass(slots=True)
class PartitionVerdict:
    """Counts of one partition; all of the last five must be zero."""

    acknowledged: int = 0
    read: int = 0
    lost: int = 0
    """Acknowledged, and not read where it was acknowledged."""
    doubled: int = 0
    """Read at more than one offset, or more than once."""
    reordered: int = 0
    """Read behind a record that was published later."""
    altered: int = 0
    """Read with other bytes than were published."""
    unexplained: int = 0
    """Read, though it was never published to this partition or definitely failed."""

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.reordered or self.altered or self.unexplained)


@dataclass(slots=True)
class Verdict:
    """One verdict for each partition."""

    partitions: dict[int, PartitionVerdict] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong anywhere."""
        return all(partition.holds for partition in self.partitions.values())


def verdict(
    partitions: int, acknowledged: Mapping[int, Place], failed: frozenset[int], read: Mapping[int, Sequence[Seen]]
) -> Verdict:
    """Compare.

    Args:
        partitions: how many there are, numbered from 0.
        acknowledged: number in the stream → where it was acknowledged.
        failed: numbers that were definitely refused.
        read: partition → what a subscriber read of it, from the beginning, in the order of reading.
    """
    result = Verdict({number: PartitionVerdict() for number in range(partitions)})
    offsets: dict[int, dict[int, int]] = {}
    everywhere: set[int] = set()
    for partition in range(partitions):
        own, highest = result.partitions[partition], -1
        by_offset = offsets.setdefault(partition, {})
        for seen in read.get(partition, ()):
            own.read += 1
            own.altered += not seen.intact
            own.doubled += seen.number in everywhere or seen.offset in by_offset
            own.reordered += seen.number < highest
            place = acknowledged.get(seen.number)
            own.unexplained += seen.number in failed or (place is not None and place.partition != partition)
            everywhere.add(seen.number)
            by_offset.setdefault(seen.offset, seen.number)
            highest = max(highest, seen.number)
    for number, place in acknowledged.items():
        own = result.partitions[place.partition]
        own.acknowledged += 1
        own.lost += offsets[place.partition].get(place.offset) != number
    return result
