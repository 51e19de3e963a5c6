"""Which partition a record goes to: by its key's hash as in every Kafka client; without one, where the batch goes (KIP-480)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_32_BITS: Final = 0xFFFFFFFF
_POSITIVE: Final = 0x7FFFFFFF


def _murmur2(data: bytes) -> int:
    """MurmurHash2 of 32 bits, unsigned, with Kafka's seed."""
    size = len(data)
    words = size >> 2
    h = _SEED ^ size
    for k in struct.unpack_from(f"<{words}I", data):
        k = k * _M & _32_BITS  # noqa: PLW2901 — the algorithm's own variable, rewritten in the loop that runs for every word
        h = h * _M & _32_BITS ^ (k ^ k >> 24) * _M & _32_BITS
    tail = size & 3
    if tail:
        h = (h ^ int.from_bytes(data[-tail:], "little")) * _M & _32_BITS
    h = (h ^ h >> 13) * _M & _32_BITS
    return h ^ h >> 15


def murmur2(data: bytes) -> int:
    """The hash as Kafka's ``Utils.murmur2`` gives it: a signed 32-bit number."""
    h = _murmur2(data)
    return h - (1 << 32) if h >> 31 else h


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a key among ``partitions`` (at least 1): the same in every client of every language."""
    return (_murmur2(key) & _POSITIVE) % partitions


class StickyPartitioner:
    """Records with a key by hash; those without stay with one partition until its batch is full, for full batches are cheap.

    Args:
        randrange: gives a number from 0 up to, not including, its argument.
    """

    __slots__ = ("_randrange", "_sticky")

    def __init__(self, randrange: Callable[[int], int]) -> None:
        self._randrange = randrange
        self._sticky = -1

    def partition(self, key: bytes | None, partitions: int) -> int:
        """The record's partition, of ``partitions``."""
        if key is not None:
            return (_murmur2(key) & _POSITIVE) % partitions
        if not 0 <= self._sticky < partitions:
            self._sticky = self._randrange(partitions)
        return self._sticky

    def rotate(self, partitions: int, available: Sequence[int] = ()) -> None:
        """Choose another partition for records without a key: the batch is full, or its partition has no leader.

        Args:
            partitions: how many there are.
            available: those to choose from, where it is known; all of them when it is empty.
        """
        choices = [partition for partition in available or range(partitions) if partition != self._sticky]
        if choices:
            self._sticky = choices[self._randrange(len(choices))]
