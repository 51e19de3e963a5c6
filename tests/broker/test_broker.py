"""A whole broker over doubles: metadata, routing and forwarding between nodes, starting and stopping."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import NoReturn

import pytest

from raftlog.broker import calls
from raftlog.broker.broker import NodeBroker
from raftlog.broker.port import EARLIEST, LATEST, Published
from raftlog.core.entry import Entry
from raftlog.core.tasks import TaskScope
from raftlog.errors import (
    InvalidConfigError,
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    InvalidRequestError,
    InvalidTopicError,
    LeaderNotAvailableError,
    NotLeaderError,
    OutOfOrderSequenceError,
    OverloadedError,
    RequestTimedOutError,
    ShuttingDownError,
    TopicExistsError,
    UnavailableError,
    UnknownTopicOrPartitionError,
)
from raftlog.model import Acks, TopicPartition
from raftlog.peers.port import Payloads
from raftlog.records.batch import decode
from tests.broker.cluster import FAST as _FAST
from tests.broker.cluster import Cluster
from tests.broker.cluster import cluster as _cluster
from tests.broker.cluster import until as _until
from tests.broker.doubles import HandLog, error_of, records

T0 = TopicPartition("t", 0)


async def _create(broker: NodeBroker, name: str = "t", *, partitions: int = 1, factor: int = 0, **configs: str) -> None:
    settings = {key.replace("_", "."): value for key, value in configs.items()}
    await broker.create_topic(name, partitions=partitions, replication_factor=factor, configs=settings)


async def test_nodes_register_and_everybody_hears_of_them() -> None:
    """Addresses reach every node, and whoever keeps the links."""
    async with _cluster(3) as cluster:
        info = cluster.brokers[3].cluster()
        assert info.cluster_id == "cluster"
        assert info.controller == 1
        assert [(node.node_id, node.grpc_address, node.alive) for node in info.nodes] == [
            (1, "grpc:1", True), (2, "grpc:2", True), (3, "grpc:3", True),
        ]  # fmt: skip
        await _until(lambda: cluster.seen_nodes == {1: [1, 2, 3], 2: [1, 2, 3], 3: [1, 2, 3]})
        cluster.network.down.add(2)
        assert [node.alive for node in cluster.brokers[1].cluster().nodes] == [True, False, True]


async def test_a_topic_is_created_from_any_node_with_defaults() -> None:
    """One partition, three replicas, a leader that is known when the call returns."""
    async with _cluster(3) as cluster:
        info = await cluster.brokers[2].create_topic("t", partitions=0, replication_factor=0, configs={"retention.ms": "5"})
        assert (len(info.partitions), info.replication_factor, info.configs) == (1, 3, {"retention.ms": "5"})
        assert sorted(info.partitions[0].replicas) == [1, 2, 3]
        assert info.partitions[0].leader == info.partitions[0].replicas[0]
        assert [topic.name for topic in cluster.brokers[2].topics()] == ["t"]
        assert [status.group_id for status in cluster.brokers[2].replicas()] == [0, 1]


async def test_bad_topics_are_refused_by_name() -> None:
    """Each mistake has its own error, wherever it is made."""
    async with _cluster(2) as cluster:
        for broker in cluster.brokers.values():
            for name, partitions, factor, configs, kind in (
                ("bad/name", 1, 1, {}, InvalidTopicError),
                ("a", -1, 1, {}, InvalidPartitionsError),
                ("a", 1_001, 1, {}, InvalidPartitionsError),
                ("a", 1, 3, {}, InvalidReplicationFactorError),
                ("a", 1, -1, {}, InvalidReplicationFactorError),
                ("a", 1, 1, {"retention.mss": "1"}, InvalidConfigError),
            ):
                with pytest.raises(kind):
                    await broker.create_topic(name, partitions=partitions, replication_factor=factor, configs=configs)
        await _create(cluster.brokers[1], "a.b")
        with pytest.raises(TopicExistsError):
            await _create(cluster.brokers[2], "a.b")
        with pytest.raises(InvalidTopicError):
            await _create(cluster.brokers[2], "a_b")


async def test_a_starting_cluster_does_not_settle_for_fewer_replicas() -> None:
    """The default counts the founders that have not registered yet: the call says to try again."""
    cluster = Cluster(3)
    broker = cluster.brokers[1]
    await broker.start()
    await _until(lambda: len(broker.cluster().nodes) == 1)
    with pytest.raises(UnavailableError):
        await _create(broker)
    with pytest.raises(InvalidReplicationFactorError):
        await _create(broker, factor=4)
    await _create(broker, factor=1)
    await broker.stop()


async def test_a_topic_is_altered_and_deleted() -> None:
    """Configs act at once, more partitions are opened, a deleted topic's data goes on every node."""
    async with _cluster(2) as cluster:
        one, two = cluster.brokers[1], cluster.brokers[2]
        await _create(one, partitions=2)
        altered = await two.alter_topic("t", set_configs={"max.message.bytes": "100"}, unset_configs=[], partitions=4)
        assert [p.group_id for p in altered.partitions] == [1, 2, 3, 4]
        for wrong in (2, 4):
            with pytest.raises(InvalidPartitionsError):
                await one.alter_topic("t", set_configs={}, unset_configs=[], partitions=wrong)
        await _until(lambda: all(len(broker.replicas()) == 5 for broker in (one, two)))
        await _until(lambda: all(p.leader is not None for p in one.topic("t").partitions))
        (outcome,) = await one.publish([(TopicPartition("t", 3), records(size=200))], acks=Acks.ALL, timeout_s=1)
        assert error_of(outcome).reason == "MESSAGE_TOO_LARGE"
        await two.delete_topic("t")
        await _until(lambda: all(node.dropped == [1, 2, 3, 4] for node in cluster.network.nodes.values()))
        with pytest.raises(UnknownTopicOrPartitionError):
            one.topic("t")
        with pytest.raises(UnknownTopicOrPartitionError):
            await two.delete_topic("t")
        with pytest.raises(UnknownTopicOrPartitionError):
            await two.alter_topic("t", set_configs={}, unset_configs=[])
        await _create(two)
        assert one.topic("t").partitions[0].group_id == 5


