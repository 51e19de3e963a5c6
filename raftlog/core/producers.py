"""What one partition knows of its idempotent producers: who may write next, and what was written already (KIP-98, KIP-360).

Theory of operation. Each producer numbers its records in a partition from 0. The table keeps, for each producer id, its epoch
and its last five entries, each of one batch or of several in a row. A batch is *new* when it continues the sequence, a
*duplicate* when its sequences lie within one of those five: offsets and sequences rise together, so its place follows.

State has two parts. *Applied* state is a function of the applied log alone, the same on every replica, kept in rows. The
*overlay* is the batches that a leader appended beyond that, (applied, last]: a check sees both, truncation drops overlay.

Rules:

1. Nothing here reads a clock. What expires is decided by the leader (``expirable``), proposed, and applied by all (``expire``).
2. A higher epoch begins at sequence 0 and fences all lower ones.
3. A producer that is not known begins at sequence 0. One that begins later either was forgotten (``UnknownProducerIdError``:
   it must take a new epoch or id), or its earlier batches have not arrived yet (``OutOfOrderSequenceError``: send those first).
   To tell them apart the table remembers the highest id that it ever forgot. Kafka takes any sequence here, and so can take
   a producer's second batch before its first when leadership moves; no order is lost this way.
4. At most ``producers_max`` are kept: applying one more forgets the one that has not written for longest, by raft index.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

from raftlog.core.entry import EntryHeader, EntryKind
from raftlog.errors import (
    DataLossError,
    InvalidProducerEpochError,
    NewerFormatError,
    OutOfOrderSequenceError,
    UnknownProducerIdError,
)
from raftlog.model import NO_PRODUCER
from raftlog.records.batch import SEQUENCE_MODULUS

PRODUCERS_MAX: Final = 10_000
"""Default limit of a partition: some 4 MB of memory when it is reached."""
BATCHES_KEPT: Final = 5
"""As many batches as an idempotent client has in flight to a partition at most (KIP-98)."""
EXPIRED_MAX: Final = 1_000
"""Most producers that one command forgets, so that it stays a small entry."""

_ROW_FORMAT: Final = 1
_ROW: Final = struct.Struct(">BhB")
_BATCH: Final = struct.Struct(">iiqQq")
_KEPT_BEFORE_ONE: Final = (BATCHES_KEPT - 1) * _BATCH.size
_KEY: Final = struct.Struct(">q")
_FORGOTTEN_KEY: Final = _KEY.pack(NO_PRODUCER)
"""The row of the highest id ever forgotten; no producer has this id."""


@dataclass(frozen=True, slots=True)
class New:
    """The batch is to be appended."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The batch is in the log already: its first offset and its raft index, which may not be committed yet."""

    base_offset: int
    index: int


NEW: Final = New()


class _Batch(NamedTuple):
    base_sequence: int
    last_sequence: int
    base_offset: int
    raft_index: int
    timestamp: int


def row_key(producer_id: int) -> bytes:
    """The key of a producer's row: its id as 8 bytes, big endian."""
    return _KEY.pack(producer_id)


