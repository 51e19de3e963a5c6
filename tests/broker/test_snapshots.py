"""What a snapshot does to those who stand on a log: state and log change under them, and nothing is told one by one."""

from __future__ import annotations

import asyncio

import pytest

from raftlog.broker import subscribe
from raftlog.broker.group_machine import GroupMachine
from raftlog.broker.metadata_machine import MetadataMachine
from raftlog.broker.partition import Partition
from raftlog.broker.trim import append_trim
from raftlog.core.groups.state import Applied
from raftlog.core.metadata import MetadataState
from raftlog.core.metadata_values import Effects
from raftlog.core.tasks import TaskScope
from raftlog.errors import IndeterminateError
from raftlog.model import TopicPartition
from raftlog.pb.raftlog.internal.v1 import groups_pb2, metadata_pb2
from tests.broker.doubles import NOW_MS, HandConsensus, HandLog, HandNetwork, Leader, error_of, records
from tests.broker.test_replicas import _replicas, _topic


def trimmed_leader() -> Leader:
    """Ten batches of a producer; the first three are gone for readers, and their entries with them."""
    leader = Leader()
    for sequence in range(10):
        leader.publish(records(1, producer=7, sequence=sequence))
    leader.log.commit()
    append_trim(leader.log, metadata_pb2.Trim(log_start_offset=5, keep_from_index=5), NOW_MS)
    leader.log.commit()
    return leader


def follower_of(leader: Leader) -> tuple[Partition, HandLog]:
    """Another replica, empty."""
    partition = leader.new_partition()
    log = HandLog(1, (1, 2, 3), partition, node_id=2)
    partition.bind(log)
    return partition, log


def catch_up(log: HandLog, leader: HandLog) -> None:
    """The log behind the base comes entry by entry, and is committed so."""
    for index in range(log.last_index + 1, leader.last_index + 1):
        log.receive(leader.kept[index])
        log.commit(index)


async def test_a_partition_goes_on_from_a_snapshot_to_the_leaders_state() -> None:
    """Watermarks rise and never fall, producers are those of the leader, at each step and in the end."""
    leader = trimmed_leader()
    partition, log = follower_of(leader)
    marks = [partition.high_watermark]
    log.install(leader.log)
    marks.append(partition.high_watermark)
    assert partition.log_start_offset == 5 <= partition.high_watermark <= partition.log_end_offset
    for index in range(log.last_index + 1, leader.log.last_index + 1):
        log.receive(leader.log.kept[index])
        assert partition.log_start_offset <= partition.high_watermark <= partition.log_end_offset
        log.commit(index)
        marks.append(partition.high_watermark)
    assert marks == sorted(marks)
    assert marks[-1] == leader.partition.high_watermark == 10
    assert partition.producers.encode_row(7) == leader.partition.producers.encode_row(7)
    log.lead(2)
    leader.partition, leader.log = partition, log
    again = leader.publish(records(1, producer=7, sequence=9))
    assert (again.left, getattr(again.outcomes[0], "base_offset", None)) == (0, 9)
    assert leader.publish(records(1, producer=7, sequence=10)).left == 1


async def test_a_partition_can_start_while_it_is_filled() -> None:
    """A restart between a snapshot and the log behind it: no entry is applied twice, and the watermark is found."""
    leader = trimmed_leader()
    _, log = follower_of(leader)
    log.install(leader.log)
    catch_up_to = 8
    for index in range(log.last_index + 1, catch_up_to):
        log.receive(leader.log.kept[index])
    again = leader.new_partition()
    restarted = log.restarted(again)
    restarted.applied_index, restarted.commit_index = log.applied_index, log.commit_index
    again.bind(restarted)
    assert again.log_start_offset <= again.high_watermark <= again.log_end_offset
    catch_up(restarted, leader.log)
    assert again.high_watermark == leader.partition.high_watermark
    assert again.producers.encode_row(7) == leader.partition.producers.encode_row(7)


async def test_producers_are_known_after_a_start_while_it_is_filled() -> None:
    """The entries that are there already are part of the state that came with the snapshot: what lies behind them in the state is
    neither taken for new, nor is what follows it refused, when this replica leads before another record is applied."""
    leader = trimmed_leader()
    _, log = follower_of(leader)
    log.install(leader.log)
    for index in range(log.last_index + 1, 8):
        log.receive(leader.log.kept[index])
    again = leader.new_partition()
    restarted = log.restarted(again)
    assert restarted.last_index < restarted.applied_index, "the test has seen nothing if the log was not behind the state"
    again.bind(restarted)
    catch_up(restarted, leader.log)
    restarted.lead(2)
    restarted.commit()
    leader.partition, leader.log = again, restarted
    repeated = leader.publish(records(1, producer=7, sequence=8))
    assert (repeated.left, getattr(repeated.outcomes[0], "base_offset", None)) == (0, 8)
    assert leader.publish(records(1, producer=7, sequence=10)).left == 1