async def test_two_calls_that_raise_the_partitions_to_one_number_make_that_number() -> None:
    """The leader decides one command at a time against what was committed before."""
    async with _cluster(2) as cluster:
        await _create(cluster.brokers[1], partitions=2)
        alters = [broker.alter_topic("t", set_configs={}, unset_configs=[], partitions=5) for broker in cluster.brokers.values()]
        outcomes = await asyncio.gather(*alters, return_exceptions=True)
        assert sorted(isinstance(outcome, InvalidPartitionsError) for outcome in outcomes) == [False, True]
        assert len(cluster.brokers[1].topic("t").partitions) == 5


async def test_any_node_takes_records_and_gives_them_back() -> None:
    """A follower forwards to the leader, once, and what was published there is read from here."""
    async with _cluster(3) as cluster:
        await _create(cluster.brokers[1])
        follower = cluster.follower_of(T0)
        outcomes = await follower.publish([(T0, records(2)), (T0, records(3))], acks=Acks.ALL, timeout_s=5)
        assert [o.base_offset for o in outcomes if isinstance(o, Published)] == [0, 2]
        publishes = [call for call in cluster.network.calls if call[2] == "publish"]
        assert len(publishes) == 1, "batches for one leader travel in one call"
        fetched = await follower.fetch(T0, 0, bytes_max=1 << 20)
        assert (fetched.next_offset, fetched.high_watermark) == (5, 5)
        assert [record.offset for record in decode(b"".join(fetched.batches))] == [0, 1, 2, 3, 4]
        assert (await follower.list_offset(T0, LATEST)).offset == 5
        assert (await follower.list_offset(T0, EARLIEST)).offset == 0
        assert (await follower.list_offset(T0, 1 << 50)).offset == -1
        assert (await follower.partition_status(T0)).high_watermark == 5


