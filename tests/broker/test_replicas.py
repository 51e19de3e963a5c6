"""Opening replicas: one that cannot be opened harms nobody else."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from unittest.mock import MagicMock, Mock

import pytest

from raftlog.broker.config import BrokerConfig
from raftlog.broker.coordinator import Coordinator
from raftlog.broker.given_up import WAITS_FOR
from raftlog.broker.pending import Budget
from raftlog.broker.replicas import Replicas
from raftlog.consensus.port import StateMachine
from raftlog.core.configuration import Configuration, member_id
from raftlog.core.features import Level
from raftlog.core.metadata import MetadataState
from raftlog.core.metadata_values import Effects, PartitionMeta, TopicMeta
from raftlog.errors import ConsensusFailedError, DataLossError, NewerFormatError
from raftlog.model import TopicPartition
from tests.broker.doubles import HandClock, HandConsensus, HandLog, HandNetwork
from tests.broker.hand_store import HandStore


class _Damaged(HandConsensus):
    """Cannot open group 2."""

    def open(self, group: int, machine: StateMachine, *, replica: int, founders: tuple[int, ...], preferred: bool) -> HandLog:
        """See ``Consensus``."""
        if group == 2:
            raise DataLossError("group 2 is damaged")
        return super().open(group, machine, replica=replica, founders=founders, preferred=preferred)


def _topic(name: str, *groups: int, node: int = 1) -> TopicMeta:
    return TopicMeta(
        name=name, topic_id=name.encode() * 16, replication_factor=1, created_at_ms=0,
        partitions=tuple(
            PartitionMeta(
                group_id=group, replicas=((node, 1),), created_index=1, founders=((node, 1),), next_replica_id=2, placed_index=1
            )
            for group in groups
        ),
        configs={},
    )  # fmt: skip


def _replicas(
    consensus: HandConsensus, held: tuple[int, ...] = (), fail: Callable[[Exception], None] = lambda _: None
) -> Replicas:
    return Replicas(
        1, consensus=consensus, store=HandStore(lambda: list(held)), budget=Budget(1), lost_wait_s=1.0, fail=fail,
        make_coordinator=lambda name, group: Coordinator(
            name, group, store=HandStore(), clock=HandClock(), rng=random.Random(1), config=BrokerConfig()
        ),
    )  # fmt: skip


async def test_a_replica_that_cannot_be_opened_does_not_keep_others_from_it() -> None:
    """Its neighbours serve; its other replicas serve it; whoever asks this node is told of it."""
    replicas = _replicas(_Damaged(1, HandNetwork()))
    state = MetadataState()
    state.topics["t"] = _topic("t", 1, 2, 3)
    replicas.start(state)
    assert sorted(replicas) == [1, 3]
    assert replicas[3].name == TopicPartition("t", 2)
    assert [(status.group_id, status.partition, status.damaged) for status in replicas.statuses()] == [
        (1, 0, False), (2, 1, True), (3, 2, False),
    ]  # fmt: skip


class _Newer(HandConsensus):
    """Its groups were written by a newer version."""

    def open(self, group: int, machine: StateMachine, **_: object) -> HandLog:
        raise NewerFormatError(f"group {group} has a row of 40 bytes")


async def test_a_replica_of_a_newer_version_ends_the_node() -> None:
    """It is sound: to go on without it, as if it were damaged, might have it replaced, and its data deleted."""
    failed: list[Exception] = []
    state = MetadataState()
    state.topics["t"] = _topic("t", 1)
    _replicas(_Newer(1, HandNetwork()), fail=failed.append).start(state)
    assert [type(error) for error in failed] == [NewerFormatError]


async def test_a_replica_that_could_not_be_opened_is_dropped_with_its_topic() -> None:
    """Deleting the topic deletes its damaged data too."""
    consensus = _Damaged(1, HandNetwork())
    replicas = _replicas(consensus)
    replicas.note(Effects(created=(_topic("t", 1, 2),)))
    replicas.note(Effects(deleted=(_topic("t", 1, 2),)))
    for _ in range(4):
        await asyncio.sleep(0)
    assert consensus.dropped == [1, 2]
    assert replicas.statuses() == []


async def test_data_goes_only_where_its_topic_is_known_to_be_deleted() -> None:
    """Not that of a group which the metadata does not know yet, nor of one that lost metadata may have created."""
    for unknown_below, dropped in ((0, [2, 5, 14, 15]), (15, [15])):
        consensus = HandConsensus(1, HandNetwork())
        state = MetadataState(next_group_id=20, unknown_below=unknown_below)
        state.topics["t"] = _topic("t", 1)
        _replicas(consensus, held=(0, 1, 2, 5, 14, 15, 20)).start(state)
        assert consensus.dropped == dropped


async def test_a_replica_of_another_node_is_not_opened() -> None:
    """Only what the placement names this node for."""
    replicas = _replicas(HandConsensus(1, HandNetwork()))
    state = MetadataState()
    state.topics["t"] = _topic("t", 1, node=2)
    replicas.start(state)
    assert len(replicas) == 0


async def test_changes_are_acted_on_in_their_order_after_the_turn() -> None:
    """Created, altered and deleted in one turn: nothing is left, and nothing happened inside of the turn."""
    consensus = HandConsensus(1, HandNetwork())
    replicas = _replicas(consensus)
    topic = _topic("t", 1)
    for effects in (Effects(created=(topic,)), Effects(altered=(_topic("t", 1, 2),)), Effects(deleted=(_topic("t", 1, 2),))):
        replicas.note(effects)
    assert len(replicas) == 0
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(replicas) == 0
    assert consensus.dropped == [1, 2]
    assert replicas.statuses() == []


async def test_a_replica_that_takes_the_place_of_a_lost_one_is_unfilled_until_it_votes() -> None:
    """One that merely moves here is missed by nobody: the replica that it comes for still votes."""
    consensus = HandConsensus(1, HandNetwork())
    replicas = _replicas(consensus)
    state = MetadataState()
    topic = _topic("t", 1, 2, 3)
    new = replace(topic.partitions[1], replicas=((1, 3),), lost=((1, 1),), next_replica_id=4)
    moving = replace(topic.partitions[2], replicas=((1, 3),), leaving=((2, 1),), next_replica_id=4)
    state.topics["t"] = replace(topic, partitions=(topic.partitions[0], new, moving))
    replicas.start(state)
    assert replicas.unfilled() == {2}
    consensus.logs[2].configuration = Configuration.of((member_id(1, 1),), (member_id(1, 3),))
    assert replicas.unfilled() == {2}
    consensus.logs[2].configuration = Configuration.of((member_id(1, 3),))
    assert replicas.unfilled() == set()


async def test_it_is_unfilled_as_well_when_the_metadata_has_forgotten_the_lost_one() -> None:
    """The lost one leaves the group before the new one comes: nothing but its being no voter tells that it is waited for."""
    consensus = HandConsensus(1, HandNetwork())
    replicas, state, topic = _replicas(consensus), MetadataState(), _topic("t", 1)
    state.topics["t"] = replace(topic, partitions=(replace(topic.partitions[0], replicas=((1, 3),), next_replica_id=4),))
    replicas.start(state)
    assert replicas.unfilled() == {1}
    consensus.logs[1].configuration = Configuration.of((member_id(1, 3),))
    assert replicas.unfilled() == set()


async def test_a_replica_that_is_given_up_stays_until_its_group_is_without_it() -> None:
    """It may be the second of three disks that an acknowledged entry is on, until a configuration without it is committed: then
    the metadata forgets it. It is not asked about again meanwhile, and what is to come in its place is waited for."""
    consensus = HandConsensus(1, HandNetwork())
    replicas, state, topic = _replicas(consensus), MetadataState(), _topic("t", 1)
    state.topics["t"] = topic
    replicas.start(state)
    consensus.logs[1].damaged = "entry 2 fails its check"
    assert replicas.damaged() == {1: 1}
    given_up = replace(topic.partitions[0], replicas=((1, 2),), lost=((1, 1),), next_replica_id=3)
    await _altered(replicas, state, replace(topic, partitions=(given_up,)))
    assert consensus.logs[1].own == member_id(1, 1)
    assert consensus.dropped == []
    assert consensus.given_up == {1}
    assert [status.waits_for for status in replicas.statuses()] == [WAITS_FOR]
    assert replicas.damaged() == {}
    assert replicas.unfilled() == {1}
    await _altered(replicas, state, replace(topic, partitions=(replace(given_up, lost=()),)))
    assert consensus.dropped == [1]
    assert consensus.logs[1].own == member_id(1, 2)
    consensus.logs[1].damaged = "entry 1 fails its check"
    assert replicas.damaged() == {1: 2}


async def test_a_node_that_starts_again_keeps_what_it_has_given_up_too() -> None:
    """By whose data is there: where a lost replica's disk was emptied, the new one is opened."""
    for marked in (True, False):
        consensus, state, topic = _given_up(), MetadataState(), _topic("t", 1)
        if not marked:
            consensus.logs.clear()
        given_up = replace(topic.partitions[0], replicas=((1, 2),), lost=((1, 1),), next_replica_id=3)
        state.topics["t"] = replace(topic, partitions=(given_up,))
        replicas = _replicas(consensus, held=(1,))
        replicas.start(state)
        assert consensus.logs[1].own == member_id(1, 1 if marked else 2)
        assert replicas.damaged() == {}
        assert replicas.unfilled() == {1}
        await _altered(replicas, state, replace(topic, partitions=(replace(given_up, lost=()),)))
        assert consensus.dropped == ([1] if marked else [])
        assert consensus.logs[1].own == member_id(1, 2)


