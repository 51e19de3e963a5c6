"""A partition's queue by itself: what may leave, and when."""

from __future__ import annotations

from raftlog.client.accumulator import UNANSWERED_MAX, Batch, PartitionQueue, ProducerIdentity
from raftlog.client.splitting import halves_of
from raftlog.errors import IndeterminateError
from raftlog.model import TopicPartition
from raftlog.records.batch import BatchBuilder, check, read_header
from raftlog.records.compression import Codec


def queue_of(count: int, *, idempotent: bool = True) -> PartitionQueue:
    """A queue with closed batches of one record."""
    queue = PartitionQueue(TopicPartition("t", 0), idempotent=idempotent, codec=Codec.NONE)
    for number in range(count):
        builder = BatchBuilder(size_bytes_max=1_000)
        builder.append(None, b"%d" % number, timestamp_ms=1)
        batch = Batch(number=number, now=0.0, deadline=100.0, builder=builder)
        batch.closed, batch.record_count = True, 1
        queue.waiting.append(batch)
    if idempotent:
        queue.identify(ProducerIdentity(9, 0, 0))
    return queue


def send_all(queue: PartitionQueue, now: float = 1.0) -> list[Batch]:
    """Send what may leave; those batches."""
    sent = []
    while (batch := queue.next_to_send(now, linger_s=0.0, idle=False)[0]) is not None:
        queue.encode(batch)
        queue.sent(batch)
        sent.append(batch)
    return sent


def test_a_node_is_never_sent_more_than_it_remembers() -> None:
    """From the oldest unanswered batch on at most five leave, though later ones of them were acknowledged already."""
    queue = queue_of(20)
    sent = send_all(queue)
    assert len(sent) == UNANSWERED_MAX
    for batch in sent[1:]:
        queue.acknowledged(batch)
    assert send_all(queue) == []
    queue.acknowledged(sent[0])
    assert len(send_all(queue)) == UNANSWERED_MAX


def test_without_idempotence_nothing_counts_batches() -> None:
    """There is nothing to recognise, so the messages in flight are the only bound."""
    assert len(send_all(queue_of(20, idempotent=False))) == 20


def test_after_a_failure_all_goes_again_in_order_and_unchanged() -> None:
    """Nothing leaves until the last answer is in; then every batch has the bytes it had."""
    queue = queue_of(4)
    sent = send_all(queue)
    before = [batch.data for batch in sent]
    queue.returned(sent[0], retry_at=2.0)
    queue.returned(sent[1], retry_at=9.0)
    assert send_all(queue, now=3.0) == []
    queue.acknowledged(sent[3])
    queue.returned(sent[2], retry_at=9.0)
    assert send_all(queue, now=1.5) == []
    assert send_all(queue, now=3.0) == sent[:3]
    assert [batch.data for batch in sent[:3]] == before[:3]


def test_behind_a_hole_batches_are_numbered_anew_once_all_is_known() -> None:
    """A batch of unknown outcome keeps its sequence, and keeps the others waiting; then a new id begins at 0."""
    queue = queue_of(4)
    first, second, third, fourth = send_all(queue)
    queue.gave_up(first)
    second.maybe_stored = True
    for batch in (second, third, fourth):
        queue.returned(batch, retry_at=0.0)
    assert send_all(queue) == [second, third, fourth]
    assert read_header(third.data).base_sequence == 2
    queue.acknowledged(second)
    queue.returned(third, retry_at=0.0)
    queue.returned(fourth, retry_at=0.0)
    assert queue.identity is None
    assert send_all(queue) == []
    queue.identify(ProducerIdentity(10, 0, 1))
    assert send_all(queue) == [third, fourth]
    headers = [check(batch.data, size_max=1_000) for batch in (third, fourth)]
    assert [(header.producer_id, header.base_sequence) for header in headers] == [(10, 0), (10, 1)]


def test_what_a_deposed_node_holds_goes_elsewhere_as_unknown() -> None:
    """Abandoned batches may be stored, and leave again at once in their order."""
    queue = queue_of(3)
    sent = send_all(queue)
    queue.abandon_in_flight(IndeterminateError("gone"))
    assert all(batch.maybe_stored for batch in sent)
    assert send_all(queue) == sent
    assert queue.in_flight == 3


def test_a_half_goes_alone() -> None:
    """Behind a batch whose acknowledgement was lost there would be more batches on their way than the node remembers."""
    queue = queue_of(UNANSWERED_MAX)
    for batch in queue.waiting:
        batch.builder = builder = BatchBuilder(size_bytes_max=1_000)
        for _ in range(4):
            builder.append(None, b"x", timestamp_ms=1)
        batch.record_count, batch.timestamps = 4, [1] * 4
        batch.futures = [_Done()] * 4  # type: ignore[list-item]
    first, large, *later = send_all(queue)
    queue.split(large, halves_of(large, Codec.NONE))
    for batch in (first, *later):
        queue.returned(batch, retry_at=0.0)
    order = []
    while sent := send_all(queue):
        assert len(sent) == 1 or not any(batch.half for batch in sent)
        order += [batch.sequence for batch in sent]
        for batch in sent:
            queue.acknowledged(batch)
    assert order == sorted(order)
    assert len(order) == UNANSWERED_MAX + 1


class _Done:
    def done(self) -> bool:
        return True


def test_a_partition_of_a_topic_that_was_made_again_begins_anew() -> None:
    """Its log has not seen the producer: the next sequence under the old id would be refused."""
    queue = queue_of(2)
    first = send_all(queue)[0]
    assert queue.identity is not None
    queue.begins_anew()
    assert queue.identity is not None
    for batch in list(queue.unanswered):
        queue.acknowledged(batch)
    queue.begins_anew()
    assert queue.identity is None
    assert first.done