async def test_a_forwarded_call_is_cut_where_it_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several calls, one after another, each small enough for a frame; order and outcomes stay."""
    monkeypatch.setattr(calls, "FORWARD_BYTES_MAX", 250)
    async with _cluster(2) as cluster:
        await _create(cluster.brokers[1])
        follower = cluster.follower_of(T0)
        batches = [(T0, records(size=size)) for size in (10, 10, 500, 10)]
        outcomes = await follower.publish(batches, acks=Acks.ALL, timeout_s=5)
        assert [o.base_offset for o in outcomes if isinstance(o, Published)] == [0, 1, 2, 3]
        assert len([call for call in cluster.network.calls if call[2] == "publish"]) == 3
        assert len((await follower.fetch(T0, 0, bytes_max=1 << 20)).batches) < 4


async def test_what_a_forwarded_call_has_no_time_for_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """All its calls together have the caller's time, and whatever is left then has certainly not been published."""
    monkeypatch.setattr(calls, "FORWARD_BYTES_MAX", 250)
    async with _cluster(2) as cluster:
        await _create(cluster.brokers[1])
        follower = cluster.follower_of(T0)
        sent: list[float] = []

        async def late(node_id: int, method: str, body: bytes, payloads: Payloads = (), *, timeout_s: float) -> NoReturn:
            sent.append(timeout_s)
            await asyncio.sleep(timeout_s)
            raise RequestTimedOutError("no answer")

        monkeypatch.setattr(follower._peers, "call", late)
        outcomes = await follower.publish([(T0, records(size=300))] * 4, acks=Acks.ALL, timeout_s=0.05)
        assert len(sent) == 1
        assert [type(outcome) for outcome in outcomes] == [RequestTimedOutError, *[UnavailableError] * 3]


async def test_readers_that_wait_on_another_node_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """They must not take all calls of the link; a reader that does not wait is served."""
    monkeypatch.setattr(calls, "FORWARDED_WAITS_MAX", 1)
    async with _cluster(2) as cluster:
        await _create(cluster.brokers[1])
        follower, scope = cluster.follower_of(T0), TaskScope(lambda _: None)
        waiting = scope.start(follower.fetch(T0, 0, bytes_max=1, wait_s=60), name="fetch")
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await follower.fetch(T0, 0, bytes_max=1, wait_s=60)
        assert (await follower.fetch(T0, 0, bytes_max=1)).next_offset == 0
        await follower.publish([(T0, records())], acks=Acks.ALL, timeout_s=5)
        assert (await waiting).next_offset == 1
        await scope.close()


async def test_a_call_spans_leaders_and_each_batch_has_its_own_outcome() -> None:
    """Local, remote, unknown and bad batches in one call, answered in their order."""
    async with _cluster(3) as cluster:
        await _create(cluster.brokers[1], partitions=3)
        leaders = {p.leader for p in cluster.brokers[1].topic("t").partitions}
        assert leaders == {1, 2, 3}
        batches = [(TopicPartition("t", number), records(number + 1)) for number in (0, 1, 2)]
        batches += [(TopicPartition("nope", 0), records()), (T0, b"garbage"), (TopicPartition("t", 7), records())]
        batches += [(TopicPartition("t", number), records(sequence=5, producer=3)) for number in (0, 1, 2)]
        outcomes = await cluster.brokers[2].publish(batches, acks=Acks.ALL, timeout_s=5)
        assert all(isinstance(outcome, Published) and outcome.base_offset == 0 for outcome in outcomes[:3])
        assert isinstance(outcomes[3], UnknownTopicOrPartitionError)
        assert error_of(outcomes[4]).reason == "CORRUPT_MESSAGE"
        assert isinstance(outcomes[5], UnknownTopicOrPartitionError)
        assert all(isinstance(outcome, OutOfOrderSequenceError) for outcome in outcomes[6:])


async def test_a_direct_call_is_not_forwarded_but_told_where_to_go() -> None:
    """The hint names node, address and term."""
    async with _cluster(3) as cluster:
        await _create(cluster.brokers[1])
        follower, before = cluster.follower_of(T0), len(cluster.network.calls)
        (outcome,) = await follower.publish([(T0, records())], acks=Acks.ALL, timeout_s=1, direct=True)
        assert isinstance(outcome, NotLeaderError)
        assert outcome.hint is not None
        assert outcome.hint.address == f"grpc:{cluster.leader_of(T0).node_id}"
        with pytest.raises(NotLeaderError):
            await follower.fetch(T0, 0, bytes_max=1, direct=True)
        with pytest.raises(NotLeaderError):
            await follower.list_offset(T0, LATEST, direct=True)
        assert len(cluster.network.calls) == before


async def test_a_forwarded_call_is_never_forwarded_again() -> None:
    """A node that was asked by mistake says so; the call crosses one link."""
    async with _cluster(3) as cluster:
        await _create(cluster.brokers[1])
        leader = cluster.leader_of(T0).node_id
        asked, wrong = (node_id for node_id in (1, 2, 3) if node_id != leader)
        network = cluster.network
        network.nodes[asked].logs[1].follow(9, leader=wrong)
        before = len(network.calls)
        (outcome,) = await cluster.brokers[asked].publish([(T0, records())], acks=Acks.ALL, timeout_s=1)
        assert isinstance(outcome, NotLeaderError)
        assert network.calls[before:] == [(asked, wrong, "publish")]