class ProducerTable:
    """The producers of one partition.

    Args:
        producers_max: most producers in applied state; the same on every replica.
    """

    __slots__ = ("_applied", "_changed", "_forgotten_max", "_log", "_overlay", "_producers_max")

    def __init__(self, *, producers_max: int = PRODUCERS_MAX) -> None:
        self._producers_max = producers_max
        self._applied: dict[int, bytes] = {}
        """Producer id → its row: packed, for there may be many. Least recently applied first, which is the order of their last
        batches' raft indices."""
        self._overlay: dict[int, deque[tuple[int, _Batch]]] = {}
        """Producer id → (epoch, batch) of its batches in ``_log``; never an empty one."""
        self._log: deque[tuple[int, int]] = deque()
        """(raft index, producer id) of all batches beyond applied state; indices rise. The overlay is as long as the log is
        ahead of the applied index, which its owner bounds."""
        self._forgotten_max = NO_PRODUCER
        self._changed: set[int] = set()

    def __len__(self) -> int:
        return len(self._applied)

    def __contains__(self, producer_id: int) -> bool:
        return producer_id in self._applied or producer_id in self._overlay

    def check(self, producer_id: int, epoch: int, base_sequence: int, count: int) -> New | Duplicate:
        """Say whether a batch of ``count`` records is new or a duplicate, given everything up to the log's end.

        A batch without a producer (id −1) is always new. Nothing is changed.

        Raises:
            InvalidProducerEpochError: a newer epoch of this producer has written.
            OutOfOrderSequenceError: the batch does not follow the last one, nor is it one of the last five.
            UnknownProducerIdError: the producer was forgotten and does not begin anew.
        """
        if producer_id == NO_PRODUCER:
            return NEW
        newest = self._newest(producer_id)
        if newest is None:
            return self._check_unknown(producer_id, base_sequence)
        current, last = newest
        if epoch < current:
            raise InvalidProducerEpochError(
                f"producer {producer_id} has epoch {current} here, the batch has {epoch}: another instance took over"
            )
        if epoch > current:
            if base_sequence == 0:
                return NEW
            raise OutOfOrderSequenceError(
                f"producer {producer_id} begins epoch {epoch} at sequence {base_sequence}; send its batch of sequence 0 first"
            )
        expected = (last.last_sequence + 1) % SEQUENCE_MODULUS
        if base_sequence == expected:
            return NEW
        for batch in self._recent(producer_id, epoch):
            ahead = (base_sequence - batch.base_sequence) % SEQUENCE_MODULUS
            if ahead + count - 1 <= (batch.last_sequence - batch.base_sequence) % SEQUENCE_MODULUS:
                return Duplicate(batch.base_offset + ahead, batch.raft_index)
        raise OutOfOrderSequenceError(f"producer {producer_id} sent sequence {base_sequence}; the next one here is {expected}")

    def _check_unknown(self, producer_id: int, base_sequence: int) -> New:
        if base_sequence == 0:
            return NEW
        if producer_id <= self._forgotten_max:
            raise UnknownProducerIdError(
                f"producer {producer_id} is not known here any more; take a new epoch or producer id and begin at sequence 0"
            )
        raise OutOfOrderSequenceError(
            f"producer {producer_id} begins at sequence {base_sequence} here; send its batch of sequence 0 first"
        )

    def _newest(self, producer_id: int) -> tuple[int, _Batch] | None:
        """The producer's epoch and last batch, None where it is not known."""
        overlay = self._overlay.get(producer_id)
        if overlay is not None:
            return overlay[-1]
        row = self._applied.get(producer_id)
        return None if row is None else (_epoch(row), _last(row))

    def _recent(self, producer_id: int, epoch: int) -> list[_Batch]:
        """The producer's last batches of its present epoch, newest first, five at most."""
        overlay = self._overlay.get(producer_id, ())
        recent = [batch for its, batch in islice(reversed(overlay), BATCHES_KEPT) if its == epoch]
        row = self._applied.get(producer_id)
        if row is not None and _epoch(row) == epoch:
            recent += islice(reversed(_batches(row)), BATCHES_KEPT - len(recent))
        return recent

    def append(self, header: EntryHeader) -> None:
        """Take note of an entry that was appended to the log beyond the applied index. Those without a producer pass by."""
        if header.producer_id == NO_PRODUCER or header.kind is not EntryKind.RECORDS:
            return
        self._log.append((header.index, header.producer_id))
        self._overlay.setdefault(header.producer_id, deque()).append((header.producer_epoch, _batch(header)))

    def truncate(self, index: int) -> None:
        """Forget what was appended at ``index`` and beyond."""
        while self._log and self._log[-1][0] >= index:
            _, producer_id = self._log.pop()
            batches = self._overlay[producer_id]
            batches.pop()
            if not batches:
                del self._overlay[producer_id]

    def apply(self, header: EntryHeader) -> None:
        """Take an entry of the log into applied state, in order of index; what was appended up to it leaves the overlay."""
        self.settle(header.index)
        if header.producer_id == NO_PRODUCER or header.kind is not EntryKind.RECORDS:
            return
        row = self._applied.pop(header.producer_id, None)
        kept = b"" if row is None or _epoch(row) != header.producer_epoch else row[_ROW.size :][-_KEPT_BEFORE_ONE:]
        batches = kept + _BATCH.pack(*_batch(header))
        self._applied[header.producer_id] = _ROW.pack(_ROW_FORMAT, header.producer_epoch, len(batches) // _BATCH.size) + batches
        self._changed.add(header.producer_id)
        if len(self._applied) > self._producers_max:
            self._forget(next(iter(self._applied)))

    def settle(self, applied_index: int) -> None:
        """What was appended up to ``applied_index`` is in applied state: it leaves the overlay."""
        while self._log and self._log[0][0] <= applied_index:
            _, producer_id = self._log.popleft()
            under_way = self._overlay[producer_id]
            under_way.popleft()
            if not under_way:
                del self._overlay[producer_id]

    def expirable(self, before_ms: int) -> list[int]:
        """Producers whose last batch was appended before ``before_ms`` and that have none under way: the leader proposes them."""
        expired = (
            producer_id
            for producer_id, row in self._applied.items()
            if _last(row).timestamp < before_ms and producer_id not in self._overlay
        )
        return list(islice(expired, EXPIRED_MAX))

    def expire(self, producer_ids: Iterable[int]) -> None:
        """Apply the leader's decision to forget producers."""
        for producer_id in producer_ids:
            if producer_id in self._applied:
                self._forget(producer_id)

    def _forget(self, producer_id: int) -> None:
        del self._applied[producer_id]
        self._forgotten_max = max(self._forgotten_max, producer_id)
        self._changed.update((producer_id, NO_PRODUCER))

    def encode_row(self, producer_id: int) -> bytes:
        """A producer's applied state; the producer must be there."""
        return self._applied[producer_id]

    def take_changes(self) -> dict[bytes, bytes | None]:
        """The rows that applying changed since the last call, key → value or None for a row to delete."""
        rows: dict[bytes, bytes | None] = {
            row_key(producer_id): self._applied.get(producer_id) for producer_id in self._changed if producer_id != NO_PRODUCER
        }
        if NO_PRODUCER in self._changed:
            rows[_FORGOTTEN_KEY] = _KEY.pack(self._forgotten_max)
        self._changed.clear()
        return rows

    def load(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Replace all state by that of ``rows``; the overlay is empty afterwards.

        Raises:
            DataLossError: a row is not what this version wrote.
            NewerFormatError: a row is of another version's format.
        """
        forgotten_max = NO_PRODUCER
        loaded: list[tuple[int, bytes]] = []
        for key, value in rows:
            try:
                if bytes(key) == _FORGOTTEN_KEY:
                    (forgotten_max,) = _KEY.unpack(value)
                else:
                    loaded.append((_KEY.unpack(key)[0], _checked_row(bytes(value))))
            except struct.error as error:
                raise DataLossError(f"a producer's row has {len(key)} and {len(value)} bytes: {error}") from error
        loaded.sort(key=lambda item: _last(item[1]).raft_index)
        self._applied = dict(loaded)
        self._forgotten_max = forgotten_max
        self._overlay.clear()
        self._log.clear()
        self._changed.clear()


def _batch(header: EntryHeader) -> _Batch:
    last_sequence = (header.base_sequence + header.record_count - 1) % SEQUENCE_MODULUS
    return _Batch(header.base_sequence, last_sequence, header.base_offset, header.index, header.append_time)


def _epoch(row: bytes) -> int:
    epoch: int = _ROW.unpack_from(row)[1]
    return epoch


def _batches(row: bytes) -> list[_Batch]:
    return [_Batch._make(fields) for fields in _BATCH.iter_unpack(row[_ROW.size :])]


def _last(row: bytes) -> _Batch:
    return _Batch._make(_BATCH.unpack_from(row, len(row) - _BATCH.size))


def _checked_row(row: bytes) -> bytes:
    form, _, count = _ROW.unpack_from(row)
    if form != _ROW_FORMAT:
        raise NewerFormatError(f"a producer's row has format {form}; this version reads format {_ROW_FORMAT}")
    if not 0 < count <= BATCHES_KEPT or len(row) != _ROW.size + count * _BATCH.size:
        raise DataLossError(f"a producer's row of {len(row)} bytes says that it has {count} batches")
    return row