async def test_who_waits_on_a_partition_hears_of_its_snapshot() -> None:
    """Publishers of a leadership that is over cannot know what became of their batches; readers look again."""
    leader = trimmed_leader()
    old = Leader(lost_wait_s=60.0)
    call = old.publish(records())
    old.log.follow(5)
    reader: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    old.partition.watch(reader, 1_000)
    old.partition.remember(7, 7)
    old.log.install(leader.log)
    assert isinstance(error_of(call.outcomes[0]), IndeterminateError)
    assert reader.done()
    assert old.partition.place(7) is None
    assert old.budget.used_bytes == 0
    catch_up(old.log, leader.log)
    fetched = subscribe.read(old.partition, 5, 1 << 20)
    assert fetched.next_offset == 10
    old.partition.close()


async def test_the_metadata_says_that_it_is_another_one() -> None:
    """Whoever acts on changes compares with the whole of it; a proposal under way has an unknown outcome."""
    effects: list[Effects] = []
    machine, source = MetadataMachine(effects.append), MetadataMachine(lambda _: None)
    log, leader = HandLog(0, (1, 2), machine), HandLog(0, (1, 2), source)
    machine.bind(log)
    source.bind(leader)
    leader.lead(1)
    scope = TaskScope(lambda _: None)
    register = metadata_pb2.MetadataCommand(register_node=metadata_pb2.RegisterNode(node_id=4, grpc_address="h:4"))
    done = scope.start(source.propose(register, now_ms=NOW_MS, timeout_s=60.0), name="propose")
    await asyncio.sleep(0)
    leader.commit()
    await done
    log.lead(1)
    waiting = scope.start(machine.propose(register, now_ms=NOW_MS, timeout_s=60.0), name="propose")
    await asyncio.sleep(0)
    log.install(leader)
    with pytest.raises(IndeterminateError):
        await waiting
    assert [one.restored for one in effects] == [True]
    assert machine.state.nodes.keys() == {4}
    await scope.close()


async def test_replicas_become_those_of_the_new_metadata() -> None:
    """What is no more is closed and dropped, what is new is opened, after what was to be done before."""
    consensus = HandConsensus(1, HandNetwork())
    replicas = _replicas(consensus)
    state = MetadataState()
    state.topics, state.next_group_id = {"a": _topic("a", 1), "b": _topic("b", 2)}, 3
    replicas.start(state)
    gone = replicas[1]
    replicas.note(Effects(created=(_topic("c", 3),)))
    replicas.note(Effects(restored=True))
    state.topics, state.next_group_id = {"b": _topic("b", 2), "d": _topic("d", 4, 5)}, 6
    for _ in range(4):
        await asyncio.sleep(0)
    assert sorted(replicas) == [2, 4, 5]
    assert gone.closed
    assert sorted(consensus.dropped) == [1, 3]


async def test_a_coordinator_takes_the_state_and_forgets_what_it_proposed() -> None:
    """The outcome of what was under way is unknown."""
    name = TopicPartition("__consumer_offsets", 0)
    machine, source = (GroupMachine(name, 1, on_led=lambda _: None) for _ in range(2))
    log, leader = HandLog(1, (1, 2), machine), HandLog(1, (1, 2), source)
    machine.bind(log)
    source.bind(leader)
    leader.lead(1)
    row = groups_pb2.OffsetRow(group_id="g", topic="t", partition=0, offset=9)
    commit = groups_pb2.GroupCommand(commit_offsets=groups_pb2.CommitOffsets(group_id="g", generation=-1, offsets=[row]))
    source.propose(commit, now_ms=NOW_MS, settled=lambda _: None)
    leader.commit()
    log.lead(1)
    settled: list[Applied] = []
    machine.propose(commit, now_ms=NOW_MS, settled=settled.append)
    log.install(leader)
    assert isinstance(settled[0].error, IndeterminateError)
    assert machine.state.offsets["g"][TopicPartition("t", 0)].offset == 9
    assert machine.state == source.state
