"""What is closed in the middle of something, and what is given to a client that makes no sense: it ends, and says so."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import pytest

from raftlog import Client, sync
from raftlog.client.routing import Routing
from raftlog.client.subscription import PartitionState
from raftlog.client.values import ConsumedRecord
from raftlog.core.tasks import TaskScope
from raftlog.errors import InvalidRequestError
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.v1.topic_service_pb2 import DescribeTopicRequest, DescribeTopicResponse
from tests.client.fake_cluster import FakeCluster

NOWHERE = "127.0.0.1:1"


class Described:
    """A node that tells of any topic when it is let."""

    def __init__(self) -> None:
        self.gate = asyncio.get_running_loop().create_future()
        self.topics = self
        self.address = NOWHERE
        self.asked = 0

    async def DescribeTopic(self, request: DescribeTopicRequest, timeout: float) -> DescribeTopicResponse:  # noqa: ASYNC109
        """See the stub."""
        self.asked += 1
        await self.gate
        answer = DescribeTopicResponse()
        answer.topic.name, answer.topic.topic_id = request.name, "x"
        answer.topic.partitions.add(partition=0, leader=1, leader_address=NOWHERE, leader_epoch=1)
        return answer

    def node(self, _: str) -> Described:
        """Every address is this node's."""
        return self


async def test_who_asks_in_the_turn_in_which_a_refresh_ends_asks_anew() -> None:
    """What that one has found is older than the call. To wait for it again and again would stop the loop for good."""
    node, scope = Described(), TaskScope(lambda _: None)
    routing = Routing(node, [NOWHERE], tasks=scope, rng=random.Random(1), request_timeout_s=5.0)  # type: ignore[arg-type]
    routing._nodes_at_s = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as group:
        group.create_task(routing.load("t", max_age_s=0.0))
        while not node.asked:
            await asyncio.sleep(0)
        node.gate.set_result(None)
        group.create_task(routing.load("t", max_age_s=0.0))
    assert node.asked == 2


async def test_a_call_that_waits_when_the_client_is_closed_hears_of_that() -> None:
    """It was not cancelled by anybody whom its caller knows."""
    node, scope = Described(), TaskScope(lambda _: None)
    routing = Routing(node, [NOWHERE], tasks=scope, rng=random.Random(1), request_timeout_s=5.0)  # type: ignore[arg-type]
    loading = asyncio.get_running_loop().create_task(routing.load("t"))
    while not node.asked:
        await asyncio.sleep(0)
    await scope.close()
    with pytest.raises(InvalidRequestError, match="closed meanwhile"):
        await loading


@pytest.mark.parametrize("record", [{"value": "text"}, {"value": b"", "key": "text"}, {"value": b"", "headers": [("h", "text")]}])
async def test_text_is_no_record_and_holds_up_nobody(record: dict[str, Any]) -> None:
    """It is refused where it is given; other records go their way. Other kinds of bytes are taken."""
    async with FakeCluster() as cluster, Client(cluster.brokers) as client:
        await client.admin.create_topic("t", partitions=1)
        async with client.producer() as producer:
            with pytest.raises(InvalidRequestError, match="encode it first"):
                await producer.send("t", **record)
            assert (await producer.publish("t", bytearray(b"good"))).offset == 0  # type: ignore[arg-type]


async def test_closing_a_client_closes_all_that_it_made() -> None:
    """Whatever one of them raises, which is told in the end."""
    client = Client(NOWHERE)

    class Bad:
        async def close(self) -> None:
            raise ValueError("of a callback")

    client._users.append(Bad())  # type: ignore[arg-type]
    producer = client.producer()
    with pytest.raises(ValueError, match="of a callback"):
        await client.close()
    assert producer._closed


async def test_what_a_closed_client_made_says_that_it_is_closed() -> None:
    """Whatever is asked of it, and whatever it would have to find out first."""
    client = Client(NOWHERE)
    producer = client.producer()
    await client.close()
    for call in (producer.publish("t", b"x"), client.admin.list_topics(), client.admin.describe_topic("t")):
        with pytest.raises(InvalidRequestError, match="closed"):
            await call


async def test_a_consumer_that_is_closed_while_a_record_is_worked_on_ends() -> None:
    """By another task, or by the loop over its records: what it has handed out is the last."""
    async with Client(NOWHERE) as client:
        consumer = client.consumer("t")
        consumer._current = PartitionState(TopicPartition("t", 0), 0, 2, None, "error")
        consumer._records = [ConsumedRecord("t", 0, offset, 0, None, b"x", ()) for offset in (0, 1)]
        seen = []
        async for record in consumer:
            seen.append(record.offset)
            if record.offset == 0:
                await consumer.close()
        assert seen == [0, 1]


def test_threads_that_wait_when_a_client_is_closed_go_on() -> None:
    """They hear that it is closed; none is left behind that would keep the process from ending."""
    client = sync.Client(NOWHERE, request_timeout_s=30.0)
    heard: list[BaseException] = []
    begun = threading.Barrier(3)

    def wait_for(call: Any) -> None:
        begun.wait()
        try:
            call()
        except BaseException as error:
            heard.append(error)

    producer = client.producer(delivery_timeout_s=30.0)
    calls = (client.admin.list_topics, lambda: producer.publish("t", b"x"))
    threads = [threading.Thread(target=wait_for, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    begun.wait()
    client.close()
    for thread in threads:
        thread.join(10.0)
    assert [thread.is_alive() for thread in threads] == [False, False]
    assert [type(error) for error in heard] == [InvalidRequestError] * 2