async def test_without_a_leader_the_answer_is_to_try_again() -> None:
    """Publishing and fetching say so at once; metadata calls wait a bounded while first."""
    async with _cluster(2) as cluster:
        await _create(cluster.brokers[1])
        for group in (0, 1):
            for node in cluster.network.nodes.values():
                node.logs[group].follow(9)
        (outcome,) = await cluster.brokers[1].publish([(T0, records())], acks=Acks.ALL, timeout_s=1)
        assert isinstance(outcome, LeaderNotAvailableError)
        with pytest.raises(LeaderNotAvailableError):
            await cluster.brokers[2].fetch(T0, 0, bytes_max=1)
        with pytest.raises(LeaderNotAvailableError):
            await _create(cluster.brokers[2], "u")


async def test_a_metadata_call_waits_for_the_election_to_end() -> None:
    """A leader that appears within the wait serves the call."""
    async with _cluster(2) as cluster:
        for node in cluster.network.nodes.values():
            node.logs[0].follow(9)
        cluster.network.leaders[0] = (1, 9)
        asyncio.get_running_loop().call_later(0.03, cluster.network.elect, 0, 2)
        await _create(cluster.brokers[1])
        assert cluster.brokers[1].cluster().controller == 2


async def test_a_lost_answer_does_not_create_a_topic_twice() -> None:
    """Leadership goes between append and commit, the entry is committed after all: the repeated call finds its own topic."""
    async with _cluster(2) as cluster:
        network = cluster.network
        log = network.nodes[1].logs[0]

        def lose(_log: HandLog, _entry: Entry) -> None:
            asyncio.get_running_loop().call_soon(log.follow, 9)

        log.on_append = lose

        def elect() -> None:
            log.on_append = network.replicate
            for other in network.nodes.values():
                for index in range(other.logs[0].last_index + 1, log.last_index + 1):
                    other.logs[0].receive(log.kept[index])
            network.leaders[0] = (2, 9)
            network.elect(0, 2)

        asyncio.get_running_loop().call_later(0.05, elect)
        await _create(cluster.brokers[1])
        await _until(lambda: len(cluster.brokers[2].topics()) == 1)
        assert cluster.brokers[1].topic("t").topic_id == cluster.brokers[2].topic("t").topic_id


async def test_producer_ids_never_repeat() -> None:
    """Not between nodes, not over a restart."""
    async with _cluster(2) as cluster:
        taken = [await broker.init_producer() for broker in cluster.brokers.values() for _ in range(3)]
        assert taken == [(0, 0), (1, 0), (2, 0), (1000, 0), (1001, 0), (1002, 0)]
        await cluster.leave(1, cluster.brokers[1])
        again = cluster.make(1, range(1, 3))
        await again.start()
        assert await again.init_producer() == (2000, 0)


async def test_a_restart_opens_the_partitions_without_a_leader_of_group_0() -> None:
    """Local rows are enough: data partitions elect and serve on their own."""
    async with _cluster(1) as cluster:
        await _create(cluster.brokers[1])
        await cluster.brokers[1].publish([(T0, records(4))], acks=Acks.ALL, timeout_s=5)
        await cluster.leave(1, cluster.brokers[1])
        cluster.network.preferred = False
        again = cluster.make(1, range(1, 2))
        await again.start()
        assert again.cluster().controller in (None, 1)
        cluster.network.elect(1, 1)
        fetched = await again.fetch(T0, 0, bytes_max=1 << 20)
        assert fetched.next_offset == 4
        assert cluster.network.nodes[1].dropped == []


async def test_data_of_a_group_that_was_deleted_goes_at_the_start_and_a_younger_ones_stays() -> None:
    """A crash between delete and drop leaves a group behind; a group that the rows do not know yet is not touched."""
    async with _cluster(1) as cluster:
        await _create(cluster.brokers[1])
        await cluster.leave(1, cluster.brokers[1])
        again = cluster.make(1, range(1, 2))
        cluster.stores[1]._groups = lambda: [0, 1, 2, 3]
        again._machine.restore(cluster.network.nodes[1].logs[0].rows)
        state = again._machine.state
        state.topics.clear()
        state.next_group_id = 3
        again._replicas.start(state)
        assert cluster.network.nodes[1].dropped == [1, 2]


