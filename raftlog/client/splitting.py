"""Makes two batches of one that its topic's ``max.message.bytes`` refused."""

from __future__ import annotations

from raftlog.client.accumulator import Batch
from raftlog.records.batch import SEQUENCE_MODULUS, Record, decode, encode, read_header
from raftlog.records.compression import Codec


def halves_of(batch: Batch, codec: Codec) -> list[Batch]:
    """Two batches with the records of ``batch``, which has two at least, under its producer id and its sequences."""
    header = read_header(batch.data)
    records = decode(batch.data)
    middle = len(records) // 2
    cost_bytes = batch.cost_bytes // 2

    def part(start: int, stop: int, cost_bytes: int) -> Batch:
        half = Batch(number=batch.number, now=batch.opened_at, deadline=batch.deadline)
        half.sequence = -1 if batch.sequence < 0 else (batch.sequence + start) % SEQUENCE_MODULUS
        half.data = encode(
            (Record(0, *record[1:]) for record in records[start:stop]),
            codec=codec,
            producer_id=header.producer_id,
            producer_epoch=header.producer_epoch,
            base_sequence=half.sequence,
        )
        half.futures, half.timestamps = batch.futures[start:stop], batch.timestamps[start:stop]
        half.cost_bytes, half.record_count, half.closed = cost_bytes, stop - start, True
        half.place, half.half = batch.place, True
        half.last_error, half.maybe_stored = batch.last_error, batch.maybe_stored
        return half

    return [part(0, middle, cost_bytes), part(middle, len(records), batch.cost_bytes - cost_bytes)]
