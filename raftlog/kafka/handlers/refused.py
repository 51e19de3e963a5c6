"""Batches behind one that was refused for the time being are refused for the same reason, not as out of order.

Theory of operation. An idempotent producer has several batches of a partition under way. Where the first is refused and may be
sent again (this node does not lead yet, its disk is full), those behind it find a gap in the sequence. Kafka's answer to these is
OUT_OF_ORDER_SEQUENCE_NUMBER, and Java's producer takes that for what it is. librdkafka begins a new epoch then, in which it sends
everything again that it has no answer to, in other partitions too: what a leader had stored before it died is stored twice
(librdkafka's issue 4953). With the first batch's own error it sends all of them again in order, in the epoch that they have.

Rules:

1. A gap is explained by a batch of the same producer, epoch and partition that came before, and was refused with an error that
   asks to send it again, if none was taken since.
2. It explains for ``EXPLAINS_S``: a gap that stays is one, and is told.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from raftlog.broker.port import Batch, Published
from raftlog.errors import OutOfOrderSequenceError, RaftlogError
from raftlog.model import NO_PRODUCER, TopicPartition
from raftlog.records.batch import HEADER_SIZE, SEQUENCE_MODULUS, BatchHeader, read_header

EXPLAINS_S: Final = 5.0
"""Longer than batches of one producer are under way beside each other at a node that refuses them."""
REFUSED_MAX: Final = 10_000
"""Producers' partitions that are remembered; beyond it the oldest is forgotten."""

Outcome = Published | RaftlogError
_Key = tuple[TopicPartition, int, int]


class RefusedBatches:
    """What a node has refused lately.

    Args:
        now_s: a monotonic clock.
    """

    __slots__ = ("_now_s", "_refused")

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._refused: OrderedDict[_Key, tuple[int, float, RaftlogError]] = OrderedDict()

    def told(self, tp: TopicPartition, batch: Batch, outcome: Outcome) -> Outcome:
        """What a producer is told of a batch whose outcome is ``outcome``; called in the order of the answers."""
        self._forget_old()
        if (not self._refused and not isinstance(outcome, RaftlogError)) or len(batch) < HEADER_SIZE:
            return outcome
        header = read_header(batch)
        if header.producer_id == NO_PRODUCER:
            return outcome
        key = tp, header.producer_id, header.producer_epoch
        if not isinstance(outcome, RaftlogError):
            self._refused.pop(key, None)
        elif isinstance(outcome, OutOfOrderSequenceError):
            return self._explained(key, header) or outcome
        elif outcome.retriable:
            self._note(key, header, outcome)
        return outcome

    def _note(self, key: _Key, header: BatchHeader, error: RaftlogError) -> None:
        known = self._refused.pop(key, None)
        if known is not None and _follows(header.base_sequence, known[0]):
            header = header._replace(base_sequence=known[0])  # the first of them stays the one to wait for
        self._refused[key] = header.base_sequence, self._now_s(), error
        if len(self._refused) > REFUSED_MAX:
            self._refused.popitem(last=False)

    def _explained(self, key: _Key, header: BatchHeader) -> RaftlogError | None:
        known = self._refused.get(key)
        return known[2] if known is not None and _follows(header.base_sequence, known[0]) else None

    def _forget_old(self) -> None:
        """Rule 2; those that were refused longest ago stand first."""
        while self._refused and self._now_s() - next(iter(self._refused.values()))[1] > EXPLAINS_S:
            self._refused.popitem(last=False)


def _follows(sequence: int, other: int) -> bool:
    """Whether a sequence is behind another one; they wrap around."""
    return 0 < (sequence - other) % SEQUENCE_MODULUS < SEQUENCE_MODULUS // 2
