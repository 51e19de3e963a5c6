"""The synchronous face: the same client, from ordinary threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from raftlog import sync
from raftlog.errors import InvalidRequestError, TopicExistsError, UnknownTopicOrPartitionError
from raftlog.model import TopicPartition
from raftlog.records.batch import Record, encode

from .fake_cluster import FakeCluster


@pytest.fixture
def brokers() -> Iterator[list[str]]:
    """A cluster of fakes on a loop in a thread of its own."""
    ready, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    found: list[str] = []

    async def serve() -> None:
        async with FakeCluster() as cluster:
            found.extend(cluster.brokers)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait()
    yield found
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


def test_publish_and_consume_without_asyncio(brokers: list[str]) -> None:
    """Topics, acknowledgements as concurrent futures, iteration, positions: all in plain calls."""
    with sync.Client(brokers) as client:
        assert client.admin.create_topic("t", partitions=2).name == "t"
        with client.producer() as producer:
            assert producer.publish("t", b"0", partition=0).offset == 0
            futures = [producer.send("t", b"%d" % number, partition=0) for number in range(1, 50)]
            producer.flush()
            assert [future.result(timeout=0).offset for future in futures] == list(range(1, 50))
            assert producer.publish_batch(TopicPartition("t", 1), encode([Record(0, 1, None, b"x")])).offset == 0
        with client.consumer(TopicPartition("t", 0), follow=False) as consumer:
            assert [next(consumer).offset for _ in range(3)] == [0, 1, 2]
            assert consumer.position(TopicPartition("t", 0)) == 3
            consumer.seek(TopicPartition("t", 0), 40)
            assert [record.value for record in consumer] == [b"%d" % number for number in range(40, 50)]
        with client.consumer("t", follow=False) as consumer:
            assert sum(len(batch.records) for batch in consumer.batches()) == 51
            assert len(consumer.assignment()) == 2


def test_errors_are_the_same(brokers: list[str]) -> None:
    """What the async client raises is raised; a failed acknowledgement raises from its future; a closed client says so."""
    with sync.Client(brokers, request_timeout_s=0.3) as client:
        client.admin.create_topic("t")
        with pytest.raises(TopicExistsError):
            client.admin.create_topic("t")
        with pytest.raises(UnknownTopicOrPartitionError):
            client.producer().publish("missing", b"x")
    with pytest.raises(InvalidRequestError):
        client.admin.list_topics()


def test_what_is_closed_can_be_closed_again(brokers: list[str]) -> None:
    """In any order, a client before what it has made included."""
    client = sync.Client(brokers)
    client.admin.create_topic("t")
    producer, consumer = client.producer(), client.consumer("t")
    producer.close()
    producer.close()
    client.close()
    for closed in (client, producer, consumer):
        closed.close()


def test_an_error_is_told_though_the_client_was_closed_before(brokers: list[str]) -> None:
    """What a with-body raises is not replaced by what its end has to say."""

    def fail() -> None:
        with sync.Client(brokers) as client, client.producer():
            client.close()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


def test_threads_share_a_producer(brokers: list[str]) -> None:
    """Each thread's records stay in its order."""
    with sync.Client(brokers) as client:
        client.admin.create_topic("t")
        with client.producer() as producer:

            def publish(name: str) -> None:
                for number in range(50):
                    producer.send("t", f"{name}{number:02d}".encode())

            threads = [threading.Thread(target=publish, args=(name,)) for name in "abc"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        with client.consumer("t", follow=False) as consumer:
            stored = [record.value for record in consumer if record.value is not None]
    assert len(stored) == 150
    for name in (b"a", b"b", b"c"):
        mine = [value for value in stored if value.startswith(name)]
        assert mine == sorted(mine)