async def test_a_publish_that_is_not_committed_in_time_is_unknown() -> None:
    """A timeout is never a failure."""
    async with _cluster(1) as cluster:
        await _create(cluster.brokers[1])
        cluster.network.nodes[1].logs[1].on_append = None
        (outcome,) = await cluster.brokers[1].publish([(T0, records())], acks=Acks.ALL, timeout_s=0.01)
        assert isinstance(outcome, RequestTimedOutError)


async def test_two_publishes_made_one_after_the_other_keep_their_order() -> None:
    """The offset is decided before the first await."""
    async with _cluster(1) as cluster:
        await _create(cluster.brokers[1])
        publishes = [
            cluster.brokers[1].publish([(T0, records(1, producer=1, sequence=number))], acks=Acks.ALL, timeout_s=5)
            for number in range(20)
        ]
        outcomes = await asyncio.gather(*publishes)
        assert [o.base_offset for (o,) in outcomes if isinstance(o, Published)] == list(range(20))


async def test_waiting_fetches_are_bounded() -> None:
    """One too many is refused, and a place is free when one ends."""
    async with _cluster(1, replace(_FAST, fetches_waiting_max=1)) as cluster:
        broker = cluster.brokers[1]
        await _create(broker)
        scope = TaskScope(lambda _: None)
        task = scope.start(broker.fetch(T0, 0, bytes_max=1, wait_s=60), name="fetch")
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await broker.fetch(T0, 0, bytes_max=1)
        await broker.publish([(T0, records())], acks=Acks.ALL, timeout_s=5)
        assert (await task).next_offset == 1
        assert (await broker.fetch(T0, 0, bytes_max=1)).next_offset == 1
        await scope.close()


async def test_deleting_a_topic_ends_the_waits_on_it() -> None:
    """Who waits for its records hears that there will be none."""
    async with _cluster(1) as cluster:
        broker = cluster.brokers[1]
        await _create(broker)
        scope = TaskScope(lambda _: None)
        task = scope.start(broker.fetch(T0, 0, bytes_max=1, wait_s=60), name="fetch")
        await asyncio.sleep(0)
        await broker.delete_topic("t")
        with pytest.raises(UnknownTopicOrPartitionError):
            await task
        await scope.close()


async def test_a_stopping_broker_refuses_new_work_and_lets_old_work_finish() -> None:
    """The publish under way is answered, the next is refused."""
    async with _cluster(1, replace(_FAST, stop_wait_s=5.0)) as cluster:
        broker, scope = cluster.brokers[1], TaskScope(lambda _: None)
        await _create(broker)
        log = cluster.network.nodes[1].logs[1]
        log.on_append = None
        waiting = scope.start(broker.publish([(T0, records())], acks=Acks.ALL, timeout_s=5), name="publish")
        await asyncio.sleep(0)
        stopping = scope.start(broker.stop(), name="stop")
        await asyncio.sleep(0)
        (refused,) = await broker.publish([(T0, records())], acks=Acks.ALL, timeout_s=5)
        assert isinstance(refused, ShuttingDownError)
        for call in (broker.fetch(T0, 0, bytes_max=1), broker.init_producer(), broker.on_call(2, "fetch", b"", [])):
            with pytest.raises(ShuttingDownError):
                await call
        log.commit()
        (outcome,) = await waiting
        assert isinstance(outcome, Published)
        await stopping
        await scope.close()


async def test_garbage_from_another_broker_is_a_clear_error() -> None:
    """An unknown call, a body that is none, batches without partitions, acks that do not exist."""
    async with _cluster(1) as cluster:
        broker = cluster.brokers[1]
        for method, body, payloads in (
            ("dance", b"", []), ("fetch", b"\xff\xff", []), ("publish", b"", [b"x"]), ("publish", b"\x08\x07", []),
        ):  # fmt: skip
            with pytest.raises(InvalidRequestError):
                await broker.on_call(2, method, body, payloads)


async def test_a_leader_that_cannot_be_reached_is_nothing_done() -> None:
    """No link: the batch was not sent."""
    async with _cluster(2) as cluster:
        await _create(cluster.brokers[1])
        follower = cluster.follower_of(T0)
        cluster.network.down.add(cluster.leader_of(T0).node_id)
        (outcome,) = await follower.publish([(T0, records())], acks=Acks.ALL, timeout_s=1)
        assert isinstance(outcome, UnavailableError)
