"""What a pipelining producer is told of the batches behind one that was refused."""

from __future__ import annotations

import pytest

from raftlog.broker.port import Published
from raftlog.errors import (
    InvalidTimestampError,
    LeaderNotAvailableError,
    OutOfOrderSequenceError,
    RaftlogError,
    StorageFullError,
)
from raftlog.kafka.handlers.refused import EXPLAINS_S, REFUSED_MAX, Outcome, RefusedBatches
from raftlog.model import TopicPartition
from raftlog.records.batch import SEQUENCE_MODULUS, BatchBuilder

T0 = TopicPartition("t", 0)
TAKEN = Published(base_offset=7, log_append_time_ms=-1, log_start_offset=0)
FULL, GAP = StorageFullError("the disk is full"), OutOfOrderSequenceError("gap")


class Told:
    """Refusals at a time that is set."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.refused = RefusedBatches(lambda: self.now_s)

    def __call__(self, sequence: int, outcome: Outcome, tp: TopicPartition = T0, producer_id: int = 5, epoch: int = 3) -> Outcome:
        builder = BatchBuilder(size_bytes_max=1_000)
        builder.append(None, b"a", timestamp_ms=1)
        batch = builder.build(producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence)
        return self.refused.told(tp, batch, outcome)


def test_batches_behind_a_refused_one_are_refused_alike() -> None:
    """librdkafka would begin a new epoch over a gap, and store twice what it has no answer to in other partitions."""
    told = Told()
    assert told(10, FULL) is FULL
    assert told(11, GAP) is FULL
    assert told(12, GAP) is FULL
    assert told(10, TAKEN) is TAKEN
    assert told(12, GAP) is GAP  # and this one is one


def test_the_first_refused_one_is_waited_for_and_the_last_reason_told() -> None:
    """They are sent again from the first on, and find another reason."""
    told, leaderless = Told(), LeaderNotAvailableError("wait")
    assert told(10, FULL) is FULL
    assert told(11, FULL) is FULL
    assert told(10, leaderless) is leaderless
    assert told(11, GAP) is leaderless


@pytest.mark.parametrize(
    ("sequence", "other"),
    [
        (9, {}),
        (10, {}),
        (11, {"producer_id": 6}),
        (11, {"epoch": 4}),
        (11, {"tp": TopicPartition("t", 1)}),
        (11, {"producer_id": -1}),
    ],
)
def test_nothing_else_is_explained(sequence: int, other: dict[str, object]) -> None:
    """What is not behind it, or not of the same producer, epoch and partition, has a gap of its own."""
    told = Told()
    told(10, FULL)
    assert told(sequence, GAP, **other) is GAP  # type: ignore[arg-type]


def test_an_error_that_stays_explains_nothing() -> None:
    """Its batch is not sent again, so those behind it never fit."""
    told, wrong = Told(), InvalidTimestampError("from the future")
    assert told(10, wrong) is wrong
    assert told(11, GAP) is GAP


def test_a_gap_that_stays_is_told() -> None:
    """The refused batch is not coming: the producer must not try for ever."""
    told = Told()
    told(10, FULL)
    told.now_s += EXPLAINS_S
    assert told(11, GAP) is FULL
    told.now_s += 0.1
    assert told(11, GAP) is GAP


def test_sequences_wrap_around() -> None:
    """After the highest one comes 0."""
    told = Told()
    told(SEQUENCE_MODULUS - 1, FULL)
    assert told(0, GAP) is FULL


def test_what_is_remembered_is_bounded() -> None:
    """The oldest is forgotten first."""
    told = Told()
    for number in range(REFUSED_MAX + 1):
        told(10, FULL, producer_id=number)
    assert told(11, GAP, producer_id=0) is GAP
    assert told(11, GAP, producer_id=1) is FULL
    assert isinstance(told(11, GAP, producer_id=REFUSED_MAX), RaftlogError)
