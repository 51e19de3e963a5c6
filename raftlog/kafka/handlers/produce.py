"""Produce: a request's batches become one call of ``Broker.publish``, in the request's order."""

from __future__ import annotations

from raftlog.broker.port import Batch, Published
from raftlog.errors import InvalidRecordError, RaftlogError, UnknownProducerIdError
from raftlog.kafka.connection import Closed
from raftlog.kafka.handlers.call import Call, seconds
from raftlog.kafka.wire import errors
from raftlog.kafka.wire.header import begin_answer
from raftlog.kafka.wire.primitives import Buffer, Reader
from raftlog.kafka.wire.produce import PartitionAnswer, ProduceRequest, read_request, write_answer
from raftlog.model import Acks, TopicPartition

_ACKS = {int(acks): acks for acks in Acks}


async def produce(call: Call, body: Reader) -> list[Buffer] | None:
    """Answer one request; None with acks 0, which has no answer.

    Raises:
        Closed: with acks 0 something was refused: the end of the connection is the only way to tell.
    """
    request = read_request(body, call.version)
    acks = _ACKS.get(request.acks)
    if acks is None:
        return _refuse(call, request, errors.INVALID_REQUIRED_ACKS, f"acks is {request.acks}; 0, 1 and all (-1) are known")
    if request.transactional_id is not None:
        code = errors.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        return _refuse(call, request, code, "there are no transactions here; produce without a transactional id")
    outcomes = await _publish(call, request, acks)
    if acks is Acks.NONE:
        wrong = next((outcome for outcome in outcomes if isinstance(outcome, RaftlogError)), None)
        if wrong is not None:
            call.failed(wrong)
            raise Closed(f"a batch with acks=0 was refused: {wrong}")
        return None
    results = iter(outcomes)
    answers = [
        (topic.name, [_answer(call, part.partition, next(results)) for part in topic.partitions]) for topic in request.topics
    ]
    writer = begin_answer(call.header)
    write_answer(writer, call.version, answers)
    return writer.finish()


async def _publish(call: Call, request: ProduceRequest, acks: Acks) -> list[Published | RaftlogError]:
    """Nothing is awaited before the broker is called: requests that came one after the other keep their order."""
    outcomes: list[Published | RaftlogError | None] = []
    batches: list[tuple[TopicPartition, Batch]] = []
    for topic in request.topics:
        for part in topic.partitions:
            if not part.records:
                outcomes.append(InvalidRecordError("a partition without a record batch; send exactly one for each"))
                continue
            outcomes.append(None)
            batches.append((TopicPartition(topic.name, part.partition), part.records))
    published = iter(await call.broker.publish(batches, acks=acks, timeout_s=seconds(request.timeout_ms), direct=True))
    call.door.metrics.produced(len(batches), sum(len(data) for _, data in batches))
    told = (call.door.refused.told(tp, data, next(published)) for tp, data in batches)
    return [next(told) if outcome is None else outcome for outcome in outcomes]


def _answer(call: Call, partition: int, outcome: Published | RaftlogError) -> PartitionAnswer:
    if isinstance(outcome, RaftlogError):
        code, words = call.told(outcome, errors.PRODUCE)
        # Java's producer goes on in a new epoch where it knows this; else it sends the batch again until its time is over.
        start = outcome.log_start_offset if isinstance(outcome, UnknownProducerIdError) else -1
        return PartitionAnswer(partition, code, log_start_offset=start, error_message=words)
    return PartitionAnswer(partition, 0, outcome.base_offset, outcome.log_append_time_ms, outcome.log_start_offset)


def _refuse(call: Call, request: ProduceRequest, code: int, words: str) -> list[Buffer]:
    call.door.metrics.error(code)
    answers = [
        (topic.name, [PartitionAnswer(part.partition, code, error_message=words) for part in topic.partitions])
        for topic in request.topics
    ]
    writer = begin_answer(call.header)
    write_answer(writer, call.version, answers)
    return writer.finish()