@pytest.mark.parametrize("wanted", [((1, 2),), ((2, 2),)], ids=["wanted again", "not wanted"])
@pytest.mark.parametrize("readable", [True, False])
async def test_data_of_a_lost_replica_that_does_not_say_to_be_given_up_is_left_alone(
    wanted: tuple[tuple[int, int], ...], readable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or of which that cannot be read. It may be an old copy, so it must not vote; it may be needed, so it must not go."""
    consensus, state, topic = _given_up(), MetadataState(next_group_id=2), _topic("t", 1)
    monkeypatch.setattr(
        consensus, "held", Mock(return_value=(1, False)) if readable else Mock(side_effect=DataLossError("damaged"))
    )
    given_up = replace(topic.partitions[0], replicas=wanted, lost=((1, 1),))
    state.topics["t"] = replace(topic, partitions=(given_up,))
    replicas = _replicas(consensus, held=(1,))
    replicas.start(state)
    for configs in ({}, {"retention.ms": "5000"}):
        await _altered(replicas, state, replace(topic, partitions=(given_up,), configs=configs))
        assert (replicas.groups(), consensus.dropped) == ([], [])
        assert [(status.group_id, status.damaged) for status in replicas.statuses()] == [(1, True)]
    # Whose replica it is decides what becomes of it: that of a lost one goes, and one that cannot be read is made anew itself.
    renewed = wanted == ((1, 2),) and not readable
    assert replicas.damaged() == ({1: 2} if renewed else {})
    await _altered(replicas, state, replace(topic, partitions=(replace(given_up, lost=()),)))
    assert consensus.dropped == ([] if renewed else [1])
    assert replicas.groups() == ([1] if wanted == ((1, 2),) else [])


async def test_a_replica_is_not_deleted_for_another_one_that_was_lost_here() -> None:
    """It has come in the place of a lost one, which its group could not take out yet, and votes; whose data there is cannot be
    read. When the lost one is forgotten it is still this one's, and is opened or made anew as it is."""
    consensus, state, topic = HandConsensus(1, HandNetwork()), MetadataState(), _topic("t", 1)
    consensus.open(1, MagicMock(), replica=2, founders=(), preferred=False)
    partition = replace(topic.partitions[0], replicas=((1, 2),), lost=((1, 1),), next_replica_id=3)
    held, consensus.held = consensus.held, Mock(side_effect=DataLossError("a row is damaged"))  # type: ignore[method-assign]
    state.topics["t"] = replace(topic, partitions=(partition,))
    replicas = _replicas(consensus, held=(1,))
    replicas.start(state)
    assert replicas.damaged() == {1: 2}
    await _altered(replicas, state, replace(topic, partitions=(replace(partition, lost=()),)))
    assert consensus.dropped == []
    consensus.held = held  # type: ignore[method-assign]
    assert consensus.held(1) == (2, False)


async def test_a_replica_in_the_place_of_a_lost_one_is_opened_again_at_a_start() -> None:
    """Its group could not take the lost one out yet. Nothing says that this one was given up, and it was not."""
    consensus, state, topic = HandConsensus(1, HandNetwork()), MetadataState(), _topic("t", 1)
    consensus.open(1, MagicMock(), replica=2, founders=(), preferred=False)
    partition = replace(topic.partitions[0], replicas=((1, 2),), lost=((1, 1),), next_replica_id=3)
    state.topics["t"] = replace(topic, partitions=(partition,))
    replicas = _replicas(consensus, held=(1,))
    replicas.start(state)
    assert replicas.groups() == [1]
    assert consensus.dropped == []
    assert consensus.given_up == set()


async def test_a_replica_that_could_not_be_opened_is_dropped_when_its_group_is_without_it() -> None:
    """Whose data it is cannot be read then either: what this node has taken it for decides."""
    consensus, state, topic = _given_up(), MetadataState(), _topic("t", 1)
    broken = Mock(side_effect=DataLossError("a row is damaged"))
    vacant, consensus.held, consensus.vacant = consensus.vacant, broken, broken  # type: ignore[method-assign]
    state.topics["t"] = topic
    replicas = _replicas(consensus, held=(1,))
    replicas.start(state)
    assert replicas.damaged() == {1: 1}
    given_up = replace(topic.partitions[0], replicas=((1, 2),), lost=((1, 1),), next_replica_id=3)
    await _altered(replicas, state, replace(topic, partitions=(given_up,)))
    assert (consensus.dropped, replicas.groups(), replicas.damaged()) == ([], [], {})
    consensus.vacant = vacant  # type: ignore[method-assign]
    await _altered(replicas, state, replace(topic, partitions=(replace(given_up, lost=()),)))
    assert (consensus.dropped, replicas.groups()) == ([1], [1])


async def test_a_replica_whose_data_can_be_read_after_all_is_not_deleted_for_its_successor() -> None:
    """It was given up, and its group needs it yet. An error of reading passes."""
    consensus, state, topic = _given_up(), MetadataState(), _topic("t", 1)
    held, consensus.held = consensus.held, Mock(side_effect=DataLossError("it could not be read"))  # type: ignore[method-assign]
    given_up = replace(topic.partitions[0], replicas=((1, 2),), lost=((1, 1),), next_replica_id=3)
    state.topics["t"] = replace(topic, partitions=(given_up,))
    replicas = _replicas(consensus, held=(1,))
    replicas.start(state)
    consensus.held = held  # type: ignore[method-assign]
    await _altered(replicas, state, replace(topic, partitions=(given_up,), configs={"retention.ms": "5000"}))
    assert (consensus.dropped, replicas.damaged(), replicas.groups()) == ([], {}, [1])
    await _altered(replicas, state, replace(topic, partitions=(replace(given_up, lost=()),)))
    assert consensus.dropped == [1]


def _given_up() -> HandConsensus:
    """A consensus over the data of a damaged replica of group 1, which is not open."""
    consensus = HandConsensus(1, HandNetwork())
    consensus.open(1, MagicMock(), replica=1, founders=(member_id(1, 1),), preferred=False)
    consensus.give_up(1)
    return consensus


async def _altered(replicas: Replicas, state: MetadataState, topic: TopicMeta) -> None:
    state.topics[topic.name] = topic
    replicas.note(Effects(altered=(topic,)))
    for _ in range(3):
        await asyncio.sleep(0)


async def test_damaged_replicas_are_renewed_from_their_level_on() -> None:
    """The level is that of the metadata as it is applied now, not as it was at the start."""
    replicas, state = _replicas(HandConsensus(1, HandNetwork())), MetadataState(level=Level.RENEWAL - 1)
    replicas.start(state)
    assert not replicas.renews
    state.level = Level.RENEWAL
    assert replicas.renews


class _Broken(HandConsensus):
    """Cannot drop group 1: ``error`` says why."""

    error: Exception = DataLossError("group 1 is damaged")

    def drop(self, group: int) -> None:
        """See ``Consensus``."""
        if group == 1:
            raise self.error
        super().drop(group)


async def _dropped_and_created(error: Exception) -> tuple[_Broken, Replicas, list[Exception]]:
    """Groups 1 and 2 go, and group 3 comes; dropping group 1 raises."""
    failed: list[Exception] = []
    consensus = _Broken(1, HandNetwork())
    consensus.error = error
    replicas, state = _replicas(consensus, fail=failed.append), MetadataState()
    state.topics["t"] = _topic("t", 1, 2)
    replicas.start(state)
    replicas.note(Effects(deleted=(_topic("t", 1, 2),)))
    replicas.note(Effects(created=(_topic("u", 3),)))
    for _ in range(5):
        await asyncio.sleep(0)
    return consensus, replicas, failed


async def test_an_error_of_one_replica_does_not_keep_what_comes_after_it() -> None:
    """One that cannot be dropped is let go of; the next ones are dropped and opened as ever."""
    consensus, replicas, failed = await _dropped_and_created(DataLossError("group 1 is damaged"))
    assert consensus.dropped == [2]
    assert sorted(replicas) == [3]
    assert failed == []


async def test_an_error_that_nobody_expects_ends_the_node_and_not_its_later_changes() -> None:
    """What is left of that change is not done, which the node cannot go on with; until it ends it acts on all others."""
    error = AssertionError("group 1 is not what it should be")
    _, replicas, failed = await _dropped_and_created(error)
    assert failed == [error]
    assert 3 in replicas


async def test_what_ends_a_node_ends_it_from_here_too() -> None:
    """A fatal error of one group is none of that group alone; until the node ends, it acts on what else there is."""
    error = ConsensusFailedError("group 1 broke a rule")
    consensus, replicas, failed = await _dropped_and_created(error)
    assert failed == [error]
    assert consensus.dropped == [2]
    assert sorted(replicas) == [3]


async def test_what_is_opened_later_than_at_the_start_fails_as_loudly() -> None:
    """A node that came back opens its replicas when the metadata knows it: nobody waits for that, so nobody would hear of it."""
    failed: list[Exception] = []
    error = AssertionError("it cannot be")

    def act() -> None:
        raise error

    _replicas(HandConsensus(1, HandNetwork()), fail=failed.append).or_fail(act)
    assert failed == [error]
