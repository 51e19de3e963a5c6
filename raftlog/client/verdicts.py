"""What to do about a refused batch: a pure decision from the error and the batch's place in its partition."""

from __future__ import annotations

from enum import Enum
from typing import Final

from raftlog.client.accumulator import Batch, PartitionQueue
from raftlog.errors import (
    CorruptMessageError,
    InvalidProducerEpochError,
    MessageTooLargeError,
    OutOfOrderSequenceError,
    RaftlogError,
    UnknownProducerIdError,
)

CORRUPT_ATTEMPTS_MAX: Final = 3
"""Times that a batch may arrive damaged: bytes change rarely on their way, so more often than that it is the batch itself."""


class Verdict(Enum):
    """What becomes of the batch."""

    RETRY = "send it again, with the same sequence"
    NEW_ID = "send it again, under a new producer id"
    SPLIT = "send its records as two batches"
    FAIL = "tell those who wait for it"


def verdict(queue: PartitionQueue, batch: Batch, error: RaftlogError) -> Verdict:
    """Decide about ``batch`` of ``queue``, refused with ``error``."""
    if isinstance(error, MessageTooLargeError):
        return Verdict.SPLIT if 1 < batch.record_count == len(batch.futures) else Verdict.FAIL
    if isinstance(error, CorruptMessageError):
        return Verdict.RETRY if batch.attempt < CORRUPT_ATTEMPTS_MAX else Verdict.FAIL
    if batch.sequence >= 0 and isinstance(error, (OutOfOrderSequenceError, UnknownProducerIdError, InvalidProducerEpochError)):
        return _about_sequence(queue, batch, error)
    return Verdict.RETRY if error.retriable else Verdict.FAIL


def _about_sequence(queue: PartitionQueue, batch: Batch, error: RaftlogError) -> Verdict:
    """The node misses a batch before this one, or does not know the producer.

    Behind a hole that is as it must be. Without one, an earlier batch which is still to be sent again explains it. Where
    nothing does, what was acknowledged before is gone on the node's side: that is told, never mended in silence.
    """
    if queue.has_hole:
        return Verdict.FAIL if batch.maybe_stored else Verdict.RETRY
    if queue.unanswered[0] is not batch:
        return Verdict.RETRY
    if batch.maybe_stored or isinstance(error, OutOfOrderSequenceError):
        return Verdict.FAIL
    return Verdict.NEW_ID
